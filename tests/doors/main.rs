//! `serve`: one daemon for a host, whose doors show each its own tokens to its own users.
//! needs: host-root, fuse, inotifywait, python3

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::MetadataExt;

use molecule_tokenfs::demo::Setup;
use molecule_tokenfs::demo::ledger::Verdict;
use nix::sys::signal::Signal;

use scene::{FIRST, Host, SECOND};
use support::daemon::{Daemon, tokenfs_run};
use support::namespace::sandboxed;
use support::process::{Process, User, command};
use support::{eventually, secs};

#[path = "../support/mod.rs"]
mod support;

mod added;
mod many;
mod scene;

#[test]
fn each_door_shows_its_own_tokens_to_its_own_user_and_equal_ones_are_one() {
    sandboxed(secs(60), || {
        let host = Host::new(Setup::default());
        let daemon = host.serve(Host::DOORS).start();
        let first = host.read(&daemon, FIRST, "agent-1/token");
        assert_eq!(host.owner_of(&first), "acme");
        assert_eq!(host.read(&daemon, FIRST, "agent-3/live/token"), first);
        let second = host.read(&daemon, SECOND, "agent-2/token");
        assert_eq!(host.owner_of(&second), "globex");
        assert_eq!(host.read(&daemon, FIRST, "agent-1/globex/token"), second);
        assert_eq!(host.demo.github().minted(), 2);
        for (user, path) in [
            (FIRST, "agent-2/token"),
            (SECOND, "agent-1/token"),
            (SECOND, "agent-1/globex/live/token"),
        ] {
            let refused = host.shell(&daemon, user, &format!("cat \"$1/{path}\""));
            assert!(refused.stderr.contains("Permission denied"), "{path}: {refused:?}");
            assert_eq!(refused.stdout, "");
        }
        // A door has nothing of another, not even its name.
        let listed = host.shell(&daemon, FIRST, "ls \"$1\"");
        assert!(listed.stderr.contains("Permission denied"), "{listed:?}");
        let names = host.shell(&daemon, 0, "ls \"$1\"").ok();
        assert_eq!(names.split_whitespace().collect::<Vec<_>>(), ["agent-1", "agent-2", "agent-3"]);
        let missing = host.shell(&daemon, SECOND, "cat \"$1/agent-2/acme/token\"");
        assert!(missing.stderr.contains("No such file"), "{missing:?}");
        let status = host.read(&daemon, SECOND, "agent-2/status.json");
        assert!(!status.contains("acme") && status.contains("globex"), "{status}");
        let directory = fs::metadata(daemon.mountpoint()).unwrap();
        assert_eq!((directory.mode() & 0o7777, directory.uid(), directory.nlink()), (0o711, 0, 5));
        let above = fs::metadata(daemon.path("agent-1/globex/..")).unwrap().ino();
        assert_eq!(above, fs::metadata(daemon.path("agent-1")).unwrap().ino());
    });
}

#[test]
fn readers_of_all_doors_notice_no_death_and_no_rotation() {
    sandboxed(secs(90), || {
        let host = Host::new(Setup::with_life(secs(6)));
        let daemon = host.serve(Host::DOORS).args(["--min-life", "1s"]).start();
        let doors = [
            ("agent-1/token", FIRST),
            ("agent-1/globex/token", FIRST),
            ("agent-2/token", SECOND),
            ("agent-3/token", FIRST),
        ];
        let readers: Vec<_> = doors
            .iter()
            .map(|(path, user)| {
                let line = format!("while cat '{}'; do echo; done", daemon.path(path).display());
                let mut sh = command("sh", User::Number(*user));
                sh.args(["-c", &line]);
                Process::start(sh, &path.replace('/', "-"), &host.dir)
            })
            .collect();
        let lines =
            |reader: &Process| reader.stdout().lines().map(str::to_owned).collect::<Vec<_>>();
        let distinct = |reader: &Process| {
            let mut tokens = lines(reader);
            tokens.dedup();
            tokens.len()
        };
        let mut deaths = 0;
        while readers.iter().any(|reader| distinct(reader) < 6) {
            let told = || readers.iter().map(|reader| (distinct(reader), reader.stderr()));
            assert!(deaths < 40, "{:?} {}", told().collect::<Vec<_>>(), daemon.log());
            let worker = daemon.worker();
            daemon.kill_worker(Signal::SIGKILL);
            eventually("another worker", secs(5), || (daemon.worker()? != worker?).then_some(()));
            std::thread::sleep(secs(1));
            deaths += 1;
        }
        println!("{deaths} deaths");
        for ((path, _), mut reader) in doors.into_iter().zip(readers) {
            assert!(reader.ended().is_none(), "{path}: {}", reader.stderr());
            let owner =
                if path.contains("agent-2") || path.contains("globex") { "globex" } else { "acme" };
            let mut tokens = lines(&reader);
            // The last one may not be whole yet.
            tokens.pop();
            tokens.dedup();
            for token in &tokens {
                assert_eq!(host.owner_of(token), owner, "{path}");
            }
            let last = tokens.last().unwrap().as_bytes();
            assert_ne!(host.demo.ledger().verdict(last), Verdict::Unknown);
        }
    });
}

