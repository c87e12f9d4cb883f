//! Single files that are bound somewhere else, plainly and into containers: they stay fresh.

use std::path::{Path, PathBuf};
use std::time::Duration;

use molecule_tokenfs::demo::ledger::{Ledger, Verdict};
use molecule_tokenfs::demo::{Demo, Setup};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use serde::Serialize;
use serde_json::json;

use crate::support::daemon::Daemon;
use crate::support::dir::TestDir;
use crate::support::docker::{Container, Engine, busybox_root};
use crate::support::limit::within;
use crate::support::namespace::sandboxed;
use crate::support::process::{ORDINARY, Process, User, command, run};
use crate::support::{eventually, secs};
use crate::{evidence, replace_worker, report};

/// Nearly every token here is replaced before its end; a bound file that stood still would be seen
/// with a dead one soon.
const LIFE: Duration = secs(4);

/// A platform, a mount, and the program that reads in a loop.
struct Place {
    demo: Demo,
    daemon: Daemon,
    reader: PathBuf,
    dir: TestDir,
}

impl Place {
    fn new() -> Self {
        let dir = TestDir::new();
        let demo = Demo::start(Setup::with_life(LIFE)).expect("the demo platform starts");
        demo.register(&dir.join("configs")).expect("the workspace registers");
        let daemon = Daemon::at(&dir)
            .log_level("info")
            .env("PLATFORM_URL", demo.url())
            .env("WORKSPACE_ID", &demo.address().workspace_id)
            .start();
        // Before the first token a view is an empty promise of one byte: nobody binds that.
        std::fs::read(daemon.path("token")).expect("the first token");
        let reader = dir.join("reader");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside/reader.c");
        let mut cc = command("cc", User::Own);
        // Static, since it also runs in an image that holds nothing else.
        cc.args(["-static", "-O1", "-Wall", "-Werror", "-o"]).arg(&reader).arg(source);
        run(cc, &dir, secs(20)).ok();
        Self { demo, daemon, reader, dir }
    }

    /// Another mount of the same platform's tokens, whose files belong to somebody ordinary.
    fn ordinary_daemon(&self) -> Daemon {
        let id = ORDINARY.to_string();
        Daemon::at(&self.dir)
            .log_level("info")
            .mountpoint(self.dir.join("ordinary"))
            .env("PLATFORM_URL", self.demo.url())
            .env("WORKSPACE_ID", &self.demo.address().workspace_id)
            .args(["--owner", &id, "--group", &id])
            .start()
    }

