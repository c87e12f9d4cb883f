//! When to fetch, what to do with the answer, what to tell a waiting open: a pure state machine.
//!
//! `(state, event, now) → (state, decision)`. It does no I/O, reads no clock and holds no token
//! bytes, and chance is handed in: the engine, a simulation and a fleet of a million run the same
//! code. The engine only executes its decisions.
//!
//! The sources form a chain, best first. A token of a later source is served when there is no other
//! but is no success: the earlier sources go on being tried under back-off.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;

use crate::error::{FetchErrorKind, ReadErrorKind};
use crate::refresh::store::Progress;
use crate::refresh::{Next, Rejection};
use crate::secret::Fingerprint;
use crate::time::Now;
use crate::token::Life;

#[cfg(test)]
mod tests;
pub mod windows;

pub use windows::Windows;

/// What the policy must know of a source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SourceRules {
    /// The longest life that its issuer ever gives.
    pub max_life: Option<Duration>,
    /// A rejection of its token is final: it has no other.
    pub rejection_is_final: bool,
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
        /// Its life from then on, by the source's word.
        life: Life,
    },
    /// Without.
    Failed {
        /// Why.
        kind: FetchErrorKind,
        /// How long the source asked to be left alone.
        retry_after: Option<Duration>,
    },
}

/// What to do now. At most one fetch is started at a time: where more is due, [`Policy::wake`] is in
/// the past and the next [`Event::Tick`] brings it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    /// Start a fetch from this source.
    pub fetch: Option<usize>,
    /// Why the fetch is started, in words, as in [`Next::reason`].
    pub because: &'static str,
    /// Make [`Policy::held`] a new generation.
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

/// How it goes with one source.
#[derive(Debug, Clone, Default)]
struct SourceState {
    in_flight: bool,
    /// It changed while a fetch was in flight, whose answer may therefore be stale.
    changed: bool,
    /// Failures in a row.
    strikes: u32,
    /// The last failure, while the streak lasts.
    failure: Option<FetchErrorKind>,
    /// The failure does not heal by itself.
    permanent: bool,
    /// No attempt before this (boot clock).
    not_before: Duration,
    /// The source asked not to be tried before this; not even a forced fetch may.
    wish: Duration,
    /// The rejection of its last token, until it gives another.
    rejection: Option<Box<Rejection>>,
}

impl SourceState {
    fn succeed(&mut self) {
        *self =
            Self { in_flight: self.in_flight, rejection: self.rejection.take(), ..Self::default() };
    }

    fn heals_by_change(&self) -> bool {
        self.permanent || self.failure == Some(FetchErrorKind::NotRegistered)
    }
}

/// Why the refresh of the token at hand is planned for its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Timer,
    Life,
    Spread,
    Repeat,
    Asked,
}

/// The state machine. See the module.
#[derive(Debug, Clone)]
pub struct Policy {
    rules: Arc<Rules>,
    sources: Vec<SourceState>,
    held: Option<Held>,
    renew_at: Duration,
    plan: Plan,
    /// The next token counts as the first after a start.
    started: bool,
    /// Wall clock minus boot clock, in milliseconds, as of the plan and of the publication.
    planned_offset: i64,
    published_offset: i64,
    skew: Duration,
    repeats: bool,
    asked: bool,
    last_open: Option<Duration>,
    quiet_until: Duration,
    last_forced: Option<Duration>,
    hold: Option<Duration>,
}

impl Policy {
    /// A policy that knows nothing yet and, unless `prefetch` is set, waits for the first open.
    #[must_use]
    pub fn new(rules: Arc<Rules>, now: &Now) -> Self {
        let prefetch = rules.windows.prefetch;
        Self {
            sources: vec![SourceState::default(); rules.sources.len()],
            held: None,
            renew_at: Duration::ZERO,
            plan: Plan::Timer,
            started: true,
            planned_offset: offset(now),
            published_offset: offset(now),
            skew: Duration::ZERO,
            repeats: false,
            asked: false,
            last_open: prefetch.then_some(now.boot),
            quiet_until: if prefetch {
                now.boot.saturating_add(rules.windows.initial_delay)
            } else {
                Duration::ZERO
            },
            last_forced: None,
            hold: None,
            rules,
        }
    }

