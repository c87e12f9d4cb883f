//! One generation of a token in the shared state, written under the rule of a sequence lock.
//!
//! The bytes of all generations lie in one array, each where there was room for it: so what a token
//! takes goes by its length, and not by that of the longest.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::{NEVER, nanos};
use crate::secret::{MAX_SECRET_BYTES, Secret};
use crate::time::Now;
use crate::token::{Life, Published, Token};

pub(super) const WORD: usize = size_of::<u64>();
/// Room for the bytes of a token's generations. Whatever the newest leaves in one piece holds the longest
/// token; 64 of 3.5 KiB fit.
pub(super) const BYTES: usize = 224 * 1024;
const _: () = assert!(BYTES >= 3 * MAX_SECRET_BYTES);

/// The bytes of a token's generations.
pub(super) type Bytes = [AtomicU64; BYTES / WORD];

/// What there is of a generation besides its bytes. Earlier layouts have the same.
#[repr(C)]
pub(super) struct Head {
    /// 0 while it is empty or being written.
    pub(super) generation: AtomicU64,
    checksum: AtomicU64,
    issued_boot: AtomicU64,
    issued_wall: AtomicU64,
    life: AtomicU64,
    life_is_known: AtomicU64,
    /// Nanoseconds of wall time; what `mtime` shows.
    published: AtomicU64,
    /// The same moment by the boot clock.
    published_boot: AtomicU64,
    /// Seconds since the epoch, as shown in views; [`u64::MAX`] where nobody knows.
    expires_at: AtomicU64,
    source: AtomicU64,
}

/// One generation of a token.
#[repr(C)]
pub(super) struct Slot {
    pub(super) head: Head,
    /// Where its bytes begin, in words.
    at: AtomicU64,
    /// How many bytes there are. The place is taken while it is not 0, also where a writer died.
    length: AtomicU64,
}

/// A token as a slot holds it.
#[derive(Debug, Clone)]
pub struct Generation {
    /// The token.
    pub token: Token,
    /// What its views are rendered from.
    pub published: Published,
    /// When it was published (wall clock): the `mtime` of its views.
    pub published_at: Duration,
}

impl Head {
    /// Whether it is of this generation, whole.
    pub(super) fn holds(&self, generation: u64) -> bool {
        generation != 0 && self.generation.load(Ordering::Acquire) == generation
    }

    /// Writes all but the bytes, and but what makes it valid: see [`Head::complete`].
    fn write(&self, token: &Token, published: &Published, source: Option<usize>, now: &Now) {
        let write = |word: &AtomicU64, value| word.store(value, Ordering::Relaxed);
        write(&self.issued_boot, nanos(token.issued.boot));
        write(&self.issued_wall, nanos(token.issued.wall));
        write(&self.life, nanos(token.life.duration()));
        write(&self.life_is_known, u64::from(matches!(token.life, Life::Known(_))));
        write(&self.published, nanos(now.wall));
        write(&self.published_boot, nanos(now.boot));
        let expiry = published.expires_at.and_then(|at| u64::try_from(at.as_second()).ok());
        write(&self.expires_at, expiry.unwrap_or(NEVER));
        write(&self.source, source.map_or(NEVER, |index| index as u64));
    }

    /// Makes it valid. `rest` is what follows it: where its bytes are, and they.
    fn complete<'a>(&'a self, generation: u64, rest: impl Iterator<Item = &'a AtomicU64>) {
        self.checksum.store(self.sum(generation, rest), Ordering::Relaxed);
        self.generation.store(generation, Ordering::Release);
    }

    /// The token, if it is whole and of this generation. `place` says where its bytes are, of which there
    /// are `length`; `sources` are the names of the sources.
    pub(super) fn read(
        &self,
        generation: u64,
        place: &[&AtomicU64],
        (words, length): (&[AtomicU64], usize),
        sources: &[&'static str],
    ) -> Option<Generation> {
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let time = |word: &AtomicU64| Duration::from_nanos(read(word));
        let issued = Now { boot: time(&self.issued_boot), wall: time(&self.issued_wall) };
        let is_known = read(&self.life_is_known) == 1;
        let life = if is_known { Life::Known } else { Life::Assumed }(time(&self.life));
        let (expires_at, published_at) = (read(&self.expires_at), time(&self.published));
        let source = usize::try_from(read(&self.source)).ok();
        let source = source.and_then(|index| sources.get(index)).copied().unwrap_or("unknown");
        let mut bytes = Zeroizing::new(Vec::with_capacity(length.next_multiple_of(WORD)));
        for word in words {
            bytes.extend_from_slice(&read(word).to_le_bytes());
        }
        bytes.truncate(length);
        let sum = read(&self.checksum);
        let own_sum = self.sum(generation, place.iter().copied().chain(words));
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

    /// FNV-1a over the words of the body: tells a complete slot from one whose writer died.
    fn sum<'a>(&'a self, generation: u64, rest: impl Iterator<Item = &'a AtomicU64>) -> u64 {
        let own = [
            &self.issued_boot,
            &self.issued_wall,
            &self.life,
            &self.life_is_known,
            &self.published,
            &self.published_boot,
            &self.expires_at,
            &self.source,
        ];
        own.into_iter()
            .chain(rest)
            .map(|word| word.load(Ordering::Relaxed))
            .fold(0xcbf2_9ce4_8422_2325 ^ generation, |sum, word| {
                (sum ^ word).wrapping_mul(0x0000_0100_0000_01b3)
            })
    }
}

