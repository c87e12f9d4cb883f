//! The shared state: one memfd mapping of fixed layout that holds everything that must outlive a
//! request, so that a process that takes the mount over goes on where the last one stopped.
//!
//! Every word of it is an atomic. A slot is written under the rule of a sequence lock (generation
//! 0, body, checksum, generation), so that a process that dies in the middle leaves no torn token,
//! and a reader never sees one. The memory is locked on first touch, kept out of core dumps, and
//! sealed against a change of its size.

#![expect(unsafe_code, reason = "maps the memfd and locks it")]

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mm::{MlockFlags, mlock_with};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::fs::fault::{self, Fault};
use crate::fs::journal::{Journal, Left};
use crate::fs::tables::{Handed, Marks, Waiting};
use crate::refresh::store::{Progress, Saved, Store};
use crate::secret::{Fingerprint, MAX_SECRET_BYTES, Secret};
use crate::source::BoxFuture;
use crate::time::Now;
use crate::token::{FreshToken, Life, Published, Token};

/// How many generations stay readable for those who have them open.
pub const SLOTS: usize = 64;
/// Room for view numbers.
pub const VIEWS: usize = 256;

const MAGIC: u64 = u64::from_be_bytes(*b"mol-tkfs");
/// Changes with every change of [`Shared`]: a process of another layout starts with a state of its
/// own.
const LAYOUT: u64 = 2;
const WORD: usize = size_of::<u64>();
const SECRET_WORDS: usize = MAX_SECRET_BYTES / WORD;

/// One generation of the token.
#[repr(C)]
struct Slot {
    /// 0 while it is empty or being written.
    generation: AtomicU64,
    checksum: AtomicU64,
    issued_boot: AtomicU64,
    issued_wall: AtomicU64,
    life: AtomicU64,
    life_is_known: AtomicU64,
    /// Nanoseconds of wall time; what `mtime` shows.
    published: AtomicU64,
    /// Seconds since the epoch, as shown in views; [`u64::MAX`] where nobody knows.
    expires_at: AtomicU64,
    source: AtomicU64,
    length: AtomicU64,
    bytes: [AtomicU64; SECRET_WORDS],
}

/// The whole mapping. Its bytes are valid for every bit pattern, also all zeros.
#[repr(C)]
pub(super) struct Shared {
    magic: AtomicU64,
    layout: AtomicU64,
    last_generation: AtomicU64,
    /// The newest generation whose slot is complete.
    prepared: AtomicU64,
    /// The generation that each view shows.
    current: [AtomicU64; VIEWS],
    /// The generation of each view whose arrival its live inode has told watchers of.
    touched: [AtomicU64; VIEWS],
    /// Requests that were taken from the kernel, and those that are done with.
    seen: AtomicU64,
    done: AtomicU64,
    /// The supervisor is in a rename: the handler of that rename will flip the view.
    renaming: AtomicU64,
    progress: SavedProgress,
    last_upgrade: LastUpgrade,
    pub(super) marks: Marks,
    pub(super) handed: Handed,
    pub(super) waiting: Waiting,
    pub(super) journal: Journal,
    /// Until then no open of a generation from this one on is answered ESTALE.
    spare_until: AtomicU64,
    spare_from: AtomicU64,
    /// How often the place of the fault on demand was passed.
    passes: AtomicU64,
    slots: [Slot; SLOTS],
}

