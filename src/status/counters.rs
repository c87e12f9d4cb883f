//! What is counted while serving: relaxed atomics, so that counting costs an open next to nothing.
//! They start at zero with each worker.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Explanation, FetchError, FetchErrorKind, ReadErrorKind};
use crate::source::{BoxFuture, Fetched, Source};
use crate::time::Clock;
use crate::token::Token;

/// Upper bounds of the buckets of every histogram, in milliseconds: from a token that was in hand to
/// a source that takes as long as it may.
pub const BOUNDS_MS: [u64; 12] = [1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000];

/// How durations are spread.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One for each bound, each counting only its own bucket.
    buckets: [AtomicU64; BOUNDS_MS.len()],
    /// Those above the last bound.
    above: AtomicU64,
    sum_nanos: AtomicU64,
}

/// A histogram's values at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistogramValues {
    /// For each bound how many lie at or below it.
    pub cumulative: [u64; BOUNDS_MS.len()],
    /// How many there are.
    pub count: u64,
    /// Their sum.
    pub sum: Duration,
}

impl Histogram {
    /// Counts one.
    pub fn observe(&self, duration: Duration) {
        let at_or_below = |bound: &u64| duration <= Duration::from_millis(*bound);
        let bucket = BOUNDS_MS.iter().position(at_or_below).and_then(|n| self.buckets.get(n));
        bucket.unwrap_or(&self.above).fetch_add(1, Relaxed);
        if !duration.is_zero() {
            let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
            self.sum_nanos.fetch_add(nanos, Relaxed);
        }
    }

    /// The values now. The count is that of the buckets, so that they always agree.
    #[must_use]
    pub fn values(&self) -> HistogramValues {
        let mut count = 0;
        let mut cumulative = [0; BOUNDS_MS.len()];
        for (to, bucket) in cumulative.iter_mut().zip(&self.buckets) {
            count += bucket.load(Relaxed);
            *to = count;
        }
        count += self.above.load(Relaxed);
        HistogramValues {
            cumulative,
            count,
            sum: Duration::from_nanos(self.sum_nanos.load(Relaxed)),
        }
    }
}

/// The counters of one token in one mount.
#[derive(Debug, Default)]
pub struct Counters {
    opens: Histogram,
    refusals: [AtomicU64; ReadErrorKind::ALL.len()],
    sources: Mutex<Vec<Arc<SourceCounters>>>,
}

impl Counters {
    /// Counts an open of a view that was answered with a token, after waiting this long for it (zero
    /// where it was in hand).
    pub fn opened(&self, waited: Duration) {
        self.opens.observe(waited);
    }

