//! Who watches the files sees each rotation once.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};

use molecule_tokenfs::view;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::json;

use crate::support::daemon::Daemon;
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::{Process, User, command, registry_tool, require, run};
use crate::support::{eventually, millis, secs};
use crate::{evidence, generation, read, replace_worker, report, rotating};

// === inotify itself ===

/// Events by file, counted as they come: the kernel merges equal ones that follow each other and that
/// nobody has read yet.
#[derive(Clone, Default)]
struct Watched(Arc<Mutex<BTreeMap<String, u64>>>);

impl Watched {
    /// Watches for `MOVED_TO` in the directories, and for `ATTRIB` of each live view by itself.
    fn start(daemon: &Daemon) -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).expect("inotify");
        let mut names = BTreeMap::new();
        let mut watch = |path: &str, event, name: &str| {
            let descriptor = inotify.add_watch(&daemon.path(path), event).expect("a watch");
            names.insert(descriptor, name.to_owned());
        };
        watch(".", AddWatchFlags::IN_MOVED_TO, "");
        watch("gh", AddWatchFlags::IN_MOVED_TO, "gh/");
        let mut counts = BTreeMap::new();
        for view in view::ALL {
            let live = format!("live/{}", view.path());
            watch(&live, AddWatchFlags::IN_ATTRIB, &live);
            counts.extend([(view.path().to_owned(), 0), (live, 0)]);
        }
        let watched = Self(Arc::new(Mutex::new(counts)));
        let counts = watched.clone();
        spawn(move || {
            while let Ok(events) = inotify.read_events() {
                for event in events {
                    if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                        continue;
                    }
                    let file = event.name.unwrap_or_default();
                    let folder = names.get(&event.wd).expect("a watch of ours");
                    let file = format!("{folder}{}", file.display());
                    *counts.0.lock().expect("the counts").entry(file).or_default() += 1;
                }
                // Nobody asks any more.
                if Arc::strong_count(&counts.0) == 1 {
                    return;
                }
            }
        });
        watched
    }

    fn counts(&self) -> BTreeMap<String, u64> {
        self.0.lock().expect("the counts").clone()
    }
}

#[test]
fn each_rotation_is_one_event_for_each_view_also_when_the_worker_is_killed_all_the_time() {
    let wanted = if evidence().is_some() { 100 } else { 15 };
    sandboxed(secs(120), move || {
        let dir = TestDir::new();
        let daemon = rotating(&dir, "60ms").start();
        let watched = Watched::start(&daemon);
        read(&daemon.path("token")).expect("a first token");
        let mut crashes = 0;
        while generation(&daemon) < wanted {
            sleep(millis(400));
            replace_worker(&daemon);
            crashes += 1;
        }
        // At a moment between two rotations.
        let rotations = eventually("each rotation was one event for each view", secs(10), || {
            let before = generation(&daemon);
            let is_even = watched.counts().values().all(|events| *events == before);
            (is_even && generation(&daemon) == before).then_some(before)
        });
        let counts = watched.counts();
        assert_eq!(counts.len(), view::ALL.len() * 2, "{counts:?}");
        report(&json!({ "rotations": rotations, "worker_crashes": crashes, "events": counts }));
    });
}

// === programs ===

/// A program that watches the mount, and what it says of a rotation.
struct Watcher {
    name: &'static str,
    version: String,
    process: Process,
    /// What it prints for a view in the directory, before the view's name.
    moved: &'static str,
    /// What it prints for `live/token`.
    touched: &'static str,
}

impl Watcher {
    fn start(
        name: &'static str,
        [moved, touched]: [&'static str; 2],
        mut watch: Command,
        args: &[&OsStr],
        version: &str,
        dir: &TestDir,
    ) -> Self {
        watch.args(args);
        let mut process = Process::start(watch, name, dir);
        let ready = format!("{name} watches");
        eventually(&ready, secs(20), || {
            let said = process.stdout() + &process.stderr();
            assert!(process.ended().is_none(), "{name} ended: {said}");
            (said.contains("ready") || said.contains("Watches established")).then_some(())
        });
        Self { name, version: version.trim().to_owned(), process, moved, touched }
    }

    fn count(&self, line: &str) -> u64 {
        self.process.stdout().lines().filter(|said| *said == line).count() as u64
    }

    fn moves(&self, view: &str) -> u64 {
        self.count(&format!("{} {view}", self.moved))
    }

    fn touches(&self) -> u64 {
        self.count(self.touched)
    }
}

/// The first line that a command prints.
fn version(mut command: Command, args: &[&str], dir: &TestDir) -> String {
    command.args(args);
    let said = run(command, dir, secs(20));
    said.stdout.lines().next().unwrap_or_default().to_owned()
}

/// Those that are told of files by name: `inotifywait -m`, Python's watchdog, Node's `fs.watch`.
fn watchers(daemon: &Daemon, dir: &TestDir) -> [Watcher; 3] {
    let script = |name: &str| -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside").join(name)
    };
    let (root, live) = (daemon.mountpoint().as_os_str(), daemon.path("live/token"));
    require("inotifywait", "inotify-tools");
    require("node", "nodejs");
    // It shows that the package is there, which the script loads.
    registry_tool("watchmedo");

