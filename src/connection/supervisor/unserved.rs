//! When the supervisor must answer in the place of a worker, so that no reader waits for ever.

use std::time::Duration;

/// While it waits for its turn, overdue opens are looked for so often.
const LOOK: Duration = Duration::from_secs(1);

/// Since when nobody serves, and whether the supervisor stands in.
#[derive(Debug, Default)]
pub(super) struct Unserved {
    /// Since when nobody serves (boot clock); nothing while a worker does.
    since: Option<Duration>,
    /// Why no worker starts; empty where none has failed.
    pub(super) why: String,
    pub(super) is_stood_in_for: bool,
}

impl Unserved {
    /// No worker serves any more.
    pub(super) fn begin(&mut self, now: Duration) {
        self.since.get_or_insert(now);
    }

    /// A worker serves again. Whether the supervisor stood in until now.
    pub(super) fn end(&mut self) -> bool {
        std::mem::take(self).is_stood_in_for
    }

    /// When the supervisor must begin to stand in (boot clock), if no worker serves until then: when
    /// those who wait longest have reached their deadline, or sooner, where the next start comes too
    /// late for them anyway.
    pub(super) fn stand_in_at(
        &self,
        open_timeout: Duration,
        next_start: Option<Duration>,
    ) -> Option<Duration> {
        let since = self.since?;
        let deadline = since.saturating_add(open_timeout);
        Some(if next_start.is_some_and(|at| at >= deadline) { since } else { deadline })
    }

    /// When to look for those who wait (boot clock), where the supervisor must stand in at `begins`.
    pub(super) fn next_look(&self, begins: Duration, now: Duration) -> Option<Duration> {
        (!self.is_stood_in_for).then(|| begins.min(now.saturating_add(LOOK)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_begins_at_the_deadline_or_at_once_where_no_start_comes_before() {
        let mut unserved = Unserved::default();
        assert_eq!(unserved.stand_in_at(SECOND * 5, Some(SECOND)), None, "somebody serves");
        unserved.begin(SECOND * 100);
        unserved.begin(SECOND * 101);
        for (next_start, begins) in [(None, 105), (Some(104), 105), (Some(105), 100)] {
            let next_start = next_start.map(|seconds| SECOND * seconds);
            let at = unserved.stand_in_at(SECOND * 5, next_start);
            assert_eq!(at, Some(SECOND * begins));
        }
        assert!(!unserved.end(), "it did not stand in yet");
        assert_eq!(unserved.stand_in_at(SECOND * 5, None), None);
    }
}
