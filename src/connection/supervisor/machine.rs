//! What to do about workers: a pure state machine.
//!
//! `(state, event, now) → (state, actions)`. It does no I/O, knows no process and reads no clock: the
//! supervisor turns what happened into events, and carries out the actions in their order.
//!
//! There are never more than two workers, those included that were killed and have not ended. Unless
//! the end was asked for, there is a worker, or one is tried again and again.

use std::ops::Range;
use std::time::Duration;

use super::dying::Dying;
use super::event::{Action, Ending, Event, GiveUp, Id, Init, News, Renewal, Role};
use super::pace::Pace;
use super::unserved::Unserved;
use super::watchdog::{Health, Watchdog};
use super::{End, MOST_FAILURES};

#[cfg(test)]
mod tests;

/// The most workers at a time: one that serves, and one that takes over from it or that is dying.
const MOST_WORKERS: usize = 2;
/// A worker that fails this soon after it was ready counts as one that did not come up.
const PROBATION: Duration = Duration::from_secs(1);
/// The longest that a worker may take for a step of its start; one that is stopped meanwhile is replaced,
/// and readers are served again, within 10 s.
const START_LIMIT: Duration = Duration::from_secs(8);

/// A worker that was not killed and has not ended, as far as is known.
#[derive(Debug)]
struct Life {
    id: Id,
    stage: Stage,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// The steps of starts when it was last seen to go on, and when that was (boot clock).
    Starting { steps: u64, went_on: Duration },
    /// Since when it serves (boot clock).
    Serving { since: Duration },
}

impl Life {
    fn serving(&self) -> Option<Duration> {
        match self.stage {
            Stage::Serving { since } => Some(since),
            Stage::Starting { .. } => None,
        }
    }

    /// When it has taken too long for its start unless it goes on until then; nothing once it serves.
    fn start_ends(&self) -> Option<Duration> {
        match self.stage {
            Stage::Starting { went_on, .. } => Some(went_on.saturating_add(START_LIMIT)),
            Stage::Serving { .. } => None,
        }
    }

    /// Whether it takes too long for a step of its start.
    fn hangs_at_start(&mut self, now_steps: u64, now: Duration) -> bool {
        if let Stage::Starting { steps, went_on } = &mut self.stage
            && std::mem::replace(steps, now_steps) != now_steps
        {
            *went_on = now;
        }
        self.start_ends().is_some_and(|end| now >= end)
    }
}

/// A worker that crashed while it served, until it is known whether a request is to blame.
#[derive(Debug)]
struct Crash {
    how: String,
    is_in_probation: bool,
}

/// The state machine. See the module.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is true or false whatever the others are")]
pub(super) struct Machine {
    open_timeout: Duration,
    started: u64,
    worker: Option<Life>,
    /// A newer worker that is not ready yet.
    candidate: Option<Life>,
    dying: Dying,
    crash: Option<Crash>,
    /// An upgrade was asked for, and is begun with the next tick.
    upgrade_waits: bool,
    /// A worker has come up at least once.
    has_served: bool,
    /// The kernel's INIT is answered, and so the mount is visible.
    is_mounted: bool,
    /// The connection was aborted, and the mount has to be made anew.
    connection_is_lost: bool,
    pace: Pace,
    unserved: Unserved,
    watchdog: Watchdog,
    is_over: bool,
    actions: Vec<Action>,
}

impl Machine {
    /// A machine that has not started anything. An open that waits longer than `open_timeout` hangs with
    /// its worker.
    pub(super) fn new(open_timeout: Duration) -> Self {
        Self {
            open_timeout,
            started: 0,
            worker: None,
            candidate: None,
            dying: Dying::default(),
            crash: None,
            upgrade_waits: false,
            has_served: false,
            is_mounted: false,
            connection_is_lost: false,
            pace: Pace::default(),
            unserved: Unserved::default(),
            watchdog: Watchdog::new(open_timeout),
            is_over: false,
            actions: Vec::new(),
        }
    }

