//! The bytes of all paths of a plan, one after the other, as one import takes them. A source that breaks is replaced by
//! another in the middle of a path: whoever gives it next gives it from its beginning, and what has gone into the import
//! already is left out.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use fleet_nix::PathInfo;
use fleet_wire::v1;
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf, Take};
use tokio_util::io::StreamReader;

use super::holders::Trust;
use super::outcome::{Fault, Report, may_pass};
use super::plan::{Plan, Source};
use super::stream::{Chunks, Event, Opened, StreamFault, Wanted};
use super::{Locate, SEEDED_FROM};
use crate::peer::Holders;
use crate::transfer::manifest_cache::Piece;
use crate::transfer::seeds::Seeds;

/// Sources whose turn is so many bytes away begin to send.
const AHEAD: u64 = 64 << 20;
/// How often one holder is connected to again, if it gave something in between.
const RETRIES: usize = 8;
/// Paths of one stream.
const MAX_PATHS: usize = 65_536;

/// Where an import's bytes come from.
pub(super) struct Feed<'a, L> {
    locate: &'a Arc<L>,
    holders: &'a Holders,
    right: v1::WorkRight,
    plan: &'a Plan,
    seeds: Option<Arc<Seeds>>,
    trust: Trust,
    report: Report,
    sources: Vec<Option<Source>>,
    /// Which stream gives each item.
    streams: Vec<Option<usize>>,
    open: Vec<Option<Chunks>>,
    retries: HashMap<usize, usize>,
    /// The item whose turn it is; its bytes that this stream gave, and those the import got.
    current: usize,
    seen: u64,
    given: u64,
    pieces: Vec<Piece>,
    /// Items before this one were asked for; the bytes of those that have not come.
    ahead: usize,
    ahead_bytes: u64,
}

impl<'a, L: Locate> Feed<'a, L> {
    pub(super) fn new(
        (locate, holders): (&'a Arc<L>, &'a Holders),
        right: v1::WorkRight,
        plan: &'a Plan,
        seeds: Option<Arc<Seeds>>,
        trust: Trust,
    ) -> Self {
        let sources = plan.assign(&trust, 0);
        Self {
            locate,
            holders,
            right,
            plan,
            seeds,
            trust,
            report: Report::default(),
            streams: vec![None; sources.len()],
            sources,
            open: Vec::new(),
            retries: HashMap::new(),
            current: 0,
            seen: 0,
            given: 0,
            pieces: Vec::new(),
            ahead: 0,
            ahead_bytes: 0,
        }
    }

