//! Small exact tables in the shared state: who was told to look again, what a thread was handed, how
//! many workers died of a request.
//!
//! Each is an array of a power of two; a key lives in one of the [`WINDOW`] places after its hash.
//! Nothing moves, so a process that dies in a call leaves at most one entry that is not there yet.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Places in which a key may live.
const WINDOW: usize = 16;
/// A mark that old belongs to a thread that never came back: the kernel opens again at once.
const FORGOTTEN: Duration = Duration::from_mins(10);

/// A key and its value. Key 0 is an empty place.
#[repr(C)]
struct Place {
    key: AtomicU64,
    first: AtomicU64,
    second: AtomicU64,
}

#[repr(C)]
struct Table<const N: usize> {
    places: [Place; N],
}

impl<const N: usize> Table<N> {
    fn window(&self, key: u64) -> impl Iterator<Item = &Place> {
        // Fibonacci hashing: thread ids and request numbers come in sequence.
        let start = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize;
        (0..WINDOW).filter_map(move |step| self.places.get((start + step) % N))
    }

    fn find(&self, key: u64) -> Option<&Place> {
        self.window(key).find(|place| place.key.load(Ordering::Acquire) == key)
    }

    fn clear(&self) {
        self.places.iter().for_each(Place::clear);
    }

    fn free(&self, key: u64) -> Option<&Place> {
        self.window(key).find(|place| place.key.load(Ordering::Acquire) == 0)
    }
}

impl Place {
    fn set(&self, key: u64, first: u64, second: u64) {
        self.key.store(0, Ordering::Release);
        self.first.store(first, Ordering::Relaxed);
        self.second.store(second, Ordering::Relaxed);
        self.key.store(key, Ordering::Release);
    }

    fn clear(&self) {
        self.key.store(0, Ordering::Release);
    }
}

/// Serialises the writers of the tables within a process; between processes there is only one.
#[derive(Default)]
pub(super) struct Writers(Mutex<()>);

impl Writers {
    fn lock(&self) -> std::sync::MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A thread whose last open was answered ESTALE: which view it opened, and what that showed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) view: u8,
    pub(super) generation: u64,
}

/// The marks, by thread.
#[repr(C)]
pub(super) struct Marks {
    /// At least as many as there are: a writer that dies leaves too many.
    used: AtomicU64,
    table: Table<1024>,
}

impl Marks {
    /// Records a mark. `false` when there is no room: then the thread must not be told ESTALE.
    pub(super) fn set(&self, writers: &Writers, thread: u32, mark: Mark, now: Duration) -> bool {
        if thread == 0 {
            return false;
        }
        let _lock = writers.lock();
        let key = u64::from(thread);
        let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        let is_over = |place: &&Place| {
            let details = Details::of(place);
            details.taken != 0
                || u64::from(seconds.saturating_sub(details.seconds)) > FORGOTTEN.as_secs()
        };
        let place = self.table.find(key).or_else(|| self.table.free(key));
        let Some(place) = place.or_else(|| self.table.window(key).find(is_over)) else {
            return false;
        };
        if place.key.load(Ordering::Relaxed) == 0 {
            self.used.fetch_add(1, Ordering::AcqRel);
        }
        let details = Details { view: mark.view, taken: 0, seconds };
        place.set(key, mark.generation, details.word());
        true
    }

    /// The mark of a thread that no open has taken yet. It costs one load while there is none at all.
    pub(super) fn get(&self, thread: u32) -> Option<Mark> {
        let place = self.find(thread)?;
        (Details::of(place).taken == 0).then(|| Mark::of(place))
    }

