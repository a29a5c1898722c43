//! The grammar of archives as a state machine without IO: fed any pieces of bytes, it tells what they mean.
//!
//! It holds one name for each open directory and the word it is in, nothing else. Declared lengths are
//! checked before a byte is kept, so no input makes it grow.

use super::{MAX_DEPTH, MAX_NAME_LEN, MAX_TARGET_LEN, NarError};

pub(super) const MAGIC: &[u8] = b"nix-archive-1";
/// Longer than any word of the grammar, and enough to show what stands in its place.
const MAX_WORD_LEN: usize = 32;
const CASE_HACK: &[u8] = b"~nix~case~hack~";

/// One thing an archive says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NarEvent<'a> {
    /// A directory begins; its entries follow.
    Directory,
    /// The next node is the entry of this name in the directory that is open.
    Entry(&'a [u8]),
    /// The innermost directory ends.
    DirectoryEnd,
    /// A file begins; `size` bytes of contents follow in any number of pieces.
    File {
        /// Whether it is executable.
        executable: bool,
        /// Bytes of its contents.
        size: u64,
    },
    /// Some contents of the file that is open; never empty.
    Contents(&'a [u8]),
    /// The file's contents are complete.
    FileEnd,
    /// A symbolic link with this target.
    Symlink(&'a [u8]),
}

/// Reads one archive, piece by piece.
#[derive(Clone, Debug)]
pub struct NarParser {
    expecting: Expecting,
    /// The last name read in each open directory.
    directories: Vec<Vec<u8>>,
    field: Field,
    word: Vec<u8>,
}

/// The place in the grammar: which word must come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expecting {
    Magic,
    NodeOpen,
    Type,
    Kind,
    ExecutableOrContents,
    ExecutableValue,
    ContentsWord,
    Contents { executable: bool },
    Target,
    TargetValue,
    NodeClose,
    EntryOrClose,
    EntryOpen,
    Name,
    NameValue,
    Node,
    EntryClose,
    End,
}

/// The place in a word: its length, its bytes, its padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Length { bytes: [u8; 8], have: usize },
    Body { left: u64, padding: u8 },
    Padding { left: u8 },
}

const LENGTH: Field = Field::Length { bytes: [0; 8], have: 0 };

impl NarParser {
    /// At the beginning of an archive.
    pub fn new() -> Self {
        Self { expecting: Expecting::Magic, directories: Vec::new(), field: LENGTH, word: Vec::new() }
    }