    /// Counts a refusal, of an open or of something that would write.
    pub fn refused(&self, kind: ReadErrorKind) {
        let mut refusals = ReadErrorKind::ALL.iter().zip(&self.refusals);
        if let Some((_, counter)) = refusals.find(|(of, _)| **of == kind) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// How long the successful opens waited.
    #[must_use]
    pub fn opens(&self) -> HistogramValues {
        self.opens.values()
    }

    /// Refusals of each kind, also those that never happened.
    pub fn refusals(&self) -> impl Iterator<Item = (ReadErrorKind, u64)> {
        let load = |(kind, counter): (_, &AtomicU64)| (kind, counter.load(Relaxed));
        ReadErrorKind::ALL.into_iter().zip(&self.refusals).map(load)
    }

    /// The same source, with its fetches counted.
    #[must_use]
    pub fn metered(&self, source: Arc<dyn Source>, clock: Arc<dyn Clock>) -> Arc<dyn Source> {
        let counters = Arc::new(SourceCounters::of(source.name()));
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.push(Arc::clone(&counters));
        Arc::new(Metered { source, clock, counters })
    }

    /// The counters of every metered source, in chain order.
    #[must_use]
    pub fn sources(&self) -> Vec<Arc<SourceCounters>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The counters of one source.
#[derive(Debug)]
pub struct SourceCounters {
    /// The name of the source.
    pub name: &'static str,
    fetches: Histogram,
    failures: [AtomicU64; FetchErrorKind::ALL.len()],
}

impl SourceCounters {
    fn of(name: &'static str) -> Self {
        Self { name, fetches: Histogram::default(), failures: Default::default() }
    }

    fn settled(&self, took: Duration, result: &Result<Fetched, FetchError>) {
        self.fetches.observe(took);
        if let Err(error) = result {
            let mut failures = FetchErrorKind::ALL.iter().zip(&self.failures);
            if let Some((_, counter)) = failures.find(|(kind, _)| **kind == error.kind) {
                counter.fetch_add(1, Relaxed);
            }
        }
    }

    /// How long its fetches took, failed ones too. Those that were given up are not in it.
    #[must_use]
    pub fn fetches(&self) -> HistogramValues {
        self.fetches.values()
    }

    /// Failures of each kind that happened.
    pub fn failures(&self) -> impl Iterator<Item = (FetchErrorKind, u64)> {
        let load = |(kind, counter): (_, &AtomicU64)| (kind, counter.load(Relaxed));
        FetchErrorKind::ALL.into_iter().zip(&self.failures).map(load).filter(|(_, n)| *n > 0)
    }
}

/// A source whose fetches are counted.
struct Metered {
    source: Arc<dyn Source>,
    clock: Arc<dyn Clock>,
    counters: Arc<SourceCounters>,
}

impl Source for Metered {
    fn name(&self) -> &'static str {
        self.source.name()
    }

    fn max_life(&self) -> Option<Duration> {
        self.source.max_life()
    }

    fn can_replace_rejected(&self) -> bool {
        self.source.can_replace_rejected()
    }

    fn is_known_late(&self) -> bool {
        self.source.is_known_late()
    }

    fn is_stopgap(&self) -> bool {
        self.source.is_stopgap()
    }

    fn explain(&self, kind: FetchErrorKind) -> Option<Explanation> {
        self.source.explain(kind)
    }

    fn clock_ahead(&self) -> Option<i64> {
        self.source.clock_ahead()
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        Box::pin(async {
            let start = self.clock.now();
            let result = self.source.fetch().await;
            let took = self.clock.now().boot.saturating_sub(start.boot);
            self.counters.settled(took, &result);
            result
        })
    }

    fn resumed(&self, token: &Token) {
        self.source.resumed(token);
    }

    fn hurry(&self) {
        self.source.hurry();
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        self.source.changed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Now;

    #[test]
    fn a_histogram_counts_each_duration_at_its_bound_and_above() {
        let histogram = Histogram::default();
        for ms in [0, 1, 2, 10_000, 10_001] {
            histogram.observe(Duration::from_millis(ms));
        }
        let values = histogram.values();
        assert_eq!(values.cumulative, [2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4]);
        assert_eq!((values.count, values.sum), (5, Duration::from_millis(20_004)));
    }

    #[test]
    fn refusals_are_counted_by_kind() {
        let counters = Counters::default();
        counters.refused(ReadErrorKind::TimedOut);
        counters.refused(ReadErrorKind::TimedOut);
        let counted: Vec<_> = counters.refusals().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(ReadErrorKind::TimedOut, 2)]);
    }

    /// Moves on by a second whenever it is asked.
    #[derive(Default)]
    struct Ticking(AtomicU64);

    impl Clock for Ticking {
        fn now(&self) -> Now {
            Now::default().plus(Duration::from_secs(self.0.fetch_add(1, Relaxed)))
        }
    }

    struct Down(Arc<AtomicU64>);

    impl Source for Down {
        fn name(&self) -> &'static str {
            "down"
        }

        fn max_life(&self) -> Option<Duration> {
            Some(Duration::from_secs(7))
        }

        fn can_replace_rejected(&self) -> bool {
            false
        }

        fn is_known_late(&self) -> bool {
            true
        }

        fn fetch(&self) -> BoxFuture<'_, Result<Fetched, FetchError>> {
            Box::pin(async { Err(FetchError::new("down", FetchErrorKind::Unreachable, "")) })
        }

        fn hurry(&self) {
            self.0.fetch_add(1, Relaxed);
        }

        fn changed(&self) -> BoxFuture<'_, ()> {
            Box::pin(async {})
        }
    }

    #[tokio::test]
    async fn a_metered_source_behaves_as_the_source_and_counts() {
        let counters = Counters::default();
        let hurried = Arc::default();
        let down = Arc::new(Down(Arc::clone(&hurried)));
        let metered = counters.metered(down, Arc::new(Ticking::default()));
        assert_eq!(metered.name(), "down");
        assert_eq!(metered.max_life(), Some(Duration::from_secs(7)));
        assert!(!metered.can_replace_rejected() && metered.is_known_late());
        metered.changed().await;
        metered.hurry();
        assert_eq!(hurried.load(Relaxed), 1);
        assert_eq!(metered.fetch().await.unwrap_err().kind, FetchErrorKind::Unreachable);
        let sources = counters.sources();
        let values = sources[0].fetches();
        assert_eq!((values.count, values.sum), (1, Duration::from_secs(1)));
        let failures: Vec<_> = sources[0].failures().collect();
        assert_eq!(failures, [(FetchErrorKind::Unreachable, 1)]);
    }
}
