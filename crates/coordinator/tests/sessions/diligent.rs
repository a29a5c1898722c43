//! A worker that does its work as it should, over as many sessions as it takes: it keeps building while the coordinator
//! is away, keeps what is not acknowledged, and says it again.

use std::collections::{BTreeMap, BTreeSet};

use fleet_wire::v1;
use fleet_wire::v1::coordinator_message::Message as FromCoordinator;
use fleet_wire::v1::worker_message::Message;
use tonic::Status;
use tonic::transport::Channel;

use crate::scripted::{ScriptedWorker, Step, host, reported};

/// One worker, across sessions.
pub(crate) struct Diligent {
    name: &'static str,
    steps: BTreeMap<String, Step>,
    hosts: Vec<(&'static str, Vec<String>)>,
    last: u64,
    spool: BTreeMap<u64, Message>,
    holds: BTreeSet<(u64, u64)>,
    /// How often each step was built.
    pub(crate) built: BTreeMap<String, u32>,
    pub(crate) acknowledged: u64,
    session: Option<ScriptedWorker>,
}

impl Diligent {
    pub(crate) fn new(name: &'static str, hosts: &[(&'static str, Vec<&Step>)]) -> Self {
        let all = hosts.iter().flat_map(|(_, steps)| steps.iter().copied());
        let named = |steps: &[&Step]| steps.iter().map(|step| step.drv().to_owned()).collect();
        Self {
            name,
            steps: all.map(|step| (step.drv().to_owned(), step.clone())).collect(),
            hosts: hosts.iter().map(|(host, steps)| (*host, named(steps))).collect(),
            last: 0,
            spool: BTreeMap::new(),
            holds: BTreeSet::new(),
            built: BTreeMap::new(),
            acknowledged: 0,
            session: None,
        }
    }

    /// Opens a session, and says again what was not acknowledged.
    pub(crate) async fn join(&mut self, channel: &Channel) -> Result<(), Status> {
        let hello = v1::Hello {
            name: self.name.to_owned(),
            systems: vec!["x86_64-linux".to_owned()],
            slots: 1,
            eval_slots: 1,
            boot_id: "boot".to_owned(),
            instance_id: self.name.to_owned(),
            protocol: 1,
            holds: self
                .holds
                .iter()
                .map(|(lease, epoch)| v1::HeldLease { lease: *lease, epoch: *epoch })
                .collect(),
            ..v1::Hello::default()
        };
        let (session, _) = ScriptedWorker::greet(channel, hello).await?;
        for (sequence, message) in &self.spool {
            session.say_numbered(*sequence, message.clone()).await;
        }
        self.session = Some(session);
        Ok(())
    }

    /// Hears one message and does what it says; false when the session is over.
    pub(crate) async fn turn(&mut self) -> bool {
        let Some(session) = &mut self.session else { return false };
        match session.hear_or_end().await {
            Some(message) => self.obey(message).await,
            None => return false,
        }
        true
    }

    /// The session is gone; what it builds goes on.
    pub(crate) fn lose_session(&mut self) {
        self.session = None;
    }

    async fn obey(&mut self, message: FromCoordinator) {
        match message {
            FromCoordinator::EvalJob(job) => self.evaluate(job).await,
            FromCoordinator::Lease(lease) => self.build(lease).await,
            FromCoordinator::CancelLease(cancelled) => {
                self.holds.remove(&(cancelled.lease, cancelled.epoch));
            }
            FromCoordinator::Realise(job) => {
                let infos = vec![v1::PathInfo {
                    path: job.path,
                    nar_hash: vec![0; 32].into(),
                    ..v1::PathInfo::default()
                }];
                let (job, epoch, done) = (job.job, job.epoch, true);
                self.tell(Message::PathsRealised(v1::PathsRealised {
                    job,
                    epoch,
                    done,
                    infos,
                    failure: None,
                    missing: Vec::new(),
                }))
                .await;
            }
            FromCoordinator::Acknowledged(v1::Acknowledged { through }) => {
                assert!(through >= self.acknowledged && through <= self.last, "{through} of {}", self.last);
                self.acknowledged = through;
                self.spool = self.spool.split_off(&(through + 1));
            }
            FromCoordinator::Welcome(_) | FromCoordinator::CancelEval(_) => {}
            other => panic!("unforeseen: {other:?}"),
        }
    }

    async fn tell(&self, message: Message) {
        if let Some(session) = &self.session {
            session.say(message).await;
        }
    }

    /// Says and keeps until it is acknowledged.
    async fn report(&mut self, message: Message) {
        self.last += 1;
        self.spool.insert(self.last, message.clone());
        if let Some(session) = &self.session {
            session.say_numbered(self.last, message).await;
        }
    }

    async fn evaluate(&self, job: v1::EvalJob) {
        let (id, epoch) = (job.job, job.epoch);
        match job.task.expect("a task") {
            v1::eval_job::Task::Discover(_) => {
                let hosts = self.hosts.iter().map(|(name, _)| host(name)).collect();
                self.tell(Message::HostsDiscovered(v1::HostsDiscovered { job: id, epoch, hosts })).await;
            }
            v1::eval_job::Task::Hosts(wanted) => {
                for asked in wanted.hosts {
                    let (_, steps) = self.hosts.iter().find(|(name, _)| *name == asked.name).expect("ours");
                    let derivations = steps.iter().map(|drv| self.steps[drv].derivation.clone()).collect();
                    self.tell(Message::DerivationsSeen(v1::DerivationsSeen { derivations })).await;
                    let top = &self.steps[steps.last().expect("a toplevel")];
                    let evaluated = v1::Evaluated {
                        drv: top.drv().to_owned(),
                        output_name: "out".to_owned(),
                        output: top.output.clone(),
                        wanted: steps.clone(),
                        substitutable_new: 0,
                    };
                    let result = Some(v1::host_evaluated::Result::Evaluated(evaluated));
                    let host = Some(asked);
                    self.tell(Message::HostEvaluated(v1::HostEvaluated { job: id, epoch, host, result }))
                        .await;
                }
                let finished = v1::EvalFinished { job: id, epoch, failure: None, unstarted: Vec::new() };
                self.tell(Message::EvalFinished(finished)).await;
            }
        }
    }

    async fn build(&mut self, work: v1::Lease) {
        let (lease, epoch) = (work.lease, work.epoch);
        self.holds.insert((lease, epoch));
        for step in &work.steps {
            let drv = step.drv.clone();
            *self.built.entry(drv.clone()).or_default() += 1;
            let mut offset = 0;
            for line in ["one\n", "two\n"] {
                let data = line.as_bytes().to_vec().into();
                let logged = v1::StepLogged { lease, epoch, drv: drv.clone(), data, offset };
                self.report(Message::StepLogged(logged)).await;
                offset += line.len() as u64;
            }
            let only = v1::Lease { steps: vec![step.clone()], ..work.clone() };
            let report = reported(&only, v1::OutcomeClass::Built, &self.steps[&drv]);
            self.report(Message::StepReported(report)).await;
        }
        self.report(Message::LeaseFinished(v1::LeaseFinished { lease, epoch })).await;
        self.holds.remove(&(lease, epoch));
    }
}
