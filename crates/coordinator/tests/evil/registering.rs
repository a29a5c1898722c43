//! Bringing paths and archives that are not its to bring, or are not what they are said to be.

use fleet_nix::{ContentAddress, ContentAddressMethod, NarHash};
use fleet_wire::v1;
use tonic::Code;

use crate::scripted::Step;
use crate::world::{EVIL, HONEST, Made, STRANGE, World, refused, right, step};

/// Two inputs of the honest worker, one of which the evil one's step needs; another's step that is open; and what is
/// made of all.
struct Work {
    library: Step,
    secret: Step,
    app: Step,
    slow: Step,
    top: Step,
}

impl Work {
    fn new() -> Self {
        let (library, secret) = (step("library", HONEST, &[], None), step("secret", HONEST, &[], None));
        let app = step("app", EVIL, &[&library], None);
        let slow = step("slow", HONEST, &[&library], None);
        let top = step("top", HONEST, &[&secret, &app, &slow], None);
        Self { library, secret, app, slow, top }
    }

    /// The evil worker's lease, and the honest one's.
    async fn begin(&self) -> (World, v1::Lease, v1::Lease) {
        let steps = [&self.library, &self.secret, &self.app, &self.slow, &self.top];
        let mut world = World::new(&steps).await;
        world.build(&[&self.library, &self.secret]).await;
        let own = world.evil.lease(&self.app).await;
        let other = world.honest.lease(&self.slow).await;
        (world, own, other)
    }
}

#[tokio::test]
async fn what_is_not_its_to_bring() {
    let work = Work::new();
    let (world, lease, other) = work.begin().await;
    let own = right(&lease);
    let none = v1::WorkRight::default();
    let app = &work.app.output;
    let denied = Code::PermissionDenied;
    let rows = [
        ("another's lease", right(&other), &work.slow.output, denied, "another worker has this lease"),
        ("its output in another's lease", right(&other), app, denied, "another worker has this lease"),
        (
            "an older epoch",
            v1::WorkRight { epoch: own.epoch - 1, ..own },
            app,
            Code::Aborted,
            "not the current",
        ),
        (
            "a later epoch",
            v1::WorkRight { epoch: own.epoch + 1, ..own },
            app,
            Code::Aborted,
            "not the current",
        ),
        ("no such lease", v1::WorkRight { lease: 4_711, ..own }, app, Code::NotFound, "no lease 4711"),
        ("no such share", v1::WorkRight { share: 1, ..none }, app, Code::NotFound, "no order to share 1"),
        (
            "no such realise job",
            v1::WorkRight { realise_job: 1, ..none },
            app,
            Code::NotFound,
            "no realise job",
        ),
        ("no such eval job", v1::WorkRight { eval_job: 99, ..none }, app, Code::NotFound, "no eval job"),
        ("no right", none, app, denied, "names no right"),
        ("two rights", v1::WorkRight { share: 1, ..own }, app, Code::InvalidArgument, "several rights"),
        ("no output", own, &STRANGE.to_owned(), denied, "is no output of an open step"),
        ("another's output", own, &work.slow.output, denied, "is no output of an open step"),
        ("its input", own, &work.library.output, denied, "is no output of an open step"),
        ("what uses its output", own, &work.top.output, denied, "is no output of an open step"),
        ("no path", own, &"../../etc/passwd".to_owned(), Code::InvalidArgument, "not a store path"),
    ];
    for (attack, right, path, code, text) in rows {
        let result = world.evil.register(right, &Made::new(path, &[])).await;
        refused(attack, result, code, text);
    }
    world.evil.report(&lease, &work.app, app, Some(Made::new(app, &[]).info())).await;
    world.until(app, v1::PathStanding::Held).await;
    refused(
        "a finished lease",
        world.evil.register(own, &Made::new(app, &[])).await,
        Code::NotFound,
        "no lease",
    );
    world.serves_none(&[app, &work.slow.output, &work.library.output, &work.top.output, STRANGE]).await;
}

