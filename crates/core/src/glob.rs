//! Host globs: `*`, `?` and `[a-z]`, over whole names.
//!
//! Bounded in time and space: patterns come from clients. `*` is any number of characters, `?` exactly
//! one, `[…]` one of the characters and ranges listed, `[!…]` one that is not. A `[` that is never closed
//! stands for itself, and so does every other character, `\` included.

use crate::event::Selection;
use crate::id::Host;

/// Longest pattern and longest name that can match, in bytes.
const MAX_LENGTH: usize = 1_024;

/// Whether `selection` wants this host.
pub fn selects(selection: &Selection, host: &Host) -> bool {
    let named = |globs: &[std::sync::Arc<str>]| globs.iter().any(|glob| matches(glob, &host.name));
    selection.kinds.contains(&host.kind)
        && (selection.hosts.is_empty() || named(&selection.hosts))
        && !named(&selection.excludes)
}

/// Whether `pattern` matches all of `text`. Nothing longer than a kibibyte matches or is matched.
pub fn matches(pattern: &str, text: &str) -> bool {
    if pattern.len() > MAX_LENGTH || text.len() > MAX_LENGTH {
        return false;
    }
    let pieces = parse(pattern);
    let text: Vec<char> = text.chars().collect();
    let (mut piece, mut at) = (0, 0);
    // Where to resume when the text after the last star turns out wrong: no earlier star can do better.
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        match pieces.get(piece) {
            Some(Piece::Run) => {
                piece += 1;
                star = Some((piece, at));
            }
            Some(one) if one.takes(text[at]) => {
                piece += 1;
                at += 1;
            }
            _ => {
                let Some((after, eaten)) = star else { return false };
                piece = after;
                at = eaten + 1;
                star = Some((after, at));
            }
        }
    }
    pieces[piece..].iter().all(|rest| matches!(rest, Piece::Run))
}

enum Piece {
    Run,
    Any,
    Exactly(char),
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Piece {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Run => false,
            Self::Any => true,
            Self::Exactly(only) => *only == c,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&c)) != *negated
            }
        }
    }
}

fn parse(pattern: &str) -> Vec<Piece> {
    let pattern: Vec<char> = pattern.chars().collect();
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < pattern.len() {
        let (piece, length) = match pattern[at] {
            '*' => (Piece::Run, 1),
            '?' => (Piece::Any, 1),
            '[' => class(&pattern[at..]).unwrap_or((Piece::Exactly('['), 1)),
            c => (Piece::Exactly(c), 1),
        };
        pieces.push(piece);
        at += length;
    }
    pieces
}

/// The class at the start of `pattern`, if it is closed, and its length.
fn class(pattern: &[char]) -> Option<(Piece, usize)> {
    let negated = pattern.get(1) == Some(&'!');
    let first = if negated { 2 } else { 1 };
    // A `]` in the first place is a member, as in shells.
    let close = first + 1 + pattern.get(first + 1..)?.iter().position(|c| *c == ']')?;
    let mut ranges = Vec::new();
    let mut members = &pattern[first..close];
    while let Some((from, rest)) = members.split_first() {
        members = rest;
        let mut to = *from;
        if let ['-', last, rest @ ..] = rest {
            to = *last;
            members = rest;
        }
        ranges.push((*from, to));
    }
    Some((Piece::Class { negated, ranges }, close + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::HostKind;

    /// Says the same by trying everything.
    fn naive(pieces: &[Piece], text: &[char]) -> bool {
        match pieces.split_first() {
            None => text.is_empty(),
            Some((Piece::Run, rest)) => (0..=text.len()).any(|eaten| naive(rest, &text[eaten..])),
            Some((one, rest)) => {
                text.split_first().is_some_and(|(c, text)| one.takes(*c) && naive(rest, text))
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_trying_everything(pattern in "[ab*?\\[\\]!-]{0,9}", text in "[ab\\[\\]!-]{0,9}") {
            let all: Vec<char> = text.chars().collect();
            prop_assert_eq!(matches(&pattern, &text), naive(&parse(&pattern), &all));
        }

        #[test]
        fn any_text_is_survived(pattern in ".{0,40}", text in ".{0,40}") {
            matches(&pattern, &text);
        }

        #[test]
        fn a_name_without_signs_matches_itself(name in "[a-z0-9. ;_-]{0,20}") {
            prop_assert!(matches(&name, &name));
            let longer = format!("{name}x");
            prop_assert!(!matches(&name, &longer));
        }
    }

    #[test]
    fn classes_hold_members_ranges_and_their_opposites() {
        for (pattern, text, expected) in [
            ("web[0-9]", "web7", true),
            ("web[0-9]", "webx", false),
            ("web[!0-9]", "webx", true),
            ("[]]", "]", true),
            ("[a-]", "-", true),
            ("[z-a]", "b", false),
            ("[", "[", true),
            ("a[b", "a[b", true),
            ("*-minimal", "web-minimal", true),
            ("*-minimal", "minimal", false),
            ("", "", true),
            ("*", "", true),
            ("?", "", false),
            ("--option", "--option", true),
            ("h?te", "hôte", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_long() {
        let pattern = "*a".repeat(500);
        assert!(!matches(&pattern, &"a".repeat(499)));
        assert!(!matches(&format!("{pattern}b"), &"a".repeat(1_000)));
        assert!(!matches("*", &"a".repeat(2_000)));
    }

    #[test]
    fn selection_takes_kinds_then_globs_then_leaves_out() {
        let host = |name: &str, kind| Host { name: name.into(), kind };
        let selection = Selection {
            hosts: vec!["web*".into(), "db".into()],
            excludes: vec!["*-minimal".into()],
            kinds: vec![HostKind::Nixos],
        };
        assert!(selects(&selection, &host("web1", HostKind::Nixos)));
        assert!(selects(&selection, &host("db", HostKind::Nixos)));
        assert!(!selects(&selection, &host("web1", HostKind::Darwin)));
        assert!(!selects(&selection, &host("web1-minimal", HostKind::Nixos)));
        assert!(!selects(&selection, &host("mail", HostKind::Nixos)));
    }
}
