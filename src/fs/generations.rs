//! The shared state: one memfd mapping of fixed layout that holds everything that must outlive a
//! request, so that a process that takes the mount over goes on where the last one stopped.
//!
//! Every word of it is an atomic. A slot is written under the rule of a sequence lock (generation
//! 0, body, checksum, generation), so that a process that dies in the middle leaves no torn token,
//! and a reader never sees one. The memory is locked on first touch, kept out of core dumps, and
//! sealed against a change of its size.

#![expect(unsafe_code, reason = "maps the memfd and locks it")]

mod requests;
mod saved;
mod slot;

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use rustix::mm::{MlockFlags, mlock_with};
use tokio::sync::watch;

pub use self::slot::Generation;

use self::saved::{Deed, SavedProgress};
use self::slot::Slot;
use crate::fs::fault;
use crate::fs::journal::Journal;
use crate::fs::memory;
use crate::fs::tables::{Handed, Marks};
use crate::refresh::store::{Progress, Saved, Store};
use crate::source::BoxFuture;
use crate::time::Now;
use crate::token::FreshToken;

/// How many generations stay readable for those who have them open.
pub const SLOTS: usize = 64;
/// Room for view numbers.
pub const VIEWS: usize = 256;

const MAGIC: u64 = u64::from_be_bytes(*b"mol-tkfs");
/// Changes with every change of [`Shared`]: a process of another layout starts with a state of its
/// own.
const LAYOUT: u64 = 7;

/// Watchers that were not told of a generation within this, after its views show it, may miss it.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

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
    /// What else tells that a worker goes on: the steps of a start and of taking over, and the looks at
    /// opens that wait.
    steps: AtomicU64,
    looks: AtomicU64,
    /// The supervisor is in a rename: the handler of that rename will flip the view.
    renaming: AtomicU64,
    progress: SavedProgress,
    last_upgrade: Deed,
    last_remount: Deed,
    pub(super) marks: Marks,
    pub(super) handed: Handed,
    pub(super) journal: Journal,
    /// Until then (boot clock, nanoseconds) no open is answered ESTALE.
    spare_until: AtomicU64,
    /// How often the place of the fault on demand was passed.
    passes: AtomicU64,
    slots: [Slot; SLOTS],
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

