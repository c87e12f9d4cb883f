//! The engine under paused time: the real actor and policy, scripted sources, simulated clocks.
#![expect(clippy::unchecked_time_subtraction, reason = "an underflow fails the test")]

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::simulated::{Scripted, ScriptedSource, SimulatedTime};
use super::store::MemoryStore;
use super::{Engine, EventKind, Handle, TooSoon, Windows};
use crate::caller::Caller;
use crate::error::{FetchErrorKind, ReadError, ReadErrorKind};
use crate::secret::Fingerprint;
use crate::source::Source;
use crate::time::{Clock, Now};
use crate::token::FreshToken;

mod chain;
mod clocks;
mod failures;
mod known_late;
mod patience;
mod rejection;
mod schedule;
mod waiting;

/// The user who opens and rejects.
const READER: Option<Caller> = Some(Caller::of_user(1000));
/// Another one.
const OTHER: Option<Caller> = Some(Caller::of_user(1001));
/// Somebody whose user nobody can tell.
const UNKNOWN: Option<Caller> = Some(Caller::new(u32::MAX, u32::MAX, 0));

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// How things stand, in one word.
#[derive(Debug, PartialEq)]
enum State {
    Fresh,
    Degraded,
    None,
    Idle,
}

/// A running engine and everything around it.
struct World {
    time: SimulatedTime,
    store: Arc<MemoryStore>,
    sources: Vec<ScriptedSource>,
    windows: Windows,
    handle: Handle,
    engine: JoinHandle<()>,
}

impl World {
    /// An engine over one source called `platform`.
    fn of(standing: Scripted) -> Self {
        Self::with(Windows::default(), &[("platform", standing)])
    }

    fn with(windows: Windows, chain: &[(&'static str, Scripted)]) -> Self {
        let time = SimulatedTime::new();
        let clock: Arc<dyn Clock> = Arc::new(time.clone());
        let sources = chain
            .iter()
            .map(|(name, standing)| ScriptedSource::new(name, clock.clone(), standing.clone()))
            .collect::<Vec<_>>();
        let store = Arc::new(MemoryStore::default());
        let (handle, engine) = start(&time, &store, &sources, &windows);
        Self { time, store, sources, windows, handle, engine }
    }

    /// The engine dies where it stands; another one goes on with the same store.
    async fn restart(&mut self) {
        self.engine.abort();
        let _ = (&mut self.engine).await;
        (self.handle, self.engine) = start(&self.time, &self.store, &self.sources, &self.windows);
    }

    fn now(&self) -> Now {
        self.time.now()
    }

    fn platform(&self) -> &ScriptedSource {
        &self.sources[0]
    }

    fn env(&self) -> &ScriptedSource {
        &self.sources[1]
    }

    fn requests(&self) -> usize {
        self.platform().requests().len()
    }

    /// Opens as a reader does, with the configured deadline.
    async fn open(&self) -> Result<FreshToken, ReadError> {
        self.handle.token(READER, self.now().boot + self.windows.open_timeout).await
    }

    async fn open_ok(&self) -> FreshToken {
        self.open().await.expect("a token")
    }

    async fn open_err(&self) -> ReadErrorKind {
        self.open().await.expect_err("no token").kind
    }

    async fn bytes(&self) -> String {
        bytes(&self.open_ok().await)
    }

    fn state(&self) -> State {
        let snapshot = self.handle.snapshot();
        let troubled =
            snapshot.fallback || snapshot.rejected.is_some() || !snapshot.failures.is_empty();
        let usable = snapshot.usable(READER, &self.now()).is_some();
        match (usable, troubled) {
            _ if snapshot.idle || !(snapshot.asked || usable || troubled) => State::Idle,
            (false, _) => State::None,
            (true, true) => State::Degraded,
            (true, false) => State::Fresh,
        }
    }

    fn failure(&self) -> Option<FetchErrorKind> {
        self.handle.snapshot().failures.first().map(|failure| failure.error.kind)
    }

    /// Seconds from now to the next planned attempt.
    fn next_in(&self) -> f64 {
        let next = self.handle.snapshot().next.expect("a plan");
        (next.at.saturating_sub(self.now().boot)).as_secs_f64()
    }
}

fn start(
    time: &SimulatedTime,
    store: &Arc<MemoryStore>,
    sources: &[ScriptedSource],
    windows: &Windows,
) -> (Handle, JoinHandle<()>) {
    let clock: Arc<dyn Clock> = Arc::new(time.clone());
    let sources =
        sources.iter().map(|source| Arc::new(source.clone()) as Arc<dyn Source>).collect();
    let (handle, engine) =
        Engine::new(sources, windows.clone(), store.clone(), clock, Arc::new(time.clone()), 7);
    (handle, tokio::spawn(engine.run()))
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

fn bytes(token: &FreshToken) -> String {
    token.token().secret.expose_str().to_owned()
}

fn token(bytes: &str, life: Duration) -> Scripted {
    Scripted::Token(bytes.to_owned(), life)
}

fn fail(kind: FetchErrorKind) -> Scripted {
    Scripted::Fail(kind)
}
