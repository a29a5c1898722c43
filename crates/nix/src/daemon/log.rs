//! What a daemon tells while it works: activities, their progress, and the lines of builders.

use std::ops::ControlFlow;

use super::stderr::{Field, Frame};
use crate::plain_text::plain_text;

/// Sees every event as it arrives. `Break` closes the connection, which ends the work.
pub type Observer<'a> = &'a mut (dyn FnMut(LogEvent) -> ControlFlow<()> + Send);

/// An observer that sees nothing.
pub fn ignore(_: LogEvent) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Something a daemon told. Activities are named by numbers unique within a connection; 0 is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEvent {
    /// A line a builder wrote, without its end; any bytes.
    BuildLogLine {
        /// The build.
        activity: u64,
        /// At most [`TEXT`](super::stderr::TEXT) bytes of it.
        line: Vec<u8>,
    },
    /// A line the daemon's post-build hook wrote.
    PostBuildLogLine {
        /// The hook.
        activity: u64,
        /// As for builders.
        line: Vec<u8>,
    },
    /// A builder entered a phase.
    Phase {
        /// The build.
        activity: u64,
        /// Such as `configurePhase`.
        phase: String,
    },
    /// Something began.
    ActivityStarted(Activity),
    /// Something ended, well or not.
    ActivityStopped {
        /// What.
        activity: u64,
    },
    /// Counts or bytes of an activity.
    Progress {
        /// Of what.
        activity: u64,
        /// Done so far.
        done: u64,
        /// Of these.
        expected: u64,
        /// Under way.
        running: u64,
        /// Failed.
        failed: u64,
    },
    /// How much of a kind an activity will bring.
    Expected {
        /// Which activity.
        activity: u64,
        /// What it will do.
        kind: ActivityKind,
        /// How many, or how many bytes.
        expected: u64,
    },
    /// A message for people, without terminal escapes.
    Message {
        /// May have several lines.
        text: String,
    },
    /// A result of another kind.
    Other {
        /// Of what.
        activity: u64,
        /// Nix's number.
        kind: u64,
        /// Depend on the kind.
        fields: Vec<Field>,
    },
}

/// The beginning of an activity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Names it from now on.
    pub id: u64,
    /// What it is a part of; 0 for none.
    pub parent: u64,
    /// Nix's verbosity level.
    pub level: u64,
    /// What it is.
    pub kind: ActivityKind,
    /// For people.
    pub text: String,
    /// Depend on the kind.
    pub fields: Vec<Field>,
}

impl Activity {
    /// The first field of a build is its derivation, that of a substitution or copy the store path; as full
    /// paths.
    pub fn subject(&self) -> Option<&str> {
        match self.fields.first()? {
            Field::Text(text) => std::str::from_utf8(text).ok(),
            Field::Number(_) => None,
        }
    }
}

macro_rules! activity_kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What an activity does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ActivityKind {
            $($(#[$doc])* $name,)*
            /// Not known here.
            Other(u64),
        }

        impl From<u64> for ActivityKind {
            fn from(number: u64) -> Self {
                match number {
                    $($number => Self::$name,)*
                    number => Self::Other(number),
                }
            }
        }
    };
}

activity_kinds! {
    /// One path is copied from another store.
    CopyPath = 100,
    /// A file is fetched.
    FileTransfer = 101,
    /// Wanted paths are made valid.
    Realise = 102,
    /// Several paths are copied.
    CopyPaths = 103,
    /// All builds together.
    Builds = 104,
    /// One derivation is built.
    Build = 105,
    /// Equal files are linked.
    OptimiseStore = 106,
    /// Paths are checked.
    VerifyPaths = 107,
    /// One path is substituted.
    Substitute = 108,
    /// A substituter is asked about a path.
    QueryPathInfo = 109,
    /// The post-build hook runs.
    PostBuildHook = 110,
    /// A build waits for a lock or a slot.
    BuildWaiting = 111,
    /// A source tree is fetched.
    FetchTree = 112,
    /// A source tree is copied into the store.
    FetchToStore = 113,
}

impl LogEvent {
    /// None for messages that end the work or carry data.
    pub fn from_frame(frame: Frame) -> Option<Self> {
        Some(match frame {
            Frame::Next(text) => Self::Message { text: plain_text(&text).trim_end().to_owned() },
            Frame::StartActivity { id, level, kind, text, fields, parent } => {
                Self::ActivityStarted(Activity {
                    id,
                    parent,
                    level,
                    kind: kind.into(),
                    text: plain_text(&text),
                    fields,
                })
            }
            Frame::StopActivity(activity) => Self::ActivityStopped { activity },
            Frame::Result { activity, kind, fields } => Self::from_result(activity, kind, fields),
            Frame::Last | Frame::Error(_) | Frame::Read(_) | Frame::Write(_) => return None,
        })
    }

    fn from_result(activity: u64, kind: u64, mut fields: Vec<Field>) -> Self {
        match (kind, fields.as_mut_slice()) {
            (101, [Field::Text(line)]) => Self::BuildLogLine { activity, line: std::mem::take(line) },
            (104, [Field::Text(phase)]) => Self::Phase { activity, phase: plain_text(phase) },
            (
                105,
                &mut [
                    Field::Number(done),
                    Field::Number(expected),
                    Field::Number(running),
                    Field::Number(failed),
                ],
            ) => Self::Progress { activity, done, expected, running, failed },
            (106, &mut [Field::Number(kind), Field::Number(expected)]) => {
                Self::Expected { activity, kind: kind.into(), expected }
            }
            (107, [Field::Text(line)]) => Self::PostBuildLogLine { activity, line: std::mem::take(line) },
            _ => Self::Other { activity, kind, fields },
        }
    }
}
