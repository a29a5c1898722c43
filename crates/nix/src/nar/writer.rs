//! Writes an archive, event by event, as the parser would tell them.
//!
//! What cannot be an archive is refused before it is written, so whatever was finished can be read back.

use std::io::{self, Read, Write};

use super::parser::{MAGIC, check_name, check_target};
use super::{MAX_DEPTH, NarError, NarEvent, NarWriteError};

const BUFFER_LEN: usize = 64 << 10;
const ZEROS: [u8; 8] = [0; 8];

/// Writes one archive into `W`. Writes are many and small: give it a buffered sink.
#[derive(Debug)]
pub struct NarWriter<W> {
    sink: W,
    place: Place,
    /// The last name written in each open directory.
    directories: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Node,
    Contents { left: u64, size: u64 },
    Directory,
    End,
}

impl<W: Write> NarWriter<W> {
    /// Begins an archive; its root node must follow.
    pub fn new(sink: W) -> Result<Self, NarWriteError> {
        let mut writer = Self { sink, place: Place::Node, directories: Vec::new() };
        writer.word(MAGIC)?;
        Ok(writer)
    }

    /// Writes what `event` says.
    pub fn put(&mut self, event: NarEvent<'_>) -> Result<(), NarWriteError> {
        match event {
            NarEvent::Directory => self.begin_directory(),
            NarEvent::Entry(name) => self.entry(name),
            NarEvent::DirectoryEnd => self.end_directory(),
            NarEvent::File { executable, size } => self.begin_file(executable, size),
            NarEvent::Contents(bytes) => self.contents(bytes),
            NarEvent::FileEnd => self.end_file(),
            NarEvent::Symlink(target) => self.symlink(target),
        }
    }

    /// Begins a directory; its entries must follow in the order of their bytes.
    pub fn begin_directory(&mut self) -> Result<(), NarWriteError> {
        self.begin_node("a directory")?;
        self.words(&[b"(", b"type", b"directory"])?;
        self.directories.push(Vec::new());
        self.place = Place::Directory;
        Ok(())
    }

    /// Names the node that must follow.
    pub fn entry(&mut self, name: &[u8]) -> Result<(), NarWriteError> {
        let (Place::Directory, Some(last)) = (self.place, self.directories.last_mut()) else {
            return Err(NarWriteError::OutOfPlace("an entry"));
        };
        check_name(last, name)?;
        last.clear();
        last.extend_from_slice(name);
        self.words(&[b"entry", b"(", b"name", name, b"node"])?;
        self.place = Place::Node;
        Ok(())
    }

    /// Ends the innermost directory.
    pub fn end_directory(&mut self) -> Result<(), NarWriteError> {
        if self.place != Place::Directory || self.directories.pop().is_none() {
            return Err(NarWriteError::OutOfPlace("the end of a directory"));
        }
        self.end_node()
    }

    /// Writes a whole file of `size` bytes, which `contents` must have, no more and no fewer.
    pub fn file(&mut self, executable: bool, size: u64, contents: impl Read) -> Result<(), NarWriteError> {
        self.begin_file(executable, size)?;
        // One byte more than was said, to notice a file that has it.
        let mut contents = contents.take(size.saturating_add(1));
        let mut buffer =
            vec![0; BUFFER_LEN.min(usize::try_from(size).unwrap_or(BUFFER_LEN).saturating_add(1))];
        loop {
            match contents.read(&mut buffer) {
                Ok(0) => return self.end_file(),
                Ok(len) => self.contents(&buffer[..len])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Begins a file; `size` bytes of contents must follow.
    pub fn begin_file(&mut self, executable: bool, size: u64) -> Result<(), NarWriteError> {
        self.begin_node("a file")?;
        self.words(&[b"(", b"type", b"regular"])?;
        if executable {
            self.words(&[b"executable", b""])?;
        }
        self.word(b"contents")?;
        self.sink.write_all(&size.to_le_bytes())?;
        self.place = Place::Contents { left: size, size };
        Ok(())
    }

    /// Writes some of the file's contents.
    pub fn contents(&mut self, bytes: &[u8]) -> Result<(), NarWriteError> {
        let Place::Contents { left, size } = self.place else {
            return Err(NarWriteError::OutOfPlace("contents"));
        };
        let len = bytes.len() as u64;
        let Some(left) = left.checked_sub(len) else {
            return Err(NarWriteError::WrongSize { declared: size, found: size - left + len });
        };
        self.sink.write_all(bytes)?;
        self.place = Place::Contents { left, size };
        Ok(())
    }

    /// Ends the file.
    pub fn end_file(&mut self) -> Result<(), NarWriteError> {
        let Place::Contents { left, size } = self.place else {
            return Err(NarWriteError::OutOfPlace("the end of a file"));
        };
        if left > 0 {
            return Err(NarWriteError::WrongSize { declared: size, found: size - left });
        }
        self.pad(size)?;
        self.end_node()
    }

    /// Writes a symbolic link.
    pub fn symlink(&mut self, target: &[u8]) -> Result<(), NarWriteError> {
        check_target(target)?;
        self.begin_node("a symlink")?;
        self.words(&[b"(", b"type", b"symlink", b"target", target])?;
        self.end_node()
    }

    /// Ends the archive and returns the sink, which is not flushed.
    pub fn finish(self) -> Result<W, NarWriteError> {
        if self.place == Place::End { Ok(self.sink) } else { Err(NarWriteError::OutOfPlace("its end")) }
    }

    fn begin_node(&self, what: &'static str) -> Result<(), NarWriteError> {
        if self.place != Place::Node {
            return Err(NarWriteError::OutOfPlace(what));
        }
        if self.directories.len() >= MAX_DEPTH {
            return Err(NarError::TooDeep.into());
        }
        Ok(())
    }

    fn end_node(&mut self) -> Result<(), NarWriteError> {
        self.word(b")")?;
        self.place = if self.directories.is_empty() {
            Place::End
        } else {
            self.word(b")")?;
            Place::Directory
        };
        Ok(())
    }

    fn words(&mut self, words: &[&[u8]]) -> Result<(), NarWriteError> {
        words.iter().try_for_each(|word| self.word(word))
    }

    fn word(&mut self, word: &[u8]) -> Result<(), NarWriteError> {
        let len = word.len() as u64;
        self.sink.write_all(&len.to_le_bytes())?;
        self.sink.write_all(word)?;
        self.pad(len)
    }

    fn pad(&mut self, len: u64) -> Result<(), NarWriteError> {
        let padding = usize::try_from((8 - len % 8) % 8).expect("less than 8");
        Ok(self.sink.write_all(&ZEROS[..padding])?)
    }
}
