//! What a right engine would do, as far as readers and sources can tell: a small second opinion that
//! shares no code with the engine.

use std::collections::BTreeMap;
use std::time::Duration;

use molecule_tokenfs::error::{FetchErrorKind, ReadError, ReadErrorKind};
use molecule_tokenfs::refresh::Windows;
use molecule_tokenfs::secret::Fingerprint;
use molecule_tokenfs::time::Now;
use molecule_tokenfs::token::{FreshToken, Term};

use crate::clocks::{Clocks, Word};

use crate::pace::{Pace, SLACK, least_life};

/// The platform's place in the chain; the environment comes after it.
pub const PLATFORM: usize = 0;

/// The longest life that the issuer gives.
pub const LONGEST_LIFE: Duration = Duration::from_hours(1);

/// How long a rejected token is withheld from the user who rejected it.
const WITHHELD: Duration = Duration::from_secs(15);

/// The token that a right engine has in hand.
#[derive(Debug, Clone)]
pub struct Hand {
    pub fingerprint: Fingerprint,
    pub source: usize,
    pub issued: Now,
    pub life: Duration,
    /// True time at which it came.
    since: Duration,
}

impl Hand {
    pub fn age(&self, now: &Now) -> Duration {
        elapsed(&self.issued, now)
    }

    pub fn left(&self, now: &Now) -> Duration {
        self.life.saturating_sub(self.age(now))
    }
}

/// What only the issuer knows of a token.
#[derive(Debug, Clone)]
pub struct Entry {
    /// True time of its end; `None` where that is outside the promise.
    pub end: Option<Duration>,
    /// The requests that brought it: when each was sent by both clocks, and what time it was then for
    /// the issuer, as far as anybody could know.
    pub asked: Vec<(Now, Duration)>,
}

/// A consumer said that a token was refused.
#[derive(Debug, Clone, Copy)]
struct Rejection {
    fingerprint: Fingerprint,
    /// When (boot clock).
    at: Duration,
    user: u32,
    /// When a request that was sent after a rejection brought the token again (boot clock).
    denied: Option<Duration>,
}

impl Rejection {
    /// Whether the token must be kept from this user; with some slack, whether it may be.
    fn withholds(&self, source: usize, user: u32, now: &Now, slack: Duration) -> bool {
        let is_for_all = self.denied.is_none_or(|at| now.boot < at + slack);
        source != PLATFORM
            || (now.boot < self.at + WITHHELD + slack && (is_for_all || user == self.user))
    }
}

/// An open that ended.
pub struct Open<'a> {
    pub user: u32,
    pub asked: Duration,
    pub deadline: Duration,
    pub answer: &'a Result<FreshToken, ReadError>,
}

/// See the module.
pub struct Model {
    /// The issuer's time at the start, since the Unix epoch.
    origin: Duration,
    pub windows: Windows,
    pub hand: Option<Hand>,
    pub pace: Pace,
    pub ledger: BTreeMap<Fingerprint, Entry>,
    pub repeats: bool,
    clocks: Clocks,
    /// By the last answer that told the time it was taken to be later than it is.
    pub misled: bool,
    last_open: Option<Duration>,
    /// The last rejection of each source's token, and when it was.
    rejections: [Option<Rejection>; 2],
    env: EnvPace,
    /// The environment's installation token, which is older than any that the platform gives.
    pub stopgap: Option<Fingerprint>,
    /// True time at which the platform's first token was in hand.
    given: Option<Duration>,
    /// The token in hand came more than once.
    came_again: bool,
    /// An engine was restarted since, and what it had learnt of the token by that is lost, unless it
    /// was much.
    blurred: bool,
    /// Boot time of the last move of a clock, to which an answer may be late.
    moved: Duration,
    pub judged: u64,
    pub unjudged: u64,
}

#[derive(Default)]
struct EnvPace {
    in_flight: bool,
    not_before: Duration,
}

impl Model {
    pub fn new(windows: Windows, now: &Now) -> Self {
        let earliest =
            if windows.prefetch { now.boot + windows.initial_delay } else { Duration::ZERO };
        Self {
            origin: now.wall,
            last_open: windows.prefetch.then_some(now.boot),
            windows,
            hand: None,
            pace: Pace::new(earliest),
            ledger: BTreeMap::new(),
            repeats: false,
            clocks: Clocks::default(),
            misled: false,
            rejections: [None; 2],
            env: EnvPace::default(),
            stopgap: None,
            given: None,
            came_again: false,
            blurred: false,
            moved: now.boot,
            judged: 0,
            unjudged: 0,
        }
    }

    // === opens ===

