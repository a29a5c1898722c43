//! What passes through here because one worker cannot reach another: who waits, who is ordered, how often it is looked
//! at.

use fleet_core::view::WorkerState;
use fleet_core::{Epoch, RealiseJobId, RunId, Session, WorkerId};
use fleet_nix::{NarHash, PathInfo, StorePath};
use fleet_paths::{Build, Depth, Named, Standing};
use fleet_wire::v1::coordinator_message::Message as ToWorker;

use super::*;
use crate::shell::locate::{LocateAnswer, LocateQuestion};
use crate::shell::rights::{Asking, Right};
use crate::shell::round::{Deed, Round};

const JOB: RealiseJobId = RealiseJobId(7);

/// A shell that anna asks for what bert has.
struct Relaying {
    shell: Shell,
    _directory: tempfile::TempDir,
    _outbound: Vec<mpsc::Receiver<ToWorker>>,
    bert: (WorkerId, Session),
    top: StorePath,
    leaves: Vec<StorePath>,
}

fn path(name: &str, number: usize) -> StorePath {
    format!("{number:032}-{name}").parse().expect("a path")
}

fn info(path: &StorePath, references: &[StorePath], nar_size: u64) -> PathInfo {
    PathInfo {
        path: path.clone(),
        deriver: None,
        nar_hash: NarHash([1; 32]),
        references: references.iter().cloned().collect(),
        registration_time: 0,
        nar_size,
        ultimate: false,
        signatures: std::iter::empty().collect(),
        content_address: None,
    }
}

impl Relaying {
    async fn of(leaves: usize) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut shell = shell(&MemoryStore::default(), &Arc::default(), directory.path()).await;
        let (mut seats, mut outbounds) = (Vec::new(), Vec::new());
        for name in ["anna", "bert"] {
            let (outbound, heard) = mpsc::channel(16);
            let hello = v1::Hello { name: name.to_owned(), slots: 1, ..v1::Hello::default() };
            let joining = Joining { hello, identity: None, outbound, ending: Ending::new() };
            let mut round = Round::default();
            shell.join(joining, oneshot::channel().0, &mut round);
            let worker = shell.fleet.worker_named(name);
            assert!(shell.fleet.worker_view(worker).is_some_and(|view| view.state != WorkerState::Gone));
            seats.push((worker, shell.sessions.of(worker).expect("a session")));
            outbounds.push(heard);
        }
        let leaves: Vec<StorePath> = (0..leaves).map(|number| path("leaf", number)).collect();
        for leaf in &leaves {
            built(&mut shell, info(leaf, &[], 1), &[]);
        }
        let top = path("top", 0);
        built(&mut shell, info(&top, &leaves, 1), &leaves);
        let job = Realising::new(RunId(1), seats[0].0, Epoch(1), Some(top.clone()), false);
        shell.realises.insert(JOB, job);
        let bert = seats[1];
        Self { shell, _directory: directory, _outbound: outbounds, bert, top, leaves }
    }

    /// Anna's question, and the orders that come of it.
    fn locate(&mut self) -> (oneshot::Receiver<Result<LocateAnswer, Status>>, Vec<v1::Share>) {
        let (reply, answer) = oneshot::channel();
        let question = LocateQuestion {
            asking: Asking { worker: None, right: Right::Realise(JOB, Epoch(1)) },
            paths: vec![self.top.clone()],
            depth: Depth::Closure,
            unreachable: Vec::new(),
            relay: true,
        };
        let mut round = Round::default();
        self.shell.locate(question, reply, &mut round);
        (answer, done(round))
    }
}

fn built(shell: &mut Shell, info: PathInfo, inputs: &[StorePath]) {
    let inputs = inputs.to_vec();
    let build = Build { outputs: vec![(info, Named::ByDerivation)], inputs, beside: Vec::new() };
    shell.known.built("bert", build).expect("believed");
}

/// Gives the answers of a round; the orders to share.
fn done(round: Round) -> Vec<v1::Share> {
    let mut shares = Vec::new();
    for deed in round.deeds {
        match deed {
            Deed::Answer(answer) => answer(Ok(())),
            Deed::Say(_, ToWorker::Share(share)) => shares.push(share),
            _ => {}
        }
    }
    shares
}

#[tokio::test]
async fn a_closure_that_comes_path_by_path_is_gone_through_once_and_not_for_each() {
    let mut relaying = Relaying::of(300).await;
    let (mut answer, shares) = relaying.locate();
    assert_eq!(shares.iter().map(|share| share.paths.len()).sum::<usize>(), 301);
    for leaf in relaying.leaves.clone() {
        let mut round = Round::default();
        relaying.shell.set_kept(&leaf, true, &mut round);
        assert!(done(round).is_empty(), "all of it is on its way");
        assert!(answer.try_recv().is_err(), "the top is not here");
    }
    assert_eq!(relaying.shell.relays.walks, 0);
    let mut round = Round::default();
    relaying.shell.set_kept(&relaying.top.clone(), true, &mut round);
    assert!(done(round).is_empty());
    assert_eq!(relaying.shell.relays.walks, 1);
    let answer = answer.try_recv().expect("answered").expect("located");
    assert!(answer.lost.is_empty() && answer.found.len() == 301);
    assert!(answer.found.iter().all(|found| found.standing == Standing::Kept));
}

