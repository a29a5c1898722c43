//! Who may read, and what the others learn.

use fleet_identity::{Role, unix_now};
use fleet_nix::base64;
use fleet_wire::v1;
use fleet_wire::v1::admin_client::AdminClient;

use crate::client::{ask, get, newer};
use crate::filled::{Built, PUBLIC, hash_part, serving};
use crate::running::{Running, client, within};
use http_body_util::BodyExt as _;
use tonic::body::Body;
use tonic::codegen::http::Request;
use tower::ServiceExt as _;

fn basic(token: &str) -> String {
    format!("authorization: Basic {}\r\n", base64::encode(format!("anyone:{token}").as_bytes()))
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

/// The status of a page for who shows a certificate.
async fn shown(
    running: &Running,
    credentials: &fleet_identity::Credentials,
    method: &str,
    page: &str,
) -> u16 {
    let request = Request::builder().method(method).uri(format!("http://coordinator{page}"));
    let request = request.body(Body::empty()).expect("a request");
    let answer = within(running.remote(Some(credentials)).oneshot(request)).await.expect("an answer");
    let status = answer.status().as_u16();
    let _ = within(answer.into_body().collect()).await;
    status
}

#[tokio::test]
async fn only_who_has_the_role_reads_and_the_others_cannot_tell_what_is_there() {
    let built = Built::new();
    let running = serving(&built, "").await;
    let there = format!("/{}.narinfo", hash_part(&built.program));
    let absent = format!("/{}.narinfo", "0".repeat(32));
    let token = running.client_token("reader", v1::Role::Read).await;
    for known in [basic(&token), bearer(&token)] {
        assert_eq!(get(&running, &there, &known).await.status, 200);
        assert_eq!(get(&running, &absent, &known).await.status, 404);
    }
    let wrong = token.replace('.', "_");
    for nobody in
        [String::new(), basic("x"), basic(&wrong), bearer(&wrong), "authorization: Basic x\r\n".to_owned()]
    {
        let refused = get(&running, &there, &nobody).await;
        assert_eq!(refused.status, 401, "{nobody}");
        assert!(refused.header("www-authenticate").is_some_and(|value| value.starts_with("Basic ")));
        let same = get(&running, &absent, &nobody).await;
        assert_eq!((refused.facts(), refused.content), (same.facts(), same.content), "{nobody}");
        assert_eq!(ask(&running, "PUT", &there, &nobody).await.status, 401, "{nobody}");
    }
    let reader = client(&running.authority(), "person", Role::Read, unix_now());
    assert_eq!(shown(&running, &reader, "GET", &there).await, 200);
    assert_eq!(shown(&running, &reader, "PUT", &there).await, 405);
    // A worker reads what its leases need, by other means.
    let worker = running.enrolled("worker").await;
    assert_eq!(shown(&running, &worker, "GET", &there).await, 404);
    assert_eq!(shown(&running, &worker, "GET", &absent).await, 404);
    assert_eq!(shown(&running, &worker, "PUT", &there).await, 403);
    assert_eq!(get(&running, "/healthz", "").await.status, 200, "anybody may ask whether it lives");
}

#[tokio::test]
async fn a_revoked_token_reads_no_more() {
    let built = Built::new();
    let running = serving(&built, "").await;
    let token = running.client_token("reader", v1::Role::Read).await;
    assert_eq!(get(&running, "/nix-cache-info", &basic(&token)).await.status, 200);
    let request = v1::RevokeClientRequest { name: "reader".to_owned() };
    within(AdminClient::new(running.local()).revoke_client(request)).await.expect("this user may");
    assert_eq!(get(&running, "/nix-cache-info", &basic(&token)).await.status, 401);
}

#[tokio::test]
async fn who_guesses_is_not_heard_for_a_while() {
    let built = Built::new();
    let running = serving(&built, "[server]\nmax_failed_enrolments = 3\n").await;
    let token = running.client_token("reader", v1::Role::Read).await;
    let mut statuses = Vec::new();
    // A minute may end between.
    while statuses.len() < 12 && !statuses.contains(&429) {
        statuses.push(get(&running, "/nix-cache-info", &basic("guess")).await.status);
    }
    assert!(statuses.starts_with(&[401, 401, 401]) && statuses.contains(&429), "{statuses:?}");
    let refused = get(&running, "/nix-cache-info", &basic(&token)).await;
    assert!(refused.status == 429 && refused.header("retry-after").is_some(), "{refused:?}");
    assert_eq!(get(&running, "/nix-cache-info", "").await.status, 401, "who shows nothing guesses nothing");
}

#[tokio::test]
async fn a_public_cache_is_for_everybody_but_its_logs_are_not() {
    let built = Built::new();
    let running = serving(&built, PUBLIC).await;
    let drv = "00000000000000000000000000000000-x.drv";
    let log = running.state().join("logs").join(drv);
    std::fs::create_dir_all(&log).expect("a directory");
    std::fs::write(log.join("000000000000001.1.log"), "\u{1b}]52;c;AAAA\u{7}said\n").expect("a log");
    let page = format!("/log/{drv}");
    let there = format!("/{}.narinfo", hash_part(&built.program));
    assert_eq!(get(&running, &there, "").await.status, 200);
    assert_eq!(get(&running, &page, "").await.status, 404);
    assert_eq!(get(&running, &there, &basic("guess")).await.status, 401, "who shows something wrong is told");
    let token = running.client_token("reader", v1::Role::Read).await;
    let answer = get(&running, &page, &basic(&token)).await;
    assert_eq!((answer.status, &*answer.text()), (200, "\u{1b}]52;c;AAAA\u{7}said\n"));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    let header = base64::encode(format!("x:{token}").as_bytes());
    let by_newer = newer(&running, "GET", &page, &[("authorization", &format!("Basic {header}"))]).await;
    assert_eq!(by_newer.content, answer.content);
}
