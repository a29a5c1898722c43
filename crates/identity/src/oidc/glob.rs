//! Patterns over claims. Pure; the whole text must match, letters count as they are.

/// `*` stands for any letters but `/`, `**` for any at all; everything else for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    pieces: Vec<Piece>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Letter(char),
    WithinSegment,
    Anything,
}

impl Glob {
    /// Any text is a pattern.
    pub fn new(text: &str) -> Self {
        let mut pieces = vec![];
        for letter in text.chars() {
            match (letter, pieces.last_mut()) {
                ('*', Some(last @ (Piece::WithinSegment | Piece::Anything))) => *last = Piece::Anything,
                ('*', _) => pieces.push(Piece::WithinSegment),
                _ => pieces.push(Piece::Letter(letter)),
            }
        }
        Self { pieces }
    }

    /// Whether the whole text is described; takes time by the product of both lengths, never more.
    pub fn matches(&self, text: &str) -> bool {
        let letters: Vec<char> = text.chars().collect();
        // reached[i]: the pieces so far describe the first i letters.
        let mut reached = vec![false; letters.len() + 1];
        reached[0] = true;
        for piece in &self.pieces {
            let mut next = vec![false; letters.len() + 1];
            for at in 0..=letters.len() {
                next[at] = match piece {
                    Piece::Letter(letter) => at > 0 && reached[at - 1] && letters[at - 1] == *letter,
                    Piece::Anything => reached[at] || at > 0 && next[at - 1],
                    Piece::WithinSegment => reached[at] || at > 0 && next[at - 1] && letters[at - 1] != '/',
                };
            }
            reached = next;
        }
        reached[letters.len()]
    }

    /// Whether all before the first `/` is given in full, and is not nothing.
    pub(super) fn begins_with_a_name(&self) -> bool {
        let mut first = self.pieces.iter().take_while(|piece| **piece != Piece::Letter('/')).peekable();
        first.peek().is_some() && first.all(|piece| matches!(piece, Piece::Letter(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_describes_the_whole_text_and_a_star_stays_in_its_segment() {
        let cases = [
            ("acme/site", "acme/site", true),
            ("acme/site", "acme/site2", false),
            ("acme/site", "xacme/site", false),
            ("acme/site", "Acme/site", false),
            ("acme/*", "acme/site", true),
            ("acme/*", "acme/group/site", false),
            ("acme/*", "acme-evil/site", false),
            ("acme/**", "acme/group/site", true),
            ("acme/**", "acme", false),
            ("refs/heads/*", "refs/heads/main", true),
            ("refs/heads/*", "refs/heads/evil/refs/heads/main", false),
            ("refs/heads/main", "refs/heads/main\n", false),
            ("refs/tags/v*.*", "refs/tags/v1.2", true),
            ("refs/tags/v*.*", "refs/tags/v12", false),
            ("a.c", "abc", false),
            ("a?c", "abc", false),
            ("[ab]", "a", false),
            ("*", "", true),
            ("*", "a/b", false),
            ("***", "a/b", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(Glob::new(pattern).matches(text), expected, "{pattern} on {text:?}");
        }
    }

    #[test]
    fn many_stars_take_no_longer_than_their_number() {
        let pattern = Glob::new(&"*a".repeat(200));
        assert!(!pattern.matches(&"a".repeat(2000).replace("aaaaaaaaaa", "aaaaaaaaab")));
    }
}
