//! Settings: what is refused, where it says so, and what a reload does.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use fleet_coordinator::config::reference;
use fleet_identity::{Authority, Role, unix_now};

use crate::running::{Manager, Running, client, list_runs, program, run};

/// What check-config says of a file with these contents.
fn checked(directory: &Path, text: impl AsRef<[u8]>) -> (Option<i32>, String) {
    let file = directory.join("coordinator.toml");
    std::fs::write(&file, text).expect("a file");
    let (code, _, said) = run(program(directory).arg("check-config").arg(&file));
    (code, said)
}

#[track_caller]
fn refuses(directory: &Path, text: impl AsRef<[u8]>, line: usize, why: &str) {
    let (code, said) = checked(directory, text);
    assert_eq!(code, Some(2), "{why}: {said}");
    let place =
        if line == 0 { "coordinator.toml: ".to_owned() } else { format!("coordinator.toml:{line}: ") };
    assert!(said.contains(&place) && said.contains(why), "not {place}{why}, but {said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_wrong_file_is_refused_with_its_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    let cases = [
        ("\nlisen = \"[::]:1\"", 2, "there is no setting \"lisen\""),
        ("[limits]\n\ntimout = \"1h\"", 3, "there is no setting \"limits.timout\""),
        ("[limit]\ntimeout = \"1h\"", 2, "there is no setting \"limit.timeout\""),
        ("[limits.timeout]\nx = 1", 1, "limits.timeout: a setting is never a table"),
        (
            "[limits]\ntimeout = \"10 parsecs\"",
            2,
            "limits.timeout: expected a whole number and one of the units",
        ),
        (
            "[limits]\nmax_log = \"64 MB/s\"",
            2,
            "limits.max_log: expected a whole number and one of the units",
        ),
        ("[limits]\ntimeout = 36000", 2, "expected a whole number and one of the units"),
        ("[limits]\ntimeout = \"0s\"", 2, "must be more than zero"),
        ("[runs]\nmax = 0", 2, "runs.max: must be more than zero"),
        ("[runs]\nmax = -1", 2, "runs.max: must be more than zero"),
        ("[server]\nmax_streams = 4294967296", 2, "is too much"),
        ("[runs]\nmax = 99999999999999999999999999999999999999999", 2, "runs.max: "),
        ("[workers]\naway = \"99999999999999999999h\"", 2, "is too much"),
        ("[workers]\naway = \"600000000000000d\"", 2, "is too much"),
        ("[workers]\nheartbeat = \"11s\"", 2, "workers.heartbeat: at most 10 s"),
        ("[workers]\naway = \"5s\"\nheartbeat = \"6s\"", 3, "workers.heartbeat: must be shorter"),
        ("standby = \"yes\"", 1, "standby: expected true or false"),
        ("standby = true", 1, "only a PostgreSQL journal"),
        ("state_dir = \"relative\"", 1, "expected an absolute path"),
        ("objects = \"relative\"", 1, "objects: expected an absolute path, or s3://BUCKET/PREFIX"),
        ("objects = \"s3://Bucket\"", 1, "objects: \"Bucket\" cannot name a bucket"),
        ("objects = \"s3://bucket/../x\"", 1, "objects: \"../x\" cannot be the prefix of keys"),
        ("state_dir = 7", 1, "expected text in quotes"),
        ("state_dir = 7.5", 1, "a setting is never a float"),
        ("listen = \"localhost:7143\"", 1, "expected an IP address and a port"),
        ("listen = \"[::]:65536\"", 1, "expected an IP address and a port"),
        ("names = \"a b\"", 1, "neither a DNS name nor an IP address"),
        ("names = [1]", 1, "expected a list of texts"),
        ("journal = \"mysql://\"", 1, "expected \"sqlite\" or"),
        ("standby = false\nstandby = false", 2, "duplicate key"),
        ("standby = false\nx = ", 2, ""),
        ("[tls]\nkey = \"/k\"", 2, "tls.key: needs tls.certificate"),
        ("[tls]\ncertificate = \"/c\"", 2, "tls.certificate: needs tls.key"),
        ("[tls]\nauthority_keys = [\"/k\"]", 2, "more than tls.authorities"),
        ("[tls]\nauthorities = [\"/absent.pem\"]", 2, "there is no such file"),
        ("[oidc]\nname = \"x\"", 1, "expected a sequence"),
        ("standby = false\n[[oidc]]\nname = \"forge\"", 2, "missing field"),
        (
            "[[oidc]]\nname = \"f\"\nissuer = \"i\"\naudiences = [\"a\"]\nrules = []\njwks = 1",
            6,
            "unknown field",
        ),
    ];
    for (text, line, why) in cases {
        refuses(here, text, line, why);
    }
    refuses(here, b"standby = false\n# \xff\xfe\n", 2, "is not UTF-8");
    refuses(here, vec![b'#'; 10 << 20], 0, "is larger than 1024 KiB");
    let (code, _, said) = run(program(here).arg("check-config").arg(here.join("absent.toml")));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("absent.toml: cannot be read"), "{said}");
    assert_eq!(checked(here, "[workers]\naway = \"5m\"\n").0, Some(0));
}

