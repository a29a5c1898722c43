//! The one table of settings: name, meaning, kind, place in [`Config`]. The file, the environment, flags, `config
//! show` and the documentation all follow from it.

use super::Config;
use std::fmt::Write;

use super::value::{
    Address, Bytes, Count, Flag, HostName, JournalKind, Kind, Maybe, Millis, ObjectPlace, Place, Seconds,
    Secret, Several, Trusted, Value,
};

/// One setting.
pub(super) struct Setting {
    /// Its name in the file, with its table.
    pub(super) key: &'static str,
    /// What it is for, in a sentence.
    pub(super) about: &'static str,
    /// What a reload does with it.
    pub(super) change: Change,
    /// Its value as written in a file, without quotes.
    pub(super) show: fn(&Config) -> String,
    /// Reads it, or says what was expected.
    pub(super) set: fn(&mut Config, &Value) -> Result<(), String>,
    /// Copies it from one configuration to another.
    pub(super) keep: fn(&Config, &mut Config),
}

/// What SIGHUP does with a changed setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It counts from then on.
    AtOnce,
    /// It waits for the next start.
    AtStart,
}

impl Setting {
    /// The environment variable that overrides the file.
    pub(super) fn variable(&self) -> String {
        format!("FLEET_{}", self.key.replace('.', "_").to_uppercase())
    }
}

macro_rules! settings {
    ($($key:literal = $kind:ty, $change:ident, $($field:ident).+, $about:literal;)+) => {
        &[$(Setting {
            key: $key,
            about: $about,
            change: Change::$change,
            show: |config| <$kind as Kind<_>>::show(&config.$($field).+),
            set: |config, value| {
                config.$($field).+ = <$kind as Kind<_>>::read(value)?;
                Ok(())
            },
            keep: |from, to| to.$($field).+.clone_from(&from.$($field).+),
        }),+]
    };
}

