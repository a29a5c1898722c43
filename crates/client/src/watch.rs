//! Watching a run: its events to the display and the record, the user's signals to the coordinator.
//!
//! Owns the order of these; what a signal means is decided in `interruption`.

use std::io::Write;
use std::time::Duration;

use fleet_wire::v1;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::contact::Contact;
use crate::error::CliError;
use crate::failure;
use crate::follow::{Follower, Seen};
use crate::idle::Idleness;
use crate::interruption::{Interruption, Manner, Response, Wish};
use crate::progress::Display;
use crate::remote::Connection;
use crate::report::Record;
use crate::signals::Signals;

/// How long a cancelled run may take to end before we leave without it.
pub const CANCEL_WITHIN: Duration = Duration::from_secs(10);
/// How often the display is refreshed.
pub const TICK: Duration = Duration::from_millis(125);
/// Lines of answers that wait to be looked at.
const ANSWERS: usize = 4;

/// What to watch, and how.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The way to it.
    pub connection: Connection,
    /// Its name.
    pub run: String,
    /// With log lines.
    pub logs: bool,
    /// How long to keep trying without contact.
    pub reconnect_for: Duration,
    /// What signals mean to it.
    pub manner: Manner,
}

/// How watching ended.
#[derive(Debug)]
pub enum Watched {
    /// The run ended; `stopped` tells whether the user asked it to.
    Ended {
        /// What it said.
        record: Box<Record>,
        /// On request.
        stopped: bool,
    },
    /// The user would not wait for its end.
    Quit {
        /// Whether the coordinator knows that it is to end.
        told: bool,
    },
    /// The user left, and it goes on.
    Detached,
}

impl Watch {
    /// Watches until the run ends or the user has had enough.
    pub async fn to_the_end<W: Write>(
        &self,
        display: &mut Display<W>,
        signals: &mut Signals,
    ) -> Result<Watched, CliError> {
        let contact = Contact::new(self.reconnect_for);
        let mut follower = Follower::new(self.connection.runs(), self.run.clone(), self.logs, contact);
        let mut record = Record::default();
        display.submitted();
        let mut session = Session::new(self);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            let wish = tokio::select! {
                seen = follower.next() => {
                    match seen.map_err(|status| self.lost(&status))? {
                        Some(Seen::News(news)) => display.news(&news),
                        Some(Seen::Event(mut event)) => {
                            failure::tidy(&mut event);
                            display.show(&event);
                            session.idleness.moved();
                            record.apply(*event);
                        }
                        None => break,
                    }
                    continue;
                }
                _ = ticks.tick() => {
                    display.wait_for(session.idleness.look(display.progress()));
                    display.tick();
                    continue;
                }
                answered = answer_of(&mut session.cancelling) => {
                    session.heard(answered)?;
                    continue;
                }
                wish = wish(&mut session.answers, signals) => wish,
                () = until(session.give_up_at) => return Ok(Watched::Quit { told: session.told }),
            };
            match session.obey(&wish, display) {
                Response::Detach => return Ok(Watched::Detached),
                Response::Quit => return Ok(Watched::Quit { told: session.told }),
                Response::Ask | Response::Cancel | Response::GoOn => {}
            }
        }
        display.answered();
        Ok(Watched::Ended { record: Box::new(record), stopped: session.interruption.is_cancelling() })
    }

    fn lost(&self, status: &Status) -> CliError {
        match self.manner {
            Manner::InProcess => CliError::new(format!("lost sight of the run: {}", status.message()))
                .next("Run the same command again; what was built is kept"),
            Manner::Own { .. } | Manner::Attached { .. } => CliError::lost_sight(&self.run, status),
        }
    }
}

/// What the user has asked for so far.
struct Session<'a> {
    watch: &'a Watch,
    interruption: Interruption,
    idleness: Idleness,
    answers: Option<mpsc::Receiver<Option<String>>>,
    cancelling: Option<JoinHandle<Result<(), Status>>>,
    told: bool,
    give_up_at: Option<Instant>,
}

impl<'a> Session<'a> {
    fn new(watch: &'a Watch) -> Self {
        Self {
            watch,
            interruption: Interruption::new(watch.manner),
            idleness: Idleness::new(watch),
            answers: None,
            cancelling: None,
            told: false,
            give_up_at: None,
        }
    }

    fn obey<W: Write>(&mut self, wish: &Wish, display: &mut Display<W>) -> Response {
        let response = self.interruption.respond(wish);
        match response {
            Response::Ask => {
                display.ask(self.interruption.question());
                self.answers.get_or_insert_with(read_answers);
            }
            Response::Cancel => {
                display.answered();
                display.note("stopping; press Ctrl-C again to quit at once");
                self.give_up_at = Some(Instant::now() + CANCEL_WITHIN);
                // Not awaited: a coordinator that does not answer must not delay the second Ctrl-C.
                let watch = self.watch;
                self.cancelling = Some(tokio::spawn(cancel(watch.connection.clone(), watch.run.clone())));
            }
            Response::Detach | Response::Quit => display.answered(),
            Response::GoOn => {}
        }
        response
    }

    /// The coordinator answered to the request to cancel.
    fn heard(&mut self, answered: Result<(), Status>) -> Result<(), CliError> {
        self.cancelling = None;
        self.told = true;
        // A run that it does not know any more has ended.
        answered.or_else(|status| match status.code() {
            Code::NotFound => Ok(()),
            _ => Err(CliError::of_status("the run cannot be cancelled", &status)),
        })
    }
}

async fn wish(answers: &mut Option<mpsc::Receiver<Option<String>>>, signals: &mut Signals) -> Wish {
    match answers {
        None => signals.next().await,
        Some(answers) => tokio::select! {
            wish = signals.next() => wish,
            Some(answer) = answers.recv() => Wish::Answer(answer),
        },
    }
}

/// Never, unless the run is being cancelled.
async fn until(give_up_at: Option<Instant>) {
    match give_up_at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Never, unless the coordinator has been asked to cancel and has not answered yet.
async fn answer_of(cancelling: &mut Option<JoinHandle<Result<(), Status>>>) -> Result<(), Status> {
    match cancelling {
        Some(task) => task.await.unwrap_or_else(|_| Err(Status::cancelled("asking was interrupted"))),
        None => std::future::pending().await,
    }
}

/// Cancels a run, however often it takes to be heard.
pub async fn cancel(connection: Connection, run: String) -> Result<(), Status> {
    let mut contact = Contact::new(CANCEL_WITHIN);
    loop {
        let mut request = tonic::Request::new(v1::CancelRequest { run: run.clone() });
        request.set_timeout(CANCEL_WITHIN);
        match connection.runs().cancel(request).await {
            Ok(_) => return Ok(()),
            Err(status) => match contact.lost(&status) {
                Some(retry) => tokio::time::sleep(retry.pause).await,
                None => return Err(status),
            },
        }
    }
}

/// A thread of its own: reading a terminal cannot be cancelled, and must not hold up the exit.
fn read_answers() -> mpsc::Receiver<Option<String>> {
    let (sender, receiver) = mpsc::channel(ANSWERS);
    std::thread::spawn(move || {
        loop {
            let mut line = String::new();
            let read = std::io::stdin().read_line(&mut line).unwrap_or(0);
            let answer = (read > 0).then_some(line);
            let last = answer.is_none();
            if sender.blocking_send(answer).is_err() || last {
                return;
            }
        }
    });
    receiver
}
