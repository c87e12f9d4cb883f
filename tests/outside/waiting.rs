//! Readers that wait for a token that does not come: each can be killed at once, a thousand of them cost
//! next to nothing, and thousands keep their deadline though the worker dies.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use molecule_tokenfs::demo::faults::{Fault, Service};
use molecule_tokenfs::demo::{Demo, Setup};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::report;
use crate::support::daemon::Daemon;
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::{Process, User, command, errno};
use crate::support::processes::cpu_time;
use crate::support::{eventually, millis, secs};

/// A claim: with so many waiting readers one that is killed is gone within this.
const CLAIMS: [(usize, Duration); 3] = [(1, millis(100)), (50, millis(100)), (1000, millis(600))];

/// How many are killed one by one, with the worker alive, and again with it killed just before.
const VICTIMS: usize = 20;

/// So many opens wait with a deadline, and the worker is killed meanwhile; how much later than that the
/// last of them may be answered.
const MANY: usize = 4000;
const DEADLINE: Duration = secs(10);
const AFTER_THE_DEADLINE: Duration = millis(1500);

/// How long the processor time is measured.
const MEASURED: Duration = secs(10);

/// What a thousand waiting readers may cost of one core.
const MOST_OF_A_CORE: f64 = 0.05;

fn reader(daemon: &Daemon, number: usize, dir: &TestDir) -> Process {
    let mut cat = command("cat", User::Own);
    cat.arg(daemon.path(if number.is_multiple_of(2) { "token" } else { "live/token" }));
    Process::start(cat, &format!("cat-{number}"), dir)
}

/// Whether it is in the kernel, where a request waits for its answer.
fn waits(process: &Process) -> bool {
    let place = std::fs::read_to_string(format!("/proc/{}/wchan", process.pid()));
    place.is_ok_and(|place| place.contains("request_wait_answer"))
}

/// Kills a reader and tells how long it took until it was gone.
#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
fn time_to_die(reader: &mut Process) -> Duration {
    let start = Instant::now();
    reader.signal(Signal::SIGKILL);
    while reader.ended().is_none() {
        assert!(start.elapsed() < secs(20), "a reader that was killed hangs");
        sleep(Duration::from_micros(200));
    }
    start.elapsed()
}

/// Processes of ours that sleep without hearing signals.
fn uninterruptible(parts: &[i32]) -> usize {
    let state = |process: &&i32| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
    };
    parts.iter().filter(state).count()
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

#[test]
#[ignore = "scripts/evidence waiting runs it: it measures"]
fn a_waiting_reader_that_is_killed_is_gone_soon_however_many_wait() {
    sandboxed(secs(320), || {
        let figures: Vec<_> = CLAIMS.iter().map(|(number, _)| with_waiting(*number)).collect();
        let deadline = many_with_a_deadline();
        report(&json!({ "waiting": figures, "deadline": deadline }));
        let late = deadline["last_after_the_deadline_ms"].as_f64().expect("a time");
        assert!(late <= milliseconds(AFTER_THE_DEADLINE), "{deadline}");
        assert_eq!(deadline["errors"], json!({ "ETIMEDOUT": MANY }), "{deadline}");
        assert_eq!(deadline["workers_killed_by_the_watchdog"], 0, "{deadline}");
        for (figures, (number, limit)) in figures.iter().zip(CLAIMS) {
            for key in ["worst_ms", "worst_after_a_worker_was_killed_ms", "all_killed_together_ms"]
            {
                let worst = figures[key].as_f64().expect("a time");
                assert!(worst <= milliseconds(limit), "{number} waiting: {key} {worst}");
            }
            let share = figures["share_of_a_core"].as_f64().expect("a share");
            assert!(share <= MOST_OF_A_CORE, "{number} waiting: {share} of a core");
            assert_eq!(figures["uninterruptible_afterwards"], 0);
        }
    });
}

