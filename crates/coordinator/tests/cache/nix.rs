//! What real Nix makes of the cache.

use fleet_nix::SecretKey;
use fleet_testkit::{DaemonOptions, NixDaemon, Trust};
use fleet_wire::v1;
use tempfile::TempDir;

use crate::filled::{Built, PUBLIC, authority_file, netrc, own_key, run, serving, url};
use crate::running::Running;

/// A daemon that has nothing, and may take signed paths from the cache.
fn consumer(running: &Running, directory: &TempDir, key: &str, more: &[(&str, String)]) -> NixDaemon {
    let mut settings = vec![("ssl-cert-file".to_owned(), authority_file(running, directory))];
    settings.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    NixDaemon::start(&DaemonOptions {
        trust: Trust::Untrusted,
        substituters: vec![url(running)],
        trusted_public_keys: vec![key.to_owned()],
        require_signatures: true,
        settings,
        ..DaemonOptions::default()
    })
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

#[tokio::test]
async fn nix_substitutes_a_closure_with_a_token_in_its_netrc() {
    let built = Built::new();
    let running = serving(&built, "").await;
    let directory = directory();
    let token = running.client_token("machine", v1::Role::Read).await;
    let more = [("netrc-file", netrc(&directory, &token))];
    let daemon = consumer(&running, &directory, &own_key(&running), &more);
    let (done, said) = run(daemon.command("nix-store", ["--realise", &built.program])).await;
    assert!(done, "{said}\n{}", daemon.log());
    for (path, _) in &built.infos {
        let ours = std::fs::read(daemon.physical(path)).expect("it came");
        assert!(ours == std::fs::read(built.daemon.physical(path)).expect("it was built"), "{path}");
    }
    let (verified, said) = run(daemon.nix(["store", "verify", "--recursive", &built.program])).await;
    assert!(verified, "{said}");
}

#[tokio::test]
async fn without_the_token_nix_gets_nothing() {
    let built = Built::new();
    let running = serving(&built, "").await;
    let directory = directory();
    let more = [("netrc-file", netrc(&directory, "fleet-client-v1.guess"))];
    let daemon = consumer(&running, &directory, &own_key(&running), &more);
    let (done, said) = run(daemon.command("nix-store", ["--realise", &built.program])).await;
    assert!(!done, "{said}");
    assert!(!daemon.physical(&built.program).exists());
}

#[tokio::test]
async fn a_closure_that_another_key_signed_is_refused() {
    let built = Built::new();
    let running = serving(&built, PUBLIC).await;
    let directory = directory();
    let own = own_key(&running);
    let name = own.split(':').next().expect("a name");
    let wrong = SecretKey::from_seed(name, &[7; 32]).expect("a name").public_key().to_string();
    let daemon = consumer(&running, &directory, &wrong, &[]);
    let (done, said) = run(daemon.command("nix-store", ["--realise", &built.program])).await;
    assert!(!done, "{said}");
    assert!(!daemon.physical(&built.program).exists() && !daemon.physical(&built.library()).exists());
}

#[tokio::test]
async fn nix_copies_builds_and_looks_over_both_kinds_of_http() {
    let built = Built::new();
    let running = serving(&built, PUBLIC).await;
    let key = own_key(&running);
    for http2 in ["true", "false"] {
        let directory = directory();
        let daemon = consumer(&running, &directory, &key, &[("http2", http2.to_owned())]);
        let cache = url(&running);
        let (done, said) =
            run(daemon.nix(["path-info", "--store", &cache, "--recursive", "--size", &built.program])).await;
        assert!(done && built.infos.iter().all(|(path, _)| said.contains(path.as_str())), "{said}");
        let verify = [
            "store",
            "verify",
            "--store",
            &cache,
            "--recursive",
            &built.program,
            "--trusted-public-keys",
            &key,
        ];
        let (done, said) = run(daemon.nix(verify)).await;
        assert!(done, "{said}");
        let (done, said) = run(daemon.nix(["copy", "--from", &cache, &built.program])).await;
        assert!(done, "{said}\n{}", daemon.log());
        let (done, said) = run(daemon.nix(["build", "--no-link", "--max-jobs", "0", &built.program])).await;
        assert!(done, "{said}");
        // The cache is only read.
        let own = daemon.scratch().join("own");
        std::fs::write(&own, http2).expect("a file");
        let own = daemon.nix_stdout(["store".as_ref(), "add-file".as_ref(), own.as_os_str()]);
        let (done, said) = run(daemon.nix(["copy", "--to", &cache, &own])).await;
        assert!(!done && said.contains("405"), "{said}");
    }
}

#[tokio::test]
async fn nix_reads_a_log_from_the_cache() {
    let built = Built::new();
    let running = serving(&built, "").await;
    let directory = directory();
    let token = running.client_token("person", v1::Role::Read).await;
    let drv = built.infos.iter().find(|(path, _)| *path == built.program).expect("it was built");
    let drv = drv.1["deriver"].as_str().expect("it has a deriver").to_owned();
    let log = running.state().join("logs").join(drv.trim_start_matches("/nix/store/"));
    std::fs::create_dir_all(&log).expect("a directory");
    std::fs::write(log.join("000000000000001.1.log"), "what the builder said\n").expect("a log");
    let more = [("netrc-file", netrc(&directory, &token))];
    let daemon = consumer(&running, &directory, &own_key(&running), &more);
    let (done, said) = run(daemon.nix(["log", "--store", &url(&running), &drv])).await;
    assert!(done && said.contains("what the builder said"), "{said}");
}
