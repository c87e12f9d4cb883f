//! Which request is in hand, in the shared state: what a worker that died was doing.
//!
//! It tells which request kills workers, so that it does not do so for ever; and where the kernel
//! does not deliver again what a dead worker had read (before Linux 6.9), it is all that the next one
//! knows of those requests.
//!
//! Two threads write it, each its own part: the one that answers the kernel (`handling`) and the
//! runtime's (`polling`).

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use super::tables::Charges;
use crate::caller::Caller;

/// A request that was in hand at so many deaths is answered EIO when it comes again. Two can be of something
/// else: where workers die one after the other, the same request is soon in hand twice.
pub const MOST_DEATHS: u64 = 3;
/// How many opens may wait at a time: each is kept here, for the worker that comes after this one.
pub const OPENS: usize = 4096;

/// Requests that can be answered from what the journal keeps of them (`FUSE_*`, `fuse(4)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Opcode {
    /// Any other one.
    Other = 0,
    /// `fstat`
    Getattr = 3,
    /// `open`
    Open = 14,
    /// `read`
    Read = 15,
    /// `getdents`
    Readdir = 28,
}

/// A request, as far as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Its handler, for [`Fault`](super::fault::Fault)s.
    pub handler: &'static str,
    /// What it is.
    pub opcode: Opcode,
    /// The inode.
    pub ino: u64,
    /// The handle; [`u64::MAX`] where there is none.
    pub handle: u64,
    /// Where to begin.
    pub offset: u64,
    /// How many bytes.
    pub size: u32,
    /// As for `open(2)`.
    pub flags: u32,
}

impl Call {
    /// A request of which nothing but its number is kept.
    #[must_use]
    pub fn other(handler: &'static str, ino: u64) -> Self {
        let opcode = Opcode::Other;
        Self { handler, opcode, ino, handle: u64::MAX, offset: 0, size: 0, flags: 0 }
    }

    /// One of which all is kept.
    #[must_use]
    pub fn kept(handler: &'static str, opcode: Opcode, ino: u64) -> Self {
        Self { opcode, ..Self::other(handler, ino) }
    }
}

/// A request that a dead worker left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Its number.
    pub unique: u64,
    /// What it asks for.
    pub call: Call,
    /// Who asks.
    pub caller: Caller,
}

/// An open that begins to wait, or that was delivered again and waits on.
#[derive(Debug, Clone, Copy)]
pub(in crate::fs) struct Waits {
    pub(super) now: Duration,
    /// It was delivered before, and may be here already.
    pub(super) again: bool,
    /// Whoever waits since before then (boot clock) was given up without our hearing of it.
    pub(super) given_up: Duration,
}

#[repr(C)]
struct Entry {
    /// 0 where there is none.
    unique: AtomicU64,
    opcode_and_flags: AtomicU64,
    ino: AtomicU64,
    handle: AtomicU64,
    offset: AtomicU64,
    size_and_thread: AtomicU64,
    uid_and_gid: AtomicU64,
    /// When an open that waits was first seen, in nanoseconds (boot clock).
    since: AtomicU64,
}

