//! The shared state: one file in memory (memfd) of fixed layout that holds everything that must outlive
//! a request, so that a process that takes the mount over goes on where the last one stopped.
//!
//! It has two parts: what belongs to the connection ([`State`]), and a region for each token
//! ([`TokenState`], [`regions`]), with one for each further [`Place`] where it is shown. Every word of it
//! is an atomic. A slot is written under the rule of a sequence lock (generation 0, body, checksum,
//! generation), so that a process that dies in the middle leaves no torn token, and a reader never sees
//! one. What holds tokens is locked in memory and kept out of core dumps; the file is sealed against a
//! change of its size.

mod earlier;
mod layout;
mod mapping;
mod place;
pub mod regions;
mod requests;
mod saved;
mod slot;
mod token;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
#[cfg(feature = "testing")]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use tokio::sync::watch;

pub use self::place::Place;
pub use self::slot::Generation;
pub use self::token::TokenState;

use self::earlier::Earlier;
use self::mapping::Mapping;
use self::regions::Regions;
use self::saved::Deed;
#[cfg(feature = "testing")]
use crate::fs::fault;
use crate::fs::journal::{Groups, Journal};
use crate::fs::memory;
use crate::fs::tables::{Handed, Marks, Writers};

/// How many generations of a token stay readable for those who have them open, if none is longer than
/// 3.5 KiB. Of longer ones it may be fewer.
pub const SLOTS: usize = 64;
/// Room for view numbers.
pub const VIEWS: usize = 32;

const MAGIC: u64 = u64::from_be_bytes(*b"mol-tkfs");
/// Changes with every change of the layout. A worker whose supervisor is of an earlier version finds
/// another one; see [`State::adopt`].
const LAYOUT: u64 = 10;
/// Earlier ones: all that belongs to the connection was where it is now, and tokens lay otherwise.
const EARLIER: std::ops::Range<u64> = earlier::LAYOUT..LAYOUT;

/// Watchers that were not told of a generation within this, after its views show it, may miss it.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// What belongs to the connection. Its bytes are valid for every bit pattern, also all zeros.
#[repr(C)]
pub(super) struct Shared {
    magic: AtomicU64,
    layout: AtomicU64,
    last_generation: AtomicU64,
    /// Here the layout before had the token's.
    unused: [AtomicU64; 513],
    /// Requests that were taken from the kernel, and those that are done with.
    seen: AtomicU64,
    done: AtomicU64,
    /// What else tells that a worker goes on: the steps of a start and of taking over, and the looks at
    /// opens that wait.
    steps: AtomicU64,
    looks: AtomicU64,
    /// In how many renames the supervisor is, whose handlers will flip a view, and from [`ENDED`] on how many
    /// have ended.
    renaming: AtomicU64,
    /// Here the layout before had the progress of the token.
    pub(super) waits: Groups,
    unused_too: [AtomicU64; 28],
    /// The threads that rename besides the first.
    more_helpers: [AtomicU64; MORE_HELPERS],
    last_upgrade: Deed,
    last_remount: Deed,
    pub(super) marks: Marks,
    pub(super) handed: Handed,
    pub(super) journal: Journal,
    /// Until then (boot clock, nanoseconds) no open is answered ESTALE.
    spare_until: AtomicU64,
    /// How often the place of the fault on demand was passed.
    passes: AtomicU64,
}

/// The most threads that rename besides the first.
pub const MORE_HELPERS: usize = 3;

/// What the end of a rename adds to the word that counts them.
const ENDED: u64 = 1 << 8;

/// The renames up to a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Renames(u64);

