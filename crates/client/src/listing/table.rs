//! Aligned columns. Pure; tested as text.

use crate::progress::{Line, Style, visible, width};

/// Between two columns.
const GAP: &str = "  ";
/// No cell but the last is wider: one long name must not push everything else off the screen.
const MAX_CELL_COLUMNS: usize = 40;

/// One cell; its text is already safe to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    text: String,
    style: Style,
    right: bool,
}

impl Cell {
    /// Text from elsewhere.
    pub fn text(text: &str) -> Self {
        Self { text: visible(text), style: Style::Plain, right: false }
    }

    /// A number.
    pub fn number(number: impl Into<u64>) -> Self {
        Self::figure(number.into().to_string())
    }

    /// A figure of several numbers, as in `3/4`.
    pub fn figure(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: Style::Plain, right: true }
    }

    /// In this style.
    #[must_use]
    pub fn styled(mut self, style: Style) -> Self {
        self.style = style;
        self
    }
}

/// Rows below a heading.
#[derive(Clone, Debug, Default)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// Without rows yet.
    pub fn new(headings: &[&'static str]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; it has a cell for each heading.
    pub fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.headings.len());
        self.rows.push(cells);
    }

    /// The lines, cut to this many columns if a number is given. A column without content is left out.
    pub fn lines(&self, columns: Option<usize>) -> Vec<Line> {
        let used: Vec<usize> = (0..self.headings.len())
            .filter(|&column| self.rows.iter().any(|row| !row[column].text.is_empty()))
            .collect();
        let widths: Vec<usize> = used.iter().map(|&column| self.width_of(column)).collect();
        let heading = used.iter().map(|&column| {
            let right = self.rows.iter().all(|row| row[column].right);
            Cell { text: self.headings[column].to_owned(), style: Style::Bold, right }
        });
        let heading: Vec<Cell> = heading.collect();
        let rows = self.rows.iter().map(|row| used.iter().map(|&column| row[column].clone()).collect());
        let lines = std::iter::once(heading).chain(rows).map(|cells: Vec<Cell>| line(&cells, &widths));
        lines.map(|line| columns.map_or(line.clone(), |columns| line.clipped(columns))).collect()
    }

    fn width_of(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| width(&row[column].text));
        cells.chain([self.headings[column].len()]).max().unwrap_or(0).min(MAX_CELL_COLUMNS)
    }
}

fn line(cells: &[Cell], widths: &[usize]) -> Line {
    let mut line = Line::new();
    for (at, (cell, width_of)) in cells.iter().zip(widths).enumerate() {
        let last = at + 1 == cells.len();
        let text = if last { cell.text.clone() } else { clipped(&cell.text, *width_of) };
        let padding = " ".repeat(width_of.saturating_sub(width(&text)));
        line = match (cell.right, last) {
            (true, _) => line.and(Style::Plain, padding).and(cell.style, text),
            (false, true) => line.and(cell.style, text),
            (false, false) => line.and(cell.style, text).and(Style::Plain, padding),
        };
        if !last {
            line = line.and(Style::Plain, GAP);
        }
    }
    line
}

fn clipped(text: &str, columns: usize) -> String {
    Line::new().and(Style::Plain, text).clipped(columns).text()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "EMPTY", "SLOTS", "REASON"]);
        table.row(vec![Cell::text("b1"), Cell::text(""), Cell::number(4_u32), Cell::text("")]);
        table.row(vec![
            Cell::text("evil\u{1b}[2J\u{202e}name"),
            Cell::text(""),
            Cell::number(16_u32),
            Cell::text("it was ##[group] drained\nby hand"),
        ]);
        table.row(vec![Cell::text(&"long".repeat(20)), Cell::text(""), Cell::number(1_u32), Cell::text("")]);
        table
    }

    fn text(table: &Table, columns: Option<usize>) -> String {
        let lines = table.lines(columns);
        lines.iter().map(|line| line.text().trim_end().to_owned() + "\n").collect()
    }

    #[test]
    fn columns_are_aligned_and_hostile_names_stay_in_theirs() {
        insta::assert_snapshot!(text(&table(), None), @r"
    NAME                                      SLOTS  REASON
    b1                                            4
    evil\u{1b}[2J\u{202e}name                    16  it was # #[group] drained by hand
    longlonglonglonglonglonglonglonglonglon…      1
    ");
    }

    #[test]
    fn a_narrow_terminal_cuts_lines_and_wraps_none() {
        insta::assert_snapshot!(text(&table(), Some(40)), @r"
    NAME                                   …
    b1                                     …
    evil\u{1b}[2J\u{202e}name              …
    longlonglonglonglonglonglonglonglonglon…
    ");
        for columns in 1..100 {
            assert!(
                table().lines(Some(columns)).iter().all(|line| width(&line.text()) <= columns),
                "{columns}"
            );
        }
    }
}
