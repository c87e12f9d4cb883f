//! The actor: it executes what the policy decides and answers the opens that wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_channel::mpsc;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::{AbortHandle, JoinError, JoinSet};

use crate::error::{FetchError, FetchErrorKind, ReadError};
use crate::refresh::handle::{Message, Shared, Waiter};
use crate::refresh::policy::{
    Answer, Decision, Event as PolicyEvent, Held, Policy, Publish, Rules, Settled, SourceRules,
    Verdict, Windows,
};
use crate::refresh::store::Store;
use crate::refresh::timer::Timer;
use crate::refresh::{Event, EventKind, Failure, Handle, Weight};
use crate::source::{Fetched, Source};
use crate::time::{Clock, Now};
use crate::token::Token;

/// How often the same failure in a row is worth a warning.
const LOUD_FAILURES: u64 = 3;

type FetchResult = Result<Fetched, FetchError>;

/// A request that is under way.
struct InFlight {
    task: AbortHandle,
    /// When it counts as hung (boot clock).
    deadline: Duration,
    because: &'static str,
}

/// One source and how it goes with it.
struct Place {
    source: Arc<dyn Source>,
    in_flight: Option<InFlight>,
    failure: Option<Failure>,
    /// Failures of the same kind in a row: what decides how loud the next is.
    alike: u64,
}

/// The actor of one token. [`Engine::run`] is its life.
pub struct Engine {
    shared: Arc<Shared>,
    inbox: mpsc::UnboundedReceiver<Message>,
    places: Vec<Place>,
    rules: Arc<Rules>,
    policy: Policy,
    rng: StdRng,
    store: Arc<dyn Store>,
    timer: Arc<dyn Timer>,
    token: Option<Token>,
    waiters: Vec<Waiter>,
    fetches: JoinSet<(usize, FetchResult)>,
    watchers: JoinSet<usize>,
}

impl Engine {
    /// An engine over a chain of sources, best first, that goes on where an earlier one on the same
    /// store stopped; and the way to reach it. `seed` decides all jitter.
    #[must_use]
    pub fn new(
        sources: Vec<Arc<dyn Source>>,
        windows: Windows,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        timer: Arc<dyn Timer>,
        seed: u64,
    ) -> (Handle, Self) {
        let rules = Arc::new(Rules {
            windows: windows.clone(),
            sources: sources
                .iter()
                .map(|source| SourceRules {
                    max_life: source.max_life(),
                    rejection_is_final: !source.can_replace_rejected(),
                    is_stopgap: source.is_stopgap(),
                })
                .collect(),
        });
        let weight = |source: &Arc<dyn Source>| match source {
            source if !source.can_replace_rejected() => Some((source.name(), Weight::Final)),
            source if source.is_known_late() => Some((source.name(), Weight::Early)),
            _ => None,
        };
        let weights = sources.iter().filter_map(weight).collect();
        let policy = Policy::new(Arc::clone(&rules), &clock.now());
        let shared = Arc::new(Shared::new(clock, windows, weights));
        let (sender, inbox) = mpsc::unbounded();
        let mut engine = Self {
            shared: Arc::clone(&shared),
            inbox,
            places: sources
                .into_iter()
                .map(|source| Place { source, in_flight: None, failure: None, alike: 0 })
                .collect(),
            rules,
            policy,
            rng: StdRng::seed_from_u64(seed),
            store,
            timer,
            token: None,
            waiters: Vec::new(),
            fetches: JoinSet::new(),
            watchers: JoinSet::new(),
        };
        engine.resume();
        (Handle { shared, inbox: sender }, engine)
    }

    /// Goes on where the last engine on this store stopped. To be called again before [`Engine::run`]
    /// where another one ran since this one was made.
    pub fn resume(&mut self) {
        let now = self.shared.clock.now();
        let saved = self.store.load();
        // A token of a source that is no longer configured is nobody's to serve.
        let resumed = saved.token.and_then(|token| {
            let is_its_source = |place: &Place| place.source.name() == token.source;
            let source = self.places.iter().position(is_its_source)?;
            self.places.get(source)?.source.resumed(&token);
            let Token { issued, life, .. } = token;
            Some((Held { fingerprint: token.fingerprint(), source, issued, life }, token))
        });
        let (held, token) = resumed.unzip();
        let rules = Arc::clone(&self.rules);
        self.policy = Policy::resume(rules, held, &saved.progress, &now, &mut self.rng);
        self.token = token;
        self.show_token();
        let rejected = self.policy.rejection().copied();
        self.shared.snapshot.send_modify(|snapshot| snapshot.rejected = rejected);
        self.show(&now);
    }

