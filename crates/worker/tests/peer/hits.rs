//! What goes well.

use std::time::Duration;

use fleet_testkit::peak_memory_kib;
use fleet_worker::peer::Fetched;

use crate::hall::{Hall, file_nar, noise};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closure_comes_from_two_holders_and_is_not_fetched_again() {
    let hall = Hall::open();
    let (first, second, here) = (hall.machine("first"), hall.machine("second"), hall.machine("here"));
    let (base, large, top) =
        (file_nar(b"base"), file_nar(&noise(1, 5 << 20)), file_nar(b"refers to /nix/store/0-others"));
    let base_info = first.add(&hall.path("base"), &base, &[]).await;
    second.add(&base_info.path, &base, &[]).await;
    let large_info = first.add(&hall.path("large"), &large, &[&base_info]).await;
    let top_info = second.add(&hall.path("top"), &top, &[&base_info]).await;
    let (one, two) = (first.serve(&hall).await, second.serve(&hall).await);
    let desk = hall.desk(&[&base_info, &large_info, &top_info]);
    desk.tell("first", one.address(), "here", &[&base_info, &large_info]);
    desk.tell("second", two.address(), "here", &[&base_info, &top_info]);
    let fetched = here.fetch(&hall, &desk).await.expect("fetched");
    assert_eq!(fetched.paths.len(), 3);
    assert_eq!((fetched.from_coordinator, fetched.from_here), (0, 0));
    assert!((5 << 20..6 << 20).contains(&fetched.from_peers), "{fetched:?}");
    for (info, nar) in [(&base_info, &base), (&large_info, &large), (&top_info, &top)] {
        assert!(here.nar(info).await == *nar);
    }
    let known = here.connect().await.query_path_infos([&large_info.path]).await.expect("answers");
    let known = known[0].as_ref().expect("valid");
    assert_eq!(known.references, large_info.references);
    assert!(known.is_signed_by(&fleet_nix::StoreDir::default(), &[hall.key.public_key()]) && !known.ultimate);
    assert!(desk.relays().is_empty());
    assert_eq!(here.fetch(&hall, &desk).await.expect("nothing to do"), Fetched::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_second_version_only_the_difference_comes() {
    let hall = Hall::open();
    let (there, here) = (hall.machine("there"), hall.machine("here"));
    let old = noise(1, 12 << 20);
    let mut new = old.clone();
    // One part in twenty, in one place, and one byte more elsewhere.
    new[5 << 20..(5 << 20) + (12 << 20) / 20].copy_from_slice(&noise(2, (12 << 20) / 20));
    new.insert(1 << 20, 7);
    let old_info = there.add(&hall.path("tool-1.0"), &file_nar(&old), &[]).await;
    let new_info = there.add(&hall.path("tool-1.1"), &file_nar(&new), &[]).await;
    let server = there.serve(&hall).await;
    let desk = hall.desk(&[&old_info]);
    desk.tell("there", server.address(), "here", &[&old_info]);
    let whole = here.fetch(&hall, &desk).await.expect("fetched").from_peers;
    assert!(whole > 12 << 20);
    let desk = hall.desk(&[&new_info]);
    desk.tell("there", server.address(), "here", &[&new_info]);
    let fetched = here.fetch(&hall, &desk).await.expect("fetched");
    assert!(here.nar(&new_info).await == file_nar(&new));
    assert!(fetched.from_peers * 5 <= whole, "{fetched:?} of {whole}");
    assert!(fetched.from_here > 9 << 20, "{fetched:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_version_that_was_damaged_here_is_not_used() {
    let hall = Hall::open();
    let (there, here) = (hall.machine("there"), hall.machine("here"));
    let old = noise(1, 4 << 20);
    let new = [&old[..], b"more"].concat();
    let old_info = there.add(&hall.path("tool-1.0"), &file_nar(&old), &[]).await;
    let new_info = there.add(&hall.path("tool-1.1"), &file_nar(&new), &[]).await;
    let server = there.serve(&hall).await;
    let desk = hall.desk(&[&old_info]);
    desk.tell("there", server.address(), "here", &[&old_info]);
    here.fetch(&hall, &desk).await.expect("fetched");
    let place = here.daemon.physical(&format!("/nix/store/{}", old_info.path));
    let mut permissions = std::fs::metadata(&place).expect("there").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    std::fs::set_permissions(&place, permissions).expect("ours");
    std::fs::write(&place, noise(9, 4 << 20)).expect("damaged");
    let desk = hall.desk(&[&new_info]);
    desk.tell("there", server.address(), "here", &[&new_info]);
    here.fetch(&hall, &desk).await.expect("fetched");
    assert!(here.nar(&new_info).await == file_nar(&new));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_does_not_grow_with_a_path() {
    const SIZE: usize = 192 << 20;
    let hall = Hall::open();
    let (there, here) = (hall.machine("there"), hall.machine("here"));
    let file = there.daemon.scratch().join("large");
    {
        let mut out = std::fs::File::create(&file).expect("created");
        for seed in 0..u64::try_from(SIZE >> 20).expect("small") {
            std::io::Write::write_all(&mut out, &noise(seed, 1 << 20)).expect("written");
        }
    }
    let printed = there.daemon.nix_stdout(["store", "add", &file.display().to_string()]);
    let path = printed.trim_start_matches("/nix/store/").parse().expect("a store path");
    let info = there.connect().await.query_path_infos([&path]).await.expect("answers").remove(0);
    let info = info.expect("valid");
    let server = there.serve(&hall).await;
    let desk = hall.desk(&[&info]);
    desk.tell("there", server.address(), "here", &[&info]);
    let before = peak();
    let receiver = here.fetcher(&hall, &desk);
    let right = fleet_wire::v1::WorkRight::default();
    let bringing = async {
        let located = receiver.locate(right, &std::iter::once(path).collect()).await.expect("located");
        receiver.import(right, located).await.expect("fetched")
    };
    let fetched = tokio::time::timeout(Duration::from_mins(3), bringing).await.expect("in time");
    assert_eq!(fetched.paths.len(), 1);
    let grown = (peak() - before) >> 10;
    assert!(grown < 96, "both ends took {grown} MiB more for {} MiB", SIZE >> 20);
}

fn peak() -> u64 {
    peak_memory_kib(std::process::id()).expect("we run")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_shown_at_once() {
    let hall = Hall::open();
    let (there, here) = (hall.machine("there"), hall.machine("here"));
    let nar = file_nar(b"some content");
    let info = there.add(&hall.path("a"), &nar, &[]).await;
    // Signed so long ago that it has expired.
    hall.certify("there", 3 * 24 * 3600);
    let server = there.serve(&hall).await;
    let desk = hall.desk(&[&info]);
    desk.tell("there", server.address(), "here", &[&info]);
    let refused = here.fetch(&hall, &desk).await.expect_err("it has expired").to_string();
    assert!(refused.contains("no machine gives"), "{refused}");
    hall.certify("there", 0);
    here.fetch(&hall, &desk).await.expect("fetched");
    assert!(here.has(&info).await);
}
