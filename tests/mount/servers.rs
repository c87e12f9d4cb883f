//! Servers that send without end: an open fails in time, and the worker stays small.

use std::fs;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::support::daemon::Daemon;
use crate::support::dir::TestDir;
use crate::support::limit::each;
use crate::support::namespace::sandboxed;
use crate::support::process::errno;
use crate::support::server::{Answer, Server};
use crate::support::{eventually, secs};

/// How much more memory than at rest a worker may need for any answer, in KiB.
const ROOM: u64 = 12 * 1024;
const OK: &str = "HTTP/1.1 200 OK\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

type Sends = fn(&mut Answer);

/// What a server does, and words of the error that it leads to.
const SERVERS: &[(&str, Sends, &str)] = &[
    (
        "a body in chunks of one byte",
        |to| {
            to.send(CHUNKED);
            to.send_for_ever("1\r\nx\r\n".repeat(1000));
        },
        "more than 1024 KiB",
    ),
    (
        "a body without an end",
        |to| {
            to.send(OK.to_owned() + "\r\n");
            to.send_for_ever("x".repeat(100_000));
        },
        "more than 1024 KiB",
    ),
    (
        "a byte at a time",
        |to| {
            to.send(OK.to_owned() + "\r\n");
            while to.send("x") {
                std::thread::sleep(Duration::from_millis(10));
            }
        },
        "no answer in 2 seconds",
    ),
    (
        "a length that is announced and not sent",
        |to| {
            to.send(OK.to_owned() + "Content-Length: 1048576\r\n\r\nx");
            while to.send("") {
                std::thread::sleep(Duration::from_millis(10));
            }
        },
        "no answer in 2 seconds",
    ),
    (
        "headers without an end",
        |to| {
            to.send(OK);
            to.send_for_ever("X: y\r\n".repeat(1000));
        },
        "no whole answer",
    ),
    (
        "a header without an end",
        |to| {
            to.send(OK.to_owned() + "X: ");
            to.send_for_ever("y".repeat(100_000));
        },
        "no whole answer",
    ),
    (
        "a status line without an end",
        |to| {
            to.send("HTTP/1.1 200 ");
            to.send_for_ever("y".repeat(100_000));
        },
        "no whole answer",
    ),
    (
        "informational answers without an end",
        |to| to.send_for_ever("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(100)),
        "no answer in 2 seconds",
    ),
    (
        "an extension of a chunk without an end",
        |to| {
            to.send(CHUNKED.to_owned() + "1;");
            to.send_for_ever("x".repeat(100_000));
        },
        "no whole answer",
    ),
    (
        "many extensions of chunks",
        |to| {
            to.send(CHUNKED);
            to.send_for_ever(format!("1;{}\r\nx\r\n", "x".repeat(1000)).repeat(10));
        },
        "no whole answer",
    ),
    (
        "trailers without an end",
        |to| {
            to.send(CHUNKED.to_owned() + "1\r\nx\r\n0\r\n");
            to.send_for_ever("X: y\r\n".repeat(1000));
        },
        "no whole answer",
    ),
    (
        "a trailer without an end",
        |to| {
            to.send(CHUNKED.to_owned() + "1\r\nx\r\n0\r\nX: ");
            to.send_for_ever("y".repeat(100_000));
        },
        "no whole answer",
    ),
];

/// The most memory that a process has had since [`forget_peak`], in KiB (`VmHWM`, `proc_pid_status(5)`).
fn peak(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn forget_peak(pid: Pid) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

#[test]
fn a_server_that_sends_without_end_costs_little_memory_and_no_deadline() {
    sandboxed(secs(110), || {
        each(
            SERVERS,
            |(name, ..)| (*name).to_owned(),
            |(name, answer, told)| {
                let server = Server::start(move |_: &str, to: &mut Answer| answer(to));
                // All of these chunks must come, which takes a program that is not optimized a while.
                let (request, limit) =
                    if name.ends_with("one byte") { ("50s", secs(55)) } else { ("2s", secs(5)) };
                let dir = TestDir::new();
                dir.file("configs/.auth_token", "a-bearer");
                let mut daemon = Daemon::at(&dir)
                    .env("PLATFORM_URL", server.url())
                    .env("WORKSPACE_ID", "w")
                    .args(["--request-timeout", request, "--open-timeout", "3s"])
                    .start();
                let worker = daemon.worker().expect("a worker");
                forget_peak(worker);
                let at_rest = peak(worker);
                let error = fs::read(daemon.path("token")).unwrap_err();
                assert!(matches!(errno(&error), Some(Errno::ENOKEY | Errno::ETIMEDOUT)), "{error}");
                eventually("the failure is told", limit, || {
                    let status = fs::read_to_string(daemon.path("status.json")).ok()?;
                    status.contains(told).then_some(())
                });
                let more = peak(worker) - at_rest;
                println!("{name}: {more} KiB more than the {at_rest} KiB at rest");
                assert!(more < ROOM, "{more} KiB more than at rest");
                assert_eq!(daemon.worker(), Some(worker), "it was killed");
                assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
            },
        );
    });
}