    /// A policy that goes on where another one in the same boot stopped.
    #[must_use]
    pub fn resume(rules: Arc<Rules>, held: Option<Held>, saved: &Progress, now: &Now) -> Self {
        let mut policy = Self::new(rules, now);
        policy.skew = saved.skew;
        policy.repeats = saved.repeats;
        if let Some(at) = saved.last_open {
            policy.note_open(at);
        }
        if let Some(first) = policy.sources.first_mut()
            && saved.strikes > 0
        {
            first.strikes = saved.strikes;
            // Which failure it was is not kept, only that it was one.
            first.failure = Some(FetchErrorKind::Unreachable);
            first.not_before = saved.not_before.min(now.boot.saturating_add(windows::LONGEST_WISH));
        }
        if let Some(held) = held.filter(|held| held.source < policy.sources.len()) {
            policy.held = Some(held);
            policy.started = false;
            policy.renew_at = saved.next_refresh.unwrap_or(now.boot);
            policy.planned_offset = offset(&held.issued);
            policy.published_offset = offset(&held.issued);
            if let (Some((fingerprint, at, withheld_until)), Some(state)) =
                (saved.rejected, policy.sources.get_mut(held.source))
            {
                state.rejection =
                    Some(Box::new(Rejection { fingerprint, at, withheld_until, count: 1 }));
            }
        }
        policy
    }

