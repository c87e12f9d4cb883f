//! The world around an engine: an issuer and its ledger, a platform that fails in every way, the
//! environment, and clocks that go wrong. All chance comes from the seed.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use molecule_tokenfs::error::{FetchError, FetchErrorKind};
use molecule_tokenfs::refresh::simulated::SimulatedTime;
use molecule_tokenfs::secret::{Fingerprint, Secret};
use molecule_tokenfs::source::env::{Env, EnvConfig};
use molecule_tokenfs::source::{BoxFuture, Fetched, Source};
use molecule_tokenfs::time::{Clock as _, Now};
use molecule_tokenfs::token::Term;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::figures::Figures;
use crate::model::{Entry, LONGEST_LIFE, Model, PLATFORM};

/// How it goes with the platform.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Health {
    Well,
    /// Some answers fail, each in another way.
    Flaky,
    /// All requests fail in the same way.
    Down(Fault),
}

/// What can be wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    Error(FetchErrorKind),
    /// The error comes with a `Retry-After`.
    RetryAfter(FetchErrorKind, Duration),
    Hang,
    Panic,
    /// The token has this part of its life left, or less than none.
    Short(f64),
    BornExpired,
}

/// What a source's own code can say. The rest is the engine's judgement.
const ERRORS: [FetchErrorKind; 13] = [
    FetchErrorKind::NotConfigured,
    FetchErrorKind::NotRegistered,
    FetchErrorKind::BearerUnusable,
    FetchErrorKind::Unreachable,
    FetchErrorKind::TimedOut,
    FetchErrorKind::ServerError,
    FetchErrorKind::RateLimited,
    FetchErrorKind::Unauthorized,
    FetchErrorKind::Forbidden,
    FetchErrorKind::NotFound,
    FetchErrorKind::BadAnswer,
    FetchErrorKind::Redirected,
    FetchErrorKind::NoCertificates,
];

/// The platform and what it caches.
pub struct Platform {
    pub health: Health,
    /// What the issuer gives.
    pub life: Duration,
    /// It gives the same token until this much is left, by its own clock.
    pub keeps: Option<Duration>,
    /// How far its clock is behind (positive) or ahead of the issuer's, in seconds.
    pub behind: i64,
    /// Its answers do not tell the time.
    pub silent: bool,
    cached: Option<(String, Duration)>,
    minted: u64,
}

impl Platform {
    pub fn new(life: Duration, keeps: Option<Duration>, behind: i64) -> Self {
        Self { health: Health::Well, life, keeps, behind, silent: false, cached: None, minted: 0 }
    }

    /// All that was wrong is put right.
    pub fn heal(&mut self) {
        self.health = Health::Well;
        (self.behind, self.silent) = (0, false);
        (self.cached, self.keeps) = (None, None);
    }
}

/// What everything shares. One lock: a simulation has one thread.
pub struct World {
    pub time: SimulatedTime,
    start: Instant,
    /// The issuer's time at the start, since the Unix epoch.
    origin: Duration,
    inner: Mutex<Inner>,
    bearer: Notify,
}

pub struct Inner {
    pub chance: StdRng,
    pub model: Model,
    pub platform: Platform,
    pub figures: Figures,
    /// The first thing that went against the model.
    pub violation: Option<String>,
    /// What happened, if anybody wants to know.
    pub trace: Option<Vec<String>>,
    /// The engine is being killed.
    pub killing: bool,
    /// True time that passed while nothing ran.
    pub slept: Duration,
}

impl World {
    pub fn new(
        time: SimulatedTime,
        model: Model,
        platform: Platform,
        seed: u64,
        trace: bool,
    ) -> Arc<Self> {
        let origin = time.now().wall;
        Arc::new(Self {
            time,
            start: Instant::now(),
            origin,
            inner: Mutex::new(Inner {
                chance: StdRng::seed_from_u64(!seed),
                model,
                platform,
                figures: Figures::default(),
                violation: None,
                trace: trace.then(Vec::new),
                killing: false,
                slept: Duration::ZERO,
            }),
            bearer: Notify::new(),
        })
    }

    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub fn now(&self) -> Now {
        self.time.now()
    }

    /// The issuer's time, which never goes wrong.
    pub fn truth(&self) -> Duration {
        self.start.elapsed() + self.inner().slept
    }

    /// The wall clock is put right.
    pub fn put_right(&self) {
        let (right, wall) = (self.origin + self.truth(), self.now().wall);
        self.set_clock(|time| {
            if right > wall {
                time.set_wall_forward(right - wall);
            } else {
                time.set_wall_back(wall - right);
            }
        });
    }

