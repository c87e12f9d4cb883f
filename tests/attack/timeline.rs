//! When which attack went on. All times are readings of `CLOCK_BOOTTIME`, which every process shares.

use std::collections::BTreeMap;
use std::time::Duration;

use molecule_tokenfs::time::{Clock as _, SystemClock};

/// Now.
pub fn boot() -> Duration {
    SystemClock.now().boot
}

/// The attacks on one daemon, in their order.
#[derive(Debug, Default)]
pub struct Timeline(Vec<(Duration, String)>);

impl Timeline {
    pub fn begin(&mut self, attack: &str) {
        self.0.push((boot(), attack.to_owned()));
    }

    /// The attack that had begun last at this time.
    pub fn at(&self, time: Duration) -> &str {
        let begun = self.0.iter().rev().find(|(start, _)| *start <= time);
        begun.map_or("before the first attack", |(_, attack)| attack)
    }

    /// How often each was made.
    pub fn counts(&self) -> BTreeMap<&str, u64> {
        let mut counts = BTreeMap::new();
        for (_, attack) in &self.0 {
            *counts.entry(attack.as_str()).or_default() += 1;
        }
        counts
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }
}
