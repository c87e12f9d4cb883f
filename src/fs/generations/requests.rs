//! Which requests are taken, wait and die, and faults on demand, in the shared state.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{State, nanos};
use crate::fs::fault;
use crate::fs::journal::Left;

impl State {
    /// A request was taken from the kernel.
    pub fn enter(&self) {
        self.shared().seen.fetch_add(1, Ordering::AcqRel);
    }

    /// A request is done with.
    pub fn leave(&self) {
        self.shared().done.fetch_add(1, Ordering::AcqRel);
    }

    /// Requests that were ever taken, and those that are not done with.
    #[must_use]
    pub fn requests(&self) -> (u64, u64) {
        let done = self.shared().done.load(Ordering::Acquire);
        let seen = self.shared().seen.load(Ordering::Acquire);
        (seen, seen.saturating_sub(done))
    }

    /// A worker that does not answer yet goes on: it has done one more step of its start, or of taking
    /// over what a dead one left.
    pub fn step(&self) {
        self.shared().steps.fetch_add(1, Ordering::AcqRel);
        self.pass(fault::STEP);
    }

    /// The steps so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.shared().steps.load(Ordering::Acquire)
    }

    /// An open that waits was looked at.
    pub(crate) fn look(&self) {
        self.shared().looks.fetch_add(1, Ordering::AcqRel);
    }

    /// The looks so far.
    #[must_use]
    pub fn looks(&self) -> u64 {
        self.shared().looks.load(Ordering::Acquire)
    }

    /// The opens that have waited for a time in this range, by the numbers of their requests.
    pub fn waited(&self, for_time: Range<Duration>, now: Duration) -> impl Iterator<Item = u64> {
        let since = now.saturating_sub(for_time.end)..now.saturating_sub(for_time.start);
        self.shared().journal.waiting_since(&self.shared().waits, since)
    }

    /// Forgets requests that died with an earlier process. `again` is whether the kernel delivers them
    /// again by itself.
    pub fn forget_requests(&self, again: bool) {
        let seen = self.shared().seen.load(Ordering::Acquire);
        self.shared().done.store(seen, Ordering::Release);
        if again {
            self.shared().journal.forget();
        }
    }

    /// A request that a dead worker left is kept until it is [answered](Self::answered).
    pub fn keep(&self, left: &Left, now: Duration) {
        self.shared().journal.keep(&self.shared().waits, left, now);
    }

    /// A request was answered by another way than its reply: by the supervisor in a worker's place, or with
    /// an answer that was passed on.
    pub fn answered(&self, unique: u64) {
        self.shared().journal.leave(unique, true);
    }

    /// The connection has ended, and the next one counts its requests anew. To be called while no
    /// worker serves.
    pub fn forget_connection(&self) {
        self.forget_requests(true);
        self.shared().journal.clear();
        self.shared().marks.clear();
        self.spare_until(Duration::ZERO);
    }

    /// What an earlier worker left: the newest request of all, the one in hand, the opens that wait.
    #[must_use]
    pub fn requests_left(&self) -> (u64, Option<Left>, Vec<Left>) {
        self.shared().journal.left()
    }

    /// Until then (boot clock) no open is answered ESTALE: the worker that died may have read a request
    /// that nobody knows of, so any reader may already be on its second path walk.
    pub fn spare_until(&self, end: Duration) {
        self.shared().spare_until.store(nanos(end), Ordering::Release);
    }

    /// Whether an open must not be answered ESTALE now.
    pub(in crate::fs) fn is_spared(&self, now: Duration) -> bool {
        nanos(now) < self.shared().spare_until.load(Ordering::Acquire)
    }

    /// A worker crashed or hung: what it had in hand is to blame. Whether it had anything in hand.
    pub fn charge_requests(&self) -> bool {
        self.shared().journal.charge()
    }

    /// Breaks this process at a certain place.
    #[cfg(feature = "testing")]
    pub fn break_at(&self, fault: fault::Fault) {
        self.fault.set(fault).ok();
    }

    /// A place where a fault may have been asked for.
    pub fn pass(&self, place: &str) {
        self.pass_handler(place, false);
    }

    /// The beginning of a handler, or the moment when its answer was written.
    #[cfg(feature = "testing")]
    pub(in crate::fs) fn pass_handler(&self, handler: &str, after: bool) {
        if let Some(fault) = self.fault.get()
            && fault.is_at(handler, after)
        {
            fault.pass(self.shared().passes.fetch_add(1, Ordering::AcqRel) + 1);
        }
    }

    /// Nothing happens there: this build knows no faults on demand.
    #[cfg(not(feature = "testing"))]
    #[expect(clippy::unused_self, reason = "as in a build for tests")]
    pub(in crate::fs) fn pass_handler(&self, _handler: &str, _after: bool) {}
}
