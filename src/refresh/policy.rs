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

use crate::error::FetchErrorKind;
use crate::refresh::Rejection;
use crate::source::MAX_SOURCES;
use crate::time::Now;
use crate::token::Life;

pub mod clocks;
mod due;
mod event;
mod progress;
mod source;
#[cfg(test)]
mod tests;
pub mod windows;

pub use clocks::{Clocks, Reading};
pub use event::{Answer, Decision, Event, Held, Publish, Rules, Settled, SourceRules, Verdict};
pub use progress::{BackOff, Progress};
pub use windows::Windows;

use source::{Request, SourceState};

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
    /// Wall clock minus boot clock, in milliseconds, as of the plan and of the publication.
    planned_offset: i64,
    published_offset: i64,
    clocks: Clocks,
    /// What the clocks said of the last answer that gave a token with an expiry.
    reading: Option<Box<Reading>>,
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
            planned_offset: offset(now),
            published_offset: offset(now),
            clocks: Clocks::default(),
            reading: None,
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
    pub fn resume(
        rules: Arc<Rules>,
        held: Option<Held>,
        saved: &Progress,
        now: &Now,
        rng: &mut impl Rng,
    ) -> Self {
        let mut policy = Self::new(rules, now);
        policy.clocks = saved.clocks;
        policy.repeats = saved.repeats;
        if let Some(at) = saved.last_open {
            policy.note_open(at);
        }
        for (state, saved) in policy.sources.iter_mut().zip(&saved.sources) {
            state.resume(saved, now);
        }
        if let Some((held, state)) =
            held.and_then(|held| Some((held, policy.sources.get_mut(held.source)?)))
        {
            state.has_given = true;
            // Only such a plan also keeps its source from being asked sooner.
            let waits = state.strikes == 0 && saved.next_refresh == Some(state.not_before);
            if saved.repeats && waits {
                policy.plan = Plan::Repeat;
            }
            policy.held = Some(held);
            policy.renew_at = saved.next_refresh.unwrap_or_default();
            policy.planned_offset = offset(&held.issued);
            policy.published_offset = offset(&held.issued);
            // The other one died between a token and the plan for it: the plan that was kept is the one
            // by which that token was asked for, or there is none yet.
            if saved.next_refresh.is_none_or(|at| at <= held.issued.boot) {
                policy.plan_refresh(now, rng);
            }
        }
        if let Some(rejection) = saved.rejected {
            let of_held = held.filter(|held| held.fingerprint == rejection.fingerprint);
            let is_final = rejection.withheld_until == Duration::MAX;
            let source = of_held.map(|held| held.source).or_else(|| {
                policy.rules.sources.iter().position(|rules| rules.rejection_is_final == is_final)
            });
            if let Some(source) = source
                && let Some(state) = policy.sources.get_mut(source)
            {
                state.rejection = Some(Box::new(rejection));
            }
        }
        policy
    }

    /// What a successor must know.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let mut sources = [BackOff::default(); MAX_SOURCES];
        for (saved, state) in sources.iter_mut().zip(&self.sources) {
            *saved = state.back_off();
        }
        Progress {
            sources,
            next_refresh: self.held.map(|_| self.renew_at),
            // Another source may insist on a token that was rejected while this one was not at hand.
            rejected: self
                .rejection()
                .or_else(|| self.sources.iter().find_map(|state| state.rejection.as_deref()))
                .copied(),
            clocks: self.clocks,
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
        for state in &mut self.sources {
            state.rejection = state.rejection.take().filter(|rejection| !rejection.is_lifted(now));
        }
        match event {
            Event::Tick => {}
            Event::Opened => self.opened(Duration::ZERO, now),
            Event::Wanted => self.opened(self.git_min_life(), now),
            Event::Refresh => self.force(now),
            Event::Rejected(rejection) => self.reject(rejection, now),
            Event::Changed { source } => self.changed(source),
            Event::Answered { source, answer } => {
                decision = self.answered(source, answer, now, rng);
            }
        }
        if decision.publish.is_some() {
            self.published_offset = offset(now);
        } else if self.clock_was_set(now) {
            decision.publish = Some(Publish::Again);
        }
        decision.fetch = self.next_fetch(now);
        if let Some(source) = decision.fetch {
            decision.because = self.reason(source);
            if let Some(state) = self.sources.get_mut(source) {
                state.request = Request::InFlight;
            }
        }
        decision
    }

    // === events ===

    /// Somebody opens, and would like a token with at least `least` left.
    fn opened(&mut self, least: Duration, now: &Now) {
        self.note_open(now.boot);
        let Some(held) = self.held else { return };
        if self.plan != Plan::Repeat
            && held.left(now) <= least.max(held.life.duration() / 5)
            && self.renew_at > now.boot
        {
            self.renew_at = now.boot;
            self.plan = Plan::Asked;
        }
    }

    fn force(&mut self, now: &Now) {
        self.note_open(now.boot);
        self.last_forced = Some(now.boot);
        if self.held.is_some_and(|held| self.can_be_forced(held.source)) {
            self.renew_at = now.boot;
            self.plan = Plan::Asked;
        }
        for source in 0..self.sources.len() {
            let can_be_forced = self.can_be_forced(source);
            if let Some(state) = self.sources.get_mut(source).filter(|_| can_be_forced) {
                state.not_before = state.wish;
            }
        }
    }

    fn reject(&mut self, rejection: Rejection, now: &Now) {
        let Some(held) = self.held.filter(|held| held.fingerprint == rejection.fingerprint) else {
            return;
        };
        self.note_open(now.boot);
        if rejection.is_early() {
            if let Some(state) = self.sources.get_mut(held.source) {
                state.rejection = Some(Box::new(rejection));
            }
            return;
        }
        let earliest = self
            .last_forced
            .map_or(now.boot, |last| last.saturating_add(windows::FORCED_SPACING).max(now.boot));
        self.last_forced = Some(earliest);
        self.renew_at = earliest;
        self.plan = Plan::Asked;
        if let Some(state) = self.sources.get_mut(held.source) {
            state.rejection = Some(Box::new(rejection));
            let back_off = state.failure.map_or(Duration::ZERO, |_| state.not_before);
            state.not_before = back_off.max(earliest);
        }
    }

    fn changed(&mut self, source: usize) {
        let Some(state) = self.sources.get_mut(source) else { return };
        if state.in_flight() {
            state.request = Request::Overtaken;
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
        let is_overtaken = std::mem::take(&mut state.request) == Request::Overtaken;
        let decision = match answer {
            Answer::Failed { kind, retry_after } => self.fail(source, kind, retry_after, now, rng),
            // An earlier source was faster.
            Answer::Token { .. } if self.is_outdated(source) => Decision::default(),
            Answer::Token { fingerprint, issued, term } => {
                let life = self.judge_term(source, fingerprint, term, &issued, now);
                let offer = Held { fingerprint, source, issued, life };
                match self.held {
                    // From a better source the same token is a better token: its life is known.
                    Some(held) if held.fingerprint == fingerprint && held.source <= source => {
                        self.came_again(held, offer, now, rng)
                    }
                    _ => self.came_new(offer, now, rng),
                }
            }
        };
        if is_overtaken && matches!(decision.settled, Some(Settled::Failed(_))) {
            self.changed(source);
        }
        decision
    }

    fn came_new(&mut self, offer: Held, now: &Now, rng: &mut impl Rng) -> Decision {
        let source = offer.source;
        if !self.would_be_alive(&offer, now) {
            return self.fail(source, self.too_old(&offer), None, now, rng);
        }
        if let Some(mut rejection) = self.rejection_of(&offer) {
            let mut decision = self.fail(source, FetchErrorKind::Rejected, None, now, rng);
            // It displaces nothing that can be served.
            if !self.usable(now) && !self.rejection_is_final(source) {
                let withheld = rejection.at.boot.saturating_add(windows::WITHHELD);
                rejection.withheld_until = rejection.withheld_until.min(withheld);
                rejection.came_again(offer.fingerprint, &offer.issued);
                if let Some(state) = self.sources.get_mut(source) {
                    state.rejection = Some(Box::new(rejection));
                }
                self.adopt(offer, now, rng);
                decision.publish = Some(Publish::New);
            }
            return decision;
        }
        let is_needed = self.held.is_none_or(|held| held.source >= source) || !self.is_kept(now);
        let streak = self.succeed(source);
        if let Some(state) = self.sources.get_mut(source) {
            state.rejection = None;
        }
        if is_needed {
            if let Some(state) = self.sources.get_mut(source) {
                state.has_given &= !streak;
            }
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
        let is_renewed = held.source == source && matches!(offer.life, Life::Assumed(_));
        let rejected = self.rejection_of(&offer).is_some();
        if let Some(state) = self.sources.get_mut(source)
            && let Some(rejection) = &mut state.rejection
        {
            rejection.came_again(offer.fingerprint, &offer.issued);
        }
        let is_judged_anew = self.reading.as_ref().is_some_and(|reading| reading.lifts_doubt);
        let known = if (is_renewed && !rejected) || (is_judged_anew && held.source == source) {
            offer
        } else {
            confirmed(held, offer, now)
        };
        self.held = Some(known);
        let moved = known.left(now).abs_diff(held.left(now)) > windows::WALL_JUMP;
        let failure = if rejected {
            Some(FetchErrorKind::Rejected)
        } else if known.left(now).is_zero()
            || ((is_renewed || source > held.source) && !self.alive(now))
        {
            Some(self.too_old(&offer))
        } else {
            None
        };
        let mut decision = if let Some(kind) = failure {
            self.fail(source, kind, None, now, rng)
        } else {
            self.succeed(source);
            if is_renewed {
                self.plan_refresh(now, rng);
            } else if held.source == source {
                self.repeats = true;
                self.plan_repeat(now, rng);
            }
            Decision { settled: Some(Settled::Same), ..Decision::default() }
        };
        // Views show the expiry of a known life.
        if moved && !is_renewed && !known.left(now).is_zero() {
            decision.publish = Some(Publish::Again);
        }
        decision
    }

    fn adopt(&mut self, offer: Held, now: &Now, rng: &mut impl Rng) {
        self.held = Some(offer);
        self.plan_refresh(now, rng);
        if let Some(state) = self.sources.get_mut(offer.source) {
            state.has_given = true;
        }
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
        Decision { settled: Some(Settled::Failed(kind)), ..Decision::default() }
    }

    // === plans ===

    fn plan_refresh(&mut self, now: &Now, rng: &mut impl Rng) {
        let Some(held) = self.held else { return };
        let age = now.elapsed_since(&held.issued);
        let latest = self.latest_refresh(&held);
        // A request that took most of the life it brought must not be followed by another at once.
        let least = (held.left(now) / 4).min(windows::REPEAT_LEAST);
        let by_life = |at: Duration| at.saturating_sub(age).max(least);
        let is_first = self.sources.get(held.source).is_some_and(|state| !state.has_given);
        let (delay, plan) = if is_first {
            (by_life(self.rules.windows.spread(latest, rng)), Plan::Spread)
        } else {
            let by_life = (by_life(latest), Plan::Life);
            let by_timer = (self.rules.windows.timer(rng), Plan::Timer);
            if by_timer.0 < by_life.0 { by_timer } else { by_life }
        };
        self.renew_at = now.boot.saturating_add(delay);
        self.plan = plan;
        self.planned_offset = offset(now);
    }

    fn plan_repeat(&mut self, now: &Now, rng: &mut impl Rng) {
        let Some(held) = self.held else { return };
        let delay = windows::after_repeat(held.left(now), self.min_life(), rng);
        self.renew_repeated(held.source, now.boot.saturating_add(delay));
        self.plan = Plan::Repeat;
        self.planned_offset = offset(now);
    }

    /// Also if a later source stands in meanwhile, because too little is left of the token.
    fn renew_repeated(&mut self, source: usize, at: Duration) {
        self.renew_at = at;
        if let Some(state) = self.sources.get_mut(source) {
            state.not_before = at;
        }
    }

    /// Corrects the plan after the wall clock was set, and says whether the token must be published
    /// again. A clock that went forward ages the token; one that went back leaves its age to the
    /// boot clock.
    fn clock_was_set(&mut self, now: &Now) -> bool {
        let Some(held) = self.held else { return false };
        let offset = offset(now);
        // The two clocks are not read at one instant, and one of them may be slewed.
        if offset.abs_diff(self.planned_offset) > 1000 {
            self.planned_offset = offset;
            let left = held.left(now);
            if self.plan == Plan::Repeat {
                let servable = left.saturating_sub(self.min_life());
                let calm = self.sources.get(held.source).is_some_and(|s| s.failure.is_none());
                if calm && self.renew_at > now.boot.saturating_add(servable) {
                    self.renew_repeated(held.source, now.boot.saturating_add(servable));
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
}

/// What is known of a token that came again. The first word about its life and the boot clock bound
/// it, and a later word can only make it shorter. But a wall clock that was set forward aged it on
/// suspicion only, which the source's new word dispels: else a platform that repeats its token would
/// leave a machine whose clock was just put right without any for an hour.
fn confirmed(held: Held, offer: Held, now: &Now) -> Held {
    let (Life::Known(life), Life::Known(_)) = (held.life, offer.life) else { return held };
    let by_boot = life.saturating_sub(now.boot.saturating_sub(held.issued.boot));
    let (left, said) = (held.left(now), offer.left(now).min(by_boot));
    if said > left {
        // Its whole life stays what it was: the minimum life and the refresh are parts of it.
        let age = life.saturating_sub(said);
        let issued = Now { boot: now.boot.saturating_sub(age), wall: now.wall.saturating_sub(age) };
        Held { issued, ..held }
    } else {
        let life = Life::Known(life.saturating_sub(left.saturating_sub(said)));
        Held { life, ..held }
    }
}

/// Wall clock minus boot clock, in milliseconds.
fn offset(now: &Now) -> i64 {
    let millis = |clock: Duration| i64::try_from(clock.as_millis()).unwrap_or(i64::MAX);
    millis(now.wall).saturating_sub(millis(now.boot))
}
