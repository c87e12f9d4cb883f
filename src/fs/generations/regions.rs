//! The regions of the shared state: one for each token, found by whose it is, made and freed at run time.
//!
//! A region is so large that any token fits, and takes the memory of the pages that were written to. A
//! freed one has none: what was in it is gone.
//!
//! Two workers may be there while one takes over, so an entry is taken by a compare-and-swap. Entries
//! are freed by the worker that serves, and by no other.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use rustix::fs::{FallocateFlags, fallocate};

use super::State;
pub use super::layout::Kind;
use super::layout::{self, BUSY, Directory, Entry, FIRST, FREE, REGION, Region};
use super::mapping::Mapping;
use super::place::Place;
use super::saved::{read_text, write_text};
use super::token::TokenState;

/// The numbers of named tokens end here: inode numbers have 15 bits for them, below the one that marks
/// those on demand.
pub const PLACES: u64 = 0x7fff;

/// Whose region it is. A token of another configuration is another one, whatever its name.
#[derive(Debug, Clone, Copy)]
pub struct Whose<'a> {
    /// What kind of token.
    pub kind: Kind,
    /// Its name; that of the root has none.
    pub name: &'a str,
    /// Where it comes from and what it is good for, in bytes that differ where that does.
    pub configuration: &'a [u8],
}

impl Whose<'_> {
    /// What finds it. It tells nothing of what is in a configuration.
    fn key(&self) -> [u64; 2] {
        let name = self.name.as_bytes();
        let length = (name.len() as u64).to_le_bytes();
        let kind = (self.kind as u64).to_le_bytes();
        // A digest of a secret would do no harm; the copy is wiped all the same.
        let all = zeroize::Zeroizing::new([&kind, &length, name, self.configuration].concat());
        let digest = digest(&SHA256, &all);
        let (words, _) = digest.as_ref().as_chunks::<8>();
        let word = |n: usize| words.get(n).copied().map_or(0, u64::from_le_bytes);
        [word(0), word(1)]
    }
}

/// A region that belongs to this process.
struct Taken {
    region: Mapping<Region>,
    index: usize,
    /// The number of its place.
    place: u64,
}

/// A region, for whoever makes rotations visible.
#[derive(Clone)]
pub struct Shown {
    /// The name of its directory; empty for the token at the root.
    pub name: String,
    /// One of many, where only what somebody may watch is renamed.
    is_door: bool,
    region: Arc<Mapping<Region>>,
}

impl Shown {
    /// The newest generation that can be served; 0 before the first.
    #[must_use]
    pub fn prepared(&self) -> u64 {
        self.region.prepared()
    }

    /// The generation that a view shows; 0 before the first.
    #[must_use]
    pub fn current(&self, view: u8) -> u64 {
        self.region.current(view)
    }

    /// The generation of which the view's live inode has told watchers.
    #[must_use]
    pub fn touched(&self, view: u8) -> u64 {
        self.region.touched(view)
    }

    /// Whether somebody may watch it.
    #[must_use]
    pub fn is_seen(&self) -> bool {
        self.region.is_seen(layout::DIRECTORY)
    }

    /// Whether a view shows an older generation, and is to be renamed.
    #[must_use]
    pub fn wants_rename(&self, view: u8) -> bool {
        self.region.renames(self.is_door, view) && self.current(view) < self.prepared()
    }

    /// Whether the live inode of a view is to be touched, so that watchers look again.
    #[must_use]
    pub fn wants_touch(&self, view: u8) -> bool {
        self.region.touches(self.is_door, view) && self.touched(view) < self.prepared()
    }
}

/// Where the directory and the regions are.
pub(super) struct Regions {
    pub(super) directory: Mapping<Directory>,
    /// Where they begin in the file.
    pub(super) start: usize,
}

impl Regions {
    pub(super) fn map(file: BorrowedFd<'_>, start: usize) -> io::Result<Self> {
        Ok(Self { directory: Mapping::map(file, start)?, start })
    }

