//! The stream of messages a daemon sends while it works on a request, up to its end or an error.
//!
//! Messages are read and written here as they are; `log` gives them meaning. A message never fails for its
//! length: of all its texts together, what exceeds [`TEXT`] is cut.

use tokio::io::AsyncRead;

use super::codec::{self, Encoder, SHORT_TEXT};
use super::error::{DaemonError, Malformed, ReadError, RemoteError};
use super::log::{LogEvent, Observer};
use crate::plain_text::plain_text;

/// How much text of a message is kept.
pub const TEXT: u64 = 1024 * 1024;
/// No message of Nix has more fields.
const FIELDS: u64 = 256;
/// No error of a daemon has more causes.
const TRACES: u64 = 4096;

const NEXT: u64 = 0x6f6c_6d67;
const READ: u64 = 0x6461_7461;
const WRITE: u64 = 0x6461_7416;
const LAST: u64 = 0x616c_7473;
const ERROR: u64 = 0x6378_7470;
const START_ACTIVITY: u64 = 0x5354_5254;
const STOP_ACTIVITY: u64 = 0x5354_4f50;
const RESULT: u64 = 0x5253_4c54;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Text for people.
    Next(Vec<u8>),
    /// The daemon wants this many bytes. Unused by the operations that exist since 1.35.
    Read(u64),
    /// The daemon sends bytes. Unused by the operations that exist since 1.35.
    Write(Vec<u8>),
    /// The work is done: the reply follows.
    Last,
    /// The work failed: no reply follows.
    Error(RemoteError),
    /// Something began.
    StartActivity {
        /// Names it from now on.
        id: u64,
        /// Verbosity level.
        level: u64,
        /// What it is.
        kind: u64,
        /// For people.
        text: Vec<u8>,
        /// Depend on `kind`.
        fields: Vec<Field>,
        /// What it is a part of; 0 for none.
        parent: u64,
    },
    /// Something ended.
    StopActivity(u64),
    /// Something was learnt about an activity.
    Result {
        /// Which.
        activity: u64,
        /// What it is.
        kind: u64,
        /// Depend on `kind`.
        fields: Vec<Field>,
    },
}

/// A value of an activity or result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A number.
    Number(u64),
    /// Text, in no particular encoding.
    Text(Vec<u8>),
}

/// Reads one message.
pub async fn read_frame<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Frame, ReadError> {
    let mut room = TEXT;
    Ok(match codec::read_u64(reader).await? {
        NEXT => Frame::Next(codec::read_bytes_cut(reader, TEXT).await?),
        READ => Frame::Read(codec::read_u64(reader).await?),
        WRITE => Frame::Write(codec::read_bytes_cut(reader, TEXT).await?),
        LAST => Frame::Last,
        ERROR => Frame::Error(read_error(reader).await?),
        START_ACTIVITY => Frame::StartActivity {
            id: codec::read_u64(reader).await?,
            level: codec::read_u64(reader).await?,
            kind: codec::read_u64(reader).await?,
            text: read_within(reader, &mut room).await?,
            fields: read_fields(reader, &mut room).await?,
            parent: codec::read_u64(reader).await?,
        },
        STOP_ACTIVITY => Frame::StopActivity(codec::read_u64(reader).await?),
        RESULT => Frame::Result {
            activity: codec::read_u64(reader).await?,
            kind: codec::read_u64(reader).await?,
            fields: read_fields(reader, &mut room).await?,
        },
        value => {
            return Err(Malformed::Unknown { what: "a message", value }.into());
        }
    })
}

/// Reads messages up to the end of the work. The outer error closes the connection, the inner one does not.
pub(super) async fn listen<R: AsyncRead + Unpin>(
    reader: &mut R,
    observer: Observer<'_>,
) -> Result<Result<(), RemoteError>, DaemonError> {
    loop {
        let event = match read_frame(reader).await? {
            Frame::Last => return Ok(Ok(())),
            Frame::Error(error) => return Ok(Err(error)),
            Frame::Read(_) => return Err(Malformed::Unexpected("a demand for data").into()),
            Frame::Write(_) => return Err(Malformed::Unexpected("data").into()),
            frame => LogEvent::from_frame(frame),
        };
        if let Some(event) = event
            && observer(event).is_break()
        {
            return Err(DaemonError::Aborted);
        }
    }
}

