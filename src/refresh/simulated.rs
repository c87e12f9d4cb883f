//! A world for tests and simulations: clocks that can be suspended and set, and sources that follow
//! a script. Time is tokio's, so under a paused runtime it costs nothing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::error::{Explanation, FetchError, FetchErrorKind};
use crate::refresh::timer::Timer;
use crate::secret::Secret;
use crate::source::{BoxFuture, Fetched, Source};
use crate::time::{Clock, Now};
use crate::token::Term;

/// Both clocks and their timer. Clones share the time.
#[derive(Debug, Clone)]
pub struct SimulatedTime {
    start: Instant,
    /// What the clocks showed at the start, moved by every suspend and every setting.
    origin: watch::Sender<Now>,
}

impl SimulatedTime {
    /// Clocks that start somewhere in 2026, an hour after boot. Needs a tokio runtime.
    #[must_use]
    pub fn new() -> Self {
        let origin =
            Now { boot: Duration::from_hours(1), wall: Duration::from_secs(1_780_000_000) };
        Self { start: Instant::now(), origin: watch::Sender::new(origin) }
    }

    /// The machine sleeps: both clocks move on, no timer fires before it wakes up.
    pub fn suspend(&self, length: Duration) {
        self.origin.send_modify(|origin| *origin = origin.plus(length));
    }

    /// Somebody sets the wall clock forward.
    pub fn set_wall_forward(&self, by: Duration) {
        self.origin.send_modify(|origin| origin.wall = origin.wall.saturating_add(by));
    }

    /// Somebody sets the wall clock back.
    pub fn set_wall_back(&self, by: Duration) {
        self.origin.send_modify(|origin| origin.wall = origin.wall.saturating_sub(by));
    }

    /// The boot clock counts more than went by.
    pub fn set_boot_forward(&self, by: Duration) {
        self.origin.send_modify(|origin| origin.boot = origin.boot.saturating_add(by));
    }
}

impl Default for SimulatedTime {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SimulatedTime {
    fn now(&self) -> Now {
        let origin = *self.origin.borrow();
        origin.plus(self.start.elapsed())
    }
}

impl Timer for SimulatedTime {
    fn until(&self, boot: Duration) -> BoxFuture<'_, ()> {
        let mut origin = self.origin.subscribe();
        Box::pin(async move {
            loop {
                let left = boot.saturating_sub(self.now().boot);
                if left.is_zero() {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(left) => {}
                    _ = origin.changed() => {}
                }
            }
        })
    }

    fn wall_set(&self) -> BoxFuture<'_, ()> {
        let mut origin = self.origin.subscribe();
        Box::pin(async move {
            // The sender lives in `self`.
            let _ = origin.changed().await;
        })
    }
}

/// One answer of a [`ScriptedSource`].
#[derive(Debug, Clone)]
pub enum Scripted {
    /// A token with these bytes and this life from now on.
    Token(String, Duration),
    /// A token with these bytes that expires this long after the time that its `Date` tells, which
    /// is this machine's and so many seconds.
    Dated(String, Duration, i64),
    /// A token whose bytes no answer had before.
    NewToken(Duration),
    /// A token whose life nobody knows, taken to be this long.
    AssumedToken(String, Duration),
    /// A failure.
    Fail(FetchErrorKind),
    /// A failure, with the wish to be left alone for this long.
    FailFor(FetchErrorKind, Duration),
    /// The inner answer, this much later; its life counts from the request.
    After(Duration, Box<Scripted>),
    /// No answer, ever.
    Hang,
    /// The source's code fails.
    Panic,
}

impl Scripted {
    /// The answer, delayed.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self::After(delay, Box::new(self))
    }
}

/// A source that answers by script: first the queued answers, then the standing one. Clones share
/// the script.
#[derive(Clone)]
pub struct ScriptedSource(Arc<Script>);

struct Script {
    name: &'static str,
    max_life: Option<Duration>,
    can_replace_rejected: bool,
    is_known_late: bool,
    clock: Arc<dyn Clock>,
    answers: Mutex<(VecDeque<Scripted>, Scripted)>,
    requests: Mutex<Vec<Now>>,
    made: AtomicU64,
    hurried: AtomicU64,
    changed: Notify,
}

