//! Lines of a stream that nobody trusts: however long one is, only so much of it is ever held.

use tokio::io::{self, AsyncBufReadExt, AsyncRead, BufReader};

/// One line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) bytes: Vec<u8>,
    /// How many bytes of it were dropped because it was too long.
    pub(super) dropped: u64,
}

/// Splits a stream into lines of at most `limit` bytes.
#[derive(Debug)]
pub(super) struct BoundedLines<R> {
    reader: BufReader<R>,
    limit: usize,
    line: Line,
}

impl<R: AsyncRead + Unpin> BoundedLines<R> {
    pub(super) fn new(reader: R, limit: usize) -> Self {
        BoundedLines { reader: BufReader::new(reader), limit, line: Line { bytes: Vec::new(), dropped: 0 } }
    }

    /// The next line; nothing at the end of the stream. Loses nothing when it is dropped half-way.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let available = self.reader.fill_buf().await?;
            if available.is_empty() {
                let rest = self.take();
                return Ok((!rest.bytes.is_empty() || rest.dropped > 0).then_some(rest));
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let part = &available[..end.unwrap_or(available.len())];
            let kept = part.len().min(self.limit - self.line.bytes.len());
            self.line.bytes.extend_from_slice(&part[..kept]);
            self.line.dropped += (part.len() - kept) as u64;
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            if end.is_some() {
                return Ok(Some(self.take()));
            }
        }
    }

    fn take(&mut self) -> Line {
        std::mem::replace(&mut self.line, Line { bytes: Vec::new(), dropped: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_of_any_length_is_cut_and_the_next_is_whole() {
        let mut input = vec![b'x'; 100_000];
        input.extend_from_slice(b"\nshort\n\nlast");
        let mut lines = BoundedLines::new(input.as_slice(), 10);
        let first = lines.next().await.expect("read").expect("a line");
        assert_eq!((first.bytes.len(), first.dropped), (10, 99_990));
        for expected in ["short", "", "last"] {
            let line = lines.next().await.expect("read").expect("a line");
            assert_eq!((line.bytes.as_slice(), line.dropped), (expected.as_bytes(), 0));
        }
        assert_eq!(lines.next().await.expect("read"), None);
    }
}
