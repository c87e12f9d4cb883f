//! What the engine and the supervisor leave for those who come after them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::slot::WORD;
use super::{NEVER, from_optional_nanos, nanos, optional_nanos};
use crate::refresh::Rejection;
use crate::refresh::policy::Clocks;
use crate::refresh::policy::clocks::{Seen, TOKENS};
use crate::refresh::policy::{BackOff, Progress};
use crate::secret::Fingerprint;
use crate::source::MAX_SOURCES;
use crate::time::Now;

/// [`Progress`] in words. Each word is right by itself, so a death between two of them costs a
/// back-off at most.
#[repr(C)]
pub(super) struct SavedProgress {
    sources: [SavedBackOff; MAX_SOURCES],
    next_refresh: AtomicU64,
    rejected: AtomicU32,
    has_rejected: AtomicU32,
    rejected_boot: AtomicU64,
    rejected_wall: AtomicU64,
    withheld_until: AtomicU64,
    /// How often it was said.
    rejections: AtomicU64,
    /// [`NEVER`] where it is not known.
    rejected_by: AtomicU64,
    is_denied: AtomicU64,
    repeats: AtomicU64,
    last_open: AtomicU64,
    clocks: SavedClocks,
}

/// [`BackOff`] in words.
#[repr(C)]
struct SavedBackOff {
    strikes: AtomicU64,
    not_before: AtomicU64,
    wish: AtomicU64,
}

impl SavedBackOff {
    fn load(&self) -> BackOff {
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        BackOff {
            strikes: u32::try_from(read(&self.strikes)).unwrap_or(u32::MAX),
            not_before: Duration::from_nanos(read(&self.not_before)),
            wish: Duration::from_nanos(read(&self.wish)),
        }
    }

    fn save(&self, back_off: &BackOff) {
        self.strikes.store(back_off.strikes.into(), Ordering::Relaxed);
        self.not_before.store(nanos(back_off.not_before), Ordering::Relaxed);
        self.wish.store(nanos(back_off.wish), Ordering::Relaxed);
    }
}

/// [`Clocks`] in words.
#[repr(C)]
struct SavedClocks {
    anchor_boot: AtomicU64,
    /// [`NEVER`] where there is no anchor.
    anchor_wall: AtomicU64,
    lag: AtomicU64,
    next: AtomicU64,
    seen: [SavedToken; TOKENS],
}

/// [`Seen`] in words.
#[repr(C)]
struct SavedToken {
    /// [`NEVER`] where there is none.
    end: AtomicU64,
    fingerprint: AtomicU32,
    flags: AtomicU32,
}

const PROVES_LAG: u32 = 1;
const DOUBTED: u32 = 2;

impl SavedClocks {
    fn begin(&self) {
        self.anchor_wall.store(NEVER, Ordering::Relaxed);
        for token in &self.seen {
            token.end.store(NEVER, Ordering::Relaxed);
        }
    }

    fn load(&self) -> Clocks {
        let read = |word: &AtomicU64| from_optional_nanos(word.load(Ordering::Relaxed));
        let anchor = read(&self.anchor_wall).map(|wall| Now {
            boot: Duration::from_nanos(self.anchor_boot.load(Ordering::Relaxed)),
            wall,
        });
        let mut seen = [None; TOKENS];
        for (seen, saved) in seen.iter_mut().zip(&self.seen) {
            let flags = saved.flags.load(Ordering::Relaxed);
            let fingerprint = Fingerprint::from_u32(saved.fingerprint.load(Ordering::Relaxed));
            let (proves_lag, doubted) = (flags & PROVES_LAG != 0, flags & DOUBTED != 0);
            let end = saved.end.load(Ordering::Relaxed);
            *seen = (end != NEVER).then_some(Seen { fingerprint, end, proves_lag, doubted });
        }
        let next = usize::try_from(self.next.load(Ordering::Relaxed)).unwrap_or_default() % TOKENS;
        Clocks { anchor, seen, next, lag: read(&self.lag).unwrap_or_default() }
    }

    fn save(&self, clocks: &Clocks) {
        let write = |word: &AtomicU64, value: u64| word.store(value, Ordering::Relaxed);
        write(&self.anchor_boot, clocks.anchor.map_or(0, |anchor| nanos(anchor.boot)));
        write(&self.anchor_wall, optional_nanos(clocks.anchor.map(|anchor| anchor.wall)));
        write(&self.lag, nanos(clocks.lag));
        write(&self.next, clocks.next as u64);
        for (saved, seen) in self.seen.iter().zip(&clocks.seen) {
            let Some(seen) = seen else {
                write(&saved.end, NEVER);
                continue;
            };
            let flag = |is_so: bool, flag| if is_so { flag } else { 0 };
            let flags = flag(seen.proves_lag, PROVES_LAG) | flag(seen.doubted, DOUBTED);
            saved.fingerprint.store(seen.fingerprint.to_u32(), Ordering::Relaxed);
            saved.flags.store(flags, Ordering::Relaxed);
            write(&saved.end, seen.end.min(NEVER - 1));
        }
    }
}

