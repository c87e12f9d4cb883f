//! A thousand doors with twenty identities, and containers that come and go.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use molecule_tokenfs::demo::github::Installation;
use molecule_tokenfs::demo::{Demo, Setup};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::json;

use crate::support::claim::{Claim, assert_all};
use crate::support::daemon::{Daemon, PROGRAM};
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::processes::{descriptors, memory_of_its_own, thread_count};
use crate::support::{eventually, secs};

const DOORS: usize = 1000;
const IDENTITIES: usize = 20;
/// Doors in which somebody watches.
const WATCHED: usize = 10;

#[expect(clippy::disallowed_methods, reason = "asked for by scripts/evidence")]
fn wanted() -> Option<PathBuf> {
    std::env::var_os("MOLECULE_DOORS_JSON").map(PathBuf::from)
}

/// A host with so many doors; the tokens of its App are for as many organisations.
struct Crowd {
    dir: TestDir,
    demo: Demo,
    config: String,
}

impl Crowd {
    fn new() -> Self {
        let (dir, demo) = (TestDir::new(), Demo::start(Setup::default()).unwrap());
        let key = dir.join("app.pem");
        let client_id = demo.github().create_app(&key).unwrap();
        let mut config = String::new();
        for number in 0..IDENTITIES {
            let owner = format!("owner-{number}");
            demo.github().install(Installation::of(number as u64 + 1, &owner, &["web"]));
            writeln!(
                config,
                "[tokens.t{number}]\nsources = ['s{number}']\n\
                 [sources.s{number}]\ntype = 'github-app'\nclient-id = '{client_id}'\n\
                 private-key = {{ file = '{}' }}\napi-url = '{}'\nowner = '{owner}'",
                key.display(),
                demo.url()
            )
            .unwrap();
        }
        Self { dir, demo, config }
    }

    /// So many doors, which show so many tokens in turn.
    fn serve(&self, doors: usize, identities: usize) -> Daemon {
        let mut config = self.config.clone();
        for number in 0..doors {
            let token = number % identities;
            writeln!(config, "[doors.d{number}]\ntoken = 't{token}'\nowner = '0'").unwrap();
        }
        let path = self.dir.join("host.toml");
        fs::write(&path, config).unwrap();
        let daemon = Daemon::of_host(&self.dir).arg_pair("--config", path);
        daemon.log_level("info").start()
    }
}

fn processes(daemon: &Daemon) -> [i32; 2] {
    [daemon.pid().as_raw(), daemon.worker().unwrap().as_raw()]
}

fn memory(daemon: &Daemon) -> u64 {
    processes(daemon).into_iter().map(memory_of_its_own).sum()
}

/// A process with mounts of its own, which ends when this is dropped.
struct Apart {
    child: Child,
    input: Option<ChildStdin>,
}

impl Apart {
    fn start() -> Self {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private", "--", "sh", "-c", "echo; read line"]);
        unshare.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = unshare.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let input = child.stdin.take();
        Self { child, input }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// How long one `attach` took, of a door to a container.
#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
fn attach(daemon: &Daemon, door: usize, place: &PathBuf) -> Duration {
    let apart = Apart::start();
    let mut attach = Command::new(PROGRAM);
    let words = ["attach", "--pid", &apart.child.id().to_string(), "--path"].map(OsString::from);
    attach.args(words).arg(place).arg(daemon.path(&format!("d{door}")));
    attach.stdout(Stdio::null()).stdin(Stdio::null());
    let start = Instant::now();
    assert!(attach.status().unwrap().success());
    start.elapsed()
}

fn kib(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes).unwrap()) / 1024.0
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Waits until all watchers have heard of a rotation; since when the first has. Before that the token is
/// fetched.
#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
fn until_heard(watchers: &[Inotify]) -> Duration {
    let end = Instant::now() + secs(20);
    let mut first = None;
    let mut deaf: Vec<_> = watchers.iter().collect();
    loop {
        deaf.retain(|watcher| {
            let events = watcher.read_events().unwrap_or_default();
            !events.iter().any(|event| event.name.as_deref() == Some("token".as_ref()))
        });
        if deaf.len() < watchers.len() {
            first.get_or_insert_with(Instant::now);
        }
        if deaf.is_empty() {
            return first.unwrap().elapsed();
        }
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "{} of {WATCHED} watchers never heard", deaf.len());
        let mut polled: Vec<_> =
            deaf.iter().map(|watcher| PollFd::new(watcher.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut polled, PollTimeout::try_from(left).unwrap()).unwrap();
    }
}

/// How long it takes until all watchers have heard of a rotation, and the longest open meanwhile.
#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
fn rotate(daemon: &Daemon) -> (Duration, Duration) {
    let watched: Vec<_> = (0..WATCHED).map(|n| daemon.path(&format!("d{n}"))).collect();
    let watchers: Vec<_> = watched
        .iter()
        .map(|door| {
            let inotify = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
            inotify.add_watch(door, AddWatchFlags::IN_MOVED_TO).unwrap();
            inotify
        })
        .collect();
    let before = fs::read(daemon.path("d0/token")).unwrap();
    let stop = AtomicBool::new(false);
    let (took, longest) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            let mut n = 0;
            // The end is for a test that fails.
            while !stop.load(Ordering::Relaxed) && n < 200_000 {
                let path = daemon.path(&format!("d{}/token", n % DOORS));
                let start = Instant::now();
                fs::File::open(path).unwrap();
                longest = longest.max(start.elapsed());
                n += 1;
                std::thread::sleep(Duration::from_micros(200));
            }
            longest
        });
        std::thread::sleep(secs(2));
        // The first token may have come to some of the doors since they are watched.
        for watcher in &watchers {
            drop(watcher.read_events());
        }
        fs::write(daemon.path("d0/refresh"), "\n").unwrap();
        let took = until_heard(&watchers);
        stop.store(true, Ordering::Relaxed);
        (took, reader.join().unwrap())
    });
    // One after the other: until then a door shows the earlier token, which is good.
    for n in 0..DOORS {
        let path = daemon.path(&format!("d{n}/token"));
        eventually("the door shows the new token", secs(5), || {
            (fs::read(&path).unwrap() != before).then_some(())
        });
    }
    (took, longest)
}