    /// Where a region begins in the file.
    fn offset(&self, index: usize) -> usize {
        self.start + FIRST + index * REGION
    }
}

impl State {
    /// The state of a token: that which was kept, or else an empty one. `sources` are the names of its
    /// sources, `views` the numbers of the views that it is shown in, at the one place that it has. A token
    /// of doors has none of its own; see [`State::place`].
    ///
    /// # Errors
    /// `StorageFull` where there are too many; what the system says.
    pub fn token(
        self: &Arc<Self>,
        whose: Whose<'_>,
        sources: Vec<&'static str>,
        views: Vec<u8>,
    ) -> io::Result<TokenState> {
        let Taken { region, index, place } = self.take(whose)?;
        let earlier = self.earlier.clone().filter(|_| whose.kind == Kind::Root);
        let token = TokenState::new(Arc::clone(self), region, earlier, index, sources);
        Ok(if whose.kind == Kind::Shared { token } else { token.with_place(place, views) })
    }

    /// A further place at a path from the root of the mount, where a token is shown from now on. One that
    /// showed another before keeps its number.
    ///
    /// # Errors
    /// Those of [`State::token`].
    pub fn place(
        self: &Arc<Self>,
        path: &str,
        token: &TokenState,
        views: Vec<u8>,
    ) -> io::Result<Arc<Place>> {
        let entry = self.regions.directory.entry(token.index());
        let key = entry.map(|entry| entry.key.each_ref().map(|word| word.load(Ordering::Relaxed)));
        let whose = Whose { kind: Kind::Place, name: path, configuration: &[] };
        let Taken { region, index, place } = self.take(whose)?;
        let own = Some(Arc::clone(self));
        let place = Place::new(Arc::new(region), (index, place), views, token.changes(), own);
        place.show(key.unwrap_or_default(), token.prepared());
        let place = Arc::new(place);
        token.show_at(Arc::clone(&place));
        Ok(place)
    }

    /// The region that was kept, or else an empty one.
    fn take(&self, whose: Whose<'_>) -> io::Result<Taken> {
        let key = whose.key();
        // Within a process two threads make tokens: the runtime's and the one that answers the kernel.
        let mut held = self.held();
        let directory = &self.regions.directory;
        let kept = directory.entries().find(|(_, entry)| entry.has(whose.kind, key));
        let (index, entry) = match kept {
            Some(kept) => kept,
            None => directory.claim()?,
        };
        let region = self.region(index).inspect_err(|_| {
            if kept.is_none() {
                entry.state.store(FREE, Ordering::Release);
            }
        })?;
        if kept.is_none() {
            region.progress.begin();
            write_text(&region.name, &region.name_length, whose.name);
            if whose.kind == Kind::Root {
                region.seen.store(layout::DIRECTORY, Ordering::Relaxed);
            }
            if matches!(whose.kind, Kind::Named | Kind::Place) {
                let place = directory.last_place.fetch_add(1, Ordering::AcqRel) + 1;
                if place > PLACES {
                    entry.state.store(FREE, Ordering::Release);
                    let why = "this mount has had too many tokens; mount it anew";
                    return Err(io::Error::new(io::ErrorKind::StorageFull, why));
                }
                entry.place.store(place, Ordering::Relaxed);
            }
            entry.key.iter().zip(key).for_each(|(to, word)| to.store(word, Ordering::Relaxed));
            entry.state.store(whose.kind as u64, Ordering::Release);
        }
        *held.entry(index).or_default() += 1;
        Ok(Taken { region, index, place: entry.place.load(Ordering::Relaxed) })
    }

    /// Whether something was kept of a token.
    #[must_use]
    pub fn keeps_token(&self, whose: Whose<'_>) -> bool {
        let key = whose.key();
        self.regions.directory.entries().any(|(_, entry)| entry.has(whose.kind, key))
    }

