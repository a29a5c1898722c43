//! An archive that is made as it is read: one large file of content that repeats, with noise that does not, and one
//! that names what the path refers to.

use std::io::{self, BufWriter, PipeReader, Write};
use std::thread::JoinHandle;

use fleet_nix::NarHash;
use fleet_nix::hash::NarHasher;
use fleet_nix::nar::NarWriter;

/// What repeats. It does not compress: its frames are as long as any.
const PATTERN: usize = 8 << 20;
/// One of so many blocks never occurs again.
const FRESH: u64 = 8;

/// One that is being written, and must be read.
pub(crate) struct Archive {
    pub(crate) reader: PipeReader,
    writer: JoinHandle<(NarHash, u64)>,
}

impl Archive {
    /// With a file of `size` bytes, and the names.
    pub(crate) fn begin(size: u64, names: &[&str]) -> Self {
        let (reader, pipe) = io::pipe().expect("a pipe");
        let names = names.join(" ");
        let writer = std::thread::spawn(move || {
            let sink = Sink { hasher: NarHasher::new(), pipe: BufWriter::with_capacity(64 << 10, pipe) };
            let mut writer = NarWriter::new(sink).expect("it is read");
            writer.begin_directory().expect("it is read");
            writer.entry(b"contents").expect("a name");
            write_contents(&mut writer, size);
            // At the end: what it refers to is found only by who reads all of it.
            writer.entry(b"names").expect("a name");
            writer.file(false, names.len() as u64, names.as_bytes()).expect("it is read");
            writer.end_directory().expect("it is read");
            let mut sink = writer.finish().expect("it is read");
            sink.pipe.flush().expect("it is read");
            sink.hasher.finish()
        });
        Self { reader, writer }
    }

    /// What the hash of all that was read is, and how much it was.
    pub(crate) fn finish(self) -> (NarHash, u64) {
        drop(self.reader);
        self.writer.join().expect("it was written")
    }
}

fn write_contents(writer: &mut NarWriter<Sink>, size: u64) {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut pattern = vec![0; PATTERN];
    fill(&mut pattern, &mut state);
    let mut fresh = vec![0; PATTERN];
    writer.begin_file(false, size).expect("it is read");
    let (mut left, mut block) = (size, 0_u64);
    while left > 0 {
        let part = usize::try_from(left).map_or(PATTERN, |left| left.min(PATTERN));
        let is_fresh = block % FRESH == 1;
        if is_fresh {
            fill(&mut fresh, &mut state);
        }
        let bytes = if is_fresh { &fresh } else { &pattern };
        writer.contents(&bytes[..part]).expect("it is read");
        (left, block) = (left - part as u64, block + 1);
    }
    writer.end_file().expect("it is read");
}

fn fill(bytes: &mut [u8], state: &mut u64) {
    for word in bytes.chunks_exact_mut(8) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

/// Hashes what it passes on.
struct Sink {
    hasher: NarHasher,
    pipe: BufWriter<io::PipeWriter>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.pipe.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pipe.flush()
    }
}