#[test]
fn a_thousand_doors_with_twenty_identities() {
    let file = wanted();
    let (attaches, cycles) = if file.is_some() { (1000, 5000) } else { (20, 20) };
    sandboxed(secs(if file.is_some() { 900 } else { 120 }), move || {
        let crowd = Crowd::new();
        let with_few = {
            let daemon = crowd.serve(IDENTITIES, IDENTITIES);
            (0..IDENTITIES)
                .for_each(|n| drop(fs::read(daemon.path(&format!("d{n}/token"))).unwrap()));
            std::thread::sleep(secs(8));
            memory(&daemon)
        };
        let minted = crowd.demo.github().minted();
        let daemon = crowd.serve(DOORS, IDENTITIES);
        for n in 0..DOORS {
            fs::read(daemon.path(&format!("d{n}/token"))).unwrap();
        }
        let fetches = crowd.demo.github().minted() - minted;
        assert_eq!(fetches, IDENTITIES);
        std::thread::sleep(secs(8));
        let kib_a_door = kib(memory(&daemon).saturating_sub(with_few))
            / f64::from(u16::try_from(DOORS - IDENTITIES).unwrap());
        let place = crowd.dir.join("place");
        let mut took: Vec<_> = (0..attaches).map(|n| attach(&daemon, n % DOORS, &place)).collect();
        took.sort_unstable();
        let at = |share: usize| took[(took.len() * share / 100).min(took.len() - 1)];
        let left = || {
            let [supervisor, worker] = processes(&daemon);
            let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap().lines().count();
            (
                descriptors(supervisor),
                descriptors(worker),
                thread_count(&[supervisor, worker]),
                mounts,
            )
        };
        let before = (left(), memory(&daemon));
        for n in 0..cycles {
            attach(&daemon, n % DOORS, &place);
        }
        std::thread::sleep(secs(8));
        eventually("all is as before", secs(10), || (left() == before.0).then_some(()));
        let grown_kib = kib(memory(&daemon).saturating_sub(before.1));
        drop(daemon);
        let daemon = crowd.serve(DOORS, 1);
        for n in 0..DOORS {
            fs::read(daemon.path(&format!("d{n}/token"))).unwrap();
        }
        let (rotation, longest_open) = rotate(&daemon);
        let figures = json!({
            "doors": DOORS,
            "identities": IDENTITIES,
            "fetches": fetches,
            "kib_a_door": (kib_a_door * 100.0).round() / 100.0,
            "rotation_until_all_watchers_heard_ms": ms(rotation),
            "longest_open_meanwhile_ms": ms(longest_open),
            "attach_ms": { "p50": ms(at(50)), "p99": ms(at(99)), "longest": ms(at(100)) },
            "cycles": cycles,
            "memory_grown_by_them_kib": grown_kib,
        });
        println!("{figures:#}");
        if let Some(file) = file {
            let claims = [
                Claim::new("memory of a door, KiB", kib_a_door, 16.0),
                Claim::new("a rotation until all watchers heard, ms", ms(rotation), 50.0),
                Claim::new("the longest open meanwhile, ms", ms(longest_open), 10.0),
                Claim::new("attach, p50, ms", ms(at(50)), 2.0),
                Claim::new("attach, p99, ms", ms(at(99)), 10.0),
                Claim::new("memory that the cycles left, KiB", grown_kib, 1024.0),
            ];
            let text = json!({ "figures": figures, "claims": claims }).to_string();
            fs::write(file, text).unwrap();
            assert_all(&claims);
        }
    });
}