    /// The mark of a thread, for the open that is its second look: for that request it stays, since a
    /// worker that dies leaves the request to the next one. Any other open ends it.
    pub(super) fn take(&self, writers: &Writers, thread: u32, request: u64) -> Option<Mark> {
        self.find(thread)?;
        let _lock = writers.lock();
        // Somebody may have reused the place meanwhile.
        let place = self.find(thread)?;
        let (mark, details) = (Mark::of(place), Details::of(place));
        let taken = Details::tag(request);
        if details.taken == 0 {
            place.second.store(Details { taken, ..details }.word(), Ordering::Release);
        } else if details.taken != taken {
            place.clear();
            self.used.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(mark)
    }

    /// Forgets them all. To be called while nobody writes.
    pub(super) fn clear(&self) {
        self.table.clear();
        self.used.store(0, Ordering::Release);
    }

    fn find(&self, thread: u32) -> Option<&Place> {
        if thread == 0 || self.used.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.table.find(thread.into())
    }
}

impl Mark {
    fn of(place: &Place) -> Self {
        let generation = place.first.load(Ordering::Relaxed);
        Self { view: Details::of(place).view, generation }
    }
}

/// The second word of a mark.
#[derive(Clone, Copy)]
struct Details {
    view: u8,
    /// 24 bits of the request that took it; 0 while none has.
    taken: u32,
    /// When it was set (boot clock).
    seconds: u32,
}

impl Details {
    fn of(place: &Place) -> Self {
        let word = place.second.load(Ordering::Acquire);
        let [view, low, middle, high, seconds @ ..] = word.to_le_bytes();
        let taken = u32::from_le_bytes([low, middle, high, 0]);
        Self { view, taken, seconds: u32::from_le_bytes(seconds) }
    }

    fn word(self) -> u64 {
        u64::from(self.seconds) << 32 | u64::from(self.taken) << 8 | u64::from(self.view)
    }

    /// Never 0. Numbers of requests are even, and 16 million of them apart the same thread's last open
    /// is long over.
    fn tag(request: u64) -> u32 {
        let [low, middle, high, ..] = (request >> 1).to_le_bytes();
        u32::from_le_bytes([low, middle, high | 0x80, 0])
    }
}

/// The generation that a thread was last handed of a live view.
#[repr(C)]
pub(super) struct Handed(Table<4096>);

impl Handed {
    /// `of` is the region of the token, and the view.
    fn key(thread: u32, (region, view): (usize, u8)) -> u64 {
        (region as u64) << 40 | u64::from(thread) << 8 | u64::from(view)
    }

    /// Notes it. Where there is no room the thread that was handed the oldest generation loses its
    /// entry: its next `fstat` reports the current size.
    pub(super) fn set(&self, writers: &Writers, thread: u32, of: (usize, u8), generation: u64) {
        if thread == 0 {
            return;
        }
        let key = Self::key(thread, of);
        if self.get(thread, of) == Some(generation) {
            return;
        }
        let _lock = writers.lock();
        let oldest = || self.0.window(key).min_by_key(|place| place.first.load(Ordering::Relaxed));
        if let Some(place) = self.0.find(key).or_else(|| self.0.free(key)).or_else(oldest) {
            place.set(key, generation, 0);
        }
    }

    /// What the thread was last handed.
    pub(super) fn get(&self, thread: u32, of: (usize, u8)) -> Option<u64> {
        if thread == 0 {
            return None;
        }
        self.0.find(Self::key(thread, of)).map(|place| place.first.load(Ordering::Relaxed))
    }
}

/// How many workers died with each request in hand. One writer at a time: the supervisor while there
/// is no worker, else the worker.
#[repr(C)]
pub(super) struct Charges {
    used: AtomicU64,
    table: Table<64>,
}

impl Charges {
    /// One more died. Where there is no room, the oldest request is forgotten: it was given up.
    pub(super) fn add(&self, request: u64) {
        let key = request.wrapping_add(1);
        let oldest =
            || self.table.window(key).min_by_key(|place| place.key.load(Ordering::Relaxed));
        let deaths = self.count(request) + 1;
        let place = self.table.find(key).or_else(|| self.table.free(key)).or_else(oldest);
        if let Some(place) = place {
            place.set(key, deaths, 0);
        }
        self.used.store(1, Ordering::Release);
    }

    /// How many died. It costs one load while none ever did.
    pub(super) fn count(&self, request: u64) -> u64 {
        if self.used.load(Ordering::Acquire) == 0 {
            return 0;
        }
        let place = self.table.find(request.wrapping_add(1));
        place.map_or(0, |place| place.first.load(Ordering::Relaxed))
    }