/// All settings but `[[oidc]]`, in the order in which they are shown.
pub(super) const SETTINGS: &[Setting] = settings! {
    "state_dir" = Place, AtStart, state_dir,
        "Where logs, the journal, the coordinator's own CA and by default chunks live.";
    "objects" = Maybe<ObjectPlace>, AtStart, objects,
        "Where chunks and manifests are kept: a directory, or `s3://BUCKET/PREFIX` with credentials, region and endpoint from the `AWS_*` environment. Empty: `objects` in `state_dir`.";
    "socket" = Maybe<Place>, AtStart, server.socket,
        "The Unix socket for this machine; its peers may do everything. Empty: `coordinator.sock` in `state_dir`.";
    "listen" = Maybe<Address>, AtStart, server.listen,
        "The TCP address for other machines, as in `[::]:7143`. Empty: none.";
    "names" = Several<HostName>, AtStart, server.names,
        "DNS names and IP addresses in the server's certificate, besides `localhost` and the host's own name.";
    "journal" = JournalKind, AtStart, journal,
        "`sqlite` for a file in `state_dir`, or `postgres://USER@HOST/DATABASE`.";
    "standby" = Flag, AtStart, standby,
        "Wait while another coordinator has the journal, and take over when it ends.";
    "upload_outputs" = Flag, AtStart, upload_outputs,
        "Workers upload what they build, so that others can use it.";
    "internal_keys" = Several<Secret>, AtStart, internal_keys,
        "Secret keys (`nix key generate-secret`) by which workers know what the coordinator says of paths; the first signs, a second is believed while they change. Empty: one that is made in `state_dir`.";
    "tls.authorities" = Several<Place>, AtOnce, server.tls.authorities,
        "PEM files of the CAs that clients and workers are trusted by, newest first. Empty: an own CA in `state_dir`.";
    "tls.authority_keys" = Several<Place>, AtOnce, server.tls.authority_keys,
        "PEM files of their keys in the same order (may be the same files); the coordinator signs with the first.";
    "tls.certificate" = Maybe<Place>, AtOnce, server.tls.certificate,
        "PEM file of the server's certificate and its CA's. Empty: one signed by the CA.";
    "tls.key" = Maybe<Place>, AtOnce, server.tls.key,
        "PEM file of the key of `certificate`.";
    "limits.timeout" = Maybe<Seconds>, AtStart, fleet.limits.timeout_s,
        "Wall time of one attempt of a step, unless its run says otherwise. Empty: no limit, as for those below.";
    "limits.max_silent" = Maybe<Seconds>, AtStart, fleet.limits.max_silent_s,
        "Time without output of one attempt of a step.";
    "limits.max_log" = Maybe<Bytes>, AtStart, fleet.limits.max_log_bytes,
        "Log of one attempt of a step.";
    "limits.max_output" = Maybe<Bytes>, AtStart, fleet.limits.max_output_bytes,
        "NAR sizes of all outputs of a step together.";
    "runs.max" = Count, AtStart, fleet.max_runs,
        "Runs at a time; a further one is refused.";
    "runs.max_hosts" = Count, AtStart, fleet.max_hosts,
        "Hosts of one run.";
    "runs.max_steps" = Count, AtStart, fleet.max_steps,
        "Derivations known at a time.";
    "runs.deadline" = Millis, AtStart, fleet.run_deadline_ms,
        "How long a run may take as a whole.";
    "runs.remember_failures" = Count, AtStart, fleet.remember_failures,
        "Failed steps that later runs believe to fail again.";
    "workers.max" = Count, AtStart, fleet.max_workers,
        "Workers connected at a time.";
    "workers.heartbeat" = Millis, AtStart, heartbeat_ms,
        "How often workers say how they are; at most `10s`, for a lost one is noticed within 30 s.";
    "workers.away" = Millis, AtStart, fleet.away_ms,
        "How long a worker that is away keeps its leases.";
    "workers.patience" = Millis, AtStart, fleet.unplaceable_after_ms,
        "How long work waits for a worker that can do it.";
    "workers.disk_floor" = Bytes, AtStart, fleet.disk_floor_bytes,
        "Room that stays free in a worker's store: what does not fit above it goes elsewhere, or waits.";
    "workers.disk_prior" = Bytes, AtStart, fleet.disk_prior_bytes,
        "Room that a step is taken to need, where none like it was built before.";
    "workers.infrastructure_attempts" = Count, AtStart, fleet.infrastructure_attempts,
        "Attempts a step gets when they fail through no fault of its own.";
    "workers.quarantine_after" = Count, AtStart, fleet.quarantine_after,
        "Steps that a worker may fail in a row through no fault of theirs before it is quarantined.";
    "workers.quarantine_rest" = Millis, AtStart, fleet.quarantine_rest_ms,
        "How long a quarantined worker rests before it is tried with one step.";
    "server.max_connections" = Count, AtOnce, server.max_connections,
        "Connections at a time.";
    "server.max_anonymous" = Count, AtOnce, server.max_anonymous,
        "Connections at a time from one address without a client certificate.";
    "server.max_handshakes" = Count, AtOnce, server.max_handshakes,
        "TLS handshakes at a time.";
    "server.handshake_within" = Millis, AtOnce, server.handshake_within_ms,
        "How long a connection may take for its TLS handshake, and then to begin HTTP/2.";
    "server.keepalive" = Millis, AtStart, server.keepalive_ms,
        "How often a silent peer is asked whether it lives, and how long it may take to answer; at most `10s`.";
    "server.max_streams" = Count, AtStart, server.max_streams,
        "Requests at a time on one connection.";
    "server.max_requests" = Count, AtOnce, server.max_requests,
        "Requests at a time of one client or worker over all its connections; for strangers, of one address.";
    "server.max_failed_enrolments" = Count, AtOnce, server.max_failed_enrolments,
        "Failed enrolments, and wrong passwords at the cache, of one address a minute; more are not looked at.";
    "cache.keys" = Several<Secret>, AtOnce, cache.keys,
        "Files of the keys that sign what the cache serves, as `nix key generate-secret` makes them: two while rotating. A plain name is a credential of the service manager. Empty: `cache-key` in `state_dir`, made at the first start.";
    "cache.public" = Flag, AtOnce, cache.public,
        "Anybody may read what is published. Otherwise: who has the role read.";
    "cache.priority" = Count, AtOnce, cache.priority,
        "How Nix ranks the cache among its others; the lower, the sooner.";
    "cache.upstream_keys" = Several<Trusted>, AtStart, cache.upstream_keys,
        "Public keys of caches that everybody has: what they signed is never brought here.";
    "retention.runs" = Count, AtStart, retention.runs,
        "Runs of each branch whose targets are kept, the last ones.";
    "retention.age" = Seconds, AtStart, retention.age_s,
        "How long every run's targets are kept.";
    "retention.grace" = Seconds, AtStart, retention.grace_s,
        "How long what nothing needs any more is still there.";
    "retention.every" = Seconds, AtStart, retention.every_s,
        "How often what nothing needs is looked for.";
};

/// The table of all settings for the documentation, in Markdown.
pub fn reference() -> String {
    let defaults = Config::of_program();
    let mut text = String::from("| setting | default | what it is for |\n|---|---|---|\n");
    for setting in SETTINGS {
        let default = match (setting.show)(&defaults) {
            empty if empty.is_empty() => String::new(),
            default => format!("`{default}`"),
        };
        let reload = if setting.change == Change::AtOnce { " ↻" } else { "" };
        // Writing to a text does not fail.
        let _ = writeln!(text, "| `{}`{reload} | {default} | {} |", setting.key, setting.about);
    }
    text
}

/// The setting of this name.
pub(super) fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}
