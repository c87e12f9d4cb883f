//! How readers and the control file reach the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_channel::mpsc;
use tokio::sync::{oneshot, watch};

use crate::caller::Caller;
use crate::error::{FetchError, FetchErrorKind, ReadError, ReadErrorKind};
use crate::refresh::policy::windows::{FORCED_SPACING, KNOWN_LATE, Windows};
use crate::refresh::{Event, EventKind, HISTORY, Rejection, Snapshot, Weight};
use crate::secret::Fingerprint;
use crate::time::{Clock, Now};
use crate::token::{FreshToken, Life, Token};

/// What handles and the engine both see.
pub(super) struct Shared {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) windows: Windows,
    /// What a rejection means, for sources by name where it is not the usual: [`Weight::Early`] for those
    /// whose tokens are known late.
    pub(super) weights: Vec<(&'static str, Weight)>,
    pub(super) snapshot: watch::Sender<Snapshot>,
    /// Boot time of the last open, in nanoseconds; 0 before the first.
    pub(super) last_open: AtomicU64,
    /// The engine was told of an open and has not looked yet.
    pub(super) called: AtomicBool,
    /// Boot time of the last forced fetch, in nanoseconds; 0 before the first.
    last_forced: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        windows: Windows,
        weights: Vec<(&'static str, Weight)>,
    ) -> Self {
        Self {
            clock,
            windows,
            weights,
            snapshot: watch::Sender::new(Snapshot::default()),
            last_open: AtomicU64::new(0),
            called: AtomicBool::new(false),
            last_forced: AtomicU64::new(0),
        }
    }
}

/// What handles tell the engine. The queue always has room for one, so each is small.
pub(super) enum Message {
    /// A usable token was opened whose refresh the open may bring forward.
    Opened,
    /// An open waits.
    Wait(Box<Waiter>),
    /// A fetch is forced.
    Refresh,
    /// The token at hand was rejected; the snapshot already says so.
    Rejected(Box<Rejection>),
}

/// An open that waits.
pub(super) struct Waiter {
    /// Who opens, where that is known.
    pub(super) caller: Option<Caller>,
    /// Until when an earlier source may hold it up (boot clock).
    pub(super) hold: Duration,
    /// Until when it waits (boot clock).
    pub(super) deadline: Duration,
    /// Until when it waits for a token that lasts, although it could be served now (boot clock).
    pub(super) patience: Option<Duration>,
    pub(super) answer: oneshot::Sender<Result<FreshToken, ReadError>>,
}

impl Waiter {
    /// When to look at it again if nothing happens before (boot clock).
    pub(super) fn wake(&self, now: &Now) -> Duration {
        self.patience.filter(|until| *until > now.boot).unwrap_or(self.deadline)
    }
}

/// How readers and the control file reach the engine. Cheap to clone. When the last one is dropped
/// the engine ends.
#[derive(Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: mpsc::UnboundedSender<Message>,
}

/// A forced fetch came less than a second after the last one, or sooner than the source allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "too soon: the last refresh was less than a second ago, or the source asked to be left alone"
)]
pub struct TooSoon;

/// What somebody writes into `refresh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// A fetch now.
    Fetch,
    /// Another token than this one, which was refused.
    Another(Fingerprint),
}

impl Wish {
    /// The longest text that is understood, with some blanks around it, in bytes.
    const MAX_BYTES: usize = 64;

    /// Nothing, `refresh` or `now` is a fetch; 8 hexadecimal digits are a fingerprint.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= Self::MAX_BYTES)?;
        match text.trim() {
            "" | "refresh" | "now" => Some(Self::Fetch),
            digits => Fingerprint::parse(digits).map(Self::Another),
        }
    }
}

impl Handle {
    /// Does what this caller wrote into `refresh`.
    ///
    /// # Errors
    /// See [`Handle::refresh`].
    pub fn fulfil(&self, wish: Wish, caller: Option<Caller>) -> Result<(), TooSoon> {
        match wish {
            Wish::Fetch => self.refresh(),
            Wish::Another(than) => {
                self.reject(than, caller);
                Ok(())
            }
        }
    }

    /// The token, if it may be served to this caller now (`None`: somebody). No task switch, and no
    /// allocation unless the engine is told. Also notes that somebody asked, so that a token in its last
    /// fifth is refreshed in the background.
    #[must_use]
    pub fn usable(&self, caller: Option<Caller>) -> Option<FreshToken> {
        self.asked(|snapshot, now| snapshot.usable(caller, now))
    }

    /// Whether the token at hand is of this generation, and may be served now. As [`Handle::usable`].
    #[must_use]
    pub fn serves(&self, generation: u64, caller: Option<Caller>) -> bool {
        self.asked(|snapshot, now| snapshot.serves(generation, caller, now).then_some(())).is_some()
    }

    /// The same, but only if the token also lasts long enough for git; see [`Handle::await_lasting`].
    #[must_use]
    pub fn usable_and_lasting(&self, caller: Option<Caller>) -> Option<FreshToken> {
        self.asked(|snapshot, now| snapshot.usable(caller, now).filter(|_| snapshot.lasts(now)))
    }

