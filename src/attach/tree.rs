//! What is shown: a clone of a directory's mount, with less rights than that has.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use rustix::fs::{AtFlags, FileType, Mode, Stat, fstat, fstatfs, statat};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use super::attributes;
use super::error::{AttachError, errno};

/// The view that tells who may read.
const TOKEN: &str = "token";

/// A directory of a mount of ours, cloned, and in no namespace yet. Dropping it unmounts it, unless it was
/// moved somewhere.
pub struct Tree {
    pub(super) mount: OwnedFd,
    /// Who may read the tokens in it.
    pub(super) owner: u32,
    pub(super) group: u32,
    pub(super) mode: Mode,
}

impl Tree {
    /// Clones a directory. Programs in the container may write to `refresh` only if `may_refresh`:
    /// several containers can be shown the same directory, and a token that one of them rejects is
    /// withheld from the same user in all of them.
    ///
    /// # Errors
    /// [`AttachError::Dead`], [`AttachError::SingleFile`], [`AttachError::TooOld`].
    pub fn of(directory: &OwnedFd, path: &Path, may_refresh: bool) -> Result<Self, AttachError> {
        let cannot = |error: rustix::io::Errno| match errno(error) {
            Errno::ENOTCONN | Errno::ECONNABORTED => AttachError::Dead { path: path.to_owned() },
            errno => AttachError::system(format!("look at {}", path.display()), errno),
        };
        // This asks the daemon; the kernel answers `stat` by itself.
        fstatfs(directory).map_err(cannot)?;
        let stat = fstat(directory).map_err(cannot)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(AttachError::SingleFile { path: path.to_owned() });
        }
        let Stat { st_uid: owner, st_gid: group, .. } = stat;
        let token = statat(directory, TOKEN, AtFlags::SYMLINK_NOFOLLOW);
        // A directory of tokens on demand has none; all in a mount have the same owner and mode.
        let mode = token.map_or(Mode::RUSR, |token| Mode::from_raw_mode(token.st_mode));
        let mount = clone(directory)?;
        restrict(&mount, may_refresh)?;
        Ok(Self { mount, owner, group, mode })
    }
}

/// A clone of the mount that a directory is in, with that directory as its root, and nothing of what is
/// mounted below it.
pub(super) fn clone(directory: impl AsFd) -> Result<OwnedFd, AttachError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(directory, c"", flags).map_err(|error| AttachError::kernel("clone the mount", error))
}

fn restrict(mount: &OwnedFd, may_refresh: bool) -> Result<(), AttachError> {
    let mut flags = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    if !may_refresh {
        flags |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    let none = MountAttrFlags::empty();
    match attributes::change(mount, flags | MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW, none) {
        // Before Linux 5.14. There are no links in a mount of ours.
        Err(Errno::EINVAL) => attributes::change(mount, flags, none),
        outcome => outcome,
    }
    .map_err(|errno| AttachError::refused("restrict the clone of the mount", errno))
}
