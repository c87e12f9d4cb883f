//! What a reader sees of the death of a worker, call by call: with path, live and bound files, and with
//! listings. The gate plays a few deaths on the kernel that it runs on; `scripts/evidence kernels` plays the
//! long form on the kernels of several Debian releases and keeps the figures.
//! needs: root, fuse

#![expect(clippy::expect_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a test shows its figures")]

#[path = "../support/mod.rs"]
mod support;

mod readers;
mod rotations;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use readers::{Readers, Seen};
use rotations::Deletions;
use support::daemon::Daemon;
use support::dir::TestDir;
use support::namespace::sandboxed;
use support::{eventually, kernel_resends, millis, secs};

/// Tokens that rotate about three times a second, and outlive a machine that is slow for a while.
const ROTATING: [&str; 6] =
    ["--made-up", "20s", "--refresh-interval", "300ms", "--refresh-jitter", "0s"];

/// The file for the figures, where `scripts/evidence` asks for the long form.
#[expect(clippy::disallowed_methods, reason = "how scripts/evidence asks for more")]
fn evidence() -> Option<PathBuf> {
    Some(std::env::var_os("MOLECULE_KERNELS_JSON")?.into())
}

/// How often a worker is killed, and what lies between two deaths.
#[derive(Clone, Copy)]
struct Scene {
    name: &'static str,
    deaths: u64,
    /// In the gate.
    few_deaths: u64,
    pause: Duration,
    signal: Signal,
}

const SCENES: [Scene; 4] = [
    Scene {
        name: "40 deaths, each after the next worker has served",
        deaths: 40,
        few_deaths: 5,
        pause: millis(120),
        signal: Signal::SIGKILL,
    },
    Scene {
        name: "a burst of 60 deaths",
        deaths: 60,
        few_deaths: 8,
        pause: millis(5),
        signal: Signal::SIGKILL,
    },
    Scene {
        name: "200 deaths while tokens rotate",
        deaths: 200,
        few_deaths: 10,
        pause: millis(250),
        signal: Signal::SIGKILL,
    },
    Scene {
        name: "5 workers that stop",
        deaths: 5,
        few_deaths: 1,
        pause: secs(1),
        signal: Signal::SIGSTOP,
    },
];

impl Scene {
    fn play(&self, args: &[&str]) -> Outcome {
        let dir = TestDir::new();
        let daemon = Daemon::at(&dir).log_level("info").args(ROTATING).args(args).start();
        let readers = Readers::start(&daemon, &dir);
        let deaths = if evidence().is_some() { self.deaths } else { self.few_deaths };
        for _ in 0..deaths {
            self.end_a_worker(&daemon, &readers);
        }
        // The last one's end is seen, too.
        let opens = readers.done();
        eventually("served again", secs(60), || (readers.done() > opens + 100).then_some(()));
        thread::sleep(secs(1));
        Outcome { deaths, seen: readers.end() }
    }

    /// Ends a worker that has served: one that dies before is a start that failed.
    fn end_a_worker(&self, daemon: &Daemon, readers: &Readers) {
        let opens = readers.done();
        eventually("served again", secs(60), || (readers.done() > opens + 20).then_some(()));
        thread::sleep(self.pause);
        daemon.kill_worker(self.signal);
        if self.signal == Signal::SIGSTOP {
            // What is in hand of other readers may still end.
            thread::sleep(millis(200));
        }
    }
}

/// What a scene showed.
struct Outcome {
    deaths: u64,
    seen: BTreeMap<&'static str, Seen>,
}

impl Outcome {
    fn all(&self) -> Seen {
        let mut all = Seen::default();
        self.seen.values().for_each(|seen| all.add(seen));
        all
    }

    /// Opens that failed. A view that is bound by itself has no path to walk anew.
    fn failed_opens(&self) -> BTreeMap<&str, u64> {
        let walking = self.seen.iter().filter(|(reader, _)| **reader != "bound view");
        walking.flat_map(|(_, seen)| seen.errors_of("open")).collect()
    }

    fn json(&self) -> Value {
        json!({ "deaths": self.deaths, "all": self.all(), "readers": self.seen })
    }
}

fn play(series: &str, args: &'static [&'static str], is_exact: bool) {
    let mut figures = BTreeMap::new();
    let mut broken = Vec::new();
    for scene in SCENES {
        let outcome = scene.play(args);
        let all = outcome.all();
        println!("{series}, {}: {}", scene.name, outcome.json());
        let holds = outcome.failed_opens().is_empty()
            && all.wrong_bytes == 0
            && (!is_exact || (all.errors.is_empty() && all.wrong_sizes == 0));
        if !holds {
            broken.push(format!("{}: {:#}", scene.name, outcome.json()));
        }
        figures.insert(scene.name, outcome.json());
        keep(series, &json!({ "scenes": figures }));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

fn keep(name: &str, figures: &Value) {
    if let Some(file) = evidence() {
        let file = format!("{}-{}", file.display(), name.replace(' ', "-"));
        std::fs::write(file, format!("{figures:#}\n")).expect("the figures are kept");
    }
}

#[test]
fn deaths_fail_no_open() {
    sandboxed(secs(1200), || play("as the kernel is", &[], kernel_resends()));
}

#[test]
fn deaths_fail_no_open_where_the_kernel_delivers_nothing_again() {
    sandboxed(secs(1200), || play("without resend", &["--without-resend"], false));
}

#[test]
fn a_watcher_is_told_of_each_rotation() {
    sandboxed(secs(120), || {
        let dir = TestDir::new();
        let daemon = Daemon::at(&dir).log_level("info").args(ROTATING).start();
        let rotations = if evidence().is_some() { 24 } else { 5 };
        let told = Deletions::count(&daemon, rotations);
        println!("deletions told: {told:?}");
        keep("watchers", &json!({ "rotations": told.rotations, "told": told.told }));
        if kernel_resends() {
            assert_eq!(told.told, told.rotations);
        }
    });
}
