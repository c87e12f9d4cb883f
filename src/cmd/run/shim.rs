//! The directory with the gh shim that is first in the command's PATH.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};

use crate::cmd::setup::gh;

/// The directory, removed when dropped.
#[derive(Debug)]
pub struct Shim(PathBuf);

impl Shim {
    /// Makes it where files of a running system go, else where temporary ones do: the first place that
    /// can be written and lets programs run. Every user can reach it, and only we can change it.
    ///
    /// # Errors
    /// When there is no such place; it says what was wrong with each.
    pub fn install() -> anyhow::Result<Self> {
        let places = ["/run".into(), std::env::temp_dir(), "/var/tmp".into(), "/dev/shm".into()];
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
        let path = nix::unistd::mkdtemp(&place.join("molecule-tokenfs-bin-XXXXXX"))?;
        let shim = Self(path);
        fs::set_permissions(shim.path(), fs::Permissions::from_mode(0o755))?;
        gh::put_in(shim.path())?;
        Ok(shim)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let removed = fs::remove_dir_all(&self.0);
        if let Err(error) = removed.or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        }) {
            tracing::warn!("{} is left: {error}", self.0.display());
        }
    }
}
