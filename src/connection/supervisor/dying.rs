//! Workers that were killed and have not ended: each sits in a system call that no signal interrupts.

use std::time::Duration;

use super::event::Id;

/// The longest that a worker may take to end once it was killed.
const END_LIMIT: Duration = Duration::from_secs(3);
/// Between two looks at one that has closed everything and has no exit status yet.
const LOOK: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Dying(Vec<One>);

#[derive(Debug)]
struct One {
    id: Id,
    killed: Duration,
    /// It has nothing open any more, and its exit status is all that is missing.
    closed: bool,
    /// [`Dying::is_late`] has told of it.
    told: bool,
}

impl Dying {
    /// A worker that was killed at `now` (boot clock).
    pub(super) fn add(&mut self, id: Id, now: Duration) {
        self.0.push(One { id, killed: now, closed: false, told: false });
    }

    /// One has nothing open any more.
    pub(super) fn closed(&mut self, id: Id) {
        self.0.iter_mut().filter(|one| one.id == id).for_each(|one| one.closed = true);
    }

    /// One has ended.
    pub(super) fn ended(&mut self, id: Id) {
        self.0.retain(|one| one.id != id);
    }

    /// How many still have the connection open.
    pub(super) fn number(&self) -> usize {
        self.open().count()
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

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = Id> {
        self.0.iter().map(|one| one.id)
    }

    /// Those that still have the connection open.
    pub(super) fn open(&self) -> impl Iterator<Item = Id> {
        self.0.iter().filter(|one| !one.closed).map(|one| one.id)
    }
}

impl One {
    fn end(&self) -> Duration {
        self.killed.saturating_add(END_LIMIT)
    }
}
