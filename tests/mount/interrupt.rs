//! Readers that wait for a token and are told to stop.

use std::os::unix::process::ExitStatusExt;

use molecule_tokenfs::demo::Setup;
use molecule_tokenfs::demo::faults::{Fault, Service};
use nix::sys::signal::{Signal, kill};

use crate::Workspace;
use crate::support::namespace::sandboxed;
use crate::support::process::{Process, User, command, run};
use crate::support::{eventually, secs};

/// A workspace whose platform never answers, with time enough to wait for it.
fn hanging() -> Workspace {
    let workspace =
        Workspace::start_with(Setup::default(), |daemon| daemon.args(["--open-timeout", "60s"]));
    workspace.demo.faults().stick(Service::Platform, Some(Fault::Hang));
    workspace
}

fn reader(workspace: &Workspace, number: u32) -> Process {
    let mut cat = command("cat", User::Own);
    cat.arg(workspace.path("token"));
    Process::start(cat, &format!("cat-{number}"), &workspace.dir)
}

/// Whether it is in the kernel, where a request waits for its answer.
fn waits(process: &Process) -> bool {
    let place = std::fs::read_to_string(format!("/proc/{}/wchan", process.pid()));
    place.is_ok_and(|place| place.contains("request_wait_answer"))
}

#[test]
fn a_waiting_reader_dies_of_sigint_and_sigkill_at_once() {
    sandboxed(secs(30), || {
        let workspace = hanging();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
            let mut reader = reader(&workspace, signal as u32);
            eventually("it waits", secs(5), || waits(&reader).then_some(()));
            reader.signal(signal);
            let status = reader.wait(secs(2));
            assert_eq!(status.signal(), Some(signal as i32), "{status}");
        }
    });
}

#[test]
fn timeout_ends_a_waiting_cat_also_when_the_worker_was_killed_meanwhile() {
    sandboxed(secs(30), || {
        let workspace = hanging();
        let mut timeout = command("timeout", User::Own);
        timeout.args(["1", "cat"]).arg(workspace.path("token"));
        assert_eq!(run(timeout, &workspace.dir, secs(5)).status.code(), Some(124));

        let mut reader = reader(&workspace, 1);
        eventually("it waits", secs(5), || waits(&reader).then_some(()));
        kill(workspace.daemon.worker().unwrap(), Signal::SIGKILL).unwrap();
        std::thread::sleep(secs(1));
        assert!(waits(&reader), "a crash is not noticed");
        reader.signal(Signal::SIGKILL);
        assert_eq!(reader.wait(secs(2)).signal(), Some(Signal::SIGKILL as i32));
    });
}

#[test]
fn fifty_waiting_readers_die_together() {
    sandboxed(secs(30), || {
        let workspace = hanging();
        let mut readers: Vec<_> = (0..50).map(|n| reader(&workspace, n)).collect();
        for reader in &readers {
            eventually("it waits", secs(5), || waits(reader).then_some(()));
        }
        for reader in &readers {
            reader.signal(Signal::SIGKILL);
        }
        for reader in &mut readers {
            assert_eq!(reader.wait(secs(2)).signal(), Some(Signal::SIGKILL as i32));
        }
    });
}
