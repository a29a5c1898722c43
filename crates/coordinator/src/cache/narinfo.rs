//! What a narinfo of ours says. Pure but for the signature, which is the signer's.

use fleet_nix::{NarInfo, PathInfo, StoreDir};
use fleet_store::{Digest, Manifest};
use tonic::codegen::http::HeaderValue;

use super::Signer;
use super::asked::Asked;

/// Hexadecimal digits of a tag.
const TAG: usize = 32;

/// The narinfo of a published path, signed now.
pub(super) fn text(store_dir: &StoreDir, mut info: PathInfo, manifest: &Manifest, signer: &Signer) -> String {
    signer.sign(store_dir, &mut info);
    let nar_hash = info.nar_hash.to_hash().to_nix32();
    let url = Asked::nar_url(info.path.hash_part(), &nar_hash);
    let file_size = Some(manifest.frames_len());
    let compression = "zstd".to_owned();
    NarInfo { path_info: info, url, compression, file_hash: None, file_size }.print(store_dir)
}

/// Names this content.
pub(super) fn tag(content: &[u8]) -> HeaderValue {
    let name = Digest::of(content).to_string();
    HeaderValue::from_str(&format!("\"{}\"", &name[..TAG])).expect("digits and quotes")
}

/// Names the frames of this manifest in a row.
pub(super) fn tag_of_frames(manifest: &Manifest) -> HeaderValue {
    let mut names = Vec::with_capacity(manifest.pieces.len() * 36);
    for piece in &manifest.pieces {
        names.extend_from_slice(&piece.digest.0);
        names.extend_from_slice(&piece.frame.to_le_bytes());
    }
    tag(&names)
}
