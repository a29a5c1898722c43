//! Bringing a run to a coordinator: what it lacks of the trees, then the request itself.
//!
//! All of it can be done again: an answer that was lost on its way is asked for again under the same key, and the
//! coordinator gives the same run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fleet_wire::v1;
use prost::Message;
use tokio::sync::mpsc;
use tonic::Status;

use crate::backoff;
use crate::contact::{Contact, News};
use crate::error::CliError;
use crate::listing;
use crate::options::RunOptions;
use crate::prepare::{Prepared, Side};
use crate::remote::Connection;
use crate::source::inputs::{CarriedTree, Taken};
use crate::upload::{self, Lacking, UploadError};

/// Bytes whose sending is told.
const WORTH_A_WORD: u64 = 1 << 20;

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
    Here(CliError),
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
            let status = match self.attempt(news).await {
                Ok(run) => {
                    tell(news, contact.made());
                    return Ok(run);
                }
                Err(Failed::Here(error)) => return Err(error),
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

    async fn attempt(&self, news: &mpsc::Sender<News>) -> Result<String, Failed> {
        let Prepared { before, after, .. } = self.prepared;
        for input in before.iter().chain([after]).flat_map(|side| &side.inputs) {
            self.bring(&input.tree, news).await?;
        }
        let sent = self.upload(after, news).await?;
        let before = match before {
            None => None,
            Some(before) if before.packed.nar_hash() == after.packed.nar_hash() => {
                Some(to_wire(before, sent.manifest.clone().unwrap_or_default()))
            }
            Some(before) => Some(self.upload(before, news).await?),
        };
        let request = v1::SubmitRequest {
            idempotency_key: self.key.clone(),
            before,
            after: Some(sent),
            selection: Some(self.options.selection.clone()),
            fail_fast: self.options.fail_fast,
            dry_run: self.options.dry_run,
            retry_failed: self.options.retry_failed,
            limits: self.options.limits,
            dirty: after.packed.dirty,
            branch: self.options.branch.clone(),
        };
        if request.encoded_len() > fleet_wire::MAX_MESSAGE {
            return Err(Failed::Here(CliError::new("the inputs to be taken along are too large together").next(
                "Put the largest where workers can fetch it, as on a git server, and run `nix flake lock`",
            )));
        }
        self.sent.store(true, Ordering::Relaxed);
        let reply = self.connection.runs().submit(request).await.map_err(Failed::Request)?;
        Ok(reply.into_inner().run)
    }

    async fn upload(&self, side: &Side, news: &mpsc::Sender<News>) -> Result<v1::Source, Failed> {
        let nar = side.packed.nar().to_owned();
        let chunks = blocking(move || upload::manifest(&nar)).await??;
        let lacking = upload::find_lacking(self.connection, &chunks).await?;
        tell_of(news, "the flake", &lacking);
        upload::send(self.connection, side.packed.nar(), lacking).await?;
        Ok(to_wire(side, v1::Manifest { chunks }))
    }

    /// Sends what is lacking of an input; its bytes are looked at only then.
    async fn bring(&self, tree: &Arc<CarriedTree>, news: &mpsc::Sender<News>) -> Result<(), Failed> {
        loop {
            let lacking = upload::find_lacking(self.connection, &tree.chunks()).await?;
            if lacking.bytes == 0 {
                return Ok(());
            }
            let packing = Arc::clone(tree);
            let packed =
                blocking(move || packing.pack()).await?.map_err(|error| Failed::Here(error.into()))?;
            if packed.recut {
                continue;
            }
            tell_of(news, &format!("input {}", tree.name()), &lacking);
            return Ok(upload::send(self.connection, &packed.nar, lacking).await?);
        }
    }
}

impl From<UploadError> for Failed {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Refused(status) => Self::Request(*status),
            error => Self::Here(error.into()),
        }
    }
}

fn to_wire(side: &Side, manifest: v1::Manifest) -> v1::Source {
    let inputs = side.inputs.iter().map(Taken::to_wire).collect();
    v1::Source { inputs, ..side.packed.to_wire(manifest) }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, UploadError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| UploadError::Interrupted)
}

fn tell_of(news: &mpsc::Sender<News>, what: &str, lacking: &Lacking) {
    if lacking.bytes >= WORTH_A_WORD {
        let what = format!("{} of {what}", listing::bytes(lacking.bytes));
        tell(news, Some(News::Work { verb: "Sending", what }));
    }
}

/// Nobody waits for whoever does not listen.
fn tell(listener: &mpsc::Sender<News>, news: Option<News>) {
    if let Some(news) = news {
        let _ = listener.try_send(news);
    }
}