    /// The names of the tokens on demand that were kept.
    ///
    /// # Errors
    /// What the system says.
    pub fn on_demand(&self) -> io::Result<Vec<String>> {
        let entries = self.regions.directory.entries();
        let kept = entries.filter(|(_, entry)| entry.is(Kind::OnDemand));
        kept.map(|(index, _)| self.region(index).map(|region| region.name())).collect()
    }

    /// Frees whatever no token of this process has: those that are no longer configured, and what a dead
    /// worker was about to fill or to free. To be called when this process has all that was kept for it,
    /// and no other one serves.
    pub fn free_what_is_left(&self) {
        let held = self.held();
        for (index, entry) in self.regions.directory.entries() {
            let state = entry.state.load(Ordering::Acquire);
            if state != FREE && !held.contains_key(&index) {
                entry.state.store(BUSY, Ordering::Release);
                self.free(index);
            }
        }
    }

    /// The places where views are renamed: the root, and the directories of tokens. `known` are
    /// those of an earlier call.
    ///
    /// # Errors
    /// What the system says.
    pub fn shown(&self, known: &mut BTreeMap<usize, Shown>) -> io::Result<()> {
        let kinds = [Kind::Root, Kind::Named, Kind::Place];
        let is_shown = |entry: &Entry| kinds.into_iter().any(|kind| entry.is(kind));
        let entries = self.regions.directory.entries().filter(|(_, entry)| is_shown(entry));
        let mut shown = BTreeMap::new();
        for (index, entry) in entries {
            let region = match known.remove(&index) {
                Some(before) => before.region,
                None => Arc::new(self.region(index)?),
            };
            // Another token may have the region now.
            let name = if entry.is(Kind::Root) { String::new() } else { region.name() };
            shown.insert(index, Shown { name, is_door: entry.is(Kind::Place), region });
        }
        *known = shown;
        Ok(())
    }

    fn region(&self, index: usize) -> io::Result<Mapping<Region>> {
        Mapping::map(self.tokens().as_fd(), self.regions.offset(index))
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<usize, u32>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token is forgotten: nobody finds its region any more. It is freed with the last who uses it.
    pub(super) fn leave_region(&self, index: usize) {
        if let Some(entry) = self.regions.directory.entry(index) {
            entry.state.store(BUSY, Ordering::Release);
        }
    }

    /// Nobody in this process uses a region any more. `is_forgotten` is whether it is freed.
    pub(super) fn drop_region(&self, index: usize, is_forgotten: bool) {
        let mut held = self.held();
        let left = held.get(&index).map_or(0, |uses| uses.saturating_sub(1));
        if left > 0 {
            held.insert(index, left);
            return;
        }
        if is_forgotten {
            self.free(index);
        }
        held.remove(&index);
    }

    /// Gives the memory of a region back, and with it what was in it.
    fn free(&self, index: usize) {
        let Some(entry) = self.regions.directory.entry(index) else { return };
        let (offset, length) = (self.regions.offset(index) as u64, REGION as u64);
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Err(error) = fallocate(self.tokens(), hole, offset, length) {
            // It is never used again: what it held must not be another token's.
            tracing::warn!("the memory of a token that was forgotten is not given back: {error}");
            if let Ok(region) = self.region(index) {
                region.slots().for_each(|slot| slot.clear(&region.bytes));
            }
            return;
        }
        entry.key.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        entry.place.store(0, Ordering::Relaxed);
        entry.state.store(FREE, Ordering::Release);
    }

    /// Says that tokens could be swapped out, once in the life of a mount.
    pub(super) fn tell_unlocked(&self, error: rustix::io::Errno) {
        if self.regions.directory.told_unlocked.swap(1, Ordering::AcqRel) == 0 {
            tracing::warn!(
                "cannot lock the memory that holds tokens, so they could be swapped out: {error}; \
                 raise the limit (ulimit -l 8192) or turn swap off"
            );
        }
    }
}

impl Region {
    fn name(&self) -> String {
        read_text(&self.name, &self.name_length)
    }
}
