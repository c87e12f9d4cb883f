//! When the first source of the chain may be asked, and when it must be: the windows of the design,
//! written down a second time.
//!
//! All times are boot times. A window is what chance may make of it: the earliest and the latest.

use std::time::Duration;

use molecule_tokenfs::error::FetchErrorKind;
use molecule_tokenfs::refresh::Windows;
use molecule_tokenfs::time::Now;

use crate::model::{Hand, LONGEST_LIFE};

/// What timers and the clocks' resolution may add.
pub const SLACK: Duration = Duration::from_millis(10);

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

/// See the module.
#[derive(Debug, Default)]
pub struct Pace {
    /// Since when a request is in flight.
    pub in_flight: Option<Duration>,
    /// Failures in a row.
    pub streak: u32,
    /// The source gave the same token again, and nobody forced another plan since.
    pub repeat: bool,
    /// The last answer brought nothing that could be served.
    pub fruitless: bool,
    /// See [`crate::model::Model`]: nothing is certain until another token comes.
    pub blurred: bool,
    /// The next request comes in this window.
    pub window: (Duration, Duration),
    /// The source asked to be left alone until then.
    wish: Duration,
    heals_by_change: bool,
    changed: bool,
    changed_at: Option<Duration>,
    /// When the plan was last made by both clocks.
    planned: Now,
    /// The next token is the first after a start or a streak of failures.
    spread: bool,
    /// It may count as such, because another source stood in.
    pub may_spread: bool,
    /// The last open.
    opened_at: Option<Duration>,
    /// The last accepted refresh; and what came last of that and a reject.
    accepted: Option<Duration>,
    last_forced: Option<Duration>,
    /// What was rejected is not replaced before.
    spaced_until: Duration,
    back_off: BackOff,
}

/// Full jitter allows each wait to be nothing, but not all of them.
#[derive(Debug, Default)]
struct BackOff {
    /// When the wait began, and its longest length; `None` once something else ended it.
    wait: Option<(Duration, f64)>,
    waited: f64,
    expected: f64,
    squares: f64,
}

impl BackOff {
    /// Hoeffding's bound: with it a right engine fails once in 10¹² streaks.
    fn ended(&mut self, now: Duration) -> Result<(), String> {
        let Some((from, longest)) = self.wait.take() else { return Ok(()) };
        self.waited += (now.saturating_sub(from) + SLACK).as_secs_f64();
        self.expected += longest / 2.0;
        self.squares += longest * longest;
        let least = self.expected - (self.squares * 12.0 * std::f64::consts::LN_10 / 2.0).sqrt();
        if self.waited < least {
            return Err(format!("backed off for {} s, not {least} s at least", self.waited));
        }
        Ok(())
    }
}

impl Pace {
    /// An engine starts that has nothing.
    pub fn new(earliest: Duration) -> Self {
        Self { window: (earliest, earliest), spread: true, ..Self::default() }
    }

    /// A request starts.
    pub fn started(&mut self, now: Duration) -> Result<(), String> {
        if self.in_flight.replace(now).is_some() {
            return Err("two requests in flight".to_owned());
        }
        self.changed = false;
        if !self.blurred && now + SLACK < self.window.0 {
            return Err(format!("asked {:?} too early", self.window.0 - now));
        }
        self.back_off.ended(now)
    }

    /// Whether the engine let a time pass at which it had to act.
    pub fn overdue(&self, now: Duration, fetch_timeout: Duration) -> Result<(), String> {
        match self.in_flight {
            Some(since) if now > since + fetch_timeout + SLACK => {
                Err("a request hangs beyond its time-out".to_owned())
            }
            None if !self.blurred && now > self.window.1.saturating_add(SLACK) => {
                Err(format!("a request is {:?} overdue", now - self.window.1))
            }
            _ => Ok(()),
        }
    }

    /// What was asked for in the instant of the answer may come before it or after it.
    fn settled(&mut self, now: Duration) {
        if let Some(forced) = self.last_forced.filter(|&forced| forced + SLACK >= now) {
            self.back_off.wait = None;
            self.window.1 = self.window.1.max(forced);
            self.window.0 = self.window.0.min(now.max(self.wish));
        }
    }