fn two(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn split(word: u64) -> (u32, u32) {
    let half = |word: u64| u32::try_from(word & u64::from(u32::MAX)).unwrap_or_default();
    (half(word), half(word >> 32))
}

impl Entry {
    fn set(&self, unique: u64, call: &Call, caller: &Caller, since: Duration) {
        self.unique.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        let write = |word: &AtomicU64, value| word.store(value, Ordering::Relaxed);
        write(&self.opcode_and_flags, two(call.opcode as u32, call.flags));
        write(&self.ino, call.ino);
        write(&self.handle, call.handle);
        write(&self.offset, call.offset);
        write(&self.size_and_thread, two(call.size, caller.thread));
        let (uid, gid) = caller.numbers();
        write(&self.uid_and_gid, two(uid, gid));
        write(&self.since, u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        self.unique.store(unique, Ordering::Release);
    }

    fn get(&self) -> Option<Left> {
        let unique = self.unique.load(Ordering::Acquire);
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let (opcode, flags) = split(read(&self.opcode_and_flags));
        let kept = [
            (Opcode::Getattr, "getattr"),
            (Opcode::Open, "open"),
            (Opcode::Read, "read"),
            (Opcode::Readdir, "readdir"),
        ];
        let known = kept.into_iter().find(|(known, _)| *known as u32 == opcode);
        let (opcode, handler) = known.unwrap_or((Opcode::Other, "other"));
        let (size, thread) = split(read(&self.size_and_thread));
        let (uid, gid) = split(read(&self.uid_and_gid));
        let call = Call {
            handler,
            opcode,
            ino: read(&self.ino),
            handle: read(&self.handle),
            offset: read(&self.offset),
            size,
            flags,
        };
        (unique != 0).then_some(Left { unique, call, caller: Caller::new(uid, gid, thread) })
    }

    fn holds(&self, unique: u64) -> bool {
        self.unique.load(Ordering::Acquire) == unique
    }

    fn since(&self) -> Duration {
        Duration::from_nanos(self.since.load(Ordering::Relaxed))
    }

    /// As [`Entry::clear`], on the thread that writes it: no other may put a request there meanwhile.
    fn clear_own(&self, unique: u64) {
        if self.unique.load(Ordering::Relaxed) == unique {
            self.unique.store(0, Ordering::Release);
        }
    }

    fn clear(&self, unique: u64) -> bool {
        self.holds(unique)
            && self.unique.compare_exchange(unique, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// So many places of opens that wait are a group: about a page.
const GROUP: usize = OPENS / 64;

/// In which groups an open ever waited, a bit each. Whoever looks for some looks at no others: what was
/// never written to has no memory yet.
#[repr(transparent)]
pub(super) struct Groups(AtomicU64);

impl Groups {
    fn note(&self, place: usize) {
        let bit = 1 << (place / GROUP);
        if self.noted() & bit == 0 {
            self.0.fetch_or(bit, Ordering::AcqRel);
        }
    }

    fn noted(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// See the module.
#[repr(C)]
pub(super) struct Journal {
    /// The newest request whose handler was entered.
    last: AtomicU64,
    handling: Entry,
    polling: AtomicU64,
    charges: Charges,
    /// Opens that wait, each near the place of its number.
    opens: [Entry; OPENS],
}

impl Journal {
    /// The handler of a request begins.
    pub(super) fn enter(&self, unique: u64, call: &Call, caller: &Caller) {
        self.handling.set(unique, call, caller, Duration::ZERO);
        if self.last.load(Ordering::Relaxed) < unique {
            self.last.store(unique, Ordering::Release);
        }
    }

    /// An open is about to wait: its handler ends without an answer. Gives since when it waits, however
    /// often it was delivered; nothing where there is no room for it.
    pub(super) fn wait(
        &self,
        groups: &Groups,
        unique: u64,
        call: &Call,
        caller: &Caller,
        waits: Waits,
    ) -> Option<Duration> {
        let find =
            |is_it: &dyn Fn(&Entry) -> bool| self.around(unique).find(|(_, entry)| is_it(entry));
        let known = waits.again.then(|| find(&|entry| entry.holds(unique))).flatten();
        let since = known.map_or(waits.now, |(_, entry)| entry.since());
        let (place, entry) = known
            .or_else(|| find(&|entry| entry.holds(0)))
            .or_else(|| find(&|entry| entry.since() < waits.given_up))?;
        groups.note(place);
        entry.set(unique, call, caller, since);
        self.handling.clear(unique);
        Some(since)
    }

    /// A request that a dead worker left is about to be answered in a roundabout way, and is kept like an
    /// open that waits until [`Journal::leave`]. Where there is no room it is kept as what is in hand.
    pub(super) fn keep(&self, groups: &Groups, left: &Left, now: Duration) {
        let known = self.around(left.unique).any(|(_, entry)| entry.holds(left.unique));
        let place = self.around(left.unique).find(|(_, entry)| !known && entry.holds(0));
        if let Some((place, entry)) = place {
            groups.note(place);
            entry.set(left.unique, &left.call, &left.caller, now);
        }
    }

    /// The opens that wait since a moment in this range.
    pub(super) fn waiting_since(
        &self,
        groups: &Groups,
        range: Range<Duration>,
    ) -> impl Iterator<Item = u64> {
        let noted = groups.noted();
        let groups = self.opens.chunks(GROUP).zip(0..);
        let groups = groups.filter(move |(_, number)| noted & 1 << number != 0);
        let entries = groups.flat_map(|(group, _)| group);
        let entries = entries.filter(move |entry| range.contains(&entry.since()));
        entries.map(|entry| entry.unique.load(Ordering::Acquire)).filter(|unique| *unique != 0)
    }

    /// Whether there is room for one more open to wait.
    pub(super) fn has_room(&self, unique: u64) -> bool {
        let mut held = self.around(unique).map(|(_, entry)| entry.unique.load(Ordering::Acquire));
        held.any(|held| held == 0 || held == unique)
    }

    /// The request was answered, and the answer is written.
    pub(super) fn leave(&self, unique: u64, waited: bool) {
        if waited {
            // Nearly always the first.
            self.around(unique).find(|(_, entry)| entry.clear(unique));
            self.handling.clear(unique);
        } else {
            self.handling.clear_own(unique);
        }
        self.charges.done(unique);
    }

    /// All places, those of this number first.
    fn around(&self, unique: u64) -> impl Iterator<Item = (usize, &Entry)> {
        let start = usize::try_from(unique / 2).unwrap_or_default() % OPENS;
        let (before, from) = self.opens.split_at_checked(start).unwrap_or_default();
        (start..).zip(from).chain((0..).zip(before))
    }

    /// The runtime works on this waiting open until [`Journal::polled`].
    pub(super) fn polls(&self, unique: u64) {
        self.polling.store(unique, Ordering::Release);
    }

    pub(super) fn polled(&self) {
        self.polling.store(0, Ordering::Release);
    }

    /// A worker crashed, or had to be killed: whatever was in hand is to blame. Whether anything was.
    pub(super) fn charge(&self) -> bool {
        let handling = self.handling.unique.load(Ordering::Acquire);
        let in_hand = [handling, self.polling.load(Ordering::Acquire)];
        let mut charged = false;
        for unique in in_hand.into_iter().filter(|unique| *unique != 0) {
            self.charges.add(unique);
            charged = true;
        }
        charged
    }

    /// Whether so many workers died of this request that no other shall.
    pub(super) fn kills(&self, unique: u64) -> bool {
        self.charges.count(unique) >= MOST_DEATHS
    }

    /// What was in hand comes again by itself.
    pub(super) fn forget(&self) {
        self.polling.store(0, Ordering::Release);
        self.handling.unique.store(0, Ordering::Release);
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.forget();
        self.last.store(0, Ordering::Release);
        self.opens.iter().for_each(|entry| entry.unique.store(0, Ordering::Release));
        self.charges.clear();
    }

    /// The newest request of all, the one in hand, and the opens that wait.
    pub(super) fn left(&self) -> (u64, Option<Left>, Vec<Left>) {
        let mut opens: Vec<_> = self.opens.iter().filter_map(Entry::get).collect();
        opens.sort_unstable_by_key(|left| left.unique);
        // An open that was just handed on is in both places.
        let handling = self.handling.get();
        let handling = handling.filter(|one| opens.iter().all(|left| left.unique != one.unique));
        (self.last.load(Ordering::Acquire), handling, opens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::generations::State;

    const CALLER: Caller = Caller::new(1000, 100, 4_000_000_000);

    fn open(ino: u64) -> Call {
        Call { flags: 0o100_000, ..Call::kept("open", Opcode::Open, ino) }
    }

    #[test]
    fn what_was_in_hand_is_found_as_it_was() {
        let state = State::create().unwrap();
        let journal = &state.shared().journal;
        assert_eq!(journal.left(), (0, None, vec![]));
        let call = Call {
            handle: 7,
            offset: 1 << 40,
            size: 4096,
            ..Call::kept("read", Opcode::Read, 12_288)
        };
        journal.enter(10, &call, &CALLER);
        let left = Left { unique: 10, call, caller: CALLER };
        assert_eq!(journal.left(), (10, Some(left), vec![]));
        journal.leave(10, false);
        assert_eq!(journal.left(), (10, None, vec![]));
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn first(at: Duration) -> Waits {
        Waits { now: at, again: false, given_up: Duration::ZERO }
    }

    #[test]
    fn opens_that_wait_are_kept_until_they_are_answered() {
        let state = State::create().unwrap();
        let journal = &state.shared().journal;
        let numbers = (0..OPENS as u64).map(|n| 2 + n * 2);
        let wait = |unique, waits| {
            journal.wait(&state.shared().waits, unique, &open(unique), &CALLER, waits)
        };
        for unique in numbers.clone() {
            journal.enter(unique, &open(unique), &CALLER);
            assert_eq!(wait(unique, first(SECOND)), Some(SECOND));
        }
        assert_eq!(wait(1 << 30, first(SECOND)), None, "no room");
        let (last, handling, opens) = journal.left();
        assert_eq!((last, handling), (2 * OPENS as u64, None));
        assert!(opens.iter().map(|left| left.unique).eq(numbers.clone()));
        assert!(opens.iter().all(|left| left.call == open(left.unique)));
        numbers.for_each(|unique| journal.leave(unique, true));
        assert!(journal.left().2.is_empty());
    }

    #[test]
    fn an_open_that_comes_again_waits_since_it_first_came_wherever_it_is_kept() {
        let state = State::create().unwrap();
        let journal = &state.shared().journal;
        let wait = |unique, waits| {
            journal.wait(&state.shared().waits, unique, &open(unique), &CALLER, waits)
        };
        // All of them want the same place.
        let step = 2 * OPENS as u64;
        let numbers = (0..OPENS as u64).map(|n| 2 + n * step);
        for unique in numbers.clone() {
            assert_eq!(wait(unique, first(SECOND)), Some(SECOND));
        }
        // Places before their own become free, and are not taken twice.
        numbers.clone().step_by(2).for_each(|unique| journal.leave(unique, true));
        let again = Waits { again: true, ..first(9 * SECOND) };
        let left = numbers.clone().skip(1).step_by(2);
        assert!(left.clone().all(|unique| wait(unique, again) == Some(SECOND)));
        assert_eq!(journal.left().2.len(), OPENS / 2);
        assert_eq!(wait(2, again), Some(9 * SECOND), "it was answered meanwhile");
        let waiting =
            |from, to| journal.waiting_since(&state.shared().waits, SECOND * from..SECOND * to);
        assert!(waiting(1, 2).eq(waiting(0, 9)) && waiting(1, 2).count() == OPENS / 2);
        assert!(waiting(9, 10).eq([2]));
    }

    #[test]
    fn what_is_answered_in_a_roundabout_way_is_kept_until_then() {
        let state = State::create().unwrap();
        let journal = &state.shared().journal;
        let call = Call { handle: 7, size: 4096, ..Call::kept("read", Opcode::Read, 12_288) };
        journal.enter(10, &call, &CALLER);
        let left = Left { unique: 10, call, caller: CALLER };
        journal.keep(&state.shared().waits, &left, SECOND);
        journal.keep(&state.shared().waits, &left, SECOND);
        assert_eq!(journal.left(), (10, None, vec![left]), "once");
        journal.enter(10, &call, &CALLER);
        journal.leave(10, false);
        journal.enter(12, &open(12), &CALLER);
        assert_eq!(journal.left().2, [left], "others come after it");
        journal.leave(10, true);
        assert!(journal.left().2.is_empty());
    }

    #[test]
    fn an_open_that_was_given_up_long_ago_makes_room() {
        let state = State::create().unwrap();
        let journal = &state.shared().journal;
        let wait = |unique, waits| {
            journal.wait(&state.shared().waits, unique, &open(unique), &CALLER, waits)
        };
        for n in 0..OPENS as u64 {
            wait(2 + n * 2, first(if n == 7 { SECOND } else { 9 * SECOND })).unwrap();
        }
        let late = Waits { given_up: 2 * SECOND, ..first(99 * SECOND) };
        assert_eq!(wait(1 << 30, late), Some(99 * SECOND));
        assert!(journal.left().2.iter().all(|left| left.unique != 16));
        assert_eq!(wait(1 << 31, late), None);
    }

    #[test]
    fn a_request_that_was_in_hand_at_three_deaths_is_known() {
        let state = State::create().unwrap();
        let journal = &state.shared().journal;
        assert!(!journal.charge(), "nothing was in hand");
        journal.enter(10, &Call::other("lookup", 1), &CALLER);
        assert!(journal.charge());
        assert!(!journal.kills(10));
        journal.forget();
        journal.polls(10);
        assert!(journal.charge());
        assert!(!journal.kills(10));
        assert!(journal.charge());
        assert!(journal.kills(10) && !journal.kills(12));
        journal.polled();
        journal.leave(10, false);
        assert!(!journal.kills(10), "it is answered");
    }
}
