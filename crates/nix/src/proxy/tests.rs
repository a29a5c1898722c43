//! The proxy in front of a real daemon, asked by real clients and by hostile ones.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use fleet_testkit::{DaemonOptions, NixDaemon, kill_hard, short_temp_dir, wait_until_gone};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::{ImportPolicy, LocalImports, ProxyConfig, ProxyError, StoreProxy};
use crate::daemon::codec::{self, Encoder};
use crate::daemon::handshake::{Greeting, greet_client, greet_server};
use crate::daemon::stderr::{Frame, read_frame};
use crate::daemon::{Daemon, DaemonAddress, Dialect, NEWEST, Trust};
use crate::evaluator::tests::bench::{Bench, nixos};
use crate::evaluator::{FlakeSource, start_evaluator};
use crate::{Derivation, StoreDir, StorePath};

/// A client that says what it likes.
struct RawClient(UnixStream);

impl RawClient {
    async fn connect(bench: &Bench) -> RawClient {
        RawClient::of(&bench.proxy).await
    }

    async fn of(proxy: &StoreProxy) -> RawClient {
        let address = DaemonAddress::from_store_uri(&proxy.store_uri()).expect("an address");
        let mut stream = UnixStream::connect(address.socket).await.expect("the proxy listens");
        let (mut reader, mut writer) = stream.split();
        greet_server(&mut reader, &mut writer).await.expect("a greeting");
        assert_eq!(read_frame(&mut reader).await.expect("a message"), Frame::Last);
        RawClient(stream)
    }

    /// Sends a request and gives the error it is answered with.
    async fn refused(&mut self, request: &Encoder) -> String {
        codec::send(&mut self.0, request).await.expect("sent");
        match read_frame(&mut self.0).await.expect("a message") {
            Frame::Error(error) => error.message,
            frame => panic!("{frame:?}"),
        }
    }

    /// Whether the proxy has hung up.
    async fn hung_up(mut self) -> bool {
        self.0.read_to_end(&mut Vec::new()).await.is_ok()
    }
}

/// Any other client is served as before.
async fn assert_alive(bench: &Bench) {
    let address = DaemonAddress::from_store_uri(&bench.proxy.store_uri()).expect("an address");
    let mut daemon = Daemon::connect(&address).await.expect("the proxy lives");
    let path = "00000000000000000000000000000000-none".parse().expect("a store path");
    assert!(!daemon.is_valid_path(&path).await.expect("an answer"));
}

#[tokio::test]
async fn every_derivation_is_seen_as_it_is_written() {
    let bench = Bench::start().await;
    let repo = bench.flake(
        r#"nixosConfigurations.host = host (derivation { name = "top"; system = "x86_64-linux"; builder = "/bin/sh";
             inputs = [ (drv "one") (drv "two") ]; file = builtins.toFile "text" "content"; tree = ./.; });"#,
    );
    let source = bench.source(&repo, None);
    let mut evaluator = start_evaluator(&bench.config(), &source).await.expect("an evaluator");
    let store = StoreDir::default();
    let mut waiting = vec![evaluator.evaluate(&nixos("host")).await.expect("a toplevel").drv];
    let mut seen = BTreeSet::new();
    while let Some(path) = waiting.pop() {
        let written = bench.proxy.derivation(&path).expect("it was seen");
        let file = fs::read(bench.daemon.physical(&store.print(&path))).expect("the file");
        assert_eq!(written.aterm, file);
        let derivation = Derivation::parse(&store, path.derivation_name().expect("a name"), &written.aterm)
            .expect("it parses");
        let inputs: BTreeSet<_> =
            derivation.input_drvs.keys().chain(&derivation.input_srcs).cloned().collect();
        assert_eq!(written.references, inputs);
        waiting.extend(derivation.input_drvs.into_keys());
        seen.insert(path.name().to_owned());
    }
    assert_eq!(seen, ["one.drv", "top.drv", "two.drv"].map(str::to_owned).into());
    let unknown = "00000000000000000000000000000000-none.drv".parse().expect("a store path");
    assert_eq!(bench.proxy.derivation(&unknown), None);
}

