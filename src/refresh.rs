//! One actor a token: it fetches ahead of expiry, and readers judge freshness themselves.
//!
//! [`policy`] decides, [`Engine`] executes, [`Handle`] is what the rest of the program holds.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::caller::Caller;
use crate::error::FetchError;
use crate::refresh::policy::windows::{KNOWN_LATE_PAUSE, REJECT_QUIET, WITHHELD};
use crate::secret::Fingerprint;
use crate::time::Now;
use crate::token::{FreshToken, Token};

mod engine;
mod handle;
pub mod policy;
#[cfg(feature = "testing")]
pub mod simulated;
pub mod store;
#[cfg(test)]
mod tests;
pub mod timer;

pub use engine::Engine;
pub use handle::{Handle, TooSoon, Wish};
pub use policy::Windows;

/// How many events a history keeps.
pub const HISTORY: usize = 20;

/// How things stand with a token. Token and failure stand side by side: a failure never displaces a
/// token.
#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Snapshot {
    /// The newest token, whether it is still usable or not.
    pub token: Option<Token>,
    /// The fingerprint that a consumer rejected, while the source has not given another token.
    pub rejected: Option<Rejection>,
    /// The last rejection of all, also after another token took the rejected one's place: an open
    /// of an earlier generation must not get it.
    pub last_rejected: Option<Rejection>,
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
    /// How much later it was for the issuer than by the platform's clock, at its last answer: what
    /// lives are shortened by.
    pub skew: Duration,
    /// The tokens prove it, and not only this machine's clock.
    pub skew_is_proved: bool,
    /// How far the platform's clock was ahead of this machine's at its last answer, in seconds.
    pub clock_ahead: Option<i64>,
    /// The platform was seen to give the same token twice: it caches.
    pub repeats: bool,
    /// Whether the token at hand comes from a later source of the chain.
    pub fallback: bool,
    /// The minimum life at open that is in force for the token at hand.
    pub min_life: Duration,
    /// The life that the token at hand should have left when git gets it.
    pub git_min_life: Duration,
    /// Somebody has asked for a token at least once.
    pub asked: bool,
    /// Nobody asked for longer than the idle time, so that the timer pauses.
    pub idle: bool,
    /// The last [`HISTORY`] events, oldest first.
    pub history: VecDeque<Event>,
    /// An open of a token with at most this left is told to the engine; see
    /// [`policy::Policy::call_at`].
    pub call_at: Option<Duration>,
    /// Before this (boot clock) no refresh can be forced: the source asked to be left alone.
    pub refresh_not_before: Duration,
}

/// How things stand, in one word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// There is a usable token, and nothing fails.
    Fresh,
    /// There is a usable token, but something is wrong.
    Degraded,
    /// There is no usable token.
    None,
    /// Nobody asked yet, or not for a long time.
    #[default]
    Idle,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Fresh, Self::Degraded, Self::None, Self::Idle];

    /// The word, as in `status.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Degraded => "degraded",
            Self::None => "none",
            Self::Idle => "idle",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Snapshot {
    /// The token, if it may be served to this caller (`None`: somebody): enough of its life is left
    /// and it is not withheld.
    #[must_use]
    pub fn usable(&self, caller: Option<Caller>, now: &Now) -> Option<FreshToken> {
        self.offered(caller, now)?.usable(now, self.min_life)
    }

    /// Whether the token is of this generation, and may be served to this caller.
    #[must_use]
    pub fn serves(&self, generation: u64, caller: Option<Caller>, now: &Now) -> bool {
        self.offered(caller, now).is_some_and(|token| {
            token.generation == generation && token.is_usable(now, self.min_life)
        })
    }

    /// Whether the token has enough life left for git, which keeps it for a whole command.
    #[must_use]
    pub fn lasts(&self, now: &Now) -> bool {
        self.token.as_ref().is_some_and(|token| token.left(now) >= self.git_min_life)
    }

    /// The token, unless it is withheld from this caller.
    fn offered(&self, caller: Option<Caller>, now: &Now) -> Option<&Token> {
        let withheld = self.rejected.is_some_and(|rejection| rejection.withholds_from(caller, now));
        self.token.as_ref().filter(|_| !withheld)
    }

    /// How things stand, in one word.
    #[must_use]
    pub fn state(&self, now: &Now) -> State {
        let troubled = self.fallback || self.rejected.is_some() || !self.failures.is_empty();
        let usable = self.usable(None, now).is_some();
        if self.idle || (!self.asked && !usable && !troubled) {
            State::Idle
        } else if !usable {
            State::None
        } else if troubled {
            State::Degraded
        } else {
            State::Fresh
        }
    }

    /// The failure that says most about why there is no token: a refusal if there is one, else the
    /// best source's.
    #[must_use]
    pub fn telling_failure(&self) -> Option<&Failure> {
        self.failures
            .iter()
            .find(|failure| failure.error.kind.is_refusal())
            .or_else(|| self.failures.first())
    }

    /// The same without what only those may know who may read the token: paths, addresses, and what
    /// exactly is wrong with them.
    #[must_use]
    pub fn without_particulars(&self) -> Self {
        let mut snapshot = self.clone();
        for failure in &mut snapshot.failures {
            failure.error.detail.clear();
        }
        for event in &mut snapshot.history {
            event.detail.clear();
        }
        snapshot
    }
}

