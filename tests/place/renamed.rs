//! A directory above the mount is renamed while it serves: the daemon finds its own mount by its number.

use std::fs;
use std::path::Path;

use crate::own;
use crate::support::daemon::Daemon;
use crate::support::dir::{TestDir, mounts_below};
use crate::support::namespace::{open_fuse_device, sandboxed};
use crate::support::process::{ORDINARY, User};
use crate::support::secs;

/// Mounts in `a`, which then becomes `b`, with another `a` in its place; and ends the daemon.
fn ends_cleanly(dir: &TestDir, user: User, home: &Path) {
    let (a, b) = (home.join("a"), home.join("b"));
    let arguments = ["--made-up", "1m", "--backend", "fuse"];
    let mut daemon = Daemon::of(dir, user).mountpoint(a.join("token")).args(arguments).start();
    fs::rename(&a, &b).unwrap();
    fs::create_dir_all(a.join("token")).unwrap();
    fs::write(a.join("token/token"), "somebody else's").unwrap();
    assert!(fs::read_to_string(b.join("token/token")).unwrap().starts_with("ghs_"));
    assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
    assert!(mounts_below(dir.path()).is_empty(), "{}", daemon.log());
    assert_eq!(fs::read(a.join("token/token")).unwrap(), b"somebody else's");
    assert!(!b.join("token").exists(), "what it made is removed where it is now");
}

#[test]
fn after_its_parent_was_renamed_the_daemon_takes_its_own_mount_away() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        ends_cleanly(&dir, User::Own, dir.path());
    });
}

#[test]
fn an_ordinary_users_daemon_does_so_too() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        open_fuse_device(&dir);
        let home = dir.folder("home");
        own(&home, ORDINARY, 0o755);
        own(&dir.folder("configs"), ORDINARY, 0o700);
        let (a, b) = (home.join("a"), home.join("b"));
        let arguments = ["--made-up", "1m", "--backend", "fuse"];
        let user = User::Number(ORDINARY);
        let mut daemon = Daemon::of(&dir, user).mountpoint(a.join("token")).args(arguments).start();
        fs::rename(&a, &b).unwrap();
        assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
        let left: Vec<_> = mounts_below(&home);
        assert!(left.is_empty(), "{left:?}: {}", daemon.log());
    });
}
