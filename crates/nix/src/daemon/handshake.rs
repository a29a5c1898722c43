//! The greeting, from either end: who speaks which protocol, and who trusts whom.

use std::collections::BTreeSet;

use tokio::io::{AsyncRead, AsyncWrite};

use super::codec::{self, Encoder, SHORT_TEXT};
use super::error::{DaemonError, Malformed, ReadError};
use super::version::{
    Dialect, FEATURE_NO_SET_OPTIONS, FEATURE_TYPED_REALISATIONS, NEWEST, OLDEST, Protocol, Trust,
};

const CLIENT_MAGIC: u64 = 0x6e69_7863;
const SERVER_MAGIC: u64 = 0x6478_696f;
/// Features have their own exchange from here on.
const FEATURES_SINCE: Protocol = Protocol { major: 1, minor: 38 };
/// More features than this are not a list of features.
const FEATURES: u64 = 256;

/// What the daemon said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// What both ends can.
    pub dialect: Dialect,
    /// For people.
    pub nix_version: String,
    /// Whether the daemon trusts us.
    pub trust: Trust,
}

/// Greets as a client. Afterwards the daemon still sends the messages of its start-up.
pub async fn greet_server<R, W>(reader: &mut R, writer: &mut W) -> Result<Greeting, DaemonError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    codec::send(writer, Encoder::new().word(CLIENT_MAGIC).word(NEWEST.word())).await?;
    let magic = codec::read_u64(reader).await?;
    if magic != SERVER_MAGIC {
        return Err(Malformed::Magic(magic).into());
    }
    let theirs = Protocol::from_word(codec::read_u64(reader).await?);
    let protocol = acceptable(theirs)?.min(NEWEST);
    let mut dialect = Dialect::plain(protocol);
    if protocol >= FEATURES_SINCE {
        let ours = [FEATURE_TYPED_REALISATIONS, FEATURE_NO_SET_OPTIONS];
        codec::send(writer, Encoder::new().list(ours, |out, feature| out.bytes(feature))).await?;
        dialect.features = read_features(reader).await?;
        dialect.features.retain(|feature| ours.contains(&feature.as_str()));
    }
    // CPU affinity and reserved space: obsolete, and still sent.
    codec::send(writer, Encoder::new().word(0).word(0)).await?;
    let nix_version = codec::read_text(reader, "the daemon's version", SHORT_TEXT).await?;
    let word = codec::read_u64(reader).await?;
    let trust = Trust::from_word(word).ok_or(Malformed::Unknown { what: "a state of trust", value: word })?;
    Ok(Greeting { dialect, nix_version, trust })
}

fn acceptable(theirs: Protocol) -> Result<Protocol, DaemonError> {
    let Protocol { major, minor } = theirs;
    if major > OLDEST.major {
        return Err(DaemonError::TooNew { major, minor });
    }
    if theirs < OLDEST {
        return Err(DaemonError::TooOld { major, minor });
    }
    Ok(theirs)
}

/// Greets as a server, offering `greeting`; the returned dialect is what the client shares of it.
pub async fn greet_client<R, W>(
    reader: &mut R,
    writer: &mut W,
    greeting: &Greeting,
) -> Result<Dialect, ReadError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let magic = codec::read_u64(reader).await?;
    if magic != CLIENT_MAGIC {
        return Err(Malformed::Magic(magic).into());
    }
    let offered = &greeting.dialect;
    codec::send(writer, Encoder::new().word(SERVER_MAGIC).word(offered.protocol.word())).await?;
    let theirs = Protocol::from_word(codec::read_u64(reader).await?);
    if theirs < OLDEST {
        return Err(Malformed::Unknown { what: "a protocol understood here", value: theirs.word() }.into());
    }
    let mut dialect = Dialect::plain(theirs.min(offered.protocol));
    if dialect.protocol >= FEATURES_SINCE {
        let features = read_features(reader).await?;
        codec::send(writer, Encoder::new().list(&offered.features, |out, feature| out.bytes(feature)))
            .await?;
        dialect.features = features.intersection(&offered.features).cloned().collect();
    }
    if codec::read_bool(reader).await? {
        codec::read_u64(reader).await?;
    }
    codec::read_u64(reader).await?;
    codec::send(writer, Encoder::new().bytes(&greeting.nix_version).word(greeting.trust.word())).await?;
    Ok(dialect)
}

async fn read_features<R: AsyncRead + Unpin>(reader: &mut R) -> Result<BTreeSet<String>, ReadError> {
    let length = codec::read_count_within(reader, "the list of features", FEATURES).await?;
    let mut features = BTreeSet::new();
    for _ in 0..length {
        features.insert(codec::read_text(reader, "a feature", SHORT_TEXT).await?);
    }
    Ok(features)
}