    /// Takes `bytes` up to the end of the archive, tells `visit` what they mean, and returns how many bytes it
    /// took: all of them, unless the archive ends before. After an error it must not be fed again.
    pub fn feed<E: From<NarError>>(
        &mut self,
        bytes: &[u8],
        mut visit: impl FnMut(NarEvent<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut rest = bytes;
        while !self.is_finished() && !rest.is_empty() {
            let taken = self.step(rest, &mut visit)?;
            rest = &rest[taken..];
        }
        Ok(bytes.len() - rest.len())
    }

    /// Whether the archive has ended.
    pub fn is_finished(&self) -> bool {
        self.expecting == Expecting::End
    }

    /// Must be called when the source of bytes has ended.
    pub fn finish(&self) -> Result<(), NarError> {
        if self.is_finished() { Ok(()) } else { Err(NarError::Truncated) }
    }

    /// Takes at least one byte of `bytes`, which is not empty.
    fn step<E: From<NarError>>(
        &mut self,
        bytes: &[u8],
        visit: &mut impl FnMut(NarEvent<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        match self.field {
            Field::Length { bytes: mut known, have } => {
                let taken = bytes.len().min(8 - have);
                known[have..have + taken].copy_from_slice(&bytes[..taken]);
                if have + taken < 8 {
                    self.field = Field::Length { bytes: known, have: have + taken };
                } else {
                    self.begin_word(u64::from_le_bytes(known), visit)?;
                }
                Ok(taken)
            }
            Field::Body { left, padding } => {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                if matches!(self.expecting, Expecting::Contents { .. }) {
                    visit(NarEvent::Contents(&bytes[..taken]))?;
                } else {
                    self.word.extend_from_slice(&bytes[..taken]);
                }
                let left = left - taken as u64;
                self.field = Field::Body { left, padding };
                if left == 0 {
                    self.end_body(padding, visit)?;
                }
                Ok(taken)
            }
            Field::Padding { left } => {
                let taken = usize::from(left).min(bytes.len());
                if bytes[..taken].iter().any(|byte| *byte != 0) {
                    return Err(NarError::BadPadding.into());
                }
                let left = left - u8::try_from(taken).expect("at most the padding was taken");
                self.field = Field::Padding { left };
                if left == 0 {
                    self.end_word(visit)?;
                }
                Ok(taken)
            }
        }
    }

    fn begin_word<E: From<NarError>>(
        &mut self,
        length: u64,
        visit: &mut impl FnMut(NarEvent<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Expecting::Contents { executable } = self.expecting {
            visit(NarEvent::File { executable, size: length })?;
        } else {
            let (what, limit) = self.expecting.limit();
            if length > limit as u64 {
                return Err(match self.expecting {
                    Expecting::Magic => NarError::BadMagic,
                    _ => NarError::TooLong { what, length, limit },
                }
                .into());
            }
        }
        self.word.clear();
        let padding = u8::try_from((8 - length % 8) % 8).expect("less than 8");
        self.field = Field::Body { left: length, padding };
        if length == 0 { self.end_body(padding, visit) } else { Ok(()) }
    }

    fn end_body<E: From<NarError>>(
        &mut self,
        padding: u8,
        visit: &mut impl FnMut(NarEvent<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if padding == 0 {
            return self.end_word(visit);
        }
        self.field = Field::Padding { left: padding };
        Ok(())
    }

    fn end_word<E: From<NarError>>(
        &mut self,
        visit: &mut impl FnMut(NarEvent<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.field = LENGTH;
        let word = std::mem::take(&mut self.word);
        let (next, event) = self.read(&word)?;
        if let Some(event) = event {
            visit(event)?;
        }
        // Kept for its allocation.
        self.word = word;
        self.expecting = next;
        Ok(())
    }

    /// What the word means where it stands, and what must come next.
    fn read<'w>(&mut self, word: &'w [u8]) -> Result<(Expecting, Option<NarEvent<'w>>), NarError> {
        use Expecting as E;
        let next = match (self.expecting, word) {
            (E::Magic, MAGIC) | (E::Node, b"node") => E::NodeOpen,
            (E::Magic, _) => return Err(NarError::BadMagic),
            (E::NodeOpen, b"(") => {
                if self.directories.len() >= MAX_DEPTH {
                    return Err(NarError::TooDeep);
                }
                E::Type
            }
            (E::Type, b"type") => E::Kind,
            (E::Kind, b"regular") => E::ExecutableOrContents,
            (E::Kind, b"symlink") => E::Target,
            (E::Kind, b"directory") => {
                self.directories.push(Vec::new());
                return Ok((E::EntryOrClose, Some(NarEvent::Directory)));
            }
            (E::ExecutableOrContents, b"executable") => E::ExecutableValue,
            (E::ExecutableOrContents, b"contents") => E::Contents { executable: false },
            (E::ExecutableValue, _) => E::ContentsWord,
            (E::ContentsWord, b"contents") => E::Contents { executable: true },
            (E::Contents { .. }, _) => return Ok((E::NodeClose, Some(NarEvent::FileEnd))),
            (E::Target, b"target") => E::TargetValue,
            (E::TargetValue, target) => {
                check_target(target)?;
                return Ok((E::NodeClose, Some(NarEvent::Symlink(target))));
            }
            (E::NodeClose, b")") => self.after_node(),
            (E::EntryOrClose, b"entry") => E::EntryOpen,
            (E::EntryOrClose, b")") => {
                self.directories.pop();
                return Ok((self.after_node(), Some(NarEvent::DirectoryEnd)));
            }
            (E::EntryOpen, b"(") => E::Name,
            (E::Name, b"name") => E::NameValue,
            (E::NameValue, name) => {
                let last = self.directories.last_mut().expect("entries are read inside a directory");
                check_name(last, name)?;
                last.clear();
                last.extend_from_slice(name);
                return Ok((E::Node, Some(NarEvent::Entry(name))));
            }
            (E::EntryClose, b")") => E::EntryOrClose,
            (expecting, word) => {
                let found = excerpt(word);
                return Err(NarError::UnexpectedWord { expected: expecting.limit().0, found });
            }
        };
        Ok((next, None))
    }

    fn after_node(&self) -> Expecting {
        if self.directories.is_empty() { Expecting::End } else { Expecting::EntryClose }
    }
}

impl Default for NarParser {
    fn default() -> Self {
        Self::new()
    }
}

impl Expecting {
    /// What the word is, for messages, and how long it may be.
    const fn limit(self) -> (&'static str, usize) {
        match self {
            Self::Magic => ("magic", MAGIC.len()),
            Self::NodeOpen | Self::EntryOpen => ("'('", MAX_WORD_LEN),
            Self::Type => ("'type'", MAX_WORD_LEN),
            Self::Kind => ("type of a node", MAX_WORD_LEN),
            Self::ExecutableOrContents => ("'executable' or 'contents'", MAX_WORD_LEN),
            Self::ExecutableValue => ("value of 'executable'", 0),
            Self::ContentsWord => ("'contents'", MAX_WORD_LEN),
            Self::Contents { .. } => ("contents", usize::MAX),
            Self::Target => ("'target'", MAX_WORD_LEN),
            Self::TargetValue => ("symlink target", MAX_TARGET_LEN),
            Self::NodeClose | Self::EntryClose => ("')'", MAX_WORD_LEN),
            Self::EntryOrClose => ("'entry' or ')'", MAX_WORD_LEN),
            Self::Name => ("'name'", MAX_WORD_LEN),
            Self::NameValue => ("entry name", MAX_NAME_LEN),
            Self::Node => ("'node'", MAX_WORD_LEN),
            Self::End => ("nothing", 0),
        }
    }
}

/// Whether `name` may follow `last` in a directory (which is empty before the first entry).
pub(super) fn check_name(last: &[u8], name: &[u8]) -> Result<(), NarError> {
    if matches!(name, b"" | b"." | b"..") || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(NarError::BadName(excerpt(name)));
    }
    if name.len() > MAX_NAME_LEN {
        let length = name.len() as u64;
        return Err(NarError::TooLong { what: "entry name", length, limit: MAX_NAME_LEN });
    }
    if name.windows(CASE_HACK.len()).any(|window| window == CASE_HACK) {
        return Err(NarError::CaseHack(excerpt(name)));
    }
    if name <= last {
        return Err(NarError::OutOfOrder(excerpt(name)));
    }
    Ok(())
}

/// Whether a symbolic link may have this target.
pub(super) fn check_target(target: &[u8]) -> Result<(), NarError> {
    if target.is_empty() || target.contains(&0) {
        return Err(NarError::BadTarget(excerpt(target)));
    }
    if target.len() > MAX_TARGET_LEN {
        let length = target.len() as u64;
        return Err(NarError::TooLong { what: "symlink target", length, limit: MAX_TARGET_LEN });
    }
    Ok(())
}

/// At most 255 bytes, as text that is fit for a message.
fn excerpt(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(MAX_NAME_LEN)].escape_ascii().to_string()
}