#[cfg(test)]
impl Head {
    /// Writes a token and its bytes.
    pub(super) fn put(
        &self,
        token: &Token,
        published: &Published,
        place: &[&AtomicU64],
        words: &[AtomicU64],
    ) {
        self.write(token, published, Some(0), &token.issued);
        put(token.secret.expose(), words);
        self.complete(token.generation, place.iter().copied().chain(words));
    }
}

impl Slot {
    /// Puts a token into it, which must be clear; one writer at a time. Its bytes go to `at`, where there
    /// is room. `source` is the number of its source.
    pub(super) fn write(
        &self,
        (bytes, at): (&Bytes, usize),
        token: &Token,
        published: &Published,
        source: Option<usize>,
        now: &Now,
        in_the_middle: impl FnOnce(),
    ) {
        let secret = token.secret.expose();
        self.at.store(at as u64, Ordering::Relaxed);
        self.length.store(secret.len() as u64, Ordering::Release);
        self.head.write(token, published, source, now);
        let words = self.words(bytes);
        put(secret, words);
        in_the_middle();
        self.head.complete(token.generation, [&self.at, &self.length].into_iter().chain(words));
    }

    /// Wipes it and what it has of the bytes, whether its writer came to an end or died.
    pub(super) fn clear(&self, bytes: &Bytes) {
        self.head.generation.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        self.words(bytes).iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.length.store(0, Ordering::Release);
    }

    /// The token in it, if it is whole and of this generation. `sources` are the names of the sources.
    pub(super) fn read(
        &self,
        all: &Bytes,
        generation: u64,
        sources: &[&'static str],
    ) -> Option<Generation> {
        if !self.head.holds(generation) {
            return None;
        }
        let length = usize::try_from(self.length.load(Ordering::Relaxed)).ok()?;
        if length > MAX_SECRET_BYTES {
            return None;
        }
        self.head.read(generation, &[&self.at, &self.length], (self.words(all), length), sources)
    }

    /// Its generation, and when that was published (boot clock).
    pub(super) fn kept(&self) -> Option<(u64, Duration)> {
        let generation = self.head.generation.load(Ordering::Acquire);
        let published = Duration::from_nanos(self.head.published_boot.load(Ordering::Relaxed));
        (generation != 0).then_some((generation, published))
    }

    /// The part of the bytes that it has, in words; empty where there is none.
    pub(super) fn extent(&self) -> Range<usize> {
        let read = |word: &AtomicU64| usize::try_from(word.load(Ordering::Acquire));
        let length = read(&self.length).unwrap_or_default().div_ceil(WORD);
        let start = read(&self.at).unwrap_or_default();
        start..start.saturating_add(length)
    }

    fn words<'a>(&self, bytes: &'a Bytes) -> &'a [AtomicU64] {
        bytes.get(self.extent()).unwrap_or_default()
    }
}

/// Writes bytes into words; the last is padded with zeros.
fn put(bytes: &[u8], words: &[AtomicU64]) {
    for (chunk, word) in bytes.chunks(WORD).zip(words) {
        let mut padded = Zeroizing::new([0; WORD]);
        for (to, from) in padded.iter_mut().zip(chunk) {
            *to = *from;
        }
        word.store(u64::from_le_bytes(*padded), Ordering::Relaxed);
    }
}

/// Where so many bytes fit among those that the slots have; a generation that is older than all others
/// but the newest is given up for them where there is no room.
pub(super) fn make_room(slots: &[&Slot], bytes: &Bytes, newest: u64, length: usize) -> usize {
    let words = length.div_ceil(WORD);
    loop {
        if let Some(at) = gap(slots, words) {
            return at;
        }
        let age = |slot: &&&Slot| slot.head.generation.load(Ordering::Relaxed);
        let may_go = |slot: &&&Slot| !slot.extent().is_empty() && !slot.head.holds(newest);
        match slots.iter().filter(may_go).min_by_key(age) {
            Some(slot) => slot.clear(bytes),
            // The newest alone leaves room for any token.
            None => return 0,
        }
    }
}

/// The first gap of so many words.
fn gap(slots: &[&Slot], words: usize) -> Option<usize> {
    let extents = slots.iter().map(|slot| slot.extent());
    let mut taken: Vec<_> = extents.filter(|extent| !extent.is_empty()).collect();
    taken.sort_unstable_by_key(|extent| extent.start);
    let mut at = 0;
    for extent in taken {
        if extent.start.saturating_sub(at) >= words {
            return Some(at);
        }
        at = at.max(extent.end);
    }
    ((BYTES / WORD).saturating_sub(at) >= words).then_some(at)
}
