//! Whether a mount can be made here, found out by making one: in a mount namespace of its own, which
//! ends with the process, so that nothing is left behind.

use std::path::Path;

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags};
use rustix::mount as kernel;

use super::{MountError, detached, from_rustix, open_device};
use crate::status::Layout;

/// The step that failed, in their order, and what the kernel said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// There is no device.
    NoDevice,
    /// It cannot be opened.
    Device(Errno),
    /// There is no mount namespace to be had.
    Namespace(Errno),
    /// The file system cannot be created.
    FileSystem(Errno),
    /// It cannot be made visible.
    Attach(Errno),
}

/// Places for the mount; it covers one of them for nobody but this process.
const PLACES: [&str; 4] = ["/run", "/tmp", "/mnt", "/dev"];

/// Makes a mount that nobody else sees. The process must have one thread, and should end afterwards:
/// it stays in the new namespace.
///
/// # Errors
/// The step that failed.
pub fn probe() -> Result<(), Obstacle> {
    let device = open_device().map_err(|error| match error {
        MountError::NoDevice | MountError::OtherDevice => Obstacle::NoDevice,
        MountError::DeviceRefused { errno } => Obstacle::Device(errno),
        _ => Obstacle::Device(Errno::ENODEV),
    })?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(Obstacle::Namespace)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(Obstacle::Namespace)?;
    let tree = detached(&device, Layout::Directory, false)
        .map_err(|errno| Obstacle::FileSystem(from_rustix(errno)))?;
    let place = PLACES.into_iter().find(|place| Path::new(place).is_dir()).unwrap_or("/");
    let place = rustix::fs::open(place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Obstacle::Attach(from_rustix(errno)))?;
    let flags = kernel::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
        | kernel::MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    kernel::move_mount(&tree, c"", &place, c"", flags)
        .map_err(|errno| Obstacle::Attach(from_rustix(errno)))
}