    /// Somebody opens.
    pub fn opened(&mut self, now: &Now) {
        let was_active = self.is_active(now);
        self.last_open = self.last_open.max(Some(now.boot));
        if !was_active {
            self.pace.awake(now.boot);
        }
        if self.windows.prefetch && self.hand.is_none() && self.pace.streak == 0 {
            self.pace.window = (Duration::ZERO, now.boot);
        }
        if let Some(hand) = self.hand.as_ref().filter(|hand| hand.source == PLATFORM) {
            self.pace.opened(hand, now);
        }
    }

    /// An open ended. This is the promise, as written.
    pub fn judge(&mut self, open: &Open, now: &Now, truth: Duration) -> Result<(), String> {
        if now.boot > open.deadline.max(open.asked).max(self.moved) + SLACK {
            return Err(format!("late: {:?} after its deadline", now.boot - open.deadline));
        }
        match open.answer {
            Ok(fresh) => self.judge_token(open.user, fresh, now, truth),
            Err(error) => self.judge_refusal(open, error, now, truth),
        }
    }

    fn judge_token(
        &mut self,
        user: u32,
        fresh: &FreshToken,
        now: &Now,
        truth: Duration,
    ) -> Result<(), String> {
        let token = fresh.token();
        let fingerprint = token.fingerprint();
        let Some(entry) = self.ledger.get(&fingerprint) else {
            return Err("served what nobody issued".to_owned());
        };
        if self.stopgap == Some(fingerprint) && self.has_given(truth) {
            return Err("served a token of the environment that the platform's outdate".to_owned());
        }
        for (source, rejection) in self.rejections.iter().enumerate() {
            if rejection.is_some_and(|rejection| {
                rejection.fingerprint == fingerprint
                    && rejection.withholds(source, user, now, Duration::ZERO)
            }) {
                return Err("served a token that a consumer just rejected".to_owned());
            }
        }
        // Where both clocks went slow since, or all were wrong and nobody could know, only the issuer
        // can tell. No slack: a token in its last moment must not be blamed on a clock that lags.
        let is_known =
            |(asked, time): &(Now, Duration)| *time + elapsed(asked, now) >= self.origin + truth;
        let Some(end) = entry.end.filter(|_| entry.asked.iter().all(is_known)) else {
            self.unjudged += 1;
            return Ok(());
        };
        self.judged += 1;
        let left = end.saturating_sub(truth);
        let least = least_life(&self.windows, token.life.duration(), self.repeats);
        if left.is_zero() {
            return Err("served a dead token".to_owned());
        }
        if left < least {
            return Err(format!("served a token with {left:?} left, less than {least:?}"));
        }
        Ok(())
    }

    fn judge_refusal(
        &self,
        open: &Open,
        error: &ReadError,
        now: &Now,
        truth: Duration,
    ) -> Result<(), String> {
        if self.blurred {
            return Ok(());
        }
        let withheld = self.withheld_from(open.user, now, SLACK);
        if let Some(hand) = self.hand.as_ref().filter(|hand| self.is_alive(hand, now))
            && truth > hand.since + SLACK
            && !withheld
        {
            return Err(format!("refused ({error}) with {:?} left in hand", hand.left(now)));
        }
        let timed_out = error.kind == ReadErrorKind::TimedOut;
        if timed_out && now.boot < open.deadline {
            return Err("timed out before the deadline".to_owned());
        }
        // A token that came in the very instant of the deadline came too late.
        let just_came = self.hand.as_ref().is_some_and(|hand| truth <= hand.since + SLACK);
        // Whoever wakes up after so long finds that nobody wants a token.
        let slept = now.boot.saturating_sub(open.asked) > self.windows.idle;
        let had_time = open.deadline > open.asked + SLACK && !just_came && !slept;
        if had_time && !timed_out && !self.pace.fruitless && !withheld {
            return Err(format!("refused ({error}), though no request has failed"));
        }
        Ok(())
    }

    // === the token in hand ===

    fn is_alive(&self, hand: &Hand, now: &Now) -> bool {
        let left = hand.left(now);
        !left.is_zero() && left >= least_life(&self.windows, hand.life, self.repeats)
    }

    /// Whether everybody gets it.
    fn is_usable(&self, now: &Now) -> bool {
        let withheld =
            self.rejection().is_some_and(|it| self.withheld_from(it.user, now, Duration::ZERO));
        !withheld && self.hand.as_ref().is_some_and(|hand| self.is_alive(hand, now))
    }

    /// The rejection of the token in hand.
    fn rejection(&self) -> Option<Rejection> {
        let hand = self.hand.as_ref()?;
        self.rejections[hand.source].filter(|it| it.fingerprint == hand.fingerprint)
    }

    fn withheld_from(&self, user: u32, now: &Now, slack: Duration) -> bool {
        self.hand
            .as_ref()
            .zip(self.rejection())
            .is_some_and(|(hand, rejection)| rejection.withholds(hand.source, user, now, slack))
    }

