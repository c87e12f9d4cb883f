//! Memory that processes share: a file without a name (`memfd_create(2)`).

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

/// Makes an empty one, which can be sealed and not executed.
///
/// # Errors
/// EPERM, EACCES or ENOSYS where a seccomp filter forbids it; what the system says.
pub fn anonymous(name: &CStr) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // With `vm.memfd_noexec=2` the kernel takes no other; before Linux 6.3 it does not know the flag.
    match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => Ok(memfd_create(name, flags)?),
        made => Ok(made?),
    }
}
