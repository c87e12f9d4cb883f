//! Files that belong to somebody else: what the owner of the configs directory can put there, and what
//! comes of it for the daemon, which is root's.
//! needs: root, fuse, busybox

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod home;
mod hung;
mod limits;
mod links;
mod strangers;
mod waits;
mod watching;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use molecule_tokenfs::demo::{Demo, Setup};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use support::daemon::{Builder, Daemon};
use support::dir::TestDir;
use support::opens::become_user;
use support::process::ORDINARY;
use support::processes::children;
use support::secs;

/// How long an open waits here.
const DEADLINE: Duration = secs(4);
/// What a loaded machine may add to it.
const SLACK: Duration = secs(3);
/// Far below the slow retry after a permanent failure, which comes after 45 seconds.
const AT_ONCE: Duration = secs(10);

/// A workspace of an agent's own, served by root.
struct World {
    daemon: Daemon,
    demo: Demo,
    dir: TestDir,
}

impl World {
    fn start() -> Self {
        Self::start_over(Setup::default(), |_| (), |builder| builder)
    }

    /// `prepare` may change the configs directory before the daemon starts.
    fn start_over(
        setup: Setup,
        prepare: impl FnOnce(&TestDir),
        change: impl for<'a> FnOnce(Builder<'a>) -> Builder<'a>,
    ) -> Self {
        let dir = TestDir::new();
        let demo = Demo::start(setup).expect("the demo platform");
        register(&demo, &dir.join("configs"));
        prepare(&dir);
        let builder = Daemon::at(&dir)
            .env("PLATFORM_URL", demo.url())
            .env("WORKSPACE_ID", &demo.address().workspace_id)
            .args(["--open-timeout", &format!("{}s", DEADLINE.as_secs())]);
        let daemon = change(builder).start();
        Self { daemon, demo, dir }
    }

    fn configs(&self) -> PathBuf {
        self.dir.join("configs")
    }

    fn bearer(&self) -> PathBuf {
        self.dir.join("configs/.auth_token")
    }

    /// Puts something in the bearer's place by a rename, as the agent would.
    fn put(&self, make: impl FnOnce(&Path) -> io::Result<()>) {
        let new = self.dir.join("configs/.new");
        make(&new).expect("something new");
        give(&new);
        fs::rename(&new, self.bearer()).expect("a rename");
    }

    fn register(&self) {
        register(&self.demo, &self.configs());
    }

    /// Opens the token as the agent, and fails when that takes much longer than it may.
    fn open(&self) -> io::Result<Vec<u8>> {
        open(&self.daemon.path("token"))
    }

    /// Asks for a fetch, as often as it takes until one is granted.
    fn refresh(&self) {
        support::eventually("a forced fetch", secs(5), || {
            fs::write(self.daemon.path("refresh"), "now").ok()
        });
    }

    fn requests(&self) -> u64 {
        self.demo.ledger().counts().platform.requests
    }

    /// How the token stands, with all particulars.
    fn token(&self) -> serde_json::Value {
        token(&self.daemon)
    }

    fn worker(&self) -> Pid {
        self.daemon.worker().expect("a worker")
    }

    /// The number of descriptors of the worker.
    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.worker())).expect("descriptors").count()
    }
}

fn token(daemon: &Daemon) -> serde_json::Value {
    let text = fs::read(daemon.path("status.json")).expect("status.json");
    let status: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    status["tokens"][0].clone()
}

/// The workspace registers: the file and its directory are the agent's.
fn register(demo: &Demo, configs: &Path) {
    let bearer = demo.register(configs).expect("the workspace registers");
    give(configs);
    give(&bearer);
}

/// Gives one file to the agent; of a link the link itself.
fn give(path: &Path) {
    std::os::unix::fs::lchown(path, Some(ORDINARY), Some(ORDINARY)).expect("chown");
}

/// Opens and reads a file as the agent.
#[expect(clippy::disallowed_methods, reason = "a test runs in real time")]
fn open(path: &Path) -> io::Result<Vec<u8>> {
    let path = path.to_owned();
    let reader = std::thread::spawn(move || {
        become_user(ORDINARY);
        let start = Instant::now();
        let read = File::open(path).and_then(|mut file| {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut file, &mut bytes).map(|_| bytes)
        });
        let took = start.elapsed();
        assert!(took < DEADLINE + SLACK, "an open took {took:?}");
        read
    });
    reader.join().expect("a reader")
}

/// Ends the daemon as a service manager would; it must not take long.
fn end(mut world: World) {
    world.daemon.process().signal(Signal::SIGTERM);
    let status = world.daemon.process().wait(secs(5));
    assert!(status.success(), "{status}: {}", world.daemon.log());
}
