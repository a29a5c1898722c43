//! What programs say of themselves: log set-up, errors with their causes, stopping on signals, and what a service
//! manager wants to hear.
//!
//! Owns the process-wide log subscriber and nothing else. Decides nothing.

pub mod service;

use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Sends logs to standard error, coloured on a terminal unless `NO_COLOR`, filtered by `FLEET_LOG`, else by `default`. To be called once, by `main`.
pub fn log_to_stderr(default: &str) {
    let filter = EnvFilter::try_from_env("FLEET_LOG").unwrap_or_else(|_| default.into());
    let colour =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr).init();
}

/// An error and its causes in one sentence. Some errors tell their cause themselves: it is not told twice.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

/// The end of a daemon's `main`: an error is logged with its causes.
pub fn exit_code(result: Result<(), Box<dyn Error>>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Cancelled by the first SIGINT or SIGTERM. Must be called in a runtime.
///
/// # Errors
/// When the system does not let us listen for signals.
pub fn stop_on_signal() -> std::io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stopping.cancel();
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug)]
    struct Outer(&'static str, io::Error);

    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.1)
        }
    }

    #[test]
    fn a_cause_is_told_once() {
        let full = || io::Error::other("the disk is full");
        assert_eq!(with_causes(&Outer("cannot write", full())), "cannot write: the disk is full");
        let told = Outer("cannot write: the disk is full", full());
        assert_eq!(with_causes(&told), "cannot write: the disk is full");
    }

    #[tokio::test]
    async fn a_signal_stops() {
        let stop = stop_on_signal().expect("listens");
        let kill =
            std::process::Command::new("kill").args(["-TERM", &std::process::id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
        stop.cancelled().await;
    }
}
