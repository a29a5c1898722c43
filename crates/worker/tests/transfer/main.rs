//! Store paths between machines: real daemons with stores of their own, one coordinator, what one builds the other
//! needs.

mod fleet;

use std::sync::atomic::{AtomicBool, Ordering};

use fleet::{Flake, Fleet, here, here_script, sign, there, there_script, within};
use fleet_nix::nar_dump::dump_path;
use fleet_testkit::{BinaryCache, NixDaemon, Trust};
use fleet_wire::v1::run_event::Event;
use fleet_wire::v1::{PathStanding, RunOutcome, StepStatus};

/// The one path of a store that has this name.
fn path_named(daemon: &NixDaemon, name: &str) -> String {
    let entries = std::fs::read_dir(daemon.root().join("nix/store")).expect("a store");
    let names = entries.map(|entry| entry.expect("reads").file_name().to_string_lossy().into_owned());
    let found: Vec<String> = names.filter(|entry| entry.get(33..) == Some(name)).collect();
    let [one] = &found[..] else { panic!("not one path named {name}: {found:?}") };
    format!("/nix/store/{one}")
}

fn nar(daemon: &NixDaemon, path: &str) -> Vec<u8> {
    dump_path(&daemon.physical(path), Vec::new()).expect("it is in the store")
}

