//! In the namespaces of a container: the way to a place there, on which nothing is trusted.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, fchdir, setgroups, setresgid, setresuid};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, mkdirat, openat, statx};
use rustix::mount::MountAttrFlags;

use super::error::{AttachError, errno};
use super::process::Process;
use super::{attributes, tree};
use crate::place::Made;
use crate::place::mountinfo::{self, MountEntry};

/// This process in the namespaces of a container.
pub(super) struct Inside {
    /// The root of the container.
    root: OwnedFd,
    root_mount: u64,
    /// The host's `/proc`: that of the container is the container's.
    proc: OwnedFd,
    /// The host's mounts.
    pub(super) of_host: Vec<MountEntry>,
}

/// A directory to mount on, or what is mounted there already.
pub(super) struct Spot {
    pub(super) path: PathBuf,
    parent: OwnedFd,
    name: OsString,
    pub(super) parent_mount: u64,
    pub(super) file: OwnedFd,
    pub(super) mount: u64,
    made: Made,
}

impl Inside {
    /// Enters the namespaces of a process: its users, if it has its own, and its mounts. From then on this
    /// process is root of the container, and no more than that.
    pub(super) fn enter(process: &Process) -> Result<Self, AttachError> {
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = openat(CWD, "/proc", directory, Mode::empty())
            .map_err(|error| AttachError::system("open /proc", errno(error)))?;
        let of_host = mounts(&proc)?;
        let root = process.root.try_clone();
        let root = root.map_err(|_| AttachError::system("hold the root", Errno::EMFILE))?;
        let (_, root_mount) = look(&root)?;
        // Nobody inside looks into this process, whatever they see of it.
        let _ = prctl::set_dumpable(false);
        // Directories are made as they are asked for.
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
        let mut namespaces = CloneFlags::CLONE_NEWNS;
        if process.has_own_users {
            namespaces |= CloneFlags::CLONE_NEWUSER;
            setgroups(&[]).map_err(|errno| AttachError::refused("give up groups", errno))?;
        }
        setns(&process.held, namespaces).map_err(|errno| match errno {
            _ if process.has_ended() => AttachError::Ended { pid: process.pid() },
            Errno::EINVAL => AttachError::TooOld { what: "enter a namespace by a process".into() },
            errno => AttachError::refused("enter the container", errno),
        })?;
        if process.has_own_users {
            // A container without root has nobody to make a directory; for all else this will do.
            let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
            let _ = setresgid(group, group, group).and_then(|()| setresuid(user, user, user));
        }
        // `umount2(2)` takes no descriptor: see `Inside::unmount`.
        fchdir(&proc).map_err(|errno| AttachError::system("enter /proc", errno))?;
        Ok(Self { root, root_mount, proc, of_host })
    }

