//! What goes into the policy and what comes out.

use std::time::Duration;

use crate::error::{FetchErrorKind, ReadErrorKind};
use crate::refresh::Rejection;
use crate::refresh::policy::Windows;
use crate::secret::Fingerprint;
use crate::time::Now;
use crate::token::{Life, Term};

/// What the policy must know of a source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SourceRules {
    /// The longest life that its issuer ever gives.
    pub max_life: Option<Duration>,
    /// A rejection of its token is final: it has no other.
    pub rejection_is_final: bool,
    /// Its token is older than any that an earlier source gives.
    pub is_stopgap: bool,
}

/// What never changes: the windows and the chain. Shared by as many policies as there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// The configured numbers.
    pub windows: Windows,
    /// The sources, best first.
    pub sources: Vec<SourceRules>,
}

/// A token as far as the policy needs it: everything but its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Which token.
    pub fingerprint: Fingerprint,
    /// The place of its source in the chain.
    pub source: usize,
    /// When its request was sent.
    pub issued: Now,
    /// Its life from then on.
    pub life: Life,
}

impl Held {
    /// What is left of it.
    #[must_use]
    pub fn left(&self, now: &Now) -> Duration {
        self.life.duration().saturating_sub(now.elapsed_since(&self.issued))
    }
}

/// What can happen.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// Nothing but time, or a clock was set.
    Tick,
    /// Somebody opens: either it was served at once, or it waits.
    Opened,
    /// git opens, and waits for a token that lasts; see [`Windows::git_min_life_of`].
    Wanted,
    /// A fetch is forced.
    Refresh,
    /// A consumer rejected the token at hand; see [`Rejection::of`].
    Rejected(Rejection),
    /// A source says that a new attempt is worth it.
    Changed {
        /// Its place in the chain.
        source: usize,
    },
    /// A fetch ended.
    Answered {
        /// The source's place in the chain.
        source: usize,
        /// With what.
        answer: Answer,
    },
}

/// How a fetch ended.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    /// With a token.
    Token {
        /// Which one.
        fingerprint: Fingerprint,
        /// When its request was sent.
        issued: Now,
        /// What the source says of its life.
        term: Term,
    },
    /// Without.
    Failed {
        /// Why.
        kind: FetchErrorKind,
        /// How long the source asked to be left alone.
        retry_after: Option<Duration>,
    },
}

/// What to do now. At most one fetch is started at a time: where more is due, [`Policy::wake`](super::Policy::wake) is in
/// the past and the next [`Event::Tick`] brings it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    /// Start a fetch from this source.
    pub fetch: Option<usize>,
    /// Why the fetch is started, in words, as in [`Next::reason`](crate::refresh::Next::reason).
    pub because: &'static str,
    /// Make [`Policy::held`](super::Policy::held) a new generation.
    pub publish: Option<Publish>,
    /// How the answer was judged; `None` if the event was none.
    pub settled: Option<Settled>,
}

/// What is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publish {
    /// The token of this answer.
    New,
    /// The token at hand, because its expiry in local time changed.
    Again,
}

/// How an answer was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// A token that was not seen before, whether it is needed or not.
    New,
    /// The token at hand came again.
    Same,
    /// A failure, whatever the source thinks of it.
    Failed(FetchErrorKind),
}

/// What a waiting open is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The token at hand may be served.
    Serve,
    /// It pays to wait.
    Wait,
    /// It does not, or the deadline passed.
    Fail(ReadErrorKind),
}
