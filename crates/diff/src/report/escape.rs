//! Foreign text made harmless: what a host, a package or a log says must not become markup or control.
//!
//! Owns cleaning (control characters, terminal sequences, direction marks) and the escapes of Markdown as forges
//! render it, mentions and references included.

use std::fmt::Write as _;

/// Text of several lines without terminal sequences, control and invisible characters.
pub(crate) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\n' | '\t' => clean.push(char),
            '\r' => {
                if chars.peek() != Some(&'\n') {
                    clean.push('\n');
                }
            }
            '\u{1b}' => skip_sequence(&mut chars),
            '\u{9b}' => skip_until_final(&mut chars),
            _ if char.is_control() => clean.push('\u{fffd}'),
            _ if is_deceptive(char) => {
                let _ = write!(clean, "<U+{:04X}>", u32::from(char));
            }
            _ => clean.push(char),
        }
    }
    clean
}

/// Clean text on one line.
pub(crate) fn line(text: &str) -> String {
    clean(text).replace(['\n', '\t'], " ").trim().to_owned()
}

/// Running text: nothing in it is markup.
pub(crate) fn inline(text: &str) -> String {
    let text = line(text);
    let mut escaped = String::with_capacity(text.len());
    for (place, char) in text.char_indices() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '|' => escaped.push_str("&#124;"),
            '`' => escaped.push_str("&#96;"),
            '\\' => escaped.push_str("&#92;"),
            // A forge looks for mentions and references after rendering: only a character between helps.
            '@' | '#' => {
                escaped.push(char);
                escaped.push_str("&#8203;");
            }
            '_' if is_inside_word(&text, place) => escaped.push('_'),
            '*' | '_' | '~' | '[' | ']' | '!' | '$' | '{' | '}' => {
                escaped.push('\\');
                escaped.push(char);
            }
            _ => escaped.push(char),
        }
    }
    escape_start(escaped)
}

/// A name in code type.
pub(crate) fn code(text: &str) -> String {
    let line = line(text);
    let plain = |char: char| char.is_alphanumeric() || " .,:;+-_=?/()%@#*~^!'\"{}[]$–".contains(char);
    // Backticks and pipes cannot be escaped inside a code span of a table: the tag takes entities.
    if line.is_empty() || !line.chars().all(plain) { html_code(text) } else { format!("`{line}`") }
}

/// A name in code type, where HTML is expected.
pub(crate) fn html_code(text: &str) -> String {
    let mut escaped = String::from("<code>");
    for char in line(text).chars() {
        if char.is_alphanumeric() || " .,:;/-–".contains(char) {
            escaped.push(char);
        } else {
            let _ = write!(escaped, "&#{};", u32::from(char));
        }
    }
    escaped + "</code>"
}

/// The last lines of a text in a fence longer than any run of backticks in it.
pub(crate) fn fenced(text: &str, most_lines: usize) -> String {
    let text = clean(text);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let left_out = lines.len().saturating_sub(most_lines);
    let longest = text.split(|char| char != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let mut fenced = format!("{fence}text\n");
    if left_out > 0 {
        let _ = writeln!(fenced, "… {left_out} lines before this");
    }
    for line in &lines[left_out..] {
        fenced.push_str(line);
        fenced.push('\n');
    }
    fenced + &fence + "\n"
}

/// At the start of a line some characters open a heading, a list or a quote.
fn escape_start(text: String) -> String {
    let number = text.trim_start_matches(|char: char| char.is_ascii_digit());
    if text.starts_with(['-', '+', '=']) {
        return format!("\\{text}");
    }
    if number.len() < text.len() && number.starts_with(['.', ')']) {
        let digits = text.len() - number.len();
        return format!("{}\\{number}", &text[..digits]);
    }
    text
}

fn is_inside_word(text: &str, place: usize) -> bool {
    let before = text[..place].chars().next_back();
    let after = text[place + 1..].chars().next();
    before.is_some_and(char::is_alphanumeric) && after.is_some_and(char::is_alphanumeric)
}

/// Direction marks, invisible characters and separators that look like nothing or like something else.
fn is_deceptive(char: char) -> bool {
    matches!(char,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// What follows an escape character: a control sequence, a string for the terminal, or one character.
fn skip_sequence(chars: &mut Chars<'_>) {
    match chars.next_if(|char| !char.is_control()) {
        Some('[') => skip_until_final(chars),
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(char) = chars.next_if(|&char| char != '\n') {
                if char == '\u{7}' || char == '\u{9c}' {
                    break;
                }
                if char == '\u{1b}' {
                    chars.next_if_eq(&'\\');
                    break;
                }
            }
        }
        Some('(' | ')' | '*' | '+' | '#' | '%' | ' ') => {
            chars.next_if(|char| !char.is_control());
        }
        _ => {}
    }
}

fn skip_until_final(chars: &mut Chars<'_>) {
    while chars.next_if(|char| matches!(char, ' '..='?')).is_some() {}
    chars.next_if(|char| matches!(char, '@'..='~'));
}

#[cfg(test)]
mod tests;