/// [`Progress`] in words. Each word is right by itself, so a death between two of them costs a
/// back-off at most.
#[repr(C)]
struct SavedProgress {
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

/// How the last upgrade went. Written by the supervisor alone, read for status: a reader that comes in
/// between may see the texts of two.
#[repr(C)]
struct LastUpgrade {
    /// 0 where there was none.
    at: AtomicU64,
    length: AtomicU64,
    /// Why it failed; empty where it did not.
    text: [AtomicU64; UPGRADE_TEXT / WORD],
}

/// The longest reason that is kept, in bytes.
const UPGRADE_TEXT: usize = 256;

impl LastUpgrade {
    fn set(&self, at: Duration, outcome: Result<(), String>) {
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

    fn get(&self) -> Option<(Duration, Result<(), String>)> {
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

/// A time that is not there.
const NEVER: u64 = u64::MAX;

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(NEVER - 1)
}

fn optional_nanos(duration: Option<Duration>) -> u64 {
    duration.map_or(NEVER, nanos)
}

fn from_optional_nanos(word: u64) -> Option<Duration> {
    (word != NEVER).then(|| Duration::from_nanos(word))
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

/// The mapped state.
pub struct State {
    shared: NonNull<Shared>,
    memory: OwnedFd,
    /// The names of the sources that slots refer to by number.
    sources: Vec<&'static str>,
    /// One writer of a slot at a time; only this process writes.
    writer: Mutex<()>,
    /// The views that there are.
    views: Vec<u8>,
    /// Asks whoever makes rotations visible to do so; without it a publication flips at once.
    rotator: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Changes whenever a generation is prepared or a view flipped.
    changes: watch::Sender<()>,
    fault: OnceLock<Fault>,
}

// SAFETY: `shared` points to memory that lives as long as the value and consists of atomics only.
unsafe impl Send for State {}
// SAFETY: as above.
unsafe impl Sync for State {}

impl State {
    /// Makes an empty state.
    ///
    /// # Errors
    /// Where the system refuses the memory; without it nothing can be served.
    pub fn create(sources: Vec<&'static str>, views: Vec<u8>) -> std::io::Result<Self> {
        let memory =
            memfd_create(c"molecule-tokenfs", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        nix::unistd::ftruncate(&memory, i64::try_from(size_of::<Shared>()).unwrap_or(i64::MAX))?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&memory, FcntlArg::F_ADD_SEALS(seals))?;
        let state = Self::map(memory, sources, views)?;
        state.shared().layout.store(LAYOUT, Ordering::Relaxed);
        let progress = &state.shared().progress;
        progress.next_refresh.store(NEVER, Ordering::Relaxed);
        progress.last_open.store(NEVER, Ordering::Relaxed);
        state.shared().magic.store(MAGIC, Ordering::Release);
        Ok(state)
    }

    /// Maps a state that another process made.
    ///
    /// # Errors
    /// `InvalidData` when it is not a state of this layout.
    pub fn adopt(
        memory: OwnedFd,
        sources: Vec<&'static str>,
        views: Vec<u8>,
    ) -> std::io::Result<Self> {
        let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
        let size = nix::sys::stat::fstat(&memory)?.st_size;
        if usize::try_from(size).ok() != Some(size_of::<Shared>()) {
            return Err(invalid());
        }
        let state = Self::map(memory, sources, views)?;
        let shared = state.shared();
        if shared.magic.load(Ordering::Acquire) != MAGIC
            || shared.layout.load(Ordering::Relaxed) != LAYOUT
        {
            return Err(invalid());
        }
        Ok(state)
    }

    fn map(memory: OwnedFd, sources: Vec<&'static str>, views: Vec<u8>) -> std::io::Result<Self> {
        let length = NonZeroUsize::new(size_of::<Shared>()).unwrap_or(NonZeroUsize::MIN);
        // SAFETY: a fresh mapping at an address that the kernel picks; the file is as long as it.
        let address = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                &memory,
                0,
            )
        }?;
        let state = Self {
            shared: address.cast(),
            memory,
            sources,
            writer: Mutex::new(()),
            views,
            rotator: OnceLock::new(),
            changes: watch::Sender::new(()),
            fault: OnceLock::new(),
        };
        Self::keep_in_memory(address);
        Ok(state)
    }

    /// Locks the pages when they are first touched and leaves them out of core dumps. Where the
    /// limit on locked memory is lower, tokens could reach a swap device: say so and go on.
    fn keep_in_memory(address: NonNull<c_void>) {
        // SAFETY: the range is this value's own mapping.
        let locked =
            unsafe { mlock_with(address.as_ptr(), size_of::<Shared>(), MlockFlags::ONFAULT) };
        if let Err(error) = locked {
            tracing::warn!(
                "cannot lock the memory that holds tokens, so they could be swapped out: {error}; \
                 raise the limit (ulimit -l 8192) or turn swap off"
            );
        }
        // SAFETY: as above.
        let kept_out = unsafe { madvise(address, size_of::<Shared>(), MmapAdvise::MADV_DONTDUMP) };
        if let Err(error) = kept_out {
            tracing::warn!("cannot keep tokens out of core dumps: {error}");
        }
    }

    pub(super) fn shared(&self) -> &Shared {
        // SAFETY: mapped for as long as `self` lives, aligned to a page, and made of atomics, for
        // which every bit pattern is valid.
        unsafe { self.shared.as_ref() }
    }

    /// The memory, for the process that takes over.
    #[must_use]
    pub fn memory(&self) -> std::os::fd::BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// The newest generation that can be served; 0 before the first.
    #[must_use]
    pub fn prepared(&self) -> u64 {
        self.shared().prepared.load(Ordering::Acquire)
    }

    /// The generation that a view shows; 0 before the first.
    #[must_use]
    pub fn current(&self, view: u8) -> u64 {
        self.shared().current.get(usize::from(view)).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Writes a generation into its slot. From now on it can be served, but no view shows it yet.
    fn prepare(&self, token: &FreshToken, now: &Now) {
        let _writer = self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (token, published) = (token.token(), token.publish(now));
        let Some(slot) = self.slot(token.generation) else { return };
        let old_words = slot.words();

        slot.generation.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        slot.issued_boot.store(nanos(token.issued.boot), Ordering::Relaxed);
        slot.issued_wall.store(nanos(token.issued.wall), Ordering::Relaxed);
        slot.life.store(nanos(token.life.duration()), Ordering::Relaxed);
        let known = matches!(token.life, Life::Known(_));
        slot.life_is_known.store(u64::from(known), Ordering::Relaxed);
        slot.published.store(nanos(now.wall), Ordering::Relaxed);
        let expiry = published.expires_at.and_then(|at| u64::try_from(at.as_second()).ok());
        slot.expires_at.store(expiry.unwrap_or(NEVER), Ordering::Relaxed);
        let source = self.sources.iter().position(|&name| name == token.source);
        slot.source.store(source.map_or(NEVER, |index| index as u64), Ordering::Relaxed);
        let bytes = token.secret.expose();
        slot.length.store(bytes.len() as u64, Ordering::Relaxed);
        let mut words = slot.bytes.iter();
        for (chunk, word) in bytes.chunks(WORD).zip(&mut words) {
            let mut padded = Zeroizing::new([0; WORD]);
            for (to, from) in padded.iter_mut().zip(chunk) {
                *to = *from;
            }
            word.store(u64::from_le_bytes(*padded), Ordering::Relaxed);
        }
        self.pass(fault::SLOT);
        // What is left of a longer token of 64 generations ago.
        for word in words.take(old_words) {
            word.store(0, Ordering::Relaxed);
        }
        slot.checksum.store(slot.sum(token.generation), Ordering::Relaxed);
        slot.generation.store(token.generation, Ordering::Release);
        self.shared().prepared.store(token.generation, Ordering::Release);
    }

    /// Lets a view show the newest prepared generation.
    pub fn flip(&self, view: u8) {
        if let Some(word) = self.shared().current.get(usize::from(view)) {
            word.fetch_max(self.prepared(), Ordering::AcqRel);
            self.changes.send_replace(());
        }
    }

    /// Whether every view shows the newest generation.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let newest = self.prepared();
        self.views.iter().all(|view| self.current(*view) >= newest)
    }

    /// Whether some view, or its live inode, has not told watchers of the newest generation.
    #[must_use]
    pub fn wants_rotation(&self) -> bool {
        !self.is_settled() || self.views.iter().any(|view| self.touched(*view) < self.prepared())
    }

    /// Leaves flipping to `rotate`, which is called after each publication.
    pub fn rotate_with(&self, rotate: impl Fn() + Send + Sync + 'static) {
        self.rotator.set(Box::new(rotate)).ok();
    }

    /// Completes when the view shows at least this generation.
    pub async fn flipped(&self, view: u8, generation: u64) {
        self.until(|| self.current(view) >= generation).await;
    }

    /// Completes when a newer generation is prepared.
    pub async fn prepared_after(&self, generation: u64) {
        self.until(|| self.prepared() > generation).await;
    }

    async fn until(&self, is_so: impl Fn() -> bool) {
        let mut changes = self.changes.subscribe();
        while !is_so() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Flips the views of a generation that nobody has made visible within `patience`: for a mount
    /// whose supervisor cannot rename. It never interferes with a rename that is under way.
    pub async fn flip_what_stays(&self, patience: Duration) {
        loop {
            self.until(|| !self.is_settled()).await;
            let newest = self.prepared();
            tokio::time::sleep(patience).await;
            if self.prepared() == newest && !self.is_settled() && !self.is_renaming() {
                tracing::debug!(generation = newest, "nobody renames: flipping without events");
                for view in &self.views {
                    self.flip(*view);
                }
            }
        }
    }

    /// The generation of which the view's live inode has told watchers.
    #[must_use]
    pub fn touched(&self, view: u8) -> u64 {
        self.shared().touched.get(usize::from(view)).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// The live inode of the view has told watchers of what it shows.
    pub fn touch(&self, view: u8) {
        if let Some(word) = self.shared().touched.get(usize::from(view)) {
            word.fetch_max(self.current(view), Ordering::AcqRel);
        }
    }

    /// Marks a rename as under way until the value is dropped.
    pub fn renaming(&self) -> impl Drop + '_ {
        struct Renaming<'a>(&'a AtomicU64);
        impl Drop for Renaming<'_> {
            fn drop(&mut self) {
                self.0.store(0, Ordering::Release);
            }
        }
        self.shared().renaming.store(1, Ordering::Release);
        Renaming(&self.shared().renaming)
    }

