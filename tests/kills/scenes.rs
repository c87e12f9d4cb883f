//! Deaths and stops of the worker.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use molecule_tokenfs::demo::faults::{Fault, Service};
use molecule_tokenfs::demo::{Demo, Setup};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::json;

use crate::support::daemon::{Daemon, tokenfs};
use crate::support::dir::TestDir;
use crate::support::opens::{Opens, Seen};
use crate::support::process::run;
use crate::support::{eventually, millis, secs};
use crate::{Report, Series};

/// A token that outlives the scene; tokens that rotate ten times a second.
pub const LASTING: [&str; 2] = ["--made-up", "1h"];
pub const ROTATING: [&str; 6] =
    ["--made-up", "1s", "--refresh-interval", "100ms", "--refresh-jitter", "0s"];

/// Places at which the worker kills itself: name, fault, tokens that rotate.
const PLACES: [(&str, &str); 7] = [
    ("before the rename of a rotation", "kill:rename:/23"),
    ("after the rename of a rotation", "kill:after-rename:/23"),
    ("in the middle of a slot write", "kill:slot:/3"),
    ("between lookup and open", "kill:after-lookup:/11"),
    ("in the handler of open", "kill:open:/97"),
    ("before an open that is judged is answered", "kill:judged:/97"),
    ("in the handler of read", "kill:read:/97"),
];

/// What the log tells: deaths, fetches, numbers of generations given twice.
pub fn told(daemon: &Daemon) -> (u64, u64, u64) {
    let log = daemon.log();
    let count = |what: &str| log.matches(what).count() as u64;
    let mut numbers = BTreeSet::new();
    let mut twice = 0;
    for line in log.lines().filter(|line| line.contains("a new token")) {
        let number = line.split("generation=").nth(1).and_then(|rest| rest.split(' ').next());
        let number: u64 = number.and_then(|number| number.parse().ok()).expect("a number");
        twice += u64::from(!numbers.insert(number));
    }
    (count("the worker died") + count("the worker failed"), count("a new token"), twice)
}

pub fn play(series: &Series, report: &mut Report) {
    at_random(series, report, "at random moments, a token of an hour", &LASTING);
    at_random(series, report, "at random moments, ten rotations a second", &ROTATING);
    for (name, fault) in PLACES {
        at(series, report, name, fault);
    }
    by_a_memory_limit(series, report);
    while_opens_wait(series, report);
    if !series.without_resend {
        upgrades(series, report);
    }
}

fn judge(
    report: &mut Report,
    series: &Series,
    name: &'static str,
    daemon: &Daemon,
    seen: &Seen,
    most_fetches: Option<u64>,
) {
    let (deaths, fetches, twice) = told(daemon);
    let holds = seen.is_clean(series.without_resend)
        && twice == 0
        && most_fetches.is_none_or(|most| fetches <= most)
        && seen.opens > 10;
    let figures = json!({
        "deaths": deaths, "fetches": fetches, "generations_reused": twice, "seen": seen,
    });
    report.add(name, figures, holds);
}

fn at_random(series: &Series, report: &mut Report, name: &'static str, tokens: &[&str]) {
    let dir = TestDir::new();
    let daemon = series.daemon(&dir, tokens).start();
    let readers = Opens::of(&daemon, 4, series.reader());
    for n in 0..series.kills {
        // The one before has come up: on a busy machine that takes longer than the pause.
        let opens = readers.done();
        eventually("served again", secs(10), || (readers.done() > opens).then_some(()));
        thread::sleep(millis(40 + n * 13 % 60));
        daemon.kill_worker(Signal::SIGKILL);
    }
    let seen = readers.end();
    let most = (tokens == LASTING).then_some(2);
    judge(report, series, name, &daemon, &seen, most);
}

fn at(series: &Series, report: &mut Report, name: &'static str, fault: &str) {
    let dir = TestDir::new();
    let daemon = series.daemon(&dir, &ROTATING).args(["--fault", fault]).start();
    let readers = Opens::of(&daemon, 4, series.reader());
    eventually(name, secs(20 + series.kills * 3), || {
        (told(&daemon).0 >= series.kills).then_some(())
    });
    let seen = readers.end();
    judge(report, series, name, &daemon, &seen, None);
}

