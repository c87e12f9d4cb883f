//! Directories of files that are there already: whose they are, and whether somebody serves them.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;
use rustix::fs::{AtFlags, Mode, OFlags, statat};
use rustix::process::{Flock, FlockType, Pid, fcntl_getlk};

use crate::files::contents::{MARKER, PAGES, PREFIX, empty, entries};
use crate::place::MountError;
use crate::place::mountinfo;
use crate::time::{Clock, SystemClock};

/// How long a daemon may take to remove its files.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A directory of files that some daemon made.
pub struct Found {
    /// The link that leads there, if one does.
    link: Option<PathBuf>,
    path: PathBuf,
    /// Nothing, where only the link is left.
    directory: Option<OwnedFd>,
    /// Nothing, where this user may not look.
    marker: Option<OwnedFd>,
}

/// Who serves a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// This process.
    Process(Pid),
    /// A process that cannot be seen from here, or this user may not know.
    Unknown,
    /// Nobody any more.
    Nobody,
}

impl Found {
    /// What lies at a mountpoint; nothing where that is not ours.
    #[must_use]
    pub fn at(mountpoint: &Path) -> Option<Self> {
        if is_mounted(mountpoint) {
            return None;
        }
        let link = std::fs::read_link(mountpoint).ok();
        let path = link.clone().unwrap_or_else(|| mountpoint.to_owned());
        let is_named_by_us = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()));
        if link.is_some() && !is_named_by_us {
            return None;
        }
        let link = link.map(|_| mountpoint.to_owned());
        let (directory, marker) = match open(&path) {
            Ok(directory) => match open_marker(&directory) {
                Ok(marker) => (Some(directory), Some(marker)),
                Err(rustix::io::Errno::ACCESS) => (Some(directory), None),
                Err(_) => return None,
            },
            // The memory that it lay in is gone, and the link is left.
            Err(rustix::io::Errno::NOENT) if link.is_some() => (None, None),
            // Others may pass, and not look.
            Err(rustix::io::Errno::ACCESS) if path.join(MARKER).exists() => (None, None),
            Err(_) => return None,
        };
        Some(Self { link, path, directory, marker })
    }

    /// Who serves it.
    #[must_use]
    pub fn holder(&self) -> Holder {
        let Some(marker) = &self.marker else {
            let is_gone = self.directory.is_none() && !self.path.exists();
            return if is_gone { Holder::Nobody } else { Holder::Unknown };
        };
        // A lock for reading would be refused by the daemon's lock alone.
        match fcntl_getlk(marker, &Flock::from(FlockType::ReadLock)) {
            Ok(None) => Holder::Nobody,
            Ok(Some(Flock { pid: Some(pid), .. })) => Holder::Process(pid),
            Ok(Some(Flock { pid: None, .. })) | Err(_) => Holder::Unknown,
        }
    }

    /// Whether this user made it.
    fn is_own(&self) -> bool {
        let whose = |file: &OwnedFd| rustix::fs::fstat(file).ok().map(|it| it.st_uid);
        let files = self.directory.iter().chain(&self.marker);
        files.map(whose).all(|uid| uid == Some(geteuid().as_raw()))
    }

    /// Removes what a daemon left that is no more.
    fn remove(&self) {
        if let Some(directory) = &self.directory {
            empty(directory);
        }
        let is_named_by_us = self.link.is_some();
        if is_named_by_us {
            std::fs::remove_dir(&self.path).ok();
        }
        if let Some(link) = &self.link
            && let Err(error) = std::fs::remove_file(link)
        {
            tracing::warn!("the link {} stays: {error}", link.display());
        }
    }

    /// Whether it is the directory of one token in a directory of files: they share the marker.
    fn is_of_a_token(&self) -> bool {
        let number = |path: &str| {
            let found = statat(self.directory.as_ref()?, path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            Some((found.st_dev, found.st_ino))
        };
        let above = number(&format!("../{MARKER}"));
        above.is_some() && above == number(MARKER)
    }

    /// Takes the files away: whoever serves them sees that the marker is gone, and removes the rest.
    ///
    /// # Errors
    /// [`MountError::NotOurs`] where this user may not, [`MountError::Stuck`] where nobody removes them,
    /// [`MountError::NotMounted`] for the directory of one token among others.
    pub fn end(&self, mountpoint: &Path) -> Result<(), MountError> {
        let target = mountpoint.to_owned();
        if self.is_of_a_token() {
            return Err(MountError::NotMounted { target });
        }
        let Some(directory) = self.directory.as_ref().filter(|_| self.marker.is_some()) else {
            if self.holder() == Holder::Nobody {
                self.remove();
                return Ok(());
            }
            return Err(MountError::NotOurs { target });
        };
        if self.holder() == Holder::Nobody {
            self.remove();
            return Ok(());
        }
        rustix::fs::unlinkat(directory, MARKER, AtFlags::empty()).map_err(|error| {
            let errno = nix::errno::Errno::from_raw(error.raw_os_error());
            MountError::system(format!("remove {}", self.path.join(MARKER).display()), errno)
        })?;
        let deadline = SystemClock.now().boot.saturating_add(PATIENCE);
        while entries(directory).iter().any(|name| PAGES.contains(&name.as_str())) {
            if SystemClock.now().boot >= deadline {
                return Err(MountError::Stuck { target });
            }
            std::thread::sleep(LOOK_EVERY);
        }
        // The directories and the link go right after the files, and the lock after them.
        while self.holder() != Holder::Nobody {
            if SystemClock.now().boot >= deadline {
                break;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

/// Whether a mount of ours is there. Nobody waits for its daemon here, which may be stopped.
fn is_mounted(mountpoint: &Path) -> bool {
    let real = || {
        let path = std::path::absolute(mountpoint).ok()?;
        Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?))
    };
    let topmost = real().and_then(|path| mountinfo::topmost(&path).ok().flatten());
    topmost.is_some_and(|mount| mount.is_ours())
}

/// Removes from a mountpoint what a daemon left that was killed.
///
/// # Errors
/// [`MountError::AlreadyServed`] where somebody serves there.
pub fn clear(mountpoint: &Path) -> Result<(), MountError> {
    let Some(found) = Found::at(mountpoint) else { return Ok(()) };
    let pid = match found.holder() {
        Holder::Process(pid) => u32::try_from(pid.as_raw_nonzero().get()).ok(),
        Holder::Unknown => None,
        Holder::Nobody => {
            // What another user left is not empty, and that is what the start will say.
            if found.is_own() {
                tracing::info!("removing what a killed daemon left at {}", mountpoint.display());
                found.remove();
            }
            return Ok(());
        }
    };
    Err(MountError::AlreadyServed { target: mountpoint.to_owned(), pid })
}

/// Removes every directory under `base` that a killed daemon of this user left.
pub(super) fn sweep(base: &Path) {
    let entries = std::fs::read_dir(base).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if !name.starts_with(PREFIX.as_bytes()) || path.is_symlink() {
            continue;
        }
        if let Some(found) = Found::at(&path).filter(|it| it.is_own() && it.directory.is_some())
            && found.holder() == Holder::Nobody
        {
            tracing::info!("removing what a killed daemon left in {}", path.display());
            found.remove();
            std::fs::remove_dir(&path).ok();
        }
    }
}

/// Opens a directory, and nothing else.
pub(super) fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

fn open_marker(directory: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(directory, MARKER, flags, Mode::empty())
}
