//! Reads everything back. What is not what it should be is set aside, and its path is kept no more: whoever has it may
//! bring it again.

use fleet_nix::StorePath;
use fleet_telemetry::with_causes;
use tokio::sync::mpsc;

use super::{CollectError, Collection};

/// A path that was not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damaged {
    pub(crate) path: StorePath,
    pub(crate) why: String,
}

/// How far a check is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verified {
    pub(crate) paths: u64,
    pub(crate) bytes: u64,
    /// Found since the last word.
    pub(crate) damaged: Vec<Damaged>,
}

impl Collection {
    /// Reads all paths back, and tells of every one until nobody listens; answers how far it came.
    pub(crate) async fn verify(&self, told: &mpsc::Sender<Verified>) -> Result<Verified, CollectError> {
        let _one = self.one.try_lock().map_err(|_| CollectError::Busy)?;
        let mut verified = Verified::default();
        let mut paths: Vec<StorePath> = self.table.kept().into_iter().map(|(path, _)| path).collect();
        paths.sort_unstable();
        for path in paths {
            match self.table.check(&path).await? {
                // Somebody removed it meanwhile.
                None => continue,
                Some(Ok(bytes)) => verified.bytes += bytes,
                Some(Err(error)) => verified.damaged.push(Damaged { path, why: with_causes(&error) }),
            }
            verified.paths += 1;
            let word = Verified { damaged: std::mem::take(&mut verified.damaged), ..verified };
            if told.send(word).await.is_err() {
                break;
            }
        }
        Ok(verified)
    }
}
