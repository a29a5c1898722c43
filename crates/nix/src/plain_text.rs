//! Text of others made fit to be shown: Nix colours its messages even when nobody asked, and what it quotes may be
//! anything.

/// The text, which should be UTF-8, without escape sequences, control characters and marks that change the direction of writing; line ends
/// and tabs stay.
pub(crate) fn plain_text(bytes: impl AsRef<[u8]>) -> String {
    let text = String::from_utf8_lossy(bytes.as_ref());
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\x1b' => skip_escape(&mut characters),
            '\n' | '\t' => plain.push(character),
            character if character.is_control() || is_direction(character) => {}
            character => plain.push(character),
        }
    }
    plain
}

fn skip_escape(characters: &mut std::str::Chars<'_>) {
    match characters.next() {
        // Parameters and intermediates, then one final character from `@` to `~`.
        Some('[') => _ = characters.find(|character| matches!(character, '@'..='~')),
        // An operating system command, such as a hyperlink: up to BEL, or to ESC and a backslash.
        Some(']') => {
            let end = characters.find(|character| matches!(character, '\x07' | '\x1b'));
            end.filter(|end| *end == '\x1b').and_then(|_| characters.next());
        }
        // A character set is named by a second character.
        Some('(' | ')') => _ = characters.next(),
        _ => {}
    }
}

/// Embeddings, overrides and isolates: with them text shows in another order than it is in.
fn is_direction(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::plain_text;

    #[test]
    fn escapes_vanish_and_text_stays() {
        let cases: [(&[u8], &str); 11] = [
            (b"\x1b[31;1merror:\x1b[0m no", "error: no"),
            (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x07 end", "link end"),
            (b"\x1b]0;title\x07x\x1b[2K", "x"),
            (b"a\n\tb\r\x07", "a\n\tb"),
            (b"\x1b[", ""),
            (b"cut \x1b", "cut "),
            (b"cut \x1b]8;;url", "cut "),
            (b"\xff\xfe", "\u{fffd}\u{fffd}"),
            (b"\x1b(Bplain", "plain"),
            ("c1 \u{9b}31m".as_bytes(), "c1 31m"),
            ("caf\u{e9}\u{202e}fdp.exe\u{2069}".as_bytes(), "caf\u{e9}fdp.exe"),
        ];
        for (coloured, plain) in cases {
            assert_eq!(plain_text(coloured), plain);
        }
    }
}
