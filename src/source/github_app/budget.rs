//! How many tokens an App mints: GitHub limits it for all of them together, so they share what is left.
//! What exceeds it waits for its turn: tokens that readers wait for go first, those of timers last.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::time::Clock;

/// What the budget counts over.
const WINDOW: Duration = Duration::from_mins(1);

/// What one App may still ask for.
#[derive(Debug, Default)]
pub(super) struct Budget {
    queue: Mutex<MintQueue>,
    /// The order of those that wait may be another one.
    changed: Notify,
}

/// Whose turn it is to mint, as rules without a clock.
#[derive(Debug, Default)]
pub struct MintQueue {
    /// When tokens were minted in the last minute (boot clock).
    mints: VecDeque<Duration>,
    /// GitHub wants to be left alone until then (boot clock).
    not_before: Duration,
    /// Those that wait, the earliest first.
    waiting: Vec<(u64, Awaited)>,
    /// How many have waited.
    tickets: u64,
}

/// Whether a reader waits for the token that is to be minted.
pub type Awaited = Arc<AtomicBool>;

/// Why a token cannot be minted now, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotNow {
    /// GitHub asked the App to wait.
    Asked(Duration),
    /// The budget is used up.
    UsedUp(Duration),
}

/// A place among those that wait, given up when it is dropped.
struct Ticket<'a> {
    budget: &'a Budget,
    number: u64,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.budget.queue().leave(self.number);
        self.budget.changed.notify_waiters();
    }
}

impl Budget {
    fn queue(&self) -> MutexGuard<'_, MintQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn to mint one more, of `most` a minute.
    ///
    /// # Errors
    /// [`NotNow`] where it would not come by the `deadline` (boot clock), or GitHub asked the App to wait.
    pub(super) async fn turn(
        &self,
        most: usize,
        awaited: &Awaited,
        deadline: Duration,
        clock: &dyn Clock,
    ) -> Result<(), NotNow> {
        let number = self.queue().enter(awaited);
        let ticket = Ticket { budget: self, number };
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let now = clock.now().boot;
            let outcome = self.queue().take(ticket.number, most, now);
            match outcome {
                Err(NotNow::UsedUp(wait)) if now.saturating_add(wait) <= deadline => {
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = changed => {}
                    }
                }
                // Those that go before it may give up.
                Err(NotNow::UsedUp(wait)) => return Err(NotNow::UsedUp(wait.min(WINDOW))),
                outcome => return outcome,
            }
        }
    }

    /// A reader waits from now on for one that is in the queue.
    pub(super) fn hurry(&self, awaited: &Awaited) {
        if !awaited.swap(true, Ordering::Relaxed) {
            self.changed.notify_waiters();
        }
    }

    /// GitHub asked one of the App's tokens to wait; that holds for all.
    pub(super) fn leave_alone(&self, until: Duration) {
        self.queue().leave_alone(until);
        self.changed.notify_waiters();
    }

    /// Whether GitHub may be asked anything at all.
    ///
    /// # Errors
    /// [`NotNow::Asked`].
    pub(super) fn may_ask(&self, now: Duration) -> Result<(), NotNow> {
        self.queue().may_ask(now)
    }
}

impl MintQueue {
    /// A place at the end of the queue, to be given up with [`MintQueue::leave`].
    pub fn enter(&mut self, awaited: &Awaited) -> u64 {
        self.tickets += 1;
        self.waiting.push((self.tickets, Arc::clone(awaited)));
        self.tickets
    }

    /// Gives a place up, with or without a turn.
    pub fn leave(&mut self, ticket: u64) {
        self.waiting.retain(|(number, _)| *number != ticket);
    }

    /// GitHub wants the App to ask for nothing until then (boot clock).
    pub fn leave_alone(&mut self, until: Duration) {
        self.not_before = self.not_before.max(until);
    }

    fn may_ask(&self, now: Duration) -> Result<(), NotNow> {
        match self.not_before.saturating_sub(now) {
            Duration::ZERO => Ok(()),
            wait => Err(NotNow::Asked(wait)),
        }
    }

    /// Takes the turn of a ticket, of `most` a minute, if it has come.
    ///
    /// # Errors
    /// [`NotNow`], and when it would come.
    pub fn take(&mut self, ticket: u64, most: usize, now: Duration) -> Result<(), NotNow> {
        self.may_ask(now)?;
        let most = most.max(1);
        while self.mints.front().is_some_and(|at| now.saturating_sub(*at) >= WINDOW) {
            self.mints.pop_front();
        }
        // Whoever goes before it takes what is left first, and what is freed then.
        let taken = self.mints.len() + self.ahead(ticket);
        let Some(over) = taken.checked_sub(most) else {
            self.mints.push_back(now);
            return Ok(());
        };
        let rounds = u32::try_from(over / most).unwrap_or(u32::MAX).saturating_add(1);
        let frees = self.mints.get(over % most).copied().unwrap_or(now);
        Err(NotNow::UsedUp(frees.saturating_add(WINDOW.saturating_mul(rounds)).saturating_sub(now)))
    }