#[test]
fn issuers_that_would_let_strangers_in_are_refused_with_their_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let jwks = directory.path().join("jwks.json");
    std::fs::write(&jwks, "{\"keys\": []}").expect("a file");
    let issuer = |name: &str, pattern: &str, jwks: &Path| {
        format!(
            "[[oidc]]\nname = \"{name}\"\nissuer = \"https://{name}.example\"\naudiences = [\"fleet\"]\njwks_file = {jwks:?}\n\
             rules = [{{ role = \"submit\", claims = {{ repository = [\"{pattern}\"] }} }}]\n"
        )
    };
    let good = issuer("forge", "owner/*", &jwks);
    assert_eq!(checked(directory.path(), &good).0, Some(0));
    refuses(
        directory.path(),
        format!("# one\n{}", issuer("forge", "*", &jwks)),
        2,
        "a rule must name the owner",
    );
    refuses(directory.path(), format!("{good}{good}"), 7, "is given twice");
    refuses(directory.path(), issuer("forge", "owner/*", Path::new("/absent")), 1, "there is no such file");
}

/// A file of another mode.
fn with_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("our file");
}

#[test]
fn keys_that_others_could_read_or_exchange_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let ca = directory.path().join("ca");
    std::fs::create_dir(&ca).expect("a directory");
    let authority = Authority::open(&ca, unix_now()).expect("a CA");
    let pem = ca.join("authority.pem");
    let with = |authority: &Path, key: &Path| {
        format!("[tls]\nauthorities = [{authority:?}]\nauthority_keys = [{key:?}]\n")
    };
    assert_eq!(checked(directory.path(), with(&pem, &pem)).0, Some(0));
    with_mode(&pem, 0o644);
    refuses(directory.path(), with(&pem, &pem), 2, "others can read or change this private key");
    with_mode(&pem, 0o600);
    let link = directory.path().join("link.pem");
    symlink(&pem, &link).expect("a link");
    refuses(directory.path(), with(&pem, &link), 2, "is a symbolic link");
    // A leaf where a CA is needed, and a CA without its key.
    let leaf = directory.path().join("leaf.pem");
    let made = client(&authority, "c", Role::Read, unix_now());
    let only_leaf = fleet_identity::Credentials { authorities: Vec::new(), ..made };
    only_leaf.write(&leaf).expect("a file");
    refuses(directory.path(), with(&leaf, &leaf), 2, "is not the certificate of a CA");
    refuses(directory.path(), format!("[tls]\nauthorities = [{pem:?}]\n"), 2, "lacks its key");
    // The server's certificate: with another's key, and being the CA itself.
    let server = authority.make_server(unix_now(), &["localhost".to_owned()]).expect("a certificate");
    let (chain, key) = (directory.path().join("server.pem"), directory.path().join("server.key"));
    server.write(&chain).expect("a file");
    only_leaf.write(&key).expect("a file");
    let port = |chain: &Path, key: &Path| format!("[tls]\ncertificate = {chain:?}\nkey = {key:?}\n");
    refuses(directory.path(), port(&chain, &key), 2, "is not the key of the server's certificate");
    refuses(directory.path(), port(&pem, &pem), 2, "it begins with a CA's");
    server.write(&key).expect("a file");
    assert_eq!(checked(directory.path(), port(&chain, &key)).0, Some(0));
    with_mode(&key, 0o640);
    assert_eq!(checked(directory.path(), port(&chain, &key)).0, Some(0), "a group may read it");
    with_mode(&key, 0o604);
    refuses(directory.path(), port(&chain, &key), 2, "others can read or change");
}

#[test]
fn a_file_with_a_password_is_nobody_else_s() {
    let directory = tempfile::tempdir().expect("a directory");
    let text = "journal = \"postgres://fleet:secret@db/fleet\"\n";
    let file = directory.path().join("coordinator.toml");
    std::fs::write(&file, text).expect("a file");
    with_mode(&file, 0o644);
    refuses(directory.path(), text, 1, "it holds a password");
    with_mode(&file, 0o600);
    let (code, said, _) = run(program(directory.path()).arg("--config").arg(&file).args(["config", "show"]));
    assert_eq!(code, Some(0));
    assert!(said.contains("postgres://fleet:***@db/fleet") && !said.contains("secret"), "{said}");
}

