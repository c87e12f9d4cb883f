//! What the policy answers without changing: what is due, what is usable, what a waiting open is
//! told.

use std::time::Duration;

use crate::caller::Caller;
use crate::error::{FetchErrorKind, ReadErrorKind};
use crate::refresh::policy::{Held, Plan, Policy, Reading, SourceState, Verdict};
use crate::refresh::{Next, Rejection};
use crate::time::Now;
use crate::token::Life;

impl Policy {
    /// The token at hand, usable or not.
    #[must_use]
    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// The minimum life at open of the token at hand.
    #[must_use]
    pub fn min_life(&self) -> Duration {
        self.held.map_or(Duration::ZERO, |held| self.min_life_of(held.life))
    }

    /// The life that the token at hand should have left when git gets it.
    #[must_use]
    pub fn git_min_life(&self) -> Duration {
        self.held.map_or(Duration::ZERO, |held| {
            self.rules.windows.git_min_life_of(held.life.duration(), self.repeats)
        })
    }

    /// Whether an open should wait until then (boot clock) although it could be served now: the token at
    /// hand does not last, and a request for another one is in flight or due by then.
    #[must_use]
    pub fn may_last_by(&self, until: Duration, now: &Now) -> bool {
        let Some(held) = self.held.filter(|held| held.left(now) < self.git_min_life()) else {
            return false;
        };
        let better = self.sources.iter().enumerate().take(held.source.saturating_add(1));
        let mut better = better.filter(|(_, state)| !state.permanent);
        now.boot < until
            && better.any(|(source, state)| {
                state.in_flight() || self.due(source, now).is_some_and(|at| at <= until)
            })
    }

    /// Whether the token at hand may be served to everybody.
    #[must_use]
    pub fn usable(&self, now: &Now) -> bool {
        self.alive(now) && self.rejection().is_none_or(|r| now.boot >= r.withheld_until)
    }

    /// Whether the token at hand may be served to this caller (`None`: somebody).
    #[must_use]
    pub fn usable_for(&self, caller: Option<Caller>, now: &Now) -> bool {
        self.alive(now) && self.rejection().is_none_or(|r| !r.withholds_from(caller, now))
    }

    /// Whether no other token is needed: that at hand may be served, or will be offered again in a moment.
    pub(super) fn is_kept(&self, now: &Now) -> bool {
        let is_early = || self.rejection().is_some_and(Rejection::is_early);
        self.usable(now) || (self.alive(now) && is_early())
    }

    /// The rejection of the token at hand.
    #[must_use]
    pub fn rejection(&self) -> Option<&Rejection> {
        let held = self.held?;
        let rejection = self.sources.get(held.source)?.rejection.as_deref()?;
        (rejection.fingerprint == held.fingerprint).then_some(rejection)
    }

    /// Before this (boot clock) not even a forced fetch may ask any source, by their own wish.
    #[must_use]
    pub fn wish(&self) -> Duration {
        let wishes = self.sources.iter().zip(0..).filter(|(_, source)| self.can_be_forced(*source));
        wishes.map(|(state, _)| state.wish).min().unwrap_or_default()
    }

    /// Whether somebody who wants another token wants this source asked: it is no worse than the one whose
    /// token is at hand, and has others to give, or no better one has.
    pub(super) fn can_be_forced(&self, source: usize) -> bool {
        let is_good = self.held.is_none_or(|held| source <= held.source);
        let has_others = |source: usize| !self.rejection_is_final(source);
        is_good && (has_others(source) || !(0..source).any(has_others))
    }

    /// Whether a request is in flight.
    #[must_use]
    pub fn fetching(&self) -> bool {
        self.sources.iter().any(SourceState::in_flight)
    }

    /// How much later it was for the issuer than by the platform's clock, at its last answer, as far
    /// as this machine's clock or the tokens tell: what lives are shortened by.
    #[must_use]
    pub fn skew(&self) -> Duration {
        self.clocks.lag
    }

