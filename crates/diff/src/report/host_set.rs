//! Sets of hosts as short, exact words: `all 23 hosts`, `all but db1`, `web1–4`.

use crate::report::escape;

/// Names of the hosts of a report, ready to be shown in sets.
pub(crate) struct HostNames {
    names: Vec<String>,
}

/// Of larger sets that lack at most so many hosts, the lacking ones are named.
const NAMED_AS_LACKING: usize = 3;

impl HostNames {
    /// In the order that sets refer to.
    pub(crate) fn new(names: Vec<String>) -> Self {
        Self { names }
    }

    /// One host.
    pub(crate) fn name(&self, host: usize) -> &str {
        self.names.get(host).map_or("", String::as_str)
    }

    /// A set of hosts, out of the given whole, as Markdown.
    pub(crate) fn show(&self, hosts: &[usize], whole: &[usize], noun: &str) -> String {
        let lacking: Vec<usize> = whole.iter().copied().filter(|host| !hosts.contains(host)).collect();
        let covers = hosts.len() + lacking.len() == whole.len();
        if covers && hosts.len() > 1 && lacking.is_empty() {
            return format!("all {} {noun}", hosts.len());
        }
        if covers && lacking.len() <= NAMED_AS_LACKING && hosts.len() > 2 * NAMED_AS_LACKING {
            return format!("all {noun} but {}", self.list(&lacking));
        }
        self.list(hosts)
    }

    /// Every host by name, runs of numbers joined.
    pub(crate) fn list(&self, hosts: &[usize]) -> String {
        let mut numbered: Vec<Numbered<'_>> =
            hosts.iter().map(|&host| Numbered::of(self.name(host))).collect();
        numbered.sort();
        let runs = numbered.chunk_by(Numbered::precedes);
        let shown = runs.flat_map(|run| match run {
            [first, .., last] if run.len() > 2 => {
                vec![escape::code(&format!("{}–{}", first.whole, last.digits))]
            }
            few => few.iter().map(|name| escape::code(name.whole)).collect(),
        });
        shown.collect::<Vec<_>>().join(", ")
    }
}

/// A name that may end in a number.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Numbered<'a> {
    stem: &'a str,
    number: Option<u64>,
    digits: &'a str,
    whole: &'a str,
}

impl<'a> Numbered<'a> {
    fn of(whole: &'a str) -> Self {
        let stem = whole.trim_end_matches(|char: char| char.is_ascii_digit());
        let digits = &whole[stem.len()..];
        Self { stem, number: digits.parse().ok(), digits, whole }
    }

    /// Whether the other is the next of the same spelling: `web9`, `web10`, but not `web09`, `web10`, `web011`.
    fn precedes(&self, next: &Self) -> bool {
        let padded = |name: &Self| name.digits.len() > 1 && name.digits.starts_with('0');
        let spelled_alike = self.digits.len() == next.digits.len() || !(padded(self) || padded(next));
        let successor = self.number.and_then(|number| number.checked_add(1));
        self.stem == next.stem && spelled_alike && successor.is_some() && successor == next.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(names: &[&str], hosts: &[usize]) -> String {
        let whole: Vec<usize> = (0..names.len()).collect();
        let names = HostNames::new(names.iter().map(|&name| name.to_owned()).collect());
        names.show(hosts, &whole, "hosts")
    }

    #[test]
    fn sets_are_short_and_exact() {
        let names = ["db1", "db2", "mail", "web1", "web10", "web2", "web3", "web4", "web9"];
        assert_eq!(show(&names, &[0, 1, 2, 3, 4, 5, 6, 7, 8]), "all 9 hosts");
        assert_eq!(show(&names, &[0, 1, 2, 3, 4, 5, 6, 7]), "all hosts but `web9`");
        assert_eq!(show(&names, &[0, 1, 3, 5, 6, 7]), "`db1`, `db2`, `web1–4`");
        assert_eq!(show(&names, &[4, 8]), "`web9`, `web10`");
        assert_eq!(show(&["a"], &[0]), "`a`");
    }

    #[test]
    fn padded_numbers_join_only_their_like() {
        assert_eq!(show(&["w01", "w02", "w03", "w4", "x"], &[0, 1, 2, 3]), "`w01–03`, `w4`");
        assert_eq!(show(&["w08", "w09", "w10", "x"], &[0, 1, 2]), "`w08–10`");
    }
}
