//! `get`, `wait`, `refresh` and `exec` on a real mount over the demo platform.
//!
//! needs: root, fuse

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::time::Duration;

use molecule_tokenfs::demo::faults::{Fault, Service};
use molecule_tokenfs::demo::ledger::Verdict;
use molecule_tokenfs::demo::{Demo, Setup};
use nix::sys::signal::Signal;
use support::daemon::{Builder, Daemon, tokenfs, tokenfs_run};
use support::dir::TestDir;
use support::namespace::sandboxed;
use support::process::{Finished, Process, User};
use support::{eventually, secs};

/// A daemon over a platform in which the workspace is registered.
fn daemon<'a>(dir: &'a TestDir, demo: &Demo) -> Builder<'a> {
    let configs = dir.join("configs");
    std::fs::create_dir_all(&configs).unwrap();
    demo.register(&configs).unwrap();
    Daemon::at(dir).env("PLATFORM_URL", demo.url())
}

fn hour_long() -> Demo {
    Demo::start(Setup::with_life(Duration::from_hours(1))).unwrap()
}

/// Runs a command that ends with the path of the mount.
fn tell(dir: &TestDir, daemon: &Daemon, args: &[&str]) -> Finished {
    tokenfs_run(dir, &[args, &[daemon.mountpoint().to_str().unwrap()]].concat())
}

#[track_caller]
fn assert_told(finished: &Finished, code: i32, parts: &[&str]) {
    assert_eq!(finished.status.code(), Some(code), "{finished:?}");
    for part in parts {
        assert!(finished.stderr.contains(part), "{part}: {finished:?}");
    }
    assert_eq!(finished.stdout, "");
}

#[test]
fn get_prints_a_live_token_in_each_form_that_is_asked_for() {
    sandboxed(secs(30), || {
        let (dir, demo) = (TestDir::new(), hour_long());
        let daemon = daemon(&dir, &demo).start();
        let token = tell(&dir, &daemon, &["get"]).ok();
        assert_eq!(demo.ledger().verdict(token.as_bytes()), Verdict::Live);
        let header = tell(&dir, &daemon, &["get", "--view", "header"]).ok();
        assert_eq!(header, format!("Authorization: Bearer {token}\n"));
        let living = tell(&dir, &daemon, &["get", "--min-life", "50m"]).ok();
        assert_eq!(living, token, "it lives long enough");
        assert_eq!(demo.ledger().counts().platform.requests, 1);
    });
}

#[test]
fn get_asks_for_another_token_where_that_gives_the_life_that_is_asked_for() {
    sandboxed(secs(30), || {
        let (dir, demo) = (TestDir::new(), Demo::start(Setup::with_life(secs(10))).unwrap());
        let daemon = daemon(&dir, &demo).args(["--refresh-interval", "1h"]).start();
        let first = tell(&dir, &daemon, &["get"]).ok();
        std::thread::sleep(secs(2));
        let second = tell(&dir, &daemon, &["get", "--min-life", "8s"]).ok();
        assert_ne!(first, second);
        assert_eq!(demo.ledger().verdict(second.as_bytes()), Verdict::Live);
        let never = tell(&dir, &daemon, &["get", "--min-life", "1h"]);
        assert_told(&never, 3, &["error: the token lives ", "less than the 1h asked for"]);
    });
}

#[test]
fn wait_returns_when_a_workspace_that_registers_later_has_a_token() {
    sandboxed(secs(30), || {
        let (dir, demo) = (TestDir::new(), hour_long());
        let mut wait = tokenfs(&dir, User::Own);
        wait.args(["wait", "--for", "20s"]).arg(dir.join("token"));
        let mut waiting = Process::start(wait, "wait", &dir);
        let configs = dir.join("configs");
        std::fs::create_dir(&configs).unwrap();
        let daemon = Daemon::at(&dir).env("PLATFORM_URL", demo.url()).start();
        let told = tell(&dir, &daemon, &["wait", "--for", "300ms"]);
        assert_told(&told, 3, &["no token could be read within 300ms", "hint: "]);
        assert!(waiting.ended().is_none(), "{}", waiting.stderr());
        demo.register(&configs).unwrap();
        assert!(waiting.wait(secs(10)).success(), "{}", waiting.stderr());
    });
}

