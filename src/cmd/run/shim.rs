//! The directory with the gh shim that is first in the command's PATH.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::geteuid;
use rustix::fs::{FlockOperation, flock};

use crate::cmd::setup::gh;
use crate::spawn;

/// What the name begins with.
const PREFIX: &str = "molecule-tokenfs-bin-";
/// How often another one may take a directory of ours for one that is left over.
const TRIES: usize = 5;

/// The directory, removed when dropped. It is locked for as long as it is used: one that is not was
/// left by a `run` that was killed, and the next one removes it.
#[derive(Debug)]
pub struct Shim {
    path: PathBuf,
    _lock: File,
}

impl Shim {
    /// Makes it where files of a running system go, else where temporary ones do: the first place that
    /// can be written and lets programs run. Every user can reach it, and only we can change it.
    ///
    /// # Errors
    /// When there is no such place; it says what was wrong with each.
    pub fn install() -> anyhow::Result<Self> {
        let places = ["/run".into(), spawn::temporary(), "/var/tmp".into(), "/dev/shm".into()];
        let mut wrong = Vec::new();
        for place in places {
            let place: PathBuf = place;
            match Self::make_in(&place) {
                Ok(shim) => return Ok(shim),
                Err(error) => wrong.push(format!("{}: {error}", place.display())),
            }
        }
        anyhow::bail!("there is no place for it ({})", wrong.join("; "))
    }

    fn make_in(place: &Path) -> anyhow::Result<Self> {
        if statvfs(place)?.flags().contains(FsFlags::ST_NOEXEC) {
            anyhow::bail!("no program may run from there");
        }
        remove_leftovers(place);
        let shim = Self::make_locked(place)?;
        fs::set_permissions(shim.path(), fs::Permissions::from_mode(0o755))?;
        gh::put_in(shim.path())?;
        Ok(shim)
    }

    /// Makes an empty one. Until it is locked, another start may remove it.
    fn make_locked(place: &Path) -> anyhow::Result<Self> {
        for _ in 0..TRIES {
            let path = nix::unistd::mkdtemp(&place.join(format!("{PREFIX}XXXXXX")))?;
            if let Some(lock) = lock(&path)? {
                return Ok(Self { path, _lock: lock });
            }
        }
        anyhow::bail!("others remove it again and again")
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let removed = fs::remove_dir_all(&self.path);
        if let Err(error) = removed.or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        }) {
            tracing::warn!("{} is left: {error}", self.path.display());
        }
    }
}

/// Removes what killed ones have left there.
fn remove_leftovers(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let path = entry.path();
        // Somebody else's is not ours to remove, and one that is locked is used.
        let Ok(Some(_lock)) = lock(&path) else { continue };
        match fs::remove_dir_all(&path) {
            Ok(()) => tracing::debug!("removed {}, which a killed run had left", path.display()),
            Err(error) => tracing::debug!("{} stays: {error}", path.display()),
        }
    }
}

/// Locks a directory of this user's (`flock(2)`); `None` where another process has it, or had it and
/// has removed it.
///
/// # Errors
/// Where it is none of this user's, or cannot be locked.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let directory = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if directory.metadata()?.uid() != geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok((directory.metadata()?.nlink() > 0).then_some(directory)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_one_left_is_removed_and_what_is_used_is_not() {
        let place = tempfile::tempdir().unwrap();
        let left = place.path().join("molecule-tokenfs-bin-killed");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("gh"), "").unwrap();
        let used = Shim::make_in(place.path()).unwrap();
        assert!(!left.exists());
        let theirs = place.path().join("molecule-tokenfs-bin");
        fs::create_dir(&theirs).unwrap();
        std::os::unix::fs::symlink("/", place.path().join("molecule-tokenfs-bin-link")).unwrap();
        let another = Shim::make_in(place.path()).unwrap();
        assert!(used.path().join("gh").exists() && another.path().join("gh").exists());
        assert!(theirs.exists());
        let path = used.path().to_owned();
        drop(used);
        assert!(!path.exists());
    }

    #[test]
    fn many_starts_at_once_do_not_remove_each_others() {
        let place = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let shim = Shim::make_in(place.path()).unwrap();
                        assert!(shim.path().join("gh").exists());
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
