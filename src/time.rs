//! The two clocks a token's life is judged by, read together.
//!
//! This file alone calls the clock functions; the lints forbid them elsewhere.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One instant on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Now {
    /// `CLOCK_BOOTTIME`, since boot; it counts suspend and never jumps (`clock_gettime(2)`).
    pub boot: Duration,
    /// `CLOCK_REALTIME`, since the Unix epoch; it can be set forwards and backwards. A clock before
    /// 1970 reads as 1970.
    pub wall: Duration,
}

impl Now {
    /// How long ago `earlier` was: the larger of what the two clocks say, so that a jump of either
    /// can only make something older. A clock that went back counts as standing still.
    #[must_use]
    pub fn elapsed_since(&self, earlier: &Self) -> Duration {
        self.boot.saturating_sub(earlier.boot).max(self.wall.saturating_sub(earlier.wall))
    }

    /// The instant that lies `by` later on both clocks.
    #[must_use]
    pub fn plus(&self, by: Duration) -> Self {
        Self { boot: self.boot.saturating_add(by), wall: self.wall.saturating_add(by) }
    }

    /// The wall clock as a timestamp.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        timestamp(self.wall)
    }
}

/// A wall-clock reading as a timestamp, capped at the largest one that can be written.
#[must_use]
pub fn timestamp(wall: Duration) -> Timestamp {
    i64::try_from(wall.as_secs())
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or(Timestamp::MAX)
}

/// A wall-clock reading as a timestamp, to the nanosecond.
#[must_use]
pub fn exact_timestamp(wall: Duration) -> Timestamp {
    let nanos = i128::try_from(wall.as_nanos()).unwrap_or(i128::MAX);
    Timestamp::from_nanosecond(nanos).unwrap_or(Timestamp::MAX)
}

/// Where time comes from. Injected everywhere, so that tests decide what time it is.
pub trait Clock: Send + Sync + 'static {
    /// Both clocks, read together.
    fn now(&self) -> Now;
}

/// The clocks of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        Now {
            boot: read(nix::time::ClockId::CLOCK_BOOTTIME),
            wall: read(nix::time::ClockId::CLOCK_REALTIME),
        }
    }
}

/// Reads one clock. The two that are asked for exist on every kernel since 2.6.39, so an error
/// cannot happen; it would read as the clock's origin, at which nothing is fresh for longer.
fn read(clock: nix::time::ClockId) -> Duration {
    nix::time::clock_gettime(clock).map_or(Duration::ZERO, |spec| {
        let (seconds, nanos) = (u64::try_from(spec.tv_sec()), u32::try_from(spec.tv_nsec()));
        match (seconds, nanos) {
            (Ok(seconds), Ok(nanos)) => Duration::new(seconds, nanos),
            _ => Duration::ZERO,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_clock_that_moved_further_counts() {
        let start = Now { boot: SECOND * 100, wall: SECOND * 1000 };
        let suspended = Now { boot: SECOND * 200, wall: SECOND * 1001 };
        let set_forward = Now { boot: SECOND * 101, wall: SECOND * 4600 };
        let set_back = Now { boot: SECOND * 105, wall: SECOND * 10 };
        assert_eq!(suspended.elapsed_since(&start), SECOND * 100);
        assert_eq!(set_forward.elapsed_since(&start), SECOND * 3600);
        assert_eq!(set_back.elapsed_since(&start), SECOND * 5);
    }

    #[test]
    fn the_system_clocks_run() {
        let first = SystemClock.now();
        let second = SystemClock.now();
        assert!(first.boot > Duration::ZERO && second.boot >= first.boot);
        assert!(first.timestamp().as_second() > 1_700_000_000);
    }
}