#[test]
fn refresh_brings_another_token_but_not_twice_a_second() {
    sandboxed(secs(30), || {
        let (dir, demo) = (TestDir::new(), hour_long());
        let daemon = daemon(&dir, &demo).start();
        let first = tell(&dir, &daemon, &["get"]).ok();
        let line = tell(&dir, &daemon, &["refresh"]).ok();
        let second = tell(&dir, &daemon, &["get"]).ok();
        assert_ne!(first, second);
        assert!(line.starts_with("token ") && line.ends_with("s left\n"), "{line}");
        // More than once, for on a slow machine the next comes a second later.
        let too_soon = eventually("a refresh is refused", secs(10), || {
            Some(tell(&dir, &daemon, &["refresh"])).filter(|told| !told.status.success())
        });
        assert_told(&too_soon, 1, &["less than a second ago"]);
    });
}

#[test]
fn a_refresh_that_fails_says_why_and_what_is_still_served() {
    sandboxed(secs(30), || {
        let (dir, demo) = (TestDir::new(), hour_long());
        let daemon = daemon(&dir, &demo).start();
        let token = tell(&dir, &daemon, &["get"]).ok();
        demo.faults().stick(Service::Platform, Some(Fault::Status(500)));
        let failed = tell(&dir, &daemon, &["refresh"]);
        assert_told(&failed, 1, &["still served: token ", "500", "hint: "]);
        assert_eq!(tell(&dir, &daemon, &["get"]).ok(), token);
    });
}

#[test]
fn exec_hands_a_live_token_to_the_command() {
    sandboxed(secs(30), || {
        let (dir, demo) = (TestDir::new(), hour_long());
        let daemon = daemon(&dir, &demo).start();
        let mount = daemon.mountpoint().to_str().unwrap();
        let command = ["--", "sh", "-c", "printf %s \"$GH_TOKEN\""];
        let told = tokenfs_run(&dir, &[&["exec", "--mountpoint", mount], &command[..]].concat());
        assert_eq!(told.stderr, "");
        assert_eq!(demo.ledger().verdict(told.ok().as_bytes()), Verdict::Live);

        // gh would send this one to whatever server it is told to talk to.
        let variable = ["exec", "--mountpoint", mount, "--env", "GH_ENTERPRISE_TOKEN"];
        let command = ["--", "sh", "-c", "printf %s \"$GH_ENTERPRISE_TOKEN\""];
        let told = tokenfs_run(&dir, &[&variable[..], &command[..]].concat());
        assert!(
            told.stderr.starts_with("warning: gh sends GH_ENTERPRISE_TOKEN to any"),
            "{told:?}"
        );
        assert_eq!(demo.ledger().verdict(told.ok().as_bytes()), Verdict::Live);
    });
}

#[test]
fn a_daemon_that_is_gone_is_named_as_the_cause() {
    sandboxed(secs(30), || {
        let (dir, demo) = (TestDir::new(), hour_long());
        let mut daemon = daemon(&dir, &demo).start();
        daemon.process().signal(Signal::SIGKILL);
        daemon.process().wait(secs(5));
        for args in [&["get"][..], &["refresh"], &["wait", "--for", "100ms"]] {
            let told = tell(&dir, &daemon, args);
            assert_told(&told, 3, &["the daemon that served ", " is gone", "hint: mount it again"]);
        }
    });
}

#[test]
fn a_reader_without_the_right_is_told_whose_the_token_is() {
    sandboxed(secs(30), || {
        let (dir, demo) = (TestDir::new(), hour_long());
        let daemon = daemon(&dir, &demo).args(["--owner", "4321"]).start();
        let mut get = tokenfs(&dir, User::Number(1234));
        get.arg("get").arg(daemon.mountpoint());
        let told = support::process::run(get, &dir, secs(10));
        assert_told(&told, 1, &["this user may not read the token", "hint: read it as its owner"]);
        let mut get = tokenfs(&dir, User::Number(4321));
        get.arg("get").arg(daemon.mountpoint());
        let token = support::process::run(get, &dir, secs(10)).ok();
        assert_eq!(demo.ledger().verdict(token.as_bytes()), Verdict::Live);
    });
}
