//! The order of versions: Nix's, with a few additions, and an honest "unordered".
//!
//! [`nix_order`] is a total preorder: Nix's `compareVersions` with `alpha`, `beta` and `rc` below the
//! release as `pre` is, letter case ignored there, and numbers of any length. [`relate`] compares two versions
//! of one package and refuses to order hashes, and calendar versions against numbered ones.

use std::cmp::Ordering;

/// What a step from one version to another is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Relation {
    /// The same text.
    Same,
    /// To a later one.
    Upgrade,
    /// To an earlier one.
    Downgrade,
    /// Neither.
    Unordered(Reason),
}

/// Why two versions have no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// They differ first in a commit hash.
    Hash,
    /// One counts, the other is a date, a hash, or missing.
    Scheme,
    /// They differ in separators or leading zeros only.
    Spelling,
}

/// Relates two versions of one package.
pub fn relate(before: &str, after: &str) -> Relation {
    if before == after {
        return Relation::Same;
    }
    if before.is_empty() || after.is_empty() {
        return Relation::Unordered(Reason::Scheme);
    }
    if let (Some(old), Some(new)) = (date(before), date(after))
        && old != new
    {
        return if old < new { Relation::Upgrade } else { Relation::Downgrade };
    }
    if differ_in_hash(before, after) {
        return Relation::Unordered(Reason::Hash);
    }
    if scheme(before) != scheme(after) {
        return Relation::Unordered(Reason::Scheme);
    }
    match nix_order(before, after) {
        Ordering::Less => Relation::Upgrade,
        Ordering::Greater => Relation::Downgrade,
        Ordering::Equal => Relation::Unordered(Reason::Spelling),
    }
}

/// A total preorder of version texts.
pub fn nix_order(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (Components(left), Components(right));
    loop {
        let pair = (left.next(), right.next());
        if let (None, None) = pair {
            return Ordering::Equal;
        }
        let order = Rank::of(pair.0.unwrap_or("")).cmp(&Rank::of(pair.1.unwrap_or("")));
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// How many leading components two versions share.
pub(crate) fn shared_components(left: &str, right: &str) -> usize {
    Components(left).zip(Components(right)).take_while(|(a, b)| Rank::of(a) == Rank::of(b)).count()
}

/// Whether a word is a commit hash: 7 to 40 hexadecimal digits, with a letter and a digit among them (a
/// guard against words such as `facade` and against plain numbers), perhaps after git's `g`.
pub(crate) fn is_hash(word: &str) -> bool {
    let digits = word.strip_prefix('g').unwrap_or(word);
    is_hexadecimal(digits)
        && digits.bytes().any(|byte| byte.is_ascii_digit())
        && digits.bytes().any(|byte| byte.is_ascii_alphabetic())
}

/// Whether a word marks what comes before a release.
pub(crate) fn is_prerelease(word: &str) -> bool {
    matches!(Rank::of(word), Rank::Pre | Rank::Alpha | Rank::Beta | Rank::Candidate)
}

/// Whether a text is a date such as `2024-11-19`.
pub(crate) fn is_date(text: &str) -> bool {
    text.len() == 10 && text.as_bytes()[4] == b'-' && date_at_start(text).is_some()
}

fn is_hexadecimal(word: &str) -> bool {
    (7..=40).contains(&word.len()) && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Runs of digits, and runs of what is neither digit nor separator.
struct Components<'a>(&'a str);

impl<'a> Iterator for Components<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.0.trim_start_matches(['.', '-']);
        let first = rest.chars().next()?;
        let end = if first.is_ascii_digit() {
            rest.find(|c: char| !c.is_ascii_digit())
        } else {
            rest.find(|c: char| c.is_ascii_digit() || c == '.' || c == '-')
        };
        let (component, rest) = rest.split_at(end.unwrap_or(rest.len()));
        self.0 = rest;
        Some(component)
    }
}