#[tokio::test]
async fn what_is_not_as_it_says() {
    let work = Work::new();
    let (world, lease, _) = work.begin().await;
    let (app, library, secret) = (&*work.app.output, &*work.library.output, &*work.secret.output);
    let good = || Made::new(app, &[library]);
    let plain = || Made::new(app, &[]);
    let addressed = |made: Made| {
        made.with(|info| {
            let hash = NarHash(info.nar_hash.as_ref().try_into().expect("32 bytes")).to_hash();
            let address = ContentAddress { method: ContentAddressMethod::NixArchive, hash };
            info.content_address = address.to_string();
        })
    };
    let size = plain().info().nar_size;
    let invalid = Code::InvalidArgument;
    let rows = [
        (
            "refers to what its step cannot see",
            Made::new(app, &[secret]),
            invalid,
            "neither among its inputs",
        ),
        ("refers to what nobody knows", Made::new(app, &[STRANGE]), invalid, "neither among its inputs"),
        ("hides a reference", Made::holding(app, library, &[]), invalid, "does not say that it refers to it"),
        (
            "hides that it names itself",
            Made::holding(app, app, &[]),
            invalid,
            "does not say that it refers to it",
        ),
        ("invents a reference", Made::holding(app, "", &[library]), invalid, "does not hold its hash part"),
        ("its reference is not here", good(), Code::FailedPrecondition, "bring it first"),
        (
            "another NAR hash",
            plain().with(|info| info.nar_hash = vec![3; 32].into()),
            invalid,
            "has NAR hash",
        ),
        ("half a hash", plain().with(|info| info.nar_hash = vec![3; 16].into()), invalid, "bad NAR hash"),
        ("a larger size", plain().with(|info| info.nar_size += 1), invalid, "bytes together"),
        ("nothing at all", plain().with(|info| info.nar_size = 0).cut(Vec::clear), invalid, "bytes together"),
        ("a content address", addressed(plain()), invalid, "does not follow from the content address"),
        (
            "a chunk of nothing",
            plain().cut(|chunks| chunks.push(v1::ChunkRef { size: 0, ..chunks[0].clone() })),
            invalid,
            "bad chunk",
        ),
        (
            "a huge chunk",
            plain().cut(|chunks| chunks[0].size = u32::MAX).with(|info| info.nar_size = u64::from(u32::MAX)),
            invalid,
            "bad chunk",
        ),
        (
            "a chunk 50,000 times",
            plain()
                .cut(|chunks| *chunks = vec![chunks[0].clone(); 50_000])
                .with(|info| info.nar_size *= 50_000),
            invalid,
            "bytes follow the archive",
        ),
        (
            "a chunk that is not here",
            plain().cut(|chunks| chunks[0].digest = vec![9; 32].into()),
            Code::FailedPrecondition,
            "put it first",
        ),
        (
            "a chunk of another size",
            plain().cut(|chunks| chunks[0].size += 8).with(|info| info.nar_size = size + 8),
            invalid,
            "another size",
        ),
        (
            "a million references",
            plain().with(|info| info.references = vec![app.to_owned(); 1 << 17]),
            invalid,
            "more references",
        ),
    ];
    for (attack, made, code, text) in rows {
        refused(attack, world.evil.register(right(&lease), &made).await, code, text);
        world.serves_none(&[app]).await;
        world.forget(app).await;
    }
    // What was said first counts while somebody has it.
    world.evil.register(right(&lease), &plain()).await.expect("its own output");
    let other = world.evil.register(right(&lease), &Made::holding(app, "another execution", &[])).await;
    refused("another execution", other, Code::AlreadyExists, "known with another content");
    assert_eq!(world.narinfo(app).await.0, 404, "kept is not published");
}

/// An archive of a directory of empty files.
fn directory(names: &[&str]) -> Vec<u8> {
    let mut listed = vec!["nix-archive-1", "(", "type", "directory"];
    for name in names {
        listed.extend(["entry", "(", "name", name, "node", "(", "type", "regular", "contents", "", ")", ")"]);
    }
    listed.push(")");
    words(&listed)
}

fn words(words: &[&str]) -> Vec<u8> {
    let word = |text: &&str| {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    };
    words.iter().flat_map(word).collect()
}

#[tokio::test]
async fn what_is_no_archive() {
    let work = Work::new();
    let (world, lease, _) = work.begin().await;
    let app = &*work.app.output;
    let sound = directory(&["a", "b"]);
    let deep: Vec<&str> =
        [&["nix-archive-1"][..], &["(", "type", "directory", "entry", "(", "name", "d", "node"].repeat(100)]
            .concat();
    let changed = |at: usize, byte: u8| {
        let mut bytes = sound.clone();
        bytes[at] = byte;
        bytes
    };
    let rows = [
        ("leaves its directory", directory(&[".."]), "invalid entry name"),
        ("names a path", directory(&["../../../etc/passwd"]), "invalid entry name"),
        ("names nothing", directory(&[""]), "invalid entry name"),
        ("a trick of case", directory(&["a", "a~nix~case~hack~1"]), "case hack suffix"),
        ("not sorted", directory(&["b", "a"]), "out of order"),
        ("a name twice", directory(&["a", "a"]), "out of order"),
        ("bytes after it", [&sound[..], &[0; 8]].concat(), "bytes follow the archive"),
        ("cut short", sound[..sound.len() - 8].to_vec(), "truncated"),
        ("without end", words(&deep), "nest deeper"),
        ("a word without end", changed(15, 0x7f), "is no archive"),
        ("padding that says something", changed(8 + 14, 1), "padding is not zero"),
        ("anything", b"#!/bin/sh\nrm -rf /\n".to_vec(), "is no archive"),
    ];
    for (attack, bytes, text) in rows {
        let made = Made::of(app, bytes, &[]);
        refused(attack, world.evil.register(right(&lease), &made).await, Code::InvalidArgument, text);
        world.serves_none(&[app]).await;
        world.forget(app).await;
    }
}
