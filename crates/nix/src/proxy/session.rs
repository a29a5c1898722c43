//! One client's requests, in order: each is forwarded, answered here, or refused.
//!
//! A client that sends what makes no sense is told so and loses its connection. When the daemon is lost, the request
//! under way fails, and the next one goes to a new connection: what the old one rooted is held by the proxy's own.

use std::sync::Arc;

use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::DerivedPath;
use crate::daemon::codec::{self, Encoder};
use crate::daemon::stderr::Frame;
use crate::daemon::values;
use crate::daemon::{BuildResult, DaemonError, Operation};

use super::addition::{self, Added};
use super::client::{self, Client, refusal};
use super::operation::{OPTIONS, Rule, rule};
use super::roots::Roots;
use super::seen::{SeenDerivation, SeenDerivations};
use super::shape::{self, Part};
use super::upstream::{self, Faults, Told, Upstream};
use super::{BuildImports, ImportPolicy, ProxyConfig};

/// What all sessions of a proxy share.
pub(super) struct Shared {
    pub(super) config: ProxyConfig,
    pub(super) imports: Arc<dyn BuildImports>,
    pub(super) roots: Roots,
    pub(super) seen: SeenDerivations,
    /// Requests and connections that failed for the daemon's sake, not for what was asked.
    pub(super) faults: Faults,
}

/// Serves a client until it hangs up, is refused, or errs.
pub(super) async fn serve(shared: &Shared, stream: UnixStream) -> Result<(), DaemonError> {
    let upstream = Upstream::connect(&shared.config.upstream, &shared.faults).await;
    let version = upstream.as_ref().map_or("unknown", |upstream| upstream.nix_version());
    let mut client = Client::greet(stream, version).await?;
    let upstream = match upstream {
        Ok(upstream) => upstream,
        Err(error) => return Ok(client.dismiss(&error.to_string()).await?),
    };
    client.reply(&Encoder::new()).await?;
    let mut session = Session { shared, client, upstream };
    let ended = session.run().await;
    // The connection upstream holds the client's roots until the proxy's own does.
    shared.roots.settle().await;
    match ended {
        Ok(None) => Ok(()),
        Ok(Some(refused)) => Ok(session.client.dismiss(&refused).await?),
        Err(error) => {
            // Replies are sent whole: wherever this happened, the client waits for a message.
            let _ = session.client.dismiss(&error.to_string()).await;
            Err(error)
        }
    }
}

struct Session<'a> {
    shared: &'a Shared,
    client: Client,
    upstream: Upstream,
}