    /// Whether the tokens prove that the clocks lag behind the issuer's.
    #[must_use]
    pub fn skew_is_proved(&self) -> bool {
        let longest = self.rules.sources.iter().filter_map(|rules| rules.max_life).max();
        longest.is_some_and(|longest| self.clocks.proves_lag(longest))
    }

    /// What the clocks said of the last token with an expiry.
    #[must_use]
    pub fn reading(&self) -> Option<&Reading> {
        self.reading.as_deref()
    }

    /// Whether the platform was seen to give the same token twice.
    #[must_use]
    pub fn repeats(&self) -> bool {
        self.repeats
    }

    /// Whether anybody ever asked.
    #[must_use]
    pub fn asked(&self) -> bool {
        self.asked
    }

    /// Whether nobody asked for so long that nothing is fetched.
    #[must_use]
    pub fn idle(&self, now: &Now) -> bool {
        self.last_open.is_some() && !self.active(now)
    }

    /// An open of a token with at most this left must be told, as
    /// [`Event::Opened`](super::Event::Opened): it may bring a refresh forward. `None` where it
    /// would change nothing.
    #[must_use]
    pub fn call_at(&self, now: &Now) -> Option<Duration> {
        if !self.asked || !self.active(now) {
            return Some(Duration::MAX);
        }
        let held = self.held?;
        let state = self.sources.get(held.source)?;
        let calm = !state.in_flight() && state.failure.is_none() && self.plan != Plan::Repeat;
        calm.then_some(held.life.duration() / 5)
    }

    /// The next attempt and why it is made then; `None` while idle, never asked, or in flight.
    #[must_use]
    pub fn next(&self, now: &Now) -> Option<Next> {
        (0..self.sources.len())
            .filter_map(|source| Some((self.due(source, now)?, source)))
            .min()
            .map(|(at, source)| Next { at, reason: self.reason(source) })
    }

    /// When a [`Event::Tick`](super::Event::Tick) is due (boot clock); `None` when only another event matters.
    #[must_use]
    pub fn wake(&self, now: &Now) -> Option<Duration> {
        let kept = self.is_kept(now);
        let mut wake = self
            .rejection()
            .map(|r| r.withheld_until)
            .filter(|&at| at > now.boot && at != Duration::MAX);
        for (source, state) in self.sources.iter().enumerate() {
            if state.in_flight() {
                match self.hold {
                    _ if kept => continue,
                    Some(hold) if now.boot >= hold => continue,
                    hold => {
                        wake = earliest(wake, hold);
                        break;
                    }
                }
            }
            wake = earliest(wake, self.due(source, now));
        }
        wake
    }

    /// What an open of this caller is told that waits until `deadline` (boot clock).
    #[must_use]
    pub fn verdict(&self, caller: Option<Caller>, now: &Now, deadline: Duration) -> Verdict {
        if self.usable_for(caller, now) {
            return Verdict::Serve;
        }
        let fetching = self.fetching();
        if now.boot >= deadline {
            let kind = if fetching { ReadErrorKind::TimedOut } else { self.refusal() };
            return Verdict::Fail(kind);
        }
        let comes_back = self.alive(now)
            && self.rejection().is_some_and(|rejection| rejection.withheld_until <= deadline);
        let is_tried_in_time = |(source, state): (usize, &SourceState)| {
            !state.permanent && self.due(source, now).is_some_and(|at| at <= deadline)
        };
        if fetching || comes_back || self.sources.iter().enumerate().any(is_tried_in_time) {
            Verdict::Wait
        } else {
            Verdict::Fail(self.refusal())
        }
    }

    /// The source from which to fetch now, if any: at most one request of each, in the chain's
    /// order. An earlier source in flight holds the later ones up while nobody waits too long for
    /// it.
    pub(super) fn next_fetch(&self, now: &Now) -> Option<usize> {
        let kept = self.is_kept(now);
        for (source, state) in self.sources.iter().enumerate() {
            if state.in_flight() {
                if kept || self.hold.is_some_and(|hold| now.boot >= hold) {
                    continue;
                }
                return None;
            }
            if self.due(source, now).is_some_and(|at| at <= now.boot) {
                return Some(source);
            }
        }
        None
    }