    /// The one way in which state changes. After [`Action::End`] and [`Action::GiveUp`] nothing more
    /// comes.
    #[must_use]
    pub(super) fn step(&mut self, event: Event, now: Duration) -> Vec<Action> {
        if self.is_over {
            return Vec::new();
        }
        match event {
            Event::Tick { steps } => self.tick(steps, now),
            Event::Started { worker, steps: all } => {
                if let Some(Stage::Starting { steps, .. }) = self.stage_of(worker) {
                    *steps = all;
                }
            }
            Event::NotStarted { worker, why, refused } => {
                let why = format!("it cannot be started: {why}");
                if self.candidate.take_if(|candidate| candidate.id == worker).is_some() {
                    self.upgraded(Err(why));
                } else if self.worker.take_if(|life| life.id == worker).is_some() {
                    match refused.filter(|_| !self.has_served) {
                        Some(errno) => self.give_up(GiveUp::Refused(errno)),
                        None => self.failed(why, now),
                    }
                }
            }
            Event::Ready { worker, init } if self.worker() == Some(worker) => {
                self.worker_is_ready(worker, &init);
            }
            Event::Ready { worker, init } if self.candidate() == Some(worker) => {
                self.candidate_is_ready(init, now);
            }
            Event::Ready { .. } => {}
            Event::Went { worker, signs } => {
                if self.worker() == Some(worker)
                    && let Some(stage) = self.stage_of(worker)
                {
                    *stage = Stage::Serving { since: now };
                    self.watchdog.worker_started(&signs, now);
                }
            }
            Event::Closed { worker, ending } => self.closed(worker, ending, now),
            Event::Charged { anything } => {
                if let Some(Crash { how, is_in_probation }) = self.crash.take() {
                    // One that dies of a request has come up; that request will not kill many more.
                    self.worker_died(how, is_in_probation && !anything, now);
                }
            }
            Event::RenamesDue => self.act(Action::Rotate),
            Event::Requested { taken } => {
                if self.serves() {
                    self.watchdog.requested(taken, now);
                }
            }
            Event::RequestWaits => {
                if self.stands_in() {
                    self.act(Action::Refuse);
                }
            }
            Event::Looked(signs) => {
                if self.looks(now) {
                    let health = self.watchdog.look(&signs, now);
                    self.judge(health, now);
                }
            }
            Event::UpgradeAsked => {
                self.act(Action::Reloading);
                self.drop_candidate(now);
                self.upgrade_waits = true;
            }
            Event::StopAsked => self.stop(End::Stopped),
            // It may have tokens to revoke.
            Event::ConnectionEnded => self.stop(End::Unmounted),
            Event::Renewed { outcome, is_lost } => self.renewed(outcome, is_lost, now),
        }
        std::mem::take(&mut self.actions)
    }

    // === what the supervisor waits for ===

    /// The worker that serves, or will.
    pub(super) fn worker(&self) -> Option<Id> {
        self.worker.as_ref().map(|worker| worker.id)
    }

    /// The newer worker that is not ready yet.
    pub(super) fn candidate(&self) -> Option<Id> {
        self.candidate.as_ref().map(|candidate| candidate.id)
    }

    /// The workers that were killed and have not ended.
    pub(super) fn dying(&self) -> &Dying {
        &self.dying
    }

    /// Whether the mount is visible, as far as is known here.
    pub(super) fn is_mounted(&self) -> bool {
        self.is_mounted && !self.connection_is_lost
    }

    /// Whether there is no connection until the mount is made anew.
    pub(super) fn connection_is_lost(&self) -> bool {
        self.connection_is_lost
    }

    /// Whether to tell of the next request with [`Event::Requested`].
    pub(super) fn listens(&self) -> bool {
        self.watchdog.is_idle() && self.serves()
    }

    /// Whether to tell of each request with [`Event::RequestWaits`].
    pub(super) fn stands_in(&self) -> bool {
        self.unserved.is_stood_in_for && !self.connection_is_lost
    }

    /// Whether to look for signs of life, and tell of them with [`Event::Looked`].
    pub(super) fn looks(&self, now: Duration) -> bool {
        self.serves() && self.watchdog.next_look().is_some_and(|at| now >= at)
    }

    /// For how long an open has waited that should have been answered.
    pub(super) fn overdue(&self) -> Range<Duration> {
        self.watchdog.overdue()
    }

    /// When something is due if nothing happens before (boot clock).
    pub(super) fn wake(&self, now: Duration) -> Option<Duration> {
        let starting = self.candidate.iter().chain(&self.worker);
        let can_start = self.worker.is_none() && (self.has_room() || self.connection_is_lost);
        let stand_in = self.stand_in_at();
        let wake = [
            self.upgrade_waits.then_some(now),
            can_start.then(|| self.pace.not_before()),
            starting.filter_map(Life::start_ends).min(),
            self.serves().then(|| self.watchdog.next_look()).flatten(),
            self.dying.next_look(now),
            stand_in.and_then(|begins| self.unserved.next_look(begins, now)),
        ];
        wake.into_iter().flatten().min()
    }

    fn serves(&self) -> bool {
        self.worker.as_ref().is_some_and(|worker| worker.serving().is_some())
    }