    /// What the import takes, and where its outcome will be.
    pub(super) fn entries(
        self,
    ) -> (impl Stream<Item = io::Result<(PathInfo, Take<Shared<'a>>)>> + Send + 'a, Report) {
        let (report, plan) = (self.report.clone(), self.plan);
        let bytes = futures::stream::try_unfold(self, |mut feed| async move {
            let next = feed.next().await;
            feed.report.lock().trust = feed.trust.clone();
            Ok::<_, Fault>(next?.map(|bytes| (bytes, feed)))
        });
        let reader = StreamReader::new(bytes.map_err(io::Error::other).boxed());
        let shared = Shared(Arc::new(Mutex::new(Box::pin(reader))));
        let entries = plan
            .items()
            .iter()
            .map(move |item| Ok((item.info.clone(), shared.clone().take(item.info.nar_size))));
        (futures::stream::iter(entries), report)
    }

    /// More bytes of the current item, or the first of the next; never none.
    async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            if self.current == self.plan.len() {
                return Ok(None);
            }
            self.open_ahead().await?;
            let stream = match self.streams[self.current] {
                Some(stream) => stream,
                None => self.open(self.current).await?,
            };
            let Some(chunks) = &mut self.open[stream] else { continue };
            match chunks.next().await {
                Event::Chunk(opening) => {
                    let opened = opening.await.unwrap_or(Err(StreamFault::Interrupted));
                    match opened {
                        Ok(opened) => {
                            if let Some(bytes) = self.take(opened)? {
                                return Ok(Some(bytes));
                            }
                        }
                        Err(fault) => self.failed(fault)?,
                    }
                }
                Event::End(item) if item == self.current && self.seen == self.nar_size() => self.finish(),
                Event::End(_) => self.failed(StreamFault::Wrong("fewer bytes than the path has"))?,
                Event::Gone(item) => self.gone(item),
                Event::Broken(fault) => self.failed(fault)?,
            }
        }
    }

    fn nar_size(&self) -> u64 {
        self.plan.items()[self.current].info.nar_size
    }

    /// The part of a chunk that the import has not got.
    fn take(&mut self, opened: Opened) -> Result<Option<Bytes>, Fault> {
        let Opened { piece, mut data, sent } = opened;
        self.supplied(sent, data.len() as u64);
        self.seen += data.len() as u64;
        if self.seen > self.nar_size() {
            self.failed(StreamFault::Wrong("more bytes than the path has"))?;
            return Ok(None);
        }
        self.remember(piece);
        let fresh = self.seen.saturating_sub(self.given);
        if fresh == 0 {
            return Ok(None);
        }
        // At most as many as there are.
        data.advance(data.len() - usize::try_from(fresh).unwrap_or(usize::MAX).min(data.len()));
        self.given = self.seen;
        Ok(Some(data))
    }

    /// Nobody reads on behind the last byte of the last path: what is whole is reported with its last chunk.
    fn remember(&mut self, piece: Piece) {
        if self.nar_size() < SEEDED_FROM {
            return;
        }
        self.pieces.push(piece);
        if self.seen == self.nar_size() {
            let path = self.plan.items()[self.current].info.path.clone();
            self.report.lock().pieces.push((path, std::mem::take(&mut self.pieces)));
        }
    }

    fn supplied(&self, sent: Option<usize>, size: u64) {
        let mut outcome = self.report.lock();
        match (sent, self.sources[self.current]) {
            (None, _) => outcome.from_here += size,
            (Some(sent), Some(Source::Holder(number))) => {
                outcome.from_peers += sent as u64;
                let suppliers = outcome.suppliers.entry(self.current).or_default();
                let name = &self.plan.holder(number).worker;
                if !suppliers.contains(name) {
                    suppliers.push(name.clone());
                }
            }
            (Some(sent), _) => outcome.from_coordinator += sent as u64,
        }
    }

    fn finish(&mut self) {
        self.ahead_bytes = self.ahead_bytes.saturating_sub(self.nar_size());
        (self.current, self.seen, self.given) = (self.current + 1, 0, 0);
    }

    /// The item is to come from elsewhere; its source goes on with the next.
    fn gone(&mut self, item: usize) {
        if let Some(Source::Holder(number)) = self.sources[item] {
            self.trust.gone(&self.plan.holder(number).worker, &self.plan.items()[item].info.path);
        }
        self.streams[item] = None;
        self.sources[item] = self.plan.assign(&self.trust, item).first().copied().flatten();
        self.restart();
    }

    fn restart(&mut self) {
        self.seen = 0;
        self.pieces.clear();
    }

    /// The current item's source gives no more. It may be asked again, or others in its place.
    fn failed(&mut self, fault: StreamFault) -> Result<(), Fault> {
        let has_given = self.seen > 0;
        let stream = self.streams[self.current];
        if let Some(stream) = stream {
            self.open[stream] = None;
        }
        for item in self.current..self.plan.len() {
            if self.streams[item] == stream {
                self.streams[item] = None;
            }
        }
        self.restart();
        if matches!(fault, StreamFault::SeedLost) {
            self.seeds = None;
            return Ok(());
        }
        let Some(Source::Holder(number)) = self.sources[self.current] else {
            return Err(Fault::of_coordinator(fault));
        };
        let holder = &self.plan.holder(number).worker;
        self.holders.forget(holder);
        let retries = self.retries.entry(number).or_default();
        *retries += 1;
        let again = if has_given { RETRIES } else { 1 };
        if may_pass(&fault) && *retries <= again {
            tracing::debug!(holder, "a holder is asked again: {fault}");
            return Ok(());
        }
        tracing::warn!(holder, "a holder is not asked any more: {fault}");
        self.trust.give_up(holder, fault.to_string());
        self.assign_again(self.current);
        Ok(())
    }

    /// New sources for those from `first` on that no stream gives.
    fn assign_again(&mut self, first: usize) {
        let assigned = self.plan.assign(&self.trust, first);
        for (item, source) in (first..).zip(assigned) {
            if self.streams[item].is_none() {
                self.sources[item] = source;
            }
        }
    }

    /// Has those sources begin whose turn comes soon.
    async fn open_ahead(&mut self) -> Result<(), Fault> {
        while self.ahead < self.plan.len() && (self.ahead == self.current || self.ahead_bytes < AHEAD) {
            if self.streams[self.ahead].is_none() && self.sources[self.ahead].is_some() {
                self.open(self.ahead).await?;
            }
            self.ahead_bytes += self.plan.items()[self.ahead].info.nar_size;
            self.ahead += 1;
        }
        Ok(())
    }

    /// Asks the source of this item for it, and for all later ones that it is to give.
    async fn open(&mut self, item: usize) -> Result<usize, Fault> {
        loop {
            let nowhere = || {
                let cause = self.trust.why().unwrap_or_else(|| "nobody is said to have it".to_owned());
                Fault::Nowhere { path: self.plan.items()[item].info.path.clone(), cause }
            };
            let source = self.sources[item].ok_or_else(nowhere)?;
            let items: Vec<usize> = (item..self.plan.len())
                .filter(|&later| self.sources[later] == Some(source) && self.streams[later].is_none())
                .take(MAX_PATHS)
                .collect();
            let wanted = items.iter().map(|&item| self.wanted(item)).collect();
            let seeds = self.seeds.clone();
            let chunks = match source {
                Source::Coordinator => Chunks::of_coordinator(self.locate.clone(), self.right, wanted, seeds),
                Source::Holder(number) => {
                    let holder = self.plan.holder(number);
                    match self.holders.client(holder).await {
                        Ok(client) => {
                            let ticket = holder.ticket.clone().unwrap_or_default();
                            Chunks::of_holder(client, ticket, wanted, seeds, self.holders.within())
                        }
                        Err(error) => {
                            self.trust.give_up(&holder.worker, fleet_telemetry::with_causes(&error));
                            self.assign_again(item);
                            continue;
                        }
                    }
                }
            };
            let stream = self.open.len();
            self.open.push(Some(chunks));
            for item in items {
                self.streams[item] = Some(stream);
            }
            return Ok(stream);
        }
    }

    fn wanted(&self, item: usize) -> Wanted {
        let planned = &self.plan.items()[item];
        let path = planned.info.path.clone();
        let seeded = planned.info.nar_size >= SEEDED_FROM
            && self.seeds.as_ref().is_some_and(|seeds| seeds.may_serve(&path));
        Wanted { item, path, nar_size: planned.info.nar_size, pieces: planned.manifest.clone(), seeded }
    }
}

/// One stream of bytes that several archives are read from, one after the other. Clones share the position.
#[derive(Clone)]
pub(super) struct Shared<'a>(Arc<Mutex<Pin<Box<dyn AsyncRead + Send + 'a>>>>);

impl AsyncRead for Shared<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stream.as_mut().poll_read(cx, buffer)
    }
}
