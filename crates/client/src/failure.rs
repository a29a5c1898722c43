//! Nix's own words for a failed build, as one sentence. Nix names the derivation, lists outputs and repeats the log;
//! all of that is told elsewhere, so what stays is why.
//!
//! Pure. Knows the forms of Nix 2.18 to 2.35; a message of another form keeps its first line.

use fleet_wire::v1::{self, run_event::Event};

use crate::error::without_number;
use crate::progress::log_lines;

/// Makes the cause of whatever failed in this event one sentence. What is cut off becomes the detail where there is
/// none: a derivation that was refused has no log.
pub fn tidy(event: &mut v1::RunEvent) {
    let failure = match &mut event.event {
        Some(Event::StepFinished(finished)) => finished.failure.as_mut(),
        Some(Event::TargetSettled(settled)) => settled.failure.as_mut(),
        Some(Event::RunFinished(finished)) => finished.failure.as_mut(),
        _ => None,
    };
    let Some(failure) = failure else { return };
    let cause = one_sentence(&failure.cause);
    if failure.detail.trim().is_empty() && failure.cause.trim().contains('\n') {
        failure.detail.clone_from(&failure.cause);
    }
    failure.cause = cause;
}

/// The reason that a message gives, without the names of what failed.
pub fn one_sentence(message: &str) -> String {
    match message.strip_prefix(fleet_wire::EARLIER_CAUSE) {
        Some(then) => format!("{} (in an earlier run; --retry-failed builds it again)", one_sentence(then)),
        None => reason(message),
    }
}

fn reason(message: &str) -> String {
    let lines = log_lines(without_number(message).as_bytes());
    let lines: Vec<&str> = lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
    let reason = lines.iter().position(|line| line.starts_with("Reason: "));
    let sentence = match (reason, lines.first()) {
        (Some(at), _) => with_facts(lines[at].trim_start_matches("Reason: "), &lines[at + 1..]),
        (None, Some(first)) => with_facts(first, &lines[1..]),
        (None, None) => String::new(),
    };
    sentence.trim_end_matches([';', ':', '.', ' ']).to_owned()
}

/// Facts that Nix puts on lines of their own, one `name: value` each, and that the reason is nothing without.
const FACTS: [&str; 5] = ["specified:", "got:", "Required ", "Available ", "Current "];

fn with_facts(reason: &str, rest: &[&str]) -> String {
    let reason = without_names(reason.strip_prefix("error: ").unwrap_or(reason));
    let facts: Vec<String> = rest
        .iter()
        .take_while(|line| FACTS.iter().any(|fact| line.starts_with(fact)))
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| format!("{} {}", name.to_lowercase(), value.trim()))
        .collect();
    let reason = reason.trim_end_matches([';', ':', '.', ' ']);
    if facts.is_empty() { reason.to_owned() } else { format!("{reason}: {}", facts.join(", ")) }
}

