//! The rules by which a workspace keeps its token: ours, and the two that it is compared with.
//!
//! Each is one workspace's. Times are since the start of the simulation.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use molecule_tokenfs::error::FetchErrorKind;
use molecule_tokenfs::refresh::Windows;
use molecule_tokenfs::refresh::policy::{
    Answer, Event, Policy, Rules, SourceRules, Verdict, windows,
};
use molecule_tokenfs::secret::Fingerprint;
use molecule_tokenfs::time::Now;
use molecule_tokenfs::token::Term;
use rand::Rng;
use rand::rngs::StdRng;

/// A token, as the platform knows it.
#[derive(Debug, Clone, Copy)]
pub struct Minted {
    /// Which one: the time of its making, which is different for each.
    pub number: u32,
    /// When its issuer lets it die.
    pub expires: Duration,
}

/// What a reader gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// A live token, or one as soon as the request that it causes or awaits is answered.
    Live,
    /// A token that is dead by its issuer's clock.
    Dead,
    /// An error.
    Refused,
}

/// One workspace. What says `bool` says whether it sends a request now.
pub trait Rule: Sized {
    /// What it is called.
    const NAME: &'static str;

    /// Nothing is fetched before the first read.
    const IS_LAZY: bool;

    /// A container that starts now and knows nothing.
    fn start(at: Duration) -> Self;

    /// Somebody reads. `is_up` tells how a request that is sent or awaited will end.
    fn open(&mut self, at: Duration, is_up: bool, rng: &mut StdRng) -> (Read, bool);

    /// The time has come that [`Rule::wake`] named.
    fn tick(&mut self, at: Duration, rng: &mut StdRng) -> bool;

    /// The request that was sent then is answered.
    fn answered(
        &mut self,
        sent: Duration,
        token: Option<Minted>,
        at: Duration,
        rng: &mut StdRng,
    ) -> bool;

    /// When something is due, if nothing else happens.
    fn wake(&self, at: Duration) -> Option<Duration>;

    /// Until when a reader would find a token, if nothing else happens.
    fn good_until(&self, at: Duration) -> Option<Duration>;
}

// === impl Tokenfs ===

/// Ours: the very policy that the engine executes, with the default windows and one source.
#[derive(Debug, Clone)]
pub struct Tokenfs(Policy);

static RULES: LazyLock<Arc<Rules>> = LazyLock::new(|| {
    let max_life = Some(Duration::from_hours(1));
    let platform = SourceRules { max_life, ..SourceRules::default() };
    Arc::new(Rules { windows: Windows::default(), sources: vec![platform] })
});

/// An hour after boot, some time in 2026.
const START: Now = Now { boot: Duration::from_hours(1), wall: Duration::from_secs(1_780_000_000) };

/// What the platform's source takes off a life, because `Date` is cut to seconds.
const DATE_IS_CUT: Duration = Duration::from_secs(1);

/// How long an open waits.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

impl Tokenfs {
    /// Somebody opens. As `Handle` does it: an open that changes nothing is only noted.
    pub fn opened(&mut self, at: Duration, rng: &mut StdRng) -> bool {
        let now = START.plus(at);
        let left = self.0.held().map(|held| held.left(&now));
        let is_told =
            !self.0.usable(&now) || self.0.call_at(&now).is_some_and(|least| left <= Some(least));
        if !is_told {
            self.0.note_open(now.boot);
            return false;
        }
        self.0.step(Event::Opened, &now, rng).fetch.is_some()
    }

    /// What an open that waits until this deadline gets now.
    pub fn verdict(&self, at: Duration, deadline: Duration) -> Verdict {
        self.0.verdict(None, &START.plus(at), START.plus(deadline).boot)
    }

