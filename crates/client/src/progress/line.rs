//! A line of styled text, before anyone knows whether colours are wanted.

/// How a piece of a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As is.
    Plain,
    /// Less important.
    Dim,
    /// Heading.
    Bold,
    /// Done.
    Good,
    /// Failed.
    Bad,
    /// Worth a look.
    Notable,
    /// Under way.
    Busy,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Dim => "\x1b[2m",
            Self::Bold => "\x1b[1m",
            Self::Good => "\x1b[32m",
            Self::Bad => "\x1b[1;31m",
            Self::Notable => "\x1b[33m",
            Self::Busy => "\x1b[36m",
        }
    }
}

/// One line; its text is already safe to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line(Vec<(Style, String)>);

impl Line {
    /// An empty line.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more piece.
    #[must_use]
    pub fn and(mut self, style: Style, text: impl Into<String>) -> Self {
        match self.0.last_mut() {
            Some((last, shown)) if *last == style => shown.push_str(&text.into()),
            _ => self.0.push((style, text.into())),
        }
        self
    }

    /// Without colours.
    pub fn text(&self) -> String {
        self.0.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// With colours.
    pub fn ansi(&self) -> String {
        let mut shown = String::new();
        for (style, text) in &self.0 {
            if style.code().is_empty() {
                shown.push_str(text);
            } else {
                shown.push_str(style.code());
                shown.push_str(text);
                shown.push_str("\x1b[0m");
            }
        }
        shown
    }

    /// At most this many columns; what is cut off leaves `…`.
    #[must_use]
    pub fn clipped(self, columns: usize) -> Self {
        if self.0.iter().map(|(_, text)| width(text)).sum::<usize>() <= columns {
            return self;
        }
        let mut left = columns.saturating_sub(1);
        let mut pieces = Vec::new();
        for (style, text) in self.0 {
            let mut kept = String::new();
            for c in text.chars() {
                if char_width(c) > left {
                    left = 0;
                    break;
                }
                left -= char_width(c);
                kept.push(c);
            }
            pieces.push((style, kept));
            if left == 0 {
                break;
            }
        }
        pieces.push((Style::Dim, "…".to_owned()));
        Self(pieces)
    }
}

/// Columns that a text takes at most.
pub fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// An upper bound: a line that is thought too wide is cut early, one thought too narrow would wrap and ruin the
/// live region. Our own symbols are one column wide.
fn char_width(c: char) -> usize {
    match c {
        ' '..='~' | '\u{a1}'..='\u{24f}' | '…' | '✓' | '✗' | '▸' | '│' => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clipped_line_never_exceeds_its_columns() {
        let line = Line::new().and(Style::Bold, "héad ").and(Style::Plain, "雪雪雪雪 tail");
        for columns in 1..24 {
            assert!(width(&line.clone().clipped(columns).text()) <= columns, "{columns}");
        }
        assert_eq!(line.clone().clipped(8).text(), "héad 雪…");
        assert_eq!(line.clone().clipped(40).text(), line.text());
    }

    #[test]
    fn colours_end_where_their_text_ends() {
        let line = Line::new().and(Style::Plain, "a").and(Style::Bad, "b");
        assert_eq!(line.ansi(), "a\x1b[1;31mb\x1b[0m");
    }
}
