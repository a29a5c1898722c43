//! What a signal means to a run that is being watched. Pure: signals and answers in, what to do out.
//!
//! | | in this process | our run, on a terminal | our run, in a script or CI | somebody's run, attached |
//! |---|---|---|---|---|
//! | Ctrl-C | cancel | ask, cancel by default | cancel | ask, detach by default; in a script detach |
//! | SIGTERM | cancel | cancel | cancel | detach |
//! | SIGHUP | cancel | detach | detach | detach |
//!
//! `--detach-on-interrupt` turns every cancel but an answered one into detach. A second Ctrl-C while the question stands
//! takes the default; while a cancelled run ends, any signal leaves at once.

/// Whose run is watched, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It ends with this process.
    InProcess,
    /// We submitted it to a coordinator.
    Own {
        /// Whether somebody can be asked.
        ask: bool,
        /// Whether the user said to leave it going on.
        detach: bool,
    },
    /// We came to look.
    Attached {
        /// Whether somebody can be asked.
        ask: bool,
    },
}

/// What the user does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// The terminal is gone.
    HangUp,
    /// A line typed; nothing at the end of input.
    Answer(Option<String>),
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Ask: detach or cancel?
    Ask,
    /// Tell the coordinator to cancel, and wait for the end.
    Cancel,
    /// Leave; the run goes on.
    Detach,
    /// Leave at once, though the run has not ended.
    Quit,
    /// Nothing.
    GoOn,
}

/// How far the user has interrupted.
#[derive(Clone, Debug)]
pub struct Interruption {
    manner: Manner,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Watching,
    Asking,
    Cancelling,
}

impl Interruption {
    /// Nothing has happened yet.
    pub fn new(manner: Manner) -> Self {
        Self { manner, stage: Stage::Watching }
    }

    /// What to do now.
    pub fn respond(&mut self, wish: &Wish) -> Response {
        let response = match (self.stage, wish) {
            (Stage::Cancelling | Stage::Watching, Wish::Answer(_)) => Response::GoOn,
            (Stage::Cancelling, _) => Response::Quit,
            (Stage::Asking, Wish::Answer(Some(text))) => self.answered(text),
            // Whoever closes the input has gone.
            (Stage::Asking, Wish::Answer(None)) => Response::Detach,
            (Stage::Asking, Wish::Interrupt) => self.default_answer(),
            (_, Wish::HangUp) if self.manner != Manner::InProcess => Response::Detach,
            (Stage::Watching, Wish::Interrupt) if self.asks() => Response::Ask,
            _ => self.unasked(),
        };
        match response {
            Response::Ask => self.stage = Stage::Asking,
            Response::Cancel => self.stage = Stage::Cancelling,
            _ => {}
        }
        response
    }

    /// The question, with the default in capitals.
    pub fn question(&self) -> &'static str {
        match self.default_answer() {
            Response::Detach => "detach, or cancel the run? [D/c] ",
            _ => "detach, or cancel the run? [d/C] ",
        }
    }

    /// Whether the user asked the run to stop.
    pub fn is_cancelling(&self) -> bool {
        self.stage == Stage::Cancelling
    }

    fn asks(&self) -> bool {
        matches!(self.manner, Manner::Own { ask: true, detach: false } | Manner::Attached { ask: true })
    }

    fn answered(&self, text: &str) -> Response {
        match text.trim().to_lowercase().as_str() {
            "" => self.default_answer(),
            "d" | "detach" => Response::Detach,
            "c" | "cancel" => Response::Cancel,
            _ => Response::Ask,
        }
    }

    fn default_answer(&self) -> Response {
        match self.manner {
            Manner::Attached { .. } => Response::Detach,
            Manner::InProcess | Manner::Own { .. } => Response::Cancel,
        }
    }

    fn unasked(&self) -> Response {
        match self.manner {
            Manner::Attached { .. } | Manner::Own { detach: true, .. } => Response::Detach,
            Manner::InProcess | Manner::Own { detach: false, .. } => Response::Cancel,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMINAL: Manner = Manner::Own { ask: true, detach: false };
    const SCRIPT: Manner = Manner::Own { ask: false, detach: false };

    fn responses<const N: usize>(manner: Manner, wishes: [Wish; N]) -> [Response; N] {
        let mut interruption = Interruption::new(manner);
        wishes.map(|wish| interruption.respond(&wish))
    }

    fn answer(text: &str) -> Wish {
        Wish::Answer(Some(text.to_owned()))
    }

    #[test]
    fn whoever_sits_at_a_terminal_is_asked() {
        assert_eq!(responses(TERMINAL, [Wish::Interrupt, answer("d\n")]), [Response::Ask, Response::Detach]);
        assert_eq!(responses(TERMINAL, [Wish::Interrupt, answer("\n")]), [Response::Ask, Response::Cancel]);
        assert_eq!(
            responses(TERMINAL, [Wish::Interrupt, answer("what?"), answer("c"), Wish::Interrupt]),
            [Response::Ask, Response::Ask, Response::Cancel, Response::Quit]
        );
        assert_eq!(
            responses(TERMINAL, [Wish::Interrupt, Wish::Interrupt]),
            [Response::Ask, Response::Cancel]
        );
        assert_eq!(
            responses(TERMINAL, [Wish::Interrupt, Wish::Answer(None)]),
            [Response::Ask, Response::Detach]
        );
        assert_eq!(responses(TERMINAL, [answer("c"), Wish::HangUp]), [Response::GoOn, Response::Detach]);
    }

    #[test]
    fn a_cancelled_ci_job_leaves_no_work() {
        for wish in [Wish::Interrupt, Wish::Terminate] {
            assert_eq!(responses(SCRIPT, [wish.clone(), wish]), [Response::Cancel, Response::Quit]);
        }
        assert_eq!(responses(SCRIPT, [Wish::HangUp]), [Response::Detach]);
    }

    #[test]
    fn an_interrupt_detaches_where_the_user_said_so() {
        for ask in [true, false] {
            let manner = Manner::Own { ask, detach: true };
            assert_eq!(responses(manner, [Wish::Interrupt]), [Response::Detach]);
            assert_eq!(responses(manner, [Wish::Terminate]), [Response::Detach]);
        }
    }

    #[test]
    fn whoever_looks_at_a_run_does_not_end_it_by_leaving() {
        assert_eq!(responses(Manner::Attached { ask: false }, [Wish::Interrupt]), [Response::Detach]);
        assert_eq!(responses(Manner::Attached { ask: false }, [Wish::Terminate]), [Response::Detach]);
        let asked = Manner::Attached { ask: true };
        assert_eq!(responses(asked, [Wish::Interrupt, answer("")]), [Response::Ask, Response::Detach]);
        assert_eq!(responses(asked, [Wish::Interrupt, answer("c")]), [Response::Ask, Response::Cancel]);
    }

    #[test]
    fn in_this_process_every_signal_cancels_and_the_second_quits() {
        for wish in [Wish::Interrupt, Wish::Terminate, Wish::HangUp] {
            assert_eq!(
                responses(Manner::InProcess, [wish.clone(), wish]),
                [Response::Cancel, Response::Quit]
            );
        }
    }
}
