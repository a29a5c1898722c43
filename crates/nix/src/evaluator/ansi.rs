//! Takes terminal escapes out of text: Nix colours its messages even when nobody asked.

/// The text without escape sequences and without control characters other than line ends and tabs.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => match characters.next() {
                Some('[') => {
                    let _ = characters.find(|c| ('@'..='~').contains(c));
                }
                // Titles and links end with a bell or with the string terminator.
                Some(']') => skip_command(&mut characters),
                _ => {}
            },
            '\n' | '\t' => plain.push(character),
            _ if character.is_control() => {}
            _ => plain.push(character),
        }
    }
    plain
}

fn skip_command(characters: &mut std::str::Chars<'_>) {
    if characters.find(|c| matches!(c, '\u{7}' | '\u{1b}')) == Some('\u{1b}') {
        characters.next();
    }
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn escapes_go_and_text_stays() {
        assert_eq!(plain("\u{1b}[31;1merror:\u{1b}[0m a\tb\r\n"), "error: a\tb\n");
        assert_eq!(plain("\u{1b}]0;title\u{7}x\u{1b}[2K"), "x");
        assert_eq!(plain("\u{1b}]8;;url\u{1b}\\x"), "x");
        assert_eq!(plain("cut \u{1b}["), "cut ");
    }
}
