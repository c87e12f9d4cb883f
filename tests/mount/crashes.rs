//! What readers and watchers see while the worker dies, hangs and is replaced: nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use molecule_tokenfs::source::made_up::MadeUp;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::daemon::{Daemon, PROGRAM, tokenfs_run};
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::{eventually, millis, secs};
use crate::{read, status};

/// Readers of a made-up token that stop when told to.
pub(super) struct Readers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(u64, Duration)>>,
}

impl Readers {
    #[expect(clippy::disallowed_methods, reason = "a test runs in real time")]
    pub(super) fn start(daemon: &Daemon, number: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let paths = [daemon.path("token"), daemon.path("live/token")];
        let reader = |n: usize| {
            let (path, stop) = (paths.iter().cycle().nth(n).unwrap().clone(), Arc::clone(&stop));
            spawn(move || {
                let (mut opens, mut longest) = (0, Duration::ZERO);
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    let seen = read(&path).expect("an open never fails");
                    longest = longest.max(start.elapsed());
                    assert_eq!(seen.size, seen.bytes.len() as u64, "{}", path.display());
                    MadeUp::number(&seen.bytes).expect("a token is whole");
                    opens += 1;
                }
                (opens, longest)
            })
        };
        let threads = (0..number).map(reader).collect();
        Self { stop, threads }
    }

    /// Opens in all, and the longest.
    pub(super) fn end(self) -> (u64, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().fold((0, Duration::ZERO), |(opens, longest), thread| {
            let (more, longer) = thread.join().expect("a reader never fails");
            (opens + more, longest.max(longer))
        })
    }
}

/// Whether it has ended; whoever inherits it need not have reaped it yet.
fn is_gone(process: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

fn rotating(dir: &TestDir, interval: &str, life: &str) -> Daemon {
    let often = ["--refresh-interval", interval, "--refresh-jitter", "0s"];
    Daemon::at(dir).args(["--made-up", life]).args(often).start()
}

fn generation(path: &Path) -> u64 {
    status(path)
        .pointer("/tokens/0/generation")
        .and_then(serde_json::Value::as_u64)
        .unwrap_or_default()
}

#[test]
fn readers_do_not_notice_that_the_worker_is_killed_again_and_again() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let daemon = rotating(&dir, "30ms", "1s");
        let readers = Readers::start(&daemon, 4);
        for n in 0..40 {
            std::thread::sleep(millis(40 + n * 13 % 60));
            daemon.kill_worker(Signal::SIGKILL);
        }
        let (opens, longest) = readers.end();
        assert!(opens > 500, "{opens} opens");
        println!("{opens} opens, the longest {longest:?}");
    });
}

#[test]
fn no_generation_is_used_twice_and_no_token_is_fetched_again_after_a_crash() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        let daemon = Daemon::at(&dir).args(["--made-up", "1h"]).start();
        let first = read(&daemon.path("token")).unwrap().bytes;
        for _ in 0..10 {
            let old = daemon.worker();
            daemon.kill_worker(Signal::SIGKILL);
            eventually("another worker", secs(5), || (daemon.worker() != old).then_some(()));
            assert_eq!(read(&daemon.path("token")).unwrap().bytes, first);
            assert_eq!(generation(&daemon.path("status.json")), 1);
        }
    });
}

#[test]
fn a_worker_that_is_stopped_for_ever_is_replaced() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        let daemon = rotating(&dir, "50ms", "1s");
        let readers = Readers::start(&daemon, 2);
        std::thread::sleep(millis(200));
        let stopped = daemon.worker();
        daemon.kill_worker(Signal::SIGSTOP);
        eventually("another worker", secs(10), || (daemon.worker() != stopped).then_some(()));
        std::thread::sleep(millis(200));
        readers.end();
    });
}

#[test]
fn when_the_supervisor_is_killed_readers_get_an_error_and_nothing_is_left() {
    sandboxed(secs(30), || {
        for stopped in [false, true] {
            let dir = TestDir::new();
            let mut daemon = rotating(&dir, "30ms", "1s");
            read(&daemon.path("token")).unwrap();
            let worker = daemon.worker().unwrap();
            if stopped {
                kill(worker, Signal::SIGSTOP).unwrap();
            }
            daemon.process().signal(Signal::SIGKILL);
            daemon.process().wait(secs(2));
            eventually("readers get an error", secs(1), || {
                read(&daemon.path("live/token")).is_err().then_some(())
            });
            eventually("the worker is gone", secs(1), || is_gone(worker).then_some(()));
            let again = rotating(&dir, "30ms", "1s");
            assert!(read(&again.path("token")).is_ok());
        }
    });
}

