//! Where the files may lie, and what is none of ours there.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use nix::mount::{MsFlags, mount};

use crate::support::daemon::{Daemon, tokenfs, tokenfs_run};
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::{ORDINARY, User, run};
use crate::support::secs;
use crate::{MEMORY, in_memory, without_fuse};

const LIFE: [&str; 2] = ["--made-up", "1m"];

/// Puts the disk in the place of the memory.
fn no_memory(dir: &TestDir) {
    let disk = dir.folder("disk");
    fs::set_permissions(&disk, fs::Permissions::from_mode(0o1777)).unwrap();
    mount(Some(&disk), MEMORY, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}

#[test]
fn without_memory_it_refuses_unless_a_disk_is_allowed() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        without_fuse(&dir);
        no_memory(&dir);
        let path = dir.join("a/token");
        let refused = tokenfs_run(&dir, &["mount", path.to_str().unwrap()]);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        for part in
            ["there is no tmpfs", MEMORY, "there is no /dev/fuse here", "hint:", "--allow-disk"]
        {
            assert!(refused.stderr.contains(part), "{part}: {refused:?}");
        }
        assert!(!dir.join("a").exists(), "nothing is left");

        let mut daemon =
            Daemon::at(&dir).mountpoint(&path).args(LIFE).args(["--allow-disk"]).start();
        assert!(!path.is_symlink());
        daemon.wait_for_log("written to a disk");
        assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
        assert!(!dir.join("a").exists(), "nothing is left");
    });
}

#[test]
fn where_the_mountpoint_lies_in_memory_the_files_are_right_there() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        without_fuse(&dir);
        let dir = TestDir::under(MEMORY);
        let path = dir.folder("here");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        let mut daemon = Daemon::at(&dir).mountpoint(&path).args(LIFE).start();
        assert!(path.is_dir() && !path.is_symlink());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o750, "it is as it was");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    });
}

#[test]
fn what_is_not_ours_is_refused_and_untouched() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        without_fuse(&dir);
        dir.file("full/theirs", "x");
        symlink(dir.join("full"), dir.join("link")).unwrap();
        let file = dir.file("file", "x");
        let in_memory = Path::new(MEMORY).join("full");
        fs::create_dir(&in_memory).unwrap();
        fs::write(in_memory.join("theirs"), "x").unwrap();
        for (target, sentence) in [
            (dir.join("full"), "would hide `theirs`"),
            (dir.join("link"), "would hide `theirs`"),
            (file, "is not empty"),
            (in_memory.clone(), "would hide `theirs`"),
        ] {
            let refused = tokenfs_run(&dir, &["mount", target.to_str().unwrap()]);
            assert_eq!(refused.status.code(), Some(1), "{refused:?}");
            assert!(refused.stderr.contains(sentence), "{sentence}: {refused:?}");
        }
        assert_eq!(fs::read(in_memory.join("theirs")).unwrap(), b"x");
        assert_eq!(fs::read(dir.join("full/theirs")).unwrap(), b"x");
        assert!(dir.join("link").is_symlink());
        assert_eq!(crate::in_memory(), [in_memory], "nothing is left in memory");
    });
}

#[test]
fn links_and_directories_that_somebody_planted_lead_nowhere() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        without_fuse(&dir);
        let victim = dir.file("victim/token", "theirs").parent().unwrap().to_owned();
        let memory = |name: &str| Path::new(MEMORY).join(name);
        // A link that is named like a directory of ours.
        symlink(&victim, memory("molecule-tokenfs-0123456789abcdef")).unwrap();
        // A directory of somebody else's, with a marker and a file; and one with links in it.
        let planted = memory("molecule-tokenfs-1111111111111111");
        fs::create_dir(&planted).unwrap();
        for name in [".molecule-tokenfs", "token"] {
            fs::write(planted.join(name), "x").unwrap();
        }
        for path in [planted.clone(), planted.join(".molecule-tokenfs")] {
            std::os::unix::fs::chown(path, Some(ORDINARY), Some(ORDINARY)).unwrap();
        }
        let linked = memory("molecule-tokenfs-2222222222222222");
        fs::create_dir(&linked).unwrap();
        symlink(victim.join("token"), linked.join(".molecule-tokenfs")).unwrap();
        symlink(&victim, linked.join("gh")).unwrap();
        // A mountpoint that leads to the planted one.
        symlink(&planted, dir.join("token")).unwrap();
        let refused =
            tokenfs_run(&dir, &["mount", "--made-up", "1m", dir.join("token").to_str().unwrap()]);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");

        let mut daemon = Daemon::at(&dir).mountpoint(dir.join("other")).args(LIFE).start();
        assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
        assert_eq!(fs::read(victim.join("token")).unwrap(), b"theirs");
        assert_eq!(fs::read(planted.join("token")).unwrap(), b"x");
        assert!(linked.join("gh").is_symlink());
        assert_eq!(in_memory().len(), 3, "and nothing of ours is left");
    });
}

#[test]
fn an_ordinary_user_keeps_files_too_and_not_in_a_directory_of_somebody_else() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        without_fuse(&dir);
        let user = User::Number(ORDINARY);
        let roots = Path::new(MEMORY).join("roots");
        fs::create_dir(&roots).unwrap();
        fs::set_permissions(&roots, fs::Permissions::from_mode(0o755)).unwrap();
        dir.give_to(ORDINARY);
        let mut mount = tokenfs(&dir, user);
        mount.args(["mount", "--made-up", "1m"]).arg(&roots);
        let refused = run(mount, &dir, secs(5));
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(refused.stderr.contains("belongs to another user"), "{refused:?}");

        let mut daemon = Daemon::of(&dir, user).args(LIFE).start();
        let mut get = tokenfs(&dir, user);
        get.arg("get").arg(daemon.mountpoint());
        assert!(run(get, &dir, secs(10)).ok().starts_with("ghs_"));
        let mode = fs::metadata(daemon.path(".")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
        assert_eq!(in_memory(), [roots]);
    });
}