    fn bind(&self, view: &str, name: &str) -> Binding {
        let target = self.dir.file(name, "");
        let source = self.daemon.path(view);
        mount(Some(&source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .unwrap_or_else(|error| panic!("binding {view}: {error}"));
        let mut reader = command(&self.reader, User::Own);
        reader.arg(&target).arg("fd");
        let process = Process::start(reader, &format!("reader-{name}"), &self.dir);
        eventually("it reads", secs(10), || process.stdout().contains("reads").then_some(()));
        Binding { process, target }
    }
}

/// Asks a daemon for another token until it is there; every second time its worker is killed as well.
fn rotate(daemon: &Daemon, number: u64) {
    let token = || std::fs::read(daemon.path("token")).expect("a token");
    let before = token();
    eventually("another token", secs(10), || {
        // At most one a second can be asked for.
        std::fs::write(daemon.path("refresh"), "now").ok();
        (token() != before).then_some(())
    });
    if number % 2 == 1 {
        replace_worker(daemon);
    }
}

/// A file that is bound, and a reader of it.
struct Binding {
    process: Process,
    target: PathBuf,
}

impl Binding {
    /// Ends the reader, takes the binding away and gives what the reader printed.
    fn end(mut self) -> String {
        self.process.signal(Signal::SIGTERM);
        let status = self.process.wait(secs(10));
        assert!(status.success(), "a reader ended: {status}");
        umount2(&self.target, MntFlags::empty()).expect("a binding can be taken away");
        self.process.stdout()
    }
}

/// What all readers of one kind saw.
#[derive(Debug, Default, Serialize)]
struct Tally {
    readers: u64,
    opens: u64,
    tokens: u64,
    dead: u64,
    torn: u64,
    errors: u64,
    size_differences: u64,
}

impl Tally {
    /// Adds what a reader printed; `reader.c` says what.
    fn add(&mut self, printed: &str, ledger: &Ledger) {
        self.readers += 1;
        for line in printed.lines() {
            match *line.split(' ').collect::<Vec<_>>() {
                ["token", _, last, token] => {
                    self.tokens += 1;
                    let last_open = Duration::from_nanos(last.parse().expect("a time"));
                    match ledger.entry(token.as_bytes()) {
                        None => self.torn += 1,
                        Some(entry) => {
                            let is_dead = last_open.as_millis() >= u128::from(entry.expires_ms);
                            self.dead += u64::from(is_dead);
                        }
                    }
                }
                ["differs", ..] => self.size_differences += 1,
                ["error", what, errno] => {
                    println!("{what}: errno {errno}");
                    self.errors += 1;
                }
                ["reads"] => {}
                ["opens", number] => self.opens += number.parse::<u64>().expect("a number"),
                _ => panic!("a reader printed {line:?}"),
            }
        }
    }

    /// `sizes_are_exact`: a bound generation keeps the size that it had.
    fn assert_holds(&self, sizes_are_exact: bool) {
        assert_eq!((self.dead, self.torn, self.errors), (0, 0, 0), "{self:?}");
        assert!(!sizes_are_exact || self.size_differences == 0, "{self:?}");
        assert!(self.opens > 10 * self.readers, "{self:?}");
    }
}

#[test]
fn a_bound_file_stays_fresh_while_tokens_rotate_and_the_worker_crashes() {
    let rotations = if evidence().is_some() { 25 } else { 4 };
    sandboxed(secs(120), move || {
        let place = Place::new();
        let ledger = place.demo.ledger();
        let (mut live, mut generation) = (Tally::default(), Tally::default());
        let bound = [place.bind("live/token", "live-bound"), place.bind("token", "token-bound")];
        for number in 0..rotations {
            let again = place.bind("live/token", "bound-again");
            rotate(&place.daemon, number);
            live.add(&again.end(), ledger);
        }
        let [live_bound, token_bound] = bound;
        live.add(&live_bound.end(), ledger);
        generation.add(&token_bound.end(), ledger);
        report(&json!({
            "rotations": rotations,
            "worker_crashes": rotations / 2,
            "live_token": live,
            "token": generation,
        }));
        live.assert_holds(true);
        generation.assert_holds(false);
        assert!(generation.tokens > rotations, "{generation:?}");
    });
}

/// A container whose first process is the reader.
fn reader<'a>(engine: &'a Engine<'_>, options: &[&str], words: &[&str]) -> Container<'a> {
    let container = engine.run(options, "reader", &[&["/bin/reader"], words].concat());
    eventually("it reads", secs(20), || container.logs().0.contains("reads").then_some(()));
    container
}

fn end(engine: &Engine<'_>, container: &Container<'_>) -> String {
    engine.docker(&["stop", "--time=10", container.id()]).ok();
    assert_eq!(container.wait(), 0, "{:?}", container.logs());
    container.logs().0
}

#[test]
#[ignore = "scripts/evidence bound runs it: it needs a Docker engine, whose package starts a server"]
fn a_file_bound_into_a_container_without_capabilities_stays_fresh() {
    let rotations = if evidence().is_some() { 25 } else { 4 };
    sandboxed(secs(240), move || {
        let place = Place::new();
        let ledger = place.demo.ledger();
        let ordinary = place.ordinary_daemon();
        // Container engines make directories of theirs there, whatever place they are told.
        mount(None::<&str>, "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
            .expect("a tmpfs");
        let engine = Engine::start(&place.dir);
        let root = busybox_root(&place.dir);
        std::fs::copy(&place.reader, root.join("bin/reader")).expect("the reader in the image");
        engine.import("reader", &root);

        let volume =
            |path: &str| format!("--volume={}:/secret:ro", place.daemon.path(path).display());
        let [live, token] = ["live/token", "token"].map(volume);
        let directory = format!("--volume={}:/run/token:ro", ordinary.mountpoint().display());
        let user = format!("--user={ORDINARY}:{ORDINARY}");
        let poor = ["--cap-drop=ALL", "--security-opt=no-new-privileges"];
        let live = [&poor[..], &[&live]].concat();
        let token = [&poor[..], &[&token]].concat();
        let directory = [&poor[..], &["--read-only", &user, &directory]].concat();

        let mut tallies = <[Tally; 3]>::default();
        // Nothing is held open of `/run/token/token`: its name leads to another inode each time.
        let bound = [
            (reader(&engine, &live, &["/secret", "fd"]), 0),
            (reader(&engine, &token, &["/secret", "fd"]), 1),
            (reader(&engine, &directory, &["/run/token/token"]), 2),
            (reader(&engine, &directory, &["/run/token/live/token", "fd"]), 2),
        ];
        for number in 0..rotations {
            let again = reader(&engine, &live, &["/secret", "fd"]);
            rotate(&place.daemon, number);
            rotate(&ordinary, number);
            // A process that comes later sees the same file.
            let read = again.exec(&["cat", "/secret"]).ok();
            assert_eq!(ledger.verdict(read.as_bytes()), Verdict::Live);
            tallies[0].add(&end(&engine, &again), ledger);
        }
        for (container, kind) in &bound {
            tallies[*kind].add(&end(&engine, container), ledger);
        }
        let [live, token, directory] = tallies;
        report(&json!({
            "rotations": rotations,
            "worker_crashes": rotations / 2,
            "live_token": live,
            "token": token,
            "directory_as_uid_1000_with_a_read_only_root": directory,
            "engine": engine.docker(&["version", "--format={{.Server.Version}}"]).ok().trim(),
        }));
        live.assert_holds(true);
        token.assert_holds(false);
        directory.assert_holds(true);
    });
}

#[test]
fn a_reader_that_saw_a_dead_or_torn_token_an_error_or_another_size_is_told_from_a_good_one() {
    within(secs(10), || {
        let demo = Demo::start(Setup::with_life(LIFE)).expect("the demo platform starts");
        let token = demo.ledger().issue().secret;
        let token = token.expose_str();
        let end = demo.ledger().entry(token.as_bytes()).expect("its entry").expires_ms * 1_000_000;
        let mut tally = Tally::default();
        tally.add(&format!("reads\ntoken 1 {} {token}\nopens 11\n", end - 1), demo.ledger());
        tally.assert_holds(true);
        let mut bad = Tally::default();
        let printed =
            format!("token 1 {end} {token}\ntoken 1 2 x{token}\ndiffers 1 2\nerror open 2");
        bad.add(&printed, demo.ledger());
        assert_eq!((bad.dead, bad.torn, bad.size_differences, bad.errors), (1, 1, 1, 1));
    });
}
