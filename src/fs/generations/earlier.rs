//! What a supervisor of the version before named tokens has in its memory of the one token that there was.
//!
//! It is read, never written: so whoever has a file open at the upgrade reads on, and nobody waits for a
//! fetch.

use std::sync::atomic::{AtomicU64, Ordering};

use super::slot::{Generation, Head, WORD};
use crate::secret::MAX_SECRET_BYTES;
#[cfg(test)]
use crate::token::{Published, Token};

/// The layout that is read here.
pub(super) const LAYOUT: u64 = 7;

/// How many views and generations that version had room for.
const VIEWS: usize = 256;
const SLOTS: usize = 64;
/// Where its slots began, in bytes.
const SLOTS_AT: usize = 391_640;
const WORDS_BEFORE_CURRENT: usize = 4;

/// The memory, as far as it is about the token.
#[repr(C)]
pub(super) struct Earlier {
    /// Magic, layout, and the connection's last generation.
    head: [AtomicU64; WORDS_BEFORE_CURRENT - 1],
    prepared: AtomicU64,
    current: [AtomicU64; VIEWS],
    connection: [AtomicU64; SLOTS_AT / WORD - WORDS_BEFORE_CURRENT - VIEWS],
    slots: [Slot; SLOTS],
}

#[repr(C)]
struct Slot {
    head: Head,
    length: AtomicU64,
    bytes: [AtomicU64; MAX_SECRET_BYTES / WORD],
}

impl Earlier {
    /// The newest generation; 0 where there is none.
    pub(super) fn prepared(&self) -> u64 {
        self.prepared.load(Ordering::Acquire)
    }

    /// The generation that each view shows.
    pub(super) fn current(&self) -> impl Iterator<Item = u64> {
        self.current.iter().map(|word| word.load(Ordering::Acquire))
    }

    /// A generation, if it is kept. `sources` are the names of the sources.
    pub(super) fn generation(
        &self,
        generation: u64,
        sources: &[&'static str],
    ) -> Option<Generation> {
        let slot = self.slots.iter().find(|slot| slot.head.holds(generation))?;
        let length = usize::try_from(slot.length.load(Ordering::Relaxed)).ok()?;
        let words = slot.bytes.get(..length.div_ceil(WORD))?;
        slot.head.read(generation, &[&slot.length], (words, length), sources)
    }
}

#[cfg(test)]
impl Earlier {
    /// Puts a token into the first slot, as that version did, and shows it in these views.
    pub(super) fn put(&self, token: &Token, views: &[u8]) {
        let slot = self.slots.first().unwrap();
        let secret = token.secret.expose();
        slot.length.store(secret.len() as u64, Ordering::Relaxed);
        let words = slot.bytes.get(..secret.len().div_ceil(WORD)).unwrap();
        let published = Published { secret: token.secret.clone(), expires_at: None };
        slot.head.put(token, &published, &[&slot.length], words);
        self.prepared.store(token.generation, Ordering::Relaxed);
        for view in views {
            let word = self.current.get(usize::from(*view)).unwrap();
            word.store(token.generation, Ordering::Relaxed);
        }
    }

    /// Leaves the first slot as a writer does that dies.
    pub(super) fn tear(&self) {
        self.slots.first().unwrap().length.store(3, Ordering::Relaxed);
    }
}