    /// Whether the platform gave a token, and the engine had time to notice.
    fn has_given(&self, truth: Duration) -> bool {
        self.given.is_some_and(|given| truth > given + SLACK)
    }

    // === requests ===

    /// A source is asked.
    pub fn started(&mut self, source: usize, now: &Now, truth: Duration) -> Result<(), String> {
        if !self.is_active(now) {
            return Err("asked for a token that nobody wants".to_owned());
        }
        if source == PLATFORM {
            // What cannot be served is replaced at once, unless its source repeats it.
            if self.pace.streak == 0 && !self.pace.repeat && !self.is_usable(now) {
                self.pace.window.0 = self.pace.window.0.min(now.boot);
            }
            return self.pace.started(now.boot);
        }
        if std::mem::replace(&mut self.env.in_flight, true) {
            return Err("two requests of the environment".to_owned());
        }
        if now.boot < self.env.not_before && !self.blurred {
            return Err("the environment was asked too early".to_owned());
        }
        if self.stopgap.is_some() && self.has_given(truth) {
            return Err("the environment was asked for an outdated token".to_owned());
        }
        let settled = |hand: &Hand| hand.source == PLATFORM && truth > hand.since + SLACK;
        let better = self.hand.as_ref().is_some_and(settled);
        if better && self.is_usable(now) && !self.blurred {
            return Err("the environment was asked beside the platform's live token".to_owned());
        }
        Ok(())
    }

    /// Whether something is overdue.
    pub fn overdue(&self, now: &Now) -> Result<(), String> {
        if self.is_active(now) {
            self.pace.overdue(now.boot, self.windows.fetch_timeout)
        } else {
            Ok(())
        }
    }

    /// A request failed.
    pub fn failed(
        &mut self,
        source: usize,
        kind: FetchErrorKind,
        retry_after: Option<Duration>,
        now: &Now,
    ) {
        if source != PLATFORM {
            self.env.in_flight = false;
            if !kind.is_transient() {
                self.env.not_before = now.boot + Duration::from_secs(45);
            }
            return;
        }
        let is_mine = |hand: &&Hand| hand.source == PLATFORM;
        let live = self.hand.as_ref().filter(is_mine).filter(|_| self.is_usable(now));
        self.pace.failed(kind, retry_after, live.map(|hand| hand.left(now)), now.boot);
    }

    /// A request brought a token. Tells what time it was for the issuer when it was sent, as far as
    /// anybody could know.
    pub fn delivered(
        &mut self,
        source: usize,
        fingerprint: Fingerprint,
        issued: Now,
        term: Term,
        now: &Now,
        truth: Duration,
    ) -> Option<Duration> {
        let (judged, reckoned, trusted) = match term {
            Term::Until { expires_at, server } => {
                let limit = self.windows.fetch_timeout;
                let word = Word { fingerprint, expires_at, server, issued, now: *now, limit };
                let (time, trusted) = self.clocks.hear(&word);
                (expires_at.saturating_sub(time).min(LONGEST_LIFE), Some(time), trusted)
            }
            Term::For(life) | Term::Assumed(life) => (life, None, false),
        };
        let offer = Hand { fingerprint, source, issued, life: judged, since: truth };
        self.offered(offer, reckoned.is_some(), trusted, now);
        if self.hand.as_ref().is_some_and(|hand| hand.source == PLATFORM) {
            self.given.get_or_insert(truth);
        }
        reckoned
    }

