//! The real engine in a world of chance, checked against a second opinion.
//!
//! Every seed is a history: the engine and its policy under paused time, a platform that fails in
//! every way, clocks that are set and machines that sleep, readers that come, wait, vanish and
//! reject. A model of the promise judges every open and every request. A seed that fails prints
//! itself, what happened last, and the command that replays it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
#![allow(clippy::unchecked_time_subtraction, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a replay tells its history")]
#![allow(clippy::cast_precision_loss, reason = "seconds, for a person to read")]
#![allow(clippy::struct_excessive_bools, reason = "independent properties of a history")]

mod clocks;
mod figures;
mod history;
mod model;
mod pace;
mod world;

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use figures::Figures;

/// How many histories the gate lives through.
const GATE: u64 = 2000;

/// A history takes milliseconds. One that takes this long spins.
const SPIN: Duration = Duration::from_secs(20);

/// No seed.
const NONE: u64 = u64::MAX;

/// How many lines of a failed history are printed.
const LAST_LINES: usize = 40;

/// How a test is asked for more: `SIMULATION_SEED` replays one history and prints all of it,
/// `SIMULATION_SEEDS` says how many are lived through, `SIMULATION_JSON` where the figures go.
fn setting(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "only the command line of a test can ask it")]
    std::env::var(name).ok()
}

fn number(name: &str) -> Option<u64> {
    let text = setting(name)?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// Time stands still for an engine that spins: nothing but real time ends its history.
fn end_spins(running: Arc<Vec<AtomicU64>>) {
    std::thread::spawn(move || {
        let mut seen = Vec::new();
        loop {
            let seeds: Vec<_> = running.iter().map(|seed| seed.load(Ordering::Relaxed)).collect();
            if let Some(seed) = seeds.iter().find(|seed| **seed != NONE && seen.contains(*seed)) {
                // A captured line would be lost.
                let _ = writeln!(std::io::stderr(), "seed {seed}: the engine spins");
                std::process::abort();
            }
            seen = seeds;
            std::thread::sleep(SPIN);
        }
    });
}

/// Lives through the histories of so many seeds on all processors, until one fails.
fn live_through(count: u64) -> (Figures, Vec<u64>) {
    let next = AtomicU64::new(0);
    let result = Mutex::new((Figures::default(), Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let running: Arc<Vec<_>> = Arc::new((0..threads).map(|_| AtomicU64::new(NONE)).collect());
    end_spins(Arc::clone(&running));
    std::thread::scope(|scope| {
        for current in running.iter() {
            scope.spawn(|| {
                let mut mine = Figures::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count || !result.lock().unwrap().1.is_empty() {
                        break;
                    }
                    current.store(seed, Ordering::Relaxed);
                    let outcome = history::run(seed, false);
                    current.store(NONE, Ordering::Relaxed);
                    mine.add(outcome.figures);
                    if outcome.violation.is_some() {
                        result.lock().unwrap().1.push(seed);
                    }
                }
                result.lock().unwrap().0.add(mine);
            });
        }
    });
    let (figures, mut violations) = result.into_inner().unwrap();
    violations.sort_unstable();
    (figures, violations)
}

fn replay(seed: u64) -> Option<String> {
    let outcome = history::run(seed, true);
    let from = outcome.trace.len().saturating_sub(LAST_LINES);
    let all = outcome.violation.is_none() || number("SIMULATION_SEED").is_some();
    for line in outcome.trace.iter().skip(if all { 0 } else { from }) {
        println!("{line}");
    }
    outcome.violation
}

#[test]
fn histories_of_chance_keep_the_promise() {
    if let Some(seed) = number("SIMULATION_SEED") {
        assert_eq!(replay(seed), None);
        return;
    }
    let (figures, violations) = live_through(number("SIMULATION_SEEDS").unwrap_or(GATE));
    if let Some(path) = setting("SIMULATION_JSON") {
        std::fs::write(path, format!("{:#}\n", figures.json(&violations))).unwrap();
    }
    if let Some(&seed) = violations.first() {
        let violation = replay(seed).unwrap_or_else(|| "it does not replay".to_owned());
        panic!(
            "seed {seed}: {violation}\nreplay: SIMULATION_SEED={seed} cargo test --test simulation \
             histories -- --nocapture"
        );
    }
}

#[test]
fn a_seed_is_the_same_history_every_time() {
    for seed in 0..20 {
        let (one, other) = (history::run(seed, true), history::run(seed, true));
        assert_eq!(one.trace, other.trace, "seed {seed}");
    }
}
