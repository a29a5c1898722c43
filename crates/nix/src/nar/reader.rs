//! Reads an archive from a blocking source.

use std::io::{self, Read};

use super::{NarError, NarEvent, NarParser, NarReadError};
use crate::hash::{NarHash, NarHasher};

const BUFFER_LEN: usize = 64 << 10;

/// Reads one archive that must end with its source, tells `visit` what it says, and returns its size.
pub fn read_nar<E: From<NarError> + From<io::Error>>(
    mut source: impl Read,
    mut visit: impl FnMut(NarEvent<'_>) -> Result<(), E>,
) -> Result<u64, E> {
    let mut parser = NarParser::new();
    let mut buffer = vec![0; BUFFER_LEN];
    let mut size = 0;
    loop {
        let len = match source.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        };
        if len == 0 {
            parser.finish()?;
            return Ok(size);
        }
        if parser.feed(&buffer[..len], &mut visit)? < len {
            return Err(NarError::Trailing.into());
        }
        size += len as u64;
    }
}

/// Reads one archive that must end with its source; returns its hash and size.
pub fn verify_nar(source: impl Read) -> Result<(NarHash, u64), NarReadError> {
    let mut hashing = Hashing { source, hasher: NarHasher::new() };
    read_nar(&mut hashing, |_| Ok::<(), NarReadError>(()))?;
    Ok(hashing.hasher.finish())
}

struct Hashing<R> {
    source: R,
    hasher: NarHasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.source.read(buffer)?;
        self.hasher.update(&buffer[..len]);
        Ok(len)
    }
}
