//! Bytes into the store: paths as NARs.

use futures::{Stream, StreamExt};
use std::io;

use tokio::io::{AsyncRead, AsyncWriteExt};

use super::codec::Encoder;
use super::connection::{Connection, Daemon, exchange};
use super::error::DaemonError;
use super::framed::{FramedError, FramedWriter};
use super::log::{Observer, ignore};
use super::operation::Operation;
use crate::path_info::PathInfo;

/// Whether a path must be content-addressed or signed by a key the daemon trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckSignatures {
    /// It must.
    Yes,
    /// It need not; only daemons that trust us listen to this.
    No,
}

impl Daemon {
    /// Adds a path from its NAR, of exactly `info.nar_size` bytes. All references must be valid. Does nothing
    /// (but read the NAR) if the path is valid already.
    pub async fn add_to_store_nar<N>(
        &mut self,
        info: &PathInfo,
        nar: &mut N,
        check: CheckSignatures,
    ) -> Result<(), DaemonError>
    where
        N: AsyncRead + Unpin + Send + ?Sized,
    {
        let mut request = Encoder::new();
        request.word(Operation::AddToStoreNar.word()).path_info(self.store_dir(), info);
        request.flag(false).flag(check == CheckSignatures::No);
        let mut connection = self.take()?;
        let Connection { reader, writer } = &mut connection;
        let sending = async {
            writer.write_all(request.as_bytes()).await.map_err(FramedError::Stream)?;
            let mut body = FramedWriter::new(writer);
            body.copy(nar, info.nar_size).await?;
            body.finish().await
        };
        let outcome = exchange(reader, &mut ignore, sending).await?;
        self.settle(connection, outcome)?.end();
        Ok(())
    }

    /// Adds `count` paths in one request, each from its NAR of exactly `nar_size` bytes. References come
    /// before what refers to them. After an error, paths that came first may have been added.
    pub async fn add_multiple_to_store<N>(
        &mut self,
        count: u64,
        entries: impl Stream<Item = io::Result<(PathInfo, N)>> + Send,
        check: CheckSignatures,
        observer: Observer<'_>,
    ) -> Result<(), DaemonError>
    where
        N: AsyncRead + Unpin + Send,
    {
        let mut request = Encoder::new();
        request.word(Operation::AddMultipleToStore.word()).flag(false).flag(check == CheckSignatures::No);
        let store = self.store_dir().clone();
        let mut connection = self.take()?;
        let Connection { reader, writer } = &mut connection;
        let sending = async {
            writer.write_all(request.as_bytes()).await.map_err(FramedError::Stream)?;
            let mut body = FramedWriter::new(writer);
            body.write_all(Encoder::new().word(count).as_bytes()).await?;
            let mut entries = std::pin::pin!(entries);
            let mut sent = 0;
            while let Some(entry) = entries.next().await {
                let (info, mut nar) = entry.map_err(FramedError::Body)?;
                body.write_all(Encoder::new().path_info(&store, &info).as_bytes()).await?;
                body.copy(&mut nar, info.nar_size).await?;
                sent += 1;
            }
            if sent != count {
                let text = format!("{sent} paths were given, {count} announced");
                return Err(FramedError::Body(io::Error::new(io::ErrorKind::InvalidData, text)));
            }
            body.finish().await
        };
        let outcome = exchange(reader, observer, sending).await?;
        self.settle(connection, outcome)?.end();
        Ok(())
    }
}
