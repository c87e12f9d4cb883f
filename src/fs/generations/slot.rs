//! One generation of the token in the shared state, written under the rule of a sequence lock.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::{NEVER, nanos};
use crate::secret::{MAX_SECRET_BYTES, Secret};
use crate::time::Now;
use crate::token::{Life, Published, Token};

pub(super) const WORD: usize = size_of::<u64>();
const SECRET_WORDS: usize = MAX_SECRET_BYTES / WORD;

/// One generation of the token.
#[repr(C)]
pub(super) struct Slot {
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
    length: AtomicU64,
    pub(super) bytes: [AtomicU64; SECRET_WORDS],
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

impl Slot {
    /// Whether it holds this generation whole.
    pub(super) fn holds(&self, generation: u64) -> bool {
        generation != 0 && self.generation.load(Ordering::Acquire) == generation
    }

    /// Puts a token into it; one writer at a time. `source` is the number of its source.
    pub(super) fn write(
        &self,
        token: &Token,
        published: &Published,
        source: Option<usize>,
        now: &Now,
        in_the_middle: impl FnOnce(),
    ) {
        let old_words = self.words();
        let write = |word: &AtomicU64, value| word.store(value, Ordering::Relaxed);

        write(&self.generation, 0);
        fence(Ordering::Release);
        write(&self.issued_boot, nanos(token.issued.boot));
        write(&self.issued_wall, nanos(token.issued.wall));
        write(&self.life, nanos(token.life.duration()));
        write(&self.life_is_known, u64::from(matches!(token.life, Life::Known(_))));
        write(&self.published, nanos(now.wall));
        write(&self.published_boot, nanos(now.boot));
        let expiry = published.expires_at.and_then(|at| u64::try_from(at.as_second()).ok());
        write(&self.expires_at, expiry.unwrap_or(NEVER));
        write(&self.source, source.map_or(NEVER, |index| index as u64));
        let bytes = token.secret.expose();
        write(&self.length, bytes.len() as u64);
        let mut words = self.bytes.iter();
        for (chunk, word) in bytes.chunks(WORD).zip(&mut words) {
            let mut padded = Zeroizing::new([0; WORD]);
            for (to, from) in padded.iter_mut().zip(chunk) {
                *to = *from;
            }
            write(word, u64::from_le_bytes(*padded));
        }
        in_the_middle();
        // What is left of a longer token of 64 generations ago.
        for word in words.take(old_words) {
            write(word, 0);
        }
        write(&self.checksum, self.sum(token.generation));
        self.generation.store(token.generation, Ordering::Release);
    }

    /// The token in it, if it is whole and of this generation. `sources` are the names of the sources.
    pub(super) fn read(&self, generation: u64, sources: &[&'static str]) -> Option<Generation> {
        if !self.holds(generation) {
            return None;
        }
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let length = usize::try_from(read(&self.length)).ok()?;
        let issued = Now {
            boot: Duration::from_nanos(read(&self.issued_boot)),
            wall: Duration::from_nanos(read(&self.issued_wall)),
        };
        let life = Duration::from_nanos(read(&self.life));
        let life =
            if read(&self.life_is_known) == 1 { Life::Known(life) } else { Life::Assumed(life) };
        let expires_at = read(&self.expires_at);
        let source = usize::try_from(read(&self.source)).ok();
        let source = source.and_then(|index| sources.get(index)).copied().unwrap_or("unknown");
        let published_at = Duration::from_nanos(read(&self.published));
        let mut bytes = Zeroizing::new(Vec::with_capacity(length.next_multiple_of(WORD)));
        for word in self.bytes.iter().take(length.div_ceil(WORD)) {
            bytes.extend_from_slice(&read(word).to_le_bytes());
        }
        bytes.truncate(length);
        let sum = read(&self.checksum);
        let own_sum = self.sum(generation);
        fence(Ordering::Acquire);
        if self.generation.load(Ordering::Relaxed) != generation || sum != own_sum {
            return None;
        }
        let secret = Secret::new(std::mem::take(&mut *bytes)).ok()?;
        let expires_at = (expires_at != NEVER)
            .then(|| i64::try_from(expires_at).ok().and_then(|at| Timestamp::from_second(at).ok()))
            .flatten();
        let published = Published { secret: secret.clone(), expires_at };
        Some(Generation {
            token: Token { secret, generation, source, issued, life },
            published,
            published_at,
        })
    }

    /// When its generation was published (boot clock).
    pub(super) fn published_boot(&self) -> Duration {
        Duration::from_nanos(self.published_boot.load(Ordering::Relaxed))
    }

    /// How many words its bytes fill.
    fn words(&self) -> usize {
        usize::try_from(self.length.load(Ordering::Relaxed))
            .unwrap_or(MAX_SECRET_BYTES)
            .div_ceil(WORD)
    }

    /// FNV-1a over the words of the body: tells a complete slot from one whose writer died.
    fn sum(&self, generation: u64) -> u64 {
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
        head.into_iter()
            .chain(self.bytes.iter().take(self.words()))
            .map(|word| word.load(Ordering::Relaxed))
            .fold(0xcbf2_9ce4_8422_2325 ^ generation, |sum, word| {
                (sum ^ word).wrapping_mul(0x0000_0100_0000_01b3)
            })
    }
}
