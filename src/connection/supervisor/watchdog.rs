//! Finds a worker that lives but does not answer, without waking up while nobody asks anything.

use std::ops::Range;
use std::time::Duration;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// An open that waits this much longer than it may hangs with its worker.
const GRACE: Duration = Duration::from_secs(1);
/// What seems to wait longer than that beyond its time was given up by its reader meanwhile.
const MEMORY: Duration = Duration::from_secs(10);

/// The signs of life of a worker: counts that only grow, and what waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Signs {
    /// Requests that were ever taken, and those that are not done with.
    pub(super) taken: u64,
    pub(super) pending: u64,
    /// Steps of a start or of a take-over.
    pub(super) steps: u64,
    /// Looks at opens that wait.
    pub(super) looks: u64,
    /// An open waits that should have been answered; see [`Watchdog::overdue`].
    pub(super) is_overdue: bool,
    /// A request has come that was not taken.
    pub(super) is_readable: bool,
}

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    /// It answers, or there is nothing to answer.
    Fine,
    /// Nobody asks anything any more: the looks end.
    Idle,
    /// It has not taken a request for a while: ask it one, and look again.
    Unsure,
    /// It did not even take that one.
    Stuck,
}

/// See the module. Idle until a request comes; then it looks once a second, until nothing but its own
/// question was seen between two looks.
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

    /// Whether it must be told of the next request, which starts the looks.
    pub(super) fn is_idle(&self) -> bool {
        self.look_at.is_none()
    }

    /// When to look next (boot clock).
    pub(super) fn next_look(&self) -> Option<Duration> {
        self.look_at
    }

    /// A new worker has everything before it: the requests that are delivered again.
    pub(super) fn worker_started(&mut self, signs: &Signs, now: Duration) {
        *self = Self {
            look_at: Some(now.saturating_add(INTERVAL)),
            taken: signs.taken,
            steps: signs.steps,
            looks: signs.looks,
            ..Self::new(self.open_timeout)
        };
    }

    /// A request has come; so many were taken before.
    pub(super) fn requested(&mut self, taken: u64, now: Duration) {
        if self.is_idle() {
            (self.taken, self.asked, self.overdue) = (taken, false, false);
            self.look_at = Some(now.saturating_add(INTERVAL));
        }
    }

    /// For how long an open has waited that should have been answered.
    pub(super) fn overdue(&self) -> Range<Duration> {
        let overdue = self.open_timeout.saturating_add(GRACE);
        overdue..overdue.saturating_add(MEMORY)
    }

    /// Judges what a look found at `now`; see [`Watchdog::next_look`].
    pub(super) fn look(&mut self, signs: &Signs, now: Duration) -> Health {
        let Signs { taken, pending, steps, looks, is_overdue, is_readable } = *signs;
        self.look_at = Some(now.saturating_add(INTERVAL));
        let taken_since = taken.wrapping_sub(std::mem::replace(&mut self.taken, taken));
        let stepped = std::mem::replace(&mut self.steps, steps) != steps;
        let looked = std::mem::replace(&mut self.looks, looks) != looks;
        let was_overdue = std::mem::replace(&mut self.overdue, is_overdue);
        let was_asked = std::mem::take(&mut self.asked);
        match (taken_since, was_asked) {
            _ if is_overdue && was_overdue && !looked && !stepped => Health::Stuck,
            (0, true) if !stepped => Health::Stuck,
            // Only the question was seen, and it is answered: nobody asks anything any more.
            (1, true) if pending == 0 && !is_readable => {
                self.look_at = None;
                Health::Idle
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(n: u32) -> Duration {
        SECOND * n + SECOND / 10
    }

    #[test]
    fn a_worker_that_takes_requests_is_left_alone_and_the_looks_end() {
        let mut watchdog = Watchdog::new(SECOND * 5);
        assert!(watchdog.is_idle());
        watchdog.requested(0, SECOND);
        let mut signs = Signs { taken: 1, ..Signs::default() };
        assert_eq!(watchdog.look(&signs, at(2)), Health::Fine);
        assert_eq!(watchdog.look(&signs, at(3)), Health::Unsure);
        signs.taken = 2;
        assert_eq!(
            watchdog.look(&signs, at(4)),
            Health::Idle,
            "it saw nothing but its own question"
        );
        assert!(watchdog.is_idle());
    }

    #[test]
    fn the_looks_go_on_while_a_request_is_in_hand_or_waits() {
        for left in [
            Signs { pending: 1, ..Signs::default() },
            Signs { is_readable: true, ..Signs::default() },
        ] {
            let mut watchdog = Watchdog::new(SECOND * 5);
            watchdog.requested(0, SECOND);
            assert_eq!(watchdog.look(&left, at(2)), Health::Unsure);
            assert_eq!(watchdog.look(&Signs { taken: 1, ..left }, at(3)), Health::Fine, "{left:?}");
            assert!(!watchdog.is_idle());
        }
    }

    #[test]
    fn a_worker_that_takes_nothing_is_stuck_after_being_asked() {
        let mut watchdog = Watchdog::new(SECOND * 5);
        let signs = Signs::default();
        watchdog.worker_started(&signs, SECOND);
        assert_eq!(watchdog.look(&signs, at(2)), Health::Unsure);
        assert_eq!(watchdog.look(&signs, at(3)), Health::Stuck);
    }

    #[test]
    fn opens_that_may_wait_are_no_alarm_and_one_that_waits_too_long_is() {
        let mut watchdog = Watchdog::new(SECOND * 5);
        let mut signs = Signs { taken: 1, ..Signs::default() };
        watchdog.worker_started(&Signs::default(), SECOND);
        for n in 2..=7 {
            signs.taken += 1;
            signs.is_overdue = watchdog.overdue().contains(&at(n - 1));
            assert_ne!(watchdog.look(&signs, at(n)), Health::Stuck, "after {n} s");
        }
        assert!(signs.is_overdue);
        // Opens are answered one by one, and this one's turn will come.
        for n in 8..=10 {
            (signs.taken, signs.looks) = (signs.taken + 1, signs.looks + 1);
            assert_ne!(watchdog.look(&signs, at(n)), Health::Stuck, "after {n} s");
        }
        signs.taken += 1;
        let health = watchdog.look(&signs, at(11));
        assert_eq!(health, Health::Stuck, "other requests are taken, but no open is answered");
    }

    #[test]
    fn a_worker_that_takes_over_slowly_is_left_to_it_until_it_stops() {
        let mut watchdog = Watchdog::new(SECOND * 5);
        watchdog.worker_started(&Signs::default(), SECOND);
        // An open from before that is overdue already.
        let mut signs = Signs { is_overdue: true, ..Signs::default() };
        for n in 2..=15 {
            signs.steps += 1;
            assert_ne!(watchdog.look(&signs, at(n)), Health::Stuck, "after {n} s");
        }
        assert_eq!(watchdog.look(&signs, at(16)), Health::Stuck);
    }
}