    fn is_renaming(&self) -> bool {
        self.shared().renaming.load(Ordering::Acquire) != 0
    }

    /// A request was taken from the kernel.
    pub fn enter(&self) {
        self.shared().seen.fetch_add(1, Ordering::AcqRel);
    }

    /// A request is done with.
    pub fn leave(&self) {
        self.shared().done.fetch_add(1, Ordering::AcqRel);
    }

    /// Requests that were ever taken, and those that are not done with.
    #[must_use]
    pub fn requests(&self) -> (u64, u64) {
        let done = self.shared().done.load(Ordering::Acquire);
        let seen = self.shared().seen.load(Ordering::Acquire);
        (seen, seen.saturating_sub(done))
    }

    /// Whether a request has waited for a time in this range.
    #[must_use]
    pub fn any_waited(&self, for_time: Range<Duration>, now: Duration) -> bool {
        let since = now.saturating_sub(for_time.end)..now.saturating_sub(for_time.start);
        self.shared().waiting.any_since(since)
    }

    /// Notes since when a request waits.
    #[cfg(test)]
    pub(crate) fn wait_since(&self, request: u64, since: Duration) {
        self.shared().waiting.first_seen(&crate::fs::tables::Writers::default(), request, since);
    }

    /// Keeps how the last upgrade went, and when (wall clock).
    pub fn set_last_upgrade(&self, at: Duration, outcome: Result<(), String>) {
        self.shared().last_upgrade.set(at, outcome);
    }

