//! Copies messages of the protocol without understanding more than their shape.
//!
//! What is copied is bounded as a whole and put together anew, so that the other side receives well-formed
//! bytes whatever arrived here.

use tokio::io::AsyncRead;

use crate::daemon::codec::{self, Encoder};
use crate::daemon::{Malformed, ReadError};

/// Longest message that is copied.
const MESSAGE: u64 = 64 * 1024 * 1024;
/// Nothing in a message is cheaper than a word.
const WORD: u64 = 8;

/// A part of a message.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// One word.
    Word,
    /// A byte string.
    Text,
    /// A count, and as many groups.
    Many(&'static [Part]),
    /// A word, and the group unless it is zero.
    Maybe(&'static [Part]),
}

/// Reads a message into `out`.
pub(super) async fn copy<R: AsyncRead + Unpin>(
    reader: &mut R,
    parts: &[Part],
    out: &mut Encoder,
) -> Result<(), ReadError> {
    let mut left = MESSAGE;
    for part in parts {
        copy_part(reader, *part, out, &mut left).await?;
    }
    Ok(())
}

/// Shapes nest twice at most, so each depth has its own function and nothing is boxed.
async fn copy_part<R: AsyncRead + Unpin>(
    reader: &mut R,
    part: Part,
    out: &mut Encoder,
    left: &mut u64,
) -> Result<(), ReadError> {
    let Some((count, group)) = copy_leaf(reader, part, out, left).await? else {
        return Ok(());
    };
    for _ in 0..count {
        for part in group {
            let Some((count, group)) = copy_leaf(reader, *part, out, left).await? else {
                continue;
            };
            for _ in 0..count {
                for part in group {
                    if copy_leaf(reader, *part, out, left).await?.is_some() {
                        return Err(Malformed::Unexpected("a list in a list in a list").into());
                    }
                }
            }
        }
    }
    Ok(())
}

/// Copies a leaf, or the head of a group; then says how often which group follows.
async fn copy_leaf<R: AsyncRead + Unpin>(
    reader: &mut R,
    part: Part,
    out: &mut Encoder,
    left: &mut u64,
) -> Result<Option<(u64, &'static [Part])>, ReadError> {
    spend(left, WORD)?;
    match part {
        Part::Word => {
            out.word(codec::read_u64(reader).await?);
            Ok(None)
        }
        Part::Text => {
            let text = codec::read_bytes(reader, "a text", *left).await?;
            spend(left, text.len() as u64)?;
            out.bytes(text);
            Ok(None)
        }
        Part::Many(group) => {
            let count = codec::read_count(reader, "a list").await?;
            out.word(count);
            Ok(Some((count, group)))
        }
        Part::Maybe(group) => {
            let present = codec::read_bool(reader).await?;
            out.flag(present);
            Ok(Some((u64::from(present), group)))
        }
    }
}

fn spend(left: &mut u64, bytes: u64) -> Result<(), Malformed> {
    *left = left.checked_sub(bytes).ok_or(Malformed::TooLong {
        what: "a message",
        length: MESSAGE + bytes,
        limit: MESSAGE,
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &[Part] = &[Part::Word, Part::Many(&[Part::Text, Part::Many(&[Part::Text]), Part::Word])];

    #[tokio::test]
    async fn a_message_arrives_as_it_was() {
        let mut message = Encoder::new();
        message.word(7).word(2);
        for name in ["a", "bcdefgh"] {
            message.bytes(name).word(1).bytes("reference").word(9);
        }
        let bytes = message.into_bytes();
        let mut copied = Encoder::new();
        copy(&mut bytes.as_slice(), INFO, &mut copied).await.expect("well-formed");
        assert_eq!(copied.as_bytes(), bytes);
        for cut in 0..bytes.len() {
            assert!(copy(&mut &bytes[..cut], INFO, &mut Encoder::new()).await.is_err());
        }
    }

    #[tokio::test]
    async fn what_lengths_claim_is_not_believed() {
        for claim in [u64::MAX, MESSAGE, 1 << 40] {
            let bytes = claim.to_le_bytes();
            for part in [Part::Text, Part::Many(&[Part::Word])] {
                assert!(
                    copy(&mut bytes.as_slice(), &[part], &mut Encoder::new()).await.is_err(),
                    "{claim:#x}"
                );
            }
        }
    }
}