    let inotifywait = || command("inotifywait", User::Own);
    let options = ["-m", "--format", "%e %f"].map(OsStr::new);
    let arguments = [&options[..], &[root, live.as_os_str()]].concat();
    let says = version(inotifywait(), &["--help"], dir);
    let inotifywait = Watcher::start(
        "inotifywait",
        ["MOVED_TO", "ATTRIB "],
        inotifywait(),
        &arguments,
        &says,
        dir,
    );

    let python = || command(registry_tool("python"), User::Own);
    let program = script("watch.py");
    let says = "import watchdog.version; print('watchdog', watchdog.version.VERSION_STRING)";
    let says = version(python(), &["-c", says], dir);
    let arguments = [program.as_os_str(), root];
    let watchdog =
        Watcher::start("watchdog", ["moved", "touched token"], python(), &arguments, &says, dir);

    let node = || command("node", User::Own);
    let program = script("watch.js");
    let says = format!("node {}", version(node(), &["--version"], dir));
    let arguments = [program.as_os_str(), root];
    let node =
        Watcher::start("fs.watch", ["rename", "change token"], node(), &arguments, &says, dir);
    [inotifywait, watchdog, node]
}

#[test]
fn tail_inotifywait_watchdog_and_fs_watch_see_each_rotation_once() {
    let (rotations, limit) = if evidence().is_some() { (100, secs(400)) } else { (4, secs(60)) };
    sandboxed(limit, move || {
        let dir = TestDir::new();
        let daemon = Daemon::at(&dir).args(["--made-up", "1h"]).start();
        let token = || read(&daemon.path("token")).expect("a token").bytes;
        let mut tokens = token();

        // It takes a FUSE mount for a remote one, so it looks by itself instead of being told: at the
        // name every fifth time.
        let mut tail = command("tail", User::Own);
        tail.args(["--sleep-interval=0.1", "-F"]).arg(daemon.path("token"));
        let tail = Process::start(tail, "tail", &dir);
        let replacements = || tail.stderr().matches("has been replaced").count() as u64;
        eventually("tail shows the first token", secs(5), || {
            (tail.stdout().as_bytes() == tokens).then_some(())
        });
        let watchers = watchers(&daemon, &dir);

        let mut last = tokens.clone();
        let mut crashes = 0;
        for number in 1..=rotations {
            last = eventually("another token", secs(10), || {
                // At most one a second can be asked for.
                std::fs::write(daemon.path("refresh"), "now").ok();
                Some(token()).filter(|token| *token != last)
            });
            tokens.extend(&last);
            eventually("tail saw it", secs(10), || (replacements() >= number).then_some(()));
            for watcher in &watchers {
                eventually(&format!("{} saw rotation {number}", watcher.name), secs(10), || {
                    let seen = watcher.moves("token").min(watcher.touches());
                    (seen >= number).then_some(())
                });
            }
            if number % 4 == 2 {
                replace_worker(&daemon);
                crashes += 1;
            }
        }

        // What comes twice comes soon.
        sleep(millis(700));
        let mut figures = vec![json!({
            "watcher": "tail -F",
            "version": version(command("tail", User::Own), &["--version"], &dir),
            "replacements": replacements(),
            "tokens_shown": rotations + 1,
        })];
        assert_eq!(tail.stdout().as_bytes(), tokens, "each token once, in order");
        assert_eq!(replacements(), rotations);
        for watcher in &watchers {
            let moves: BTreeMap<_, _> = view::ALL
                .iter()
                .map(|view| view.path())
                .filter(|path| !path.contains('/'))
                .map(|path| (path, watcher.moves(path)))
                .collect();
            assert!(moves.values().all(|seen| *seen == rotations), "{}: {moves:?}", watcher.name);
            assert_eq!(watcher.touches(), rotations, "{}: live/token", watcher.name);
            figures.push(json!({
                "watcher": watcher.name,
                "version": watcher.version,
                "rotations_of_each_view": moves,
                "rotations_of_live_token": watcher.touches(),
            }));
        }
        report(&json!({ "rotations": rotations, "worker_crashes": crashes, "watchers": figures }));
    });
}