    // === time ===

    fn tick(&mut self, steps: u64, now: Duration) {
        if self.dying.is_late(now) && !self.connection_is_lost {
            self.act(Action::Tell(News::Late));
            // What else is due depends on what comes of it.
            return self.act(Action::Remount);
        }
        let too_slow = || format!("it did not go on with its start for {START_LIMIT:?}");
        if let Some(worker) = self.worker.take_if(|worker| worker.hangs_at_start(steps, now)) {
            self.kill(&worker, now);
            self.failed(too_slow(), now);
        }
        if self.candidate.as_mut().is_some_and(|candidate| candidate.hangs_at_start(steps, now)) {
            self.drop_candidate(now);
            self.upgraded(Err(too_slow()));
        }
        if std::mem::take(&mut self.upgrade_waits) {
            self.upgrade(now);
        }
        if self.worker.is_none() && now >= self.pace.not_before() {
            self.start_worker(now);
        }
        self.see_to_readers(now);
    }

    fn start_worker(&mut self, now: Duration) {
        if self.connection_is_lost {
            return self.act(Action::Remount);
        }
        if self.has_room() {
            self.worker = Some(self.start(Role::Worker, now));
        } else {
            self.unserved.why = String::from("workers that were killed have not ended");
        }
    }

    /// While nobody serves: sees to it that no reader waits beyond its deadline.
    fn see_to_readers(&mut self, now: Duration) {
        let Some(begins) = self.stand_in_at() else { return };
        if self.unserved.is_stood_in_for {
            return;
        }
        self.act(Action::AnswerOverdue);
        if now >= begins {
            self.unserved.is_stood_in_for = true;
            self.act(Action::StandIn { why: self.unserved.why.clone() });
        }
    }

    /// When the supervisor must begin to stand in (boot clock).
    fn stand_in_at(&self) -> Option<Duration> {
        if self.connection_is_lost || !self.is_mounted {
            return None;
        }
        let next_start = self.worker.is_none().then(|| self.pace.not_before());
        self.unserved.stand_in_at(self.open_timeout, next_start)
    }

    fn judge(&mut self, health: Health, now: Duration) {
        match health {
            Health::Fine => {}
            Health::Idle => self.act(Action::ForgetProgram),
            Health::Unsure => self.act(Action::Ping),
            Health::Stuck => {
                self.act(Action::Tell(News::Stuck));
                self.act(Action::Charge);
                if let Some(worker) = self.worker.take() {
                    self.kill(&worker, now);
                }
                self.nobody_serves(now);
            }
        }
    }

    // === the worker ===

    fn worker_is_ready(&mut self, worker: Id, init: &Init) {
        let is_first = !std::mem::replace(&mut self.has_served, true);
        match init {
            Init::First => {
                self.is_mounted = true;
                self.act(Action::Mount(worker));
            }
            Init::Same => {}
            // The same program cannot answer otherwise. Its end is heard of later.
            Init::Other | Init::Missing(_) => return self.act(Action::Kill(worker)),
        }
        self.go(worker);
        if is_first {
            self.act(Action::Announce);
        }
    }

    fn go(&mut self, worker: Id) {
        self.act(Action::Go(worker));
        if self.unserved.end() {
            self.act(Action::ServesAgain);
        }
    }

    fn closed(&mut self, id: Id, ending: Option<Ending>, now: Duration) {
        let is_known = ending.is_some();
        let how = ending.as_ref().map_or("killed", |ending| ending.how.as_str()).to_owned();
        if let Some(worker) = self.worker.take_if(|worker| worker.id == id) {
            self.dying.add(id, now);
            match worker.serving() {
                None => self.failed(how, now),
                Some(since) if ending.is_some_and(|ending| ending.is_crash) => {
                    let is_in_probation = now < since.saturating_add(PROBATION);
                    self.crash = Some(Crash { how, is_in_probation });
                    self.act(Action::Charge);
                }
                Some(_) => self.worker_died(how, false, now),
            }
        } else if self.candidate.take_if(|candidate| candidate.id == id).is_some() {
            self.dying.add(id, now);
            let why = format!("it ended before it was ready ({how}); its log says why");
            self.upgraded(Err(why));
        }
        self.dying.closed(id);
        if is_known {
            self.dying.ended(id);
        }
    }

    fn worker_died(&mut self, how: String, is_failure: bool, now: Duration) {
        if is_failure {
            return self.failed(how, now);
        }
        self.act(Action::Tell(News::Died { how }));
        self.pace.served();
        self.nobody_serves(now);
    }