/// The mapped state.
pub struct State {
    shared: NonNull<Shared>,
    /// For the process that takes over, where there is to be one.
    memory: Option<OwnedFd>,
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
    #[cfg(feature = "testing")]
    fault: OnceLock<fault::Fault>,
    /// Whether its pages are kept from being swapped out.
    locked: rustix::io::Result<()>,
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
        let state = Self::make(sources, views)?;
        if let Err(error) = &state.locked {
            tracing::warn!(
                "cannot lock the memory that holds tokens, so they could be swapped out: {error}; \
                 raise the limit (ulimit -l 8192) or turn swap off"
            );
        }
        Ok(state)
    }

    fn make(sources: Vec<&'static str>, views: Vec<u8>) -> std::io::Result<Self> {
        let memory = memory::anonymous(c"molecule-tokenfs")?;
        nix::unistd::ftruncate(&memory, i64::try_from(size_of::<Shared>()).unwrap_or(i64::MAX))?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&memory, FcntlArg::F_ADD_SEALS(seals))?;
        let state = Self::map(memory, sources, views)?;
        state.shared().layout.store(LAYOUT, Ordering::Relaxed);
        state.shared().progress.begin();
        state.shared().magic.store(MAGIC, Ordering::Release);
        Ok(state)
    }

    /// Makes an empty state whose generations are numbered from the one after this.
    ///
    /// # Errors
    /// As [`State::create`].
    pub fn create_after(
        generation: u64,
        sources: Vec<&'static str>,
        views: Vec<u8>,
    ) -> std::io::Result<Self> {
        // That of the mount's own token has said what there is to say about its memory.
        let mut state = Self::make(sources, views)?;
        state.shared().last_generation.store(generation, Ordering::Release);
        // The mapping stays. The thread that answers the kernel has a descriptor table of its own: one
        // that it opened must not be closed by another thread, or the other way round.
        state.memory = None;
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
            memory: Some(memory),
            sources,
            writer: Mutex::new(()),
            views,
            rotator: OnceLock::new(),
            changes: watch::Sender::new(()),
            #[cfg(feature = "testing")]
            fault: OnceLock::new(),
            locked: Self::keep_in_memory(address),
        };
        Ok(state)
    }

    /// Locks the pages when they are first touched and leaves them out of core dumps. Where the
    /// limit on locked memory is lower, tokens could reach a swap device: whoever makes the state
    /// says so, once.
    fn keep_in_memory(address: NonNull<c_void>) -> rustix::io::Result<()> {
        // SAFETY: the range is this value's own mapping.
        let locked =
            unsafe { mlock_with(address.as_ptr(), size_of::<Shared>(), MlockFlags::ONFAULT) };
        // SAFETY: as above.
        let kept_out = unsafe { madvise(address, size_of::<Shared>(), MmapAdvise::MADV_DONTDUMP) };
        if let Err(error) = kept_out {
            tracing::warn!("cannot keep tokens out of core dumps: {error}");
        }
        locked
    }

    pub(super) fn shared(&self) -> &Shared {
        // SAFETY: mapped for as long as `self` lives, aligned to a page, and made of atomics, for
        // which every bit pattern is valid.
        unsafe { self.shared.as_ref() }
    }

    /// The memory, for the process that takes over; `None` for a state that ends with this one.
    #[must_use]
    pub fn memory(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.memory.as_ref().map(AsFd::as_fd)
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
        let published = token.publish(now);
        let token = token.token();
        let Some(slot) = self.slot(token.generation) else { return };
        let source = self.sources.iter().position(|&name| name == token.source);
        slot.write(token, &published, source, now, || self.pass(fault::SLOT));
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
    /// whose supervisor cannot rename. It never interferes with a rename that is under way. Of each flip
    /// `flipped` is told, since the kernel has not heard of it.
    pub async fn flip_what_stays(&self, patience: Duration, flipped: impl Fn()) {
        loop {
            self.until(|| !self.is_settled()).await;
            let newest = self.prepared();
            tokio::time::sleep(patience).await;
            if self.prepared() == newest && !self.is_settled() && !self.is_renaming() {
                tracing::debug!(generation = newest, "nobody renames: flipping without events");
                for view in &self.views {
                    self.flip(*view);
                }
                flipped();
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
            self.changes.send_replace(());
        }
    }

    /// Completes when every view shows the newest generation, and when its watchers were told so, if
    /// that does not take long: two generations at a time would be one event.
    async fn told(&self) {
        self.until(|| self.is_settled()).await;
        if self.rotator.get().is_some() {
            let told = self.until(|| !self.wants_rotation());
            tokio::time::timeout(TOLD_WITHIN, told).await.ok();
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

    /// Keeps how the last upgrade went, and when (wall clock).
    pub fn set_last_upgrade(&self, at: Duration, outcome: Result<(), String>) {
        self.shared().last_upgrade.set(at, &outcome.err().unwrap_or_default());
    }

    /// How the last upgrade went, and when (wall clock).
    #[must_use]
    pub fn last_upgrade(&self) -> Option<(Duration, Result<(), String>)> {
        let (at, why) = self.shared().last_upgrade.get()?;
        Some((at, if why.is_empty() { Ok(()) } else { Err(why) }))
    }

    /// Keeps why the mount is made anew, and since when (wall clock).
    pub fn set_last_remount(&self, at: Duration, why: &str) {
        self.shared().last_remount.set(at, why);
    }

    /// Why the mount was made anew last, and when (wall clock).
    #[must_use]
    pub fn last_remount(&self) -> Option<(Duration, String)> {
        self.shared().last_remount.get()
    }

    fn slot(&self, generation: u64) -> Option<&Slot> {
        self.shared().slots.get(usize::try_from(generation).ok()? % SLOTS)
    }

    /// Whether a generation is still in its slot.
    #[must_use]
    pub fn keeps(&self, generation: u64) -> bool {
        self.slot(generation).is_some_and(|slot| slot.holds(generation))
    }

    /// Since when there is a newer generation (boot clock), while there is one. Zero for a generation
    /// that more than [`SLOTS`] newer ones have followed.
    pub(super) fn passed_at(&self, generation: u64) -> Option<Duration> {
        let newest = self.prepared();
        let mut newer = generation.max(newest.saturating_sub(SLOTS as u64)) + 1..=newest;
        if newer.is_empty() {
            return None;
        }
        // Numbers are reserved before a fetch, so one without a token is possible.
        let next = newer.find_map(|newer| self.slot(newer).filter(|slot| slot.holds(newer)));
        Some(
            next.filter(|_| newest - generation <= SLOTS as u64)
                .map_or(Duration::ZERO, Slot::published_boot),
        )
    }

    /// A generation, while it is one of the last [`SLOTS`].
    #[must_use]
    pub fn generation(&self, generation: u64) -> Option<Generation> {
        self.slot(generation)?.read(generation, &self.sources)
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
        Box::pin(self.told())
    }

    fn load(&self) -> Saved {
        Saved {
            token: self.generation(self.prepared()).map(|generation| generation.token),
            progress: self.shared().progress.load(),
        }
    }

    fn save(&self, saved: &Progress) {
        self.shared().progress.save(saved);
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
mod tests;