    /// Forgets them all. To be called while nobody writes.
    pub(super) fn clear(&self) {
        self.table.clear();
        self.used.store(0, Ordering::Release);
    }

    /// It is answered.
    pub(super) fn done(&self, request: u64) {
        if self.count(request) > 0
            && let Some(place) = self.table.find(request.wrapping_add(1))
        {
            place.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::generations::State;

    fn state() -> State {
        State::create().unwrap()
    }

    #[test]
    fn a_mark_is_taken_by_one_request_of_its_thread_however_often_that_comes() {
        let (state, writers) = (state(), Writers::default());
        let marks = &state.shared().marks;
        let mark = Mark { view: 255, generation: 1 << 40 };
        assert_eq!((marks.get(7), marks.take(&writers, 7, 10)), (None, None));
        assert!(marks.set(&writers, 7, mark, Duration::from_secs(4)));
        assert!(marks.set(&writers, 7, mark, Duration::from_secs(5)));
        assert_eq!((marks.get(8), marks.take(&writers, 8, 10)), (None, None));
        assert_eq!(marks.get(7), Some(mark));
        for _ in 0..3 {
            assert_eq!(marks.take(&writers, 7, 10), Some(mark));
            assert_eq!(marks.get(7), None, "it is taken");
        }
        assert_eq!(marks.used.load(Ordering::Relaxed), 1);
        assert_eq!(marks.take(&writers, 7, 12), None);
        assert_eq!(marks.take(&writers, 7, 10), None, "the thread has gone on");
        assert_eq!(marks.used.load(Ordering::Relaxed), 0, "looking costs a load again");
        assert!(marks.set(&writers, 7, mark, Duration::from_secs(6)));
        assert_eq!(marks.take(&writers, 7, 14), Some(mark));
        assert!(marks.set(&writers, 7, mark, Duration::from_secs(6)), "told so once more");
        assert_eq!(marks.take(&writers, 7, 16), Some(mark));
        assert!(!marks.set(&writers, 0, mark, Duration::ZERO), "a thread that we cannot name");
    }

    #[test]
    fn a_full_table_of_marks_says_so_and_forgets_the_ones_that_never_came_back() {
        let (state, writers) = (state(), Writers::default());
        let marks = &state.shared().marks;
        let mark = Mark { view: 0, generation: 1 };
        let early = Duration::from_secs(1);
        let full = (1..100_000).find(|thread| !marks.set(&writers, *thread, mark, early)).unwrap();
        assert!(full > 100, "{full}");
        let taken = u32::try_from(
            marks.table.window(full.into()).next().unwrap().key.load(Ordering::Relaxed),
        );
        assert_eq!(marks.take(&writers, taken.unwrap(), 10), Some(mark));
        assert!(marks.set(&writers, full, mark, early), "in the place of one that is over");
        let full = (full + 1..100_000).find(|it| !marks.set(&writers, *it, mark, early)).unwrap();
        let late = early + FORGOTTEN + Duration::from_secs(1);
        assert!(marks.set(&writers, full, mark, late));
        assert_eq!(marks.get(full), Some(mark));
    }

    #[test]
    fn what_a_thread_was_handed_is_exact() {
        let (state, writers) = (state(), Writers::default());
        let handed = &state.shared().handed;
        handed.set(&writers, 7, (0, 3), 11);
        handed.set(&writers, 7, (0, 4), 12);
        handed.set(&writers, 7, (1, 3), 14);
        handed.set(&writers, 7, (0, 3), 13);
        assert_eq!((handed.get(7, (0, 3)), handed.get(7, (0, 4))), (Some(13), Some(12)));
        assert_eq!(handed.get(7, (1, 3)), Some(14), "that is another token's");
        assert_eq!((handed.get(8, (0, 3)), handed.get(0, (0, 3))), (None, None));
        for thread in 100..100_000 {
            let of = (1, 0);
            handed.set(&writers, thread, of, u64::from(thread));
            assert_eq!(handed.get(thread, of), Some(u64::from(thread)), "the newest always fits");
        }
    }
}
