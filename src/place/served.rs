//! What readers read from: a mount of ours, or a directory of files that a daemon keeps. Anything else
//! could have been put there by anybody, with any token in it.

use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, open, statat};

use crate::place::mountinfo;
use crate::trust::{Flaw, Trust};

/// The file of a directory without a mount that says whose the directory is.
pub const MARKER: &str = ".molecule-tokenfs";

/// Something that root or this user serves, held by a descriptor: what is read through
/// [`Served::path`] is what was judged, whatever becomes of the names that led there.
#[derive(Debug)]
pub struct Served {
    root: OwnedFd,
    is_mount: bool,
}

/// Why nothing can be read at a place. As the rest of a sentence about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unserved {
    /// There is nothing, or it cannot be reached.
    Absent(Errno),
    /// It is neither a mount of ours nor a directory of files.
    Foreign,
    /// Somebody else served it, or could have changed it.
    Untrusted(Flaw),
}

impl Served {
    /// What is served at a place, as this user may trust it.
    ///
    /// # Errors
    /// [`Unserved`].
    pub fn at(mountpoint: &Path) -> Result<Self, Unserved> {
        Self::judged(mountpoint, &Trust::own())
    }

    fn judged(mountpoint: &Path, trust: &Trust) -> Result<Self, Unserved> {
        let absent =
            |errno: rustix::io::Errno| Unserved::Absent(Errno::from_raw(errno.raw_os_error()));
        let root =
            open(mountpoint, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(absent)?;
        let mount = mountinfo::id_of(&root).ok().flatten();
        let mount = mount.and_then(|id| mountinfo::by_number(id).ok().flatten());
        // Of its own mount the kernel tells who made it; whoever serves it need not be asked.
        if let Some(mount) = mount.as_ref().filter(|mount| mount.is_ours()) {
            return match mount.mounter {
                Some(user) if trust.covers_mounter(user) => Ok(Self { root, is_mount: true }),
                Some(user) => Err(Unserved::Untrusted(Flaw::Mount(user))),
                None => Err(Unserved::Foreign),
            };
        }
        // A file system in user space tells of owners and modes what it likes.
        if let Some(user) = mount.and_then(|mount| mount.mounter)
            && !trust.covers_mounter(user)
        {
            return Err(Unserved::Untrusted(Flaw::Mount(user)));
        }
        let directory = fstat(&root).map_err(absent)?;
        if FileType::from_raw_mode(directory.st_mode) != FileType::Directory {
            return Err(Unserved::Foreign);
        }
        let marker =
            statat(&root, MARKER, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| match error {
                rustix::io::Errno::NOENT => Unserved::Foreign,
                error => absent(error),
            })?;
        let flaw = trust.flaw_of_file(&root, &directory);
        let flaw = flaw.or_else(|| trust.flaw_of(marker.st_uid, marker.st_mode));
        flaw.map_or(Ok(Self { root, is_mount: false }), |flaw| Err(Unserved::Untrusted(flaw)))
    }

    /// The root of the mount, where it is one.
    #[must_use]
    pub fn into_mount(self) -> Option<OwnedFd> {
        self.is_mount.then_some(self.root)
    }

    /// A path to it by its descriptor, good while this value lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let path = Path::new("/proc/self/fd").join(self.root.as_raw_fd().to_string());
        // A directory, and not the link that stands for it here.
        if self.is_mount { path } else { path.join(".") }
    }
}

impl fmt::Display for Unserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(Errno::ENOENT | Errno::ENOTDIR) => f.write_str("it does not exist"),
            Self::Absent(errno) => f.write_str(errno.desc()),
            Self::Foreign => f.write_str("nothing is mounted there"),
            Self::Untrusted(flaw) => write!(f, "it {flaw}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_is_read_if_a_daemon_keeps_it_and_nobody_else_can_write_there() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("token"), "t").unwrap();
        assert_eq!(Served::at(dir.path()).unwrap_err(), Unserved::Foreign);
        fs::write(dir.path().join(MARKER), "").unwrap();
        let served = Served::at(dir.path()).unwrap();
        assert_eq!(fs::read(served.path().join("token")).unwrap(), b"t");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o770)).unwrap();
        assert_eq!(
            Served::at(dir.path()).unwrap_err().to_string(),
            "it can be written to by others (mode 0770)"
        );
    }

    #[test]
    fn what_belongs_to_somebody_else_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MARKER), "").unwrap();
        let own = nix::unistd::geteuid().as_raw();
        let somebody = Trust::with(own + 1, "0 0 4294967295", 65534);
        let judged = Served::judged(dir.path(), &somebody).err();
        let expected = (own != 0).then_some(Unserved::Untrusted(Flaw::Owner(own)));
        assert_eq!(judged, expected, "root is trusted by everybody");
    }

    #[test]
    fn files_and_what_is_not_there_are_told_apart() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "ghs_one").unwrap();
        assert_eq!(Served::at(file.path()).unwrap_err(), Unserved::Foreign);
        let absent = Served::at(Path::new("/no/such")).unwrap_err();
        assert_eq!(absent, Unserved::Absent(Errno::ENOENT));
        assert_eq!(absent.to_string(), "it does not exist");
    }
}
