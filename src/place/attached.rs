//! Which containers are shown a mount of this host, so that the next daemon finds them again: a file for
//! each, in a directory beside the mount, for root alone.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::mountinfo::{self, MountEntry};

/// The directory of the files.
const KEPT: &str = "attached";

/// What is shown where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Attached {
    /// A process of the container, and when that started, as `proc_pid_stat(5)` counts.
    pub pid: i32,
    /// See there.
    pub started: u64,
    /// The number of the mount's device: another daemon's has another.
    pub device: u32,
    /// The directory that is shown.
    pub directory: PathBuf,
    /// Where in the container.
    pub path: PathBuf,
    /// Whether the container may write to `refresh`.
    pub allow_refresh: bool,
}

impl Attached {
    /// Whether its process still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        start_of(Path::new(&format!("/proc/{}/stat", self.pid))) == Some(self.started)
    }

    /// Keeps it for the next daemon at this mountpoint.
    ///
    /// # Errors
    /// What the system says of the file.
    pub fn keep(&self, mountpoint: &Path) -> io::Result<()> {
        let directory = beside(mountpoint, KEPT);
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let file = directory.join(name(self.pid, &self.path));
        let new = file.with_extension("new");
        let mut written =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        written.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(new, file)
    }
}

/// What is shown of the mount at this place, or was when it was dead. What has ended is forgotten.
#[must_use]
pub fn all(mountpoint: &Path) -> Vec<Attached> {
    let files = fs::read_dir(beside(mountpoint, KEPT)).into_iter().flatten().flatten();
    let all = files.filter_map(|file| {
        let text = fs::read(file.path()).ok()?;
        match serde_json::from_slice::<Attached>(&text) {
            Ok(attached) if attached.is_alive() => Some(attached),
            Ok(_) => {
                fs::remove_file(file.path()).ok();
                None
            }
            Err(error) => {
                tracing::warn!("{} is not used: {error}", file.path().display());
                None
            }
        }
    });
    all.collect()
}

/// A container is no longer shown anything at a path.
pub fn forget(pid: i32, path: &Path) {
    for mount in ours().unwrap_or_default() {
        fs::remove_file(beside(&mount.target, KEPT).join(name(pid, path))).ok();
    }
}

/// The mount of ours that a directory is in, by its path alone: nobody is asked who might not answer.
///
/// # Errors
/// Where the table of mounts cannot be read.
pub fn mount_of(directory: &Path) -> io::Result<Option<MountEntry>> {
    let around = ours()?.into_iter().filter(|mount| directory.starts_with(&mount.target));
    // Of several at one place the last is on top.
    Ok(around.max_by_key(|mount| mount.target.components().count()))
}

fn ours() -> io::Result<Vec<MountEntry>> {
    let mounts = mountinfo::parse(&fs::read("/proc/thread-self/mountinfo")?);
    // Beside a mount of anybody else's lies what that one put there.
    let is_roots = |mount: &MountEntry| mount.is_ours() && mount.mounter.unwrap_or(0) == 0;
    Ok(mounts.into_iter().filter(is_roots).collect())
}

/// What belongs to the directory at a path, and lies beside it: `DIRECTORY.EXTENSION`.
#[must_use]
pub fn beside(directory: &Path, extension: &str) -> PathBuf {
    let mut path = directory.as_os_str().to_owned();
    path.push(".");
    path.push(extension);
    path.into()
}

fn name(pid: i32, path: &Path) -> String {
    let digest = digest(&SHA256, path.as_os_str().as_encoded_bytes());
    let first = digest.as_ref().iter().take(8);
    first.fold(format!("{pid}-"), |name, byte| format!("{name}{byte:02x}"))
}

/// When a process started, in ticks since the machine did (`proc_pid_stat(5)`).
#[must_use]
pub fn start_of(stat: &Path) -> Option<u64> {
    let stat = fs::read_to_string(stat).ok()?;
    // Its name, in parentheses, can hold anything. The state after it is the third field.
    stat.rsplit_once(") ")?.1.split(' ').nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_while_its_process_runs() {
        let dir = tempfile::tempdir().unwrap();
        let mountpoint = dir.path().join("token");
        let started = start_of(Path::new("/proc/self/stat")).unwrap();
        let attached = Attached {
            pid: nix::unistd::getpid().as_raw(),
            started,
            device: 7,
            directory: mountpoint.join("agent-1"),
            path: "/run/molecule/token".into(),
            allow_refresh: true,
        };
        assert_eq!(all(&mountpoint), []);
        attached.keep(&mountpoint).unwrap();
        Attached { device: 8, ..attached.clone() }.keep(&mountpoint).unwrap();
        let other = Attached { path: "/other".into(), ..attached.clone() };
        other.keep(&mountpoint).unwrap();
        let ended = Attached { started: started + 1, path: "/ended".into(), ..attached.clone() };
        ended.keep(&mountpoint).unwrap();
        let mut found = all(&mountpoint);
        found.sort_by_key(|attached| attached.path.clone());
        assert_eq!(found, [other, Attached { device: 8, ..attached }]);
        assert_eq!(
            fs::read_dir(beside(&mountpoint, KEPT)).unwrap().count(),
            2,
            "what ended is forgotten"
        );
    }
}
