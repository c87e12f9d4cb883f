//! How often workers are started that fail.

use std::time::Duration;

/// The pause after the first failure; doubled with each.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause: what keeps workers from starting, a limit on processes for one, may be over soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    failures: u32,
    not_before: Duration,
}

impl Pace {
    /// A start failed at `now` (boot clock). How many did in a row.
    pub(super) fn failed(&mut self, now: Duration) -> u32 {
        let doubled = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        self.not_before = now.saturating_add(doubled.min(LONGEST_PAUSE));
        self.failures
    }

    /// The last worker did serve: the next one may be started at once.
    pub(super) fn served(&mut self) {
        *self = Self::default();
    }

    /// When the next start may be tried (boot clock).
    pub(super) fn not_before(&self) -> Duration {
        self.not_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_half_a_minute_and_begins_anew_after_a_success() {
        let (mut pace, now) = (Pace::default(), Duration::from_secs(100));
        assert_eq!(pace.not_before(), Duration::ZERO);
        let pauses: Vec<_> = (1..=100)
            .map(|number| {
                assert_eq!(pace.failed(now), number);
                pace.not_before().saturating_sub(now).as_millis()
            })
            .collect();
        assert_eq!(pauses[..6], [50, 100, 200, 400, 800, 1600]);
        assert_eq!(pauses[8..12], [12_800, 25_600, 30_000, 30_000]);
        assert_eq!(pauses[99], 30_000);
        pace.served();
        assert_eq!(pace.not_before(), Duration::ZERO);
        assert_eq!(pace.failed(now), 1);
    }
}