/// Reads the error whose first word stands where a reply should begin, if it is one.
pub(super) async fn read_late_error<R: AsyncRead + Unpin>(
    word: u64,
    reader: &mut R,
) -> Result<Option<RemoteError>, ReadError> {
    if word == ERROR { read_error(reader).await.map(Some) } else { Ok(None) }
}

async fn read_error<R: AsyncRead + Unpin>(reader: &mut R) -> Result<RemoteError, ReadError> {
    let kind = codec::read_text(reader, "the type of an error", SHORT_TEXT).await?;
    if kind != "Error" {
        return Err(Malformed::Unexpected("an error of another type").into());
    }
    let level = codec::read_u64(reader).await?;
    codec::read_bytes(reader, "the name of an error", SHORT_TEXT).await?;
    let mut room = TEXT;
    let message = plain_text(read_within(reader, &mut room).await?);
    refuse_position(reader).await?;
    let length = codec::read_count_within(reader, "the causes of an error", TRACES).await?;
    let mut traces = Vec::new();
    for _ in 0..length {
        refuse_position(reader).await?;
        traces.push(plain_text(read_within(reader, &mut room).await?));
    }
    Ok(RemoteError { level, message, traces })
}

/// The protocol has a place for source positions, and no form for them.
async fn refuse_position<R: AsyncRead + Unpin>(reader: &mut R) -> Result<(), ReadError> {
    match codec::read_u64(reader).await? {
        0 => Ok(()),
        value => Err(Malformed::Unknown { what: "an absent position", value }.into()),
    }
}

/// A text, of which at most `room` bytes are kept, and so much less room is left.
async fn read_within<R: AsyncRead + Unpin>(reader: &mut R, room: &mut u64) -> Result<Vec<u8>, ReadError> {
    let bytes = codec::read_bytes_cut(reader, *room).await?;
    *room -= bytes.len() as u64;
    Ok(bytes)
}

async fn read_fields<R: AsyncRead + Unpin>(reader: &mut R, room: &mut u64) -> Result<Vec<Field>, ReadError> {
    let length = codec::read_count_within(reader, "the fields of a message", FIELDS).await?;
    let mut fields = Vec::new();
    for _ in 0..length {
        fields.push(match codec::read_u64(reader).await? {
            0 => Field::Number(codec::read_u64(reader).await?),
            1 => Field::Text(read_within(reader, room).await?),
            value => {
                return Err(Malformed::Unknown { what: "the type of a field", value }.into());
            }
        });
    }
    Ok(fields)
}

impl Encoder {
    /// A message.
    pub fn frame(&mut self, frame: &Frame) -> &mut Self {
        match frame {
            Frame::Next(text) => self.word(NEXT).bytes(text),
            Frame::Read(count) => self.word(READ).word(*count),
            Frame::Write(bytes) => self.word(WRITE).bytes(bytes),
            Frame::Last => self.word(LAST),
            Frame::Error(error) => self.remote_error(error),
            Frame::StartActivity { id, level, kind, text, fields, parent } => self
                .word(START_ACTIVITY)
                .word(*id)
                .word(*level)
                .word(*kind)
                .bytes(text)
                .fields(fields)
                .word(*parent),
            Frame::StopActivity(id) => self.word(STOP_ACTIVITY).word(*id),
            Frame::Result { activity, kind, fields } => {
                self.word(RESULT).word(*activity).word(*kind).fields(fields)
            }
        }
    }

    fn remote_error(&mut self, error: &RemoteError) -> &mut Self {
        self.word(ERROR).bytes("Error").word(error.level).bytes("Error").bytes(&error.message).word(0);
        self.list(&error.traces, |out, trace| out.word(0).bytes(trace))
    }

    fn fields(&mut self, fields: &[Field]) -> &mut Self {
        self.list(fields, |out, field| match field {
            Field::Number(number) => out.word(0).word(*number),
            Field::Text(text) => out.word(1).bytes(text),
        })
    }
}