fn references(daemon: &NixDaemon, path: &str) -> Vec<String> {
    let output = daemon.command("nix-store", ["--query", "--references", path]).output().expect("starts");
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_machine_builds_is_an_input_on_another_and_equal_to_the_last_bit() {
    let cache = BinaryCache::start();
    let inner = here_script("inner", "", "echo inner > $out");
    let outer = here_script("outer", "", &format!("echo ${{{inner}}} > $out"));
    let upstream = here(|_| {});
    let published = upstream.build_expression(&outer);
    let key = sign(&upstream, &published);
    cache.publish(&upstream, &published);
    let (first, second) = (
        here(|options| options.substituters = vec![cache.url()]),
        there(|options| options.substituters = vec![cache.url()]),
    );
    let fleet = Fleet::start_below(&[key]).await;
    let _first = fleet.join(&first, "first", 1).await;
    let _second = fleet.join(&second, "second", 0).await;

    let base = here_script(
        "base",
        "outputs = [ \"out\" \"dev\" ];",
        &format!(
            "mkdir -p $out/bin $out/empty; echo \"echo of $out\" > $out/bin/tool; chmod 755 $out/bin/tool; \
             ln -s $out/bin/tool $out/absolute; ln -s ../nowhere $out/relative; echo $out > $dev; \
             echo ${{{outer}}} > $out/upstream"
        ),
    );
    let middle = there_script(
        "middle",
        "",
        &format!(". ${{{base}}}/bin/tool > $out; read dev < ${{{base}.dev}}; echo $dev >> $out"),
    );
    let top = here_script("top", "", &format!("read line < ${{{middle}}}; echo $line ${{{middle}}} > $out"));
    let ended = fleet.build(&Flake::of(&top)).await;
    assert_eq!(ended.outcome, RunOutcome::Succeeded, "{ended:#?}");

    assert_eq!(first.journal().lines(), ["base", "top"]);
    assert_eq!(second.journal().lines(), ["middle"]);
    let (out, dev) = (path_named(&first, "base"), path_named(&first, "base-dev"));
    for path in [&out, &dev] {
        assert!(nar(&first, path) == nar(&second, path), "{path} differs");
        assert_eq!(references(&first, path), references(&second, path));
    }
    assert!(references(&second, &out).contains(&out), "it refers to itself");
    let (outer, inner) = (published[0].clone(), path_named(&upstream, "inner"));
    assert!(second.physical(&inner).exists(), "the closure of what upstream serves is there");
    assert_eq!(fleet.look(&[&outer, &inner]).await, [PathStanding::Upstream; 2], "and came from there");
    let middle = path_named(&first, "middle");
    let text = std::fs::read_to_string(first.physical(&middle)).expect("it came back");
    assert_eq!(text, format!("of {out}\n{out}\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_evaluating_machine_has_is_shared_and_not_built_again() {
    let (first, second) = (here(|_| {}), there(|_| {}));
    let inner = here_script("inner", "", "echo inner > $out");
    let outer = here_script("outer", "", &format!("echo ${{{inner}}} > $out"));
    let built = first.build_expression(&outer);
    assert_eq!(first.journal().lines(), ["inner", "outer"]);
    let fleet = Fleet::start().await;
    let evaluator = fleet.join(&first, "first", 1).await;
    let _second = fleet.join(&second, "second", 0).await;

    let text = "builtins.toFile \"text\" \"a text\"";
    let script = format!(
        "for file in ${{./data}} ${{{text}}} ${{self}}/data ${{{outer}}}; do read line < $file; echo $line >> $out; done"
    );
    let ended = fleet.build(&Flake::of(&there_script("top", "", &script))).await;
    assert_eq!(ended.outcome, RunOutcome::Succeeded, "{ended:#?}");
    assert_eq!(first.journal().lines(), ["inner", "outer"], "nothing was built again");
    assert_eq!(second.journal().lines(), ["top"]);
    let inner = path_named(&first, "inner");
    let top = std::fs::read_to_string(second.physical(&path_named(&second, "top"))).expect("it is built");
    assert_eq!(top, format!("some data\na text\nsome data\n{inner}\n"));
    assert_eq!(fleet.look(&[&built[0], &inner]).await, [PathStanding::Kept; 2], "somebody needed them");

    // Now that it is known to be kept, nobody wants it: not even a machine that starts from nothing.
    let third = here(|_| {});
    drop(evaluator);
    let _third = fleet.join(&third, "third", 1).await;
    let again = fleet
        .build(&Flake::of(&here_script("next", "", &format!("read line < ${{{outer}}}; echo $line > $out"))))
        .await;
    assert_eq!(again.outcome, RunOutcome::Succeeded, "{again:#?}");
    assert_eq!(third.journal().lines(), ["next"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_while_it_uploads_leaves_nothing_half_and_its_result_counts_later() {
    let (first, second) = (here(|_| {}), there(|_| {}));
    let fleet = Fleet::start().await;
    let dying = fleet.join(&first, "first", 1).await;
    let _second = fleet.join(&second, "second", 0).await;
    // Not to be compressed, and of many chunks.
    let large = here_script("large", "", "dd if=/dev/urandom of=$out bs=1048576 count=48 2>&1");
    let top = there_script("top", "", &format!("read -n 10 line < ${{{large}}}; echo top > $out"));
    let flake = Flake::of(&top);
    let mut events = fleet.submit(&flake).await;
    let sources = fleet.chunks().len();
    within(async {
        while fleet.chunks().len() < sources + 5 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(dying);
    let large = path_named(&first, "large");
    assert_ne!(fleet.look(&[&large]).await, [PathStanding::Kept], "a part of it is as good as nothing");

    let _again = fleet.join(&first, "first", 1).await;
    let outcome = within(async {
        loop {
            let event = events.message().await.expect("the stream goes on").expect("before the end");
            if let Some(Event::RunFinished(finished)) = event.event {
                return finished.outcome();
            }
        }
    })
    .await;
    assert_eq!(outcome, RunOutcome::Succeeded);
    assert_eq!(first.journal().lines(), ["large"], "it was built once");
    assert!(nar(&first, &large) == nar(&second, &large));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_chunk_is_brought_again_by_who_has_the_path_and_nothing_is_built_again() {
    let (first, second) = (here(|_| {}), there(|_| {}));
    let fleet = Fleet::start().await;
    let _first = fleet.join(&first, "first", 1).await;
    let _second = fleet.join(&second, "second", 0).await;
    let base = here_script("base", "", "dd if=/dev/urandom of=$out bs=1048576 count=4 2>&1");
    let ended = fleet.build(&Flake::of(&base)).await;
    assert_eq!(ended.outcome, RunOutcome::Succeeded, "{ended:#?}");
    let largest = fleet.chunks().remove(0);
    let mut bytes = std::fs::read(&largest).expect("a frame");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, bytes).expect("writes");

    let flake =
        Flake::of(&there_script("top", "", &format!("read -n 10 line < ${{{base}}}; echo top > $out")));
    let mended = fleet.build(&flake).await;
    assert_eq!(mended.outcome, RunOutcome::Succeeded, "{mended:#?}");
    assert_eq!((first.journal().lines().len(), second.journal().lines().len()), (1, 1), "built once each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_does_not_trust_its_worker_is_said_to_be_the_reason() {
    let (first, second) = (
        here(|_| {}),
        there(|options| {
            options.trust = Trust::Untrusted;
            options.require_signatures = true;
        }),
    );
    let fleet = Fleet::start().await;
    let _first = fleet.join(&first, "first", 1).await;
    let _second = fleet.join(&second, "second", 0).await;
    let base = here_script("base", "", "echo base > $out");
    let top = there_script("top", "", &format!("read line < ${{{base}}}; echo $line > $out"));
    let failed = fleet.build(&Flake::of(&top)).await;
    let (status, why) = failed.failures().into_iter().find(|(_, why)| why.drv.contains("-top")).expect("top");
    assert_eq!((status, &*why.code), (StepStatus::Retried, "no_worker"), "{failed:#?}");
    assert!(why.cause.contains("trusted-users"), "{}", why.cause);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_whose_output_floats_is_not_built_where_its_derivation_is_not() {
    let floating = |options: &mut fleet_testkit::DaemonOptions| {
        options.experimental_features.push("ca-derivations".to_owned());
    };
    let (first, second) = (here(floating), there(floating));
    let fleet = Fleet::start().await;
    let _first = fleet.join(&first, "first", 1).await;
    let _second = fleet.join(&second, "second", 0).await;
    let attributes =
        "__contentAddressed = true; outputHashMode = \"recursive\"; outputHashAlgo = \"sha256\";";
    let failed = fleet.build(&Flake::of(&there_script("top", attributes, "echo top > $out"))).await;
    let (_, why) = &failed.failures()[0];
    assert_eq!(why.code, "no_worker", "{failed:#?}");
    assert!(why.cause.contains("built where it was evaluated"), "{}", why.cause);
    let fine = fleet.build(&Flake::of(&here_script("top", attributes, "echo top > $out"))).await;
    assert_eq!(fine.outcome, RunOutcome::Succeeded, "{fine:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collections_on_all_machines_during_a_run_take_nothing_that_is_needed() {
    let (first, second) = (here(|_| {}), there(|_| {}));
    let fleet = Fleet::start().await;
    let _first = fleet.join(&first, "first", 1).await;
    let _second = fleet.join(&second, "second", 0).await;
    let mut top = here_script("s0", "", "echo start > $out");
    for number in 1..=8 {
        let (name, body) = (
            format!("s{number}"),
            format!("while read l; do echo $l; done < ${{{top}}} > $out; echo $out ${{{top}}} >> $out"),
        );
        top = if number % 2 == 0 { here_script(&name, "", &body) } else { there_script(&name, "", &body) };
    }
    let collecting = AtomicBool::new(true);
    let (ended, collections) = std::thread::scope(|scope| {
        let collectors = [&first, &second].map(|daemon| {
            let collecting = &collecting;
            scope.spawn(move || {
                let mut collections = 0;
                while collecting.load(Ordering::Relaxed) {
                    let collected =
                        daemon.command("nix-store", ["--gc", "--quiet"]).output().expect("starts");
                    assert!(collected.status.success(), "{collected:?}");
                    collections += 1;
                }
                collections
            })
        });
        let flake = Flake::of(&top);
        let run = fleet.build(&flake);
        let ended = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(run));
        collecting.store(false, Ordering::Relaxed);
        (
            ended,
            collectors
                .map(|collector: std::thread::ScopedJoinHandle<'_, u32>| collector.join().expect("no panic")),
        )
    });
    assert_eq!(ended.outcome, RunOutcome::Succeeded, "{ended:#?}");
    assert!(collections.iter().all(|count| *count > 2), "{collections:?}");
    assert_eq!(first.journal().lines(), ["s0", "s2", "s4", "s6", "s8"], "each was built once");
    assert_eq!(second.journal().lines(), ["s1", "s3", "s5", "s7"]);
}
