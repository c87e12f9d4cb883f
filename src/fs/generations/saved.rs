//! What the engine and the supervisor leave for those who come after them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::slot::WORD;
use super::{NEVER, from_optional_nanos, nanos, optional_nanos};
use crate::refresh::store::Progress;
use crate::secret::Fingerprint;
use crate::time::Now;

/// [`Progress`] in words. Each word is right by itself, so a death between two of them costs a
/// back-off at most.
#[repr(C)]
pub(super) struct SavedProgress {
    strikes: AtomicU64,
    not_before: AtomicU64,
    next_refresh: AtomicU64,
    rejected: AtomicU32,
    has_rejected: AtomicU32,
    rejected_boot: AtomicU64,
    rejected_wall: AtomicU64,
    withheld_until: AtomicU64,
    skew: AtomicU64,
    repeats: AtomicU64,
    last_open: AtomicU64,
}

impl SavedProgress {
    /// Nothing has happened yet: all zeros, but for the times that are not there.
    pub(super) fn begin(&self) {
        self.next_refresh.store(NEVER, Ordering::Relaxed);
        self.last_open.store(NEVER, Ordering::Relaxed);
    }

    pub(super) fn load(&self) -> Progress {
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let rejected = (self.has_rejected.load(Ordering::Acquire) == 1).then(|| {
            let at = Now {
                boot: Duration::from_nanos(read(&self.rejected_boot)),
                wall: Duration::from_nanos(read(&self.rejected_wall)),
            };
            let fingerprint = Fingerprint::from_u32(self.rejected.load(Ordering::Relaxed));
            (fingerprint, at, Duration::from_nanos(read(&self.withheld_until)))
        });
        Progress {
            strikes: u32::try_from(read(&self.strikes)).unwrap_or(u32::MAX),
            not_before: Duration::from_nanos(read(&self.not_before)),
            next_refresh: from_optional_nanos(read(&self.next_refresh)),
            rejected,
            skew: Duration::from_nanos(read(&self.skew)),
            repeats: read(&self.repeats) == 1,
            last_open: from_optional_nanos(read(&self.last_open)),
        }
    }

    pub(super) fn save(&self, progress: &Progress) {
        let write = |word: &AtomicU64, value: u64| word.store(value, Ordering::Relaxed);
        write(&self.strikes, progress.strikes.into());
        write(&self.not_before, nanos(progress.not_before));
        write(&self.next_refresh, optional_nanos(progress.next_refresh));
        write(&self.skew, nanos(progress.skew));
        write(&self.repeats, progress.repeats.into());
        write(&self.last_open, optional_nanos(progress.last_open));
        if let Some((fingerprint, at, until)) = progress.rejected {
            self.rejected.store(fingerprint.to_u32(), Ordering::Relaxed);
            write(&self.rejected_boot, nanos(at.boot));
            write(&self.rejected_wall, nanos(at.wall));
            write(&self.withheld_until, nanos(until));
        }
        self.has_rejected.store(progress.rejected.is_some().into(), Ordering::Release);
    }
}

/// How the last upgrade went. Written by the supervisor alone, read for status: a reader that comes in
/// between may see the texts of two.
#[repr(C)]
pub(super) struct LastUpgrade {
    /// 0 where there was none.
    at: AtomicU64,
    length: AtomicU64,
    /// Why it failed; empty where it did not.
    text: [AtomicU64; UPGRADE_TEXT / WORD],
}

/// The longest reason that is kept, in bytes.
const UPGRADE_TEXT: usize = 256;

impl LastUpgrade {
    pub(super) fn set(&self, at: Duration, outcome: Result<(), String>) {
        let text = outcome.err().unwrap_or_default();
        let bytes = text.as_bytes().chunks(WORD).map(|chunk| {
            let mut padded = [0; WORD];
            padded.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            u64::from_le_bytes(padded)
        });
        for (word, bytes) in self.text.iter().zip(bytes) {
            word.store(bytes, Ordering::Relaxed);
        }
        self.length.store(text.len().min(UPGRADE_TEXT) as u64, Ordering::Relaxed);
        self.at.store(nanos(at), Ordering::Release);
    }

    pub(super) fn get(&self) -> Option<(Duration, Result<(), String>)> {
        let at = self.at.load(Ordering::Acquire);
        let length = usize::try_from(self.length.load(Ordering::Relaxed)).ok()?;
        let words = self.text.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
        let text: Vec<u8> = words.take(length).collect();
        let outcome = match String::from_utf8_lossy(&text).into_owned() {
            text if text.is_empty() => Ok(()),
            text => Err(text),
        };
        (at != 0).then(|| (Duration::from_nanos(at), outcome))
    }
}
