//! A mount that is given up while others have its connection open, and made anew at the same place.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::MoveMountFlags;

use super::{Mount, MountError, Way, connect, errno, from_rustix, put};
use crate::place::mountinfo::{self, MountEntry};

/// The kernel's control file system for connections (`fuse(4)`), where somebody has mounted it.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

impl Mount {
    /// Ends the connection, though others have it open: whoever waits for an answer gets an error, and
    /// so does everybody after them. The mount stays where it is, dead.
    ///
    /// # Errors
    /// Where the kernel does not let us: an ordinary user's needs `/sys/fs/fuse/connections`.
    pub fn abort(&self) -> Result<(), MountError> {
        if !self.attached {
            return Ok(());
        }
        let (root, mount) = self.root()?;
        // By its descriptor, so that no path can be swapped; and what is held is not unmounted as well.
        let root = format!("/proc/self/fd/{}", root.as_raw_fd());
        match umount2(root.as_str(), MntFlags::MNT_FORCE) {
            Ok(()) | Err(Errno::EBUSY) => Ok(()),
            Err(refused) => {
                let control = format!("{CONNECTIONS}/{}/abort", mount.minor);
                fs::write(&control, "1").map_err(|error| {
                    let what = format!("abort the connection ({refused}), nor through {control}");
                    MountError::system(what, errno(&error))
                })
            }
        }
    }

    /// Aborts the connection, and prepares another mount of the same kind at the same place, which
    /// [`Mount::attach`] puts into the place of the dead one.
    ///
    /// # Errors
    /// As [`Mount::abort`] and [`Mount::open`]. It can be tried again.
    pub fn renew(&mut self) -> Result<(), MountError> {
        let again =
            |mount: &Self| connect(mount.target(), &mount.pinned, mount.layout, mount.allow_other);
        let is_visible_at_once = matches!(self.way, Way::Classic | Way::Helper);
        let (device, way) = if is_visible_at_once {
            self.abort()?;
            // The new one would come to lie over it.
            self.detach()?;
            again(self)?
        } else {
            // What can fail comes before anything is lost.
            let new = again(self)?;
            self.abort()?;
            new
        };
        (self.device, self.way) = (Some(device), way);
        self.find_itself()
    }

    /// Puts a new mount beneath the dead one that it replaces, so that there is one at any moment (Linux
    /// 6.5). Whether that is done.
    pub(super) fn is_put_beneath(&self, tree: &OwnedFd) -> bool {
        self.attached
            && self
                .root()
                .is_ok_and(|(dead, _)| put(tree, &dead, MoveMountFlags::MOVE_MOUNT_BENEATH).is_ok())
    }

    /// The root of this very mount, wherever it is now, found without asking whoever serves it.
    pub(super) fn root(&self) -> Result<(OwnedFd, MountEntry), MountError> {
        let gone = || MountError::NotMounted { target: self.target().to_owned() };
        let cannot = |error: &std::io::Error| MountError::system("find the mount", errno(error));
        if self.id == 0 {
            // Its number could not be told: then it is where it was made, or it is not found.
            return self.place.mounted()?.filter(|(_, mount)| mount.is_ours()).ok_or_else(gone);
        }
        let mount = mountinfo::by_id(self.id).map_err(|error| cannot(&error))?.ok_or_else(gone)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = open(&mount.target, flags, Mode::empty());
        let root =
            root.map_err(|error| MountError::system("hold the mount", from_rustix(error)))?;
        let is_it = mountinfo::id_of(&root).map_err(|error| cannot(&error))? == Some(self.id);
        // Something else lies over it.
        if is_it { Ok((root, mount)) } else { Err(gone()) }
    }
}