/// A component's place; the order of the variants is the order of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank<'a> {
    Pre,
    Alpha,
    Beta,
    Candidate,
    Nothing,
    Word(&'a str),
    /// Length and digits without leading zeros: numbers may be longer than any integer type.
    Number(usize, &'a str),
}

impl<'a> Rank<'a> {
    fn of(component: &'a str) -> Self {
        if component.is_empty() {
            return Self::Nothing;
        }
        if component.bytes().all(|byte| byte.is_ascii_digit()) {
            let digits = component.trim_start_matches('0');
            return Self::Number(digits.len(), digits);
        }
        let is = |word: &str| component.eq_ignore_ascii_case(word);
        match () {
            () if is("pre") => Self::Pre,
            () if is("alpha") => Self::Alpha,
            () if is("beta") => Self::Beta,
            () if is("rc") => Self::Candidate,
            () => Self::Word(component),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Numbered,
    Calendar,
    Hash,
}

fn scheme(version: &str) -> Scheme {
    let first = version.split(['.', '-', '+', '_']).next().unwrap_or(version);
    if is_hash(first) {
        Scheme::Hash
    } else if is_year(first) || date_at_start(version).is_some() {
        Scheme::Calendar
    } else {
        Scheme::Numbered
    }
}

fn is_year(word: &str) -> bool {
    word.len() == 4 && word.parse().is_ok_and(|year: u32| (1970..2100).contains(&year))
}

/// The day a version names as a whole: `2024-11-19…`, `2024.11.19…`, `20241119…`, or nixpkgs' way of saying that
/// there was no release yet, `unstable-2024-11-19` and `0-unstable-2024-11-19`.
fn date(version: &str) -> Option<u32> {
    let unreleased = version.strip_prefix("0-").unwrap_or(version).strip_prefix("unstable-");
    date_at_start(unreleased.unwrap_or(version))
}

fn date_at_start(text: &str) -> Option<u32> {
    let digits = |range: std::ops::Range<usize>| {
        let part = text.get(range)?;
        part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse::<u32>().ok()).flatten()
    };
    let ends = |at: usize| text.as_bytes().get(at).is_none_or(|byte| !byte.is_ascii_digit());
    let year = digits(0..4).filter(|year| (1970..2100).contains(year))?;
    let (month, day) = match *text.as_bytes().get(4)? {
        separator @ (b'-' | b'.') if text.as_bytes().get(7) == Some(&separator) && ends(10) => {
            (digits(5..7)?, digits(8..10)?)
        }
        b'0'..=b'9' if ends(8) => (digits(4..6)?, digits(6..8)?),
        _ => return None,
    };
    ((1..=12).contains(&month) && (1..=31).contains(&day)).then_some(year * 10_000 + month * 100 + day)
}

fn differ_in_hash(before: &str, after: &str) -> bool {
    let words = |version| str::split(version, ['.', '-', '+', '_']);
    let first = words(before).zip(words(after)).find(|(old, new)| old != new);
    first.is_some_and(|(old, new)| {
        let hexadecimal = |word: &str| is_hexadecimal(word.strip_prefix('g').unwrap_or(word));
        (is_hash(old) && hexadecimal(new)) || (is_hash(new) && hexadecimal(old))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn order_agrees_with_the_examples_of_the_nix_manual() {
        for (left, right) in
            [("1.0", "2.3"), ("2.1", "2.3"), ("2.3", "2.5"), ("2.3pre1", "2.3"), ("2.3pre3", "2.3pre12")]
        {
            assert_eq!(nix_order(left, right), Ordering::Less, "{left} {right}");
        }
        for (left, right) in [("2.3a", "2.3c"), ("2.3pre1", "2.3c"), ("2.3pre1", "2.3q"), ("2.3", "2.3.1")] {
            assert_eq!(nix_order(left, right), Ordering::Less, "{left} {right}");
            assert_eq!(nix_order(right, left), Ordering::Greater, "{left} {right}");
        }
        assert_eq!(nix_order("2.3", "2-3"), Ordering::Equal);
    }

    #[test]
    fn release_candidates_precede_the_release_in_any_case() {
        for early in ["1.0rc1", "1.0-RC2", "1.0-alpha", "1.0beta3", "1.0-pre", "1.0.Alpha.1"] {
            assert_eq!(nix_order(early, "1.0"), Ordering::Less, "{early}");
        }
        assert_eq!(nix_order("1.0alpha9", "1.0beta1"), Ordering::Less);
        assert_eq!(nix_order("1.0beta9", "1.0rc1"), Ordering::Less);
    }

    #[test]
    fn numbers_of_any_length_compare_as_numbers() {
        let long = "9".repeat(400);
        assert_eq!(nix_order(&format!("1{long}"), &format!("2{long}")), Ordering::Less);
        assert_eq!(nix_order("0010", "9"), Ordering::Greater);
        assert_eq!(nix_order("007", "7"), Ordering::Equal);
    }

    #[test]
    fn a_version_that_appears_or_goes_is_no_upgrade() {
        assert_eq!(relate("", "1.0"), Relation::Unordered(Reason::Scheme));
        assert_eq!(relate("abc1234", "1.0"), Relation::Unordered(Reason::Scheme));
    }

    #[test]
    fn dates_compare_across_spellings() {
        assert_eq!(relate("20240101", "2024-02-01"), Relation::Upgrade);
        assert_eq!(relate("2024.03.01", "0-unstable-2024-02-01"), Relation::Downgrade);
        assert_eq!(relate("0-unstable-2024-02-01", "1.0"), Relation::Upgrade);
        assert_eq!(relate("1.0-unstable-2024-02-01", "1.1"), Relation::Upgrade);
    }

    fn version() -> impl Strategy<Value = String> {
        prop_oneof![
            "[0-9]{1,3}(\\.[0-9]{1,2}){0,3}(pre|rc|alpha|a|b|RC|-)?[0-9]{0,2}",
            "(20[0-9]{2}-[01][0-9]-[0-3][0-9]|[a-f0-9]{7}|unstable-2024-01-0[1-9])",
            ".{0,12}",
        ]
    }

    proptest! {
        #[test]
        fn order_is_a_total_preorder(a in version(), b in version(), c in version()) {
            prop_assert_eq!(nix_order(&a, &a), Ordering::Equal);
            prop_assert_eq!(nix_order(&a, &b), nix_order(&b, &a).reverse());
            if nix_order(&a, &b) != Ordering::Greater && nix_order(&b, &c) != Ordering::Greater {
                prop_assert_ne!(nix_order(&a, &c), Ordering::Greater);
            }
        }

        #[test]
        fn the_way_back_is_the_reverse(a in version(), b in version()) {
            let back = match relate(&a, &b) {
                Relation::Upgrade => Relation::Downgrade,
                Relation::Downgrade => Relation::Upgrade,
                other => other,
            };
            prop_assert_eq!(relate(&b, &a), back);
        }
    }
}
