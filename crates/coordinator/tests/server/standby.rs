//! Two coordinators on one PostgreSQL database: one serves, the other waits and takes over.

use fleet_testkit::PostgresServer;
use tonic::Code;
use tonic_health::ServingStatus;

use crate::running::{Running, check_health, list_runs, program, run};

#[tokio::test]
async fn a_standby_takes_over_when_the_active_one_ends() {
    let server = PostgresServer::start();
    let journal = format!("journal = \"postgres://fleet@{}/postgres\"\n", server.address());
    let mut active = Running::start_with(&journal, |_| {});
    let token = active.client_token("reader", fleet_wire::v1::Role::Read).await;

    // One that may not wait says who has it.
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("c.toml");
    let text = format!("state_dir = \"{}\"\n{journal}", directory.path().join("state").display());
    std::fs::write(&file, text).expect("a file");
    let (code, _, said) = run(program(directory.path()).arg("--config").arg(&file));
    assert_eq!(code, Some(1));
    assert!(said.contains("the journal is in use by"), "{said}");

    let standby = Running::standing_by(&format!("{journal}standby = true\n"));
    let not_serving = i32::from(ServingStatus::NotServing as u8);
    assert_eq!(check_health(standby.remote(None)).await.expect("anyone may ask"), not_serving);
    let channel = standby.remote(None);
    assert_eq!(list_runs(channel.clone(), Some(&token)).await, Code::Unavailable);
    standby.signal("HUP");
    active.signal("TERM");
    assert_eq!(active.end().code(), Some(0));
    standby.wait_for("listening");
    let serving = i32::from(ServingStatus::Serving as u8);
    assert_eq!(check_health(channel.clone()).await.expect("the same connection"), serving);
    assert_eq!(list_runs(channel, Some(&token)).await, Code::Ok, "tokens are in the journal");
}
