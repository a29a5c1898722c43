//! Sources and what comes along with them: what names one, and whether it is whole. Knows nothing of where chunks are.

use fleet_core::SourceId;
use prost::Message;

use super::{MAX_NAME, WireError};
use crate::v1;

/// Largest chunk of a manifest, bytes.
pub(super) const MAX_CHUNK: u32 = 1 << 20;
/// Inputs that come along with one source.
pub(super) const MAX_SOURCE_INPUTS: usize = 256;

/// What names a source: its content and every fact that a flake can see. Two commits of one tree are two sources.
pub fn source_id(source: &v1::Source) -> Result<SourceId, WireError> {
    if source.nar_hash.len() != 32 {
        return Err(WireError::Invalid("source.nar_hash"));
    }
    // How trees travel and what people call them is no part of what they are.
    let mut brought: Vec<_> = source.inputs.iter().map(|input| input.nar_hash.clone()).collect();
    brought.sort_unstable();
    brought.dedup();
    let inputs =
        brought.into_iter().map(|nar_hash| v1::SourceInput { nar_hash, ..v1::SourceInput::default() });
    let identity = v1::Source { manifest: None, inputs: inputs.collect(), ..source.clone() };
    Ok(SourceId(*blake3::hash(&identity.encode_to_vec()).as_bytes()))
}

/// A source with all that a worker needs of it.
pub(super) fn source(source: &v1::Source) -> Result<SourceId, WireError> {
    let id = source_id(source)?;
    let manifest = source.manifest.as_ref().ok_or(WireError::Missing("source.manifest"))?;
    if !is_whole(manifest, source.nar_size) {
        return Err(WireError::Invalid("source.manifest"));
    }
    if source.inputs.len() > MAX_SOURCE_INPUTS {
        return Err(WireError::TooLarge("source.inputs"));
    }
    source.inputs.iter().try_for_each(source_input)?;
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(char::is_control);
    if source.subdir.len() > MAX_NAME {
        return Err(WireError::TooLarge("source.subdir"));
    }
    if !source.subdir.is_empty() && !source.subdir.split('/').all(plain) {
        return Err(WireError::Invalid("source.subdir"));
    }
    if source.rev.len() > 64 || !source.rev.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(WireError::Invalid("source.rev"));
    }
    Ok(id)
}

fn source_input(input: &v1::SourceInput) -> Result<(), WireError> {
    let manifest = input.manifest.as_ref().ok_or(WireError::Missing("source.inputs.manifest"))?;
    if input.nar_hash.len() != 32 || !is_whole(manifest, input.nar_size) {
        return Err(WireError::Invalid("source.inputs"));
    }
    if input.name.len() > MAX_NAME { Err(WireError::TooLarge("source.inputs.name")) } else { Ok(()) }
}

/// Whether these chunks can make a NAR of that size.
fn is_whole(manifest: &v1::Manifest, nar_size: u64) -> bool {
    let whole = |chunk: &v1::ChunkRef| chunk.digest.len() == 32 && chunk.size <= MAX_CHUNK;
    let size: u64 = manifest.chunks.iter().map(|chunk| u64::from(chunk.size)).sum();
    manifest.chunks.iter().all(whole) && size == nar_size
}
