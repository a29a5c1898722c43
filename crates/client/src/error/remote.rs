//! What to say when a coordinator cannot be reached, does not trust us, or says no.

use tonic::{Code, Status};

use super::{CliError, chain};
use crate::exit_code::Exit;
use crate::remote::{CredentialError, ReachError, Trouble, reason};

impl CliError {
    /// There must be a coordinator, and nobody named one.
    pub fn needs_coordinator(what: &str) -> Self {
        Self::new(format!("{what} needs a coordinator, and none is set")).next(
            "Name it with --coordinator https://HOST, in FLEET_COORDINATOR, or as coordinator = \"https://HOST\" in \
             fleet.toml; on its own machine unix:///var/lib/fleet-coordinator/coordinator.sock will do",
        )
    }

    /// A request failed; `what` says which, as the beginning of a sentence.
    pub fn of_status(what: &str, status: &Status) -> Self {
        let trouble = Trouble::of(status);
        let error = match trouble {
            // The words of a coordinator that answers come from it.
            Trouble::Unreachable if std::error::Error::source(status).is_none() => {
                Self::new(format!("{what}: {}", reason(status)))
                    .next("Try again in a moment; `fleetctl status` tells how it is")
            }
            Trouble::Unreachable => Self::new(reason(status))
                .next("Check that the coordinator runs, and its address: `fleetctl config show` names it"),
            Trouble::UnknownHost => Self::new(reason(status))
                .next("Check the coordinator's address: `fleetctl config show` names it, and where it comes from"),
            Trouble::Refused => refused(what, status),
            Trouble::Impostor => Self::new(reason(status)).next(
                "Give the certificate of the coordinator's authority with --ca or FLEET_CA, and check that the address \
                 is right",
            ),
            Trouble::Credentials => return credentials(status),
            Trouble::Answered if status.code() == Code::Unimplemented => {
                Self::new(format!("{what}: the coordinator does not know how"))
                    .next("Upgrade the coordinator, or use a fleetctl of its version")
            }
            Trouble::Answered => Self::new(format!("{what}: {}", status.message())),
        };
        error.exiting(exit(trouble))
    }

    /// The same for a request about one run.
    pub fn of_run_request(what: &str, run: &str, status: &Status) -> Self {
        match status.code() {
            Code::NotFound => Self::new(format!("the coordinator knows no run `{run}`"))
                .next("`fleetctl runs` lists those it knows"),
            _ => Self::of_status(what, status),
        }
    }

    /// Contact with a run was lost for too long, or for good.
    pub fn lost_sight(run: &str, status: &Status) -> Self {
        let trouble = Trouble::of(status);
        let why = reason(status);
        let error = match trouble {
            Trouble::Answered if status.code() == Code::NotFound => Self::of_run_request("", run, status),
            Trouble::Answered => Self::new(format!("lost sight of run {run}: {why}"))
                .next(format!("`fleetctl show {run}` tells how it is")),
            _ => Self::new(format!("lost sight of run {run}, which goes on: {why}"))
                .next(format!("Come back to it with `fleetctl attach {run}`")),
        };
        error.exiting(exit(trouble))
    }

    /// Cancelled, but its end was not seen.
    pub fn cancelled_unseen(run: &str) -> Self {
        Self::new(format!("run {run} is cancelled, but has not ended yet"))
            .next(format!("`fleetctl show {run}` tells when it has"))
            .exiting(Exit::Cancelled)
    }

    /// The coordinator did not hear that the run is to be cancelled.
    pub fn cancelled_unheard(run: &str) -> Self {
        Self::new(format!("the coordinator has not heard that run {run} is to be cancelled"))
            .next(format!("Run `fleetctl cancel {run}` when it can be reached"))
            .exiting(Exit::Cancelled)
    }

    /// Interrupted while the run was being submitted, and the answer never came.
    pub fn cancelled_unknown() -> Self {
        Self::new("the run may have been submitted, but the coordinator did not say so in time")
            .next("`fleetctl runs` lists it if it was, and `fleetctl cancel RUN` ends it")
            .exiting(Exit::Cancelled)
    }
}

fn exit(trouble: Trouble) -> Exit {
    match trouble {
        Trouble::Unreachable | Trouble::UnknownHost => Exit::Unreachable,
        Trouble::Refused | Trouble::Impostor | Trouble::Credentials => Exit::Refused,
        Trouble::Answered => Exit::Error,
    }
}

fn refused(what: &str, status: &Status) -> CliError {
    match status.code() {
        Code::PermissionDenied => CliError::new(format!("{what}: {}", status.message()))
            .next("Ask an administrator for a token or certificate whose role allows it"),
        Code::Unauthenticated => CliError::new(format!("the coordinator does not know who you are: {}", status.message()))
            .next(
                "Say it with --token-file or FLEET_TOKEN_FILE, or with --client-cert and --client-key; an administrator \
                 makes tokens with `fleetctl client token`",
            ),
        _ => CliError::new(format!("the coordinator refuses your certificate: {}", reason(status)))
            .next("Ask an administrator for a new one"),
    }
}