#[test]
fn each_watcher_hears_of_a_rotation_at_its_own_door() {
    sandboxed(secs(60), || {
        let host = Host::new(Setup::default());
        let daemon = host.serve(Host::DOORS).start();
        let watched = ["agent-1", "agent-3"];
        let watchers = watched.map(|door| {
            let mut inotify = command("inotifywait", User::Own);
            inotify.args(["-m", "-e", "moved_to", "--format", "%f"]).arg(daemon.path(door));
            Process::start(inotify, door, &host.dir)
        });
        for watcher in &watchers {
            eventually("it watches", secs(5), || {
                watcher.stderr().contains("established").then_some(())
            });
        }
        let before = host.read(&daemon, FIRST, "agent-1/token");
        for watcher in &watchers {
            eventually("the first token", secs(5), || {
                watcher.stdout().contains("token").then_some(())
            });
        }
        let heard =
            |watcher: &Process| watcher.stdout().lines().filter(|name| *name == "token").count();
        let heard_before = watchers.each_ref().map(heard);
        std::thread::sleep(secs(1));
        host.shell(&daemon, 0, "echo > \"$1/agent-1/refresh\"").ok();
        for (watcher, before) in watchers.iter().zip(heard_before) {
            eventually("the rotation", secs(5), || (heard(watcher) > before).then_some(()));
        }
        let after = host.read(&daemon, FIRST, "agent-3/token");
        assert_ne!(after, before);
        assert_eq!(host.read(&daemon, FIRST, "agent-1/token"), after);
        assert_eq!(host.demo.github().minted(), 2);
    });
}

/// Reads the configuration again.
fn reload(daemon: &Daemon) {
    let worker = daemon.worker();
    daemon.process_signal(Signal::SIGHUP);
    eventually("a newer worker", secs(10), || (daemon.worker()? != worker?).then_some(()));
}

#[test]
fn doors_come_and_go_with_the_configuration_while_others_are_read() {
    sandboxed(secs(60), || {
        let host = Host::new(Setup::default());
        let daemon = host.serve(Host::DOORS).start();
        let first = host.read(&daemon, FIRST, "agent-1/token");
        let mut open = fs::File::open(daemon.path("agent-1/token")).unwrap();
        let kept = fs::metadata(daemon.path("agent-1")).unwrap().ino();
        let gone = fs::File::open(daemon.path("agent-2")).unwrap();
        host.describe(
            "[doors.agent-1]\ntoken = 'acme'\nowner = '1000'\n\
             [doors.agent-4]\ntoken = 'globex'\nowner = '2000'\n",
        );
        reload(&daemon);
        let fourth = eventually("the new door", secs(5), || {
            let told = host.shell(&daemon, SECOND, "cat \"$1/agent-4/token\"");
            told.status.success().then_some(told.stdout)
        });
        assert_eq!(host.owner_of(&fourth), "globex");
        let names = host.shell(&daemon, 0, "ls \"$1\"").ok();
        assert_eq!(names.split_whitespace().collect::<Vec<_>>(), ["agent-1", "agent-4"]);
        assert_eq!(fs::metadata(daemon.path("agent-1")).unwrap().ino(), kept);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut open, &mut text).unwrap();
        assert_eq!(text, first);
        assert_eq!(host.read(&daemon, FIRST, "agent-1/token"), first, "it was not fetched anew");
        for path in ["agent-2/token", "agent-1/globex/token"] {
            assert!(fs::read(daemon.path(path)).is_err(), "{path}");
        }
        drop(gone);
    });
}

#[test]
fn the_commands_of_a_mount_know_a_directory_of_doors() {
    sandboxed(secs(60), || {
        let host = Host::new(Setup::default());
        let daemon = host.serve(Host::DOORS).start();
        let directory = daemon.mountpoint().to_str().unwrap();
        let told = tokenfs_run(&host.dir, &["status", directory]);
        assert_eq!(told.status.code(), Some(1), "{told:?}");
        assert!(told.stderr.contains("is a directory of doors"), "{told:?}");
        let door = daemon.path("agent-1");
        let status = tokenfs_run(&host.dir, &["status", door.to_str().unwrap()]).ok();
        assert!(status.contains("globex") && !status.contains("agent-2"), "{status}");
        let upgraded = tokenfs_run(&host.dir, &["upgrade", directory]).ok();
        assert!(upgraded.contains("serves now"), "{upgraded}");
        assert!(!daemon.log().contains("only root may read"), "{}", daemon.log());
        tokenfs_run(&host.dir, &["umount", directory]).ok();
    });
}

#[test]
fn what_cannot_be_served_is_told_with_what_to_do() {
    sandboxed(secs(60), || {
        let host = Host::new(Setup::default());
        for (doors, flags, told) in [
            (
                Host::DOORS,
                &["--backend", "files"][..],
                "`backend` (--backend) asks for something else",
            ),
            (Host::DOORS, &["--layout", "file"][..], "`layout` (--layout) asks for something else"),
        ] {
            let mut daemon = host.serve(doors).args(flags).spawn();
            let status = daemon.process().wait(secs(10));
            assert_eq!(status.code(), Some(2), "{}", daemon.log());
            assert!(daemon.log().contains(told), "{}", daemon.log());
            assert!(daemon.log().contains("hint: "), "{}", daemon.log());
        }
    });
}