    /// Runs until all handles are dropped. Dropping the future gives up whatever is in flight, and
    /// waiting opens learn that the engine ended. No error of a source ends it.
    pub fn run(self) -> impl Future<Output = ()> + Send {
        // A future has room for its arguments twice.
        Box::new(self).live()
    }

    async fn live(mut self: Box<Self>) {
        for place in 0..self.places.len() {
            self.watch(place);
        }
        let timer = Arc::clone(&self.timer);
        let mut wall_set = timer.wall_set();
        let mut armed = None;
        let mut sleep = timer.until(Duration::MAX);
        self.step(PolicyEvent::Tick);
        loop {
            self.answer_waiters();
            let wake = self.wake();
            if wake != armed {
                armed = wake;
                if let Some(at) = wake {
                    sleep = timer.until(at);
                }
            }
            tokio::select! {
                // In this order, so that a simulation replays.
                biased;
                Some(ended) = self.fetches.join_next() => self.fetch_ended(ended),
                Some(changed) = self.watchers.join_next() => self.source_changed(changed),
                () = &mut wall_set => {
                    // Armed anew before the clock is read, so that no setting falls in between.
                    wall_set = timer.wall_set();
                    self.step(PolicyEvent::Tick);
                }
                message = self.inbox.recv() => match message {
                    Err(_) => return,
                    Ok(message) => self.receive_all(message),
                },
                () = &mut sleep, if armed.is_some() => {
                    armed = None;
                    // After a suspend an open and the fetch it waits for may both be late.
                    self.answer_waiters();
                    self.time_out_fetches();
                    self.step(PolicyEvent::Tick);
                }
            }
        }
    }

    // === what happens ===

    /// Takes all that has been said, so that a crowd of opens is one event.
    fn receive_all(&mut self, first: Message) {
        let mut next = Some(first);
        let (mut opened, mut waits, mut wanted) = (false, false, false);
        while let Some(message) = next {
            match message {
                Message::Opened => {
                    self.shared.called.store(false, Ordering::Release);
                    opened = true;
                }
                Message::Wait(waiter) => {
                    wanted |= waiter.patience.is_some();
                    self.waiters.push(*waiter);
                    (opened, waits) = (true, true);
                }
                Message::Refresh => self.step(PolicyEvent::Refresh),
                Message::Rejected(rejection) => self.step(PolicyEvent::Rejected(*rejection)),
            }
            next = self.inbox.try_recv().ok();
        }
        if waits {
            for place in self.places.iter().filter(|place| place.in_flight.is_some()) {
                place.source.hurry();
            }
        }
        if opened {
            self.step(if wanted { PolicyEvent::Wanted } else { PolicyEvent::Opened });
        }
    }

