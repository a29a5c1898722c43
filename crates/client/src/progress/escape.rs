//! Text from elsewhere made safe to show: nothing in it moves the cursor, recolours, reorders or hides text, or
//! speaks to a CI runner.

/// Longest line of a log that is shown whole, in bytes.
const MAX_LINE_BYTES: usize = 4096;

/// One line of untrusted text, every control character visible.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => shown.push_str("    "),
            '\n' => shown.push(' '),
            c if is_hostile(c) => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    // Runners look for this mark anywhere in a line.
    if shown.contains("##[") { shown.replace("##[", "# #[") } else { shown }
}

/// The lines of a log as they would end up on a terminal: without escape sequences, and of a line that is
/// overwritten by carriage returns only the last state.
pub fn log_lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let text = without_sequences(&text);
    let lines = text.strip_suffix('\n').unwrap_or(&text).split('\n');
    lines.map(|line| visible(clip(last_state(line)))).collect()
}

fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn last_state(line: &str) -> &str {
    let line = line.trim_end_matches('\r');
    line.rsplit('\r').next().unwrap_or(line)
}

fn clip(line: &str) -> &str {
    if line.len() <= MAX_LINE_BYTES {
        return line;
    }
    let end = (0..=MAX_LINE_BYTES).rev().find(|&at| line.is_char_boundary(at)).unwrap_or(0);
    &line[..end]
}

/// Leaves out CSI sequences (`ESC [ … letter`), OSC strings (`ESC ] … BEL` or `ESC \`), and two-byte escapes.
fn without_sequences(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            kept.push(c);
            continue;
        }
        match chars.peek() {
            Some('[') => {
                chars.next();
                // A newline ends a broken sequence, so that it cannot swallow a log.
                while let Some(c) = chars.next_if(|&c| c != '\n') {
                    if ('\u{40}'..='\u{7e}').contains(&c) {
                        break;
                    }
                }
            }
            Some(']') => {
                while let Some(c) = chars.next_if(|&c| c != '\n') {
                    if c == '\u{7}' {
                        break;
                    }
                    if c == '\u{1b}' {
                        chars.next_if_eq(&'\\');
                        break;
                    }
                }
            }
            Some('\n') | None => {}
            Some(_) => {
                chars.next();
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_name_moves_the_cursor_or_reorders_text() {
        assert_eq!(visible("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(visible("a\u{202e}b\rc\u{9b}d"), "a\\u{202e}b\\u{d}c\\u{9b}d");
        assert_eq!(visible("a\tb\nc"), "a    b c");
        assert_eq!(visible("grün 雪"), "grün 雪");
    }

    #[test]
    fn logs_lose_their_colours_and_keep_their_text() {
        assert_eq!(log_lines(b"\x1b[31merror\x1b[0m: x\n  y\r\n"), ["error: x", "  y"]);
        assert_eq!(log_lines(b"10%\r50%\r100%\ndone"), ["100%", "done"]);
        assert_eq!(log_lines(b"\x1b]0;title\x07text\x1b]8;;u\x1b\\link"), ["textlink"]);
        assert_eq!(log_lines(b"\x1b[31\nnext\xff"), ["", "next\u{fffd}"]);
        assert_eq!(log_lines(b"ends\x1b"), ["ends"]);
    }

    #[test]
    fn a_log_cannot_speak_to_the_runner() {
        assert_eq!(visible("x ##[group]y"), "x # #[group]y");
    }

    #[test]
    fn endless_lines_are_cut_between_characters() {
        let line = "ü".repeat(MAX_LINE_BYTES);
        assert_eq!(log_lines(line.as_bytes())[0].len(), MAX_LINE_BYTES);
    }
}
