//! A directory that goes with the test, and whatever is mounted in it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use super::limit::OnTimeout;

/// A directory of the test's own that everybody may enter.
pub struct TestDir {
    dir: tempfile::TempDir,
    _on_timeout: OnTimeout,
}

impl TestDir {
    pub fn new() -> Self {
        Self::under(std::env::temp_dir())
    }

    /// The same under another directory than that for temporary files.
    pub fn under(base: impl AsRef<Path>) -> Self {
        let mut builder = tempfile::Builder::new();
        let dir = builder.prefix("tokenfs-test-").tempdir_in(base).expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        let path = dir.path().to_owned();
        // The thread's own view of the mounts: another thread may be in another namespace.
        let namespace = fs::File::open("/proc/thread-self/ns/mnt").ok();
        let on_timeout = OnTimeout::new(move || {
            if let Some(namespace) = namespace {
                // Joining a mount namespace needs a file-system state that no other thread shares.
                std::thread::spawn(move || {
                    let _ = nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS);
                    let _ = nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNS);
                    detach_below(&path);
                })
                .join()
                .unwrap_or_default();
            }
        });
        Self { dir, _on_timeout: on_timeout }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The path of something in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file in it, with its directories, and returns its path.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(path.parent().unwrap()).expect("a directory");
        fs::write(&path, contents).expect("a file");
        path
    }

    /// Makes a directory in it.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(&path).expect("a directory");
        path
    }

    /// Gives everything in it, and itself, to a user and group of this number.
    pub fn give_to(&self, id: u32) {
        fn give(path: &Path, id: u32) {
            std::os::unix::fs::lchown(path, Some(id), Some(id)).expect("chown");
            if path.is_dir() && !path.is_symlink() {
                for entry in fs::read_dir(path).expect("a directory") {
                    give(&entry.expect("an entry").path(), id);
                }
            }
        }
        give(self.path(), id);
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        detach_below(self.path());
    }
}

/// The mounts of this thread's namespace at or below a path, the newest first, as `mountinfo` has
/// them (`proc_pid_mountinfo(5)`).
pub fn mounts_below(path: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let mut found = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(field.replace("\\040", " ")))
        .filter(|mount| mount.starts_with(path))
        .collect::<Vec<_>>();
    found.reverse();
    found
}

fn detach_below(path: &Path) {
    for mount in mounts_below(path) {
        let _ = umount2(&mount, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    }
}
