//! The place that tokens are mounted on, kept in or read from: found by descriptors, and trusted only
//! where nobody but root and this user can change what is there or what leads there.
//!
//! Mounts and files are made at a [`Place`]; whoever reads asks [`Served`].

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rustix::fs::{Dir, FileType, Mode, OFlags, Stat, fstat, mkdirat, openat};

use crate::status::Layout;
use crate::trust::Trust;

pub mod attached;
pub mod control;
mod error;
mod made;
pub mod mountinfo;
mod served;
mod trust;
mod walk;

pub use error::MountError;
pub(crate) use error::{DEVICE, HELPER};
pub(crate) use made::Made;
use mountinfo::MountEntry;
pub use served::{MARKER, Served, Unserved};
use walk::{Arrival, Missing, Walk};

/// A name in a directory that only root and this user can change.
pub(crate) struct Place {
    trust: Trust,
    parent: OwnedFd,
    /// The mount that the directory is in.
    mount: u64,
    name: OsString,
    path: PathBuf,
    made: Made,
}

/// What a name leads to, opened with `O_PATH`: whoever has mounted it is not asked.
pub(crate) struct Child {
    pub(crate) file: OwnedFd,
    /// The number of the mount that it is in.
    pub(crate) mount: u64,
}

impl Child {
    /// Opens a name in a directory; a link itself, not what it leads to. `None` where nothing is.
    fn open(parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<Option<Self>, MountError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(parent, name, flags, Mode::empty()) {
            Ok(file) => {
                let mount = number_of(&file, path)?;
                Ok(Some(Self { file, mount }))
            }
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(cannot("look at", path)(error)),
        }
    }
}

impl Place {
    /// Walks to a place, and makes the directories on the way that are not there, mode 0755. They are
    /// removed with the place. A link by the last name is followed, unless `stays` says that it is what
    /// was looked for.
    ///
    /// # Errors
    /// [`MountError::Untrusted`] names what others could change, and what to do about it.
    pub(crate) fn find(target: &Path, stays: impl Fn(&Path) -> bool) -> Result<Self, MountError> {
        let mut walk = Walk::begin(Some(Trust::own()), Missing::Make)?;
        match walk.walk_to_parent(&absolute(target)?, stays)? {
            Arrival::At(name) => Ok(Self::at(walk, name)),
            Arrival::Missing => Err(cannot("find", target)(rustix::io::Errno::NOENT)),
        }
    }

    /// The same for somebody who takes away what is there: nothing is made, nobody is judged. `None`
    /// where nothing leads there.
    pub(crate) fn look(target: &Path) -> Result<Option<Self>, MountError> {
        let mut walk = Walk::begin(None, Missing::Stop)?;
        match walk.walk_to_parent(&absolute(target)?, |_| false)? {
            Arrival::At(name) => Ok(Some(Self::at(walk, name))),
            Arrival::Missing => Ok(None),
        }
    }

    fn at(walk: Walk, name: OsString) -> Self {
        let Walk { directory, path, mount, made, .. } = walk;
        let path = path.join(&name);
        Self { trust: Trust::own(), parent: directory, mount, name, path, made }
    }