    /// As [`Handle::serves`], but only if the token also lasts long enough for git.
    #[must_use]
    pub fn serves_lasting(&self, generation: u64, caller: Option<Caller>) -> bool {
        let lasting = |snapshot: &Snapshot, now: &Now| {
            (snapshot.serves(generation, caller, now) && snapshot.lasts(now)).then_some(())
        };
        self.asked(lasting).is_some()
    }

    /// Somebody asks for the token.
    fn asked<T>(&self, answer: impl FnOnce(&Snapshot, &Now) -> Option<T>) -> Option<T> {
        let now = self.shared.clock.now();
        // Of two opens in the same instant either may be the last.
        if self.shared.last_open.load(Ordering::Relaxed) < nanos(now.boot) {
            self.shared.last_open.store(nanos(now.boot), Ordering::Relaxed);
        }
        let (answer, call) = {
            let snapshot = self.shared.snapshot.borrow();
            let answer = answer(&snapshot, &now)?;
            let is_due = |least| snapshot.token.as_ref().is_some_and(|it| it.left(&now) <= least);
            (answer, snapshot.call_at.is_some_and(is_due))
        };
        if call && !self.shared.called.swap(true, Ordering::AcqRel) {
            // Without an engine there is nobody to tell; the token is as good.
            let _ = self.inbox.unbounded_send(Message::Opened);
        }
        Some(answer)
    }

    /// Whether this token, of whatever generation, may be served to this caller now.
    #[must_use]
    pub fn accepts(&self, token: &Token, caller: Option<Caller>) -> bool {
        let now = self.shared.clock.now();
        let snapshot = self.shared.snapshot.borrow();
        let least = self.shared.windows.min_life_of(token.life.duration(), snapshot.repeats);
        let is_withheld =
            snapshot.rejected.iter().chain(&snapshot.last_rejected).any(|rejection| {
                rejection.fingerprint == token.fingerprint()
                    && rejection.withholds_from(caller, &now)
            });
        !is_withheld && token.usable(&now, least).is_some()
    }

    /// The token for this caller (`None`: somebody), waiting for a fetch where that is needed, until
    /// `deadline` (boot clock). It can be dropped at any time; the fetch goes on.
    ///
    /// # Errors
    /// [`ReadError`], at once where waiting is no use: the sources refuse us, or their next try lies
    /// beyond the deadline.
    pub async fn token(
        &self,
        caller: Option<Caller>,
        deadline: Duration,
    ) -> Result<FreshToken, ReadError> {
        loop {
            if let Some(fresh) = self.usable(caller) {
                return Ok(fresh);
            }
            match self.wait(caller, deadline, None).await {
                None => return Err(self.engine_ended()),
                Some(Err(error)) => return Err(error),
                // The process may have been stopped since, or another reader may have rejected it:
                // what was fresh then is judged again. It is no second open.
                Some(Ok(_)) => {
                    let now = self.shared.clock.now();
                    let fresh = self.shared.snapshot.borrow().usable(caller, &now);
                    if let Some(fresh) = fresh {
                        return Ok(fresh);
                    }
                }
            }
        }
    }

    /// Waits for the next token, until `until` at the latest (boot clock), if the current one has less
    /// life left than [`Windows::git_min_life_of`] and the next one may come in time. git needs this
    /// because it keeps a token for a whole command. Call [`Handle::token`] afterwards in any case.
    pub async fn await_lasting(&self, caller: Option<Caller>, until: Duration, deadline: Duration) {
        if let Some(until) = self.patience(caller, until) {
            self.wait(caller, deadline, Some(until)).await;
        }
    }

    /// Until when an open should wait although it could be served now; `None` if it should not. It never
    /// waits so long that the current token becomes too old to serve.
    fn patience(&self, caller: Option<Caller>, until: Duration) -> Option<Duration> {
        let now = self.shared.clock.now();
        let snapshot = self.shared.snapshot.borrow();
        let token = snapshot.token.as_ref().filter(|_| !snapshot.lasts(&now))?;
        let spare = token.left(&now).checked_sub(snapshot.min_life)?;
        let until = until.min(now.boot.saturating_add(spare / 2));
        (until > now.boot && snapshot.usable(caller, &now).is_some()).then_some(until)
    }

    /// Waits for the engine's answer; `None` if the engine has ended.
    async fn wait(
        &self,
        caller: Option<Caller>,
        deadline: Duration,
        patience: Option<Duration>,
    ) -> Option<Result<FreshToken, ReadError>> {
        let hold = super::policy::windows::hold(self.shared.clock.now().boot, deadline);
        let (answer, answered) = oneshot::channel();
        let waiter = Box::new(Waiter { caller, hold, deadline, patience, answer });
        self.inbox.unbounded_send(Message::Wait(waiter)).ok()?;
        answered.await.ok()
    }

