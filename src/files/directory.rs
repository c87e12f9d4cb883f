//! The directory that holds the files, as a value: it makes what it needs and removes what it made.
//!
//! Whether a directory is ours, and whether somebody serves it, is told by a marker in it that the
//! daemon keeps locked (`F_SETLK` in `fcntl(2)`): the kernel releases the lock with the process,
//! however that ends, and tells whose it is. So what a killed daemon left behind is known for sure,
//! and no process is taken for a daemon that is none.

use std::fs::{DirBuilder, Permissions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use nix::unistd::{getegid, geteuid};
use rustix::fs::{AtFlags, FlockOperation, Gid, Mode, OFlags, Uid};

use crate::files::contents::{
    MARKER, NEW, PREFIX, empty, entries, new, remove_file, subdirectories,
};
use crate::files::found::{self, Found};
use crate::fs::access::Access;
use crate::place::MountError;
use crate::place::{self, Made, Place};
use crate::status::Layout;

/// What stands at the mountpoint.
enum At {
    /// The directory itself; as it was before, where it was there.
    Itself(Option<Before>),
    /// A link to it; the empty directory that the link replaces, where there was one.
    Link(Option<Before>),
}

/// Owner and mode of a directory that was there before us.
struct Before {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl Before {
    fn of(path: &Path) -> Option<Self> {
        let metadata = path.symlink_metadata().ok().filter(std::fs::Metadata::is_dir)?;
        let mode = metadata.mode() & 0o7777;
        Some(Self { uid: metadata.uid(), gid: metadata.gid(), mode })
    }

    fn restore(&self, path: &Path) {
        // Whoever was its owner can do the same.
        std::fs::set_permissions(path, Permissions::from_mode(self.mode)).ok();
        chown(path, Some(self.uid), Some(self.gid)).ok();
    }
}

/// A directory of files that only this process changes. Dropping it removes the files and whatever
/// was made for them.
pub struct Directory {
    mountpoint: PathBuf,
    path: PathBuf,
    handle: OwnedFd,
    access: Access,
    at: Option<At>,
    /// What was made on the way, dropped after the rest.
    _made: Made,
    /// Locked while it is open. No other descriptor of it may be closed in this process.
    marker: Option<OwnedFd>,
}

impl Directory {
    /// Makes the directory: at the mountpoint, where that lies in memory (tmpfs, ramfs); else under
    /// the first of `bases` that does, with the mountpoint a link to it; else, with `allow_disk`, at
    /// the mountpoint all the same.
    ///
    /// # Errors
    /// [`MountError`] says what stands in the way; nothing is left behind then.
    pub fn open(
        mountpoint: &Path,
        access: Access,
        bases: &[PathBuf],
        allow_disk: bool,
    ) -> Result<Self, MountError> {
        let mut place = Place::find(mountpoint, |path| Found::at(path).is_some())?;
        let mountpoint = place.path().to_owned();
        found::clear(&mountpoint)?;
        if mountpoint.exists() && !mountpoint.is_dir() {
            return Err(MountError::NotADirectory { target: mountpoint });
        }
        place.judge(Some(Layout::Directory))?;
        let made = place.take_made();
        let nearest = mountpoint.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
        if is_in_memory(nearest) {
            return Self::at_itself(mountpoint, access, made);
        }
        let mut tried = vec![nearest];
        for base in bases {
            if is_in_memory(base) {
                return Self::under(base, mountpoint, access, made);
            }
            tried.push(base);
        }
        if allow_disk {
            tracing::warn!("tokens are written to a disk, at {}", mountpoint.display());
            return Self::at_itself(mountpoint, access, made);
        }
        let tried = tried.iter().map(|path| path.display().to_string());
        Err(MountError::NoTmpfs { tried: tried.collect::<Vec<_>>().join(", ") })
    }

    fn at_itself(mountpoint: PathBuf, access: Access, made: Made) -> Result<Self, MountError> {
        let before = Before::of(&mountpoint);
        if before.is_none() {
            DirBuilder::new()
                .mode(0o755)
                .create(&mountpoint)
                .map_err(cannot("create", &mountpoint))?;
        }
        let handle = open_directory(&mountpoint)?;
        let mut directory = Self {
            path: mountpoint.clone(),
            mountpoint,
            handle,
            access,
            at: Some(At::Itself(before)),
            _made: made,
            marker: None,
        };
        directory.take_over()?;
        Ok(directory)
    }

    fn under(
        base: &Path,
        mountpoint: PathBuf,
        access: Access,
        made: Made,
    ) -> Result<Self, MountError> {
        place::judge_directory(base)?;
        found::sweep(base);
        // Nobody can have made it, or guess it in time to make it.
        let path = base.join(format!("{PREFIX}{:016x}", rand::random::<u64>()));
        DirBuilder::new().mode(0o700).create(&path).map_err(cannot("create", &path))?;
        let handle = open_directory(&path)?;
        let mut directory =
            Self { mountpoint, path, handle, access, at: None, _made: made, marker: None };
        directory.take_over()?;
        directory.link()?;
        Ok(directory)
    }

    /// Makes a directory that is there ours.
    fn take_over(&mut self) -> Result<(), MountError> {
        let whose = rustix::fs::fstat(&self.handle).map_err(cannot("look at", &self.path))?;
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        if whose.st_uid != uid && uid != 0 {
            return Err(MountError::NotOurs { target: self.path.clone() });
        }
        if let Some(entry) = entries(&self.handle).into_iter().next() {
            return Err(MountError::NotEmpty { target: self.path.clone(), entry });
        }
        // Whoever could write into it could put files of his own there.
        rustix::fs::fchown(&self.handle, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(cannot("become the owner of", &self.path))?;
        rustix::fs::fchmod(&self.handle, Mode::from_raw_mode(self.mode()))
            .map_err(cannot("set the mode of", &self.path))?;
        self.marker = Some(self.mark()?);
        for directory in subdirectories() {
            self.make(directory).map_err(cannot("create", &self.path.join(directory)))?;
        }
        Ok(())
    }

    /// Makes a directory in it. The umask cuts what `mkdirat` is told.
    fn make(&self, path: &str) -> rustix::io::Result<()> {
        let mode = Mode::from_raw_mode(self.mode());
        rustix::fs::mkdirat(&self.handle, path, mode)?;
        rustix::fs::chmodat(&self.handle, path, mode, AtFlags::empty())
    }

    /// Only who may read the files has a reason to pass.
    fn mode(&self) -> u32 {
        let is_ours_alone = self.access.is_for_nobody_but(geteuid().as_raw());
        if is_ours_alone { 0o700 } else { u32::from(Access::DIRECTORY_MODE) }
    }

    /// Puts the marker there, locked from the first moment on that it can be seen.
    fn mark(&self) -> Result<OwnedFd, MountError> {
        let error = |errno| cannot("write into", &self.path)(errno);
        let name = format!("{NEW}marker-{:016x}", rand::random::<u64>());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(0o600);
        let marker = rustix::fs::openat(&self.handle, &name, flags | OFlags::CLOEXEC, mode)
            .map_err(error)?;
        let named = rustix::fs::fcntl_lock(&marker, FlockOperation::NonBlockingLockExclusive)
            .and_then(|()| {
                let (from, to) = (&self.handle, &self.handle);
                rustix::fs::linkat(from, &name, to, MARKER, AtFlags::empty())
            });
        rustix::fs::unlinkat(&self.handle, &name, AtFlags::empty()).ok();
        match named {
            Ok(()) => Ok(marker),
            Err(rustix::io::Errno::EXIST) => {
                let target = self.mountpoint.clone();
                Err(MountError::AlreadyServed { target, pid: None })
            }
            Err(errno) => Err(error(errno)),
        }
    }

    /// Makes the directory of a token of this name. It has the marker, too, which tells whose it is and
    /// that it is a token's; from the first moment on that it can be seen under its name.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn add(&self, name: &str) -> Result<(), MountError> {
        let new = new(name);
        let marker = format!("{new}/{MARKER}");
        self.make(&new)
            .and_then(|()| {
                let (from, to) = (&self.handle, &self.handle);
                rustix::fs::linkat(from, MARKER, to, &marker, AtFlags::empty())
            })
            .and_then(|()| {
                subdirectories().try_for_each(|inner| self.make(&format!("{new}/{inner}")))
            })
            .and_then(|()| rustix::fs::renameat(&self.handle, &new, &self.handle, name))
            .map_err(cannot("create", &self.path.join(name)))
    }

    /// Makes the mountpoint a link to the directory. An empty directory there makes room.
    fn link(&mut self) -> Result<(), MountError> {
        let mountpoint = self.mountpoint.clone();
        let before = Before::of(&mountpoint);
        if before.is_some() {
            let handle = open_directory(&mountpoint)?;
            if let Some(entry) = entries(&handle).into_iter().next() {
                return Err(MountError::NotEmpty { target: mountpoint, entry });
            }
            std::fs::remove_dir(&mountpoint)
                .map_err(cannot("put a link in the place of", &mountpoint))?;
        }
        let linked = symlink(&self.path, &mountpoint);
        self.at = Some(At::Link(before));
        linked.map_err(cannot("make the link", &mountpoint))
    }

    /// Where readers look.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Where the files are.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file that wishes are written into.
    ///
    /// # Errors
    /// As [`Directory::replace`].
    pub(super) fn make_refresh(&self, path: &str) -> io::Result<std::fs::File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        self.create(path, flags, self.access.refresh_mode)
    }

    /// Replaces files, all of them or none, each in one step: whoever has the old one open keeps it.
    ///
    /// # Errors
    /// Where the file system is full, or the files cannot be given to their owner.
    pub(super) fn replace(&self, files: &[(String, &[u8], u16)]) -> io::Result<()> {
        let staged =
            files.iter().try_for_each(|(path, bytes, mode)| self.stage(path, bytes, *mode));
        let replaced = staged.and_then(|()| {
            files.iter().try_for_each(|(path, ..)| {
                Ok(rustix::fs::renameat(&self.handle, new(path), &self.handle, path)?)
            })
        });
        if replaced.is_err() {
            for (path, ..) in files {
                self.remove(&new(path)).ok();
            }
        }
        replaced
    }

    fn stage(&self, path: &str, bytes: &[u8], mode: u16) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        self.create(&new(path), flags, mode)?.write_all(bytes)
    }

    fn create(&self, path: &str, flags: OFlags, mode: u16) -> io::Result<std::fs::File> {
        // For nobody else before it has its owner.
        let nobody = Mode::from_raw_mode(0o600);
        let file = rustix::fs::openat(&self.handle, path, flags | OFlags::CLOEXEC, nobody)?;
        let Access { uid, gid, .. } = self.access;
        let is_ours = uid == geteuid().as_raw() && gid == getegid().as_raw();
        if !is_ours {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(u32::from(mode)))?;
        Ok(file.into())
    }

    /// Removes a file, if it is there. Whoever has it open keeps it.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub(super) fn remove(&self, path: &str) -> io::Result<()> {
        remove_file(&self.handle, path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.marker.is_some() {
            empty(&self.handle);
        }
        match &self.at {
            Some(At::Itself(Some(before))) => before.restore(&self.path),
            // Somebody may have put something there meanwhile; then it stays.
            _ => drop(std::fs::remove_dir(&self.path)),
        }
        if let Some(At::Link(before)) = &self.at {
            if std::fs::read_link(&self.mountpoint).is_ok_and(|path| path == self.path) {
                std::fs::remove_file(&self.mountpoint).ok();
            }
            if let Some(before) = before
                && DirBuilder::new().mode(0o700).create(&self.mountpoint).is_ok()
            {
                before.restore(&self.mountpoint);
            }
        }
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, MountError> {
    found::open(path).map_err(|errno| match Errno::from_raw(errno.raw_os_error()) {
        Errno::ENOTDIR | Errno::ELOOP => MountError::NotADirectory { target: path.to_owned() },
        errno => cannot("open the directory", path)(errno),
    })
}

/// Whether what is written there stays in memory.
fn is_in_memory(path: &Path) -> bool {
    /// `RAMFS_MAGIC` (`statfs(2)`).
    const RAMFS: FsType = FsType(0x8584_58f6);
    statfs(path).is_ok_and(|it| [TMPFS_MAGIC, RAMFS].contains(&it.filesystem_type()))
}

/// Gives an error its context.
fn cannot<E: Into<io::Error>>(what: &str, path: &Path) -> impl FnOnce(E) -> MountError {
    let what = format!("{what} {}", path.display());
    move |error| {
        let errno = error.into().raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        MountError::system(what, errno)
    }
}
