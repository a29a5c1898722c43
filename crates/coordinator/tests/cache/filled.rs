//! A coordinator that has published a closure of real store paths.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use fleet_nix::{NarHash, base64};
use fleet_store::{Level, Manifest, Objects, Piece, Place, Sealer, cut};
use fleet_testkit::NixDaemon;
use fleet_wire::v1;
use prost::Message as _;
use serde_json::Value;
use tempfile::TempDir;

use crate::running::{Running, within};

/// Two paths, the second of which refers to the first and to itself; the first fills several chunks.
const EXPRESSION: &str = r#"
let
  build = name: script: derivation {
    inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ];
  };
  library = build "library" ''
    line() { echo "$1 is a line of a library that is long enough to be cut into chunks of its own"; }
    i=0; while [ $i -lt 12000 ]; do line $i$i$i; i=$((i+1)); done > $out
  '';
in build "program" "echo needs ${library} and $out > $out"
"#;

/// A daemon that has built something.
pub(crate) struct Built {
    pub(crate) daemon: NixDaemon,
    /// The program, as `/nix/store/…`.
    pub(crate) program: String,
    /// What `nix path-info` says of it and of the library.
    pub(crate) infos: Vec<(String, Value)>,
}

impl Built {
    pub(crate) fn new() -> Self {
        let daemon = NixDaemon::start_default();
        let program = daemon.build_expression(EXPRESSION).pop().expect("one output");
        Self::look(daemon, program)
    }

    /// One file of so many bytes without a pattern.
    pub(crate) fn added(length: usize) -> Self {
        let daemon = NixDaemon::start_default();
        let file = daemon.scratch().join("noise");
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        let noise: Vec<u8> = (0..length / 8).flat_map(|_| next()).collect();
        std::fs::write(&file, noise).expect("a file");
        let path = daemon.nix_stdout(["store".as_ref(), "add-file".as_ref(), file.as_os_str()]);
        Self::look(daemon, path)
    }

    fn look(daemon: NixDaemon, program: String) -> Self {
        let json = daemon.nix_stdout(["path-info", "--json", "--recursive", &program]);
        let Ok(Value::Object(infos)) = serde_json::from_str(&json) else { panic!("not an object: {json}") };
        Self { daemon, program, infos: infos.into_iter().collect() }
    }

    /// The archive of a path.
    pub(crate) fn nar(&self, path: &str) -> Vec<u8> {
        let mut dump =
            self.daemon.command("nix-store", ["--dump".as_ref(), self.daemon.physical(path).as_os_str()]);
        let output = dump.output().expect("nix-store starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// The path that is not the program.
    pub(crate) fn library(&self) -> String {
        self.infos
            .iter()
            .map(|(path, _)| path)
            .find(|path| **path != self.program)
            .expect("two paths")
            .clone()
    }
}

pub(crate) fn hash_part(path: &str) -> &str {
    &path["/nix/store/".len()..][..32]
}

fn base_name(path: &str) -> String {
    path["/nix/store/".len()..].to_owned()
}

/// Publishes all paths in the object store of a coordinator that does not run yet.
pub(crate) async fn publish(objects: &Path, built: &Built) {
    let objects = Objects::open(&Place::Directory(objects.to_owned())).expect("a store");
    let mut sealer = Sealer::new(Level::Dense).expect("a sealer");
    for (path, info) in &built.infos {
        let nar = built.nar(path);
        let mut pieces = Vec::new();
        for chunk in cut(&nar[..]) {
            let chunk = chunk.expect("it is in memory");
            let frame = sealer.seal(&chunk).expect("a frame");
            let length = |bytes: usize| u32::try_from(bytes).expect("small");
            pieces.push(Piece {
                digest: chunk.digest,
                size: length(chunk.data.len()),
                frame: length(frame.len()),
            });
            objects.chunks().put(chunk.digest, frame).await.expect("it is kept");
        }
        let name = base_name(path);
        let manifest = Manifest { note: note(path, info, &nar), pieces };
        objects.manifests().keep(&name, &manifest).await.expect("it is kept");
    }
    for (path, _) in &built.infos {
        objects.published().set(&base_name(path)).await.expect("it is marked");
    }
}

fn note(path: &str, info: &Value, nar: &[u8]) -> Bytes {
    let text = |name: &str| info[name].as_str().map(str::to_owned);
    let references = info["references"].as_array().expect("references");
    let info = v1::PathInfo {
        path: base_name(path),
        nar_hash: NarHash::of(nar).0.to_vec().into(),
        nar_size: nar.len() as u64,
        references: references.iter().filter_map(Value::as_str).map(base_name).collect(),
        deriver: text("deriver").map(|deriver| base_name(&deriver)).unwrap_or_default(),
        ..v1::PathInfo::default()
    };
    let path = v1::StoredPath { info: Some(info), ..v1::StoredPath::default() };
    path.encode_to_vec().into()
}

/// A coordinator with these paths, and more lines in its file.
pub(crate) async fn serving(built: &Built, more: &str) -> Running {
    let directory = tempfile::tempdir().expect("a directory");
    publish(&directory.path().join("state/objects"), built).await;
    Running::start_in(directory, more, |_| {})
}

/// Lets everybody read.
pub(crate) const PUBLIC: &str = "[cache]\npublic = true\n";

/// The coordinator's CA, as curl wants it.
pub(crate) fn authority_file(running: &Running, directory: &TempDir) -> String {
    let block = |der: &[u8]| {
        let text = base64::encode(der);
        let lines: Vec<&str> =
            (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    };
    let pem: String = running.authority().certificates().iter().map(|der| block(der)).collect();
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, pem).expect("a file");
    file.display().to_string()
}

/// The URL that Nix takes.
pub(crate) fn url(running: &Running) -> String {
    format!("https://localhost:{}", running.address.port())
}

/// The public key that the coordinator made for itself.
pub(crate) fn own_key(running: &Running) -> String {
    let text = std::fs::read_to_string(running.state().join("cache-key")).expect("it made one");
    let key: fleet_nix::SecretKey = text.parse().expect("a key");
    key.public_key().to_string()
}

/// A netrc file with a token as password.
pub(crate) fn netrc(directory: &TempDir, token: &str) -> String {
    let file = directory.path().join("netrc");
    std::fs::write(&file, format!("machine localhost login fleet password {token}\n")).expect("a file");
    file.display().to_string()
}

/// Runs a command off the test's thread: the coordinator is a process, its helpers here are tasks.
pub(crate) async fn run(mut command: Command) -> (bool, String) {
    let output = within(tokio::task::spawn_blocking(move || command.output())).await;
    let output = output.expect("it is not cancelled").expect("the command starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}