    /// Its path, without links.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A path that leads there wherever the directory is moved to, for system calls that take no
    /// descriptor.
    pub(crate) fn path_by_descriptor(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.parent.as_raw_fd().to_string()).join(&self.name)
    }

    /// The topmost mount whose root is there, and that root.
    pub(crate) fn mounted(&self) -> Result<Option<(OwnedFd, MountEntry)>, MountError> {
        let child = Child::open(&self.parent, &self.name, &self.path)?;
        let Some(child) = child.filter(|child| child.mount != self.mount) else { return Ok(None) };
        Ok(mount_of(child.mount, &self.path)?.map(|mount| (child.file, mount)))
    }

    /// Opens what to mount on, and locks it against a second start at the same time. What is there
    /// decides the layout; where nothing is, `wanted` does, and it is made. A mount would hide what is
    /// in it, so it must be empty.
    ///
    /// # Errors
    /// [`MountError::Untrusted`], [`MountError::NotEmpty`] and its like, [`MountError::OtherLayout`].
    pub(crate) fn pin(
        &mut self,
        wanted: Option<Layout>,
    ) -> Result<(Layout, Flock<File>), MountError> {
        if Child::open(&self.parent, &self.name, &self.path)?.is_none() {
            self.make(wanted.unwrap_or(Layout::Directory))?;
        }
        self.judge(wanted)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let place = openat(&self.parent, &self.name, flags, Mode::empty())
            .map_err(cannot("open", &self.path))?;
        // It may be another one by now.
        let layout = self.judge_file(&place, wanted)?;
        self.expect_empty(&place, layout)?;
        let locked = Flock::lock(place.into(), FlockArg::LockExclusiveNonblock);
        let locked = locked.map_err(|(_, error)| match error {
            Errno::EWOULDBLOCK => {
                MountError::AlreadyServed { target: self.path.clone(), pid: None }
            }
            errno => MountError::system(format!("lock {}", self.path.display()), errno),
        })?;
        Ok((layout, locked))
    }

    /// Whether what is there may be mounted on, or filled with files; nothing where nothing is.
    ///
    /// # Errors
    /// [`MountError::Untrusted`], [`MountError::OtherLayout`], [`MountError::NotADirectory`].
    pub(crate) fn judge(&self, wanted: Option<Layout>) -> Result<Option<Layout>, MountError> {
        let child = Child::open(&self.parent, &self.name, &self.path)?;
        child.map(|child| self.judge_file(&child.file, wanted)).transpose()
    }

    fn judge_file(&self, file: &OwnedFd, wanted: Option<Layout>) -> Result<Layout, MountError> {
        let target = || self.path.clone();
        let stat = stat_of(file, &self.path)?;
        let layout = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Layout::Directory,
            FileType::RegularFile => Layout::File,
            _ => return Err(MountError::NotADirectory { target: target() }),
        };
        if let Some(wanted) = wanted.filter(|wanted| *wanted != layout) {
            return Err(MountError::OtherLayout { target: target(), wanted });
        }
        match self.trust.flaw_of_file(file, &stat) {
            Some(flaw) => Err(flaw.of(&self.path)),
            None => Ok(layout),
        }
    }

    fn expect_empty(&self, place: &OwnedFd, layout: Layout) -> Result<(), MountError> {
        let target = self.path.clone();
        if layout == Layout::File {
            let bytes = u64::try_from(stat_of(place, &self.path)?.st_size).unwrap_or_default();
            return if bytes == 0 {
                Ok(())
            } else {
                Err(MountError::NotEmptyFile { target, bytes })
            };
        }
        for entry in Dir::read_from(place).map_err(cannot("list", &self.path))? {
            let entry = entry.map_err(cannot("list", &self.path))?;
            let entry = entry.file_name().to_string_lossy().into_owned();
            if entry != "." && entry != ".." {
                return Err(MountError::NotEmpty { target, entry });
            }
        }
        Ok(())
    }

    fn make(&mut self, layout: Layout) -> Result<(), MountError> {
        let (parent, name) = (&self.parent, &self.name);
        let made = match layout {
            Layout::Directory => mkdirat(parent, name, Mode::from_raw_mode(0o755)),
            Layout::File => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                openat(parent, name, flags, Mode::from_raw_mode(0o600)).map(drop)
            }
        };
        match made {
            Ok(()) => self.made.note(&self.parent, &self.name, layout == Layout::Directory),
            // Somebody else was quicker; it is judged like anything that was there.
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => {
                return Err(cannot(&format!("create the {}", layout.name()), &self.path)(error));
            }
        }
        Ok(())
    }

    /// What was made on the way, for its removal at the end.
    pub(crate) fn take_made(&mut self) -> Made {
        std::mem::take(&mut self.made)
    }
}

/// Whether a directory, to be found by its path, may hold tokens.
///
/// # Errors
/// [`MountError::Untrusted`].
pub(crate) fn judge_directory(path: &Path) -> Result<(), MountError> {
    Walk::begin(Some(Trust::own()), Missing::Stop)?.walk_into(&absolute(path)?)
}

