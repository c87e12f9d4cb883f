//! `mount_setattr(2)`.

#![expect(unsafe_code, reason = "a system call that nix and rustix do not have")]

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use rustix::mount::MountAttrFlags;

/// Changes the flags of one mount, and cuts it off from mounts and unmounts that happen at its copies
/// elsewhere (`mount_namespaces(7)`).
pub(super) fn change(
    mount: &OwnedFd,
    set: MountAttrFlags,
    clear: MountAttrFlags,
) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: set.bits().into(),
        attr_clr: clear.bits().into(),
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: the descriptor is open for as long as it is borrowed, the path is a C string, and the
    // structure is readable and as long as the last argument says.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    Errno::result(outcome).map(drop)
}