    fn fetch_ended(&mut self, ended: Result<(usize, FetchResult), JoinError>) {
        match ended {
            Ok((place, result)) => self.answered(place, result),
            // Aborted: its time-out was settled then.
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                let id = error.id();
                let place = self.places.iter().position(|place| {
                    place.in_flight.as_ref().is_some_and(|in_flight| in_flight.task.id() == id)
                });
                if let Some(place) = place {
                    self.fail(place, FetchErrorKind::Panicked, "");
                }
            }
        }
    }

    fn time_out_fetches(&mut self) {
        let now = self.shared.clock.now().boot;
        for place in 0..self.places.len() {
            let hung = self
                .places
                .get(place)
                .and_then(|place| place.in_flight.as_ref())
                .filter(|in_flight| in_flight.deadline <= now)
                .map(|in_flight| in_flight.task.clone());
            if let Some(task) = hung {
                task.abort();
                let after = self.shared.windows.fetch_timeout.as_secs_f64();
                self.fail(place, FetchErrorKind::TimedOut, &format!("given up after {after} s"));
            }
        }
    }

    fn fail(&mut self, place: usize, kind: FetchErrorKind, detail: &str) {
        self.answered(place, Err(self.error(place, kind, detail)));
    }

    /// A source's failure that it did not tell itself, in its words.
    fn error(&self, place: usize, kind: FetchErrorKind, detail: impl Into<String>) -> FetchError {
        let explanation = self.places.get(place).and_then(|place| place.source.explain(kind));
        FetchError::new(self.name(place), kind, detail).explained(explanation)
    }

    fn source_changed(&mut self, changed: Result<usize, JoinError>) {
        match changed {
            Ok(place) => {
                // Watched anew before the attempt, so that a change during it is seen.
                self.watch(place);
                self.step(PolicyEvent::Changed { source: place });
            }
            Err(error) => {
                tracing::error!(%error, "a source can no longer tell that it changed");
            }
        }
    }

    fn watch(&mut self, place: usize) {
        if let Some(source) = self.places.get(place).map(|place| Arc::clone(&place.source)) {
            self.watchers.spawn(async move {
                source.changed().await;
                place
            });
        }
    }

    /// A fetch ended, in whatever way.
    fn answered(&mut self, place: usize, result: FetchResult) {
        // An answer that raced with its own time-out has been settled.
        let Some(in_flight) = self.places.get_mut(place).and_then(|p| p.in_flight.take()) else {
            return;
        };
        let answer = match &result {
            Ok(fetched) => Answer::Token {
                fingerprint: fetched.secret.fingerprint(),
                issued: fetched.issued,
                term: fetched.term,
            },
            Err(error) => Answer::Failed { kind: error.kind, retry_after: error.retry_after },
        };
        let now = self.shared.clock.now();
        let decision = self.decide(PolicyEvent::Answered { source: place, answer }, &now);
        match decision.settled {
            Some(Settled::Failed(kind)) => {
                let error = match &result {
                    Err(error) if error.kind == kind => error.clone(),
                    _ => self.error(place, kind, self.why(kind)),
                };
                self.note_failure(place, error, &now);
            }
            Some(Settled::New | Settled::Same) => self.note_success(place),
            None => {}
        }
        if decision.publish == Some(Publish::New)
            && let Ok(fetched) = result
        {
            self.publish_new(fetched, in_flight.because, &now);
        } else if decision.publish == Some(Publish::Again) {
            self.publish_again("its expiry changed", &now);
        }
        self.execute(decision, &now);
    }

    /// The particulars of a judgement of the policy.
    fn why(&self, kind: FetchErrorKind) -> String {
        match (kind, self.policy.reading()) {
            (FetchErrorKind::ClocksDisagree, Some(reading)) => reading.to_string(),
            _ => String::new(),
        }
    }

    /// Anything but an answer happened.
    fn step(&mut self, event: PolicyEvent) {
        let now = self.shared.clock.now();
        let decision = self.decide(event, &now);
        if decision.publish.is_some() {
            self.publish_again("the wall clock was set", &now);
        }
        self.execute(decision, &now);
    }

    fn decide(&mut self, event: PolicyEvent, now: &Now) -> Decision {
        let last_open = self.shared.last_open.load(Ordering::Relaxed);
        if last_open != 0 {
            self.policy.note_open(Duration::from_nanos(last_open));
        }
        self.waiters.retain(|waiter| !waiter.answer.is_closed());
        self.policy.set_hold(self.waiters.iter().map(|waiter| waiter.hold).min());
        self.policy.step(event, now, &mut self.rng)
    }

    fn execute(&mut self, decision: Decision, now: &Now) {
        if let Some(place) = decision.fetch {
            self.start_fetch(place, decision.because, now);
        }
        // The policy may have learnt that the token at hand lives shorter, or longer.
        if let (Some(held), Some(token)) = (self.policy.held(), &mut self.token)
            && (token.issued, token.life) != (held.issued, held.life)
        {
            (token.issued, token.life) = (held.issued, held.life);
            self.show_token();
        }
        self.show(now);
        self.store.save(&self.policy.progress());
    }

    fn start_fetch(&mut self, place: usize, because: &'static str, now: &Now) {
        let Some(state) = self.places.get_mut(place) else { return };
        tracing::debug!(source = state.source.name(), because, "asking for a token");
        let source = Arc::clone(&state.source);
        let store = Arc::clone(&self.store);
        let task = self.fetches.spawn(async move {
            let fetched = source.fetch().await;
            store.settled().await;
            (place, fetched)
        });
        if !self.waiters.is_empty() {
            state.source.hurry();
        }
        let deadline = now.boot.saturating_add(self.shared.windows.fetch_timeout);
        state.in_flight = Some(InFlight { task, deadline, because });
        self.shared.snapshot.send_modify(|snapshot| snapshot.attempts += 1);
    }

    // === waiting ===

    fn wake(&self) -> Option<Duration> {
        let now = self.shared.clock.now();
        let hung = self.places.iter().filter_map(|place| Some(place.in_flight.as_ref()?.deadline));
        let waiting = self.waiters.iter().map(|waiter| waiter.wake(&now));
        self.policy.wake(&now).into_iter().chain(hung).chain(waiting).min()
    }

    fn answer_waiters(&mut self) {
        if self.waiters.is_empty() {
            return;
        }
        let now = self.shared.clock.now();
        let snapshot = self.shared.snapshot.borrow();
        for waiter in std::mem::take(&mut self.waiters) {
            let answer = match self.policy.verdict(waiter.caller, &now, waiter.deadline) {
                Verdict::Serve
                    if waiter
                        .patience
                        .is_some_and(|until| self.policy.may_last_by(until, &now)) =>
                {
                    None
                }
                // A rejection that is still in the inbox already withholds the token.
                Verdict::Serve => snapshot.usable(waiter.caller, &now).map(Ok),
                Verdict::Wait => None,
                Verdict::Fail(kind) => {
                    let cause = snapshot.telling_failure().map(|failure| failure.error.clone());
                    Some(Err(ReadError { kind, cause }))
                }
            };
            match answer {
                // Whoever no longer waits needs no answer.
                Some(answer) => drop(waiter.answer.send(answer)),
                None => self.waiters.push(waiter),
            }
        }
    }

    // === what others see ===

    fn publish_new(&mut self, fetched: Fetched, because: &str, now: &Now) {
        let Some(&held) = self.policy.held() else { return };
        let token = Token {
            secret: fetched.secret,
            generation: self.store.reserve(),
            source: self.name(held.source),
            issued: held.issued,
            life: held.life,
        };
        let left = token.left(now).as_secs();
        tracing::info!(
            fingerprint = %held.fingerprint,
            generation = token.generation,
            source = token.source,
            left_seconds = left,
            next_refresh_seconds = self
                .policy
                .next(now)
                .map(|next| next.at.saturating_sub(now.boot).as_secs()),
            "a new token"
        );
        let reason = format!("{because}; {} gave it with {left} s left", token.source);
        self.publish(token, EventKind::Rotation, reason, now);
    }

    fn publish_again(&mut self, reason: &str, now: &Now) {
        let (Some(token), Some(&held)) = (&self.token, self.policy.held()) else { return };
        let token = Token {
            generation: self.store.reserve(),
            issued: held.issued,
            life: held.life,
            ..token.clone()
        };
        tracing::info!(
            fingerprint = %held.fingerprint,
            generation = token.generation,
            reason,
            "the same token as a new generation"
        );
        self.publish(token, EventKind::Republication, reason.to_owned(), now);
    }

    /// Store and snapshot as one step for all who look: an open that the snapshot wakes must find the
    /// generation in the store, and whoever read the token there may reject it at once.
    fn publish(&mut self, token: Token, kind: EventKind, reason: String, now: &Now) {
        let concerned = Some((token.generation, token.fingerprint()));
        let rejected = self.policy.rejection().copied();
        self.shared.snapshot.send_modify(|snapshot| {
            if let Some(fresh) = token.usable(now, Duration::ZERO) {
                self.store.publish(&fresh, now);
            }
            snapshot.token = Some(token.clone());
            if kind == EventKind::Rotation {
                snapshot.fetches += 1;
                snapshot.rejected = rejected;
            }
            let detail = String::new();
            snapshot.remember(Event { at: *now, kind, token: concerned, reason, detail });
        });
        self.token = Some(token);
    }

    fn show_token(&self) {
        self.shared.snapshot.send_modify(|snapshot| snapshot.token.clone_from(&self.token));
    }

    fn show(&self, now: &Now) {
        let policy = &self.policy;
        let clock_ahead = self.places.iter().find_map(|place| place.source.clock_ahead());
        let denied = policy.rejection().filter(|rejection| rejection.is_denied);
        self.shared.snapshot.send_modify(|snapshot| {
            if snapshot.rejected.is_some_and(|rejection| rejection.is_lifted(now)) {
                snapshot.rejected = None;
            }
            let rejections = [&mut snapshot.rejected, &mut snapshot.last_rejected];
            for rejection in rejections.into_iter().flatten() {
                // It may be a later one, which is still in the inbox.
                rejection.is_denied |= denied.is_some_and(|denied| {
                    (denied.fingerprint, denied.at) == (rejection.fingerprint, rejection.at)
                });
            }
            snapshot.next = policy.next(now);
            snapshot.fetching = policy.fetching();
            snapshot.skew = policy.skew();
            snapshot.skew_is_proved = policy.skew_is_proved();
            snapshot.clock_ahead = clock_ahead;
            snapshot.repeats = policy.repeats();
            snapshot.fallback = policy.held().is_some_and(|held| held.source > 0);
            snapshot.min_life = policy.min_life();
            snapshot.git_min_life = policy.git_min_life();
            snapshot.asked = policy.asked();
            snapshot.idle = policy.idle(now);
            snapshot.call_at = policy.call_at(now);
            snapshot.refresh_not_before = policy.wish();
        });
    }

    fn note_success(&mut self, place: usize) {
        let name = self.name(place);
        // The failures of later sources concern nobody while an earlier one gives tokens.
        for (index, state) in self.places.iter_mut().enumerate().skip(place) {
            state.alike = 0;
            if let Some(failure) = state.failure.take()
                && index == place
            {
                tracing::info!(source = name, failures = failure.count, "the source works again");
            }
        }
        self.show_failures();
    }

    fn note_failure(&mut self, place: usize, error: FetchError, now: &Now) {
        let mut before = self.places.iter().take(place);
        let is_alone = before.all(|place| place.failure.is_none() && place.in_flight.is_none());
        let Some(state) = self.places.get_mut(place) else { return };
        let earlier = state.failure.take();
        let is_alike = earlier.as_ref().is_some_and(|earlier| earlier.error.kind == error.kind);
        state.alike = if is_alike { state.alike.saturating_add(1) } else { 1 };
        let (source, remedy) = (error.source_name, error.explain().remedy);
        // That a later source has nothing to give is no news while an earlier one fails or hangs.
        let is_quiet = error.kind == FetchErrorKind::NotConfigured && !is_alone;
        if state.alike <= LOUD_FAILURES && !is_quiet {
            tracing::warn!(source, %error, remedy, "no token");
        } else {
            tracing::debug!(source, %error, "no token");
        }
        let news = (!is_alike && !is_quiet).then(|| {
            let plain = FetchError { detail: String::new(), ..error.clone() };
            (plain.to_string(), error.detail.clone())
        });
        state.failure = Some(match earlier {
            Some(earlier) => {
                Failure { error, at: *now, count: earlier.count.saturating_add(1), ..earlier }
            }
            None => Failure { error, since: *now, at: *now, count: 1 },
        });
        if let Some((reason, detail)) = news {
            let event = Event { at: *now, kind: EventKind::Failure, token: None, reason, detail };
            self.shared.snapshot.send_modify(|snapshot| snapshot.remember(event));
        }
        self.show_failures();
    }

    fn show_failures(&self) {
        let all = || self.places.iter().filter_map(|place| place.failure.as_ref());
        let is_telling = |failure: &&Failure| failure.error.kind != FetchErrorKind::NotConfigured;
        let failures: Vec<Failure> = if all().any(|failure| is_telling(&failure)) {
            all().filter(is_telling).cloned().collect()
        } else if self.places.iter().any(|place| place.in_flight.is_some()) {
            // That one has nothing to give is not what is wrong while another has not answered.
            Vec::new()
        } else {
            all().cloned().collect()
        };
        self.shared.snapshot.send_modify(|snapshot| snapshot.failures = failures);
    }

    fn name(&self, place: usize) -> &'static str {
        self.places.get(place).map_or("", |place| place.source.name())
    }
}
