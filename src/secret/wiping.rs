//! An allocator that wipes memory when it is freed or moved.

#![expect(unsafe_code, reason = "an allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};

use zeroizing_alloc::ZeroAlloc;

/// Larger blocks are not wiped. No library has a buffer of this size for an answer that may hold a
/// secret (hyper's are 400 KiB at most), and our own wipe themselves. But fuser reads requests into
/// 16 MiB, of which it uses a few hundred bytes: wiping all of them would make a worker's start four
/// times as long, and the worker as large.
const LARGEST: usize = 1024 * 1024;

/// The system's allocator, except that a block of up to a mebibyte is wiped before it is given back.
/// A token or a bearer passes through buffers of libraries (HTTP, TLS, JSON) that know nothing of
/// secrets.
pub struct Wiping;

// SAFETY: all work is done by the two allocators below, the one a wrapper of the other, so that either
// may free what was allocated here. `realloc` is the trait's own, which allocates, copies and frees.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if layout.size() > LARGEST {
            // SAFETY: as above.
            unsafe { System.dealloc(block, layout) }
        } else {
            // SAFETY: as above.
            unsafe { ZeroAlloc(System).dealloc(block, layout) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_what_is_written_to_it_and_keeps_it_when_it_grows() {
        for size in [1, 24, 4096, LARGEST, LARGEST + 1] {
            let layout = Layout::array::<u8>(size).unwrap();
            // SAFETY: the block is used within its size, and freed with the layout that it then has.
            unsafe {
                let block = Wiping.alloc_zeroed(layout);
                assert!((0..size).all(|at| *block.add(at) == 0), "{size}");
                block.write_bytes(b'x', size);
                let larger = Wiping.realloc(block, layout, size * 2);
                assert!((0..size).all(|at| *larger.add(at) == b'x'), "{size}");
                Wiping.dealloc(larger, Layout::array::<u8>(size * 2).unwrap());
            }
        }
    }
}
