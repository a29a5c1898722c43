//! Which kept log a person means by a host or a derivation. Reads the index and the logs, newest first, and
//! stops at the first hit.

use std::path::Path;

use crate::log_index::{self, Fact, IndexError};
use crate::logs::{self, KeptLog};

/// What is looked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Empty for any run.
    pub(crate) run: String,
    /// A host, a derivation's path or its base name.
    pub(crate) selector: String,
    /// 0 for the last.
    pub(crate) attempt: u32,
}

/// A log and whose it is.
#[derive(Debug)]
pub(crate) struct FoundLog {
    pub(crate) drv: String,
    pub(crate) log: KeptLog,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Search {
    Found(FoundLog),
    /// Such a derivation or host is known, but nothing was built for it here.
    NothingBuilt,
    UnknownHost,
}

/// Looks for a log.
pub(crate) fn search(logs: &Path, index: &Path, wanted: &Wanted) -> Result<Search, IndexError> {
    let base_name = wanted.selector.rsplit_once('/').map_or(&*wanted.selector, |(_, name)| name);
    if let Some(found) = pick(logs, base_name, wanted.attempt) {
        return Ok(Search::Found(found));
    }
    let mut search = Search::UnknownHost;
    if Path::new(base_name).extension().is_some_and(|extension| extension == "drv") {
        search = Search::NothingBuilt;
    }
    for facts in log_index::newest_first(index)? {
        for drv in candidates(&facts, wanted) {
            if let Some(found) = drv.and_then(|drv| pick(logs, drv, wanted.attempt)) {
                return Ok(Search::Found(found));
            }
            search = Search::NothingBuilt;
        }
    }
    Ok(search)
}

fn pick(logs: &Path, drv: &str, attempt: u32) -> Option<FoundLog> {
    let log = logs::kept(logs, drv).into_iter().rfind(|log| attempt == 0 || log.attempt == attempt)?;
    Some(FoundLog { drv: drv.to_owned(), log })
}

/// Derivations that stand for a host: those of the newest run first, in each run what failed. None for a target
/// that did not evaluate.
fn candidates<'f>(facts: &'f [Fact], wanted: &Wanted) -> Vec<Option<&'f str>> {
    let mut runs: Vec<&str> = Vec::new();
    let mut found = Vec::new();
    for fact in facts.iter().rev() {
        let Fact::TargetSettled { run, host, status, drv, .. } = fact;
        if *host != wanted.selector || !(wanted.run.is_empty() || *run == wanted.run) {
            continue;
        }
        let age = runs.iter().position(|known| known == run).unwrap_or_else(|| {
            runs.push(run);
            runs.len() - 1
        });
        found.push((age, !status.ends_with("Failed"), drv.as_deref()));
    }
    found.sort_by_key(|(age, well, _)| (*age, *well));
    found.into_iter().map(|(_, _, drv)| drv).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_index::LogIndex;

    fn settled(run: &str, status: &str, drv: &str) -> Fact {
        let (run, host, status) = (run.to_owned(), "a".to_owned(), status.to_owned());
        Fact::TargetSettled { run, host, side: "After".into(), status, drv: Some(drv.to_owned()) }
    }

    fn look(state: &Path, run: &str, selector: &str) -> Search {
        let wanted = Wanted { run: run.to_owned(), selector: selector.to_owned(), attempt: 0 };
        search(&state.join("logs"), &state.join("journal"), &wanted).expect("reads")
    }

    fn find(state: &Path, run: &str) -> String {
        match look(state, run, "a") {
            Search::Found(found) => found.drv,
            other => panic!("not found: {other:?}"),
        }
    }

    #[test]
    fn a_host_stands_for_what_failed_in_its_newest_run() {
        let state = tempfile::tempdir().expect("temporary directory");
        for drv in ["old.drv", "bad.drv", "good.drv"] {
            let directory = state.path().join("logs").join(drv);
            std::fs::create_dir_all(&directory).expect("creates");
            std::fs::write(directory.join("1.1.log"), drv).expect("writes");
        }
        let index = state.path().join("journal");
        let older = [settled("r0", "Built", "old.drv")];
        LogIndex::open(&index, "0001").expect("opens").append(&older).expect("appends");
        let newer = [
            settled("r1", "Built", "old.drv"),
            settled("r2", "BuildFailed", "bad.drv"),
            settled("r2", "Built", "good.drv"),
        ];
        LogIndex::open(&index, "0002").expect("opens").append(&newer).expect("appends");
        assert_eq!(find(state.path(), ""), "bad.drv");
        assert_eq!(find(state.path(), "r1"), "old.drv");
        assert_eq!(find(state.path(), "r0"), "old.drv");
    }

    #[test]
    fn a_host_that_did_not_evaluate_is_known() {
        let state = tempfile::tempdir().expect("temporary directory");
        let (host, status) = ("broken".to_owned(), "EvalFailed".to_owned());
        let fact = Fact::TargetSettled { run: "r".into(), host, side: "After".into(), status, drv: None };
        LogIndex::open(&state.path().join("journal"), "1").expect("opens").append(&[fact]).expect("appends");
        assert!(matches!(look(state.path(), "", "broken"), Search::NothingBuilt));
        assert!(matches!(look(state.path(), "", "other"), Search::UnknownHost));
    }
}
