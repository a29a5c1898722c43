//! What a daemon and its service manager (systemd) tell each other: ready, reloading, stopping, a status line, the
//! watchdog, SIGHUP. Without a manager all of it does nothing. Owns no state; decides nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The program serves; `status` is what a person sees.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What the program is about, for a person.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Settings are being read again; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no monotonic clock"),
    }
}

/// The program is about to end; `status` says why.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Tells the watchdog, if there is one, that the program lives, as often as it asks for: each time `lives` has
/// answered. Where it does not answer, the manager ends the program. To be spawned.
pub async fn watchdog<F: Future<Output = bool>>(mut lives: impl FnMut() -> F) {
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    // Twice as often as needed, so that one late wake-up harms nobody.
    let mut beat = tokio::time::interval((patience / 2).max(Duration::from_millis(1)));
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        if lives().await {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

/// SIGHUPs from now on: the wish that settings be read again. Must be called in a runtime.
///
/// # Errors
/// When the system does not let us listen for signals.
pub fn reload_signals() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