    /// A consumer, where possible one whose user is known, says that the token with this fingerprint
    /// was refused. Synchronous: no reader gets it from now on, until the source has given another or
    /// the same again; see [`Rejection::withholds_from`]. An unknown fingerprint is none of our
    /// business and changes nothing.
    pub fn reject(&self, fingerprint: Fingerprint, caller: Option<Caller>) {
        let now = self.shared.clock.now();
        let is_at_hand = {
            let snapshot = self.shared.snapshot.borrow();
            snapshot.token.as_ref().is_some_and(|token| token.fingerprint() == fingerprint)
        };
        if !is_at_hand {
            return;
        }
        // Before the snapshot is locked: this may have to be looked up.
        let user = caller.and_then(|caller| caller.uid());
        let mut news = None;
        self.shared.snapshot.send_if_modified(|snapshot| {
            let Some(token) = snapshot.token.as_ref().filter(|t| t.fingerprint() == fingerprint)
            else {
                return false;
            };
            // One that was lifted stands there alone.
            let lifted = snapshot.last_rejected.filter(Rejection::is_early);
            let earlier = snapshot.rejected.or(lifted);
            let weight = self.weight(token, &now);
            let (rejection, is_news) = Rejection::of(earlier, fingerprint, user, weight, &now);
            let concerned = Some((token.generation, fingerprint));
            snapshot.rejected = Some(rejection);
            snapshot.last_rejected = Some(rejection);
            if is_news {
                news = Some(rejection);
                snapshot.remember(Event {
                    at: now,
                    kind: EventKind::Reject,
                    token: concerned,
                    reason: if rejection.is_early() {
                        "a consumer says that it was refused, and it is so young that it is offered again"
                    } else {
                        "a consumer says that it was refused"
                    }
                    .to_owned(),
                    detail: String::new(),
                });
            }
            true
        });
        if let Some(rejection) = news {
            tracing::info!(%fingerprint, "a consumer rejected the token");
            // Without an engine the token stays withheld.
            let _ = self.inbox.unbounded_send(Message::Rejected(Box::new(rejection)));
        }
    }

    /// What a rejection of the token means now.
    fn weight(&self, token: &Token, now: &Now) -> Weight {
        let mut weights = self.shared.weights.iter();
        match weights.find(|(source, _)| *source == token.source) {
            Some((_, Weight::Early)) if now.elapsed_since(&token.issued) < KNOWN_LATE => {
                Weight::Early
            }
            Some((_, Weight::Final)) => Weight::Final,
            _ => Weight::Usual,
        }
    }

    /// Asks for a fetch now. It happens in the background.
    ///
    /// # Errors
    /// [`TooSoon`]; then nothing happens.
    pub fn refresh(&self) -> Result<(), TooSoon> {
        let now = self.shared.clock.now().boot;
        if now < self.shared.snapshot.borrow().refresh_not_before {
            return Err(TooSoon);
        }
        let last = self.shared.last_forced.load(Ordering::Relaxed);
        let is_too_soon = last != 0 && nanos(now).saturating_sub(last) < nanos(FORCED_SPACING);
        let is_ours = !is_too_soon
            && self
                .shared
                .last_forced
                .compare_exchange(last, nanos(now), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !is_ours {
            return Err(TooSoon);
        }
        // Without an engine there is nothing to fetch with; opens say so.
        let _ = self.inbox.unbounded_send(Message::Refresh);
        Ok(())
    }

    /// How things stand.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot.borrow().clone()
    }

    /// Follows how things stand: `changed()` completes whenever they may have changed.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Snapshot> {
        self.shared.snapshot.subscribe()
    }

    /// The minimum life at open of a token with this life, as things stand.
    #[must_use]
    pub fn min_life_of(&self, life: Life) -> Duration {
        let repeats = self.shared.snapshot.borrow().repeats;
        self.shared.windows.min_life_of(life.duration(), repeats)
    }

    /// The numbers that the engine works with.
    #[must_use]
    pub fn windows(&self) -> &Windows {
        &self.shared.windows
    }

    fn engine_ended(&self) -> ReadError {
        let had_token = self.shared.snapshot.borrow().token.is_some();
        ReadError {
            kind: if had_token { ReadErrorKind::Expired } else { ReadErrorKind::NoToken },
            cause: Some(FetchError::new(
                "engine",
                FetchErrorKind::Panicked,
                "the engine has ended",
            )),
        }
    }
}

impl Snapshot {
    /// Adds to the history, which keeps the last [`HISTORY`] events.
    pub(super) fn remember(&mut self, event: Event) {
        while self.history.len() >= HISTORY {
            self.history.pop_front();
        }
        // By itself it would have room for four, and most tokens on demand have one event.
        self.history.reserve_exact(1);
        self.history.push_back(event);
    }
}

/// Boot time as a number; it fits for 584 years.
fn nanos(boot: Duration) -> u64 {
    u64::try_from(boot.as_nanos()).unwrap_or(u64::MAX)
}