impl SavedProgress {
    /// Nothing has happened yet: all zeros, but for the times that are not there.
    pub(super) fn begin(&self) {
        self.next_refresh.store(NEVER, Ordering::Relaxed);
        self.last_open.store(NEVER, Ordering::Relaxed);
        self.clocks.begin();
    }

    pub(super) fn load(&self) -> Progress {
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let rejected = (self.has_rejected.load(Ordering::Acquire) == 1).then(|| {
            let at = Now {
                boot: Duration::from_nanos(read(&self.rejected_boot)),
                wall: Duration::from_nanos(read(&self.rejected_wall)),
            };
            let fingerprint = Fingerprint::from_u32(self.rejected.load(Ordering::Relaxed));
            Rejection {
                fingerprint,
                at,
                withheld_until: Duration::from_nanos(read(&self.withheld_until)),
                count: read(&self.rejections),
                user: u32::try_from(read(&self.rejected_by)).ok(),
                is_denied: read(&self.is_denied) == 1,
            }
        });
        Progress {
            sources: std::array::from_fn(|place| {
                self.sources.get(place).map(SavedBackOff::load).unwrap_or_default()
            }),
            next_refresh: from_optional_nanos(read(&self.next_refresh)),
            rejected,
            repeats: read(&self.repeats) == 1,
            last_open: from_optional_nanos(read(&self.last_open)),
            clocks: self.clocks.load(),
        }
    }

    pub(super) fn save(&self, progress: &Progress) {
        let write = |word: &AtomicU64, value: u64| word.store(value, Ordering::Relaxed);
        self.sources.iter().zip(&progress.sources).for_each(|(to, from)| to.save(from));
        write(&self.next_refresh, optional_nanos(progress.next_refresh));
        write(&self.repeats, progress.repeats.into());
        write(&self.last_open, optional_nanos(progress.last_open));
        self.clocks.save(&progress.clocks);
        if let Some(rejection) = progress.rejected {
            self.rejected.store(rejection.fingerprint.to_u32(), Ordering::Relaxed);
            write(&self.rejected_boot, nanos(rejection.at.boot));
            write(&self.rejected_wall, nanos(rejection.at.wall));
            write(&self.withheld_until, nanos(rejection.withheld_until));
            write(&self.rejections, rejection.count);
            write(&self.rejected_by, rejection.user.map_or(NEVER, u64::from));
            write(&self.is_denied, rejection.is_denied.into());
        }
        self.has_rejected.store(progress.rejected.is_some().into(), Ordering::Release);
    }
}

/// What the supervisor did last of a kind: an upgrade, or a remount. Written by it alone, read for status:
/// a reader that comes in between may see the texts of two.
#[repr(C)]
pub(super) struct Deed {
    /// 0 where there was none.
    at: AtomicU64,
    length: AtomicU64,
    /// Why; empty for an upgrade that succeeded.
    text: [AtomicU64; DEED_TEXT / WORD],
}

/// The longest reason that is kept, in bytes.
const DEED_TEXT: usize = 256;

impl Deed {
    pub(super) fn set(&self, at: Duration, text: &str) {
        write_text(&self.text, &self.length, text);
        self.at.store(nanos(at), Ordering::Release);
    }

    pub(super) fn get(&self) -> Option<(Duration, String)> {
        let at = self.at.load(Ordering::Acquire);
        (at != 0).then(|| (Duration::from_nanos(at), read_text(&self.text, &self.length)))
    }
}

/// Keeps what there is room for of a text.
pub(super) fn write_text(words: &[AtomicU64], length: &AtomicU64, text: &str) {
    let bytes = text.as_bytes().chunks(WORD).map(|chunk| {
        let mut padded = [0; WORD];
        padded.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(padded)
    });
    for (word, bytes) in words.iter().zip(bytes) {
        word.store(bytes, Ordering::Relaxed);
    }
    length.store(text.len().min(words.len() * WORD) as u64, Ordering::Relaxed);
}

/// The text that was kept.
pub(super) fn read_text(words: &[AtomicU64], length: &AtomicU64) -> String {
    let length = usize::try_from(length.load(Ordering::Relaxed)).unwrap_or_default();
    let words = words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
    String::from_utf8_lossy(&words.take(length).collect::<Vec<u8>>()).into_owned()
}
