//! Reading an archive's chunks in order, some of them ahead. Memory is bounded by what is read ahead, not by the
//! archive; every chunk is checked before any of its bytes are given.

use std::ops::Range;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use crate::StoreError;
use crate::chunk_store::{ChunkStore, Fetched};
use crate::manifest::{Manifest, Piece};

impl ChunkStore {
    /// The chunks of these pieces in order, `ahead` of them read before they are asked for: about two megabytes each.
    /// A chunk of another size than its piece says is [`StoreError::OtherSize`].
    pub fn contents(
        &self,
        pieces: Vec<Piece>,
        ahead: usize,
    ) -> BoxStream<'static, Result<Fetched, StoreError>> {
        let store = self.clone();
        let fetched = futures::stream::iter(pieces).map(move |piece| {
            let store = store.clone();
            async move {
                let fetched = store.fetch(piece.digest).await?;
                let sized = same_size(&piece, piece.size, fetched.data.len());
                sized.map(|()| fetched)
            }
        });
        fetched.buffered(ahead.max(1)).boxed()
    }

    /// The frames of a manifest in order, as [`ChunkStore::contents`] gives them. A frame of another length than the
    /// manifest says, where it says one, is [`StoreError::OtherSize`].
    pub fn frames(&self, pieces: Vec<Piece>, ahead: usize) -> BoxStream<'static, Result<Bytes, StoreError>> {
        let store = self.clone();
        let frames = futures::stream::iter(pieces).map(move |piece| {
            let store = store.clone();
            async move {
                let fetched = store.fetch(piece.digest).await?;
                if piece.frame != 0 {
                    same_size(&piece, piece.frame, fetched.frame.len())?;
                }
                same_size(&piece, piece.size, fetched.data.len()).map(|()| fetched.frame)
            }
        });
        frames.buffered(ahead.max(1)).boxed()
    }

    /// A range of bytes of all frames of a manifest in a row. What lies beyond their end is left out.
    pub fn frame_range(
        &self,
        manifest: &Manifest,
        range: Range<u64>,
        ahead: usize,
    ) -> BoxStream<'static, Result<Bytes, StoreError>> {
        let mut at = 0;
        let mut first = None;
        let mut pieces = Vec::new();
        for piece in &manifest.pieces {
            let end = at + u64::from(piece.frame);
            if end > range.start && at < range.end {
                first.get_or_insert(at);
                pieces.push(*piece);
            }
            at = end;
        }
        let mut at = first.unwrap_or_default();
        let frames = self.frames(pieces, ahead);
        let cut = frames.map_ok(move |frame| {
            let length = frame.len() as u64;
            let within = |position: u64| {
                // At most the length of the frame.
                usize::try_from(position.saturating_sub(at).min(length)).unwrap_or(frame.len())
            };
            let part = frame.slice(within(range.start)..within(range.end));
            at += length;
            part
        });
        cut.boxed()
    }
}

fn same_size(piece: &Piece, expected: u32, actual: usize) -> Result<(), StoreError> {
    if expected as usize == actual {
        return Ok(());
    }
    let (expected, actual) = (u64::from(expected), actual as u64);
    Err(StoreError::OtherSize { digest: piece.digest, expected, actual })
}
