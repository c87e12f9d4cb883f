//! How the regions lie in the shared memory: a directory that says whose they are, and then they
//! themselves.
//!
//! Hundreds of tokens can be kept, and a page is given memory when it is first read or written. So what a
//! token has that rotated a few times lies in one page, and what nobody wrote to is not looked at.

use std::io;
use std::mem::offset_of;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::saved::SavedProgress;
use super::slot::{Bytes, Slot};
use super::{SLOTS, VIEWS};
use crate::view::View;
use crate::view::token::TokenView;

/// The most tokens and further places at a time, those included that an upgrade is about to replace.
pub const REGIONS: usize = 4096;

/// The states of an entry besides those of [`Kind`]: nobody's, and one that is being filled or freed.
pub(super) const FREE: u64 = 0;
pub(super) const BUSY: u64 = u64::MAX;

/// What a region is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Kind {
    /// That at the root of the mount.
    Root = 1,
    /// One with a directory of its own.
    Named = 2,
    /// One that was made when somebody opened it.
    OnDemand = 3,
    /// None that outlives its process.
    Passing = 4,
    /// One that is shown by doors alone, and by any number of them.
    Shared = 5,
    /// Not a token, but a place where one of these is shown.
    Place = 6,
}

/// Which regions are whose.
#[repr(C)]
pub(super) struct Directory {
    /// The entries from here on were never taken.
    pub(super) end: AtomicU64,
    /// The last number that was given to a place. None is given twice: the kernel keeps inodes.
    pub(super) last_place: AtomicU64,
    /// It was said that memory cannot be locked.
    pub(super) told_unlocked: AtomicU64,
    entries: [Entry; REGIONS],
}

#[repr(C)]
pub(super) struct Entry {
    pub(super) state: AtomicU64,
    pub(super) key: [AtomicU64; 2],
    /// The number of a place.
    pub(super) place: AtomicU64,
}

impl Entry {
    pub(super) fn is(&self, kind: Kind) -> bool {
        self.state.load(Ordering::Acquire) == kind as u64
    }

    pub(super) fn has(&self, kind: Kind, key: [u64; 2]) -> bool {
        self.is(kind) && self.key.iter().zip(key).all(|(a, b)| a.load(Ordering::Relaxed) == b)
    }

