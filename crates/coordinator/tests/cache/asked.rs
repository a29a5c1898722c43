//! What is asked for, well and badly.

use fleet_nix::{NarInfo, PublicKey, StoreDir};

use crate::client::{Answer, ask, get, newer, older, raw};
use crate::filled::{Built, PUBLIC, hash_part, own_key, serving};
use crate::running::{Running, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn narinfo(answer: &Answer) -> NarInfo {
    NarInfo::parse(&StoreDir::default(), &answer.content).expect("a strict narinfo")
}

#[tokio::test]
async fn a_published_path_has_a_signed_narinfo_and_its_archive() {
    let built = Built::new();
    let running = serving(&built, PUBLIC).await;
    let info = get(&running, "/nix-cache-info", "").await;
    assert_eq!(info.text(), "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n");
    let key: PublicKey = own_key(&running).parse().expect("a key");
    for (path, _) in &built.infos {
        let answer = get(&running, &format!("/{}.narinfo", hash_part(path)), "").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let narinfo = narinfo(&answer);
        assert_eq!(StoreDir::default().print(&narinfo.path_info.path), *path);
        assert!(narinfo.path_info.is_signed_by(&StoreDir::default(), std::slice::from_ref(&key)));
        let archive = get(&running, &format!("/{}", narinfo.url), "").await;
        assert_eq!(archive.status, 200);
        assert_eq!(Some(archive.content.len() as u64), narinfo.file_size);
        let nar = zstd::stream::decode_all(&archive.content[..]).expect("zstd");
        assert!(nar == built.nar(path), "{path} came back as something else");
    }
}

#[tokio::test]
async fn head_is_get_without_content_and_both_kinds_of_http_agree() {
    let built = Built::new();
    let running = serving(&built, PUBLIC).await;
    let narinfo_path = format!("/{}.narinfo", hash_part(&built.library()));
    let url = narinfo(&get(&running, &narinfo_path, "").await).url;
    let pages = ["/nix-cache-info", &narinfo_path, &format!("/{url}"), "/healthz", "/absent", "//bad"];
    for page in pages {
        for range in ["", "bytes=5-9", "bytes=99999999-"] {
            let line = if range.is_empty() { String::new() } else { format!("range: {range}\r\n") };
            let got = get(&running, page, &line).await;
            let head = ask(&running, "HEAD", page, &line).await;
            assert_eq!(head.facts(), got.facts(), "{page} {range}");
            assert_eq!(head.content, b"", "{page} {range}");
            let length = got.header("content-length").expect("its length is known");
            assert_eq!(length, got.content.len().to_string(), "{page} {range}");
            let headers: Vec<_> =
                [("range", range)].into_iter().filter(|(_, range)| !range.is_empty()).collect();
            let by_newer = newer(&running, "GET", page, &headers).await;
            assert_eq!((by_newer.facts(), &by_newer.content), (got.facts(), &got.content), "{page} {range}");
            let head = newer(&running, "HEAD", page, &headers).await;
            assert_eq!((head.facts(), head.content), (got.facts(), Vec::new()), "{page} {range}");
        }
    }
}

#[tokio::test]
async fn a_range_of_an_archive_is_cut_out_of_its_frames() {
    let built = Built::new();
    let running = serving(&built, PUBLIC).await;
    let narinfo = narinfo(&get(&running, &format!("/{}.narinfo", hash_part(&built.library())), "").await);
    let page = format!("/{}", narinfo.url);
    let whole = get(&running, &page, "").await;
    let length = whole.content.len();
    let tag = whole.header("etag").expect("it has one").to_owned();
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    for (first, last) in
        [(0, 0), (0, length - 1), (1, 7), (length / 3, length / 3 * 2), (length - 1, length - 1)]
    {
        let part = get(&running, &page, &format!("range: bytes={first}-{last}\r\n")).await;
        assert_eq!(part.status, 206);
        assert_eq!(part.header("content-range"), Some(&*format!("bytes {first}-{last}/{length}")));
        assert!(part.content == whole.content[first..=last], "{first}-{last}");
    }
    let rest = get(&running, &page, &format!("range: bytes={}-\r\nif-range: {tag}\r\n", length - 9)).await;
    assert_eq!((rest.status, rest.content.len()), (206, 9));
    let changed = get(&running, &page, "range: bytes=1-2\r\nif-range: \"other\"\r\n").await;
    assert_eq!((changed.status, changed.content.len()), (200, length));
    for all in ["bytes=9-3", "bytes=0-1,4-5", "bytes=x", "lines=0-1", "bytes=0-1,2-3,4-5,6-7,8-9"] {
        let answer = get(&running, &page, &format!("range: {all}\r\n")).await;
        assert_eq!((answer.status, answer.content.len()), (200, length), "{all}");
    }
    let beyond = get(&running, &page, &format!("range: bytes={length}-\r\n")).await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some(&*format!("bytes */{length}"))));
    let known = get(&running, &page, &format!("if-none-match: \"x\", {tag}\r\n")).await;
    assert_eq!((known.status, known.content.len()), (304, 0));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_harms_nobody() {
    let built = Built::new();
    let running = serving(&built, PUBLIC).await;
    let hash = hash_part(&built.program);
    let long = format!("/{}", "a".repeat(8 << 10));
    let bad = ["//nix-cache-info", "/../x", "/nar/../x", "/%2e%2e%2fetc/passwd", "/x%00", "/a/./b", &long];
    for path in bad {
        assert_eq!(get(&running, path, "").await.status, 400, "{path:.60}");
    }
    let absent = [
        "/".to_owned(),
        format!("/{}.narinfo", &hash[1..]),
        format!("/{}.narinfo", hash.to_uppercase()),
        format!("/{}.narinfo", "e".repeat(32)),
        format!("/{}.narinfo", "0".repeat(32)),
        format!("/nar/{hash}-{}.nar.zst", "0".repeat(52)),
        format!("/{hash}.ls"),
        "/log/00000000000000000000000000000000-x.drv".to_owned(),
        "/nix-cache-info.narinfo".to_owned(),
    ];
    for path in absent {
        assert_eq!(get(&running, &path, "").await.status, 404, "{path}");
    }
    for method in ["PUT", "POST", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "X"] {
        let answer = ask(&running, method, &format!("/{hash}.narinfo"), "content-length: 3\r\n\r\nabc").await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
    // Which of the two says how long the content is?
    let two = "content-length: 3\r\ntransfer-encoding: chunked\r\n";
    let two_more = "transfer-encoding: chunked\r\ncontent-length: 3\r\n";
    for headers in [two, two_more, "content-length: 3\r\n", "transfer-encoding: chunked\r\n"] {
        assert_eq!(
            get(&running, "/nix-cache-info", &format!("{headers}\r\n0")).await.status,
            400,
            "{headers}"
        );
    }
    for headers in
        ["content-length: -1\r\n", "content-length: 1\r\ncontent-length: 2\r\n", "transfer-encoding: x\r\n"]
    {
        assert_eq!(get(&running, "/nix-cache-info", headers).await.status, 400, "{headers}");
    }
    for request in [
        "GET\r\n\r\n",
        "GET /nix-cache-info\0 HTTP/1.1\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
    ] {
        assert_eq!(raw(&running, request).await.status, 400, "{request:?}");
    }
    let fields = "x: 1\r\n".repeat(65);
    let large = format!("x: {}\r\n", "a".repeat(64 << 10));
    for headers in [fields, large] {
        assert_eq!(get(&running, "/nix-cache-info", &headers).await.status, 431, "{headers:.40}");
    }
    let odd = [
        "accept-encoding: gzip, br;q=1.0, *;q=0, identity;q=nonsense\r\n",
        "host: other.example\r\n",
        "host: ../../etc\r\n",
        "accept: \u{7f}\r\n",
        "connection: upgrade\r\nupgrade: h2c\r\n",
        "expect: 200-ok\r\n",
    ];
    for headers in odd {
        let answer = get(&running, "/nix-cache-info", headers).await;
        assert!(answer.status == 200 || answer.status == 400, "{headers}: {answer:?}");
        assert_eq!(answer.header("content-encoding"), None);
    }
    assert_eq!(get(&running, "http://other.example/nix-cache-info", "").await.status, 200);
    assert!(!running.said_so_far().contains("panicked"));
}

#[tokio::test]
async fn a_connection_of_the_older_http_serves_one_request_after_the_other() {
    let built = Built::new();
    let running = serving(&built, PUBLIC).await;
    for agreed in [true, false] {
        let mut stream = older(&running, agreed).await;
        let request = "GET /nix-cache-info HTTP/1.1\r\nhost: localhost\r\n\r\n";
        let last = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        // All at once, as a client may that knows what it wants.
        within(stream.write_all([request, request, last].concat().as_bytes())).await.expect("it is taken");
        let mut said = String::new();
        within(stream.read_to_string(&mut said)).await.expect("it ends");
        assert_eq!(said.matches("HTTP/1.1 200 OK").count(), 3, "{said}");
        assert!(said.ends_with("serving\n"), "{said}");
    }
}

#[tokio::test]
async fn calls_need_the_newer_http() {
    let running = Running::start();
    let headers = "content-type: application/grpc\r\nte: trailers\r\n";
    let answer = ask(&running, "POST", "/grpc.health.v1.Health/Check", headers).await;
    assert_eq!(answer.status, 401, "{answer:?}");
    assert_eq!(get(&running, "/healthz", "").await.text(), "serving\n");
}