fn absolute(target: &Path) -> Result<PathBuf, MountError> {
    std::path::absolute(target).map_err(|error| {
        let errno = error.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw);
        MountError::system(format!("resolve {}", target.display()), errno)
    })
}

fn stat_of(file: &OwnedFd, path: &Path) -> Result<Stat, MountError> {
    fstat(file).map_err(cannot("look at", path))
}

/// The number of the mount in which a file is open.
fn number_of(file: impl AsFd, path: &Path) -> Result<u64, MountError> {
    let number = mountinfo::id_of(file);
    number.ok().flatten().ok_or_else(|| {
        MountError::system(format!("tell the mount of {}", path.display()), Errno::ENOSYS)
    })
}

fn mount_of(number: u64, path: &Path) -> Result<Option<MountEntry>, MountError> {
    mountinfo::by_number(number).map_err(|error| {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        MountError::system(format!("tell the mount of {}", path.display()), errno)
    })
}

/// Gives an error its context.
fn cannot(what: &str, path: &Path) -> impl FnOnce(rustix::io::Errno) -> MountError + use<> {
    let what = format!("{what} {}", path.display());
    move |error| MountError::system(what, Errno::from_raw(error.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(target: &Path) -> Place {
        Place::find(target, |_| false).unwrap()
    }

    #[test]
    fn what_is_missing_is_made_as_asked_and_removed_again() {
        let dir = tempfile::tempdir().unwrap();
        for (wanted, layout) in [
            (None, Layout::Directory),
            (Some(Layout::Directory), Layout::Directory),
            (Some(Layout::File), Layout::File),
        ] {
            let target = dir.path().join("a/b/token");
            let mut place = find(&target);
            assert_eq!(place.pin(wanted).unwrap().0, layout);
            assert_eq!(target.is_dir(), layout == Layout::Directory);
            drop(place);
            assert!(!dir.path().join("a").exists());
        }
    }

    #[test]
    fn what_is_there_decides_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let directory = dir.path().join("directory");
        std::fs::create_dir(&directory).unwrap();
        for (target, is, other) in [
            (&directory, Layout::Directory, Layout::File),
            (&file, Layout::File, Layout::Directory),
        ] {
            assert_eq!(find(target).pin(None).unwrap().0, is);
            assert_eq!(find(target).pin(Some(is)).unwrap().0, is);
            let refused = find(target).pin(Some(other)).unwrap_err();
            assert!(
                matches!(refused, MountError::OtherLayout { wanted, .. } if wanted == other),
                "{refused}"
            );
            assert!(target.exists());
        }
    }

    #[test]
    fn what_came_meanwhile_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a/token");
        let mut place = find(&target);
        drop(place.pin(Some(Layout::File)).unwrap());
        std::fs::write(&target, "something").unwrap();
        let refused = place.pin(Some(Layout::File)).unwrap_err().to_string();
        assert!(refused.contains("would hide its 9 bytes"), "{refused}");
        drop(place);
        assert_eq!(std::fs::read(&target).unwrap(), b"something");
    }

    #[test]
    fn links_and_dots_on_the_way_are_followed_and_loops_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(real.join("a/b")).unwrap();
        std::os::unix::fs::symlink("../a/./b", real.join("a/up")).unwrap();
        std::os::unix::fs::symlink(real.join("a"), real.join("whole")).unwrap();
        std::os::unix::fs::symlink("loop", real.join("loop")).unwrap();
        for (target, path) in [
            ("a/up/token", "a/b/token"),
            ("whole/up/../token", "a/token"),
            ("whole", "a"),
            ("whole/up", "a/b"),
        ] {
            assert_eq!(find(&dir.path().join(target)).path(), real.join(path), "{target}");
        }
        let found = Place::find(&real.join("whole"), |_| true).unwrap();
        assert_eq!(found.path(), real.join("whole"), "a link that stays");
        for target in ["loop", "loop/token", ".."] {
            assert!(Place::find(&real.join(target), |_| false).is_err(), "{target}");
        }
    }
}