#[test]
fn each_value_names_its_origin_and_the_nearest_wins() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("c.toml");
    std::fs::write(&file, "state_dir = \"/file\"\n[workers]\naway = \"3m\"\npatience = \"4m\"\n")
        .expect("a file");
    let mut command = program(directory.path());
    command.env("FLEET_CONFIG", &file).env("FLEET_WORKERS_AWAY", "7m").env("FLEET_STATE_DIR", "/environment");
    command.args(["--state-dir", "/flag", "--set", "runs.max=3", "config", "show"]);
    let (code, said, error) = run(&mut command);
    assert_eq!(code, Some(0), "{error}");
    let value = |key: &str| {
        let line = said.lines().find(|line| line.split_whitespace().next() == Some(key));
        line.expect(key).split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(value("state_dir"), "/flag --state-dir");
    assert_eq!(value("workers.away"), "7m FLEET_WORKERS_AWAY");
    assert_eq!(value("workers.patience"), format!("4m {}:4", file.display()));
    assert_eq!(value("runs.max"), "3 --set");
    assert_eq!(value("workers.heartbeat"), "10s default");
    let (code, _, error) =
        run(program(directory.path()).env("FLEET_RUNS_MAX", "no").args(["config", "show"]));
    assert_eq!(code, Some(2));
    assert!(error.contains("FLEET_RUNS_MAX: runs.max: expected a whole number"), "{error}");
    let (code, _, error) = run(program(directory.path()).args(["--set", "runs.maximum=3", "config", "show"]));
    assert_eq!(code, Some(2));
    assert!(error.contains("--set: there is no setting \"runs.maximum\""), "{error}");
}

#[test]
fn the_documentation_lists_every_setting_with_its_default() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/coordinator.md");
    let text = std::fs::read_to_string(page).expect("the page");
    assert!(text.contains(&reference()), "docs/coordinator.md is to contain:\n{}", reference());
}

#[tokio::test]
async fn a_reload_takes_what_is_right_and_keeps_the_old_on_error() {
    let running = Running::start();
    let token = running.client_token("reader", fleet_wire::v1::Role::Read).await;
    running.configure("[server]\nmax_anonymous = 1\nmax_streams = 7\n");
    running.signal("HUP");
    running.wait_for("server.max_streams has changed, which counts from the next start on");
    running.wait_for("settings read again");
    let first = running.remote(None);
    let served = list_runs(first.clone(), Some(&token)).await;
    assert_ne!(served, tonic::Code::Unavailable);
    assert_eq!(list_runs(running.remote(None), Some(&token)).await, tonic::Code::Unavailable, "a second one");

    running.configure("[server]\nmax_anonymous = 64\nmax_streems = 7\n");
    running.signal("HUP");
    let said = running.wait_for("the old ones stay");
    assert!(said.contains("coordinator.toml:5: there is no setting"), "{said}");
    assert_eq!(list_runs(first.clone(), Some(&token)).await, served);
    assert_eq!(
        list_runs(running.remote(None), Some(&token)).await,
        tonic::Code::Unavailable,
        "the old limit"
    );

    running.configure("[server]\nmax_anonymous = 2\n");
    running.signal("HUP");
    running.wait_for("settings read again");
    assert_eq!(list_runs(running.remote(None), Some(&token)).await, served, "one more");
}

#[test]
fn the_service_manager_hears_of_its_life() {
    let directory = tempfile::tempdir().expect("a directory");
    let manager = Manager::new(directory.path());
    let mut running = Running::start_with("", |command| {
        command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "200000");
    });
    let ready = manager.wait_for("READY=1");
    assert!(ready.contains("STATUS=listens on 127.0.0.1:"), "{ready}");
    manager.wait_for("WATCHDOG=1");
    manager.wait_for("WATCHDOG=1");
    running.signal("HUP");
    let reloading = manager.wait_for("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.wait_for("READY=1");
    running.signal("TERM");
    manager.wait_for("STOPPING=1");
    assert_eq!(running.end().code(), Some(0));
}

#[test]
fn a_second_coordinator_on_the_same_state_refuses() {
    let running = Running::start();
    let mut command = program(running.directory.path());
    let (code, _, said) = run(command.arg("--config").arg(running.directory.path().join("coordinator.toml")));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another coordinator listens on"), "{said}");
    assert!(running.socket().exists(), "the first one's socket is gone");
}
