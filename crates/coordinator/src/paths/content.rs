//! Computes the content address of an archive as it is read, where the NAR's hash does not say it.

use fleet_nix::hash::Hasher;
use fleet_nix::nar::NarEvent;
use fleet_nix::{ContentAddressMethod, HashAlgorithm, ModuloHasher, PathInfo};

/// What a content address is compared with, in the making.
#[derive(Debug)]
pub(super) enum Content {
    /// Nothing is claimed, or the NAR's hash is the address.
    OfArchive,
    /// Another hash of the archive.
    Archive(Hasher),
    /// The archive with its own hash part left out.
    Modulo(ModuloHasher),
    /// The contents of the one file in it.
    File { hasher: Hasher, open: bool },
    /// Nothing can be: why.
    Never(&'static str),
}

impl Content {
    pub(super) fn new(info: &PathInfo) -> Self {
        let Some(address) = &info.content_address else { return Self::OfArchive };
        let algorithm = address.hash.algorithm();
        match address.method {
            ContentAddressMethod::NixArchive if info.references.contains(&info.path) => {
                Self::Modulo(ModuloHasher::new(algorithm, &info.path))
            }
            ContentAddressMethod::NixArchive if algorithm == HashAlgorithm::Sha256 => Self::OfArchive,
            ContentAddressMethod::NixArchive => Self::Archive(Hasher::new(algorithm)),
            ContentAddressMethod::Flat | ContentAddressMethod::Text => {
                Self::File { hasher: Hasher::new(algorithm), open: false }
            }
            ContentAddressMethod::Git => Self::Never("objects are not hashed as git does"),
        }
    }

    /// Takes some bytes of the archive.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Archive(hasher) => hasher.update(bytes),
            Self::Modulo(hasher) => {
                if hasher.update(bytes).is_err() {
                    *self = Self::Never("it holds its own hash part too often");
                }
            }
            Self::OfArchive | Self::File { .. } | Self::Never(_) => {}
        }
    }

    /// Takes what some bytes mean.
    pub(super) fn heed(&mut self, event: NarEvent<'_>) {
        let Self::File { hasher, open } = self else { return };
        match event {
            NarEvent::File { executable: false, .. } => *open = true,
            NarEvent::Contents(bytes) if *open => hasher.update(bytes),
            NarEvent::FileEnd => {}
            _ => *self = Self::Never("it is not one plain file"),
        }
    }

    /// Whether it is what `info` claims; why not, if it is not.
    pub(super) fn finish(self, info: &PathInfo) -> Result<(), &'static str> {
        let actual = match self {
            Self::Never(why) => return Err(why),
            // The path follows from the address, and the address from the NAR's hash: both were looked at.
            Self::OfArchive => return Ok(()),
            Self::Archive(hasher) | Self::File { hasher, .. } => hasher.finish(),
            Self::Modulo(hasher) => hasher.finish(),
        };
        let claimed = info.content_address.as_ref().map(|address| address.hash);
        if claimed == Some(actual) { Ok(()) } else { Err("its contents have another hash") }
    }
}
