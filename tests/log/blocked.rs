//! A log that nobody reads.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use nix::pty::openpty;
use nix::sys::signal::Signal;
use nix::sys::termios::{FlowArg, tcflow};

use crate::support::daemon::Daemon;
use crate::support::dir::TestDir;
use crate::support::limit::each;
use crate::support::namespace::sandboxed;
use crate::support::process::{ORDINARY, Process, User, command};
use crate::support::{millis, secs};
use crate::{Backend, EACH_REQUEST, fill, make_it_log, read_token, small_disk, talkative};

/// Opens are answered, readers can be killed, and it ends when it is told to.
fn is_well(mut daemon: Daemon, dir: &TestDir, backend: Backend) {
    make_it_log(&daemon, backend);
    for _ in 0..5 {
        read_token(&daemon, dir);
    }
    let mut cat = command("sh", User::Own);
    cat.args(["-c", "while cat \"$1\" >/dev/null; do :; done", "sh"]).arg(daemon.path("token"));
    let mut reader = Process::start(cat, "reader", dir);
    thread::sleep(millis(300));
    reader.signal(Signal::SIGKILL);
    reader.wait(secs(2));
    daemon.process().signal(Signal::SIGTERM);
    assert_eq!(daemon.process().wait(secs(2)).code(), Some(0));
}

#[test]
fn nobody_reads_the_pipe() {
    sandboxed(secs(60), || {
        each(&Backend::BOTH, Backend::name, |backend| {
            let dir = TestDir::new();
            let (_reader, writer) = io::pipe().unwrap();
            let ours = writer.as_fd().try_clone_to_owned().unwrap();
            let daemon = talkative(&dir, backend).start_to(writer);
            fill(&ours);
            is_well(daemon, &dir, backend);
        });
    });
}

#[test]
fn a_start_does_not_wait_for_its_log_and_a_refusal_is_no_hang() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let (_reader, writer) = io::pipe().unwrap();
        fill(&writer.as_fd().try_clone_to_owned().unwrap());
        let first = talkative(&dir, Backend::Fuse);
        let daemon = first.start_to(writer.try_clone().unwrap());
        let mut second = talkative(&dir, Backend::Fuse).spawn_to(writer);
        assert_eq!(second.process().wait(secs(2)).code(), Some(1), "it is mounted already");
        is_well(daemon, &dir, Backend::Fuse);
    });
}

#[test]
fn the_output_of_the_terminal_is_stopped() {
    sandboxed(secs(60), || {
        each(&Backend::BOTH, Backend::name, |backend| {
            let dir = TestDir::new();
            let terminal = openpty(None, None).unwrap();
            let ours = terminal.slave.try_clone().unwrap();
            let daemon = talkative(&dir, backend).start_to(terminal.slave);
            tcflow(&ours, FlowArg::TCOOFF).unwrap();
            is_well(daemon, &dir, backend);
        });
    });
}

/// Neither can be opened anew: not the socket, and not by another user the pipe.
#[test]
fn nobody_reads_what_cannot_be_opened_anew() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let (reader, writer) = UnixStream::pair().unwrap();
        let ours = OwnedFd::from(writer.try_clone().unwrap());
        let daemon = talkative(&dir, Backend::Fuse).start_to(OwnedFd::from(writer));
        fill(&ours);
        is_well(daemon, &dir, Backend::Fuse);
        drop(reader);

        let dir = TestDir::new();
        dir.give_to(ORDINARY);
        small_disk(Path::new("/dev/shm"), "size=1m,mode=1777");
        let (_reader, writer) = io::pipe().unwrap();
        let ours = writer.as_fd().try_clone_to_owned().unwrap();
        let daemon = Daemon::of(&dir, User::Number(ORDINARY)).log_level(EACH_REQUEST);
        let daemon = daemon.args(Backend::Files.args()).start_to(writer);
        fill(&ours);
        is_well(daemon, &dir, Backend::Files);
    });
}

#[test]
fn somebody_else_changes_how_the_shared_description_blocks() {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    sandboxed(secs(60), || {
        let flags = [OFlag::empty(), OFlag::O_NONBLOCK];
        each(
            &flags,
            |flags| format!("{flags:?}"),
            |flags| {
                let dir = TestDir::new();
                let (_reader, writer) = io::pipe().unwrap();
                let ours = writer.as_fd().try_clone_to_owned().unwrap();
                let daemon = talkative(&dir, Backend::Fuse).start_to(writer);
                fcntl(&ours, FcntlArg::F_SETFL(flags)).unwrap();
                fill(&ours);
                is_well(daemon, &dir, Backend::Fuse);
            },
        );
    });
}

#[test]
fn when_it_is_read_again_it_tells_how_much_is_lost() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let (mut reader, writer) = io::pipe().unwrap();
        let ours = writer.as_fd().try_clone_to_owned().unwrap();
        let daemon = talkative(&dir, Backend::Fuse).start_to(writer);
        fill(&ours);
        drop(ours);
        // The worker's queue is full then: it logs at least a line for each.
        for _ in 0..6000 {
            fs::read(daemon.path("status.json")).unwrap();
        }
        let text = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        thread::sleep(millis(300));
        drop(daemon);
        let text = text.join().unwrap().unwrap();
        let told = text.lines().find(|line| line.contains("log lines are lost: nobody read"));
        let told = told.unwrap_or_else(|| panic!("{} bytes of log", text.len()));
        assert!(told.contains(" WARN "), "{told}");
        assert!(text.lines().last().unwrap().contains("ended: it was told to"), "{told}");
    });
}