    fn offered(&mut self, mut offer: Hand, life_known: bool, trusted: bool, now: &Now) {
        let Hand { fingerprint, source, .. } = offer;
        if source != PLATFORM {
            self.env.in_flight = false;
        }
        let same = self.hand.clone().filter(|h| h.fingerprint == fingerprint && h.source <= source);
        let requested = offer.issued.boot;
        let rejection =
            self.rejections.iter_mut().flatten().find(|it| it.fingerprint == fingerprint);
        let rejection = rejection.map(|rejection| {
            if requested >= rejection.at {
                rejection.denied.get_or_insert(now.boot);
            }
            *rejection
        });
        let Some(hand) = same else {
            if !self.is_alive(&offer, now) {
                return self.failed(source, FetchErrorKind::BornExpired, None, now);
            }
            if let Some(rejection) = rejection {
                self.failed(source, FetchErrorKind::Rejected, None, now);
                if !self.is_usable(now) && source == PLATFORM {
                    self.rejections[source] = Some(rejection);
                    self.hand = Some(offer);
                }
                return;
            }
            self.rejections[source] = None;
            let better = self.hand.as_ref().is_none_or(|hand| hand.source >= source);
            if better || !self.is_usable(now) || self.blurred {
                self.hand = Some(offer.clone());
                self.came_again = false;
                self.blurred = false;
                // What is planned for the platform is uncertain until it gives a token itself.
                self.pace.blurred &= source != PLATFORM;
            }
            if source == PLATFORM {
                self.pace.repeat = false;
                self.env.not_before = Duration::ZERO;
                self.pace.succeeded(&offer, self.repeats, &self.windows, now);
            } else {
                self.pace.may_spread = true;
            }
            return;
        };
        if trusted && source == hand.source {
            // It comes from clocks that agree, after one from clocks that did not.
        } else if life_known {
            // The new word can shorten what is left. It can lengthen it only where the wall clock
            // had cut it, and never beyond the first word and the boot clock.
            let by_boot = hand.life.saturating_sub(now.boot.saturating_sub(hand.issued.boot));
            let (left, said) = (hand.left(now), offer.left(now).min(by_boot));
            (offer.issued, offer.life) = (hand.issued, hand.life - left.saturating_sub(said));
            if said > left {
                let age = hand.life - said;
                offer.issued.boot = now.boot.saturating_sub(age);
                offer.issued.wall = now.wall.saturating_sub(age);
            }
        }
        offer.source = hand.source;
        if self.is_alive(&hand, now) {
            offer.since = hand.since;
        }
        let dead = offer.left(now).is_zero();
        if life_known || source == hand.source {
            self.hand = Some(offer.clone());
        }
        self.came_again = true;
        if rejection.is_some() {
            self.failed(source, FetchErrorKind::Rejected, None, now);
        } else if dead {
            self.failed(source, FetchErrorKind::BornExpired, None, now);
        } else if source == PLATFORM {
            self.repeats = true;
            self.pace.repeat = true;
            self.env.not_before = Duration::ZERO;
            self.pace.succeeded(&offer, self.repeats, &self.windows, now);
        }
    }

    fn blur(&mut self, blurred: bool) {
        (self.blurred, self.pace.blurred) = (blurred, blurred);
    }

    // === what else happens ===

    /// A consumer rejects this token, whichever it is.
    pub fn rejected(&mut self, fingerprint: Fingerprint, user: u32, now: &Now) {
        let Some(hand) = self.hand.as_ref().filter(|hand| hand.fingerprint == fingerprint) else {
            return;
        };
        let source = hand.source;
        let quiet = Duration::from_mins(1);
        let is_old = self.rejections[source].is_some_and(|it| {
            it.fingerprint == fingerprint
                && (source != PLATFORM || now.boot.saturating_sub(it.at) < quiet)
        });
        if !is_old {
            self.last_open = self.last_open.max(Some(now.boot));
            let earlier = self.rejections[source].filter(|it| it.fingerprint == fingerprint);
            let (at, denied) = (now.boot, earlier.and_then(|it| it.denied));
            self.rejections[source] = Some(Rejection { fingerprint, at, user, denied });
            if source == PLATFORM {
                self.pace.rejected(now.boot);
            } else {
                self.pace.spaced(now.boot);
            }
        }
    }

    /// A forced fetch was accepted.
    pub fn forced(&mut self, now: &Now) -> Result<(), String> {
        self.opened(now);
        let first = self.hand.as_ref().is_some_and(|hand| hand.source == PLATFORM);
        self.pace.forced(first, now.boot)
    }

    /// The machine slept, which both clocks count.
    pub fn slept(&mut self, now: &Now) {
        self.moved = now.boot;
        self.pace.awake(now.boot);
    }

    /// One clock was set.
    pub fn clock_set(&mut self, now: &Now) {
        self.moved = now.boot;
        let hand = self.hand.as_ref().filter(|hand| hand.source == PLATFORM);
        self.pace.clock_set(hand, self.repeats, &self.windows, now);
    }

    /// Another engine goes on.
    pub fn restarted(&mut self, now: &Now) {
        self.env = EnvPace::default();
        if self.came_again {
            self.blur(true);
        }
        // The store has room for one rejection.
        let of_hand = self.hand.as_ref().map_or(PLATFORM, |hand| hand.source);
        if self.rejections[of_hand].is_none_or(|rejection| {
            self.hand.as_ref().is_none_or(|hand| hand.fingerprint != rejection.fingerprint)
        }) && self.rejections[PLATFORM].is_some()
        {
            self.rejections[1] = None;
        } else if self.rejections[of_hand].is_some() {
            self.rejections[1 - of_hand] = None;
        }
        let in_hand = self.hand.as_ref().is_some_and(|hand| hand.source == PLATFORM);
        self.pace.restarted(in_hand, now.boot);
    }

    pub fn is_active(&self, now: &Now) -> bool {
        self.last_open.is_some_and(|at| now.boot.saturating_sub(at) <= self.windows.idle)
    }
}

/// By the clock that moved further.
fn elapsed(from: &Now, to: &Now) -> Duration {
    to.boot.saturating_sub(from.boot).max(to.wall.saturating_sub(from.wall))
}
