//! The demo's own directory: everything that it makes is in there, and goes with it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};
use rand::Rng;

use crate::cmd::Advise;
use crate::spawn;

/// The shim that gives `gh` a token file.
const GH_SHIM: &str = include_str!("../../../scripts/gh");

/// The size of a socket's path with its final NUL (`unix(7)`).
const MAX_SOCKET_PATH: usize = 108;

/// See the module. Removed when dropped.
pub(super) struct Place(PathBuf);

impl Place {
    /// Makes it in the first directory for temporary files that will do, for this user only.
    ///
    /// # Errors
    /// None will do; with the reason of each.
    pub(super) fn create() -> anyhow::Result<Self> {
        let mut reasons = Vec::new();
        for base in [spawn::temporary(), "/var/tmp".into(), "/dev/shm".into()] {
            match Self::create_in(&base) {
                Ok(place) => return Ok(place),
                Err(error) => reasons.push(format!("{}: {error}", base.display())),
            }
        }
        Err(anyhow::anyhow!("no directory for temporary files will do ({})", reasons.join("; ")))
            .hint("set TMPDIR to one that is writable, has a short path and is not mounted noexec")
    }

    fn create_in(base: &Path) -> io::Result<Self> {
        let base = fs::canonicalize(base)?;
        if statvfs(&base)?.flags().contains(FsFlags::ST_NOEXEC) {
            return Err(io::Error::other("programs in it cannot be run (noexec)"));
        }
        let place = Self(base.join(format!("molecule-demo-{:08x}", rand::rng().random::<u32>())));
        if place.socket().as_os_str().len() >= MAX_SOCKET_PATH {
            return Err(io::Error::other("its path is too long for a socket"));
        }
        fs::DirBuilder::new().mode(0o700).create(place.root())?;
        fs::create_dir(place.mount())?;
        fs::write(place.settings(), "")?;
        let bin = place.directory("bin")?;
        fs::write(bin.join("gh"), GH_SHIM)?;
        fs::set_permissions(bin.join("gh"), fs::Permissions::from_mode(0o755))?;
        let gh = place.directory("gh")?;
        let config = format!(
            "version: \"1\"\nprompt: disabled\nhttp_unix_socket: {}\n",
            // A JSON string is a YAML string, whatever the path holds.
            serde_json::Value::from(place.socket().to_string_lossy())
        );
        fs::write(gh.join("config.yml"), config)?;
        Ok(place)
    }

    /// A directory in it, made where it is missing.
    pub(super) fn directory(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.0.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    pub(super) fn root(&self) -> &Path {
        &self.0
    }

    /// Where the daemon mounts.
    pub(super) fn mount(&self) -> PathBuf {
        self.0.join("token")
    }

    /// The directory with the platform's bearer.
    pub(super) fn configs(&self) -> PathBuf {
        self.0.join("configs")
    }

    /// The platform's Unix socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.0.join("rest")
    }

    /// The daemon's settings file: of the demo's own, so that it reads nobody else's.
    pub(super) fn settings(&self) -> PathBuf {
        self.0.join("settings.toml")
    }

    /// What the daemon said.
    pub(super) fn log(&self) -> PathBuf {
        self.0.join("daemon.log")
    }

    /// The home of a lane: its git configuration and its clones.
    pub(super) fn home(&self, lane: &str) -> PathBuf {
        self.0.join(lane)
    }

    /// gh's configuration, which leads it to the demo.
    pub(super) fn gh_config(&self) -> PathBuf {
        self.0.join("gh")
    }

    /// The directory with the shim, to be put first in PATH.
    pub(super) fn bin(&self) -> PathBuf {
        self.0.join("bin")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A path as one word of a shell.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_for_its_user_only_and_goes_when_dropped() {
        let place = Place::create().unwrap();
        let root = place.root().to_owned();
        assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(place.bin().join("gh").is_file());
        drop(place);
        assert!(!root.exists());
    }

    #[test]
    fn a_directory_that_will_not_do_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(100));
        fs::create_dir(&long).unwrap();
        let error = Place::create_in(&long).err().unwrap();
        assert!(error.to_string().contains("too long"), "{error}");
        assert!(Place::create_in(&dir.path().join("missing")).is_err());
        assert!(Place::create_in(Path::new("/proc")).is_err());
        assert_eq!(fs::read_dir(&long).unwrap().count(), 0);
    }

    #[test]
    fn a_path_is_one_word_for_the_shell() {
        assert_eq!(quoted(Path::new("/tmp/a-b_1")), "/tmp/a-b_1");
        assert_eq!(quoted(Path::new("/tmp/a b")), "'/tmp/a b'");
        assert_eq!(quoted(Path::new("/it's")), r"'/it'\''s'");
    }
}
