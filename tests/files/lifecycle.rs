//! How files begin and end, and what a killed daemon leaves.

use std::fs;
use std::io::Read;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::daemon::{Daemon, tokenfs_run};
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::{eventually, secs};
use crate::{in_memory, without_fuse};

const LIFE: [&str; 2] = ["--made-up", "1m"];

#[test]
fn signals_end_it_with_0_and_leave_nothing_but_what_was_there() {
    sandboxed(secs(40), || {
        let dir = TestDir::new();
        without_fuse(&dir);
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let empty = dir.folder("empty");
            for path in [dir.join("a/b/token"), empty.clone()] {
                let mut daemon = Daemon::at(&dir).mountpoint(&path).args(LIFE).start();
                assert!(path.is_symlink());
                let mut held =
                    eventually("a token", secs(5), || fs::File::open(daemon.path("token")).ok());
                daemon.process().signal(signal);
                assert_eq!(daemon.process().wait(secs(5)).code(), Some(0), "{}", daemon.log());
                let mut token = String::new();
                held.read_to_string(&mut token).unwrap();
                assert!(token.starts_with("ghs_"), "whoever has it open keeps it");
                assert_eq!(in_memory(), [""; 0].map(Path::new));
            }
            assert!(!dir.join("a").exists(), "the directories that it made are gone");
            assert!(empty.is_dir() && !empty.is_symlink(), "the one that was there is back");
        }
    });
}

#[test]
fn it_says_what_it_took_and_why() {
    sandboxed(secs(20), || {
        let dir = TestDir::new();
        without_fuse(&dir);
        let daemon = Daemon::at(&dir).args(LIFE).start();
        daemon.wait_for_log("FUSE is not used (there is no /dev/fuse here)");
        let status = tokenfs_run(&dir, &["status", daemon.mountpoint().to_str().unwrap()]).stdout;
        assert!(
            status.contains("plain files, without FUSE (there is no /dev/fuse here)"),
            "{status}"
        );
        let doctor = tokenfs_run(&dir, &["doctor", daemon.mountpoint().to_str().unwrap()]).stdout;
        assert!(doctor.contains("a directory, plain files in memory"), "{doctor}");
        assert!(doctor.contains("plain files are served instead, which promise less"), "{doctor}");
        let metrics = fs::read_to_string(daemon.path("metrics.prom")).unwrap();
        assert!(metrics.contains("backend=\"files\""), "{metrics}");
    });
}

#[test]
fn what_a_killed_daemon_leaves_is_named_and_the_next_start_cleans_it() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        without_fuse(&dir);
        let (path, other) = (dir.join("token"), dir.join("other"));
        let shown = path.to_str().unwrap();
        for next in [&path, &other] {
            let mut daemon = Daemon::at(&dir).mountpoint(&path).args(["--made-up", "4s"]).start();
            // The pages come after the views.
            eventually("a token", secs(5), || {
                let status = fs::read_to_string(daemon.path("status.json")).unwrap();
                status.contains("\"state\": \"fresh\"").then_some(())
            });
            daemon.process().signal(Signal::SIGKILL);
            daemon.process().wait(secs(5));
            let leftover = fs::read_link(&path).unwrap();
            assert!(leftover.join("token").exists());

            let get = tokenfs_run(&dir, &["get", shown]);
            assert!(get.status.success(), "as long as it lives: {get:?}");
            let status = tokenfs_run(&dir, &["status", shown]);
            assert_eq!(status.status.code(), Some(1), "{status:?}");
            assert!(status.stdout.contains("is gone: the last token is still good"), "{status:?}");
            let doctor = tokenfs_run(&dir, &["doctor", shown]);
            assert!(
                doctor.stdout.contains("is gone, and left files, whose token dies"),
                "{doctor:?}"
            );
            let dead = eventually("get refuses the dead token", secs(15), || {
                Some(tokenfs_run(&dir, &["get", shown])).filter(|get| !get.status.success())
            });
            assert_eq!(dead.status.code(), Some(3), "{dead:?}");
            assert!(
                dead.stderr.contains("is gone") && dead.stderr.contains("--background"),
                "{dead:?}"
            );
            assert!(dead.stdout.is_empty());
            let status = tokenfs_run(&dir, &["status", shown]);
            assert_eq!(status.status.code(), Some(3), "{status:?}");

            // Also one for another place cleans up.
            let mut daemon = Daemon::at(&dir).mountpoint(next).args(LIFE).start();
            daemon.wait_for_log("what a killed daemon left");
            assert!(!leftover.exists());
            assert_eq!(in_memory(), [fs::read_link(next).unwrap()]);
            assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
        }
    });
}

#[test]
fn when_umount_returns_the_directories_that_were_made_are_gone() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        without_fuse(&dir);
        for round in 0..5 {
            let path = dir.join("made/for/the/link");
            let mut daemon = Daemon::at(&dir).mountpoint(&path).args(LIFE).start();
            tokenfs_run(&dir, &["umount", path.to_str().unwrap()]).ok();
            assert!(!dir.join("made").exists(), "round {round}");
            assert_eq!(in_memory(), [""; 0].map(Path::new), "round {round}");
            assert_eq!(daemon.process().wait(secs(5)).code(), Some(0), "{}", daemon.log());
        }
    });
}

#[test]
fn a_second_daemon_is_refused_and_umount_ends_the_first() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        without_fuse(&dir);
        let mut daemon = Daemon::at(&dir).args(LIFE).start();
        let shown = daemon.mountpoint().to_str().unwrap().to_owned();
        let second = tokenfs_run(&dir, &["mount", &shown]);
        assert_eq!(second.status.code(), Some(1));
        let pid = format!("already mounted by molecule-tokenfs (process {})", daemon.pid());
        assert!(second.stderr.contains(&pid), "{second:?}");
        tokenfs_run(&dir, &["umount", &shown]).ok();
        assert_eq!(daemon.process().wait(secs(1)).code(), Some(0), "{}", daemon.log());
        let again = tokenfs_run(&dir, &["umount", &shown]);
        assert!(again.stderr.contains("nothing of molecule-tokenfs is mounted"), "{again:?}");

        let log = dir.join("log");
        let background = ["mount", "--background", "--log-file", log.to_str().unwrap()];
        tokenfs_run(&dir, &[&background[..], &["--made-up", "1m", &shown]].concat()).ok();
        assert!(dir.join("token/status.json").exists(), "it serves when that returns");
        tokenfs_run(&dir, &["umount", &shown]).ok();
        assert!(!dir.join("token").is_symlink());
    });
}
