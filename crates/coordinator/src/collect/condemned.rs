//! The file of who is condemned: so that the grace goes on over restarts. A file that is lost or damaged only makes
//! it begin again.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use fleet_paths::collector::Condemned;

/// Where that stands.
#[derive(Clone, Debug)]
pub(crate) struct Saved(PathBuf);

impl Saved {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("condemned.json"))
    }

    /// What was written last.
    pub(crate) fn read(&self) -> Condemned {
        let Ok(file) = File::open(&self.0) else { return Condemned::default() };
        serde_json::from_reader(BufReader::new(file)).unwrap_or_else(|error| {
            tracing::warn!(file = %self.0.display(), %error, "what was condemned is not known: its grace begins again");
            Condemned::default()
        })
    }

    /// Writes it in the place of the last.
    pub(super) async fn write(&self, condemned: Condemned) {
        let place = self.0.clone();
        let written = tokio::task::spawn_blocking(move || {
            let new = place.with_extension("new");
            let mut file = BufWriter::new(File::create(&new)?);
            serde_json::to_writer(&mut file, &condemned)?;
            file.flush()?;
            std::fs::rename(&new, &place)
        });
        if let Ok(Err(error)) = written.await {
            tracing::warn!(file = %self.0.display(), %error, "what is condemned is not written down");
        }
    }
}