fn credentials(status: &Status) -> CliError {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let of_stream = error.downcast_ref::<ReachError>().and_then(|error| match error {
            ReachError::Credentials(error) => Some(error),
            _ => None,
        });
        if let Some(error) = of_stream.or_else(|| error.downcast_ref()) {
            return error.clone().into();
        }
        cause = error.source();
    }
    CliError::new(status.message()).exiting(Exit::Refused)
}

impl From<CredentialError> for CliError {
    fn from(error: CredentialError) -> Self {
        let next = match &error {
            CredentialError::File(_) | CredentialError::Own(_) => {
                "`fleetctl config show` names the files that tell who you are"
            }
            CredentialError::Nameless(..) => "An administrator makes a client's certificate or token",
            CredentialError::Lacks { .. } => "Give a PEM file with it",
            CredentialError::Token(_) => "Write the token as it was printed, on one line",
            CredentialError::Unusable(_) => "Check that --client-cert and --client-key belong together",
            CredentialError::NoAuthorities => "Give the coordinator's certificate authority with --ca",
        };
        Self::new(chain(&error)).next(next).exiting(Exit::Refused)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use fleet_identity::tls::TlsFailure;

    use super::*;

    fn caused_by(error: ReachError) -> Status {
        let mut status = Status::unavailable("transport error");
        status.set_source(Arc::new(error));
        status
    }

    fn said(status: &Status) -> String {
        let error = CliError::of_status("the run is not shown", status);
        format!("{} ({})", error.paragraph(), error.exit().code())
    }

    #[test]
    fn each_trouble_has_its_words_and_its_exit_code() {
        let endpoint = "https://build.example.org:7143".to_owned();
        let source = Arc::new(io::Error::from(io::ErrorKind::ConnectionRefused));
        insta::assert_snapshot!(said(&caused_by(ReachError::Connect { endpoint: endpoint.clone(), source })), @"error: cannot connect to https://build.example.org:7143: connection refused. Check that the coordinator runs, and its address: `fleetctl config show` names it. (5)");
        insta::assert_snapshot!(said(&caused_by(ReachError::Silent(endpoint.clone()))), @"error: https://build.example.org:7143 does not answer. Check that the coordinator runs, and its address: `fleetctl config show` names it. (5)");
        let source = TlsFailure::CoordinatorForeign;
        insta::assert_snapshot!(said(&caused_by(ReachError::Tls { endpoint: endpoint.clone(), source })), @"error: no secure connection to https://build.example.org:7143: the coordinator's certificate is of a CA that is not trusted here: is this the right coordinator? has its CA been replaced? Give the certificate of the coordinator's authority with --ca or FLEET_CA, and check that the address is right. (6)");
        let source = TlsFailure::OwnExpired;
        insta::assert_snapshot!(said(&caused_by(ReachError::Tls { endpoint, source })), @"error: the coordinator refuses your certificate: no secure connection to https://build.example.org:7143: your certificate has expired: enrol or have it made again. Ask an administrator for a new one. (6)");
        insta::assert_snapshot!(said(&caused_by(ReachError::Credentials(CredentialError::NoAuthorities))), @"error: this machine has no list of certificate authorities. Give the coordinator's certificate authority with --ca. (6)");
        insta::assert_snapshot!(said(&Status::unauthenticated("no certificate and no token")), @"error: the coordinator does not know who you are: no certificate and no token. Say it with --token-file or FLEET_TOKEN_FILE, or with --client-cert and --client-key; an administrator makes tokens with `fleetctl client token`. (6)");
        insta::assert_snapshot!(said(&Status::permission_denied("role read does not allow Submit")), @"error: the run is not shown: role read does not allow Submit. Ask an administrator for a token or certificate whose role allows it. (6)");
        insta::assert_snapshot!(said(&Status::unavailable("read-only: the disk of the journal is full")), @"error: the run is not shown: read-only: the disk of the journal is full. Try again in a moment; `fleetctl status` tells how it is. (5)");
        insta::assert_snapshot!(said(&Status::unimplemented("")), @"error: the run is not shown: the coordinator does not know how. Upgrade the coordinator, or use a fleetctl of its version. (1)");
        insta::assert_snapshot!(said(&Status::not_found("no run run-7")), @"error: the run is not shown: no run run-7. (1)");
    }

    #[test]
    fn whoever_loses_sight_of_a_run_learns_how_to_come_back() {
        let lost = |status| CliError::lost_sight("run-7", &status).paragraph();
        insta::assert_snapshot!(lost(Status::unavailable("its events ended early")), @"error: lost sight of run run-7, which goes on: its events ended early. Come back to it with `fleetctl attach run-7`.");
        insta::assert_snapshot!(lost(Status::unauthenticated("the token has expired")), @"error: lost sight of run run-7, which goes on: the token has expired. Come back to it with `fleetctl attach run-7`.");
        insta::assert_snapshot!(lost(Status::not_found("no run run-7")), @"error: the coordinator knows no run `run-7`. `fleetctl runs` lists those it knows.");
    }
}