    /// A request failed; `live` is what was left of a usable token.
    pub fn failed(
        &mut self,
        kind: FetchErrorKind,
        retry_after: Option<Duration>,
        live: Option<Duration>,
        now: Duration,
    ) {
        let since = self.in_flight.take();
        self.fruitless = true;
        self.streak += 1;
        let longest = live.map_or(30 * SECOND, |left| (left / 8).max((left / 4).min(30 * SECOND)));
        // Nothing that it can have in hand allows more.
        let longest = if self.blurred { LONGEST_LIFE / 8 } else { longest };
        let doubled = Duration::from_millis(250) * (1 << (self.streak - 1).min(20));
        let (least, most) = if kind.is_transient() {
            self.back_off.wait = (!self.blurred).then(|| (now, doubled.min(longest).as_secs_f64()));
            (Duration::ZERO, doubled.min(longest))
        } else {
            self.back_off.wait = None;
            (45 * SECOND, MINUTE)
        };
        let wish = retry_after.unwrap_or_default().min(60 * MINUTE);
        self.wish = if wish.is_zero() { Duration::ZERO } else { now + wish };
        self.window = (now + least.max(wish), now + most.max(wish + wish / 10));
        self.heals_by_change = !kind.is_transient() || kind == FetchErrorKind::NotRegistered;
        if self.changed {
            self.source_changed(now);
        } else if self.heals_by_change
            && self.changed_at.zip(since).is_some_and(|(at, since)| at + SLACK >= since)
        {
            // What changed in the instant of the request may have changed after it.
            self.window.0 = now;
        }
        self.settled(now);
    }

    /// A request brought a token, which is now in hand (or the same one again).
    pub fn succeeded(&mut self, hand: &Hand, repeats: bool, windows: &Windows, now: &Now) {
        // A token that came again has a plan of its own, which ends the failures, too.
        self.spread = !self.repeat && (self.spread || self.streak > 0);
        self.in_flight = None;
        self.streak = 0;
        self.spaced_until = Duration::ZERO;
        self.back_off = BackOff::default();
        self.wish = Duration::ZERO;
        self.heals_by_change = false;
        self.planned = *now;
        let left = hand.left(now);
        self.fruitless = left <= least_life(windows, hand.life, repeats);
        let after = |delay: Duration| now.boot.saturating_add(delay);
        if self.repeat {
            let least = least_life(windows, hand.life, repeats);
            let servable = if left > least { left - least } else { left };
            let (least, most) = match left.saturating_sub(5 * MINUTE) {
                Duration::ZERO => {
                    let soon = (left / 4).max(5 * SECOND).min(left / 2);
                    (soon, soon)
                }
                cached => (cached, cached + 2 * MINUTE),
            };
            // A restart forgets by how much the second word shortened the first.
            let slack = SECOND.min(left / 10);
            let least = least.min(servable).saturating_sub(slack);
            self.window = (after(least), after(most.min(servable) + slack));
            self.settled(now.boot);
            return;
        }
        let latest = latest_refresh(windows, hand.life, repeats);
        let age = hand.age(now);
        let at_least = (left / 4).min(5 * SECOND);
        let by_life = |at: Duration| at.saturating_sub(age).max(at_least);
        let timer = (windows.interval - windows.jitter, windows.interval + windows.jitter);
        let most = latest.min(timer.1);
        self.window = if self.spread {
            (after(by_life(most / 4)), after(by_life(most)))
        } else {
            (after(by_life(latest).min(timer.0)), after(by_life(latest).min(timer.1)))
        };
        if self.may_spread {
            self.window.0 = self.window.0.min(after(by_life(most / 4)));
        }
        (self.spread, self.may_spread) = (false, false);
        self.settled(now.boot);
        if self.opened_at.is_some_and(|at| at + SLACK >= now.boot) {
            // That open may come after the answer, too.
            let latest = self.window.1;
            self.opened(hand, now);
            self.window.1 = latest;
        }
    }

    /// An open of the token in hand, which is this source's.
    pub fn opened(&mut self, hand: &Hand, now: &Now) {
        self.opened_at = Some(now.boot);
        if self.streak > 0 || self.repeat || self.in_flight.is_some() {
            return;
        }
        let left = hand.left(now);
        // What was rejected is replaced when its reject allows.
        let soonest = self.spaced_until.max(now.boot);
        if left <= hand.life / 5 + SECOND {
            self.window.0 = self.window.0.min(soonest);
        }
        if left + SECOND <= hand.life / 5 {
            self.window.1 = self.window.1.min(soonest);
        }
    }

