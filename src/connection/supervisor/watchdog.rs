//! Finds a worker that lives but does not answer, without waking up while nobody asks anything.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::fs::generations::State;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// An open that waits this much longer than it may hangs with its worker.
const GRACE: Duration = Duration::from_secs(1);
/// What seems to wait longer than that beyond its time was given up by its reader meanwhile.
const MEMORY: Duration = Duration::from_secs(10);

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    /// It answers, or there is nothing to answer.
    Fine,
    /// It has not taken a request for a while: ask it one, and look again.
    Unsure,
    /// It did not even take that one.
    Stuck,
}

/// See the module. Idle until the device becomes readable; then it looks once a second, until
/// nothing but its own question was seen between two looks.
///
/// It goes by progress and never by the clock alone, so that a worker for which every system call is
/// slow is left to its work.
#[derive(Debug)]
pub(super) struct Watchdog {
    open_timeout: Duration,
    look_at: Option<Duration>,
    /// What the last look found: requests taken, steps of a take-over, looks at opens that wait.
    taken: u64,
    steps: u64,
    looks: u64,
    asked: bool,
    /// An open was overdue at the last look.
    overdue: bool,
}

impl Watchdog {
    pub(super) fn new(open_timeout: Duration) -> Self {
        let (taken, steps, looks) = (0, 0, 0);
        Self { open_timeout, look_at: None, taken, steps, looks, asked: false, overdue: false }
    }

    /// Whether the device should be polled: its becoming readable starts the looks.
    pub(super) fn is_idle(&self) -> bool {
        self.look_at.is_none()
    }

    /// When to look next (boot clock).
    pub(super) fn next_look(&self) -> Option<Duration> {
        self.look_at
    }

    /// A new worker has everything before it: the requests that are delivered again.
    pub(super) fn worker_started(&mut self, state: &State, now: Duration) {
        *self = Self {
            look_at: Some(now.saturating_add(INTERVAL)),
            taken: state.requests().0,
            steps: state.steps(),
            looks: state.looks(),
            ..Self::new(self.open_timeout)
        };
    }

    /// For how long an open has waited that should have been answered.
    pub(super) fn overdue(&self) -> Range<Duration> {
        let overdue = self.open_timeout.saturating_add(GRACE);
        overdue..overdue.saturating_add(MEMORY)
    }

    pub(super) fn look(
        &mut self,
        state: &State,
        device: &OwnedFd,
        became_readable: bool,
        now: Duration,
    ) -> Health {
        let (taken, pending) = state.requests();
        let Some(look_at) = self.look_at else {
            if became_readable {
                (self.taken, self.asked, self.overdue) = (taken, false, false);
                self.look_at = Some(now.saturating_add(INTERVAL));
            }
            return Health::Fine;
        };
        if now < look_at {
            return Health::Fine;
        }
        self.look_at = Some(now.saturating_add(INTERVAL));
        let taken_since = taken.wrapping_sub(std::mem::replace(&mut self.taken, taken));
        let steps = state.steps();
        let stepped = std::mem::replace(&mut self.steps, steps) != steps;
        let looks = state.looks();
        let looked = std::mem::replace(&mut self.looks, looks) != looks;
        let is_overdue = state.waited(self.overdue(), now).next().is_some();
        let was_overdue = std::mem::replace(&mut self.overdue, is_overdue);
        let was_asked = std::mem::take(&mut self.asked);
        match (taken_since, was_asked) {
            _ if is_overdue && was_overdue && !looked && !stepped => Health::Stuck,
            (0, true) if !stepped => Health::Stuck,
            // Only the question was seen, and it is answered: nobody asks anything any more.
            (1, true) if pending == 0 && !is_readable(device) => {
                self.look_at = None;
                Health::Fine
            }
            (0, false) => {
                self.asked = true;
                Health::Unsure
            }
            // The question was not taken yet.
            (0, true) => {
                self.asked = true;
                Health::Fine
            }
            _ => Health::Fine,
        }
    }
}

fn is_readable(device: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(device, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A device that is never readable.
    fn quiet() -> (OwnedFd, OwnedFd) {
        crate::connection::handover::packets().unwrap()
    }

    fn looks(
        watchdog: &mut Watchdog,
        state: &State,
        device: &OwnedFd,
        from: u32,
        to: u32,
    ) -> Vec<Health> {
        (from..=to).map(|n| watchdog.look(state, device, false, SECOND * n + SECOND / 10)).collect()
    }

    #[test]
    fn a_worker_that_takes_requests_is_left_alone_and_the_looks_end() {
        let (state, (device, _other)) = (State::create().unwrap(), quiet());
        let mut watchdog = Watchdog::new(SECOND * 5);
        assert!(watchdog.is_idle());
        assert_eq!(watchdog.look(&state, &device, true, SECOND), Health::Fine);
        state.enter();
        state.leave();
        assert_eq!(looks(&mut watchdog, &state, &device, 2, 3), [Health::Fine, Health::Unsure]);
        state.enter();
        state.leave();
        assert_eq!(looks(&mut watchdog, &state, &device, 4, 4), [Health::Fine]);
        assert!(watchdog.is_idle(), "nothing but its own question was seen");
    }

    #[test]
    fn a_worker_that_takes_nothing_is_stuck_after_being_asked() {
        let (state, (device, _other)) = (State::create().unwrap(), quiet());
        let mut watchdog = Watchdog::new(SECOND * 5);
        watchdog.worker_started(&state, SECOND);
        let found = looks(&mut watchdog, &state, &device, 2, 3);
        assert_eq!(found, [Health::Unsure, Health::Stuck]);
    }

    #[test]
    fn opens_that_may_wait_are_no_alarm_and_one_that_waits_too_long_is() {
        let (state, (device, _other)) = (State::create().unwrap(), quiet());
        let mut watchdog = Watchdog::new(SECOND * 5);
        watchdog.worker_started(&state, SECOND);
        state.enter();
        state.wait_since(8, SECOND);
        let mut look = |n: u32| {
            state.enter();
            state.leave();
            watchdog.look(&state, &device, false, SECOND * n + SECOND / 10)
        };
        for n in 2..=7 {
            assert_ne!(look(n), Health::Stuck, "after {n} s");
        }
        // Opens are answered one by one, and this one's turn will come.
        for n in 8..=10 {
            state.look();
            assert_ne!(look(n), Health::Stuck, "after {n} s");
        }
        assert_eq!(look(11), Health::Stuck, "other requests are taken, but no open is answered");
    }

    #[test]
    fn a_worker_that_takes_over_slowly_is_left_to_it_until_it_stops() {
        let (state, (device, _other)) = (State::create().unwrap(), quiet());
        let mut watchdog = Watchdog::new(SECOND * 5);
        watchdog.worker_started(&state, SECOND);
        // An open from before that is overdue already.
        state.wait_since(8, SECOND);
        for n in 2..=15 {
            state.step();
            let health = watchdog.look(&state, &device, false, SECOND * n + SECOND / 10);
            assert_ne!(health, Health::Stuck, "after {n} s");
        }
        assert_eq!(looks(&mut watchdog, &state, &device, 16, 16), [Health::Stuck]);
    }
}