/// Events by file name (`""` for a watched file itself), counted as they come: the kernel merges equal
/// ones that nobody has read yet.
#[derive(Clone, Default)]
pub(super) struct Watched(Arc<Mutex<BTreeMap<String, u64>>>);

impl Watched {
    pub(super) fn start(paths: &[(PathBuf, AddWatchFlags)]) -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
        for (path, events) in paths {
            inotify.add_watch(path, *events).unwrap();
        }
        let watched = Self::default();
        let counts = watched.clone();
        spawn(move || {
            while let Ok(events) = inotify.read_events() {
                for event in
                    events.into_iter().filter(|e| !e.mask.contains(AddWatchFlags::IN_IGNORED))
                {
                    let name = event.name.unwrap_or_default().into_string().unwrap();
                    *counts.0.lock().unwrap().entry(name).or_default() += 1;
                }
                // Nobody asks any more.
                if Arc::strong_count(&counts.0) == 1 {
                    return;
                }
            }
        });
        watched
    }

    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap().clone()
    }
}

#[test]
fn a_rotation_is_one_event_for_each_view_that_is_watched() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let daemon = rotating(&dir, "60ms", "2s");
        let watched = Watched::start(&[
            (daemon.path("."), AddWatchFlags::IN_MOVED_TO),
            (daemon.path("gh"), AddWatchFlags::IN_MOVED_TO),
            (daemon.path("live/token"), AddWatchFlags::IN_ATTRIB),
        ]);
        let page = daemon.path("status.json");
        // The watches stand before the first token comes. It lasts longer, so that a fleet spreads.
        read(&daemon.path("token")).unwrap();
        eventually("a second token", secs(5), || (generation(&page) > 1).then_some(()));
        let (kills, views) = (6, molecule_tokenfs::view::ALL.len());
        for _ in 0..kills {
            std::thread::sleep(millis(300));
            daemon.kill_worker(Signal::SIGKILL);
        }
        // At a moment between two rotations. A worker that dies between taking a number and publishing
        // what is to have it leaves a number that was never a generation.
        let events = eventually("each generation moved each view once", secs(5), || {
            let before = generation(&page);
            let counts = watched.counts();
            let events = counts.values().copied().max().unwrap_or_default();
            let is_even =
                counts.len() == views + 1 && counts.values().all(|number| *number == events);
            eprintln!("{before} {counts:?}");
            let is_all = events <= before && before <= events + kills;
            (is_even && is_all && generation(&page) == before).then_some(events)
        });
        assert!(events >= 15, "{events} rotations");
    });
}

#[test]
fn upgrades_under_load_are_not_noticed() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let daemon = rotating(&dir, "30ms", "1s");
        let readers = Readers::start(&daemon, 4);
        let path = daemon.mountpoint().to_str().unwrap();
        for _ in 0..5 {
            let old = daemon.worker();
            let said = tokenfs_run(&dir, &["upgrade", path]).ok();
            assert!(said.contains("serves now"), "{said}");
            assert_ne!(daemon.worker(), old);
        }
        readers.end();
    });
}

#[test]
fn an_upgrade_that_cannot_work_says_why_and_changes_nothing() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        // The program on disk is a copy, which then becomes something else.
        let program = dir.join("molecule-tokenfs");
        std::fs::copy(PROGRAM, &program).unwrap();
        let daemon = Daemon::of_copy(&dir, &program).args(["--made-up", "1h"]).start();
        let token = read(&daemon.path("token")).unwrap().bytes;
        let old = daemon.worker();
        std::fs::remove_file(&program).unwrap();
        std::fs::copy("/bin/false", &program).unwrap();
        let path = daemon.mountpoint().to_str().unwrap();
        let refused = tokenfs_run(&dir, &["upgrade", path]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(refused.stderr.contains("it ended before it was ready"), "{refused:?}");
        assert_eq!(daemon.worker(), old);
        assert_eq!(read(&daemon.path("token")).unwrap().bytes, token);
        let upgrade = status(&daemon.path("status.json"))["last_upgrade"].clone();
        assert_eq!(upgrade["succeeded"], false);
        // A crash after that starts the program that was there at the beginning.
        daemon.kill_worker(Signal::SIGKILL);
        assert_eq!(read(&daemon.path("live/token")).unwrap().bytes, token);
    });
}