/// A control group for memory (v1 or v2) of this limit, removed when dropped.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn with_limit(bytes: u64) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = Path::new("/sys/fs/cgroup");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tokenfs-test-{}-{number}", std::process::id());
        let (folder, limit) = if root.join("memory").is_dir() {
            (root.join("memory").join(name), "memory.limit_in_bytes")
        } else {
            (root.join(name), "memory.max")
        };
        fs::create_dir(&folder).ok()?;
        let group = Self(folder);
        fs::write(group.0.join(limit), bytes.to_string()).ok()?;
        Some(group)
    }

    fn take(&self, process: Pid) -> bool {
        fs::write(self.0.join("cgroup.procs"), process.to_string()).is_ok()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(millis(20));
        }
    }
}

/// The worker takes all memory that it may have: the kernel kills it, or refuses it more.
fn by_a_memory_limit(series: &Series, report: &mut Report) {
    const LIMIT: u64 = 96 << 20;
    let group = MemoryGroup::with_limit(LIMIT);
    let dir = TestDir::new();
    let faults = ["--fault", "hoard:open:/997"];
    let daemon = series.daemon(&dir, &ROTATING).args(faults).start();
    let is_group = group.as_ref().is_some_and(|group| group.take(daemon.pid()));
    if !is_group {
        let limit = rustix::process::Rlimit { current: Some(LIMIT * 4), maximum: Some(LIMIT * 4) };
        let pid = rustix::process::Pid::from_raw(daemon.pid().as_raw());
        rustix::process::prlimit(pid, rustix::process::Resource::As, limit).expect("a limit");
    }
    // The one that runs already has none.
    daemon.kill_worker(Signal::SIGKILL);
    let readers = Opens::of(&daemon, 4, series.reader());
    let wanted = series.kills.div_ceil(5) + 1;
    eventually("it dies of it", secs(20 + series.kills * 3), || {
        (told(&daemon).0 >= wanted).then_some(())
    });
    let seen = readers.end();
    let name = if is_group { "by a control group's memory limit" } else { "by RLIMIT_AS" };
    judge(report, series, name, &daemon, &seen, None);
    drop(daemon);
}

/// Fifty readers wait for a slow platform meanwhile.
#[expect(clippy::disallowed_methods, reason = "a test runs in real time")]
fn while_opens_wait(series: &Series, report: &mut Report) {
    let dir = TestDir::new();
    let demo = Demo::start(Setup::default()).expect("the demo platform starts");
    demo.register(&dir.join("configs")).expect("the workspace registers");
    demo.faults().stick(Service::Platform, Some(Fault::Slow(secs(2))));
    let daemon = series
        .daemon(&dir, &["--open-timeout", "30s", "--request-timeout", "20s"])
        .env("PLATFORM_URL", demo.url())
        .env("WORKSPACE_ID", &demo.address().workspace_id)
        .start();
    let start = Instant::now();
    let readers: Vec<_> = (0..50)
        .map(|n| {
            let path = daemon.path(if n % 2 == 0 { "token" } else { "live/token" });
            series.read(move || fs::read(path).map(|bytes| (bytes, start.elapsed())))
        })
        .collect();
    let kills = series.kills.min(5);
    for _ in 0..kills {
        thread::sleep(millis(300));
        daemon.kill_worker(Signal::SIGKILL);
    }
    let (mut tokens, mut failed, mut longest) = (BTreeSet::new(), 0, Duration::ZERO);
    for reader in readers {
        match reader.join().expect("a reader") {
            Ok((bytes, took)) => {
                tokens.insert(bytes);
                longest = longest.max(took);
            }
            Err(error) => {
                println!("{error}");
                failed += 1;
            }
        }
    }
    let (deaths, fetches, _) = told(&daemon);
    let figures = json!({
        "readers": 50, "deaths": deaths, "failed_opens": failed, "tokens": tokens.len(),
        "fetches": fetches, "longest_wait_ms": longest.as_secs_f64() * 1000.0,
    });
    report.add("while opens wait for a fetch", figures, failed == 0 && tokens.len() == 1);
}

fn upgrades(series: &Series, report: &mut Report) {
    let dir = TestDir::new();
    let daemon = series.daemon(&dir, &ROTATING).start();
    let readers = Opens::of(&daemon, 4, series.reader());
    let upgrades = series.kills.min(20);
    for _ in 0..upgrades {
        let mut upgrade = tokenfs(&dir, series.user);
        upgrade.arg("upgrade").arg(daemon.mountpoint());
        run(upgrade, &dir, secs(20)).ok();
    }
    let seen = readers.end();
    let holds = seen.is_clean(false) && told(&daemon).2 == 0;
    report.add("upgrades", json!({ "upgrades": upgrades, "seen": seen }), holds);
}