impl Renames {
    fn is_in_one(self) -> bool {
        !self.0.is_multiple_of(ENDED)
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

/// The mapped state: the connection's part, and the way to those of tokens.
pub struct State {
    shared: Mapping<Shared>,
    /// For the process that takes over.
    memory: OwnedFd,
    /// Where the tokens are, if they are not in the same: see [`State::adopt`].
    own_memory: Option<OwnedFd>,
    /// What a supervisor of an earlier version has of its token.
    earlier: Option<Arc<Mapping<Earlier>>>,
    regions: Regions,
    /// The regions that tokens and places of this process have, and how many of these each.
    held: Mutex<BTreeMap<usize, u32>>,
    /// Of the tables that threads of this process write.
    pub(super) writers: Writers,
    /// Changes whenever a generation of any token is prepared.
    publications: watch::Sender<()>,
    #[cfg(feature = "testing")]
    fault: OnceLock<fault::Fault>,
}

/// Where the tokens begin in the file.
const TOKENS: usize = size_of::<Shared>().next_multiple_of(layout::PAGE);

impl State {
    /// Makes an empty state.
    ///
    /// # Errors
    /// Where the system refuses the memory; without it nothing can be served.
    pub fn create() -> std::io::Result<Self> {
        let memory = sealed(TOKENS + layout::LENGTH)?;
        let state = Self::map(memory, None)?;
        state.shared().layout.store(LAYOUT, Ordering::Relaxed);
        state.shared().magic.store(MAGIC, Ordering::Release);
        Ok(state)
    }

    /// Maps a state that another process made. Where that is of an earlier version, the connection goes on,
    /// and tokens have memory of this process's own. The token that is in the earlier one is read from it;
    /// later ones end with this process, until the mount is made anew.
    ///
    /// # Errors
    /// `InvalidData` when it is neither.
    pub fn adopt(memory: OwnedFd) -> std::io::Result<Self> {
        let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
        let size = nix::sys::stat::fstat(&memory)?.st_size;
        let size = usize::try_from(size).map_err(std::io::Error::other)?;
        if size < size_of::<Shared>() {
            return Err(invalid());
        }
        let shared: Mapping<Shared> = Mapping::map(memory.as_fd(), 0)?;
        let layout = shared.layout.load(Ordering::Relaxed);
        let has_tokens = layout == LAYOUT && size == TOKENS + layout::LENGTH;
        let is_known = has_tokens || EARLIER.contains(&layout);
        if shared.magic.load(Ordering::Acquire) != MAGIC || !is_known {
            return Err(invalid());
        }
        let own_memory = (!has_tokens).then(|| sealed(layout::LENGTH)).transpose()?;
        let mut state = Self::map(memory, own_memory)?;
        if layout == earlier::LAYOUT && size >= size_of::<Earlier>() {
            state.earlier = Some(Arc::new(Mapping::map(state.memory.as_fd(), 0)?));
        }
        if !has_tokens {
            tracing::warn!(
                "the supervisor is of an earlier version: new tokens do not outlive a worker, and \
                 watchers miss rotations, until it is started anew"
            );
        }
        Ok(state)
    }

    fn map(memory: OwnedFd, own_memory: Option<OwnedFd>) -> std::io::Result<Self> {
        let regions = match &own_memory {
            Some(own) => Regions::map(own.as_fd(), 0)?,
            None => Regions::map(memory.as_fd(), TOKENS)?,
        };
        Ok(Self {
            shared: Mapping::map(memory.as_fd(), 0)?,
            memory,
            own_memory,
            earlier: None,
            regions,
            held: Mutex::default(),
            writers: Writers::default(),
            publications: watch::Sender::new(()),
            #[cfg(feature = "testing")]
            fault: OnceLock::new(),
        })
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The memory, for the process that takes over.
    #[must_use]
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// Whether the supervisor knows of tokens that are here, and renames for them.
    #[must_use]
    pub fn has_tokens(&self) -> bool {
        self.own_memory.is_none()
    }

    /// The memory of the tokens.
    fn tokens(&self) -> &OwnedFd {
        self.own_memory.as_ref().unwrap_or(&self.memory)
    }

    /// A number that no generation of any token of this mount had.
    fn reserve(&self) -> u64 {
        self.shared().last_generation.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn published(&self) {
        self.publications.send_replace(());
    }

    /// Follows publications: `changed()` completes when a generation of any token was prepared.
    #[must_use]
    pub fn publications(&self) -> watch::Receiver<()> {
        self.publications.subscribe()
    }

    /// Marks a rename as under way until the value is dropped.
    pub fn renaming(&self) -> impl Drop + '_ {
        struct Renaming<'a>(&'a AtomicU64);
        impl Drop for Renaming<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(ENDED - 1, Ordering::AcqRel);
            }
        }
        self.shared().renaming.fetch_add(1, Ordering::AcqRel);
        Renaming(&self.shared().renaming)
    }

    /// This thread renames, too: one of [`MORE_HELPERS`], by its place among them.
    pub fn add_helper(&self, place: usize, thread: u32) {
        if let Some(word) = self.shared().more_helpers.get(place) {
            word.store(thread.into(), Ordering::Release);
        }
    }

    /// Whether a thread renames besides the first.
    pub(super) fn has_helper(&self, thread: u32) -> bool {
        let is_it = |word: &AtomicU64| word.load(Ordering::Acquire) == u64::from(thread);
        // Of a thread outside our pid namespace, which has the number 0 here, nothing is known. A supervisor
        // of an earlier version had something else there.
        thread != 0 && self.has_tokens() && self.shared().more_helpers.iter().any(is_it)
    }

    /// Changes with every rename that begins or ends.
    fn renames(&self) -> Renames {
        Renames(self.shared().renaming.load(Ordering::Acquire))
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
}

/// Memory of this length that nobody can make longer or shorter.
fn sealed(length: usize) -> std::io::Result<OwnedFd> {
    let memory = memory::anonymous(c"molecule-tokenfs")?;
    nix::unistd::ftruncate(&memory, i64::try_from(length).unwrap_or(i64::MAX))?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(memory)
}

#[cfg(test)]
pub(in crate::fs) mod tests;