/// Opens that wait for a token that does not come, until their deadline; half-way the worker is killed.
#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
fn many_with_a_deadline() -> serde_json::Value {
    let dir = TestDir::new();
    let demo = Demo::start(Setup::default()).expect("the demo platform starts");
    demo.faults().stick(Service::Platform, Some(Fault::Hang));
    demo.register(&dir.join("configs")).expect("the workspace registers");
    let deadline = format!("{}s", DEADLINE.as_secs());
    let daemon = Daemon::at(&dir)
        .log_level("warn")
        .env("PLATFORM_URL", demo.url())
        .env("WORKSPACE_ID", &demo.address().workspace_id)
        .args(["--open-timeout", &deadline, "--request-timeout", "5m"])
        .start();
    let together = Arc::new(Barrier::new(MANY));
    let reader = |number: usize| {
        let path = daemon.path(if number.is_multiple_of(2) { "token" } else { "live/token" });
        let together = Arc::clone(&together);
        let read = move || {
            together.wait();
            let start = Instant::now();
            let error = std::fs::read(path).expect_err("no token comes");
            (start.elapsed(), errno(&error).map_or_else(String::new, |errno| format!("{errno:?}")))
        };
        thread::Builder::new().stack_size(64 * 1024).spawn(read).expect("a thread")
    };
    let readers: Vec<_> = (0..MANY).map(reader).collect();
    sleep(DEADLINE / 2);
    kill(daemon.worker().expect("a worker"), Signal::SIGKILL).expect("the worker is killed");
    let (mut errors, mut last) = (BTreeMap::<String, usize>::new(), Duration::ZERO);
    for reader in readers {
        let (took, error) = reader.join().expect("a reader");
        *errors.entry(error).or_default() += 1;
        last = last.max(took);
    }
    json!({
        "waiting": MANY,
        "deadline_ms": milliseconds(DEADLINE),
        "last_after_the_deadline_ms": milliseconds(last.saturating_sub(DEADLINE)),
        "errors": errors,
        "workers_killed_by_the_watchdog": daemon.log().matches("the worker does not answer").count(),
    })
}

#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
fn with_waiting(number: usize) -> serde_json::Value {
    let dir = TestDir::new();
    let demo = Demo::start(Setup::default()).expect("the demo platform starts");
    demo.faults().stick(Service::Platform, Some(Fault::Hang));
    demo.register(&dir.join("configs")).expect("the workspace registers");
    let daemon = Daemon::at(&dir)
        .log_level("warn")
        .env("PLATFORM_URL", demo.url())
        .env("WORKSPACE_ID", &demo.address().workspace_id)
        .args(["--open-timeout", "5m", "--request-timeout", "5m"])
        .start();
    let mut started = 0;
    let mut fill = |readers: &mut Vec<Process>| {
        while readers.len() < number {
            readers.push(reader(&daemon, started, &dir));
            started += 1;
        }
        for reader in readers.iter() {
            eventually("a reader waits", secs(60), || waits(reader).then_some(()));
        }
    };
    let mut readers = Vec::new();
    fill(&mut readers);

    let processes = || [daemon.pid(), daemon.worker().expect("a worker")].map(Pid::as_raw);
    let (before, start) = (cpu_time(&processes()), Instant::now());
    sleep(MEASURED);
    let used = cpu_time(&processes()).saturating_sub(before);
    let share = used.as_secs_f64() / start.elapsed().as_secs_f64();

    let mut alone = Vec::new();
    let mut without_worker = Vec::new();
    for round in 0..VICTIMS {
        fill(&mut readers);
        // The moment of death moves through the intervals in which anybody looks.
        sleep(millis((round * 37 % 200) as u64));
        alone.push(time_to_die(&mut readers.swap_remove(round % number)));
        fill(&mut readers);
        kill(daemon.worker().expect("a worker"), Signal::SIGKILL).expect("the worker is killed");
        sleep(millis((round * 7 % 60) as u64));
        without_worker.push(time_to_die(&mut readers.swap_remove(round % number)));
        eventually("another worker", secs(10), || daemon.worker());
    }

    fill(&mut readers);
    let pids: Vec<_> = readers.iter().map(|reader| reader.pid().as_raw()).collect();
    let start = Instant::now();
    for reader in &readers {
        reader.signal(Signal::SIGKILL);
    }
    for reader in &mut readers {
        eventually("it is gone", secs(20), || reader.ended());
    }
    let all = start.elapsed();
    let parts = [&pids[..], &processes()].concat();
    let worst = |times: &[Duration]| milliseconds(times.iter().max().copied().unwrap_or_default());
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        milliseconds(times[times.len() / 2])
    };
    json!({
        "waiting": number,
        "killed_one_by_one": alone.len(),
        "worst_ms": worst(&alone),
        "median_ms": median(&mut alone),
        "worst_after_a_worker_was_killed_ms": worst(&without_worker),
        "median_after_a_worker_was_killed_ms": median(&mut without_worker),
        "all_killed_together_ms": milliseconds(all),
        "share_of_a_core": (share * 10_000.0).round() / 10_000.0,
        "uninterruptible_afterwards": uninterruptible(&parts),
    })
}