    /// Notes something that the model has judged.
    pub fn note(&self, verdict: Result<(), String>, what: impl FnOnce() -> String) {
        let (now, truth) = (self.now(), self.truth());
        let mut inner = self.inner();
        if inner.violation.is_some() || (verdict.is_ok() && inner.trace.is_none()) {
            return;
        }
        drop(inner);
        let line = what();
        inner = self.inner();
        if let Some(trace) = &mut inner.trace {
            trace.push(format!(
                "true {:>14.3}  boot {:>14.3}  wall {:.3}  {line}",
                truth.as_secs_f64(),
                now.boot.as_secs_f64(),
                now.wall.as_secs_f64()
            ));
        }
        if let Err(violation) = verdict {
            inner.violation = Some(format!("{violation}: {line}"));
        }
    }

    /// The machine sleeps.
    pub fn suspend(&self, length: Duration) {
        self.inner().slept += length;
        self.time.suspend(length);
        let now = self.now();
        self.inner().model.slept(&now);
    }

    /// One of the clocks is set, in whatever way.
    pub fn set_clock(&self, set: impl FnOnce(&SimulatedTime)) {
        set(&self.time);
        let now = self.now();
        self.inner().model.clock_set(&now);
    }

    /// Somebody writes the bearer file.
    pub fn write_bearer(&self) {
        let now = self.now().boot;
        self.inner().model.pace.source_changed(now);
        self.bearer.notify_one();
    }

    fn started(&self, source: usize) {
        let (now, truth) = (self.now(), self.truth());
        let verdict = self.inner().model.started(source, &now, truth);
        self.inner().figures.requests += 1;
        self.note(verdict, || format!("source {source} is asked"));
    }

    fn ended(&self, source: usize, result: &Result<Fetched, FetchError>) {
        let (now, truth) = (self.now(), self.truth());
        let mut inner = self.inner();
        let Inner { model, figures, .. } = &mut *inner;
        match result {
            Ok(Fetched { secret, issued, term }) => {
                let fingerprint = secret.fingerprint();
                figures.answers += 1;
                let reckoned = model.delivered(source, fingerprint, *issued, *term, &now, truth);
                // The environment does not tell the time.
                if let Some(time) = reckoned {
                    let asked = self.origin + truth - (now.boot.saturating_sub(issued.boot));
                    let entry = model.ledger.get_mut(&fingerprint).expect("it was issued");
                    entry.asked.push((*issued, time));
                    model.misled = time > asked + Duration::from_mins(1);
                }
            }
            Err(error) => {
                *figures.failures.entry(error.kind.name()).or_default() += 1;
                model.failed(source, error.kind, error.retry_after, &now);
            }
        }
        let window = model.pace.window;
        drop(inner);
        self.note(Ok(()), || match result {
            Ok(fetched) => format!(
                "source {source} gave {} for {:?}; next {window:?}",
                fetched.secret.fingerprint(),
                fetched.term
            ),
            Err(error) => format!("source {source} failed: {:?}; next {window:?}", error.kind),
        });
    }

    /// What an answer says of a token: its expiry, and the platform's clock at the end of the second
    /// that `Date` tells. For lives of seconds that is told exactly, or nothing would be left of them.
    fn said(&self, end: Duration) -> (Duration, Option<Duration>) {
        let truth = self.truth();
        let platform = &self.inner().platform;
        let its = |truth: Duration| {
            let by = Duration::from_secs(platform.behind.unsigned_abs());
            let right = self.origin + truth;
            if platform.behind < 0 { right + by } else { right - by }
        };
        let is_short = platform.life <= Duration::from_secs(20);
        let date = if is_short { truth } else { Duration::from_secs(truth.as_secs() + 1) };
        (self.origin + end, (!platform.silent).then(|| its(date)))
    }

    /// A token with its true end.
    fn mint(&self, part: f64) -> (String, Duration) {
        let truth = self.truth();
        let mut inner = self.inner();
        let Inner { platform, model, chance, .. } = &mut *inner;
        let by_its_clock = truth.as_secs_f64() - platform.behind as f64;
        if let (Some(keeps), Some((bytes, end))) = (platform.keeps, &platform.cached)
            && end.as_secs_f64() - by_its_clock > keeps.as_secs_f64()
        {
            return (bytes.clone(), *end);
        }
        // A platform that caches may have got its token for another workspace, a while ago.
        let shared = platform.keeps.is_some() && part >= 1.0 && chance.random_bool(0.3);
        let part = if shared { chance.random_range(0.1..1.0) } else { part };
        platform.minted += 1;
        let bytes = format!("ghs_{}", platform.minted);
        // Issuers write whole seconds.
        let end = truth + platform.life.mul_f64(part);
        let end = if platform.life > Duration::from_secs(20) {
            Duration::from_secs(end.as_secs())
        } else {
            end
        };
        let entry = Entry { end: Some(end), asked: Vec::new() };
        model.ledger.insert(Fingerprint::of(bytes.as_bytes()), entry);
        platform.cached = Some((bytes.clone(), end));
        (bytes, end)
    }
}

