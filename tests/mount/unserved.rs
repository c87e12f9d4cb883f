//! No worker can be started, for whatever reason: opens fail in time, the supervisor goes on trying, and
//! when the reason is gone all is as before.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use rustix::process::Resource;

use crate::support::daemon::{Builder, Daemon, tokenfs_run};
use crate::support::dir::TestDir;
use crate::support::limited::Limited;
use crate::support::namespace::{open_fuse_device, sandboxed};
use crate::support::opens::as_user;
use crate::support::process::{ORDINARY, User, errno};
use crate::support::{eventually, millis, secs};

/// How long an open waits here, and what a busy machine adds.
const DEADLINE: Duration = secs(2);
const SLACK: Duration = secs(3);
/// The longest pause between two starts, and the start.
const AGAIN: Duration = secs(40);

fn settings<'a>(builder: Builder<'a>, more: &[&str]) -> Builder<'a> {
    builder.log_level("info").args(["--made-up", "1h", "--open-timeout", "2s"]).args(more)
}

/// What a call gives, which takes no longer than an open may.
#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
fn in_time<T>(call: impl FnOnce() -> io::Result<T>) -> Result<T, Errno> {
    let start = Instant::now();
    let outcome = call().map_err(|error| errno(&error).expect("an error of the system"));
    let took = start.elapsed();
    assert!(took < DEADLINE + SLACK, "took {took:?}");
    outcome
}

fn read(path: &Path) -> Result<Vec<u8>, Errno> {
    in_time(|| fs::read(path))
}

/// Kills the worker, after which none comes up: what readers see.
fn is_unserved(daemon: &Daemon, token: &[u8]) {
    let held = File::open(daemon.path("live/token")).unwrap();
    daemon.kill_worker(Signal::SIGKILL);
    // Those that come at first wait for the next worker as long as they may.
    for n in 0..20 {
        assert_eq!(read(&daemon.path("token")), Err(Errno::EIO), "{n}: {}", daemon.log());
        assert_eq!(in_time(|| fs::metadata(daemon.path("live/netrc")).map(drop)), Err(Errno::EIO));
        let mut bytes = vec![0; token.len()];
        assert_eq!(in_time(|| held.read_at(&mut bytes, 0)), Err(Errno::EIO));
        std::thread::sleep(millis(20));
    }
    assert!(daemon.log().contains("nobody serves"), "{}", daemon.log());
}

fn is_served_again(daemon: &Daemon, token: &[u8]) {
    let again = || read(&daemon.path("token")).ok();
    assert_eq!(eventually("a token again", AGAIN, again), token);
    assert_eq!(read(&daemon.path("live/token")).as_deref(), Ok(token));
    // The worker serves while the supervisor writes that it does.
    let is_told = || daemon.log().contains("a worker serves again").then_some(());
    eventually("the word of a worker that serves again", secs(10), is_told);
}

#[test]
fn a_worker_that_crashes_at_every_start_is_tried_until_one_comes_up() {
    sandboxed(secs(120), || {
        for kernel in [&[][..], &["--without-resend"]] {
            let dir = TestDir::new();
            // More than the supervisor once tried: the last pause is of 6.4 s.
            let faults = [&["--fault", "panic:start:2-9"], kernel].concat();
            let daemon = settings(Daemon::at(&dir), &faults).start();
            let token = read(&daemon.path("token")).unwrap();
            let held = File::open(daemon.path("token")).unwrap();
            is_unserved(&daemon, &token);
            is_served_again(&daemon, &token);
            let mut bytes = vec![0; token.len()];
            held.read_at(&mut bytes, 0).unwrap();
            assert_eq!(bytes, token, "what was open stays open");
            let tries = daemon.log().matches("the worker failed").count();
            assert_eq!(tries, 8, "{}", daemon.log());
        }
    });
}

#[test]
fn the_commands_say_what_is_wrong_while_nobody_serves() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let daemon = settings(Daemon::at(&dir), &["--fault", "panic:start:2-"]).start();
        let token = read(&daemon.path("token")).unwrap();
        is_unserved(&daemon, &token);
        let path = daemon.mountpoint().to_str().unwrap();
        for command in [&["get", path][..], &["status", path]] {
            let said = tokenfs_run(&dir, command);
            assert_eq!(said.status.code(), Some(3), "{command:?}: {said:?}");
            assert!(said.stderr.contains("cannot be started"), "{command:?}: {said:?}");
            assert!(said.stderr.contains("hint: "), "{command:?}: {said:?}");
        }
    });
}

#[test]
fn a_supervisor_without_memory_or_descriptors_for_a_worker_waits_for_them() {
    sandboxed(secs(150), || {
        // A MiB for all that a program maps; no descriptor beyond those that the supervisor has.
        for (resource, limit) in [(Resource::As, 1 << 20), (Resource::Nofile, 8)] {
            let dir = TestDir::new();
            let daemon = settings(Daemon::at(&dir), &[]).start();
            let token = read(&daemon.path("token")).unwrap();
            let limited = Limited::to(&daemon, resource, limit);
            is_unserved(&daemon, &token);
            drop(limited);
            is_served_again(&daemon, &token);
        }
    });
}

/// A limit on processes binds an ordinary user only.
#[test]
fn an_ordinary_users_limit_on_processes_is_waited_out_through_the_helper() {
    sandboxed(secs(90), || {
        let dir = TestDir::new();
        open_fuse_device(&dir);
        dir.give_to(ORDINARY);
        let daemon = settings(Daemon::of(&dir, User::Number(ORDINARY)), &[]).start();
        let read_as_user = |path: PathBuf| as_user(|| read(&path));
        let token = read_as_user(daemon.path("token")).unwrap();
        let limited = as_user(|| Limited::to(&daemon, Resource::Nproc, 1));
        daemon.kill_worker(Signal::SIGKILL);
        for _ in 0..20 {
            assert_eq!(read_as_user(daemon.path("token")), Err(Errno::EIO), "{}", daemon.log());
        }
        let why = "Resource temporarily unavailable";
        assert!(daemon.log().contains(why), "{}", daemon.log());
        as_user(move || drop(limited));
        let again = || read_as_user(daemon.path("token")).ok();
        assert_eq!(eventually("a token again", AGAIN, again), token);
    });
}
