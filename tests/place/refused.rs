//! Places that others could change: neither a mount nor files are made there, and the error says what is
//! wrong with which directory.

use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use crate::support::daemon::{Daemon, tokenfs};
use crate::support::dir::TestDir;
use crate::support::namespace::{open_fuse_device, sandboxed};
use crate::support::process::{Finished, ORDINARY, User, run};
use crate::support::secs;
use crate::{ATTACKER, directory, own};

const BACKENDS: [&str; 2] = ["fuse", "files"];

fn mount(dir: &TestDir, user: User, backend: &str, mountpoint: &Path) -> Finished {
    let mut mount = tokenfs(dir, user);
    mount.args(["mount", "--made-up", "1m", "--backend", backend, "--allow-disk"]).arg(mountpoint);
    run(mount, dir, secs(20))
}

/// A mount and files are refused there, with these words.
fn refuses(dir: &TestDir, user: User, mountpoint: &Path, words: &[&str]) {
    let before = mountpoint.exists();
    for backend in BACKENDS {
        let refused = mount(dir, user, backend, mountpoint);
        assert_eq!(refused.status.code(), Some(1), "{backend}: {refused:?}");
        for word in words {
            assert!(refused.stderr.contains(word), "{word}: {refused:?}");
        }
    }
    assert_eq!(before, mountpoint.exists(), "it is made");
}

/// Both are served there.
fn serves(dir: &TestDir, mountpoint: &Path) {
    for backend in BACKENDS {
        let arguments = ["--made-up", "1m", "--backend", backend, "--allow-disk"];
        let mut daemon = Daemon::at(dir).mountpoint(mountpoint).args(arguments).start();
        assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
    }
}

#[test]
fn a_directory_or_link_of_somebody_else_is_refused_and_named() {
    sandboxed(secs(120), || {
        let dir = TestDir::new();
        let name = |path: &Path| path.to_str().unwrap().to_owned();
        let belongs = format!("belongs to user {ATTACKER}");
        // On the way, as the mountpoint, and further up.
        let theirs = directory(&dir, "theirs", ATTACKER, 0o755);
        let chown = format!("chown root {}", name(&theirs));
        let words = [name(&theirs), belongs.clone(), chown];
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let inside = directory(&dir, "theirs/ours", 0, 0o755);
        for mountpoint in [theirs.clone(), theirs.join("token"), inside.join("token")] {
            refuses(&dir, User::Own, &mountpoint, &words);
        }
        // A mountpoint of theirs in a directory of ours: its owner could remove it.
        let ours = dir.folder("ours");
        let mountpoint = directory(&dir, "ours/token", ATTACKER, 0o755);
        refuses(&dir, User::Own, &mountpoint, &[&name(&mountpoint), &belongs]);
        let file = dir.file("ours/file", "");
        own(&file, ATTACKER, 0o600);
        let refused = mount(&dir, User::Own, "fuse", &file);
        assert!(refused.stderr.contains(&belongs), "{refused:?}");
        // A link of theirs in a directory for everybody.
        let shared = directory(&dir, "shared", 0, 0o1777);
        let link = shared.join("link");
        symlink(&ours, &link).unwrap();
        lchown(&link, Some(ATTACKER), Some(ATTACKER)).unwrap();
        let told = format!("is a symbolic link of user {ATTACKER}");
        refuses(&dir, User::Own, &link.join("here"), &[&name(&link), &told, "chown -h root"]);
        refuses(&dir, User::Own, &link, &[&name(&link), &told]);
    });
}

#[test]
fn a_directory_that_others_can_write_to_is_refused_unless_it_is_sticky() {
    sandboxed(secs(120), || {
        let dir = TestDir::new();
        for mode in [0o777, 0o775, 0o757, 0o2777] {
            let open = directory(&dir, "open", 0, mode);
            let told = format!("can be written to by others (mode {mode:04o})");
            let chmod = format!("chmod go-w {}", open.display());
            refuses(&dir, User::Own, &open.join("token"), &[&told, &chmod]);
            refuses(&dir, User::Own, &open, &[&told]);
        }
        let sticky = directory(&dir, "sticky", 0, 0o1777);
        serves(&dir, &sticky.join("token"));
        serves(&dir, &sticky.join("a/b"));
        // Where somebody else may add names, the mountpoint itself must be closed.
        refuses(&dir, User::Own, &sticky, &["can be written to by others (mode 1777)"]);
    });
}

#[test]
fn a_link_of_our_own_is_followed_and_an_ordinary_user_may_use_what_is_roots() {
    sandboxed(secs(120), || {
        let dir = TestDir::new();
        let real = dir.folder("real");
        symlink("real", dir.join("link")).unwrap();
        serves(&dir, &dir.join("link/token"));
        serves(&dir, &dir.join("link/../link/a/token"));
        assert_eq!(fs::read_dir(&real).unwrap().count(), 0);

        open_fuse_device(&dir);
        let home = directory(&dir, "home", ORDINARY, 0o755);
        own(&dir.folder("configs"), ORDINARY, 0o700);
        let user = User::Number(ORDINARY);
        let log = directory(&dir, "theirs", ATTACKER, 0o755);
        refuses(&dir, user, &log.join("token"), &[&format!("belongs to user {ATTACKER}")]);
        for mountpoint in [home.join("token"), home.join("a/token")] {
            let daemon = Daemon::of(&dir, user).mountpoint(mountpoint).args(["--made-up", "1m"]);
            let mut daemon = daemon.start();
            assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
        }
    });
}

#[test]
fn a_volume_that_everybody_may_write_to_is_made_sticky() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let volume = dir.folder("volume");
        let options = Some("mode=777");
        nix::mount::mount(Some("v"), &volume, Some("tmpfs"), nix::mount::MsFlags::empty(), options)
            .unwrap();
        serves(&dir, &volume.join("token"));
        assert_eq!(fs::metadata(&volume).unwrap().permissions().mode() & 0o7777, 0o1777);
    });
}

/// Where the daemon of an ordinary user mounts that is told nothing.
fn by_default(dir: &TestDir, runtime: &Path) -> Finished {
    let mut mount = tokenfs(dir, User::Number(ORDINARY));
    mount.args(["mount", "--background", "--made-up", "1m"]).env("XDG_RUNTIME_DIR", runtime);
    run(mount, dir, secs(20))
}

#[test]
fn a_runtime_directory_that_is_not_the_users_alone_is_refused() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        own(&dir.folder("configs"), ORDINARY, 0o700);
        let cases: [(u32, u32, &str); 3] = [
            (ATTACKER, 0o755, "belongs to user 1001 and not to you"),
            (0, 0o1777, "belongs to user 0 and not to you"),
            (ORDINARY, 0o750, "others may enter (mode 0750; it must be 0700)"),
        ];
        for (owner, mode, words) in cases {
            let runtime: PathBuf = directory(&dir, "runtime", owner, mode);
            let refused = by_default(&dir, &runtime);
            assert_eq!(refused.status.code(), Some(1), "{refused:?}");
            assert!(refused.stderr.contains("XDG_RUNTIME_DIR is "), "{refused:?}");
            assert!(refused.stderr.contains(words), "{words}: {refused:?}");
            assert_eq!(fs::read_dir(&runtime).unwrap().count(), 0);
        }
    });
}
