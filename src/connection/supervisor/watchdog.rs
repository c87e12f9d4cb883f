//! Finds a worker that lives but does not answer, without waking up while nobody asks anything.

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
#[derive(Debug)]
pub(super) struct Watchdog {
    open_timeout: Duration,
    look_at: Option<Duration>,
    seen: u64,
    asked: bool,
}

impl Watchdog {
    pub(super) fn new(open_timeout: Duration) -> Self {
        Self { open_timeout, look_at: None, seen: 0, asked: false }
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
    pub(super) fn worker_started(&mut self, now: Duration) {
        *self =
            Self { look_at: Some(now.saturating_add(INTERVAL)), ..Self::new(self.open_timeout) };
    }

    pub(super) fn look(
        &mut self,
        state: &State,
        device: &OwnedFd,
        became_readable: bool,
        now: Duration,
    ) -> Health {
        let (seen, pending) = state.requests();
        let Some(look_at) = self.look_at else {
            if became_readable {
                (self.seen, self.asked) = (seen, false);
                self.look_at = Some(now.saturating_add(INTERVAL));
            }
            return Health::Fine;
        };
        if now < look_at {
            return Health::Fine;
        }
        self.look_at = Some(now.saturating_add(INTERVAL));
        let overdue = self.open_timeout.saturating_add(GRACE);
        if state.waited(overdue..overdue.saturating_add(MEMORY), now).next().is_some() {
            return Health::Stuck;
        }
        let moved = seen.wrapping_sub(self.seen);
        self.seen = seen;
        let was_asked = std::mem::take(&mut self.asked);
        match (moved, was_asked) {
            (0, true) => Health::Stuck,
            // Only the question was seen, and it is answered: nobody asks anything any more.
            (1, true) if pending == 0 && !is_readable(device) => {
                self.look_at = None;
                Health::Fine
            }
            (0, false) => {
                self.asked = true;
                Health::Unsure
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
        let (state, (device, _other)) = (State::create(vec![], vec![]).unwrap(), quiet());
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
        let (state, (device, _other)) = (State::create(vec![], vec![]).unwrap(), quiet());
        let mut watchdog = Watchdog::new(SECOND * 5);
        watchdog.worker_started(SECOND);
        let found = looks(&mut watchdog, &state, &device, 2, 3);
        assert_eq!(found, [Health::Unsure, Health::Stuck]);
    }

    #[test]
    fn opens_that_may_wait_are_no_alarm_and_one_that_waits_too_long_is() {
        let (state, (device, _other)) = (State::create(vec![], vec![]).unwrap(), quiet());
        let mut watchdog = Watchdog::new(SECOND * 5);
        watchdog.worker_started(SECOND);
        state.enter();
        state.wait_since(8, SECOND);
        for n in 2..=6 {
            let health = watchdog.look(&state, &device, false, SECOND * n + SECOND / 10);
            assert_ne!(health, Health::Stuck, "after {n} s");
            state.enter();
            state.leave();
        }
        let health = watchdog.look(&state, &device, false, SECOND * 8);
        assert_eq!(health, Health::Stuck);
    }
}
