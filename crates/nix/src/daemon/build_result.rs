//! How a build ended, as the daemon tells it. `verdict` says what that means.

use std::collections::BTreeMap;

use serde::Deserialize;
use tokio::io::AsyncRead;

use super::codec::{self, Encoder, LONG_TEXT, SHORT_TEXT};
use super::error::{Malformed, ReadError};
use super::stderr::TEXT;
use super::values;
use super::version::{Dialect, FEATURE_TYPED_REALISATIONS};
use crate::plain_text::plain_text;
use crate::store_path::{OutputName, StoreDir, StorePath};

/// How a build or substitution ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildResult {
    /// In one word.
    pub status: BuildStatus,
    /// The daemon's explanation of a failure, without terminal escapes; empty after success.
    pub error_message: String,
    /// How often the builder ran. Some daemons forget it, and the two times, and say 0.
    pub times_built: u64,
    /// Whether repeated builds differed.
    pub is_non_deterministic: bool,
    /// Seconds since 1970; 0 if nothing was built, or unknown.
    pub start_time: u64,
    /// Seconds since 1970; 0 if nothing was built, or unknown.
    pub stop_time: u64,
    /// Known only where the daemon measures with cgroups.
    pub cpu_user_us: Option<u64>,
    /// Known only where the daemon measures with cgroups.
    pub cpu_system_us: Option<u64>,
    /// Paths of the outputs asked for; empty after a failure.
    pub built_outputs: BTreeMap<OutputName, StorePath>,
}

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// Nix's word for how a build ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum BuildStatus {
            $($(#[$doc])* $name,)*
            /// Not known here.
            Other(u64),
        }

        impl BuildStatus {
            /// From the protocol's number.
            pub const fn from_word(word: u64) -> Self {
                match word {
                    $($number => Self::$name,)*
                    word => Self::Other(word),
                }
            }

            /// The protocol's number.
            pub const fn word(self) -> u64 {
                match self {
                    $(Self::$name => $number,)*
                    Self::Other(word) => word,
                }
            }
        }
    };
}

statuses! {
    /// The builder ran.
    Built = 0,
    /// All came from a substituter.
    Substituted = 1,
    /// All was there.
    AlreadyValid = 2,
    /// The builder failed.
    PermanentFailure = 3,
    /// This daemon does not build such derivations.
    InputRejected = 4,
    /// What the builder made breaks a rule.
    OutputRejected = 5,
    /// The builder failed where that may have been bad luck.
    TransientFailure = 6,
    /// No longer used.
    CachedFailure = 7,
    /// Too long, or too long silent.
    TimedOut = 8,
    /// Anything else.
    MiscFailure = 9,
    /// An input could not be made.
    DependencyFailed = 10,
    /// Too many bytes of log.
    LogLimitExceeded = 11,
    /// A repeated build differed.
    NotDeterministic = 12,
    /// The derivation turned out to be one whose outputs are there.
    ResolvesToAlreadyValid = 13,
    /// Nobody serves the path.
    NoSubstituters = 14,
}

impl BuildStatus {
    /// Whether the outputs are there.
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Built | Self::Substituted | Self::AlreadyValid | Self::ResolvesToAlreadyValid)
    }
}

/// Reads a result in a dialect.
pub async fn read_build_result<R: AsyncRead + Unpin>(
    reader: &mut R,
    store: &StoreDir,
    dialect: &Dialect,
) -> Result<BuildResult, ReadError> {
    let status = BuildStatus::from_word(codec::read_u64(reader).await?);
    let error_message = plain_text(codec::read_bytes_cut(reader, TEXT).await?);
    let times_built = codec::read_u64(reader).await?;
    let is_non_deterministic = codec::read_bool(reader).await?;
    let start_time = codec::read_u64(reader).await?;
    let stop_time = codec::read_u64(reader).await?;
    let mut cpu_us = [None; 2];
    if dialect.has_cpu_times() {
        for time in &mut cpu_us {
            *time = read_optional_word(reader).await?;
        }
    }
    Ok(BuildResult {
        status,
        error_message,
        times_built,
        is_non_deterministic,
        start_time,
        stop_time,
        cpu_user_us: cpu_us[0],
        cpu_system_us: cpu_us[1],
        built_outputs: read_outputs(reader, store, dialect).await?,
    })
}

async fn read_optional_word<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Option<u64>, ReadError> {
    match codec::read_u64(reader).await? {
        0 => Ok(None),
        1 => Ok(Some(codec::read_u64(reader).await?)),
        value => Err(Malformed::Unknown { what: "the mark of an optional value", value }.into()),
    }
}

/// Most outputs of a derivation.
const OUTPUTS: u64 = 64 * 1024;

/// The part of a realisation that is of use. Its other parts differ from version to version.
#[derive(Deserialize)]
struct Realisation {
    #[serde(rename = "outPath")]
    out_path: String,
}

async fn read_outputs<R: AsyncRead + Unpin>(
    reader: &mut R,
    store: &StoreDir,
    dialect: &Dialect,
) -> Result<BTreeMap<OutputName, StorePath>, ReadError> {
    let mut outputs = BTreeMap::new();
    for _ in 0..codec::read_count_within(reader, "a map of built outputs", OUTPUTS).await? {
        let key = codec::read_text(reader, "the key of a built output", SHORT_TEXT).await?;
        if dialect.has(FEATURE_TYPED_REALISATIONS) {
            let path = values::read_path(reader, store).await?;
            values::read_signatures(reader).await?;
            outputs.insert(values::parse("an output's name", &key)?, path);
            continue;
        }
        let json = codec::read_text(reader, "a realisation", LONG_TEXT).await?;
        let path = match serde_json::from_str(&json) {
            Ok(Realisation { out_path }) => values::parse("a store path", &out_path)?,
            Err(error) => return Err(values::refused("a realisation", &json, &error)),
        };
        // The key is a hash that nobody needs, an exclamation mark, and the name.
        let Some((_, name)) = key.split_once('!') else {
            return Err(values::refused("the key of a built output", &key, &"it names no output"));
        };
        outputs.insert(values::parse("an output's name", name)?, path);
    }
    Ok(outputs)
}

impl Encoder {
    /// A result in a dialect.
    pub fn build_result(&mut self, store: &StoreDir, dialect: &Dialect, result: &BuildResult) -> &mut Self {
        self.word(result.status.word()).bytes(&result.error_message);
        self.word(result.times_built).flag(result.is_non_deterministic);
        self.word(result.start_time).word(result.stop_time);
        if dialect.has_cpu_times() {
            for time in [result.cpu_user_us, result.cpu_system_us] {
                match time {
                    Some(time) => self.word(1).word(time),
                    None => self.word(0),
                };
            }
        }
        let is_typed = dialect.has(FEATURE_TYPED_REALISATIONS);
        self.list(&result.built_outputs, |out, (name, path)| {
            if is_typed {
                out.bytes(name.as_str()).path(store, path).word(0)
            } else {
                out.realisation(name, path)
            }
        })
    }

    /// Clients of this form only look at the name and the path; the hash stands for a derivation that is not
    /// at hand here.
    fn realisation(&mut self, name: &OutputName, path: &StorePath) -> &mut Self {
        let id = format!("sha256:{}!{name}", "0".repeat(64));
        let json = serde_json::json!({
            "id": id, "outPath": path.as_str(), "signatures": [], "dependentRealisations": {},
        });
        self.bytes(&id).bytes(json.to_string())
    }
}
