//! One actor a token: it fetches ahead of expiry, and readers judge freshness themselves.

use std::collections::VecDeque;
use std::time::Duration;

use crate::error::{FetchError, ReadError};
use crate::secret::Fingerprint;
use crate::time::Now;
use crate::token::{FreshToken, Token};

pub mod policy;
pub mod store;
pub mod timer;

/// How many events a history keeps.
pub const HISTORY: usize = 20;

/// How things stand with a token. Token and failure stand side by side: a failure never displaces a
/// token.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The newest token, whether it is still usable or not.
    pub token: Option<Token>,
    /// The fingerprint that a consumer rejected, while the source has not given another token.
    pub rejected: Option<Rejection>,
    /// The last failure of each source that failed since its last success, in chain order.
    pub failures: Vec<Failure>,
    /// When the next attempt is made, and why then; `None` while idle or never asked.
    pub next: Option<Next>,
    /// Whether a request is under way.
    pub fetching: bool,
    /// Requests made of any source.
    pub attempts: u64,
    /// Fetches that brought a new token.
    pub fetches: u64,
    /// How much the platform's clock was seen to run behind the issuer's.
    pub skew: Duration,
    /// The platform was seen to give the same token twice: it caches.
    pub repeats: bool,
    /// Whether the token at hand comes from a later source of the chain.
    pub fallback: bool,
    /// The minimum life at open that is in force for the token at hand.
    pub min_life: Duration,
    /// Somebody has asked for a token at least once.
    pub asked: bool,
    /// Nobody asked for longer than the idle time, so that the timer pauses.
    pub idle: bool,
    /// The last [`HISTORY`] events, oldest first.
    pub history: VecDeque<Event>,
}

/// A consumer said that a token was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    /// Which token.
    pub fingerprint: Fingerprint,
    /// When.
    pub at: Now,
    /// Withheld from readers until then (boot clock).
    pub withheld_until: Duration,
    /// How often it was said.
    pub count: u64,
}

/// A source's failure.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What failed.
    pub error: FetchError,
    /// When the streak of failures began.
    pub since: Now,
    /// When it failed last.
    pub at: Now,
    /// How often in a row.
    pub count: u64,
}

/// The next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// When (boot clock).
    pub at: Duration,
    /// Why then, in words, as the rest of "next refresh …": `timer`, `80 % of its life` …
    pub reason: &'static str,
}

/// Something that happened to a token.
#[derive(Debug, Clone)]
pub struct Event {
    /// When.
    pub at: Now,
    /// What.
    pub kind: EventKind,
    /// The generation and fingerprint of the token concerned, where there is one.
    pub token: Option<(u64, Fingerprint)>,
    /// Why, in words.
    pub reason: String,
}

/// The kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A new token was published.
    Rotation,
    /// The same token was published again (its expiry in local time changed).
    Republication,
    /// A consumer rejected a token.
    Reject,
    /// A source failed.
    Failure,
}

/// How readers and the control file reach the engine. Cheap to clone.
#[derive(Clone)]
pub struct Handle {}

/// A forced fetch came less than a second after the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a refresh was asked for less than a second ago")]
pub struct TooSoon;

impl Handle {
    /// The token, if it may be served now. No task switch, no allocation. Also notes that somebody
    /// asked, so that a token in its last fifth is refreshed in the background.
    pub fn usable(&self) -> Option<FreshToken> {
        todo!()
    }

    /// The token, waiting for a fetch where that is needed, until `deadline` (boot clock).
    pub async fn token(&self, _deadline: Duration) -> Result<FreshToken, ReadError> {
        todo!()
    }

    /// A consumer says that the token with this fingerprint was refused. Synchronous: no reader gets
    /// it from now on, until the source has answered. An unknown fingerprint is none of our business
    /// and changes nothing.
    pub fn reject(&self, _fingerprint: Fingerprint) {
        todo!()
    }

    /// Asks for a fetch now. It happens in the background.
    pub fn refresh(&self) -> Result<(), TooSoon> {
        todo!()
    }

    /// How things stand.
    pub fn snapshot(&self) -> Snapshot {
        todo!()
    }
}
