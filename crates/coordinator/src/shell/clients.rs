//! What clients ask: names become ids. Refusals go back to who asked.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use fleet_core::{Event, RunId};
use fleet_wire::{from_wire, to_wire, v1};
use tonic::Status;

use super::Shell;
use super::round::Round;
use super::runs::{RunState, Submission, without_manifests};
use crate::access::Caller;
use crate::feed::{Feed, Origin};
use crate::rpc::{MAX_SELECTOR, status};

/// Targets and steps that one question is answered for.
const MAX_ANSWERS: usize = 64;

impl Shell {
    /// Begins a run, or finds the one that the same key began.
    pub(super) fn submit(&mut self, submission: Submission, round: &mut Round) -> Result<String, Status> {
        let Submission { request, client } = submission;
        let parsed = from_wire::run_request(&request).map_err(|error| status::invalid(&error))?;
        let key = &request.idempotency_key;
        if key.is_empty() || key.len() > 256 {
            return Err(Status::invalid_argument("idempotency_key must have 1 to 256 characters"));
        }
        let name = run_name(key);
        if let Some((_, known)) = self.runs.named(&name) {
            let same =
                known.request == without_manifests(request.clone()) && known.feed.origin().client == client;
            return if same { Ok(name) } else { Err(status::other_request(key)) };
        }
        let mut sources = Vec::new();
        for source in request.before.iter().chain(&request.after) {
            let id = from_wire::source_id(source).map_err(|error| status::invalid(&error))?;
            self.sources.insert(id, source.clone());
            sources.push(id);
        }
        let submitted = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let submitted_unix_ms = u64::try_from(submitted).unwrap_or(u64::MAX);
        let feed = Feed::new(Origin { run: name.clone(), client, submitted_unix_ms });
        let state = RunState::new(request.clone(), feed, sources);
        let run = self.runs.next_id();
        round.keep(state.kept(run, request));
        self.feeds.insert(name.clone(), Arc::clone(&state.feed));
        self.runs.insert(run, state);
        self.apply(Event::RunSubmitted { run, request: parsed }, round);
        Ok(name)
    }

    /// Withdraws a run; others that want the same steps keep them.
    pub(super) fn cancel(&mut self, name: &str, caller: &Caller, round: &mut Round) -> Result<(), Status> {
        let (run, state) = self.runs.named(name).ok_or_else(|| status::unknown_run(name))?;
        caller.must_own(&state.feed.origin().client)?;
        self.apply(Event::RunCancelled { run }, round);
        Ok(())
    }

    pub(super) fn show(&self, name: &str) -> Result<v1::RunDetail, Status> {
        let (run, state) = self.runs.named(name).ok_or_else(|| status::unknown_run(name))?;
        let view = self.fleet.run_view(run);
        let targets = view.iter().flat_map(|view| &view.targets).map(to_wire::target_detail).collect();
        let request = v1::SubmitRequest { idempotency_key: String::new(), ..state.request.clone() };
        Ok(v1::RunDetail { summary: Some(state.feed.summary()), targets, request: Some(request) })
    }

    pub(super) fn why(&self, request: &v1::WhyRequest) -> Result<v1::WhyReply, Status> {
        let run: Option<RunId> = match &*request.run {
            "" => None,
            name => Some(self.runs.named(name).ok_or_else(|| status::unknown_run(name))?.0),
        };
        let selector = request.selector.rsplit_once('/').map_or(&*request.selector, |(before, base)| {
            let is_drv = std::path::Path::new(base).extension().is_some_and(|extension| extension == "drv");
            if is_drv || before == "/nix/store" { base } else { &request.selector }
        });
        if selector.is_empty() || selector.len() > MAX_SELECTOR {
            return Err(status::bad_selector());
        }
        let views = self.fleet.why(run, selector, MAX_ANSWERS);
        if views.is_empty() {
            return Err(status::unknown_selector(selector));
        }
        Ok(v1::WhyReply { answers: views.iter().map(to_wire::why).collect() })
    }
}

/// The name of a run follows from its key, so that the same key finds the same run.
fn run_name(idempotency_key: &str) -> String {
    let digest = fleet_store::Digest::of(idempotency_key.as_bytes()).to_string();
    format!("run-{}", &digest[..12])
}
