//! Finds, in what Nix prints about an error, the one sentence that a person needs.
//!
//! Nix prints the outermost frame first and the error itself last. This knows the shapes of its messages
//! and guesses nothing: what it does not know stays in the trace.

/// Longest sentence.
const LIMIT: usize = 400;

/// The cause, without escapes, in one line.
pub(super) fn short_cause(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let Some(start) = lines.iter().rposition(|line| line.starts_with("error:")) else {
        return cut(lines.iter().find(|line| !line.is_empty()).copied().unwrap_or("no message"));
    };
    let first = lines[start].trim_start_matches("error:").trim();
    let body: Vec<&str> = std::iter::once(first)
        .chain(lines[start + 1..].iter().copied().take_while(|line| !is_frame(line)))
        .filter(|line| !line.is_empty())
        .collect();
    let location = lines[start + 1..].iter().find_map(|line| location(line));
    cut(&sentence(&body, location.as_deref()))
}

fn sentence(body: &[&str], location: Option<&str>) -> String {
    let Some((head, rest)) = body.split_first() else {
        return "an error without a message".to_owned();
    };
    let head = head.trim_end_matches([';', '.']);
    if let Some(introduction) = head.strip_suffix(':') {
        let items: Vec<&str> = rest.iter().filter_map(|line| line.strip_prefix("- ")).collect();
        let items = if items.is_empty() { rest.iter().take(1).copied().collect() } else { items };
        return format!("{introduction}: {}", items.join("; "));
    }
    if let Some(reason) = rest.iter().find_map(|line| line.strip_prefix("Reason: ")) {
        return format!("{head}: {}", reason.trim_end_matches('.'));
    }
    match location {
        Some(location) => format!("{head}, at {location}"),
        None => head.to_owned(),
    }
}

/// Whether a line belongs to the trace around a message.
fn is_frame(line: &str) -> bool {
    line.starts_with('…') || line.starts_with("(stack trace truncated") || position(line).is_some()
}

/// `at FILE:LINE:COLUMN:`
fn position(line: &str) -> Option<&str> {
    let place = line.strip_prefix("at ")?.strip_suffix(':')?;
    let mut numbers = place.rsplitn(3, ':');
    let numeric = |number: &str| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (numeric(numbers.next()?) && numeric(numbers.next()?)).then_some(place)
}

/// The place inside a source tree; our own lines are of no use to anybody.
fn location(line: &str) -> Option<String> {
    let place = position(line)?;
    let (_, inside) = place.rsplit_once("-source/")?;
    Some(inside.to_owned())
}

fn cut(sentence: &str) -> String {
    let sentence = sentence.trim();
    if sentence.chars().count() <= LIMIT {
        return sentence.to_owned();
    }
    let mut short: String = sentence.chars().take(LIMIT - 1).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::short_cause;

    const FRAMES: &str = "error:\n       … while calling the 'trace' builtin\n         at «string»:1:73:\n            \
                          1| let d = f.x; in null\n             |   ^\n\n       ";

    fn cause_of(message: &str) -> String {
        short_cause(&format!("{FRAMES}{message}"))
    }

    #[test]
    fn the_last_error_is_the_cause() {
        assert_eq!(cause_of("error: no such option"), "no such option");
        assert_eq!(
            cause_of("error: evaluation aborted with the following error message: 'stop here'"),
            "evaluation aborted with the following error message: 'stop here'"
        );
        assert_eq!(short_cause("error: only line."), "only line");
    }

    #[test]
    fn failed_assertions_are_all_named() {
        assert_eq!(
            cause_of(
                "error:\n       Failed assertions:\n       - The root file system is missing.\n       - No boot loader."
            ),
            "Failed assertions: The root file system is missing.; No boot loader."
        );
        assert_eq!(
            cause_of(
                "error: A definition for option `a.b' is not of type `string'. Definition values:\n       - In \
                 `/nix/store/x-source/a.nix': 42"
            ),
            "A definition for option `a.b' is not of type `string'. Definition values: In `/nix/store/x-source/a.nix': 42"
        );
    }

    #[test]
    fn a_place_in_the_flake_is_named_and_ours_is_not() {
        assert_eq!(
            cause_of(
                "error: attribute 'nope' missing\n       at /tmp/root/nix/store/r79-source/hosts/a.nix:15:23:\n           \
                 14|       x\n"
            ),
            "attribute 'nope' missing, at hosts/a.nix:15:23"
        );
        assert_eq!(
            cause_of("error: attribute 'config' missing\n       at «string»:1:9:\n"),
            "attribute 'config' missing"
        );
    }

    #[test]
    fn a_failed_build_says_why() {
        assert_eq!(
            cause_of(
                "error: Cannot build '/nix/store/x-ifd.drv'.\n       Reason: builder failed with exit code 3.\n"
            ),
            "Cannot build '/nix/store/x-ifd.drv': builder failed with exit code 3"
        );
        assert_eq!(
            cause_of(
                "error: builder for '/nix/store/x-ifd.drv' failed with exit code 3;\n       last 1 log lines:\n       > oops"
            ),
            "builder for '/nix/store/x-ifd.drv' failed with exit code 3"
        );
    }

    #[test]
    fn text_without_an_error_and_endless_errors_still_give_a_sentence() {
        assert_eq!(short_cause(""), "no message");
        assert_eq!(short_cause("\nterminate called"), "terminate called");
        assert_eq!(short_cause("error:"), "an error without a message");
        assert_eq!(short_cause("error: a list:"), "a list:");
        assert!(short_cause(&format!("error: {}", "é".repeat(10_000))).chars().count() <= 400);
    }
}
