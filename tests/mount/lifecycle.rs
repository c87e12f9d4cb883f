//! How a mount begins and ends.

use std::fs;
use std::path::Path;

use molecule_tokenfs::demo::Setup;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};

use crate::Workspace;
use crate::support::daemon::{Daemon, tokenfs, tokenfs_run};
use crate::support::dir::{TestDir, mounts_below};
use crate::support::namespace::{open_fuse_device, sandboxed};
use crate::support::process::{ORDINARY, User, command, errno, run};
use crate::support::{eventually, secs};

const LIFE: [&str; 2] = ["--made-up", "1m"];

#[test]
fn signals_unmount_end_with_0_and_leave_nothing_behind() {
    sandboxed(secs(30), || {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let dir = TestDir::new();
            let mut daemon = Daemon::at(&dir).mountpoint(dir.join("a/b/token")).args(LIFE).start();
            let held = fs::File::open(daemon.path("token")).unwrap();
            daemon.process().signal(signal);
            let status = daemon.process().wait(secs(5));
            assert_eq!(status.code(), Some(0), "{}", daemon.log());
            assert_eq!(mounts_below(dir.path()), Vec::<std::path::PathBuf>::new());
            assert!(!dir.join("a").exists(), "the directories that it made are gone");
            drop(held);
        }
    });
}

#[test]
fn a_reader_that_waits_when_the_daemon_ends_gets_an_error() {
    sandboxed(secs(30), || {
        let mut workspace = Workspace::start(Setup::default());
        workspace.demo.faults().stick(
            molecule_tokenfs::demo::faults::Service::Platform,
            Some(molecule_tokenfs::demo::faults::Fault::Hang),
        );
        let path = workspace.path("token");
        let reader = std::thread::spawn(move || fs::read(path));
        eventually("the reader waits", secs(5), || {
            (workspace.demo.ledger().counts().platform.requests > 0).then_some(())
        });
        assert_eq!(workspace.daemon.stop().code(), Some(0));
        let error = reader.join().unwrap().unwrap_err();
        assert_eq!(errno(&error), Some(Errno::ENOTCONN));
    });
}

#[test]
fn umount_ends_the_daemon_and_refuses_what_is_not_ours() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        let mut daemon = Daemon::at(&dir).args(LIFE).start();
        let path = daemon.mountpoint().to_str().unwrap().to_owned();
        tokenfs_run(&dir, &["umount", &path]).ok();
        assert_eq!(daemon.process().wait(secs(5)).code(), Some(0));
        let again = tokenfs_run(&dir, &["umount", &path]);
        assert_eq!(again.status.code(), Some(1));
        assert!(again.stderr.contains("nothing of molecule-tokenfs is mounted"), "{again:?}");

        let foreign = dir.folder("foreign");
        mount_tmpfs(&foreign);
        let refused = tokenfs_run(&dir, &["umount", foreign.to_str().unwrap()]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(refused.stderr.contains("another file system (tmpfs from test)"), "{refused:?}");
        assert_eq!(mounts_below(&foreign).len(), 1);
    });
}

#[test]
fn when_umount_returns_the_directories_that_were_made_are_gone() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        for round in 0..6 {
            let path = dir.join("made/of/the/mount");
            let more: &[&str] = if round % 2 == 0 { &[] } else { &["--layout", "file"] };
            let mut daemon = Daemon::at(&dir).mountpoint(&path).args(LIFE).args(more).start();
            tokenfs_run(&dir, &["umount", path.to_str().unwrap()]).ok();
            assert!(!dir.join("made").exists(), "round {round}");
            assert_eq!(daemon.process().wait(secs(5)).code(), Some(0));
        }
        // One that was there stays, and nobody waits for it.
        let path = dir.folder("there");
        let mut daemon = Daemon::at(&dir).mountpoint(&path).args(LIFE).start();
        tokenfs_run(&dir, &["umount", path.to_str().unwrap()]).ok();
        assert!(path.is_dir());
        assert_eq!(daemon.process().wait(secs(5)).code(), Some(0));
    });
}

#[test]
fn a_daemon_that_is_stopped_keeps_nobody_from_unmounting() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        let daemon = Daemon::at(&dir).args(LIFE).start();
        let paused = daemon.pause();
        let path = daemon.mountpoint().to_str().unwrap().to_owned();
        tokenfs_run(&dir, &["umount", &path]).ok();
        assert_eq!(mounts_below(dir.path()).len(), 0);
        drop(paused);
    });
}

#[test]
fn a_mount_in_use_says_so_and_lazy_detaches_it() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        let mut daemon = Daemon::at(&dir).args(LIFE).start();
        let held = fs::File::open(daemon.path("token")).unwrap();
        let path = daemon.mountpoint().to_str().unwrap().to_owned();
        let busy = tokenfs_run(&dir, &["umount", &path]);
        assert_eq!(busy.status.code(), Some(1));
        assert!(busy.stderr.contains("in use") && busy.stderr.contains("--lazy"), "{busy:?}");
        tokenfs_run(&dir, &["umount", "--lazy", &path]).ok();
        assert_eq!(mounts_below(dir.path()).len(), 0);
        drop(held);
        assert_eq!(daemon.process().wait(secs(5)).code(), Some(0));
    });
}

