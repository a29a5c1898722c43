//! What one line of Nix's `--log-format internal-json` says to us: an announcement of ours, or text.

use serde::Deserialize;

use crate::plain_text::plain_text;

/// Nix prints these itself; user code's own output arrives inside a message.
const PREFIX: &[u8] = b"@nix ";
/// Verbosity of warnings: what is above it is chatter.
const WARNING: u64 = 1;

/// One line, understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A message that starts with our nonce.
    Announcement { word: String, number: u64, json: String },
    /// An error of an evaluation.
    Error(String),
    /// A warning, a trace, or what came past the log.
    Text(String),
    /// Activities, progress, greetings.
    Nothing,
}

#[derive(Deserialize)]
struct Record {
    action: String,
    #[serde(default)]
    level: u64,
    #[serde(default)]
    msg: String,
}

impl Said {
    /// Understands a line. Only a message that *starts* with the nonce is ours: anything else may be quoted.
    pub(super) fn parse(line: &[u8], nonce: &str) -> Said {
        let Some(json) = line.strip_prefix(PREFIX) else {
            // Nix's last words before it gives up arrive outside the log.
            return Said::of(plain_text(line));
        };
        let Ok(record) = serde_json::from_slice::<Record>(json) else {
            return Said::Text(plain_text(json));
        };
        if record.action != "msg" || record.level > WARNING {
            return Said::Nothing;
        }
        if let Some(announcement) = announcement(&record.msg, nonce) {
            return announcement;
        }
        Said::of(plain_text(&record.msg))
    }

    fn of(text: String) -> Said {
        if text.starts_with("error:") { Said::Error(text) } else { Said::Text(text) }
    }
}

fn announcement(message: &str, nonce: &str) -> Option<Said> {
    let rest = message.strip_prefix("trace: ")?.strip_prefix(nonce)?.strip_prefix(' ')?;
    let (word, rest) = rest.split_once(' ')?;
    let (number, json) = rest.split_once(' ')?;
    Some(Said::Announcement { word: word.to_owned(), number: number.parse().ok()?, json: json.to_owned() })
}

/// The value of a toplevel's announcement.
#[derive(Debug, Deserialize)]
pub(super) struct ToplevelSaid {
    pub(super) drv: String,
    pub(super) name: String,
    pub(super) out: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(message: &str) -> Said {
        let line = format!("@nix {}", serde_json::json!({ "action": "msg", "level": 0, "msg": message }));
        Said::parse(line.as_bytes(), "n0nce")
    }

    #[test]
    fn only_a_message_that_starts_with_the_nonce_is_an_announcement() {
        assert_eq!(
            said("trace: n0nce R 3 {\"a\":1}"),
            Said::Announcement { word: "R".into(), number: 3, json: "{\"a\":1}".into() }
        );
        for forged in ["trace: x n0nce R 3 1", "x\ntrace: n0nce R 3 1", "n0nce R 3 1", "trace: n0nceR 3 1"] {
            assert_eq!(said(forged), Said::Text(forged.into()), "{forged}");
        }
        assert_eq!(Said::parse(b"trace: n0nce R 3 1", "n0nce"), Said::Text("trace: n0nce R 3 1".into()));
    }

    #[test]
    fn errors_are_told_from_traces_and_chatter() {
        assert_eq!(said("\u{1b}[31;1merror:\u{1b}[0m no"), Said::Error("error: no".into()));
        assert_eq!(said("trace: error: no"), Said::Text("trace: error: no".into()));
        let chatter = br#"@nix {"action":"msg","level":2,"msg":"Nix 2.34.8"}"#;
        assert_eq!(Said::parse(chatter, "n"), Said::Nothing);
        assert_eq!(Said::parse(b"@nix {\"action\":\"start\",\"id\":1}", "n"), Said::Nothing);
        let last_words = "error: stack overflow (possible infinite recursion)";
        assert_eq!(Said::parse(last_words.as_bytes(), "n"), Said::Error(last_words.into()));
        assert_eq!(Said::parse(b"@nix {", "n"), Said::Text("{".into()));
        assert_eq!(Said::parse(b"\xff", "n"), Said::Text("\u{fffd}".into()));
    }
}
