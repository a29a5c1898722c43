//! The Nix text that evaluators are fed. Names are data: whatever stands in one, it stays inside its string.
//!
//! One line is one question, in printable ASCII only: the read loop treats control characters as editing keys.

use std::fmt::Write as _;

use super::{ConfigurationKind, HostAttr};

/// Evaluates to a message that no flake can forge: the nonce is unknown to it.
pub(super) fn announcement(nonce: &str, word: &str, number: u64, value: &str) -> String {
    format!("builtins.trace \"{nonce} {word} {number} ${{builtins.toJSON ({value})}}\" null")
}

/// A line that does nothing by itself, and makes a syntax error of any expression it is appended to.
///
/// Nix 2.26 (2.34 no more) takes an unexpected end of *any* file for an unfinished line of its own, and
/// would wait for the rest of it forever.
pub(super) const SEPARATOR: &str = ":p null";

/// Whether an error is what [`SEPARATOR`] makes of a line that Nix thought unfinished.
pub(super) fn is_misread(error: &str) -> bool {
    error.contains("unexpected ':'") && error.contains("«string»:2:1")
}

/// The flake, locked.
pub(super) fn flake(reference: &str) -> String {
    format!("builtins.getFlake {}", text(reference))
}

/// The names of a kind's configurations, for a flake that is in scope as `flake`.
pub(super) fn names(kind: ConfigurationKind) -> String {
    format!("builtins.attrNames (flake.{} or {{ }})", kind.attribute())
}

/// What [`super::said::ToplevelSaid`] reads, for a flake that is in scope as `flake`.
pub(super) fn toplevel(host: &HostAttr) -> String {
    let configuration = format!("flake.{}.${{{}}}", host.kind.attribute(), text(&host.name));
    let toplevel = match host.kind {
        ConfigurationKind::Nixos => format!("{configuration}.config.system.build.toplevel"),
        ConfigurationKind::Darwin => {
            format!("(let host = {configuration}; in host.system or host.config.system.build.toplevel)")
        }
        ConfigurationKind::Home => format!("{configuration}.activationPackage"),
    };
    format!("let top = {toplevel}; in {{ drv = top.drvPath; name = top.outputName; out = top.outPath; }}")
}

/// An expression for a string, whatever is in it.
fn text(value: &str) -> String {
    let mut json = String::with_capacity(value.len() + 2);
    for unit in value.encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte) if (byte.is_ascii_graphic() || byte == b' ') && !b"\"\\$".contains(&byte) => {
                json.push(char::from(byte));
            }
            // The reader of JSON, not of Nix, undoes this one: Nix itself has no escape for most characters.
            _ => {
                let _ = write!(json, "\\\\u{unit:04x}");
            }
        }
    }
    format!("(builtins.fromJSON \"\\\"{json}\\\"\")")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_string_or_its_line() {
        for name in ["\"; abort \"x", "${abort \"x\"}", "a\\", "a\nb\tc\u{1b}d", "é\u{1f980}", "''", "$${x}"]
        {
            let expression = text(name);
            assert!(expression.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{expression}");
            let inner = expression
                .strip_prefix("(builtins.fromJSON \"\\\"")
                .and_then(|rest| rest.strip_suffix("\\\"\")"))
                .expect("the frame around the name");
            assert!(!inner.contains('"') && !inner.contains('$'), "{inner}");
            let undone: String =
                serde_json::from_str(&format!("\"{}\"", inner.replace("\\\\", "\\"))).expect("JSON");
            assert_eq!(undone, name);
        }
    }
}
