//! Deaths of the supervisor, and ends from outside.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::scenes::ROTATING;
use crate::support::dir::{TestDir, mounts_below};
use crate::support::{eventually, secs};
use crate::{Report, Series, at_most};

/// How it dies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Death {
    Alone,
    WithTheWorker,
    WithTheWorkerStopped,
    DuringARename,
}

const DEATHS: [(Death, &str); 4] = [
    (Death::Alone, "the supervisor is killed alone"),
    (Death::WithTheWorker, "the supervisor and the worker are killed together"),
    (Death::WithTheWorkerStopped, "the supervisor is killed, the worker stopped"),
    (Death::DuringARename, "the supervisor is killed during a rename"),
];

pub fn play(series: &Series, report: &mut Report) {
    for (death, name) in DEATHS {
        let times = series.kills.min(30);
        let longest = (0..times).map(|_| die(series, death)).max().unwrap_or_default();
        let figures =
            json!({ "times": times, "longest_until_an_error_ms": longest.as_secs_f64() * 1000.0 });
        report.add(name, figures, longest < at_most(secs(1)));
    }
    for (flags, name) in
        [(MntFlags::empty(), "a foreign umount"), (MntFlags::MNT_DETACH, "a foreign umount -l")]
    {
        let dir = TestDir::new();
        let mut daemon = series.daemon(&dir, &ROTATING).start();
        assert!(worker_serves(&daemon, series));
        let worker = eventually("a worker", secs(5), || daemon.worker());
        eventually(name, secs(5), || umount2(daemon.mountpoint(), flags).ok());
        let code = daemon.process().wait(secs(5)).code();
        let left = is_left(worker);
        report.add(name, json!({ "exit_code": code, "left": left }), code == Some(0) && !left);
    }
}

/// Whether a process is there, and not just waiting for whoever inherited it.
pub fn is_left(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// Kills, and says how long the reader that waited longest waited for its error.
#[expect(clippy::disallowed_methods, reason = "a test runs in real time")]
fn die(series: &Series, death: Death) -> Duration {
    let dir = TestDir::new();
    let stops: &[&str] =
        if death == Death::DuringARename { &["--fault", "stop:rename:14"] } else { &[] };
    let mut daemon = series.daemon(&dir, &ROTATING).args(stops).start();
    // Before that an ordinary user's supervisor has the mounting helper for a child.
    assert!(worker_serves(&daemon, series));
    let paths = ["token", "live/token"].map(|name| daemon.path(name));
    let until_an_error = |path: PathBuf| {
        series.read(move || {
            while fs::read(&path).is_ok() {}
            Instant::now()
        })
    };
    let readers: Vec<_> = paths.into_iter().cycle().take(4).map(until_an_error).collect();
    let worker = eventually("a worker", secs(5), || daemon.worker());
    let is_stopped = || {
        let stat = fs::read_to_string(format!("/proc/{worker}/stat")).unwrap_or_default();
        stat.contains(") T ").then_some(())
    };
    match death {
        Death::Alone | Death::WithTheWorker => thread::sleep(Duration::from_millis(150)),
        Death::WithTheWorkerStopped => {
            kill(worker, Signal::SIGSTOP).expect("the worker");
            eventually("it stands", secs(2), is_stopped);
        }
        // The worker stops in the handler, the helper waits for it.
        Death::DuringARename => eventually("it stands in a rename", secs(10), is_stopped),
    }
    let start = Instant::now();
    daemon.process().signal(Signal::SIGKILL);
    if death == Death::WithTheWorker {
        kill(worker, Signal::SIGKILL).ok();
    }
    daemon.process().wait(secs(2));
    let ended = readers.into_iter().map(|reader| reader.join().expect("a reader"));
    let longest = ended.max().expect("readers").saturating_duration_since(start);
    eventually("the worker is gone", secs(1), || (!is_left(worker)).then_some(()));
    // As `umount` does; a dead mount is no obstacle to the next start either.
    eventually("a plain umount", secs(2), || umount2(daemon.mountpoint(), MntFlags::empty()).ok());
    assert!(mounts_below(dir.path()).is_empty());
    let again = series.daemon(&dir, &ROTATING).start();
    assert!(worker_serves(&again, series));
    longest
}

fn worker_serves(daemon: &crate::support::daemon::Daemon, series: &Series) -> bool {
    let path = daemon.path("token");
    series.read(|| fs::read(path).is_ok()).join().expect("a reader")
}
