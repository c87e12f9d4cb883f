//! What a process that sleeps keeps in memory.

#![expect(unsafe_code, reason = "finds its own program in memory and gives it back; mallopt(3)")]

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// Gives back what a fetch needed for a moment, most of all the root certificates: the next one may be
/// an hour away.
pub fn keep_the_heap_small() {
    #[cfg(target_env = "gnu")]
    {
        const KEPT: libc::c_int = 64 * 1024;
        // One arena for the few threads, each of which would keep its own.
        for (what, value) in [(libc::M_ARENA_MAX, 1), (libc::M_TRIM_THRESHOLD, KEPT)] {
            // SAFETY: sets a number of the allocator; no memory is involved.
            unsafe { libc::mallopt(what, value) };
        }
    }
}

/// Takes the program's code and constants out of this process's memory: most of it was needed for a
/// start or a fetch. What runs again comes back from the page cache, sixteen pages with each fault of
/// about a microsecond. Nothing is lost: pages that were written to are not among them.
pub fn forget_the_program() {
    // SAFETY: the function is called while this call lasts, and has no data.
    unsafe { libc::dl_iterate_phdr(Some(forget_read_only_segments), std::ptr::null_mut()) };
}

/// Called for the program itself, which comes first (`dl_iterate_phdr(3)`), and for nothing else.
unsafe extern "C" fn forget_read_only_segments(
    program: *mut libc::dl_phdr_info,
    _size: usize,
    _data: *mut c_void,
) -> c_int {
    const LAST: c_int = 1;
    // SAFETY: the loader lends us its description of the program for this call.
    let (program, headers) = unsafe {
        let program = &*program;
        (program, std::slice::from_raw_parts(program.dlpi_phdr, program.dlpi_phnum.into()))
    };
    for segment in headers {
        let is_read_only = segment.p_type == libc::PT_LOAD && segment.p_flags & libc::PF_W == 0;
        let start = program.dlpi_addr.wrapping_add(segment.p_vaddr);
        let (Ok(start), Ok(length)) = (usize::try_from(start), usize::try_from(segment.p_memsz))
        else {
            continue;
        };
        // The kernel wants the beginning of a page.
        let in_page = start % rustix::param::page_size();
        let Some(page) = NonNull::new((start - in_page) as *mut c_void) else { continue };
        if is_read_only {
            // SAFETY: the segment is mapped from the program's file and never written to, so that the
            // kernel maps the same bytes again. Where it refuses, they stay, which is as right.
            unsafe { madvise(page, in_page + length, MmapAdvise::MADV_DONTNEED) }.ok();
        }
    }
    LAST
}
