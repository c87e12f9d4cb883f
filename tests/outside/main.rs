//! Other people's programs on the mount: watchers, containers, and whatever reads or copies files.
//! needs: root, fuse, busybox, setpriv
//!
//! The gate runs each for some seconds; `scripts/evidence watchers`, `outside`, `rotations`, `waiting`
//! and `bound` run them for long and keep the figures.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a test shows its figures")]

#[path = "../support/mod.rs"]
mod support;

mod bound;

use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::daemon::Daemon;
use support::{eventually, secs};

/// The file for the figures, where `scripts/evidence` asks for the long form.
#[expect(clippy::disallowed_methods, reason = "how scripts/evidence asks for more")]
fn evidence() -> Option<PathBuf> {
    std::env::var_os("MOLECULE_OUTSIDE_JSON").map(PathBuf::from)
}

/// Shows the figures, and keeps them where they are asked for.
fn report(figures: &serde_json::Value) {
    println!("{figures:#}");
    if let Some(file) = evidence() {
        std::fs::write(file, format!("{figures:#}\n")).expect("the figures are kept");
    }
}

/// The worker now: the one child of the supervisor.
fn worker(daemon: &Daemon) -> Option<Pid> {
    let children = format!("/proc/{0}/task/{0}/children", daemon.pid());
    let text = std::fs::read_to_string(children).ok()?;
    text.split_whitespace().next_back()?.parse().ok().map(Pid::from_raw)
}

/// Kills the worker and waits until another one answers.
fn replace_worker(daemon: &Daemon) {
    let old = worker(daemon).expect("a worker");
    kill(old, Signal::SIGKILL).expect("the worker is killed");
    eventually("another worker", secs(10), || {
        worker(daemon).is_some_and(|new| new != old).then_some(())
    });
}