    /// The request failed, and the source may have said for how long it wants no other.
    pub fn failed(
        &mut self,
        kind: FetchErrorKind,
        retry_after: Option<Duration>,
        at: Duration,
        rng: &mut StdRng,
    ) -> bool {
        let event = Event::Answered { source: 0, answer: Answer::Failed { kind, retry_after } };
        self.0.step(event, &START.plus(at), rng).fetch.is_some()
    }
}

impl Rule for Tokenfs {
    const NAME: &'static str = "molecule-tokenfs";
    const IS_LAZY: bool = true;

    fn start(at: Duration) -> Self {
        Self(Policy::new(Arc::clone(&RULES), &START.plus(at)))
    }

    fn open(&mut self, at: Duration, is_up: bool, rng: &mut StdRng) -> (Read, bool) {
        let sends = self.opened(at, rng);
        let read = match self.verdict(at, at + OPEN_TIMEOUT) {
            Verdict::Serve => Read::Live,
            Verdict::Wait if is_up => Read::Live,
            Verdict::Wait | Verdict::Fail(_) => Read::Refused,
        };
        (read, sends)
    }

    fn tick(&mut self, at: Duration, rng: &mut StdRng) -> bool {
        self.0.step(Event::Tick, &START.plus(at), rng).fetch.is_some()
    }

    fn answered(
        &mut self,
        sent: Duration,
        token: Option<Minted>,
        at: Duration,
        rng: &mut StdRng,
    ) -> bool {
        let Some(Minted { number, expires }) = token else {
            return self.failed(FetchErrorKind::Unreachable, None, at, rng);
        };
        let answer = Answer::Token {
            fingerprint: Fingerprint::from_u32(number),
            issued: START.plus(sent),
            term: Term::For(expires.saturating_sub(sent).saturating_sub(DATE_IS_CUT)),
        };
        let event = Event::Answered { source: 0, answer };
        self.0.step(event, &START.plus(at), rng).fetch.is_some()
    }

    fn wake(&self, at: Duration) -> Option<Duration> {
        self.0.wake(&START.plus(at)).map(|wake| wake.saturating_sub(START.boot))
    }

    fn good_until(&self, at: Duration) -> Option<Duration> {
        let now = START.plus(at);
        let held = self.0.held().filter(|_| self.0.usable(&now))?;
        Some(at + held.left(&now).saturating_sub(self.0.min_life()))
    }
}

// === impl OldDaemon ===

/// The scripts that this project replaces. A daemon fetches at the start, a minute later and then
/// every 45 minutes plus up to two, also after a failure, and stores the token for gh. git's helper
/// takes what is at most 50 minutes in its cache, whatever its expiry, and fetches otherwise.
#[derive(Debug, Clone)]
pub struct OldDaemon {
    next: Duration,
    stored: Option<Minted>,
    cached: Option<(Minted, Duration)>,
    in_flight: bool,
    /// The daemon's own request, whose token it stores for gh.
    for_gh: bool,
    starts: u8,
}

const CACHE: Duration = Duration::from_mins(50);

impl Rule for OldDaemon {
    const NAME: &'static str = "old daemon";
    const IS_LAZY: bool = false;

    fn start(at: Duration) -> Self {
        Self { next: at, stored: None, cached: None, in_flight: false, for_gh: false, starts: 0 }
    }

    fn open(&mut self, at: Duration, is_up: bool, rng: &mut StdRng) -> (Read, bool) {
        if rng.random_bool(0.5) {
            // gh reads what the daemon stored.
            let read = match self.stored {
                Some(token) if at < token.expires => Read::Live,
                Some(_) => Read::Dead,
                None => Read::Refused,
            };
            return (read, false);
        }
        match self.cached {
            Some((token, written)) if at < written + CACHE => {
                (if at < token.expires { Read::Live } else { Read::Dead }, false)
            }
            _ => {
                let sends = !self.in_flight;
                if sends {
                    (self.in_flight, self.for_gh) = (true, false);
                }
                (if is_up { Read::Live } else { Read::Refused }, sends)
            }
        }
    }