impl Session<'_> {
    /// Answers until the client hangs up, or is to be dismissed with a message.
    async fn run(&mut self) -> Result<Option<String>, DaemonError> {
        let store = &self.shared.config.upstream.store_dir;
        while let Some(number) = self.client.next_operation().await? {
            let Some(operation) = Operation::from_word(number) else {
                return Ok(Some(format!("operation {number} is not allowed during evaluation")));
            };
            if self.upstream.is_lost() {
                self.upstream = Upstream::connect(&self.shared.config.upstream, &self.shared.faults).await?;
            }
            match rule(operation) {
                Rule::Forward { request, reply } => self.forward(operation, request, reply).await?,
                Rule::Root => self.root().await?,
                Rule::Add => {
                    let added = addition::add(&mut self.client, &mut self.upstream, store).await?;
                    self.remember(added).await;
                }
                Rule::AddNar => match addition::add_nar(&mut self.client, &mut self.upstream, store).await? {
                    Ok(added) => self.remember(added).await,
                    Err(message) => self.client.fail(refusal(message.to_owned())).await?,
                },
                Rule::Build => self.build().await?,
                Rule::SetOptions => {
                    shape::copy(&mut self.client.request(), OPTIONS, &mut Encoder::new()).await?;
                    self.client.reply(&Encoder::new()).await?;
                }
                Rule::Refuse => {
                    tracing::debug!(?operation, "refused an evaluator's request");
                    return Ok(Some(format!("{operation:?} ({number}) is not allowed during evaluation")));
                }
            }
        }
        Ok(None)
    }

    /// Lets the daemon answer. A client that hangs up meanwhile takes the request with it.
    async fn forward(
        &mut self,
        operation: Operation,
        request: &[Part],
        reply: &[Part],
    ) -> Result<(), DaemonError> {
        let mut message = Encoder::new();
        message.word(operation.word());
        shape::copy(&mut self.client.request(), request, &mut message).await?;
        self.ask(&message, reply).await
    }

    async fn ask(&mut self, message: &Encoder, reply: &[Part]) -> Result<(), DaemonError> {
        let Client { reader, writer } = &mut self.client;
        let upstream = &mut self.upstream;
        let answered = async {
            upstream.send(message).await?;
            if pass_on_messages(&mut upstream.reader, writer).await? {
                let mut answer = Encoder::new();
                answer.frame(&Frame::Last);
                shape::copy(&mut upstream.reader, reply, &mut answer).await?;
                codec::send(writer, &answer).await?;
            }
            Ok(())
        };
        let answered: Result<(), DaemonError> = tokio::select! {
            biased;
            answered = answered => answered,
            () = client::gone(reader) => return Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into()),
        };
        if let Err(error) = answered {
            self.upstream.give_up();
            self.client.fail(refusal(error.to_string())).await?;
        }
        Ok(())
    }

    async fn root(&mut self) -> Result<(), DaemonError> {
        let store = &self.shared.config.upstream.store_dir;
        let path = values::read_path(&mut self.client.request(), store).await?;
        let mut message = Encoder::new();
        message.word(Operation::AddTempRoot.word()).path(store, &path);
        self.ask(&message, &[Part::Word]).await?;
        self.shared.roots.hold(path).await;
        Ok(())
    }

    async fn remember(&self, added: Option<Added>) {
        let Some(Added { path, derivation }) = added else {
            return;
        };
        if let Some((aterm, references)) = derivation {
            self.shared.seen.insert(path.clone(), SeenDerivation { aterm, references });
        }
        self.shared.roots.hold(path).await;
    }

    /// `BuildPaths`: import from derivation.
    async fn build(&mut self) -> Result<(), DaemonError> {
        let store = &self.shared.config.upstream.store_dir;
        let mut request = self.client.request();
        let wanted = values::read_derived_paths(&mut request, store).await?;
        let mode = codec::read_u64(&mut request).await?;
        match self.import(wanted, mode).await? {
            Ok(()) => Ok(self.client.reply(Encoder::new().word(1)).await?),
            Err(message) => Ok(self.client.fail(refusal(message)).await?),
        }
    }

    /// Has things built; the inner error is for the client.
    async fn import(
        &mut self,
        wanted: Vec<DerivedPath>,
        mode: u64,
    ) -> Result<Result<(), String>, DaemonError> {
        if mode != 0 {
            return Ok(Err("repairing and checking are not allowed during evaluation".to_owned()));
        }
        if self.shared.config.imports == ImportPolicy::Forbid {
            let names: Vec<String> = wanted.iter().map(|path| path.base().name().to_owned()).collect();
            return Ok(Err(format!(
                "import from derivation is not allowed here: evaluation needs {} built",
                names.join(", ")
            )));
        }
        let built = tokio::select! {
            built = self.shared.imports.build(wanted) => built,
            () = client::gone(&mut self.client.reader) => {
                return Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into());
            }
        };
        let results = match built {
            Ok(results) => results,
            Err(error) => return Ok(Err(error.to_string())),
        };
        if let Some((path, result)) = results.iter().find(|(_, result)| !result.status.is_success()) {
            return Ok(Err(failure(path, result)));
        }
        for (path, result) in results {
            if let DerivedPath::Opaque(path) = path {
                self.shared.roots.hold(path).await;
            }
            for output in result.built_outputs.into_values() {
                self.shared.roots.hold(output).await;
            }
        }
        Ok(Ok(()))
    }
}

/// Passes text to the client until the work is done. False when it failed; then the client knows.
pub(super) async fn pass_on_messages(
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
) -> Result<bool, DaemonError> {
    loop {
        match upstream::next(reader).await? {
            Told::Text(text) => codec::send(writer, Encoder::new().frame(&Frame::Next(text))).await?,
            Told::Done => return Ok(true),
            Told::Failed(error) => {
                codec::send(writer, Encoder::new().frame(&Frame::Error(error))).await?;
                return Ok(false);
            }
        }
    }
}

fn failure(path: &DerivedPath, result: &BuildResult) -> String {
    if result.error_message.is_empty() {
        format!("cannot build {}", path.base())
    } else {
        result.error_message.clone()
    }
}