    /// A worker did not come up. It is tried again for ever, unless none ever did.
    fn failed(&mut self, how: String, now: Duration) {
        let failures = self.pace.failed(now);
        if !self.has_served && failures >= MOST_FAILURES {
            return self.give_up(GiveUp::Fails { last: how });
        }
        let pause = self.pace.not_before().saturating_sub(now);
        self.act(Action::Tell(News::Failed { failures, how: how.clone(), pause }));
        self.nobody_serves(now);
        self.unserved.why = how;
    }

    fn nobody_serves(&mut self, now: Duration) {
        if self.has_served {
            self.unserved.begin(now);
        }
    }

    // === the upgrade ===

    fn upgrade(&mut self, now: Duration) {
        if self.has_room() {
            self.candidate = Some(self.start(Role::Candidate, now));
        } else {
            let why =
                "an earlier worker was killed and has not ended; there are never more than two";
            self.upgraded(Err(why.to_owned()));
        }
    }

    fn candidate_is_ready(&mut self, init: Init, now: Duration) {
        let why = match init {
            Init::Same => {
                if let Some(old) = self.worker.take() {
                    self.kill(&old, now);
                }
                self.worker = self.candidate.take();
                if let Some(new) = self.worker() {
                    self.go(new);
                    self.act(Action::Adopt(new));
                }
                return self.upgraded(Ok(()));
            }
            Init::First | Init::Other => {
                "it answers the kernel in another way, so only a restart can bring it".to_owned()
            }
            Init::Missing(error) => format!("it does not answer INIT: {error}"),
        };
        self.drop_candidate(now);
        self.upgraded(Err(why));
    }

    fn drop_candidate(&mut self, now: Duration) {
        if let Some(candidate) = self.candidate.take() {
            self.kill(&candidate, now);
        }
    }

    fn upgraded(&mut self, outcome: Result<(), String>) {
        self.act(Action::NoteUpgrade(outcome));
    }

    // === the connection ===

    fn renewed(&mut self, outcome: Result<Renewal, String>, is_lost: bool, now: Duration) {
        self.connection_is_lost |= is_lost;
        if !self.connection_is_lost {
            let why = outcome.err().unwrap_or_default();
            return self.act(Action::Tell(News::MountStays { why }));
        }
        self.nobody_serves(now);
        if self.candidate.is_some() {
            self.drop_candidate(now);
            self.upgraded(Err("the mount had to be made anew meanwhile".to_owned()));
        }
        if let Some(worker) = self.worker.take() {
            self.kill(&worker, now);
        }
        match outcome {
            Ok(renewal) => {
                self.is_mounted = renewal == Renewal::Visible;
                self.connection_is_lost = false;
                // On the new one nothing has come yet.
                self.unserved.is_stood_in_for = false;
                // Now that none of them writes there any more.
                self.act(Action::NoteRemount);
            }
            Err(why) => self.failed(format!("the mount cannot be made anew: {why}"), now),
        }
    }

    // === all of them ===

    /// Whether another worker may be started.
    fn has_room(&self) -> bool {
        let alive = self.worker.iter().chain(&self.candidate).count();
        alive + self.dying.number() < MOST_WORKERS
    }

    fn start(&mut self, role: Role, now: Duration) -> Life {
        self.started += 1;
        let id = Id(self.started);
        self.act(Action::Start { worker: id, role });
        Life { id, stage: Stage::Starting { steps: 0, went_on: now } }
    }

    fn stage_of(&mut self, id: Id) -> Option<&mut Stage> {
        let mut all = self.worker.iter_mut().chain(&mut self.candidate);
        all.find(|life| life.id == id).map(|life| &mut life.stage)
    }

    /// Kills a worker. It gets no more time than a moment: in a system call that no signal interrupts it
    /// would keep everybody waiting.
    fn kill(&mut self, life: &Life, now: Duration) {
        self.dying.add(life.id, now);
        for action in [Action::Kill(life.id), Action::AnswerOverdue, Action::Await(life.id)] {
            self.act(action);
        }
    }

    /// Adds an action; after the end there is none.
    fn act(&mut self, action: Action) {
        if !self.is_over {
            self.actions.push(action);
        }
    }

    fn stop(&mut self, end: End) {
        self.act(Action::Stopping);
        if let Some(worker) = self.worker() {
            self.act(Action::AskToStop(worker));
        }
        self.act(Action::End(end));
        self.is_over = true;
    }

    fn give_up(&mut self, why: GiveUp) {
        self.act(Action::GiveUp(why));
        self.is_over = true;
    }
}
