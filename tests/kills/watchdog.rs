//! A worker that does not answer, and one that only seems not to.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use molecule_tokenfs::demo::faults::{Fault, Service};
use molecule_tokenfs::demo::{Demo, Setup};
use nix::sys::signal::{Signal, kill};
use serde_json::json;

use crate::scenes::ROTATING;
use crate::supervisor::is_left;
use crate::support::dir::TestDir;
use crate::support::opens::Opens;
use crate::support::process::{Process, User, command};
use crate::support::{eventually, millis, secs};
use crate::{Report, Series, at_most, kills};

/// Tokens that rotate as often as [`ROTATING`], and outlive a stop.
const OUTLIVING: [&str; 6] =
    ["--made-up", "20s", "--refresh-interval", "100ms", "--refresh-jitter", "0s"];

pub fn play(series: &Series, report: &mut Report) {
    stopped_for_ever(series, report, "the worker is stopped for ever", &OUTLIVING);
    let name = "the worker is stopped for longer than tokens live";
    stopped_for_ever(series, report, name, &ROTATING);
    slow_fetches_under_load(series, report);
}

/// The worker stops, and is replaced.
#[expect(clippy::disallowed_methods, reason = "a test runs in real time")]
fn stopped_for_ever(series: &Series, report: &mut Report, name: &'static str, tokens: &[&str]) {
    let dir = TestDir::new();
    let daemon = series.daemon(&dir, tokens).start();
    let readers = Opens::of(&daemon, 4, series.reader());
    let (mut longest, stops) = (Duration::ZERO, series.kills.div_ceil(20));
    for _ in 0..stops {
        let worker = eventually("a worker", secs(5), || daemon.worker());
        kill(worker, Signal::SIGSTOP).expect("the worker");
        let start = Instant::now();
        eventually("it is killed", secs(20), || (!is_left(worker)).then_some(()));
        let opens = readers.done();
        eventually("served again", secs(5), || (readers.done() > opens + 10).then_some(()));
        longest = longest.max(start.elapsed());
        thread::sleep(millis(500));
    }
    let seen = readers.end();
    // A reader that was told to look again, and whose second find died in the stop, is not told so twice:
    // it gets the newest token through an inode with the size of its own. Two of the four read by path.
    let is_as_promised =
        if tokens == OUTLIVING { seen.is_clean(false) } else { seen.has_only_tokens() };
    let holds = is_as_promised && seen.wrong_sizes <= 2 * stops && longest < at_most(secs(10));
    let figures = json!({
        "stops": stops, "longest_until_served_s": longest.as_secs_f64(), "seen": seen,
    });
    report.add(name, figures, holds);
}

/// Processes that never pause, for each core.
const BUSY: usize = 3;
/// How long the platform takes. It counts against a token, so that what is left of it (a second or two)
/// does not last until the next one comes.
const SLOW: Duration = secs(5);
const LIFE: Duration = secs(8);
/// An open that takes longer than this waits for the platform, and not for a core.
const WAIT: Duration = secs(2);

/// Takes all the time of every core, until dropped.
fn load(dir: &TestDir) -> Vec<Process> {
    let cores = thread::available_parallelism().expect("the number of cores").get();
    let busy = |n| {
        let mut shell = command("sh", User::Own);
        shell.args(["-c", "while :; do :; done"]);
        Process::start(shell, &format!("busy-{n}"), dir)
    };
    (0..cores * BUSY).map(busy).collect()
}

/// What one reader saw.
#[derive(Default)]
struct Reads {
    opens: usize,
    waits: usize,
    longest: Duration,
    errors: Vec<String>,
    tokens: BTreeSet<Vec<u8>>,
}

/// Reads until told to stop.
#[expect(clippy::disallowed_methods, reason = "a test runs in real time")]
fn read_on(path: &Path, stop: &AtomicBool) -> Reads {
    let mut seen = Reads::default();
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let read = fs::read(path);
        let took = start.elapsed();
        seen.opens += 1;
        seen.waits += usize::from(took > WAIT);
        seen.longest = seen.longest.max(took);
        match read {
            Ok(token) => drop(seen.tokens.insert(token)),
            Err(error) => seen.errors.push(error.to_string()),
        }
        // Between two fetches it leaves the cores to the load.
        thread::sleep(millis(20));
    }
    seen
}

/// Every core is busy, and opens wait for one slow fetch after the other: a worker that nobody gives time
/// or a token is none that hangs.
#[expect(clippy::disallowed_methods, reason = "a test runs in real time")]
fn slow_fetches_under_load(series: &Series, report: &mut Report) {
    let dir = TestDir::new();
    let demo = Demo::start(Setup::with_life(LIFE)).expect("the demo platform starts");
    demo.register(&dir.join("configs")).expect("the workspace registers");
    demo.faults().stick(Service::Platform, Some(Fault::Slow(SLOW)));
    let daemon = series
        .daemon(&dir, &["--open-timeout", "30s", "--request-timeout", "20s"])
        .env("PLATFORM_URL", demo.url())
        .env("WORKSPACE_ID", &demo.address().workspace_id)
        .start();
    let first = eventually("a worker", secs(5), || daemon.worker());
    let load = load(&dir);
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..8)
        .map(|n| {
            let path = daemon.path(if n % 2 == 0 { "token" } else { "live/token" });
            let stop = Arc::clone(&stop);
            series.read(move || read_on(&path, &stop))
        })
        .collect();
    // Each waits for so many fetches.
    let wanted = usize::try_from(kills(6, 1)).expect("a number");
    let fetches = || daemon.log().matches("a new token").count();
    let end = Instant::now() + secs(90);
    while fetches() < wanted && Instant::now() < end {
        thread::sleep(millis(50));
    }
    stop.store(true, Ordering::Relaxed);
    let readers: Vec<_> =
        readers.into_iter().map(|reader| reader.join().expect("a reader")).collect();
    let (last, busy, fetches) = (daemon.worker(), load.len(), fetches());
    drop(load);
    let log = daemon.log();
    let alarms =
        log.matches("the worker does not answer").count() + log.matches("the worker died").count();
    let errors: Vec<_> = readers.iter().flat_map(|seen| &seen.errors).collect();
    let tokens: BTreeSet<_> = readers.iter().flat_map(|seen| &seen.tokens).collect();
    let fewest = readers.iter().map(|seen| seen.waits).min().unwrap_or_default();
    let longest = readers.iter().map(|seen| seen.longest).max().unwrap_or_default();
    let figures = json!({
        "busy_processes": busy, "readers": readers.len(), "fetches": fetches,
        "opens": readers.iter().map(|seen| seen.opens).sum::<usize>(),
        "waits_of_each_reader": fewest, "longest_wait_ms": longest.as_secs_f64() * 1000.0,
        "failed_opens": errors.len(), "errors": errors, "tokens": tokens.len(),
        "false_alarms": alarms, "same_worker": last == Some(first),
    });
    let holds = alarms == 0
        && last == Some(first)
        && errors.is_empty()
        && fetches >= wanted
        && fewest >= wanted.div_ceil(2)
        && tokens.len() <= fetches;
    if !holds {
        println!("{log}");
    }
    report.add("slow fetches while every core is busy", figures, holds);
}
