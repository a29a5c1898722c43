//! Real daemons, archives and derivations for the tests of the daemon client.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use fleet_nix::addressing::References;
use fleet_nix::daemon::{Daemon, DaemonAddress, LogEvent};
use fleet_nix::nar::NarWriter;
use fleet_nix::{
    BasicDerivation, ContentAddress, ContentAddressMethod, Derivation, NarHash, PathInfo, StoreDir,
    StorePath, source_path,
};
use fleet_testkit::NixDaemon;

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) fn store() -> StoreDir {
    StoreDir::default()
}

pub(crate) fn address(daemon: &NixDaemon) -> DaemonAddress {
    DaemonAddress::from_store_uri(&daemon.store_uri()).expect("the test kit's URI is understood")
}

pub(crate) async fn connect(daemon: &NixDaemon) -> Daemon {
    Daemon::connect(&address(daemon)).await.expect("the daemon greets")
}

/// The archive of one file.
pub(crate) fn file_nar(contents: &[u8]) -> Vec<u8> {
    let mut writer = NarWriter::new(Vec::new()).expect("in memory");
    writer.file(false, contents.len() as u64, contents).expect("in memory");
    writer.finish().expect("a whole archive")
}

/// A content-addressed path of this archive.
pub(crate) fn source_info(name: &str, nar: &[u8], references: &BTreeSet<StorePath>) -> PathInfo {
    let nar_hash = NarHash::of(nar);
    let others = References { others: references.clone(), to_self: false };
    PathInfo {
        path: source_path(&store(), name, nar_hash, &others).expect("a valid name"),
        deriver: None,
        nar_hash,
        references: references.clone(),
        registration_time: 0,
        nar_size: nar.len() as u64,
        ultimate: false,
        signatures: Vec::new(),
        content_address: Some(ContentAddress {
            method: ContentAddressMethod::NixArchive,
            hash: nar_hash.to_hash(),
        }),
    }
}

/// A derivation whose builder is the sandbox's shell.
pub(crate) fn shell_derivation(name: &str, attributes: &str, script: &str) -> String {
    format!(
        "derivation ({{ name = \"{name}\"; system = builtins.currentSystem; builder = \"/bin/sh\"; \
         args = [ \"-c\" ''{script}'' ]; }} // {{ {attributes} }})"
    )
}

/// A builder that says `started` in the journal and then runs until it is ended.
pub(crate) const ENDLESS: &str = "echo started > /journal; while true; do read -t 1000 x <&2; done";

/// Instantiates an expression in the daemon's store.
pub(crate) fn instantiate(daemon: &NixDaemon, expression: &str) -> StorePath {
    store().parse(&daemon.instantiate(expression)).expect("a store path")
}

/// Instantiates an expression and resolves it; output paths of its inputs must be known before they are built.
pub(crate) fn basic_derivation(daemon: &NixDaemon, expression: &str) -> (StorePath, BasicDerivation) {
    let drv = instantiate(daemon, expression);
    let basic = read_derivation(daemon, &drv)
        .resolve(&store(), |drv, output| read_derivation(daemon, drv).output_path(output).cloned())
        .expect("input paths are known");
    (drv, basic)
}

pub(crate) fn read_derivation(daemon: &NixDaemon, drv: &StorePath) -> Derivation {
    let bytes = std::fs::read(daemon.physical(&store().print(drv))).expect("the derivation is in the store");
    Derivation::parse(&store(), drv.derivation_name().expect("a derivation"), &bytes).expect("it is valid")
}

/// Keeps all events.
pub(crate) fn collect(events: &mut Vec<LogEvent>) -> impl FnMut(LogEvent) -> ControlFlow<()> + Send {
    |event| {
        events.push(event);
        ControlFlow::Continue(())
    }
}

/// Log lines by activity.
pub(crate) fn log_lines(events: &[LogEvent]) -> BTreeMap<u64, Vec<String>> {
    let mut lines = BTreeMap::<u64, Vec<String>>::new();
    for event in events {
        if let LogEvent::BuildLogLine { activity, line } = event {
            lines.entry(*activity).or_default().push(String::from_utf8_lossy(line).into_owned());
        }
    }
    lines
}

/// Waits for a line in the journal without holding up the runtime.
pub(crate) async fn journal_says(daemon: &std::sync::Arc<NixDaemon>, wanted: &'static str) {
    let daemon = std::sync::Arc::clone(daemon);
    let heard = move || daemon.journal().wait_for(PATIENCE, |line| line == wanted).is_some();
    assert!(tokio::task::spawn_blocking(heard).await.expect("it waits"), "the builder said {wanted}");
}
