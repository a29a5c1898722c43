//! Adding to the store: the body passes through while the daemon already talks, and derivations are kept.

use std::collections::BTreeSet;
use std::io;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::daemon::codec::{self, Encoder, SHORT_TEXT};
use crate::daemon::framed::FramedReader;
use crate::daemon::values;
use crate::daemon::{DaemonError, Operation};
use crate::{PathInfo, StoreDir, StorePath};

use super::client::{Client, refusal};
use super::session::pass_on_messages;
use super::upstream::Upstream;

/// Largest file or tree.
const BODY: u64 = 64 * 1024 * 1024 * 1024;
/// Largest derivation that is kept.
const DERIVATION: u64 = 64 * 1024 * 1024;
const CHUNK: usize = 64 * 1024;
/// How derivations are addressed.
const TEXT: &str = "text:sha256";
const DERIVATION_SUFFIX: &str = ".drv";

/// A path that was added.
#[derive(Debug)]
pub(super) struct Added {
    pub(super) path: StorePath,
    /// The bytes and the references, if it is a derivation.
    pub(super) derivation: Option<(Bytes, BTreeSet<StorePath>)>,
}

/// `AddToStore`. Nothing when the daemon refused; the client knows.
pub(super) async fn add(
    client: &mut Client,
    upstream: &mut Upstream,
    store: &StoreDir,
) -> Result<Option<Added>, DaemonError> {
    let mut head = client.request();
    let name = codec::read_text(&mut head, "a name", SHORT_TEXT).await?;
    let method = codec::read_text(&mut head, "a content address method", SHORT_TEXT).await?;
    let references = values::read_paths(&mut head, store).await?;
    let _repair = codec::read_bool(&mut head).await?;
    let mut request = Encoder::new();
    request
        .word(Operation::AddToStore.word())
        .bytes(&name)
        .bytes(&method)
        .paths(store, &references)
        .flag(false);
    upstream.send(&request).await?;
    let mut kept = (method == TEXT && name.ends_with(DERIVATION_SUFFIX)).then(Vec::new);
    if !pass_through(client, upstream, kept.as_mut()).await? {
        return Ok(None);
    }
    let info = values::read_path_info(&mut upstream.reader, store).await?;
    client.reply(Encoder::new().path_info(store, &info)).await?;
    Ok(Some(Added { path: info.path, derivation: kept.map(|aterm| (aterm.into(), references)) }))
}

/// `AddToStoreNar`, for content-addressed paths only: the daemon is made to check that they are what they claim.
pub(super) async fn add_nar(
    client: &mut Client,
    upstream: &mut Upstream,
    store: &StoreDir,
) -> Result<Result<Option<Added>, &'static str>, DaemonError> {
    let mut head = client.request();
    let info = values::read_path_info(&mut head, store).await?;
    let (_repair, _unchecked) = (codec::read_bool(&mut head).await?, codec::read_bool(&mut head).await?);
    if info.content_address.is_none() {
        FramedReader::new(&mut client.reader).drain().await?;
        return Ok(Err("only content-addressed paths may be added during evaluation"));
    }
    let info = PathInfo { ultimate: false, ..info };
    let mut request = Encoder::new();
    request.word(Operation::AddToStoreNar.word()).path_info(store, &info).flag(false).flag(false);
    upstream.send(&request).await?;
    if !pass_through(client, upstream, None).await? {
        return Ok(Ok(None));
    }
    client.reply(&Encoder::new()).await?;
    Ok(Ok(Some(Added { path: info.path, derivation: None })))
}

/// Copies the body up while messages come down; false when the daemon failed, and the client knows.
async fn pass_through(
    client: &mut Client,
    upstream: &mut Upstream,
    kept: Option<&mut Vec<u8>>,
) -> Result<bool, DaemonError> {
    let body = copy_body(&mut client.reader, &mut upstream.writer, kept);
    let messages = pass_on_messages(&mut upstream.reader, &mut client.writer);
    // Both end in every case: a client ends its body also after an error, a daemon reads it to the end, and what a
    // lost daemon does not take is dropped.
    let (sent, heard) = tokio::try_join!(body, async { Ok(messages.await) })?;
    match heard.and_then(|done| Ok(sent.map(|()| done)?)) {
        Ok(done) => Ok(done),
        Err(error) => {
            upstream.give_up();
            client.fail(refusal(error.to_string())).await?;
            Ok(false)
        }
    }
}

/// The inner error is the daemon's, and the body was read to its end nevertheless.
async fn copy_body(
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    mut kept: Option<&mut Vec<u8>>,
) -> Result<io::Result<()>, DaemonError> {
    let mut body = FramedReader::new(reader);
    let mut chunk = vec![0; 8 + CHUNK];
    let mut total = 0_u64;
    loop {
        let read = body.read(&mut chunk[8..]).await?;
        total += read as u64;
        let limit = if kept.is_some() { DERIVATION } else { BODY };
        if total > limit {
            return Err(DaemonError::Request("it is an addition to the store without end"));
        }
        chunk[..8].copy_from_slice(&(read as u64).to_le_bytes());
        if let Err(error) = writer.write_all(&chunk[..8 + read]).await {
            body.drain().await?;
            return Ok(Err(error));
        }
        if read == 0 {
            return Ok(writer.flush().await);
        }
        if let Some(kept) = &mut kept {
            kept.extend_from_slice(&chunk[8..8 + read]);
        }
    }
}