    /// A request was forced. `first` says whether it concerns the token in hand.
    pub fn forced(&mut self, first: bool, now: Duration) -> Result<(), String> {
        self.last_forced = Some(now);
        let earlier = self.accepted.replace(now);
        if earlier.is_some_and(|earlier| earlier <= now && now - earlier < SECOND) {
            return Err("forced twice within a second".to_owned());
        }
        if now < self.wish {
            return Err("forced against the source's wish".to_owned());
        }
        self.act(now);
        if first {
            self.repeat = false;
        }
        Ok(())
    }

    /// A consumer rejected the token in hand, which is this source's.
    pub fn rejected(&mut self, now: Duration) {
        let spaced = self.spaced(now);
        self.spaced_until = spaced;
        self.repeat = false;
        if self.streak == 0 {
            self.window = (self.window.0.min(spaced), spaced);
        } else {
            self.window.1 = self.window.1.max(spaced);
        }
    }

    /// What a reject of any source's token forces is spaced, too.
    pub fn spaced(&mut self, now: Duration) -> Duration {
        let spaced = self.last_forced.map_or(now, |last| now.max(last + SECOND));
        *self.last_forced.insert(spaced)
    }

    /// The bearer file was written.
    pub fn source_changed(&mut self, now: Duration) {
        self.changed_at = Some(now);
        if self.in_flight.is_some() {
            self.changed = true;
        } else if self.heals_by_change && self.streak > 0 {
            self.streak = 0;
            self.wish = Duration::ZERO;
            self.spread = true;
            self.heals_by_change = false;
            self.act(now);
        }
    }

    /// One clock was set. `hand` is the token, if it is this source's.
    pub fn clock_set(&mut self, hand: Option<&Hand>, repeats: bool, windows: &Windows, now: &Now) {
        if let Some(hand) = hand.filter(|_| self.streak == 0) {
            let left = hand.left(now);
            let latest = latest_refresh(windows, hand.life, repeats);
            let due = if self.repeat {
                now.boot + left.saturating_sub(least_life(windows, hand.life, repeats))
            } else {
                now.boot + latest.saturating_sub(hand.age(now))
            };
            self.window.0 = self.window.0.min(due);
            // One second may be the clocks' own, and changes no plan.
            let offset = |at: &Now| at.wall.saturating_sub(at.boot);
            if offset(&self.planned).abs_diff(offset(now)) > SECOND + SLACK {
                self.planned = *now;
                // What was rejected is replaced when its reject allows.
                let due = due.max(self.spaced_until);
                self.window.1 = self.window.1.min(due + SECOND);
            }
        }
        self.awake(now.boot);
    }

    /// Nothing could happen before now.
    pub fn awake(&mut self, now: Duration) {
        self.window.1 = self.window.1.max(now);
        if let Some(since) = &mut self.in_flight {
            // Its time-out may have passed meanwhile.
            *since = (*since).min(now);
        }
    }

    /// Another engine goes on where the last one was killed, with a token of this source in hand or
    /// without.
    pub fn restarted(&mut self, in_hand: bool, now: Duration) {
        self.spread = !in_hand;
        self.wish = Duration::ZERO;
        self.heals_by_change = false;
        self.back_off.wait = None;
        if self.in_flight.take().is_some() {
            self.window = (self.window.0.min(now), now.max(self.spaced_until));
        }
        if self.streak == 0 {
            // It looks at the clocks anew, which may have been set since the token came.
            self.window.0 = self.window.0.min(now);
        }
        (self.accepted, self.last_forced) = (None, None);
        self.awake(now);
    }

    fn act(&mut self, now: Duration) {
        self.back_off.wait = None;
        self.window = (self.window.0.min(now), self.window.1.min(now));
    }
}

/// The least life at open.
pub fn least_life(windows: &Windows, life: Duration, repeats: bool) -> Duration {
    match windows.min_life {
        None => MINUTE.min(life / 10),
        Some(least) => least.min(life / 2).min(if repeats { 2 * MINUTE } else { least }),
    }
}

fn latest_refresh(windows: &Windows, life: Duration, repeats: bool) -> Duration {
    let kept = least_life(windows, life, repeats) + life / 10;
    (life * 4 / 5).min(life.saturating_sub(kept))
}
