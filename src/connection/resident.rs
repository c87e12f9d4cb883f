//! What a process that sleeps keeps in memory, and what of it never reaches a swap device.

#![expect(
    unsafe_code,
    reason = "finds its own program in memory and gives it back; malloc(3), mlock(2)"
)]

use std::ffi::{c_int, c_void};
use std::io;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise, mlock, munlock};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use rustix::mm::{MlockAllFlags, MlockFlags, mlock_with, mlockall};

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

/// Gives back what the heap holds for nobody, wherever it lies: reading arguments, a configuration or an
/// answer leaves holes in it.
fn trim_the_heap() {
    #[cfg(target_env = "gnu")]
    {
        empty_the_holes();
        // SAFETY: the allocator takes its own locks, and only gives back what nobody has.
        unsafe { libc::malloc_trim(0) };
    }
}

/// Does what `malloc_trim(3)` cannot do where memory is locked, which `madvise(2)` refuses to take: each
/// hole is allocated, so that its pages are ours, emptied, and freed.
#[cfg(target_env = "gnu")]
fn empty_the_holes() {
    // Less than what the allocator maps by itself; and more than a page, of which none may be whole.
    const LARGEST: usize = 64 * 1024;
    const SMALLEST: usize = 8 * 1024;
    const MOST: usize = 256;
    let mut holes = Vec::with_capacity(MOST);
    let mut size = LARGEST;
    while size >= SMALLEST && holes.len() < MOST {
        // SAFETY: asks where the heap ends.
        let end = || unsafe { libc::sbrk(0) };
        let end_before = end();
        // SAFETY: allocates; nobody else knows the memory.
        let Some(hole) = NonNull::new(unsafe { libc::malloc(size) }) else { break };
        if end() != end_before {
            // SAFETY: allocated above, and used by nobody.
            unsafe { libc::free(hole.as_ptr()) };
            size /= 2;
            continue;
        }
        // SAFETY: the memory is ours, as long as the allocator says.
        if let Err(error) = unsafe { empty(hole, libc::malloc_usable_size(hole.as_ptr())) } {
            // What is no longer locked must not be handed out again, so that it is not freed.
            tracing::debug!(%error, "memory of the heap cannot be given back");
            break;
        }
        holes.push(hole);
    }
    for hole in holes {
        // SAFETY: allocated above, and used by nobody.
        unsafe { libc::free(hole.as_ptr()) };
    }
}

/// Gives the whole pages of a range back, which then read as zeros and are as locked as before. After an
/// error they may not be locked.
///
/// # Safety
///
/// The range is the caller's, with nothing in it that is still needed.
#[cfg(target_env = "gnu")]
unsafe fn empty(start: NonNull<c_void>, length: usize) -> io::Result<()> {
    let page = rustix::param::page_size();
    let skipped = start.as_ptr().cast::<u8>().align_offset(page);
    let length = length.saturating_sub(skipped) / page * page;
    if length == 0 {
        return Ok(());
    }
    // SAFETY: the pages lie in the range, and hold nothing that anybody needs.
    unsafe {
        let start = start.byte_add(skipped);
        let give_back = || madvise(start, length, MmapAdvise::MADV_DONTNEED);
        if give_back().is_err() {
            munlock(start, length)?;
            give_back()?;
            mlock_with(start.as_ptr(), length, MlockFlags::ONFAULT)?;
        }
    }
    Ok(())
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

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

    use super::*;

    #[test]
    fn locked_pages_are_emptied_and_stay_locked() {
        let page = rustix::param::page_size();
        let length = 4 * page;
        // SAFETY: a mapping of our own, which is not used after it is unmapped.
        unsafe {
            let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
            let start = mmap_anonymous(std::ptr::null_mut(), length, access, flags).expect("pages");
            let bytes = std::slice::from_raw_parts_mut(start.cast::<u8>(), length);
            bytes.fill(1);
            mlock_with(start, length, MlockFlags::ONFAULT).expect("four pages may be locked");
            empty(NonNull::new(start.byte_add(1)).expect("a page"), length - 1).expect("emptied");
            let mut resident = [0_u8; 4];
            assert_eq!(libc::mincore(start, length, resident.as_mut_ptr()), 0);
            assert_eq!(resident.map(|of| of & 1), [1, 0, 0, 0], "the first is not whole");
            assert!(bytes[..page].iter().all(|&byte| byte == 1));
            assert!(bytes[page..].iter().all(|&byte| byte == 0));
            assert!(
                madvise(NonNull::new(start).expect("a page"), length, MmapAdvise::MADV_DONTNEED)
                    .is_err(),
                "locked"
            );
            munmap(start, length).expect("unmapped");
        }
    }
}
