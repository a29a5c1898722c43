//! What is kept and no longer what it was.

use std::path::{Path, PathBuf};

use crate::client::get;
use crate::filled::{Built, PUBLIC, hash_part, serving};
use crate::running::Running;

/// The frames of the library in their order, as its archive shows them.
fn frames(running: &Running) -> Vec<PathBuf> {
    let shelves = std::fs::read_dir(running.state().join("objects/chunks")).expect("chunks");
    let shelves = shelves.map(|shelf| shelf.expect("an entry").path());
    let frames = shelves.flat_map(|shelf| std::fs::read_dir(shelf).expect("a shelf"));
    frames.map(|frame| frame.expect("an entry").path()).collect()
}

fn flip(frame: &Path) {
    let mut bytes = std::fs::read(frame).expect("a frame");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(frame, bytes).expect("a frame");
}

/// The URL of the library's archive, and its content.
async fn archive(running: &Running, built: &Built) -> (String, Vec<u8>) {
    let narinfo = get(running, &format!("/{}.narinfo", hash_part(&built.library())), "").await.text();
    let url = narinfo.lines().find_map(|line| line.strip_prefix("URL: ")).expect("a URL");
    let page = format!("/{url}");
    let content = get(running, &page, "").await.content;
    (page, content)
}

#[tokio::test]
async fn a_damaged_frame_is_never_served_and_its_path_no_longer_offered() {
    let built = Built::new();
    for at_beginning in [true, false] {
        let running = serving(&built, PUBLIC).await;
        let (page, content) = archive(&running, &built).await;
        let is_at = |frame: &PathBuf| {
            let bytes = std::fs::read(frame).expect("a frame");
            content.windows(bytes.len()).position(|window| window == bytes)
        };
        let (mut first, mut later) = (None, None);
        for frame in frames(&running) {
            match is_at(&frame) {
                Some(0) => first = Some(frame),
                Some(at) => later = later.max(Some((at, frame))),
                None => {}
            }
        }
        let first = first.expect("the archive begins with a frame");
        let (position, last) = later.expect("it has several");
        flip(if at_beginning { &first } else { &last });
        let broken = get(&running, &page, "").await;
        if at_beginning {
            assert_eq!(broken.status, 503);
        } else {
            assert_eq!(broken.status, 200);
            assert!(broken.content.len() < content.len(), "it looks whole");
            assert!(content.starts_with(&broken.content) && broken.content.len() <= position);
            let promised: usize =
                broken.header("content-length").expect("promised").parse().expect("a number");
            assert_eq!(promised, content.len());
        }
        running.wait_for("damaged");
        assert_eq!(get(&running, &page, "").await.status, 404);
        assert_eq!(get(&running, &format!("/{}.narinfo", hash_part(&built.library())), "").await.status, 404);
    }
}
