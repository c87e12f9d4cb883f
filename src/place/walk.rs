//! A path walk, one directory at a time: each is opened in the one before, without following links, and
//! judged by its descriptor. Nobody can put something else in the place of what was judged.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::{FileType, Mode, OFlags, mkdirat, openat, readlinkat};

use super::made::Made;
use super::{Child, cannot, mount_of, number_of, stat_of};
use crate::place::MountError;
use crate::trust::Trust;

/// As many links as the kernel follows (`path_resolution(7)`).
const MOST_LINKS: u32 = 40;

/// What to do about a directory that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Make it, mode 0755.
    Make,
    /// Go no further.
    Stop,
}

/// A walk: where it is, and what it made on the way.
pub(super) struct Walk {
    /// Who may own what is on the way; `None` where that does not matter.
    trust: Option<Trust>,
    /// The directory, opened with `O_PATH`.
    pub(super) directory: OwnedFd,
    /// Its path, without links.
    pub(super) path: PathBuf,
    /// The number of the mount that it is in.
    pub(super) mount: u64,
    pub(super) made: Made,
    missing: Missing,
    links: u32,
}

/// How a walk ended.
pub(super) enum Arrival {
    /// In the directory that holds this name.
    At(OsString),
    /// Before a directory that is missing.
    Missing,
}

impl Walk {
    /// A walk that begins at the root directory.
    pub(super) fn begin(trust: Option<Trust>, missing: Missing) -> Result<Self, MountError> {
        let (directory, mount) = root()?;
        let path = PathBuf::from("/");
        if let Some(trust) = &trust {
            trust.judge_directory(&path, &directory, &stat_of(&directory, &path)?)?;
        }
        Ok(Self { trust, directory, path, mount, made: Made::default(), missing, links: 0 })
    }

    /// Walks to the directory that holds the last name of a path. A link by that name is followed unless
    /// `stays` says that it is what was looked for.
    pub(super) fn walk_to_parent(
        &mut self,
        target: &Path,
        stays: impl Fn(&Path) -> bool,
    ) -> Result<Arrival, MountError> {
        let mut ahead = names(target);
        while let Some(name) = ahead.pop_front() {
            let is_last = ahead.is_empty();
            if is_last && name == ".." {
                break;
            }
            if is_last && stays(&self.path.join(&name)) {
                return Ok(Arrival::At(name));
            }
            match self.child(&name)? {
                Some((_, Some(link))) => self.follow(&name, &link, &mut ahead)?,
                _ if is_last => return Ok(Arrival::At(name)),
                Some((child, None)) => self.enter(child, &name)?,
                None if self.missing == Missing::Stop => return Ok(Arrival::Missing),
                None => self.make(&name)?,
            }
        }
        Err(MountError::NotADirectory { target: target.to_owned() })
    }

    /// Walks into a directory.
    pub(super) fn walk_into(&mut self, target: &Path) -> Result<(), MountError> {
        let Arrival::At(name) = self.walk_to_parent(target, |_| false)? else {
            return Err(MountError::system(format!("open {}", target.display()), Errno::ENOENT));
        };
        match self.child(&name)? {
            Some((child, _)) => self.enter(child, &name),
            None => Err(MountError::system(format!("open {}", target.display()), Errno::ENOENT)),
        }
    }

    /// What bears a name in the directory, and where it leads if it is a link. Whoever has mounted
    /// something there is not asked.
    fn child(&self, name: &OsStr) -> Result<Option<(Child, Option<PathBuf>)>, MountError> {
        let path = self.path.join(name);
        let Some(child) = Child::open(&self.directory, name, &path)? else { return Ok(None) };
        if child.mount != self.mount {
            return Ok(Some((child, None)));
        }
        let stat = stat_of(&child.file, &path)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Ok(Some((child, None)));
        }
        if let Some(trust) = &self.trust {
            trust.judge_link(&path, &stat)?;
        }
        let link =
            readlinkat(&child.file, c"", Vec::new()).map_err(cannot("read the link", &path))?;
        let link = OsString::from_vec(link.into_bytes()).into();
        Ok(Some((child, Some(link))))
    }

    fn follow(
        &mut self,
        name: &OsStr,
        link: &Path,
        ahead: &mut VecDeque<OsString>,
    ) -> Result<(), MountError> {
        self.links += 1;
        if self.links > MOST_LINKS {
            let what = format!("follow {}", self.path.join(name).display());
            return Err(MountError::system(what, Errno::ELOOP));
        }
        if link.has_root() {
            (self.directory, self.mount) = root()?;
            self.path = PathBuf::from("/");
        }
        for name in names(link).into_iter().rev() {
            ahead.push_front(name);
        }
        Ok(())
    }

    /// Goes into a directory, if it may be on the way.
    fn enter(&mut self, child: Child, name: &OsStr) -> Result<(), MountError> {
        let path = if name == ".." {
            self.path.parent().unwrap_or(Path::new("/")).to_owned()
        } else {
            self.path.join(name)
        };
        if child.mount != self.mount
            && let Some(trust) = &self.trust
            && let Some(mount) = mount_of(child.mount, &path)?
        {
            trust.judge_mount(&path, &mount)?;
        }
        let stat = stat_of(&child.file, &path)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(MountError::NotADirectory { target: path });
        }
        if let Some(trust) = &self.trust
            && let Err(untrusted) = trust.judge_directory(&path, &child.file, &stat)
            && !(child.mount != self.mount && make_volume_sticky(&child.file, stat.st_mode))
        {
            return Err(untrusted);
        }
        (self.directory, self.path, self.mount) = (child.file, path, child.mount);
        Ok(())
    }

    fn make(&mut self, name: &OsStr) -> Result<(), MountError> {
        let path = self.path.join(name);
        match mkdirat(&self.directory, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => self.made.note(&self.directory, name, true),
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(cannot("create the directory", &path)(error)),
        }
        match Child::open(&self.directory, name, &path)? {
            Some(child) => self.enter(child, name),
            None => Err(MountError::system(format!("open {}", path.display()), Errno::ENOENT)),
        }
    }
}

/// A volume of Kubernetes is a tmpfs that everybody may write to, and nobody but its owner can change that:
/// made sticky, it lets everybody add names and nobody rename ours. Whether that is done.
fn make_volume_sticky(root: &OwnedFd, mode: u32) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    let is_volume = rustix::fs::fstatfs(root).is_ok_and(|it| it.f_type == nix::libc::TMPFS_MAGIC)
        && rustix::fs::fstat(root).is_ok_and(|it| it.st_uid == own);
    let path = format!("/proc/self/fd/{}", root.as_raw_fd());
    let mode = Mode::from_raw_mode(mode & 0o7777 | 0o1000);
    is_volume && rustix::fs::chmod(path, mode).is_ok()
}

/// The names in a path that mean something.
fn names(path: &Path) -> VecDeque<OsString> {
    let means_something =
        |it: &Component<'_>| matches!(it, Component::Normal(_) | Component::ParentDir);
    path.components().filter(means_something).map(|it| it.as_os_str().to_owned()).collect()
}

fn root() -> Result<(OwnedFd, u64), MountError> {
    let path = Path::new("/");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory =
        openat(rustix::fs::CWD, path, flags, Mode::empty()).map_err(cannot("open", path))?;
    let mount = number_of(&directory, path)?;
    Ok((directory, mount))
}
