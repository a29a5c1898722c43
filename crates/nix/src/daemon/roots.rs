//! What keeps store paths from the garbage collector.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::codec::{self, Encoder};
use super::connection::{Connection, Daemon};
use super::error::DaemonError;
use super::log::ignore;
use super::operation::Operation;
use super::query::{WINDOW, first_refusal};
use super::stderr;
use crate::store_path::StorePath;

impl Daemon {
    /// Keeps a path as long as this connection lives, whether or not it is valid yet. Success does not say
    /// that it is: ask afterwards.
    pub async fn add_temp_root(&mut self, path: &StorePath) -> Result<(), DaemonError> {
        self.add_temp_roots([path]).await
    }

    /// As [`Daemon::add_temp_root`] for many, in few round trips.
    pub async fn add_temp_roots<'p>(
        &mut self,
        paths: impl IntoIterator<Item = &'p StorePath>,
    ) -> Result<(), DaemonError> {
        let paths: Vec<&StorePath> = paths.into_iter().collect();
        for window in paths.chunks(WINDOW) {
            let mut request = Encoder::new();
            for path in window {
                request.word(Operation::AddTempRoot.word()).path(self.store_dir(), path);
            }
            let mut connection = self.take()?;
            let Connection { reader, writer } = &mut connection;
            codec::send(writer, &request).await?;
            let mut refusal = None;
            for _ in window {
                if first_refusal(&mut refusal, stderr::listen(reader, &mut ignore).await?) {
                    codec::read_u64(reader).await?;
                }
            }
            self.put_back(connection);
            refusal.map_or(Ok(()), |error| Err(Box::new(error)))?;
        }
        Ok(())
    }

    /// Registers a symlink that points to a store path as a root. The link is the client's to make and to
    /// remove; the daemon must see it under the same name.
    pub async fn add_indirect_root(&mut self, link: &Path) -> Result<(), DaemonError> {
        if !link.is_absolute() {
            return Err(DaemonError::Request("the name of a root must be absolute"));
        }
        let mut request = Encoder::new();
        request.word(Operation::AddIndirectRoot.word()).bytes(link.as_os_str().as_bytes());
        self.call(&request, &mut ignore).await?.end_with_word().await
    }
}