#[test]
fn after_a_kill_the_next_start_cleans_up_and_mounts() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        let mut daemon = Daemon::at(&dir).args(LIFE).start();
        fs::read(daemon.path("token")).unwrap();
        daemon.process().signal(Signal::SIGKILL);
        daemon.process().wait(secs(5));
        let error = eventually("its worker has ended, too", secs(1), || {
            fs::read(dir.join("token/token")).err()
        });
        // The read that was under way, then every other.
        let errors = [error, fs::read(dir.join("token/token")).unwrap_err()].map(|it| errno(&it));
        let under_way = [Some(Errno::ECONNABORTED), Some(Errno::ENOTCONN)];
        assert!(under_way.contains(&errors[0]), "{errors:?}");
        assert_eq!(errors[1], Some(Errno::ENOTCONN));
        let daemon = Daemon::at(&dir).args(LIFE).start();
        assert!(fs::read(daemon.path("token")).is_ok());
        assert_eq!(mounts_below(dir.path()).len(), 1);
    });
}

#[test]
fn the_second_start_at_one_path_says_who_holds_it() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        let daemon = Daemon::at(&dir).args(LIFE).start();
        let path = daemon.mountpoint().to_str().unwrap();
        let second = tokenfs_run(&dir, &["mount", path]);
        assert_eq!(second.status.code(), Some(1));
        let holder = format!("already mounted by molecule-tokenfs (process {})", daemon.pid());
        assert!(second.stderr.contains(&holder), "{second:?}");
        assert!(fs::read(daemon.path("token")).is_ok());
    });
}

#[test]
fn a_stopped_daemon_is_named_and_not_waited_for() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        let mut daemon = Daemon::at(&dir).args(LIFE).start();
        let worker = daemon.worker().unwrap();
        daemon.process().signal(Signal::SIGSTOP);
        kill(worker, Signal::SIGSTOP).unwrap();
        let path = daemon.mountpoint().to_str().unwrap().to_owned();
        let second = tokenfs_run(&dir, &["mount", &path]);
        kill(worker, Signal::SIGCONT).unwrap();
        daemon.process().signal(Signal::SIGCONT);
        assert_eq!(second.status.code(), Some(1));
        assert!(second.stderr.contains("does not answer"), "{second:?}");
        assert!(fs::read(daemon.path("token")).is_ok());
    });
}

fn mount_tmpfs(target: &Path) {
    mount(Some("test"), target, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

#[test]
fn a_foreign_mount_a_file_and_a_full_directory_are_refused_and_untouched() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        let foreign = dir.folder("foreign");
        mount_tmpfs(&foreign);
        fs::write(foreign.join("theirs"), "x").unwrap();
        dir.file("full/theirs", "x");
        let file = dir.file("file", "x");
        nix::unistd::mkfifo(&dir.join("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        for (target, sentence) in [
            (foreign.clone(), "another file system (tmpfs from test)"),
            (dir.join("full"), "would hide `theirs`"),
            (file, "would hide its 1 bytes"),
            (dir.join("pipe"), "neither a directory nor a regular file"),
        ] {
            let refused = tokenfs_run(&dir, &["mount", target.to_str().unwrap()]);
            assert_eq!(refused.status.code(), Some(1), "{refused:?}");
            assert!(refused.stderr.contains(sentence), "{sentence}: {refused:?}");
            assert!(refused.stderr.contains("hint:"), "{refused:?}");
        }
        assert_eq!(fs::read(foreign.join("theirs")).unwrap(), b"x");
        umount2(&foreign, MntFlags::empty()).unwrap();
    });
}

#[test]
fn in_the_background_it_returns_when_the_mount_serves_or_says_why_not() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        let path = dir.join("token");
        let path = path.to_str().unwrap();
        let log = dir.join("log");
        let background = ["mount", "--background", "--log-file", log.to_str().unwrap(), path];
        tokenfs_run(&dir, &[&background[..], &["--made-up", "1m"]].concat()).ok();
        assert!(fs::read(dir.join("token/token")).is_ok());
        let second = tokenfs_run(&dir, &background);
        assert_eq!(second.status.code(), Some(1));
        assert!(second.stderr.contains("already mounted"), "{second:?}");
        tokenfs_run(&dir, &["umount", path]).ok();
        eventually("the daemon is gone", secs(5), || (!dir.join("token").exists()).then_some(()));
    });
}

#[test]
fn an_ordinary_user_mounts_through_the_helper() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        open_fuse_device(&dir);
        let user = User::Number(ORDINARY);
        dir.give_to(ORDINARY);
        let mut daemon = Daemon::of(&dir, user).args(LIFE).start();
        let mut cat = command("cat", user);
        cat.arg(daemon.path("token"));
        assert!(run(cat, &dir, secs(5)).ok().starts_with("ghs_"));
        assert!(fs::read(daemon.path("token")).is_err(), "not even root may, without allow_other");
        assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
        assert_eq!(mounts_below(dir.path()).len(), 0);

        let mut daemon = Daemon::of(&dir, user).args(LIFE).start();
        let mut umount = tokenfs(&dir, user);
        umount.arg("umount").arg(daemon.mountpoint());
        run(umount, &dir, secs(5)).ok();
        assert_eq!(daemon.process().wait(secs(5)).code(), Some(0), "{}", daemon.log());
    });
}

#[test]
fn without_a_device_it_says_what_to_do() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        let user = User::Number(ORDINARY);
        dir.give_to(ORDINARY);
        let mut mount = tokenfs(&dir, user);
        mount.args(["mount", "--backend", "fuse"]).arg(dir.join("token"));
        // Closed to ordinary users, and the helper cannot open it either.
        crate::support::namespace::replace_file(Path::new("/dev/fuse"), "", &dir);
        let refused = run(mount, &dir, secs(5));
        assert_eq!(refused.status.code(), Some(1));
        assert!(refused.stderr.contains("no /dev/fuse"), "{refused:?}");
        assert!(refused.stderr.contains("--device /dev/fuse"), "{refused:?}");
    });
}
