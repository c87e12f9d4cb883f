//! What is mounted at a place in a container, and what comes in its stead.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use rustix::fs::{Dir, Mode, OFlags, fstatfs, openat};
use rustix::mount::{MoveMountFlags, move_mount};

use super::error::{AttachError, errno};
use super::inside::{Inside, Spot};
use super::tree::Tree;

impl Inside {
    /// Puts a tree on a place; whether an earlier one was there.
    pub(super) fn show(&self, tree: &Tree, spot: &mut Spot) -> Result<bool, AttachError> {
        self.expect_private(spot)?;
        if !self.is_ours(spot)? {
            expect_empty(spot)?;
            put(&tree.mount, &spot.file, MoveMountFlags::empty())?;
            return Ok(false);
        }
        // Beneath the earlier one, so that there is one at any moment (Linux 6.5).
        let is_beneath = put(&tree.mount, &spot.file, MoveMountFlags::MOVE_MOUNT_BENEATH).is_ok();
        unmount(&spot.file)?;
        if !is_beneath {
            spot.look_again()?;
            if spot.mount != spot.parent_mount {
                return Err(AttachError::system("unmount the earlier one", Errno::EBUSY));
            }
            put(&tree.mount, &spot.file, MoveMountFlags::empty())?;
        }
        Ok(true)
    }

    /// Unmounts what is shown at a place.
    pub(super) fn take_away(&self, spot: &Spot) -> Result<(), AttachError> {
        if self.is_ours(spot)? {
            unmount(&spot.file)
        } else {
            Err(AttachError::NotShown { path: spot.path.clone() })
        }
    }

    /// Whether a mount of this host's is at a place, alive or dead. Anything else that is mounted there is
    /// an error.
    fn is_ours(&self, spot: &Spot) -> Result<bool, AttachError> {
        if spot.mount == spot.parent_mount {
            return Ok(false);
        }
        let path = || spot.path.clone();
        let Some(mount) = self.mount(spot.mount)? else {
            return Err(AttachError::Foreign { path: path(), fs_type: "unknown".into() });
        };
        if !mount.is_ours() {
            return Err(AttachError::Foreign { path: path(), fs_type: mount.fs_type });
        }
        let of_host = self.of_host.iter().filter(|host| host.is_ours());
        if of_host.map(|host| host.minor).any(|minor| minor == mount.minor) {
            return Ok(true);
        }
        // One of an earlier daemon is dead. One that answers has a daemon elsewhere: in the container.
        match fstatfs(&spot.file).map_err(errno) {
            Err(Errno::ENOTCONN | Errno::ECONNABORTED) => Ok(true),
            _ => Err(AttachError::OfTheContainer { path: path() }),
        }
    }

    /// A mount in a directory that is shared with this host (`rshared`) would appear here, too.
    fn expect_private(&self, spot: &Spot) -> Result<(), AttachError> {
        let parent = self.mount(spot.parent_mount)?;
        let group = parent.and_then(|parent| parent.peers);
        if group.is_some() && self.of_host.iter().any(|host| host.peers == group) {
            return Err(AttachError::Shared { path: spot.path.clone() });
        }
        Ok(())
    }
}

fn put(mount: &OwnedFd, place: impl AsFd, how: MoveMountFlags) -> Result<(), AttachError> {
    let flags =
        how | MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", place, c"", flags).map_err(|error| match error {
        // The process has left the namespace that its root is in, or the directory was removed.
        rustix::io::Errno::INVAL | rustix::io::Errno::NOENT => {
            AttachError::system("mount there: the container has changed meanwhile", errno(error))
        }
        error => AttachError::kernel("mount in the container", error),
    })
}

/// Detaches the mount with this root. The working directory is the host's `/proc`: a path through that of
/// the container could lead anywhere.
fn unmount(root: &OwnedFd) -> Result<(), AttachError> {
    let path = format!("self/fd/{}", root.as_raw_fd());
    umount2(path.as_str(), MntFlags::MNT_DETACH)
        .map_err(|errno| AttachError::refused("unmount in the container", errno))
}

fn expect_empty(spot: &Spot) -> Result<(), AttachError> {
    let cannot = |error| {
        let what = format!("list {} in the container", spot.path.display());
        AttachError::system(what, errno(error))
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(&spot.file, ".", flags, Mode::empty()).map_err(cannot)?;
    for entry in Dir::read_from(directory).map_err(cannot)? {
        let entry = entry.map_err(cannot)?.file_name().to_string_lossy().into_owned();
        if entry != "." && entry != ".." {
            return Err(AttachError::NotEmpty { path: spot.path.clone(), entry });
        }
    }
    Ok(())
}
