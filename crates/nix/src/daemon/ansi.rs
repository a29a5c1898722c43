//! Removes terminal escapes from text that Nix coloured.

/// UTF-8 text without escape sequences and control characters; line ends and tabs stay.
pub(super) fn plain_text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\x1b' => skip_escape(&mut characters),
            '\n' | '\t' => plain.push(character),
            character if character.is_control() => {}
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

#[cfg(test)]
mod tests {
    use super::plain_text;

    #[test]
    fn escapes_vanish_and_text_stays() {
        let cases: [(&[u8], &str); 7] = [
            (b"\x1b[31;1merror:\x1b[0m no", "error: no"),
            (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x07 end", "link end"),
            (b"a\n\tb\r\x07", "a\n\tb"),
            (b"\x1b[", ""),
            (b"cut \x1b", "cut "),
            (b"\xff\xfe", "\u{fffd}\u{fffd}"),
            (b"\x1b(Bplain", "plain"),
        ];
        for (coloured, plain) in cases {
            assert_eq!(plain_text(coloured), plain);
        }
    }
}