    /// Walks to a place from the container's root. Missing directories are made, if `makes`.
    pub(super) fn walk(&self, path: &Path, makes: bool) -> Result<Spot, AttachError> {
        let cannot = |error| AttachError::system("hold a directory", errno(error));
        let mut made = Made::default();
        let mut walked = PathBuf::from("/");
        let mut parent = rustix::io::fcntl_dupfd_cloexec(&self.root, 0).map_err(cannot)?;
        let mut parent_mount = self.root_mount;
        let mut names = path.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        });
        let mut name =
            names.next().ok_or_else(|| AttachError::NotShown { path: path.to_owned() })?;
        loop {
            walked.push(name);
            let file = match open_in(&parent, name, &walked)? {
                Some(file) => file,
                None if makes => {
                    self.make(&parent, parent_mount, name, &walked, &mut made)?;
                    let file = open_in(&parent, name, &walked)?;
                    file.ok_or_else(|| AttachError::Missing {
                        path: walked.clone(),
                        errno: Errno::ENOENT,
                    })?
                }
                None => return Err(AttachError::NotShown { path: path.to_owned() }),
            };
            let (kind, mount) = look(&file)?;
            let Some(next) = names.next() else {
                let name = name.to_owned();
                let path = walked;
                // What is mounted there is judged by what it is of.
                if mount == parent_mount {
                    expect_directory(kind, &path)?;
                }
                return Ok(Spot { path, parent, name, parent_mount, file, mount, made });
            };
            expect_directory(kind, &walked)?;
            (parent, parent_mount, name) = (file, mount, next);
        }
    }

    /// Makes a directory of root's. Where the root of the container is read-only, it is the mount that is,
    /// and not the file system, in nearly all containers: a clone of the mount is not.
    fn make(
        &self,
        parent: &OwnedFd,
        parent_mount: u64,
        name: &OsStr,
        path: &Path,
        made: &mut Made,
    ) -> Result<(), AttachError> {
        let missing = |errno| AttachError::Missing { path: path.to_owned(), errno };
        let permissions = Mode::from_raw_mode(0o755);
        match mkdirat(parent, name, permissions) {
            Ok(()) => made.note(parent, name, true),
            Err(rustix::io::Errno::EXIST) => {}
            // Any other mount is read-only because somebody wanted just that.
            Err(rustix::io::Errno::ROFS) if parent_mount == self.root_mount => {
                let writable = tree::clone(parent)?;
                let (none, read_only) =
                    (MountAttrFlags::empty(), MountAttrFlags::MOUNT_ATTR_RDONLY);
                // In a user namespace the flag can be locked.
                attributes::change(&writable, none, read_only)
                    .map_err(|_| missing(Errno::EROFS))?;
                mkdirat(&writable, name, permissions).map_err(|error| missing(errno(error)))?;
                made.note(&writable, name, true);
            }
            Err(error) => return Err(missing(errno(error))),
        }
        Ok(())
    }

    /// The mount of this number, as the container sees it.
    pub(super) fn mount(&self, number: u64) -> Result<Option<MountEntry>, AttachError> {
        Ok(mounts(&self.proc)?.into_iter().find(|mount| mount.id == number))
    }
}

impl Spot {
    /// The directories that were made on the way stay.
    pub(super) fn keep_made(&mut self) {
        std::mem::take(&mut self.made).keep();
    }

    /// Looks again what is there, after something was unmounted.
    pub(super) fn look_again(&mut self) -> Result<(), AttachError> {
        let gone = || AttachError::Missing { path: self.path.clone(), errno: Errno::ENOENT };
        self.file = open_in(&self.parent, &self.name, &self.path)?.ok_or_else(gone)?;
        (_, self.mount) = look(&self.file)?;
        Ok(())
    }
}

/// Opens a name in a directory, `None` where nothing is.
fn open_in(parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<Option<OwnedFd>, AttachError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent, name, flags, Mode::empty()) {
        Ok(file) => Ok(Some(file)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => {
            let what = format!("look at {} in the container", path.display());
            Err(AttachError::system(what, errno(error)))
        }
    }
}

/// What a file is, and the number of the mount that it is in, without asking whoever serves it: that can be
/// the container's. `/proc/self/fdinfo` would be the container's, too.
fn look(file: impl AsFd) -> Result<(FileType, u64), AttachError> {
    let wanted = StatxFlags::TYPE | StatxFlags::MNT_ID;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let seen = statx(file, c"", flags, wanted)
        .map_err(|error| AttachError::kernel("look at a file", error))?;
    if !StatxFlags::from_bits_retain(seen.stx_mask).contains(StatxFlags::MNT_ID) {
        return Err(AttachError::TooOld { what: "tell mounts apart".into() });
    }
    Ok((FileType::from_raw_mode(seen.stx_mode.into()), seen.stx_mnt_id))
}

fn expect_directory(kind: FileType, path: &Path) -> Result<(), AttachError> {
    let path = path.to_owned();
    match kind {
        FileType::Directory => Ok(()),
        FileType::Symlink => Err(AttachError::Link { path }),
        _ => Err(AttachError::NotADirectory { path }),
    }
}

/// The mounts that this process sees.
fn mounts(proc: &OwnedFd) -> Result<Vec<MountEntry>, AttachError> {
    let cannot = |errno| AttachError::system("read the table of mounts", errno);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat(proc, "self/mountinfo", flags, Mode::empty());
    let mut file = std::fs::File::from(file.map_err(|error| cannot(errno(error)))?);
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut text)
        .map_err(|error| cannot(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)))?;
    Ok(mountinfo::parse(&text))
}