/// `builder for '/nix/store/….drv' failed` is `builder failed`; likewise where an output should have been.
fn without_names(reason: &str) -> String {
    let mut reason = reason.to_owned();
    if !["build", "hash mismatch"].iter().any(|of_nix| reason.starts_with(of_nix)) {
        return reason;
    }
    for start in [" for '/nix/store/", " of '/nix/store/", " derivation '/nix/store/"] {
        let Some(at) = reason.find(start) else { continue };
        let path = at + start.len();
        let Some(length) = reason[path..].find('\'') else { continue };
        // What kind of derivation it is stays.
        let kept = if start.starts_with(" derivation") { at + " derivation".len() } else { at };
        reason.replace_range(kept..=path + length, "");
    }
    match reason.find(" at \"/") {
        Some(at) if reason.starts_with("builder failed") => reason[..at].to_owned(),
        _ => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRV: &str = "/nix/store/vk9ab2j6mk2a88nx127gy6725n8fmp75-code.drv";

    #[test]
    fn a_builders_exit_code_is_the_sentence() {
        let now = format!(
            "Cannot build '{DRV}'.\nReason: \x1b[31;1mbuilder failed with exit code 7\x1b[0m.\nOutput paths:\n  \
             /nix/store/xld07iiq8059zif2nzi38qhncqbccri5-code\nLast 1 log lines:\n> hi\nFor full logs, run:\n  nix \
             log {DRV}"
        );
        assert_eq!(one_sentence(&now), "builder failed with exit code 7");
        let before = format!(
            "builder for '{DRV}' failed with exit code 7;\nlast 1 log lines:\n> hi\nFor full logs, run 'nix log \
             {DRV}'."
        );
        assert_eq!(one_sentence(&before), "builder failed with exit code 7");
        let killed = format!("error: builder for '{DRV}' failed due to signal 9 (Killed)");
        assert_eq!(one_sentence(&killed), "builder failed due to signal 9 (Killed)");
        let dependency =
            format!("Cannot build '{DRV}'.\nReason: 1 dependency failed.\nOutput paths:\n  /nix/store/x");
        assert_eq!(one_sentence(&dependency), "1 dependency failed");
    }

    #[test]
    fn a_failure_of_an_earlier_run_says_how_to_try_again() {
        let message = format!(
            "{}Cannot build '{DRV}'.\nReason: builder failed with exit code 7.",
            fleet_wire::EARLIER_CAUSE
        );
        assert_eq!(
            one_sentence(&message),
            "builder failed with exit code 7 (in an earlier run; --retry-failed builds it again)"
        );
    }

    #[test]
    fn hashes_that_differ_are_both_told() {
        let message = format!(
            "hash mismatch in fixed-output derivation '{DRV}':\n         specified: sha256-AAA=\n            got:    \
             sha256-c8s="
        );
        assert_eq!(
            one_sentence(&message),
            "hash mismatch in fixed-output derivation: specified sha256-AAA=, got sha256-c8s="
        );
    }

    #[test]
    fn what_a_machine_lacks_is_told() {
        let features = format!(
            "Cannot build '{DRV}'.\nReason: missing system features\nRequired features: {{nope}}\nAvailable features: \
             {{kvm, benchmark}}"
        );
        assert_eq!(
            one_sentence(&features),
            "missing system features: required features {nope}, available features {kvm, benchmark}"
        );
        let system = format!(
            "Cannot build '{DRV}'.\nReason: platform mismatch\nRequired system: 'riscv64-linux'\nCurrent system: \
             'x86_64-linux'"
        );
        assert_eq!(
            one_sentence(&system),
            "platform mismatch: required system 'riscv64-linux', current system 'x86_64-linux'"
        );
    }

    #[test]
    fn timeouts_and_missing_outputs_keep_their_words() {
        assert_eq!(one_sentence("timed out after 2 seconds"), "timed out after 2 seconds");
        let before = format!("building of '{DRV}!out' timed out after 1 seconds of silence");
        assert_eq!(one_sentence(&before), "building timed out after 1 seconds of silence");
        let missing = format!(
            "builder for '{DRV}' failed to produce output path for output 'out' at \"/r/nix/store/x.chroot/root/nix\""
        );
        assert_eq!(one_sentence(&missing), "builder failed to produce output path for output 'out'");
    }

    #[test]
    fn one_sentence_stays_as_it_is() {
        for text in [
            "attribute 'x' missing, at flake.nix:21:20",
            "it's for 'web' at \"/x\"",
            "nothing for '/nix/store/x' to do",
            "builder for '/nix/store/x without an end",
            "",
        ] {
            assert_eq!(one_sentence(text), text);
        }
        assert_eq!(one_sentence("\n\n  first\nsecond"), "first");
    }

    #[test]
    fn what_is_cut_off_becomes_the_detail_only_where_there_is_none() {
        let event = |detail: &str| v1::RunEvent {
            event: Some(Event::StepFinished(v1::StepFinished {
                failure: Some(v1::Failure {
                    cause: "Cannot build 'x'.\nReason: platform mismatch".into(),
                    detail: detail.into(),
                    ..Default::default()
                }),
                ..Default::default()
            })),
            ..Default::default()
        };
        for (detail, expected) in
            [("", "Cannot build 'x'.\nReason: platform mismatch"), ("the log", "the log")]
        {
            let mut event = event(detail);
            tidy(&mut event);
            let Some(Event::StepFinished(finished)) = event.event else {
                unreachable!("it stays what it is")
            };
            let failure = finished.failure.expect("a failure");
            assert_eq!((&*failure.cause, &*failure.detail), ("platform mismatch", expected));
        }
    }
}
