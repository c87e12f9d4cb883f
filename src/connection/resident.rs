//! What a process that sleeps keeps in memory, and what of it never reaches a swap device.

#![expect(
    unsafe_code,
    reason = "finds its own program in memory and gives it back; mallopt(3), malloc_trim(3), mlock(2)"
)]

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise, mlock, munlock};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use rustix::mm::{MlockAllFlags, mlockall};

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

/// Gives back what the heap holds for nobody, wherever it lies: reading arguments and a configuration
/// leaves holes in it. Of memory that is locked only the end can be given back.
fn trim_the_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator takes its own locks, and only gives back what nobody has.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Keeps all of this process's memory from being swapped out, each page from its first use on, where
/// the process may do so without a limit. Under a limit nothing is locked here: beyond it every later
/// allocation would fail. The program's own pages, which hold no secret and are given back by
/// [`forget_the_program`], are not locked. To be called while the process has one thread.
pub fn lock_all_memory() {
    trim_the_heap();
    if !may_lock_without_limit() {
        tracing::debug!("memory is limited: only what is shared with other workers is locked");
        return;
    }
    match mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
        Ok(()) => for_each_read_only_segment(|page, length| {
            // SAFETY: the range is the program's; unlocking changes no byte of it. An error leaves it
            // locked, which is as right.
            unsafe { munlock(page, length) }.ok();
        }),
        Err(error) => tracing::debug!(%error, "the memory cannot be locked"),
    }
}

/// Whether memory can be locked without regard to `RLIMIT_MEMLOCK`: there is none, or we have
/// `CAP_IPC_LOCK` where it counts, which is in the first user namespace only. With a limit of nothing
/// that capability alone lets anything be locked.
fn may_lock_without_limit() -> bool {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK) else { return false };
    if soft == RLIM_INFINITY {
        return true;
    }
    if setrlimit(Resource::RLIMIT_MEMLOCK, 0, hard).is_err() {
        return false;
    }
    let here = 0_u8;
    let page = NonNull::from(&here).cast();
    // SAFETY: locks the page of the stack that `here` is on, and unlocks it again.
    let can = unsafe { mlock(page, 1).and_then(|()| munlock(page, 1)) }.is_ok();
    setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard).is_ok() && can
}

/// Takes the program's code and constants out of this process's memory, and what the heap holds for
/// nobody: most of it was needed for a start or a fetch. What runs again comes back from the page cache,
/// sixteen pages with each fault of about a microsecond. Nothing is lost: of the program no page is among
/// them that was written to.
pub fn forget_the_program() {
    trim_the_heap();
    for_each_read_only_segment(|page, length| {
        // SAFETY: the segment is mapped from the program's file and never written to, so that the
        // kernel maps the same bytes again. Where it refuses, they stay, which is as right.
        unsafe { madvise(page, length, MmapAdvise::MADV_DONTNEED) }.ok();
    });
}

/// Calls a function with the whole pages of each segment of the program that is never written to.
fn for_each_read_only_segment(mut each: impl FnMut(NonNull<c_void>, usize)) {
    let mut each: &mut dyn FnMut(NonNull<c_void>, usize) = &mut each;
    // SAFETY: the callback is called while this call lasts, with a pointer to `each`.
    unsafe { libc::dl_iterate_phdr(Some(read_only_segments), (&raw mut each).cast()) };
}

/// Called for the program itself, which comes first (`dl_iterate_phdr(3)`), and for nothing else.
unsafe extern "C" fn read_only_segments(
    program: *mut libc::dl_phdr_info,
    _size: usize,
    each: *mut c_void,
) -> c_int {
    const LAST: c_int = 1;
    // SAFETY: the caller's own pointer, which nobody else uses meanwhile; see above.
    let each = unsafe { &mut *each.cast::<&mut dyn FnMut(NonNull<c_void>, usize)>() };
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
            each(page, in_page + length);
        }
    }
    LAST
}
