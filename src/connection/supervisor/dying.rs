//! Workers that were killed and have not ended: each sits in a system call that no signal interrupts.

use std::os::fd::{AsFd, BorrowedFd};
use std::process::Child;
use std::time::Duration;

use super::process::Worker;

/// The longest that a worker may take to end once it was killed.
const END_LIMIT: Duration = Duration::from_secs(3);
/// Between two looks at one that has closed everything and has no exit status yet.
const LOOK: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Default)]
pub(super) struct Dying(Vec<One>);

struct One {
    worker: Worker,
    killed: Duration,
    /// It has nothing open any more, and its exit status is all that is missing.
    closed: bool,
    /// [`Dying::is_late`] has told of it.
    told: bool,
}

impl Dying {
    /// A worker that was killed at `now` (boot clock).
    pub(super) fn add(&mut self, worker: Worker, now: Duration) {
        self.0.push(One { worker, killed: now, closed: false, told: false });
    }

    /// Forgets those that have ended.
    pub(super) fn reap(&mut self) {
        self.0.retain_mut(|one| {
            one.closed |= one.worker.has_closed();
            one.worker.ended().is_none()
        });
    }

    /// How many still have the connection open.
    pub(super) fn number(&self) -> usize {
        self.0.iter().filter(|one| !one.closed).count()
    }

    /// Whether one has not ended in time; each is told of once.
    pub(super) fn is_late(&mut self, now: Duration) -> bool {
        let late = |one: &&mut One| !one.closed && !one.told && now >= one.end();
        self.0.iter_mut().filter(late).map(|one| one.told = true).count() > 0
    }

    /// When to look at them next (boot clock), if nothing happens before.
    pub(super) fn next_look(&self, now: Duration) -> Option<Duration> {
        let look = |one: &One| match one {
            One { closed: true, .. } => Some(now.saturating_add(LOOK)),
            One { told: true, .. } => None,
            one => Some(one.end()),
        };
        self.0.iter().filter_map(look).min()
    }

    /// What is closed by their ends.
    pub(super) fn channels(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().filter(|one| !one.closed).map(|one| one.worker.channel.as_fd())
    }

    /// Their processes.
    pub(super) fn children(&mut self) -> impl Iterator<Item = &mut Child> {
        self.0.iter_mut().map(|one| &mut one.worker.child)
    }

    /// Waits for the end of each for a limited time. Whether all have ended.
    pub(super) fn wait(&mut self, limit: Duration) -> bool {
        self.0.retain_mut(|one| one.worker.wait(limit).is_none());
        self.number() == 0
    }
}

impl One {
    fn end(&self) -> Duration {
        self.killed.saturating_add(END_LIMIT)
    }
}