    /// When the next fetch from this source is due, as things stand.
    pub(super) fn due(&self, source: usize, now: &Now) -> Option<Duration> {
        let state = self.sources.get(source)?;
        if state.in_flight() || !self.active(now) || self.is_outdated(source) {
            return None;
        }
        let kept = self.is_kept(now);
        let at = match self.held {
            Some(held) if kept && source > held.source => return None,
            // Only a source that gives the same token again is waited for, whatever its token is
            // worth: asking it sooner brings nothing.
            Some(held)
                if source == held.source
                    && state.failure.is_none()
                    && (kept || self.plan == Plan::Repeat) =>
            {
                self.renew_at.max(state.not_before)
            }
            _ => state.not_before,
        };
        Some(at.max(self.quiet_until))
    }

    pub(super) fn reason(&self, source: usize) -> &'static str {
        let Some(state) = self.sources.get(source) else { return "" };
        match (state.failure, self.held) {
            (Some(_), _) if state.wish >= state.not_before => "the source asked to wait until then",
            (Some(_), _) if state.permanent => "the failure does not heal by itself",
            (Some(_), _) => "back-off after a failure",
            (None, Some(held)) if held.source == source => match self.plan {
                Plan::Timer => "refresh interval",
                Plan::Life => "most of its life is over then",
                Plan::Spread => "spread over its life after a start or failures",
                Plan::Repeat => "the source repeats its token until about then",
                Plan::Asked => "asked for",
            },
            (None, _) if self.quiet_until > Duration::ZERO => "first fetch after the start",
            (None, _) => "no token at hand",
        }
    }

    pub(super) fn active(&self, now: &Now) -> bool {
        self.last_open.is_some_and(|at| now.boot.saturating_sub(at) <= self.rules.windows.idle)
    }

    pub(super) fn alive(&self, now: &Now) -> bool {
        self.held.is_some_and(|held| self.would_be_alive(&held, now))
    }

    pub(super) fn would_be_alive(&self, held: &Held, now: &Now) -> bool {
        let left = held.left(now);
        !left.is_zero() && left >= self.min_life_of(held.life)
    }

    pub(super) fn min_life_of(&self, life: Life) -> Duration {
        self.rules.windows.min_life_of(life.duration(), self.repeats)
    }

    pub(super) fn latest_refresh(&self, held: &Held) -> Duration {
        self.rules.windows.latest_refresh(held.life.duration(), self.repeats)
    }

    /// The rejection of this very token, whichever source gave it then.
    pub(super) fn rejection_of(&self, offer: &Held) -> Option<Rejection> {
        self.sources
            .iter()
            .filter_map(|state| state.rejection.as_deref())
            .find(|rejection| rejection.fingerprint == offer.fingerprint && !rejection.is_early())
            .copied()
    }

    /// Whether an earlier source gave a token, and this one has only an older one to give.
    pub(super) fn is_outdated(&self, source: usize) -> bool {
        self.rules.sources.get(source).is_some_and(|rules| rules.is_stopgap)
            && self.held.is_some_and(|held| held.source < source)
    }

    pub(super) fn rejection_is_final(&self, source: usize) -> bool {
        self.rules.sources.get(source).is_some_and(|rules| rules.rejection_is_final)
    }

    /// The errno of an open that gets nothing, when no fetch is in flight.
    pub(super) fn refusal(&self) -> ReadErrorKind {
        let refuses = |state: &SourceState| state.failure.is_some_and(FetchErrorKind::is_refusal);
        if self.sources.iter().any(refuses) {
            ReadErrorKind::Rejected
        } else if self.held.is_some() {
            ReadErrorKind::Expired
        } else {
            ReadErrorKind::NoToken
        }
    }
}

fn earliest(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