    /// What a successor must know. Of the sources only the first one's back-off is worth keeping.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let first = self.sources.first();
        Progress {
            strikes: first.map_or(0, |state| state.strikes),
            not_before: first.map_or(Duration::ZERO, |state| state.not_before),
            next_refresh: self.held.map(|_| self.renew_at),
            rejected: self.rejection().map(|r| (r.fingerprint, r.at, r.withheld_until)),
            skew: self.skew,
            repeats: self.repeats,
            last_open: self.last_open.filter(|_| self.asked),
        }
    }

    /// Notes an open that was served without an event, so that the idle time counts from it.
    pub fn note_open(&mut self, at: Duration) {
        self.asked = true;
        self.last_open = self.last_open.max(Some(at));
        self.quiet_until = Duration::ZERO;
    }

    /// Tells until when the waiting opens let an earlier source hold them up ([`windows::hold`], the
    /// earliest of them all); `None` when none waits.
    pub fn set_hold(&mut self, hold: Option<Duration>) {
        self.hold = hold;
    }

    /// The one way in which state changes.
    pub fn step(&mut self, event: Event, now: &Now, rng: &mut impl Rng) -> Decision {
        let mut decision = Decision::default();
        match event {
            Event::Tick => {}
            Event::Opened => self.opened(now),
            Event::Refresh => self.force(now),
            Event::Rejected(rejection) => self.reject(rejection, now),
            Event::Changed { source } => self.changed(source),
            Event::Answered { source, answer } => {
                decision = self.answered(source, answer, now, rng);
            }
        }
        if decision.publish.is_some() {
            self.published_offset = offset(now);
        } else if self.clock_was_set(now, rng) {
            decision.publish = Some(Publish::Again);
        }
        decision.fetch = self.next_fetch(now);
        if let Some(source) = decision.fetch {
            decision.because = self.reason(source);
            if let Some(state) = self.sources.get_mut(source) {
                state.in_flight = true;
                state.changed = false;
            }
        }
        decision
    }

    // === questions ===

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

    /// Whether the token at hand may be served.
    #[must_use]
    pub fn usable(&self, now: &Now) -> bool {
        self.alive(now) && self.rejection().is_none_or(|r| now.boot >= r.withheld_until)
    }

    /// The rejection of the token at hand.
    #[must_use]
    pub fn rejection(&self) -> Option<&Rejection> {
        let held = self.held?;
        let rejection = self.sources.get(held.source)?.rejection.as_deref()?;
        (rejection.fingerprint == held.fingerprint).then_some(rejection)
    }

    /// Before this (boot clock) not even a forced fetch may ask the best source, by its own wish.
    #[must_use]
    pub fn wish(&self) -> Duration {
        self.sources.first().map_or(Duration::ZERO, |state| state.wish)
    }

    /// Whether a request is in flight.
    #[must_use]
    pub fn fetching(&self) -> bool {
        self.sources.iter().any(|state| state.in_flight)
    }

    /// How much the platform's clock was seen to run behind the issuer's.
    #[must_use]
    pub fn skew(&self) -> Duration {
        self.skew
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

    /// An open of a token with at most this left must be told ([`Event::Opened`]): it may bring a
    /// refresh forward. `None` where it would change nothing.
    #[must_use]
    pub fn call_at(&self, now: &Now) -> Option<Duration> {
        if !self.asked || !self.active(now) {
            return Some(Duration::MAX);
        }
        let held = self.held?;
        let state = self.sources.get(held.source)?;
        let calm = !state.in_flight && state.failure.is_none() && self.plan != Plan::Repeat;
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

    /// When a [`Event::Tick`] is due (boot clock); `None` when only another event matters.
    #[must_use]
    pub fn wake(&self, now: &Now) -> Option<Duration> {
        let usable = self.usable(now);
        let mut wake = self
            .rejection()
            .map(|r| r.withheld_until)
            .filter(|&at| at > now.boot && at != Duration::MAX);
        for (source, state) in self.sources.iter().enumerate() {
            if state.in_flight {
                match self.hold {
                    _ if usable => continue,
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

    /// What an open is told that waits until `deadline` (boot clock).
    #[must_use]
    pub fn verdict(&self, now: &Now, deadline: Duration) -> Verdict {
        if self.usable(now) {
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

    // === events ===

    fn opened(&mut self, now: &Now) {
        self.note_open(now.boot);
        let Some(held) = self.held else { return };
        if self.plan != Plan::Repeat
            && held.left(now) <= held.life.duration() / 5
            && self.renew_at > now.boot
        {
            self.renew_at = now.boot;
            self.plan = Plan::Asked;
        }
    }

    fn force(&mut self, now: &Now) {
        self.note_open(now.boot);
        self.last_forced = Some(now.boot);
        if self.held.is_some_and(|held| held.source == 0) {
            self.renew_at = now.boot;
            self.plan = Plan::Asked;
        }
        if let Some(first) = self.sources.first_mut() {
            first.not_before = first.wish;
        }
    }

    fn reject(&mut self, rejection: Rejection, now: &Now) {
        let Some(held) = self.held.filter(|held| held.fingerprint == rejection.fingerprint) else {
            return;
        };
        self.note_open(now.boot);
        let earliest = self
            .last_forced
            .map_or(now.boot, |last| last.saturating_add(windows::FORCED_SPACING).max(now.boot));
        self.last_forced = Some(earliest);
        self.renew_at = earliest;
        self.plan = Plan::Asked;
        if let Some(state) = self.sources.get_mut(held.source) {
            state.rejection = Some(Box::new(rejection));
            state.not_before = state.not_before.max(earliest);
        }
    }

    fn changed(&mut self, source: usize) {
        let Some(state) = self.sources.get_mut(source) else { return };
        if state.in_flight {
            state.changed = true;
        } else if state.heals_by_change() {
            state.strikes = 0;
            state.permanent = false;
            state.not_before = Duration::ZERO;
            state.wish = Duration::ZERO;
        }
    }

    fn answered(
        &mut self,
        source: usize,
        answer: Answer,
        now: &Now,
        rng: &mut impl Rng,
    ) -> Decision {
        let Some(state) = self.sources.get_mut(source) else { return Decision::default() };
        state.in_flight = false;
        match answer {
            Answer::Failed { kind, retry_after } => self.fail(source, kind, retry_after, now, rng),
            Answer::Token { fingerprint, issued, life } => {
                let life = self.judge_life(source, life);
                let offer = Held { fingerprint, source, issued, life };
                match self.held {
                    // From a better source the same token is a better token: its life is known.
                    Some(held) if held.fingerprint == fingerprint && held.source <= source => {
                        self.came_again(held, offer, now, rng)
                    }
                    _ => self.came_new(offer, now, rng),
                }
            }
        }
    }

    /// Cuts a life to what the issuer can have given, and learns from the excess: it is the
    /// difference between the platform's clock and the issuer's.
    fn judge_life(&mut self, source: usize, life: Life) -> Life {
        let Some(max) = self.rules.sources.get(source).and_then(|rules| rules.max_life) else {
            return life;
        };
        match life {
            Life::Known(said) => {
                self.skew = self.skew.max(said.saturating_sub(max));
                Life::Known(said.saturating_sub(self.skew).min(max))
            }
            Life::Assumed(_) => life.at_most(max),
        }
    }

    fn came_new(&mut self, offer: Held, now: &Now, rng: &mut impl Rng) -> Decision {
        let source = offer.source;
        if !self.would_be_alive(&offer, now) {
            return self.fail(source, FetchErrorKind::BornExpired, None, now, rng);
        }
        if let Some(mut rejection) = self.rejection_of(&offer) {
            let mut decision = self.fail(source, FetchErrorKind::Rejected, None, now, rng);
            // It displaces nothing that can be served.
            if !self.usable(now) && !self.rejection_is_final(source) {
                let withheld = rejection.at.boot.saturating_add(windows::WITHHELD);
                rejection.withheld_until = rejection.withheld_until.min(withheld);
                if let Some(state) = self.sources.get_mut(source) {
                    state.rejection = Some(Box::new(rejection));
                }
                self.adopt(offer, now, rng);
                decision.publish = Some(Publish::New);
            }
            return decision;
        }
        let is_needed = self.held.is_none_or(|held| held.source >= source) || !self.usable(now);
        let streak = self.succeed(source);
        if let Some(state) = self.sources.get_mut(source) {
            state.rejection = None;
        }
        if is_needed {
            self.started |= streak;
            self.adopt(offer, now, rng);
        }
        Decision {
            publish: is_needed.then_some(Publish::New),
            settled: Some(Settled::New),
            ..Decision::default()
        }
    }

    fn came_again(&mut self, held: Held, offer: Held, now: &Now, rng: &mut impl Rng) -> Decision {
        let source = offer.source;
        if self.rejection_of(&offer).is_some() {
            return self.fail(source, FetchErrorKind::Rejected, None, now, rng);
        }
        let is_renewed = held.source == source && matches!(offer.life, Life::Assumed(_));
        let shortened = held.left(now).saturating_sub(offer.left(now));
        if is_renewed {
            self.held = Some(offer);
        } else if let (Life::Known(life), Life::Known(_)) = (held.life, offer.life) {
            // The first word counts, unless a later one makes it shorter.
            let life = Life::Known(life.saturating_sub(shortened));
            self.held = Some(Held { life, ..held });
        }
        let is_dead = self.held.is_none_or(|held| held.left(now).is_zero());
        let is_useless_fallback = source > held.source && !self.usable(now);
        if is_dead || is_useless_fallback || (is_renewed && !self.alive(now)) {
            return self.fail(source, FetchErrorKind::BornExpired, None, now, rng);
        }
        self.succeed(source);
        if is_renewed {
            self.plan_refresh(now, rng);
        } else if held.source == source {
            self.repeats = true;
            self.plan_repeat(now, rng);
        }
        let expiry_moved = !is_renewed && shortened > windows::WALL_JUMP;
        Decision {
            publish: expiry_moved.then_some(Publish::Again),
            settled: Some(Settled::Same),
            ..Decision::default()
        }
    }

    fn adopt(&mut self, offer: Held, now: &Now, rng: &mut impl Rng) {
        self.held = Some(offer);
        self.plan_refresh(now, rng);
        self.started &= offer.source > 0;
    }

    /// Ends the source's streak of failures and says whether there was one. The later sources'
    /// failures no longer matter to anybody.
    fn succeed(&mut self, source: usize) -> bool {
        let mut streak = false;
        for (place, state) in self.sources.iter_mut().enumerate().skip(source) {
            streak |= place == source && state.failure.is_some();
            state.succeed();
        }
        streak
    }

    fn fail(
        &mut self,
        source: usize,
        kind: FetchErrorKind,
        retry_after: Option<Duration>,
        now: &Now,
        rng: &mut impl Rng,
    ) -> Decision {
        let is_final = kind == FetchErrorKind::Rejected && self.rejection_is_final(source);
        let live = self
            .held
            .filter(|held| held.source <= source && self.usable(now))
            .map(|held| held.left(now));
        if let Some(state) = self.sources.get_mut(source) {
            state.strikes = state.strikes.saturating_add(1);
            state.failure = Some(kind);
            state.permanent = is_final || !kind.is_transient();
            let delay = if state.permanent {
                windows::permanent_retry(rng)
            } else {
                windows::back_off(state.strikes, live, rng)
            };
            state.not_before = now.boot.saturating_add(delay);
            state.wish = retry_after
                .map_or(Duration::ZERO, |asked| now.boot.saturating_add(windows::wish(asked, rng)));
            state.not_before = state.not_before.max(state.wish);
        }
        if self.sources.get(source).is_some_and(|state| state.changed) {
            self.changed(source);
        }
        Decision { settled: Some(Settled::Failed(kind)), ..Decision::default() }
    }

    // === plans ===

    fn plan_refresh(&mut self, now: &Now, rng: &mut impl Rng) {
        let Some(held) = self.held else { return };
        let age = now.elapsed_since(&held.issued);
        let latest = self.latest_refresh(&held);
        let (by_life, plan) = if self.started {
            (windows::spread(latest, rng), Plan::Spread)
        } else {
            (latest, Plan::Life)
        };
        let by_life = by_life.saturating_sub(age);
        let by_timer = self.rules.windows.timer(rng);
        let (delay, plan) =
            if by_timer < by_life { (by_timer, Plan::Timer) } else { (by_life, plan) };
        // A request that took most of the life it brought must not be followed by another at once.
        let least = (held.left(now) / 4).min(windows::REPEAT_LEAST);
        self.renew_at = now.boot.saturating_add(delay.max(least));
        self.plan = plan;
        self.planned_offset = offset(now);
    }

    fn plan_repeat(&mut self, now: &Now, rng: &mut impl Rng) {
        let Some(held) = self.held else { return };
        self.renew_at = now.boot.saturating_add(windows::after_repeat(held.left(now), rng));
        self.plan = Plan::Repeat;
        self.planned_offset = offset(now);
    }

    /// Corrects the plan after the wall clock was set, and says whether the token must be published
    /// again. A clock that went forward ages the token; one that went back leaves its age to the
    /// boot clock.
    fn clock_was_set(&mut self, now: &Now, rng: &mut impl Rng) -> bool {
        let Some(held) = self.held else { return false };
        let offset = offset(now);
        // The two clocks are not read at one instant, and one of them may be slewed.
        if offset.abs_diff(self.planned_offset) > 1000 {
            self.planned_offset = offset;
            let left = held.left(now);
            if self.plan == Plan::Repeat {
                let planned = self.renew_at.saturating_sub(now.boot);
                if planned >= left {
                    self.plan_repeat(now, rng);
                }
            } else {
                let age = now.elapsed_since(&held.issued);
                let latest = self.latest_refresh(&held).saturating_sub(age);
                self.renew_at = self.renew_at.min(now.boot.saturating_add(latest));
            }
        }
        let jumped = Duration::from_millis(offset.abs_diff(self.published_offset));
        let is_due = jumped > windows::WALL_JUMP && !held.left(now).is_zero();
        if is_due {
            self.published_offset = offset;
        }
        is_due
    }

    // === what is due ===

    /// The source from which to fetch now, if any: at most one request of each, in the chain's
    /// order. An earlier source in flight holds the later ones up while nobody waits too long for
    /// it.
    fn next_fetch(&self, now: &Now) -> Option<usize> {
        let usable = self.usable(now);
        for (source, state) in self.sources.iter().enumerate() {
            if state.in_flight {
                if usable || self.hold.is_some_and(|hold| now.boot >= hold) {
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
    fn due(&self, source: usize, now: &Now) -> Option<Duration> {
        let state = self.sources.get(source)?;
        if state.in_flight || !self.active(now) {
            return None;
        }
        let usable = self.usable(now);
        let at = match self.held {
            Some(held) if usable && source > held.source => return None,
            // Only a source that gives the same token again is waited for, whatever its token is
            // worth: asking it sooner brings nothing.
            Some(held)
                if source == held.source
                    && state.failure.is_none()
                    && (usable || self.plan == Plan::Repeat) =>
            {
                self.renew_at.max(state.not_before)
            }
            _ => state.not_before,
        };
        Some(at.max(self.quiet_until))
    }

    fn reason(&self, source: usize) -> &'static str {
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

    fn active(&self, now: &Now) -> bool {
        self.last_open.is_some_and(|at| now.boot.saturating_sub(at) <= self.rules.windows.idle)
    }

    fn alive(&self, now: &Now) -> bool {
        self.held.is_some_and(|held| self.would_be_alive(&held, now))
    }

    fn would_be_alive(&self, held: &Held, now: &Now) -> bool {
        let left = held.left(now);
        !left.is_zero() && left >= self.min_life_of(held.life)
    }

    fn min_life_of(&self, life: Life) -> Duration {
        self.rules.windows.min_life_of(life.duration(), self.repeats)
    }

    fn latest_refresh(&self, held: &Held) -> Duration {
        self.rules.windows.latest_refresh(held.life.duration(), self.repeats)
    }

    /// The rejection of this very token, whichever source gave it then.
    fn rejection_of(&self, offer: &Held) -> Option<Rejection> {
        self.sources
            .iter()
            .filter_map(|state| state.rejection.as_deref())
            .find(|rejection| rejection.fingerprint == offer.fingerprint)
            .copied()
    }

    fn rejection_is_final(&self, source: usize) -> bool {
        self.rules.sources.get(source).is_some_and(|rules| rules.rejection_is_final)
    }

    /// The errno of an open that gets nothing, when no fetch is in flight.
    fn refusal(&self) -> ReadErrorKind {
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

/// Wall clock minus boot clock, in milliseconds.
fn offset(now: &Now) -> i64 {
    let millis = |clock: Duration| i64::try_from(clock.as_millis()).unwrap_or(i64::MAX);
    millis(now.wall).saturating_sub(millis(now.boot))
}