/// Evaluates the only host and waits until the daemon has forgotten the evaluator.
async fn evaluate_and_leave(bench: &Bench, source: &FlakeSource) -> StorePath {
    let before = bench.daemon.processes();
    let mut evaluator = start_evaluator(&bench.config(), source).await.expect("an evaluator");
    let drv = evaluator.evaluate(&nixos("host")).await.expect("a toplevel").drv;
    let processes: Vec<u32> = bench.daemon.processes().difference(&before).copied().collect();
    assert!(!processes.is_empty(), "it has no connection");
    drop(evaluator);
    for process in processes {
        let gone = tokio::task::block_in_place(|| wait_until_gone(process, Duration::from_secs(30)));
        assert!(gone, "a process outlived its evaluator");
    }
    drv
}

#[tokio::test(flavor = "multi_thread")]
async fn what_evaluators_wrote_stays_until_the_proxy_is_dropped() {
    let bench = Bench::start().await;
    let repo = bench
        .flake(r#"nixosConfigurations.host = host (drv (builtins.readFile (builtins.toFile "t" "kept")));"#);
    let source = bench.source(&repo, None);
    let drv = evaluate_and_leave(&bench, &source).await;
    // The second evaluator finds the derivation there.
    assert_eq!(evaluate_and_leave(&bench, &source).await, drv);
    let file = bench.daemon.physical(&StoreDir::default().print(&drv));
    let collect = |daemon: &NixDaemon| {
        let collected = daemon.command("nix-store", ["--gc", "--quiet"]).output().expect("nix-store runs");
        assert!(collected.status.success(), "{collected:?}");
    };
    collect(&bench.daemon);
    assert!(file.exists());
    let Bench { proxy, daemon, .. } = bench;
    drop(proxy);
    let address = DaemonAddress::from_store_uri(&daemon.store_uri()).expect("an address");
    // The daemon lets go when it notices; a root of ours would otherwise be found by the collector.
    let mut client = Daemon::connect(&address).await.expect("the daemon");
    while client.is_valid_path(&drv).await.expect("an answer") {
        collect(&daemon);
    }
    assert!(!file.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_too_many_paths_the_newer_stay() {
    let daemon = NixDaemon::start_default();
    let directory = short_temp_dir();
    let address = DaemonAddress::from_store_uri(&daemon.store_uri()).expect("an address");
    let config = ProxyConfig {
        held_paths: 4,
        ..ProxyConfig::new(directory.path().join("proxy/s"), address.clone(), ImportPolicy::Allow)
    };
    let proxy = StoreProxy::start(config, Arc::new(LocalImports::new(address))).await.expect("a proxy");
    let names = ["a", "b", "c", "d", "e"];
    let paths = names.map(|name| {
        let file = daemon.scratch().join(name);
        fs::write(&file, name).expect("a file");
        daemon.nix_stdout(["store", "add", file.to_str().expect("UTF-8")])
    });
    let before = daemon.processes();
    let proxied = DaemonAddress::from_store_uri(&proxy.store_uri()).expect("an address");
    let mut client = Daemon::connect(&proxied).await.expect("the proxy answers");
    let processes: Vec<u32> = daemon.processes().difference(&before).copied().collect();
    for path in &paths {
        let path = StoreDir::default().parse(path).expect("a store path");
        client.add_temp_root(&path).await.expect("it is rooted");
    }
    drop(client);
    for process in processes {
        assert!(tokio::task::block_in_place(|| wait_until_gone(process, Duration::from_secs(30))));
    }
    let collected = daemon.command("nix-store", ["--gc", "--quiet"]).output().expect("nix-store runs");
    assert!(collected.status.success(), "{collected:?}");
    assert_eq!(paths.map(|path| daemon.physical(&path).exists()), [false, false, false, true, true]);
}

/// Ends the daemon's processes that came after these.
fn end_processes_since(bench: &Bench, before: &BTreeSet<u32>) {
    let processes: Vec<u32> = bench.daemon.processes().difference(before).copied().collect();
    assert!(!processes.is_empty(), "there are none");
    for process in processes {
        kill_hard(process);
        assert!(tokio::task::block_in_place(|| wait_until_gone(process, Duration::from_secs(30))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evaluator_goes_on_with_a_daemon_that_was_lost_and_is_back() {
    let bench = Bench::start().await;
    let repo = bench
        .flake(r#"nixosConfigurations = { a = host (drv "a"); b = host (drv "b"); c = host (drv "c"); };"#);
    let source = bench.source(&repo, None);
    let before = bench.daemon.processes();
    let mut evaluator = start_evaluator(&bench.config(), &source).await.expect("an evaluator");
    evaluator.evaluate(&nixos("a")).await.expect("a toplevel");
    end_processes_since(&bench, &before);
    evaluator.evaluate(&nixos("b")).await.expect("a toplevel, by another connection");
}

/// A daemon that greets and hangs up at the first request.
fn start_moribund_daemon(socket: &Path) {
    let listener = UnixListener::bind(socket).expect("a socket");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a client");
            tokio::spawn(greet_and_hang_up(stream));
        }
    });
}

async fn greet_and_hang_up(mut stream: UnixStream) {
    let greeting =
        Greeting { dialect: Dialect::plain(NEWEST), nix_version: "2".to_owned(), trust: Trust::Trusted };
    let (mut reader, mut writer) = stream.split();
    greet_client(&mut reader, &mut writer, &greeting).await.expect("a greeting");
    codec::send(&mut writer, Encoder::new().frame(&Frame::Last)).await.expect("sent");
    let _ = codec::read_u64(&mut reader).await;
}

#[tokio::test]
async fn a_request_whose_daemon_is_lost_fails_and_the_connection_goes_on() {
    let directory = short_temp_dir();
    let upstream = DaemonAddress { socket: directory.path().join("d"), ..DaemonAddress::default() };
    start_moribund_daemon(&upstream.socket);
    let imports = Arc::new(LocalImports::new(upstream.clone()));
    let config = ProxyConfig::new(directory.path().join("proxy/s"), upstream, ImportPolicy::Allow);
    let proxy = StoreProxy::start(config, imports).await.expect("the proxy starts");
    let mut client = RawClient::of(&proxy).await;
    let mut question = Encoder::new();
    question.word(1).bytes("/nix/store/00000000000000000000000000000000-x");
    let mut addition = Encoder::new();
    addition.word(7).bytes("x").bytes("text:sha256").word(0).word(0);
    (0..100).for_each(|_| _ = addition.word(1 << 14).raw(&[0; 1 << 14]));
    addition.word(0);
    for (lost, request) in (1..).zip([&question, &addition, &question, &addition]) {
        let message = client.refused(request).await;
        assert!(message.starts_with("lost the connection to the Nix daemon"), "{message}");
        assert!(proxy.faults() >= lost, "each is the daemon's fault");
    }
}

#[tokio::test]
async fn requests_without_end_are_refused_before_they_fill_memory() {
    let bench = Bench::start().await;
    let reference = "/nix/store/00000000000000000000000000000000-x";
    let endless = |request: &mut Encoder| {
        request.word(1 << 20);
        (0..1 << 19).for_each(|_| _ = request.bytes(reference));
    };
    let mut addition = Encoder::new();
    addition.word(7).bytes("x").bytes("text:sha256");
    endless(&mut addition);
    let mut build = Encoder::new();
    build.word(9);
    endless(&mut build);
    for request in [addition, build] {
        let mut client = RawClient::connect(&bench).await;
        assert!(request.as_bytes().len() > 17 << 20);
        let message = client.refused(&request).await;
        assert!(message.starts_with("lost the connection"), "{message}");
    }
    let mut client = RawClient::connect(&bench).await;
    let mut request = Encoder::new();
    request.word(7).bytes("x.drv").bytes("text:sha256").word(0).word(0);
    (0..65).for_each(|_| _ = request.word(1 << 20).raw(&vec![b'x'; 1 << 20]));
    request.word(0);
    let message = client.refused(&request).await;
    assert_eq!(message, "cannot ask the Nix daemon: it is an addition to the store without end");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_evaluation_is_refused_by_name() {
    let bench = Bench::start().await;
    let uri = bench.proxy.store_uri();
    let built = bench.daemon.build_expression(
        r#"derivation { name = "built"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; }"#,
    );
    let cases: [(&[&str], &str); 4] = [
        (&["store", "gc"], "CollectGarbage (20) is not allowed during evaluation"),
        (&["store", "verify", "--all"], "QueryAllValidPaths (23) is not allowed during evaluation"),
        (&["store", "optimise"], "OptimiseStore (34) is not allowed during evaluation"),
        (
            &[
                "build",
                "--no-link",
                "--impure",
                "--expr",
                "derivation { name = \"b\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; }",
            ],
            "BuildPathsWithResults (46) is not allowed during evaluation",
        ),
    ];
    for (arguments, message) in cases {
        let output = bench.daemon.nix(arguments).env("NIX_REMOTE", &uri).output().expect("nix runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(message), "{arguments:?}: {error}");
    }
    // What only a signature or a promise vouches for does not come in either.
    let other = NixDaemon::start_default();
    let output = other
        .nix(["copy", "--no-check-sigs", "--from", &bench.daemon.store_uri(), &built[0]])
        .output()
        .expect("nix runs");
    assert!(output.status.success());
    let guarded = Bench::start().await;
    let output = other
        .nix(["copy", "--no-check-sigs", "--to", &guarded.proxy.store_uri(), &built[0]])
        .output()
        .expect("nix runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("AddMultipleToStore (44) is not allowed"), "{error}");
    assert!(!guarded.daemon.physical(&built[0]).exists());
    assert_alive(&bench).await;
}

#[tokio::test]
async fn an_import_without_a_content_address_is_refused_and_the_connection_goes_on() {
    let bench = Bench::start().await;
    let mut client = RawClient::connect(&bench).await;
    let mut request = Encoder::new();
    request
        .word(39)
        .bytes("/nix/store/00000000000000000000000000000000-forged")
        .bytes("")
        .bytes("0".repeat(64));
    request.word(0).word(0).word(3).word(1).word(0).bytes("").word(0).word(1);
    request.word(3).raw(b"abc").word(0);
    let message = client.refused(&request).await;
    assert_eq!(message, "only content-addressed paths may be added during evaluation");
    let mut request = Encoder::new();
    request.word(9).word(0).word(1);
    assert!(client.refused(&request).await.contains("repairing"));
    // Settings are taken and dropped: the daemon behind would have refused this one loudly.
    let mut request = Encoder::new();
    request.word(19);
    (0..12).for_each(|_| _ = request.word(0));
    request.word(1).bytes("store").bytes("/elsewhere");
    codec::send(&mut client.0, &request).await.expect("sent");
    assert_eq!(read_frame(&mut client.0).await.expect("a message"), Frame::Last);
}

#[tokio::test]
async fn malformed_requests_cost_their_client_only() {
    let bench = Bench::start().await;
    let long = u64::MAX.to_le_bytes();
    let cases: Vec<Vec<u8>> = vec![
        [1_u64.to_le_bytes(), long].concat(),
        [31_u64.to_le_bytes(), long].concat(),
        [7_u64.to_le_bytes(), long].concat(),
        [[9_u64.to_le_bytes(), 1_u64.to_le_bytes(), 3_u64.to_le_bytes()].concat(), b"abc\0\0\0\0\0".to_vec()]
            .concat(),
        [[1_u64.to_le_bytes(), 3_u64.to_le_bytes()].concat(), b"abcdefgh".to_vec()].concat(),
        [11_u64.to_le_bytes().to_vec(), 1_u64.to_le_bytes().to_vec(), b"/\0\0\0\0\0\0\0".to_vec()].concat(),
        vec![1, 2, 3],
    ];
    for case in cases {
        let mut client = RawClient::connect(&bench).await;
        client.0.write_all(&case).await.expect("sent");
        client.0.shutdown().await.expect("no more");
        assert!(client.hung_up().await, "{case:?}");
        assert_alive(&bench).await;
    }
    // No greeting at all.
    let address = DaemonAddress::from_store_uri(&bench.proxy.store_uri()).expect("an address");
    let mut stream = UnixStream::connect(&address.socket).await.expect("the proxy listens");
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
    assert!(RawClient(stream).hung_up().await);
    assert_alive(&bench).await;
}

#[tokio::test]
async fn a_daemon_that_trusts_nobody_and_one_that_is_gone() {
    let options = DaemonOptions { trust: fleet_testkit::Trust::Untrusted, ..DaemonOptions::default() };
    let bench = Bench::of(NixDaemon::start(&options), ImportPolicy::Allow, None).await;
    let repo =
        bench.flake(r#"nixosConfigurations.host = host (drv "x${import (ifd "echo '\"y\"' > $out")}");"#);
    let mut evaluator =
        start_evaluator(&bench.config(), &bench.source(&repo, None)).await.expect("an evaluator");
    evaluator.evaluate(&nixos("host")).await.expect("a toplevel");

    let Bench { proxy, daemon, .. } = bench;
    drop(daemon);
    let address = DaemonAddress::from_store_uri(&proxy.store_uri()).expect("an address");
    let error = Daemon::connect(&address).await.expect_err("nothing is behind the proxy");
    assert!(error.to_string().contains("cannot connect to the Nix daemon"), "{error}");
}

#[tokio::test]
async fn only_its_owner_reaches_the_socket() {
    let daemon = NixDaemon::start_default();
    let address = DaemonAddress::from_store_uri(&daemon.store_uri()).expect("an address");
    let directory = short_temp_dir();
    let start = |listen: PathBuf| {
        let config = ProxyConfig::new(listen, address.clone(), ImportPolicy::Allow);
        StoreProxy::start(config, Arc::new(LocalImports::new(address.clone())))
    };
    let open = directory.path().join("open");
    assert!(Command::new("mkdir").args(["-m", "755"]).arg(&open).status().expect("mkdir runs").success());
    let error = start(open.join("s")).await.expect_err("others may enter");
    assert!(matches!(error, ProxyError::OpenDirectory { .. }), "{error}");
    let foreign = if rustix::process::geteuid().is_root() {
        let directory = directory.path().join("foreign");
        assert!(
            Command::new("mkdir").args(["-m", "700"]).arg(&directory).status().expect("mkdir runs").success()
        );
        std::os::unix::fs::chown(&directory, Some(1234), None).expect("root may");
        directory
    } else {
        PathBuf::from("/root")
    };
    let error = start(foreign.join("s")).await.expect_err("its owner may enter");
    assert!(matches!(error, ProxyError::OpenDirectory { .. }), "{error}");
    let first = start(directory.path().join("own/s")).await.expect("a directory of its own");
    // A socket that was left behind is no obstacle.
    std::mem::forget(first);
    start(directory.path().join("own/s")).await.expect("the same place again");
    let error =
        start(directory.path().join("own").join("x".repeat(120))).await.expect_err("too long for a socket");
    assert!(matches!(error, ProxyError::LongPath { .. }) && error.to_string().contains("TMPDIR"), "{error}");
}
