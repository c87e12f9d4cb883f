//! A log that nobody keeps any more.

use std::fs;
use std::io;

use nix::pty::openpty;
use nix::sys::signal::Signal;

use crate::support::daemon::{Daemon, tokenfs};
use crate::support::dir::TestDir;
use crate::support::limit::each;
use crate::support::namespace::sandboxed;
use crate::support::process::{Process, User, command};
use crate::support::{eventually, secs};
use crate::{Backend, EACH_REQUEST, make_it_log, read_token, small_disk, talkative};

/// It serves and ends as if nothing was.
fn is_well(mut daemon: Daemon, dir: &TestDir, backend: Backend) {
    make_it_log(&daemon, backend);
    read_token(&daemon, dir);
    assert_eq!(daemon.process().ended(), None);
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn the_reader_of_the_log_is_gone() {
    sandboxed(secs(60), || {
        each(&Backend::BOTH, Backend::name, |backend| {
            let dir = TestDir::new();
            let (reader, writer) = io::pipe().unwrap();
            let daemon = talkative(&dir, backend).start_to(writer);
            drop(reader);
            is_well(daemon, &dir, backend);
        });
    });
}

#[test]
fn the_terminal_is_closed() {
    sandboxed(secs(60), || {
        each(&Backend::BOTH, Backend::name, |backend| {
            let dir = TestDir::new();
            let terminal = openpty(None, None).unwrap();
            let daemon = talkative(&dir, backend).start_to(terminal.slave);
            drop(terminal.master);
            is_well(daemon, &dir, backend);
        });
    });
}

#[test]
fn the_disk_is_full_and_has_room_again() {
    sandboxed(secs(60), || {
        each(&Backend::BOTH, Backend::name, |backend| {
            let dir = TestDir::new();
            small_disk(&dir.join("disk"), "size=16k");
            let log = dir.join("disk/log");
            let file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
            let ballast = dir.join("disk/ballast");
            let daemon = talkative(&dir, backend).start_to(file);
            fs::write(&ballast, vec![0; 16384]).unwrap_err();
            make_it_log(&daemon, backend);
            eventually("the last page is full, too", secs(10), || {
                daemon.process_signal(Signal::SIGUSR2);
                fs::metadata(&log).unwrap().len().is_multiple_of(4096).then_some(())
            });
            read_token(&daemon, &dir);
            fs::remove_file(&ballast).unwrap();
            fs::File::options().write(true).open(&log).unwrap().set_len(0).unwrap();
            eventually("the loss is told", secs(10), || {
                daemon.process_signal(Signal::SIGUSR2);
                let text = fs::read_to_string(&log).unwrap();
                let told =
                    |line: &str| line.contains("log lines are lost: No space left on device");
                text.lines().any(told).then_some(())
            });
            is_well(daemon, &dir, backend);
        });
    });
}

#[test]
fn a_log_that_reaches_the_limit_on_files_is_no_reason_to_end() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let (log, mount) = (dir.join("log"), dir.join("token"));
        let program = tokenfs(&dir, User::Own);
        // In blocks of 512 bytes. Files need no shared memory, for which the limit is, too.
        let mut shell = command("sh", User::Own);
        shell.args(["-c", "ulimit -f 64; exec \"$@\" 2>>\"$LOG\"", "sh"]);
        shell.arg(program.get_program()).args(program.get_args());
        shell.args(["mount", "--log-level", EACH_REQUEST]).args(Backend::Files.args()).arg(&mount);
        shell.env("LOG", &log).env("HOME", dir.path());
        let mut process = Process::start(shell, "limited", &dir);
        eventually("a token", secs(10), || fs::read(mount.join("token")).ok());
        let full = || fs::metadata(&log).unwrap().len() == 64 * 512;
        eventually("the log is full", secs(20), || {
            process.signal(Signal::SIGUSR2);
            full().then_some(())
        });
        for _ in 0..20 {
            process.signal(Signal::SIGUSR2);
        }
        assert!(fs::read(mount.join("token")).unwrap().starts_with(b"ghs_"));
        process.signal(Signal::SIGTERM);
        assert_eq!(process.wait(secs(5)).code(), Some(0));
    });
}

#[test]
fn there_is_no_standard_error_at_all() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let mount = dir.join("token");
        let program = tokenfs(&dir, User::Own);
        let mut shell = command("sh", User::Own);
        shell.args(["-c", "exec \"$@\" <&- >&- 2>&-", "sh"]);
        shell.arg(program.get_program()).args(program.get_args());
        shell.args(["mount", "--log-level", EACH_REQUEST]).args(Backend::Fuse.args()).arg(&mount);
        shell.env("HOME", dir.path());
        let mut process = Process::start(shell, "closed", &dir);
        eventually("a token", secs(10), || fs::read(mount.join("token")).ok());
        process.signal(Signal::SIGTERM);
        assert_eq!(process.wait(secs(5)).code(), Some(0));
    });
}
