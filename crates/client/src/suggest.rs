//! Names that are close to one that was mistyped. Pure.

/// Suggestions at most.
const MAX_SUGGESTIONS: usize = 3;
/// Longer names are not compared: no host is called so.
const MAX_NAME_CHARS: usize = 128;

/// Known names that are within a few edits of a wanted one, the closest first.
pub(crate) fn closest(wanted: &[String], known: &[&str]) -> Vec<String> {
    let mut near: Vec<(usize, &str)> = Vec::new();
    for name in known {
        let distances = wanted.iter().map(|glob| distance(glob, name));
        let Some(edits) = distances.min() else { continue };
        // One edit in three characters is still a slip of the finger.
        if edits <= 1 + name.chars().count() / 3 {
            near.push((edits, name));
        }
    }
    near.sort_unstable();
    near.dedup();
    near.into_iter().take(MAX_SUGGESTIONS).map(|(_, name)| name.to_owned()).collect()
}

/// Insertions, deletions and replacements from one to the other.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(MAX_NAME_CHARS).collect();
    let b: Vec<char> = b.chars().take(MAX_NAME_CHARS).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_finger_are_recognised() {
        let known = ["web1", "web2", "database", "mail"];
        assert_eq!(closest(&["wbe1".to_owned()], &known), ["web1"]);
        assert_eq!(closest(&["databse".to_owned()], &known), ["database"]);
        assert_eq!(closest(&["kitchen".to_owned()], &known), Vec::<String>::new());
    }

    #[test]
    fn distances_are_symmetric() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("sitting", "kitten"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