    /// How the last upgrade went, and when (wall clock).
    #[must_use]
    pub fn last_upgrade(&self) -> Option<(Duration, Result<(), String>)> {
        self.shared().last_upgrade.get()
    }

    /// Forgets requests that died with an earlier process. `again` is whether the kernel delivers them
    /// again by itself.
    pub fn forget_requests(&self, again: bool) {
        let seen = self.shared().seen.load(Ordering::Acquire);
        self.shared().done.store(seen, Ordering::Release);
        if again {
            self.shared().journal.forget();
        }
    }

    /// What an earlier worker left: the newest request of all, the one in hand, the opens that wait.
    #[must_use]
    pub fn requests_left(&self) -> (u64, Option<Left>, Vec<Left>) {
        self.shared().journal.left()
    }

    /// Until then (boot clock) no open is told to look again whose reader may already do so.
    pub fn spare_until(&self, end: Duration) {
        let shown = self.views.iter().map(|view| self.current(*view)).min().unwrap_or_default();
        self.shared().spare_from.store(shown, Ordering::Relaxed);
        self.shared().spare_until.store(nanos(end), Ordering::Release);
    }

    /// Whether an open of this generation may be a second look. One that found an older generation
    /// than a look could find was no look at all.
    pub(super) fn is_spared(&self, generation: u64, now: Duration) -> bool {
        nanos(now) < self.shared().spare_until.load(Ordering::Acquire)
            && generation >= self.shared().spare_from.load(Ordering::Relaxed)
    }

