//! Contact with a coordinator: lost, tried again with growing pauses, made again, or given up. Decides and remembers;
//! the caller waits and asks.

use std::time::{Duration, Instant};

use tonic::Status;

use crate::backoff::{self, Backoff};
use crate::remote::{self, Trouble};

/// How the attempts to keep contact go.
#[derive(Clone, Debug)]
pub struct Contact {
    backoff: Backoff,
    /// Whether there ever was contact.
    made: bool,
    told: bool,
}

/// What a user should know of it, and of what is done meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Something that may take a while begins.
    Work {
        /// What is done.
        verb: &'static str,
        /// With what.
        what: String,
    },
    /// There is none; we go on trying.
    Lost {
        /// In a few words.
        why: String,
        /// When there last was contact, or when we began to try.
        since: Instant,
        /// How long we try.
        within: Duration,
    },
    /// There is again.
    Back {
        /// How long there was none.
        after: Duration,
    },
}

/// What to do after a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Wait so long, then try again.
    pub pause: Duration,
    /// Tell the user, if it is worth a word.
    pub news: Option<News>,
}

impl Contact {
    /// Gives up when an outage lasts longer than `within`.
    pub fn new(within: Duration) -> Self {
        Self { backoff: Backoff::new(within), made: false, told: false }
    }

    /// A request failed; nothing when another try cannot help.
    pub fn lost(&mut self, status: &Status) -> Option<Retry> {
        let trouble = Trouble::of(status);
        if !trouble.passes() || trouble == Trouble::UnknownHost && !self.made {
            return None;
        }
        let now = Instant::now();
        let pause = self.backoff.failed(now, backoff::random())?;
        // One broken stream is taken up again before anybody notices.
        let news = self.backoff.attempts() > 1 && !self.told;
        self.told |= news;
        let since = self.backoff.since().unwrap_or(now);
        let lost = || News::Lost { why: remote::reason(status), since, within: self.backoff.within() };
        Some(Retry { pause, news: news.then(lost) })
    }

    /// A request was answered.
    pub fn made(&mut self) -> Option<News> {
        self.made = true;
        let since = self.backoff.succeeded();
        let told = std::mem::take(&mut self.told);
        since.filter(|_| told).map(|since| News::Back { after: since.elapsed() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_hears_of_an_outage_once_and_of_its_end() {
        let mut contact = Contact::new(Duration::from_mins(1));
        assert_eq!(contact.made(), None);
        let broken = Status::unavailable("the stream broke");
        assert_eq!(contact.lost(&broken).expect("again").news, None, "one broken stream is no outage");
        let news = contact.lost(&broken).expect("again").news;
        assert!(matches!(news, Some(News::Lost { why, .. }) if why == "the stream broke"));
        assert_eq!(contact.lost(&broken).expect("again").news, None, "said already");
        assert!(matches!(contact.made(), Some(News::Back { .. })));
        assert_eq!(contact.made(), None);
    }

    #[test]
    fn what_will_be_the_same_again_is_not_tried_again() {
        let mut contact = Contact::new(Duration::from_mins(1));
        for status in
            [Status::not_found("no run"), Status::unauthenticated("who?"), Status::permission_denied("no")]
        {
            assert_eq!(contact.lost(&status), None, "{status}");
        }
        assert_eq!(Contact::new(Duration::ZERO).lost(&Status::unavailable("gone")), None);
    }
}
