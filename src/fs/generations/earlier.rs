//! What a supervisor of the version before named tokens has in its memory of the one token that there was.
//!
//! It is read, never written: so whoever has a file open at the upgrade reads on, and nobody waits for a
//! fetch.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::NEVER;
use super::slot::{Generation, WORD, checksum};
use crate::secret::{MAX_SECRET_BYTES, Secret};
use crate::time::Now;
use crate::token::{Life, Published, Token};

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
    generation: AtomicU64,
    checksum: AtomicU64,
    issued_boot: AtomicU64,
    issued_wall: AtomicU64,
    life: AtomicU64,
    life_is_known: AtomicU64,
    published: AtomicU64,
    published_boot: AtomicU64,
    expires_at: AtomicU64,
    source: AtomicU64,
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
        let holds = |slot: &&Slot| slot.generation.load(Ordering::Acquire) == generation;
        self.slots.iter().find(holds)?.read(generation, sources)
    }
}

impl Slot {
    fn read(&self, generation: u64, sources: &[&'static str]) -> Option<Generation> {
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let time = |word: &AtomicU64| Duration::from_nanos(read(word));
        let length = usize::try_from(read(&self.length)).ok()?;
        let words = self.bytes.get(..length.div_ceil(WORD))?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(length.next_multiple_of(WORD)));
        for word in words {
            bytes.extend_from_slice(&read(word).to_le_bytes());
        }
        bytes.truncate(length);
        let issued = Now { boot: time(&self.issued_boot), wall: time(&self.issued_wall) };
        let is_known = read(&self.life_is_known) == 1;
        let life = if is_known { Life::Known } else { Life::Assumed }(time(&self.life));
        let (expires_at, published_at) = (read(&self.expires_at), time(&self.published));
        let source = usize::try_from(read(&self.source)).ok();
        let source = source.and_then(|index| sources.get(index)).copied().unwrap_or("unknown");
        let (sum, own_sum) = (read(&self.checksum), self.sum(words, generation));
        fence(Ordering::Acquire);
        if generation == 0 || read(&self.generation) != generation || sum != own_sum {
            return None;
        }
        let secret = Secret::new(std::mem::take(&mut *bytes)).ok()?;
        let expires_at = (expires_at != NEVER).then(|| i64::try_from(expires_at).ok()).flatten();
        let expires_at = expires_at.and_then(|at| Timestamp::from_second(at).ok());
        let published = Published { secret: secret.clone(), expires_at };
        let token = Token { secret, generation, source, issued, life };
        Some(Generation { token, published, published_at })
    }

    /// What its writer entered as `checksum`.
    fn sum(&self, bytes: &[AtomicU64], generation: u64) -> u64 {
        let head = [
            &self.issued_boot,
            &self.issued_wall,
            &self.life,
            &self.life_is_known,
            &self.published,
            &self.published_boot,
            &self.expires_at,
            &self.source,
            &self.length,
        ];
        checksum(generation, head.into_iter().chain(bytes))
    }
}

#[cfg(test)]
impl Earlier {
    /// Puts a token into the first slot, as that version did, and shows it in these views.
    pub(super) fn put(&self, token: &Token, views: &[u8]) {
        let slot = self.slots.first().unwrap();
        let write = |word: &AtomicU64, value| word.store(value, Ordering::Relaxed);
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap();
        write(&slot.issued_boot, nanos(token.issued.boot));
        write(&slot.issued_wall, nanos(token.issued.wall));
        write(&slot.life, nanos(token.life.duration()));
        write(&slot.life_is_known, 1);
        write(&slot.expires_at, NEVER);
        let secret = token.secret.expose();
        write(&slot.length, secret.len() as u64);
        let words = secret.chunks(WORD).zip(&slot.bytes);
        for (chunk, word) in words {
            let mut padded = [0; WORD];
            padded.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            write(word, u64::from_le_bytes(padded));
        }
        let filled = slot.bytes.get(..secret.len().div_ceil(WORD)).unwrap();
        write(&slot.checksum, slot.sum(filled, token.generation));
        write(&slot.generation, token.generation);
        write(&self.prepared, token.generation);
        for view in views {
            write(self.current.get(usize::from(*view)).unwrap(), token.generation);
        }
    }

    /// Leaves the first slot as a writer does that dies.
    pub(super) fn tear(&self) {
        self.slots.first().unwrap().length.store(3, Ordering::Relaxed);
    }
}