    /// A worker crashed or hung: what it had in hand is to blame. Whether it had anything in hand.
    pub fn charge_requests(&self) -> bool {
        self.shared().journal.charge()
    }

    /// Breaks this process at a certain place, for tests.
    pub fn break_at(&self, fault: Fault) {
        self.fault.set(fault).ok();
    }

    /// A place where a fault may have been asked for.
    pub fn pass(&self, place: &str) {
        self.pass_handler(place, false);
    }

    /// The beginning of a handler, or the moment when its answer was written.
    pub(super) fn pass_handler(&self, handler: &str, after: bool) {
        if let Some(fault) = self.fault.get()
            && fault.is_at(handler, after)
        {
            fault.pass(self.shared().passes.fetch_add(1, Ordering::AcqRel) + 1);
        }
    }

    fn slot(&self, generation: u64) -> Option<&Slot> {
        self.shared().slots.get(usize::try_from(generation).ok()? % SLOTS)
    }

    /// Whether a generation is still in its slot.
    #[must_use]
    pub fn keeps(&self, generation: u64) -> bool {
        let slot = self.slot(generation).filter(|_| generation != 0);
        slot.is_some_and(|slot| slot.generation.load(Ordering::Acquire) == generation)
    }

    /// A generation, while it is one of the last [`SLOTS`].
    #[must_use]
    pub fn generation(&self, generation: u64) -> Option<Generation> {
        if !self.keeps(generation) {
            return None;
        }
        let slot = self.slot(generation)?;
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let length = usize::try_from(read(&slot.length)).ok()?;
        let issued = Now {
            boot: Duration::from_nanos(read(&slot.issued_boot)),
            wall: Duration::from_nanos(read(&slot.issued_wall)),
        };
        let life = Duration::from_nanos(read(&slot.life));
        let life =
            if read(&slot.life_is_known) == 1 { Life::Known(life) } else { Life::Assumed(life) };
        let expires_at = read(&slot.expires_at);
        let source = usize::try_from(read(&slot.source)).ok();
        let source = source.and_then(|index| self.sources.get(index)).copied().unwrap_or("unknown");
        let published_at = Duration::from_nanos(read(&slot.published));
        let mut bytes = Zeroizing::new(Vec::with_capacity(length.next_multiple_of(WORD)));
        for word in slot.bytes.iter().take(length.div_ceil(WORD)) {
            bytes.extend_from_slice(&read(word).to_le_bytes());
        }
        bytes.truncate(length);
        let sum = read(&slot.checksum);
        let own_sum = slot.sum(generation);
        fence(Ordering::Acquire);
        if slot.generation.load(Ordering::Relaxed) != generation || sum != own_sum {
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
}

impl Slot {
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

impl Store for State {
    fn reserve(&self) -> u64 {
        self.shared().last_generation.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn publish(&self, token: &FreshToken, now: &Now) {
        self.prepare(token, now);
        self.changes.send_replace(());
        match self.rotator.get() {
            Some(rotate) => rotate(),
            None => self.views.iter().for_each(|view| self.flip(*view)),
        }
    }

    fn settled(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.until(|| self.is_settled()))
    }

    fn load(&self) -> Saved {
        let progress = &self.shared().progress;
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let rejected = (progress.has_rejected.load(Ordering::Acquire) == 1).then(|| {
            let at = Now {
                boot: Duration::from_nanos(read(&progress.rejected_boot)),
                wall: Duration::from_nanos(read(&progress.rejected_wall)),
            };
            let fingerprint = Fingerprint::from_u32(progress.rejected.load(Ordering::Relaxed));
            (fingerprint, at, Duration::from_nanos(read(&progress.withheld_until)))
        });
        Saved {
            token: self.generation(self.prepared()).map(|generation| generation.token),
            progress: Progress {
                strikes: u32::try_from(read(&progress.strikes)).unwrap_or(u32::MAX),
                not_before: Duration::from_nanos(read(&progress.not_before)),
                next_refresh: from_optional_nanos(read(&progress.next_refresh)),
                rejected,
                skew: Duration::from_nanos(read(&progress.skew)),
                repeats: read(&progress.repeats) == 1,
                last_open: from_optional_nanos(read(&progress.last_open)),
            },
        }
    }

    fn save(&self, saved: &Progress) {
        let progress = &self.shared().progress;
        let write = |word: &AtomicU64, value: u64| word.store(value, Ordering::Relaxed);
        write(&progress.strikes, saved.strikes.into());
        write(&progress.not_before, nanos(saved.not_before));
        write(&progress.next_refresh, optional_nanos(saved.next_refresh));
        write(&progress.skew, nanos(saved.skew));
        write(&progress.repeats, saved.repeats.into());
        write(&progress.last_open, optional_nanos(saved.last_open));
        if let Some((fingerprint, at, until)) = saved.rejected {
            progress.rejected.store(fingerprint.to_u32(), Ordering::Relaxed);
            write(&progress.rejected_boot, nanos(at.boot));
            write(&progress.rejected_wall, nanos(at.wall));
            write(&progress.withheld_until, nanos(until));
        }
        progress.has_rejected.store(saved.rejected.is_some().into(), Ordering::Release);
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing borrowed from it outlives it.
        if let Err(error) = unsafe { munmap(self.shared.cast(), size_of::<Shared>()) } {
            tracing::warn!("cannot unmap the shared state: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn state() -> State {
        State::create(vec!["platform", "env"], vec![0, 7]).unwrap()
    }

    fn now() -> Now {
        Now { boot: SECOND * 100, wall: SECOND * 1_700_000_000 }
    }

    fn fresh(generation: u64, text: &str, life: Life) -> FreshToken {
        let secret = Secret::new(text.as_bytes().to_vec()).unwrap();
        let token = Token { secret, generation, source: "env", issued: now(), life };
        token.usable(&now(), Duration::ZERO).unwrap()
    }

    #[test]
    fn what_was_published_is_read_back_whole() {
        let state = state();
        let token = fresh(state.reserve(), &"a".repeat(521), Life::Known(SECOND * 3600));
        state.publish(&token, &now());
        let read = state.generation(1).unwrap();
        assert_eq!(&read.token, token.token());
        assert_eq!(read.published, token.publish(&now()));
        assert_eq!(read.published_at, now().wall);
        assert_eq!((state.current(0), state.current(7), state.current(1)), (1, 1, 0));
        assert_eq!(state.load().token.as_ref(), Some(token.token()));
    }

    #[test]
    fn an_unknown_expiry_stays_unknown() {
        let state = state();
        let token = fresh(state.reserve(), "ghp_own", Life::Assumed(SECOND * 60));
        state.publish(&token, &now());
        let read = state.generation(1).unwrap();
        assert_eq!((read.published.expires_at, read.token.life), (None, token.token().life));
    }

    #[test]
    fn the_last_64_generations_stay_and_older_ones_are_gone() {
        let state = state();
        for n in 1..=70_usize {
            let generation = state.reserve();
            let text = format!("ghs_{}", "x".repeat(n * 7 % 50));
            state.publish(&fresh(generation, &text, Life::Known(SECOND * 60)), &now());
        }
        assert!(state.generation(0).is_none() && state.generation(6).is_none());
        for n in 7..=70 {
            let read = state.generation(n).unwrap();
            assert_eq!(read.token.secret.expose().len() as u64, 4 + n * 7 % 50);
        }
        assert!(state.generation(71).is_none());
    }

    #[test]
    fn a_slot_whose_writer_died_is_not_read() {
        let state = state();
        state.publish(&fresh(state.reserve(), "ghs_whole", Life::Known(SECOND * 60)), &now());
        let slot = state.slot(1).unwrap();
        slot.bytes[0].fetch_xor(0xff, Ordering::Relaxed);
        assert!(state.generation(1).is_none(), "the checksum does not fit");
        slot.bytes[0].fetch_xor(0xff, Ordering::Relaxed);
        assert!(state.generation(1).is_some());
        slot.generation.store(0, Ordering::Relaxed);
        assert!(state.generation(1).is_none(), "it was being written");
    }

    #[test]
    fn a_longer_token_leaves_nothing_behind_a_shorter_one() {
        let state = state();
        let long = "L".repeat(200);
        state.publish(&fresh(1, &long, Life::Known(SECOND * 60)), &now());
        state.publish(&fresh(65, "short", Life::Known(SECOND * 60)), &now());
        let rest = &state.slot(1).unwrap().bytes[1..];
        assert!(rest.iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn another_process_finds_everything() {
        let state = state();
        state.publish(&fresh(state.reserve(), "ghs_a", Life::Known(SECOND * 60)), &now());
        let progress = Progress {
            strikes: 3,
            not_before: SECOND * 7,
            next_refresh: Some(SECOND * 9),
            rejected: Some((Fingerprint::of(b"ghs_b"), now(), SECOND * 115)),
            skew: SECOND * 600,
            repeats: true,
            last_open: Some(SECOND),
        };
        state.save(&progress);
        let memory = state.memory().try_clone_to_owned().unwrap();
        let adopted = State::adopt(memory, vec!["platform", "env"], vec![0, 7]).unwrap();
        let saved = adopted.load();
        assert_eq!(saved.progress, progress);
        assert_eq!(saved.token.unwrap().secret.expose(), b"ghs_a");
        assert_eq!(adopted.reserve(), 2, "no number twice");
    }

    #[test]
    fn a_file_that_is_no_state_is_refused() {
        let memory = memfd_create(c"test", MemfdFlags::CLOEXEC).unwrap();
        assert!(State::adopt(memory.try_clone().unwrap(), vec![], vec![]).is_err());
        nix::unistd::ftruncate(&memory, i64::try_from(size_of::<Shared>()).unwrap()).unwrap();
        assert!(State::adopt(memory, vec![], vec![]).is_err(), "no magic");
    }

    #[test]
    fn a_reader_beside_a_writer_sees_whole_tokens_only() {
        let state = state();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    let n = state.reserve();
                    let letter = [b'a' + u8::try_from(n % 26).unwrap()];
                    let text = std::str::from_utf8(&letter).unwrap().repeat(8 + (n % 90) as usize);
                    state.publish(&fresh(n, &text, Life::Known(SECOND * 60)), &now());
                }
                stop.store(true, Ordering::Release);
            });
            let mut whole = 0_u64;
            while !stop.load(Ordering::Acquire) {
                // The oldest ones are the ones that are being overwritten.
                let n = state.prepared().saturating_sub(SLOTS as u64 - 1);
                if let Some(read) = state.generation(n) {
                    let bytes = read.token.secret.expose();
                    let letter = b'a' + u8::try_from(n % 26).unwrap();
                    assert_eq!(bytes.len() as u64, 8 + n % 90);
                    assert!(bytes.iter().all(|byte| *byte == letter), "torn");
                    whole += 1;
                }
            }
            assert!(whole > 0);
        });
    }
}