    fn tick(&mut self, at: Duration, rng: &mut StdRng) -> bool {
        self.starts = self.starts.saturating_add(1);
        let pause = match self.starts {
            1 => Duration::from_mins(1),
            _ => Duration::from_mins(45) + uniform(rng, Duration::from_mins(2)),
        };
        self.next = at + pause;
        self.for_gh = true;
        let sends = !self.in_flight;
        self.in_flight = true;
        sends
    }

    fn answered(
        &mut self,
        _: Duration,
        token: Option<Minted>,
        at: Duration,
        _: &mut StdRng,
    ) -> bool {
        self.in_flight = false;
        if let Some(token) = token {
            self.cached = Some((token, at));
            if self.for_gh {
                self.stored = Some(token);
            }
        }
        self.for_gh = false;
        false
    }

    fn wake(&self, _: Duration) -> Option<Duration> {
        Some(self.next)
    }

    fn good_until(&self, at: Duration) -> Option<Duration> {
        self.stored.map(|token| token.expires).filter(|&expires| expires > at)
    }
}

// === impl Kubelet ===

/// kubelet's rule for a pod's projected token (`pkg/kubelet/token/token_manager.go`): looked at with
/// each sync of the pod, every 60 to 90 s; fetched when less than 20 % of its life plus up to 10 s is
/// left. A failure waits for the next sync while the token lives, else for a back-off of 0.5 s that
/// doubles up to 122 s without jitter (`exponential_backoff.go`). The file keeps its last token.
#[derive(Debug, Clone)]
pub struct Kubelet {
    next: Duration,
    token: Option<Minted>,
    strikes: u32,
}

impl Kubelet {
    const LIFE: Duration = Duration::from_hours(1);

    fn sync(rng: &mut StdRng) -> Duration {
        Duration::from_mins(1) + uniform(rng, Duration::from_secs(30))
    }
}

impl Rule for Kubelet {
    const NAME: &'static str = "kubelet";
    const IS_LAZY: bool = false;

    fn start(at: Duration) -> Self {
        Self { next: at, token: None, strikes: 0 }
    }

    fn open(&mut self, at: Duration, _: bool, _: &mut StdRng) -> (Read, bool) {
        let read = match self.token {
            Some(token) if at < token.expires => Read::Live,
            Some(_) => Read::Dead,
            None => Read::Refused,
        };
        (read, false)
    }

    fn tick(&mut self, at: Duration, rng: &mut StdRng) -> bool {
        let margin = Self::LIFE / 5 + uniform(rng, Duration::from_secs(10));
        if self.token.is_some_and(|token| at + margin <= token.expires) {
            self.next = at + Self::sync(rng);
            return false;
        }
        self.next = Duration::MAX;
        true
    }

    fn answered(
        &mut self,
        _: Duration,
        token: Option<Minted>,
        at: Duration,
        rng: &mut StdRng,
    ) -> bool {
        let is_alive = self.token.is_some_and(|token| at < token.expires);
        let pause = if token.is_some() || is_alive {
            self.strikes = 0;
            Self::sync(rng)
        } else {
            let doubled = Duration::from_millis(500) * (1 << self.strikes.min(10));
            self.strikes += 1;
            doubled.min(Duration::from_secs(122))
        };
        self.token = token.or(self.token);
        self.next = at + pause;
        false
    }

    fn wake(&self, _: Duration) -> Option<Duration> {
        Some(self.next)
    }

    fn good_until(&self, at: Duration) -> Option<Duration> {
        self.token.map(|token| token.expires).filter(|&expires| expires > at)
    }
}

/// A duration between zero and `most`.
pub fn uniform(rng: &mut StdRng, most: Duration) -> Duration {
    most.mul_f64(rng.random())
}

/// What the platform keeps a token for, where it caches: until less than this is left.
pub const PLATFORM_CACHE: Duration = windows::PLATFORM_CACHE;
