//! A part of a file in memory that is mapped for as long as a value lives.

#![expect(unsafe_code, reason = "maps the memfd, locks its pages and keeps them out of core dumps")]

use std::io;
use std::num::NonZeroUsize;
use std::ops::{Deref, Range};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use rustix::mm::{MlockFlags, mlock_with};

use super::Shared;
use super::earlier::Earlier;
use super::layout::{Directory, Region};

/// What can be mapped: it consists of atomics alone, so that every bit pattern is valid, and other
/// processes may write to it.
///
/// # Safety
/// The type must be so.
unsafe trait Words {}

// SAFETY: atomics and arrays of them.
unsafe impl Words for Shared {}
// SAFETY: as above.
unsafe impl Words for Directory {}
// SAFETY: as above.
unsafe impl Words for Region {}
// SAFETY: as above.
unsafe impl Words for Earlier {}

/// See the module.
pub(super) struct Mapping<T>(NonNull<T>);

// SAFETY: it points to memory that lives as long as the value and consists of atomics alone.
unsafe impl<T: Words> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T: Words> Sync for Mapping<T> {}

#[expect(private_bounds, reason = "no other module may say what can be mapped")]
impl<T: Words> Mapping<T> {
    /// Maps what begins at `offset`, a multiple of the page's size. The file must be long enough.
    pub(super) fn map(file: BorrowedFd<'_>, offset: usize) -> io::Result<Self> {
        let length = NonZeroUsize::new(size_of::<T>()).unwrap_or(NonZeroUsize::MIN);
        let offset = i64::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: a fresh mapping at an address that the kernel picks.
        let address = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                file,
                offset,
            )
        }?;
        // SAFETY: the range was mapped just now.
        let kept_out = unsafe { madvise(address, size_of::<T>(), MmapAdvise::MADV_DONTDUMP) };
        if let Err(error) = kept_out {
            tracing::warn!("cannot keep tokens out of core dumps: {error}");
        }
        Ok(Self(address.cast()))
    }

    /// Keeps these bytes from being swapped out, each page from its first use on.
    pub(super) fn lock(&self, bytes: &Range<usize>) -> rustix::io::Result<()> {
        let end = bytes.end.min(size_of::<T>());
        let start = bytes.start.min(end);
        // SAFETY: both ends are within this value's own mapping.
        unsafe {
            let first = self.0.as_ptr().cast::<u8>().add(start).cast();
            mlock_with(first, end - start, MlockFlags::ONFAULT)
        }
    }
}

impl<T> Deref for Mapping<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: mapped for as long as `self` lives, aligned to a page, and made of atomics, for
        // which every bit pattern is valid.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing borrowed from it outlives it.
        if let Err(error) = unsafe { munmap(self.0.cast(), size_of::<T>()) } {
            tracing::warn!("cannot unmap shared memory: {error}");
        }
    }
}