    /// How many of those that wait go before this one.
    fn ahead(&self, ticket: u64) -> usize {
        let rank = |(number, awaited): &(u64, Awaited)| (!awaited.load(Ordering::Relaxed), *number);
        let own = self.waiting.iter().find(|it| it.0 == ticket).map(rank);
        self.waiting.iter().filter(|it| own.is_some_and(|own| rank(it) < own)).count()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::time::Now;

    const SECOND: Duration = Duration::from_secs(1);

    /// Tokio's clock, which a test stops.
    pub(in super::super) struct Stopped(pub(in super::super) tokio::time::Instant);

    impl Clock for Stopped {
        fn now(&self) -> Now {
            Now::default().plus(SECOND * 100).plus(self.0.elapsed())
        }
    }

    struct Scene {
        budget: Arc<Budget>,
        clock: Arc<Stopped>,
    }

    impl Scene {
        fn new() -> Self {
            let clock = Arc::new(Stopped(tokio::time::Instant::now()));
            Self { budget: Arc::default(), clock }
        }

        /// Seconds since the start, in which the turn came.
        fn ask(
            &self,
            most: usize,
            awaited: &Awaited,
        ) -> tokio::task::JoinHandle<Result<u64, NotNow>> {
            let (budget, clock, awaited) =
                (Arc::clone(&self.budget), Arc::clone(&self.clock), Arc::clone(awaited));
            tokio::spawn(async move {
                let deadline = clock.now().boot + SECOND * 200;
                budget.turn(most, &awaited, deadline, &*clock).await?;
                Ok(clock.0.elapsed().as_secs())
            })
        }
    }

    fn timer() -> Awaited {
        Awaited::default()
    }

    fn reader() -> Awaited {
        Arc::new(AtomicBool::new(true))
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_mints_no_more_than_its_budget_in_any_minute() {
        let scene = Scene::new();
        let mut turns = Vec::new();
        for _ in 0..5 {
            turns.push(scene.ask(2, &timer()));
            tokio::time::sleep(SECOND * 10).await;
        }
        let mut came = Vec::new();
        for turn in turns {
            came.push(turn.await.unwrap().unwrap());
        }
        assert_eq!(came, [0, 10, 60, 70, 120]);
    }

    #[tokio::test(start_paused = true)]
    async fn readers_that_wait_go_first_and_timers_last() {
        let scene = Scene::new();
        scene.ask(1, &timer()).await.unwrap().unwrap();
        let hurried = timer();
        let (first, second) = (scene.ask(1, &timer()), scene.ask(1, &hurried));
        tokio::time::sleep(SECOND).await;
        let third = scene.ask(1, &reader());
        tokio::time::sleep(SECOND).await;
        scene.budget.hurry(&hurried);
        // The one that came second is waited for as well now, and came earlier than the third.
        assert_eq!(second.await.unwrap(), Ok(60));
        assert_eq!(third.await.unwrap(), Ok(120));
        assert_eq!(first.await.unwrap(), Ok(180));
        let (gone, next) = (scene.ask(1, &reader()), scene.ask(1, &timer()));
        tokio::time::sleep(SECOND).await;
        gone.abort();
        assert_eq!(next.await.unwrap(), Ok(240), "who gave up is not waited for");
    }

    #[tokio::test(start_paused = true)]
    async fn whose_turn_would_come_too_late_is_told_at_once() {
        let scene = Scene::new();
        let (budget, clock) = (&scene.budget, &*scene.clock);
        let start = clock.now().boot;
        assert_eq!(budget.turn(1, &timer(), start, clock).await, Ok(()));
        let told = budget.turn(1, &timer(), start + SECOND * 59, clock).await;
        assert_eq!((told, clock.0.elapsed()), (Err(NotNow::UsedUp(SECOND * 60)), Duration::ZERO));
        assert_eq!(budget.turn(2, &timer(), start, clock).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wish_of_githubs_holds_for_all_tokens_of_the_app() {
        let scene = Scene::new();
        scene.ask(1, &timer()).await.unwrap().unwrap();
        let waits = scene.ask(1, &reader());
        tokio::time::sleep(SECOND).await;
        let now = scene.clock.now().boot;
        scene.budget.leave_alone(now + SECOND * 20);
        scene.budget.leave_alone(now + SECOND * 10);
        assert_eq!(waits.await.unwrap(), Err(NotNow::Asked(SECOND * 20)));
        assert_eq!(scene.budget.may_ask(now + SECOND), Err(NotNow::Asked(SECOND * 19)));
        assert_eq!(scene.budget.may_ask(now + SECOND * 20), Ok(()));
    }
}