impl ScriptedSource {
    /// A source that always gives this answer, unless others are queued.
    #[must_use]
    pub fn new(name: &'static str, clock: Arc<dyn Clock>, standing: Scripted) -> Self {
        Self(Arc::new(Script {
            name,
            max_life: (name == "platform").then_some(Duration::from_hours(1)),
            can_replace_rejected: name != "env",
            is_known_late: name == "app",
            clock,
            answers: Mutex::new((VecDeque::new(), standing)),
            requests: Mutex::default(),
            made: AtomicU64::new(0),
            hurried: AtomicU64::new(0),
            changed: Notify::new(),
        }))
    }

    /// Queues an answer.
    pub fn then(&self, answer: Scripted) {
        lock(&self.0.answers).0.push_back(answer);
    }

    /// Changes the standing answer and forgets the queued ones.
    pub fn always(&self, answer: Scripted) {
        *lock(&self.0.answers) = (VecDeque::new(), answer);
    }

    /// When each request came.
    #[must_use]
    pub fn requests(&self) -> Vec<Now> {
        lock(&self.0.requests).clone()
    }

    /// How often it was told that a reader waits.
    #[must_use]
    pub fn hurried(&self) -> u64 {
        self.0.hurried.load(Ordering::Relaxed)
    }

    /// Says that a new attempt is worth it.
    pub fn change(&self) {
        self.0.changed.notify_one();
    }
}

impl Source for ScriptedSource {
    fn name(&self) -> &'static str {
        self.0.name
    }

    fn max_life(&self) -> Option<Duration> {
        self.0.max_life
    }

    fn can_replace_rejected(&self) -> bool {
        self.0.can_replace_rejected
    }

    fn is_known_late(&self) -> bool {
        self.0.is_known_late
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        Box::pin(async move {
            let issued = self.0.clock.now();
            lock(&self.0.requests).push(issued);
            let mut answer = {
                let mut answers = lock(&self.0.answers);
                answers.0.pop_front().unwrap_or_else(|| answers.1.clone())
            };
            while let Scripted::After(delay, inner) = answer {
                tokio::time::sleep(delay).await;
                answer = *inner;
            }
            let token = |bytes: String, term: Term| match Secret::new(bytes.into_bytes()) {
                Ok(secret) => Ok(Fetched { secret, issued, term }),
                Err(error) => Err(self.error(FetchErrorKind::BadAnswer, &error.to_string())),
            };
            match answer {
                Scripted::Token(bytes, life) => token(bytes, Term::For(life)),
                Scripted::Dated(bytes, life, ahead) => {
                    let by = Duration::from_secs(ahead.unsigned_abs());
                    let wall = self.0.clock.now().wall;
                    let date =
                        if ahead < 0 { wall.saturating_sub(by) } else { wall.saturating_add(by) };
                    let server = Some(date.saturating_add(Duration::from_secs(1)));
                    token(bytes, Term::Until { expires_at: date.saturating_add(life), server })
                }
                Scripted::AssumedToken(bytes, life) => token(bytes, Term::Assumed(life)),
                Scripted::NewToken(life) => {
                    let number = self.0.made.fetch_add(1, Ordering::Relaxed);
                    token(format!("ghs_{}_{number}", self.0.name), Term::For(life))
                }
                Scripted::Fail(kind) => Err(self.error(kind, "as scripted")),
                Scripted::FailFor(kind, wish) => {
                    Err(self.error(kind, "as scripted").retry_after(Some(wish)))
                }
                Scripted::Panic => panic!("the script says so"),
                Scripted::Hang | Scripted::After(..) => std::future::pending().await,
            }
        })
    }

    fn explain(&self, _kind: FetchErrorKind) -> Option<Explanation> {
        let sentence = "the script's word for it";
        (self.0.name == "app").then_some(Explanation { sentence, remedy: "" })
    }

    fn hurry(&self) {
        self.0.hurried.fetch_add(1, Ordering::Relaxed);
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.0.changed.notified())
    }
}

impl ScriptedSource {
    fn error(&self, kind: FetchErrorKind, detail: &str) -> FetchError {
        FetchError::new(self.0.name, kind, detail)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