/// What a rejection of a token means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Its source has another one, or insists on this one.
    Usual,
    /// Its source has no other one.
    Final,
    /// The token is so young that whoever refused it may not know it yet.
    Early,
}

/// A consumer said that a token was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    /// Which token.
    pub fingerprint: Fingerprint,
    /// When.
    pub at: Now,
    /// Withheld until then (boot clock): from everybody while the source has not been asked again, from
    /// then on only from the user who rejected it last.
    pub withheld_until: Duration,
    /// How often it was said.
    pub count: u64,
    /// The user who said so, where that is known.
    pub user: Option<u32>,
    /// The source was asked because of this rejection of the token, or an earlier one, and gave the
    /// same token again.
    pub is_denied: bool,
}

impl Rejection {
    /// What becomes of `earlier`, the token's rejection so far, when a consumer rejects the token,
    /// and whether the policy must hear of it. Within [`REJECT_QUIET`] it is only counted. A final
    /// one withholds the token for ever, any other for [`WITHHELD`]: one spurious 401 must not black
    /// out a workspace. The first one of a token that is young withholds it for a moment only.
    #[must_use]
    pub fn of(
        earlier: Option<Self>,
        fingerprint: Fingerprint,
        user: Option<u32>,
        weight: Weight,
        now: &Now,
    ) -> (Self, bool) {
        let earlier = earlier.filter(|earlier| earlier.fingerprint == fingerprint);
        let count = earlier.map_or(1, |earlier| earlier.count.saturating_add(1));
        let is_quiet = |earlier: &Self| match weight {
            Weight::Final => true,
            _ if earlier.is_early() => !earlier.is_lifted(now),
            _ => now.boot.saturating_sub(earlier.at.boot) < REJECT_QUIET,
        };
        match earlier {
            Some(earlier) if is_quiet(&earlier) => (Self { count, ..earlier }, false),
            _ => {
                let withheld_until = match weight {
                    Weight::Final => Duration::MAX,
                    Weight::Early if earlier.is_none() => now.boot.saturating_add(KNOWN_LATE_PAUSE),
                    Weight::Early | Weight::Usual => now.boot.saturating_add(WITHHELD),
                };
                let (at, is_denied) = (*now, earlier.is_some_and(|earlier| earlier.is_denied));
                (Self { fingerprint, at, withheld_until, count, user, is_denied }, true)
            }
        }
    }

    /// Whether the token was so young that it is offered again, instead of another. No other rejection
    /// withholds for so short a time.
    #[must_use]
    pub fn is_early(&self) -> bool {
        self.withheld_until <= self.at.boot.saturating_add(KNOWN_LATE_PAUSE)
    }

    /// Whether it was early, and the token is offered again by now.
    #[must_use]
    pub fn is_lifted(&self, now: &Now) -> bool {
        self.is_early() && now.boot >= self.withheld_until
    }

    /// Whether the token is withheld from this caller now. Once the source has given the token again,
    /// it is good by the source's word, and one user's mistake must not cost the others. The user who
    /// rejected it still waits: a program that was refused would only be refused again. So does a caller
    /// whose user cannot be told: it may be that one. Nobody in particular (`None`) is not held back.
    #[must_use]
    pub fn withholds_from(&self, caller: Option<Caller>, now: &Now) -> bool {
        // The user last: it may have to be looked up.
        let may_be_who_rejected =
            |caller: Caller| caller.uid().is_none_or(|user| Some(user) == self.user);
        now.boot < self.withheld_until
            && (!self.is_denied || caller.is_some_and(may_be_who_rejected))
    }

    /// The source gave this token in answer to a request. A request that was sent before the rejection
    /// says nothing about it, and a final rejection stays.
    pub(crate) fn came_again(&mut self, token: Fingerprint, requested: &Now) {
        self.is_denied |= token == self.fingerprint
            && !self.is_early()
            && requested.boot >= self.at.boot
            && self.withheld_until != Duration::MAX;
    }
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
    /// The particulars of that; may be empty.
    pub detail: String,
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
