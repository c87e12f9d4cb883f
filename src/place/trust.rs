//! What may be on the way to tokens, and hold them: judged by descriptors.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, Stat, openat};

use crate::place::MountError;
use crate::place::mountinfo::MountEntry;
use crate::trust::{Flaw, Trust};

impl Trust {
    /// Whether a directory may be on the way.
    pub(super) fn judge_directory(
        &self,
        path: &Path,
        directory: &OwnedFd,
        stat: &Stat,
    ) -> Result<(), MountError> {
        let flaw = self.flaw_on_the_way(stat.st_uid, stat.st_mode);
        flaw.or_else(|| self.flaw_of_nobody(directory, stat))
            .map_or(Ok(()), |flaw| flaw.refuse(path))
    }

    /// Whether a symbolic link may be followed. Its mode says nothing.
    pub(super) fn judge_link(&self, path: &Path, stat: &Stat) -> Result<(), MountError> {
        if self.covers(stat.st_uid) { Ok(()) } else { Flaw::Link(stat.st_uid).refuse(path) }
    }

    /// Whether a file system may be on the way: one in user space says of its files what it likes.
    pub(super) fn judge_mount(&self, path: &Path, mount: &MountEntry) -> Result<(), MountError> {
        match mount.mounter {
            Some(mounter) if !self.covers_mounter(mounter) => Flaw::Mount(mounter).refuse(path),
            _ => Ok(()),
        }
    }

    /// What is wrong with the file or directory that tokens are mounted on, kept in or read from.
    pub(super) fn flaw_of_file(&self, file: &OwnedFd, stat: &Stat) -> Option<Flaw> {
        self.flaw_of(stat.st_uid, stat.st_mode).or_else(|| self.flaw_of_nobody(file, stat))
    }

    /// Finds a file of a user who is mapped, and has the number of all who are not: `nobody`. Whoever has
    /// the capability of a file's owner has it only for mapped ones, and `O_NOATIME` asks for it
    /// (`open(2)`, `CAP_FOWNER` in `capabilities(7)`). Without the capability nobody can tell.
    fn flaw_of_nobody(&self, file: &OwnedFd, stat: &Stat) -> Option<Flaw> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NOATIME | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let is_mapped = || openat(CWD, path, flags, Mode::empty()).is_ok();
        (self.is_ambiguous(stat.st_uid) && is_mapped()).then_some(Flaw::Owner(stat.st_uid))
    }
}

impl Flaw {
    /// As the error about a path.
    fn refuse<T>(self, path: &Path) -> Result<T, MountError> {
        Err(self.of(path))
    }

    /// The error about a path.
    pub(super) fn of(self, path: &Path) -> MountError {
        MountError::Untrusted { path: path.to_owned(), flaw: self }
    }
}
