//! Clients that take their time, or do not speak at all.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::client::{get, older};
use crate::filled::{Built, PUBLIC, hash_part, serving};
use crate::running::{Running, within};

#[tokio::test]
async fn headers_that_do_not_come_are_not_waited_for() {
    let running = Running::start_with(PUBLIC, |_| {});
    let beginnings = ["", "G", "GET /nix-cache-info HTTP/1.1\r\nhost: l", "GET / HTTP/1.1\r\nx"];
    let ends = beginnings.map(|beginning| {
        let running = &running;
        async move {
            let mut stream = older(running, true).await;
            within(stream.write_all(beginning.as_bytes())).await.expect("it is taken");
            let begun = Instant::now();
            let (mut reader, mut writer) = tokio::io::split(stream);
            // One more letter now and then, as if there were something to wait for.
            let trickle = async {
                loop {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    if !beginning.is_empty() && writer.write_all(b"a").await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            let mut said = Vec::new();
            let end = async {
                tokio::select! {
                    _ = reader.read_to_end(&mut said) => {}
                    () = trickle => {}
                }
            };
            within(end).await;
            assert!(begun.elapsed() < Duration::from_secs(15), "{beginning:?}");
        }
    });
    futures::future::join_all(ends).await;
    assert_eq!(get(&running, "/healthz", "").await.status, 200);
}

#[tokio::test]
async fn clients_that_take_nothing_cost_no_memory_worth_mentioning() {
    // 24 MiB that do not compress.
    let built = Built::added(24 << 20);
    let running = serving(&built, PUBLIC).await;
    let narinfo = get(&running, &format!("/{}.narinfo", hash_part(&built.program)), "").await.text();
    let url = narinfo.lines().find_map(|line| line.strip_prefix("URL: ")).expect("a URL").to_owned();
    let size: u64 = narinfo
        .lines()
        .find_map(|line| line.strip_prefix("FileSize: "))
        .expect("a size")
        .parse()
        .expect("a number");
    assert!(size > 20 << 20, "{size}");
    // What one download needs is needed before, too.
    assert_eq!(get(&running, &format!("/{url}"), "").await.content.len() as u64, size);
    let before = running.peak_memory_kib();
    let mut idle = Vec::new();
    for _ in 0..24 {
        idle.push(taking_nothing(&running, &url).await);
    }
    // Others are served meanwhile.
    assert_eq!(get(&running, &format!("/{url}"), "").await.content.len() as u64, size);
    let grown = running.peak_memory_kib() - before;
    assert!(grown < 24 * 8 * 1024, "{grown} KiB for 24 who take nothing");
    // An address has so many downloads; a further one waits until another ends.
    while idle.len() < 32 {
        idle.push(taking_nothing(&running, &url).await);
    }
    let page = format!("/{url}");
    let further = get(&running, &page, "");
    tokio::pin!(further);
    let early = tokio::time::timeout(Duration::from_millis(500), &mut further).await;
    assert!(early.is_err(), "it did not wait");
    assert_eq!(get(&running, "/nix-cache-info", "").await.status, 200);
    idle.pop();
    assert_eq!(further.await.content.len() as u64, size);
}

/// A download that was begun, and whose client reads no more.
async fn taking_nothing(running: &Running, url: &str) -> TlsStream<TcpStream> {
    let mut stream = older(running, true).await;
    let request = format!("GET /{url} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    within(stream.write_all(request.as_bytes())).await.expect("it is taken");
    let mut first = [0; 12];
    within(stream.read_exact(&mut first)).await.expect("an answer begins");
    stream
}
