//! The log: whatever becomes of it, tokens are served, and the daemon ends when it is told to.
//! needs: root, fuse, pgrep

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod background;
mod blocked;
mod broken;
mod file;
mod words;

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use support::daemon::{Builder, Daemon};
use support::process::{User, command, run};
use support::{dir::TestDir, eventually, secs};

/// How a daemon serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    Fuse,
    Files,
}

impl Backend {
    const BOTH: [Self; 2] = [Self::Fuse, Self::Files];

    fn args(self) -> [&'static str; 4] {
        let backend = if self == Self::Fuse { "fuse" } else { "files" };
        ["--made-up", "1m", "--backend", backend]
    }

    fn name(self) -> String {
        format!("{self:?}")
    }
}

/// Lets every request be a line of the worker's.
const EACH_REQUEST: &str = "info,fuser=debug";

/// A daemon that logs each request.
fn talkative(dir: &TestDir, backend: Backend) -> Builder<'_> {
    Daemon::at(dir).log_level(EACH_REQUEST).args(backend.args())
}

/// A tmpfs of this size; its memory is gone with it.
fn small_disk(path: &Path, options: &str) {
    fs::create_dir_all(path).unwrap();
    mount(Some("test"), path, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
}

/// Reads a token as another process does, within the deadline of an open.
fn read_token(daemon: &Daemon, dir: &TestDir) {
    let path = daemon.path("token");
    eventually("a token", secs(5), || fs::exists(&path).unwrap().then_some(()));
    let mut cat = command("cat", User::Own);
    cat.arg(path);
    let token = run(cat, dir, secs(6)).ok();
    assert!(token.starts_with("ghs_"), "{token}");
}

/// Makes every process of a daemon log a good deal.
fn make_it_log(daemon: &Daemon, backend: Backend) {
    for _ in 0..20 {
        fs::read(daemon.path("status.json")).unwrap();
    }
    let before = daemon.worker();
    if backend == Backend::Fuse {
        daemon.kill_worker(Signal::SIGKILL);
        eventually("the next worker", secs(10), || {
            daemon.worker().filter(|worker| Some(*worker) != before)
        });
        fs::read(daemon.path("status.json")).unwrap();
    }
    // Each is a line of its own.
    for _ in 0..3 {
        kill(daemon.pid(), Signal::SIGUSR2).unwrap();
        std::thread::sleep(support::millis(100));
    }
}

/// Fills a pipe to the last byte, and leaves it as it was.
fn fill(pipe: &OwnedFd) {
    let flags = fcntl(pipe, FcntlArg::F_GETFL).unwrap();
    let flags = OFlag::from_bits_retain(flags);
    fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).unwrap();
    for size in [65536, 1] {
        while nix::unistd::write(pipe, &vec![b'x'; size]).is_ok() {}
    }
    fcntl(pipe, FcntlArg::F_SETFL(flags)).unwrap();
}