impl Inner {
    /// What becomes of a request, and how long it takes.
    fn fate(&mut self) -> (Option<Fault>, Duration) {
        let chance = &mut self.chance;
        let fault = match self.platform.health {
            Health::Well => None,
            Health::Flaky if chance.random_bool(0.4) => None,
            Health::Flaky => Some(fault(chance)),
            Health::Down(fault) => Some(fault),
        };
        let slow = self.platform.health != Health::Well && chance.random_bool(0.2);
        let most = if slow { 8000 } else { 150 };
        (fault, Duration::from_millis(chance.random_range(0..most)))
    }
}

/// Any fault.
pub fn fault(chance: &mut StdRng) -> Fault {
    let error = *ERRORS.choose(chance).expect("there are some");
    match chance.random_range(0..20) {
        0..=8 => Fault::Error(error),
        9..=11 => {
            let most = *[5, 60, 600, 7200].choose(chance).expect("there are some");
            let kind = if chance.random_bool(0.7) { FetchErrorKind::RateLimited } else { error };
            Fault::RetryAfter(kind, Duration::from_secs(chance.random_range(0..most)))
        }
        12..=14 => Fault::Hang,
        15 => Fault::Panic,
        16..=18 => Fault::Short(chance.random_range(0.0..0.3)),
        _ => Fault::BornExpired,
    }
}

/// The platform, as the engine sees it.
pub struct PlatformSource(pub Arc<World>);

/// A request that nobody has settled yet.
struct Request<'a> {
    world: &'a World,
    settled: bool,
}

impl Request<'_> {
    fn settle(mut self, result: &Result<Fetched, FetchError>) {
        self.settled = true;
        self.world.ended(PLATFORM, result);
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        if self.settled || self.world.inner().killing {
            return;
        }
        let now = self.world.now().boot;
        let since = self.world.inner().model.pace.in_flight.unwrap_or_default();
        let limit = self.world.inner().model.windows.fetch_timeout;
        let verdict = if now < since + limit {
            Err("gave a request up too early".to_owned())
        } else {
            Ok(())
        };
        self.world.note(verdict, || "a request is given up".to_owned());
        let error = Err(FetchError::new("platform", FetchErrorKind::TimedOut, ""));
        self.world.ended(PLATFORM, &error);
    }
}

impl Source for PlatformSource {
    fn name(&self) -> &'static str {
        "platform"
    }

    fn max_life(&self) -> Option<Duration> {
        Some(LONGEST_LIFE)
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        let world = &self.0;
        Box::pin(async move {
            let issued = world.now();
            world.started(PLATFORM);
            let request = Request { world, settled: false };
            let (fault, latency) = world.inner().fate();
            tokio::time::sleep(latency).await;
            let fail =
                |kind, wish| Err(FetchError::new("platform", kind, "by chance").retry_after(wish));
            let part = match fault {
                None => 1.0,
                Some(Fault::Short(part)) => part,
                Some(Fault::BornExpired) => 0.0,
                Some(Fault::Hang) => std::future::pending().await,
                Some(Fault::Panic) => {
                    request.settle(&fail(FetchErrorKind::Panicked, None));
                    // Unlike `panic!` it says nothing on stderr.
                    std::panic::resume_unwind(Box::new("by chance"));
                }
                Some(Fault::Error(kind)) => {
                    let result = fail(kind, None);
                    request.settle(&result);
                    return result;
                }
                Some(Fault::RetryAfter(kind, wish)) => {
                    let result = fail(kind, Some(wish));
                    request.settle(&result);
                    return result;
                }
            };
            let (bytes, end) = world.mint(part);
            let (expires_at, server) = world.said(end);
            let result = if expires_at <= server.unwrap_or(issued.wall) {
                fail(FetchErrorKind::BornExpired, None)
            } else {
                Ok(Fetched {
                    secret: Secret::new(bytes.into_bytes()).expect("a token"),
                    issued,
                    term: Term::Until { expires_at, server },
                })
            };
            request.settle(&result);
            result
        })
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.0.bearer.notified())
    }
}

/// The environment: the real source, watched.
pub struct EnvSource {
    world: Arc<World>,
    env: Env,
}

impl EnvSource {
    pub fn new(world: Arc<World>, token: Option<&str>) -> Self {
        let token = token.map(|token| Secret::new(token.as_bytes().to_vec()).expect("a token"));
        if let Some(token) = &token {
            let entry = Entry { end: None, asked: Vec::new() };
            world.inner().model.ledger.insert(token.fingerprint(), entry);
            if token.expose_str().starts_with("ghs_") {
                world.inner().model.stopgap = Some(token.fingerprint());
            }
        }
        let config = EnvConfig { token, assumed_life: LONGEST_LIFE, start: None };
        let env = Env::new(config, Arc::new(world.time.clone()));
        Self { world, env }
    }
}

impl Source for EnvSource {
    fn name(&self) -> &'static str {
        self.env.name()
    }

    fn can_replace_rejected(&self) -> bool {
        self.env.can_replace_rejected()
    }

    fn is_stopgap(&self) -> bool {
        self.env.is_stopgap()
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        Box::pin(async move {
            self.world.started(1);
            let result = self.env.fetch().await;
            self.world.ended(1, &result);
            result
        })
    }
}
