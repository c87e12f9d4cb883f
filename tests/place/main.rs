//! Where tokens may be mounted, kept and read: attacks by other users through the directories on the
//! way, through the mountpoint, and through what only looks like a mount.
//!
//! needs: root, fuse, fusermount3, python3, setpriv
//! tests `where_root_is_not_mapped` need: host-root

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod namespace;
mod race;
mod readers;
mod refused;
mod renamed;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use support::dir::TestDir;

/// The user who attacks. The victims are root, and [`support::process::ORDINARY`].
const ATTACKER: u32 = 1001;

/// Makes a directory of this user's, with this mode.
fn directory(dir: &TestDir, name: &str, owner: u32, mode: u32) -> PathBuf {
    let path = dir.folder(name);
    own(&path, owner, mode);
    path
}

/// Gives a file or directory an owner, a group of the same number, and a mode.
fn own(path: &Path, owner: u32, mode: u32) {
    chown(path, Some(owner), Some(owner)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
