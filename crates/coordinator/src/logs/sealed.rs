//! Logs that have ended: a file of zstd frames, each of which can be read when the next is damaged.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// Raw bytes of one frame.
const FRAME: usize = 1 << 20;
const LEVEL: i32 = 3;
/// Largest window that is accepted when reading, as a power of two: far above what level 3 uses.
const MAX_WINDOW_LOG: u32 = 24;

/// Where the sealed form of a log stands.
pub(super) fn sealed_path(growing: &Path) -> PathBuf {
    let mut name = growing.as_os_str().to_owned();
    name.push(".zst");
    name.into()
}

/// Replaces a log that has ended by its sealed form; an empty one by nothing.
pub(super) fn seal(growing: &Path) -> std::io::Result<()> {
    let mut raw = File::open(growing)?;
    if raw.metadata()?.len() > 0 {
        let target = sealed_path(growing);
        let mut unfinished = target.as_os_str().to_owned();
        unfinished.push(".tmp");
        let mut sealed = File::create(&unfinished)?;
        let mut frame = Vec::with_capacity(FRAME);
        while (&mut raw).take(FRAME as u64).read_to_end(&mut frame)? > 0 {
            sealed.write_all(&zstd::bulk::compress(&frame, LEVEL)?)?;
            frame.clear();
        }
        sealed.sync_all()?;
        std::fs::rename(&unfinished, &target)?;
    }
    match std::fs::remove_file(growing) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Reads the raw bytes of a sealed log from an offset on.
pub(super) fn open(path: &Path, from: u64) -> std::io::Result<Box<dyn Read + Send>> {
    let mut decoder = zstd::stream::read::Decoder::new(File::open(path)?)?;
    decoder.window_log_max(MAX_WINDOW_LOG)?;
    std::io::copy(&mut (&mut decoder).take(from), &mut std::io::sink())?;
    Ok(Box::new(decoder))
}
