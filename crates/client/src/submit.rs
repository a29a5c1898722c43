//! Bringing a run to a coordinator: what it lacks of the trees, then the request itself.
//!
//! All of it can be done again: an answer that was lost on its way is asked for again under the same key, and the
//! coordinator gives the same run.

use std::sync::atomic::{AtomicBool, Ordering};

use fleet_wire::v1;
use tokio::sync::mpsc;
use tonic::Status;

use crate::backoff;
use crate::contact::{Contact, News};
use crate::error::CliError;
use crate::options::RunOptions;
use crate::prepare::Prepared;
use crate::remote::Connection;
use crate::source::PackedSource;
use crate::upload::{self, UploadError};

/// One run on its way to the coordinator.
#[derive(Debug)]
pub struct Submission<'a> {
    /// What to do.
    pub options: &'a RunOptions,
    /// The trees.
    pub prepared: &'a Prepared,
    /// Where to.
    pub connection: &'a Connection,
    key: String,
    sent: AtomicBool,
}

/// Why one attempt failed.
enum Failed {
    /// On the way, or by the coordinator.
    Request(Status),
    /// Here.
    Upload(UploadError),
}

impl<'a> Submission<'a> {
    /// Under a key of its own.
    pub fn new(options: &'a RunOptions, prepared: &'a Prepared, connection: &'a Connection) -> Self {
        let key = format!("{:016x}{:016x}", backoff::random(), backoff::random());
        Self { options, prepared, connection, key, sent: AtomicBool::new(false) }
    }

    /// Whether the coordinator may know of the run, though its answer has not come.
    pub fn may_be_known(&self) -> bool {
        self.sent.load(Ordering::Relaxed)
    }

    /// The run's name. Tries again as long as the contact allows; `news` hears of it.
    pub async fn submit(&self, mut contact: Contact, news: &mpsc::Sender<News>) -> Result<String, CliError> {
        loop {
            let status = match self.attempt().await {
                Ok(run) => {
                    tell(news, contact.made());
                    return Ok(run);
                }
                Err(Failed::Upload(error)) => return Err(error.into()),
                Err(Failed::Request(status)) => status,
            };
            match contact.lost(&status) {
                Some(retry) => {
                    tell(news, retry.news);
                    tokio::time::sleep(retry.pause).await;
                }
                None => return Err(CliError::of_status("the coordinator does not take the run", &status)),
            }
        }
    }

    async fn attempt(&self) -> Result<String, Failed> {
        let after = self.upload(&self.prepared.after).await?;
        let before = match &self.prepared.before {
            None => None,
            Some(before) if before.nar_hash() == self.prepared.after.nar_hash() => {
                Some(before.to_wire(after.manifest.clone().unwrap_or_default()))
            }
            Some(before) => Some(self.upload(before).await?),
        };
        let request = v1::SubmitRequest {
            idempotency_key: self.key.clone(),
            before,
            after: Some(after),
            selection: Some(self.options.selection.clone()),
            fail_fast: self.options.fail_fast,
            dry_run: self.options.dry_run,
            retry_failed: self.options.retry_failed,
            limits: self.options.limits,
            dirty: self.prepared.after.dirty,
            branch: String::new(),
        };
        self.sent.store(true, Ordering::Relaxed);
        let reply = self.connection.runs().submit(request).await.map_err(Failed::Request)?;
        Ok(reply.into_inner().run)
    }

    async fn upload(&self, packed: &PackedSource) -> Result<v1::Source, Failed> {
        match upload::upload(self.connection, packed.nar()).await {
            Ok(manifest) => Ok(packed.to_wire(manifest)),
            Err(UploadError::Refused(status)) => Err(Failed::Request(*status)),
            Err(error) => Err(Failed::Upload(error)),
        }
    }
}

/// Nobody waits for whoever does not listen.
fn tell(listener: &mpsc::Sender<News>, news: Option<News>) {
    if let Some(news) = news {
        let _ = listener.try_send(news);
    }
}