    pub(super) fn take(&self, from: u64) -> bool {
        self.state.compare_exchange(from, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

impl Directory {
    pub(super) fn entries(&self) -> impl Iterator<Item = (usize, &Entry)> {
        // What was never taken is not looked at: it has no memory yet.
        let end = usize::try_from(self.end.load(Ordering::Acquire)).unwrap_or(REGIONS);
        self.entries.iter().enumerate().take(end)
    }

    pub(super) fn entry(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index)
    }

    /// Takes a free entry.
    pub(super) fn claim(&self) -> io::Result<(usize, &Entry)> {
        loop {
            if let Some(free) = self.entries().find(|(_, entry)| entry.take(FREE)) {
                return Ok(free);
            }
            let end = self.end.load(Ordering::Acquire);
            if end >= REGIONS as u64 {
                let why =
                    format!("a mount has room for {REGIONS} tokens and doors, and for no other");
                return Err(io::Error::new(io::ErrorKind::StorageFull, why));
            }
            // Where another process was faster, there is one more entry all the same.
            self.end.compare_exchange(end, end + 1, Ordering::AcqRel, Ordering::Relaxed).ok();
        }
    }
}

/// What there is of a token. Its bytes are valid for every bit pattern, also all zeros.
#[repr(C)]
pub(super) struct Region {
    /// The newest generation whose slot is complete.
    pub(super) prepared: AtomicU64,
    /// The number of its slot. They are written in turn.
    pub(super) newest: AtomicU64,
    /// The generation that each view shows.
    pub(super) current: [AtomicU64; VIEWS],
    /// The generation of each view whose arrival its live inode has told watchers of.
    pub(super) touched: [AtomicU64; VIEWS],
    /// What the kernel has asked for, and somebody may watch: [`DIRECTORY`], [`view`], [`live`].
    pub(super) seen: AtomicU64,
    /// How many files of a token on demand are open, and when one was opened last (boot clock).
    pub(super) opens: AtomicU64,
    pub(super) used_at: AtomicU64,
    /// The key of the token that is shown, where the region is that of a place.
    pub(super) shows: [AtomicU64; 2],
    pub(super) name_length: AtomicU64,
    pub(super) name: [AtomicU64; NAME / 8],
    pub(super) progress: SavedProgress,
    /// So many slots were ever taken.
    used: AtomicU64,
    first: [Slot; FIRST_SLOTS],
    pub(super) bytes: Bytes,
    more: [Slot; SLOTS - FIRST_SLOTS],
}

/// The directory of a place.
pub(super) const DIRECTORY: u64 = 1;

/// A view in it.
pub(super) fn view(view: u8) -> u64 {
    1_u64.checked_shl(u32::from(view) + 1).unwrap_or(0)
}

/// That in `live`.
pub(super) fn live(view: u8) -> u64 {
    const AFTER_VIEWS: u32 = 33;
    const _: () = assert!(AFTER_VIEWS as usize == VIEWS + 1);
    1_u64.checked_shl(u32::from(view) + AFTER_VIEWS).unwrap_or(0)
}

/// So many slots lie before the bytes, with which they share a page.
pub(super) const FIRST_SLOTS: usize = 8;
/// The smallest page of any system that this runs on, and three of GitHub's longest tokens.
const _: () = assert!(offset_of!(Region, bytes) + 3 * 520 <= 4096);

/// Room for a name, in bytes: an owner's and a repository's.
const NAME: usize = 192;
/// The largest page of any system that this runs on; regions begin at one.
pub(super) const PAGE: usize = 64 * 1024;
pub(super) const REGION: usize = size_of::<Region>().next_multiple_of(PAGE);
/// Where the regions begin, after the directory.
pub(super) const FIRST: usize = size_of::<Directory>().next_multiple_of(PAGE);
/// What directory and regions take of a file.
pub(super) const LENGTH: usize = FIRST + REGIONS * REGION;

impl Region {
    /// The slot with this number, if it was ever taken.
    pub(super) fn slot(&self, number: usize) -> Option<&Slot> {
        if number >= self.used() {
            return None;
        }
        self.first.get(number).or_else(|| self.more.get(number.checked_sub(FIRST_SLOTS)?))
    }

    /// The slots that were ever taken.
    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot> {
        (0..self.used()).filter_map(|number| self.slot(number))
    }

    /// How many slots were ever taken.
    pub(super) fn used(&self) -> usize {
        let used = self.used.load(Ordering::Acquire);
        usize::try_from(used).map_or(SLOTS, |used| used.min(SLOTS))
    }

    /// Takes the slot with this number, before anything is written to it: whoever comes after a writer that
    /// died has to find what it wrote.
    pub(super) fn take_slot(&self, number: usize) -> Option<&Slot> {
        self.used.fetch_max(number as u64 + 1, Ordering::AcqRel);
        self.slot(number)
    }

    /// Where everything up to so many of the bytes is.
    pub(super) fn up_to(bytes: usize) -> Range<usize> {
        0..offset_of!(Self, bytes) + bytes
    }

    /// Where the slots after the bytes are.
    pub(super) fn more_slots() -> Range<usize> {
        let start = offset_of!(Self, more);
        start..start + size_of::<[Slot; SLOTS - FIRST_SLOTS]>()
    }

    /// The newest generation that can be served; 0 before the first.
    pub(super) fn prepared(&self) -> u64 {
        self.prepared.load(Ordering::Acquire)
    }

    /// The generation that a view shows; 0 before the first.
    pub(super) fn current(&self, view: u8) -> u64 {
        at(&self.current, view)
    }

    /// The generation of which the view's live inode has told watchers.
    pub(super) fn touched(&self, view: u8) -> u64 {
        at(&self.touched, view)
    }

    /// Whether a view flips in a rename. At a door that is only the one that watchers wait for, and what
    /// somebody has looked up: of a thousand doors nearly all have readers of one view.
    pub(super) fn renames(&self, is_door: bool, number: u8) -> bool {
        !is_door || number == TokenView.id() || self.is_seen(view(number))
    }

    /// The same of touching a view in `live`.
    pub(super) fn touches(&self, is_door: bool, number: u8) -> bool {
        !is_door || self.is_seen(live(number))
    }

    /// Whether somebody may watch this of it.
    pub(super) fn is_seen(&self, what: u64) -> bool {
        self.seen.load(Ordering::Acquire) & what != 0
    }
}

/// What such a word for each view says of one.
fn at(views: &[AtomicU64; VIEWS], view: u8) -> u64 {
    views.get(usize::from(view)).map_or(0, |word| word.load(Ordering::Acquire))
}
