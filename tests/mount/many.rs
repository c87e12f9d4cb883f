//! Many readers at once, and many rotations.

use std::collections::HashSet;
use std::fs;
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use molecule_tokenfs::demo::Setup;
use molecule_tokenfs::demo::faults::{Fault, Service};
use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::support::namespace::sandboxed;
use crate::support::process::errno;
use crate::support::secs;
use crate::{Workspace, read};

#[test]
fn a_thousand_cold_readers_make_one_request_and_get_the_same_token() {
    sandboxed(secs(60), || {
        let workspace = Workspace::start(Setup::default());
        workspace.demo.faults().latency(molecule_tokenfs::demo::faults::Service::Platform, secs(1));
        let path = workspace.path("token");
        let start = Arc::new(Barrier::new(1000));
        let readers: Vec<_> = (0..1000)
            .map(|_| {
                let (path, start) = (path.clone(), Arc::clone(&start));
                std::thread::Builder::new()
                    .stack_size(64 * 1024)
                    .spawn(move || {
                        start.wait();
                        fs::read(path)
                    })
                    .expect("a thread")
            })
            .collect();
        let tokens: HashSet<_> =
            readers.into_iter().map(|reader| reader.join().unwrap().expect("a token")).collect();
        assert_eq!(tokens.len(), 1);
        assert_eq!(workspace.demo.ledger().counts().platform.requests, 1);
    });
}

#[test]
fn ten_thousand_opens_across_rotations_see_no_error_and_the_size_is_the_bytes() {
    sandboxed(secs(60), || {
        // A life ends at a whole second, and a second is subtracted: 1 to 2 s remain of 3.
        let workspace = Workspace::start(Setup::with_life(secs(3)));
        let (mut opens, mut tokens, mut lengths) = (0, HashSet::new(), HashSet::new());
        while opens < 10_000 || tokens.len() < 10 {
            let seen = read(&workspace.path("token")).expect("an open never fails");
            assert_eq!(seen.size, seen.bytes.len() as u64);
            assert!(!workspace.demo.ledger().left(&seen.bytes).is_zero(), "a dead token");
            lengths.insert(seen.size);
            tokens.insert(seen.bytes);
            opens += 1;
        }
        assert!(lengths.len() > 1, "the lengths change");
    });
}

/// So many opens that wait, at a deadline of [`DEADLINE`].
#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
fn waiting(workspace: &Workspace, number: usize) -> Vec<JoinHandle<(Duration, Option<Errno>)>> {
    let start = Arc::new(Barrier::new(number));
    let reader = |number: usize| {
        let path = workspace.path(if number.is_multiple_of(2) { "token" } else { "live/token" });
        let start = Arc::clone(&start);
        let read = move || {
            start.wait();
            let began = Instant::now();
            let error = fs::read(path).expect_err("no token comes");
            (began.elapsed(), errno(&error))
        };
        std::thread::Builder::new().stack_size(64 * 1024).spawn(read).expect("a thread")
    };
    (0..number).map(reader).collect()
}

const DEADLINE: Duration = secs(10);
/// What a machine that does other things may add to it, without another deadline from the beginning.
const SLACK: Duration = secs(4);

/// Each keeps its deadline, however many there are: the next worker knows since when it waits.
#[test]
fn four_thousand_opens_that_wait_while_the_worker_dies_are_answered_by_their_deadline() {
    sandboxed(secs(120), || {
        let workspace = Workspace::start_with(Setup::default(), |builder| {
            builder.log_level("info").args(["--open-timeout", "10s", "--request-timeout", "60s"])
        });
        workspace.demo.faults().stick(Service::Platform, Some(Fault::Hang));
        let readers = waiting(&workspace, 4000);
        std::thread::sleep(DEADLINE / 2);
        let worker = workspace.daemon.worker();
        workspace.daemon.kill_worker(Signal::SIGKILL);
        let answers = readers.into_iter().map(|reader| reader.join().expect("a reader"));
        let answers: Vec<_> = answers.collect();
        let longest = answers.iter().map(|(took, _)| *took).max();
        println!("the longest {longest:?}");
        assert!(answers.iter().all(|(_, errno)| *errno == Some(Errno::ETIMEDOUT)));
        assert!(longest < Some(DEADLINE + SLACK), "{longest:?}\n{}", workspace.daemon.log());
        assert_ne!(workspace.daemon.worker(), worker);
        assert!(
            !workspace.daemon.log().contains("the worker does not answer"),
            "{}",
            workspace.daemon.log()
        );
    });
}
