//! All that Nix said about one question, within bounds: the end is kept, because the cause stands there.

use super::bounded_lines::Line;

/// How much text is kept.
const LIMIT: usize = 64 * 1024;

/// Text of one question.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    text: String,
    left_out: u64,
    error: Option<String>,
}

impl Transcript {
    /// Adds a message as a paragraph of its own.
    pub(super) fn push(&mut self, text: &str) {
        let text = text.trim_end();
        if text.is_empty() {
            return;
        }
        self.text.push_str(tail(text));
        self.text.push('\n');
        self.left_out += (text.len() - tail(text).len()) as u64;
        if self.text.len() > 2 * LIMIT {
            self.shorten();
        }
    }

    /// Adds an error; the last one of a question is its cause.
    pub(super) fn push_error(&mut self, text: &str) {
        let text = without_our_frames(text);
        self.push(&text);
        self.error = Some(if text.len() > LIMIT { tail(&text).to_owned() } else { text });
    }

    /// Notes that a line was cut.
    pub(super) fn note_cut(&mut self, line: &Line) {
        if line.dropped > 0 {
            self.push(&format!("[{} bytes of one line left out]", line.dropped));
        }
    }

    /// The last error.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// The text so far, with a first line that says what is missing.
    pub(super) fn finish(mut self) -> String {
        self.shorten();
        if self.left_out > 0 {
            self.text.insert_str(0, &format!("[{} earlier bytes left out]\n", self.left_out));
        }
        self.text
    }

    fn shorten(&mut self) {
        let kept = tail(&self.text).len();
        let dropped = self.text.len() - kept;
        self.left_out += dropped as u64;
        self.text.drain(..dropped);
    }
}

/// Leaves out the frames of the lines that we fed: they say nothing to anybody.
fn without_our_frames(text: &str) -> String {
    let is_ours =
        |frame: &&str| frame.trim_start().starts_with('…') && frame.contains("\n         at «string»:");
    let (head, frames) = match text.strip_prefix("error:\n") {
        Some(frames) => ("error:\n", frames),
        None => ("", text),
    };
    let frames: Vec<&str> = frames.split("\n\n").filter(|frame| !is_ours(frame)).collect();
    format!("{head}{}", frames.join("\n\n"))
}

/// At most the last [`LIMIT`] bytes.
fn tail(text: &str) -> &str {
    let mut start = text.len().saturating_sub(LIMIT);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_frames_of_the_flake_are_shown() {
        let ours = "       … while calling the 'toJSON' builtin\n         at «string»:1:9:\n            1| nonce\n             | ^\n\n";
        let theirs = "       … while calling the 'head' builtin\n         at /nix/store/x-source/flake.nix:1:9:\n            1| x\n\n";
        let end = "       error: no «string» here";
        let mut transcript = Transcript::default();
        transcript.push_error(&format!("error:\n{ours}{ours}{theirs}{end}"));
        assert_eq!(transcript.finish(), format!("error:\n{theirs}{end}\n"));
        let mut transcript = Transcript::default();
        transcript.push_error("error: short");
        assert_eq!(transcript.finish(), "error: short\n");
    }

    #[test]
    fn the_end_of_endless_text_is_kept() {
        let mut transcript = Transcript::default();
        for number in 0..100_000 {
            transcript.push(&format!("line {number} é"));
        }
        transcript.push(&"é".repeat(LIMIT));
        transcript.push_error("error: last");
        assert_eq!(transcript.error(), Some("error: last"));
        let text = transcript.finish();
        assert!(text.len() < LIMIT + 100);
        assert!(text.starts_with('[') && text.ends_with("é\nerror: last\n"));
    }
}