#[tokio::test]
async fn of_a_closure_of_which_one_path_is_lost_who_waits_hears_at_once() {
    let mut relaying = Relaying::of(3).await;
    let (mut answer, _) = relaying.locate();
    let (said, mut round) = (relaying.leaves[1].to_string(), Round::default());
    let bert = relaying.bert.0;
    relaying.shell.paths_lost(bert, &v1::PathsLost { paths: vec![said] }, &mut round).expect("heard");
    assert!(done(round).is_empty());
    assert_eq!(answer.try_recv().expect("answered").expect("an answer").lost, [relaying.leaves[1].clone()]);
}

#[tokio::test]
async fn what_another_can_bring_after_one_lost_it_the_other_is_asked_for() {
    let mut relaying = Relaying::of(3).await;
    let (mut answer, _) = relaying.locate();
    let (outbound, _heard) = mpsc::channel(16);
    let hello = v1::Hello { name: "carl".to_owned(), slots: 1, ..v1::Hello::default() };
    let joining = Joining { hello, identity: None, outbound, ending: Ending::new() };
    let mut round = Round::default();
    relaying.shell.join(joining, oneshot::channel().0, &mut round);
    let carl = relaying.shell.fleet.worker_named("carl");
    let paths = vec![relaying.leaves[1].to_string()];
    relaying.shell.paths_held(carl, &v1::PathsHeld { paths: paths.clone() }, &mut round).expect("heard");
    assert!(done(round).is_empty(), "it comes from bert");
    let (bert, mut round) = (relaying.bert.0, Round::default());
    relaying.shell.paths_lost(bert, &v1::PathsLost { paths: paths.clone() }, &mut round).expect("heard");
    let shares = done(round);
    assert_eq!(shares.iter().map(|share| &share.paths).collect::<Vec<_>>(), [&paths]);
    assert!(answer.try_recv().is_err(), "it still comes");
}

#[tokio::test(start_paused = true)]
async fn who_never_brings_what_it_has_counts_as_not_having_it_after_two_orders() {
    let mut relaying = Relaying::of(2).await;
    for asked in 0..2 {
        let (mut answer, shares) = relaying.locate();
        assert_eq!(shares.len(), 1, "asked {asked}");
        assert!(answer.try_recv().is_err(), "it may still come");
        tokio::time::advance(super::super::relays::ASK_AGAIN).await;
    }
    let leaf = relaying.leaves[0].clone();
    let mut round = Round::default();
    relaying.shell.set_kept(&leaf, true, &mut round);
    done(round);
    let (mut answer, shares) = relaying.locate();
    assert!(answer.try_recv().is_err() && shares.is_empty(), "something came: so may the rest");
    tokio::time::advance(super::super::relays::ASK_AGAIN).await;
    let reply = oneshot::channel().0;
    let question = LocateQuestion {
        asking: Asking { worker: None, right: Right::Realise(JOB, Epoch(1)) },
        paths: vec![relaying.top.clone()],
        depth: Depth::Closure,
        unreachable: Vec::new(),
        relay: true,
    };
    let mut round = Round::default();
    relaying.shell.locate(question, reply, &mut round);
    assert_eq!(round.entries.len(), 1, "it is recorded");
    done(round);
    let mut lost = answer.try_recv().expect("told").expect("an answer").lost;
    lost.sort_unstable();
    let mut expected = vec![relaying.leaves[1].clone(), relaying.top.clone()];
    expected.sort_unstable();
    assert_eq!(lost, expected);
    assert_eq!(relaying.shell.known.standing(&leaf), Standing::Kept);
}

#[tokio::test]
async fn a_realise_job_brings_its_closure_path_by_path_and_it_is_gone_through_once() {
    let mut relaying = Relaying::of(100).await;
    let (shell, right) = (&mut relaying.shell, Right::Realise(JOB, Epoch(1)));
    let worker = shell.fleet.worker_named("anna");
    for leaf in &relaying.leaves {
        shell.may_read(worker, right, std::slice::from_ref(leaf)).expect("a part of it");
    }
    assert_eq!(shell.realises[&JOB].walks, 1);
    shell.may_read(worker, right, &[path("other", 1)]).expect_err("no part of it");
    let (below, leaf) = (path("below", 0), path("late", 0));
    shell.realises.get_mut(&JOB).expect("a job").path = Some(leaf.clone());
    built(shell, info(&below, &[], 1), &[]);
    shell.may_read(worker, right, std::slice::from_ref(&below)).expect_err("not heard of yet");
    let inputs = [below.clone()];
    built(shell, info(&leaf, &inputs, 1), &inputs);
    shell.may_read(worker, right, &[below]).expect("the closure has grown");
}
