//! The tokens as files, where there is no FUSE: with a `/dev/fuse` that is none, in memory of the
//! test's own.
//!
//! needs: root, git, python3
//! tests `of_a_mount`, `shared_memory_of_a_mount`, `that_of_fuse`, `refuses_a_mount` need: fuse

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod lifecycle;
mod named;
mod place;
mod refused;
mod run;
mod views;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use molecule_tokenfs::demo::{Demo, Setup};
use nix::mount::{MsFlags, mount};
use support::daemon::{Builder, Daemon};
use support::dir::TestDir;
use support::namespace::replace_file;

/// Where memory is, on every machine.
const MEMORY: &str = "/dev/shm";

/// Without FUSE, and with empty memory; call it in `sandboxed` only.
fn without_fuse(dir: &TestDir) {
    hide_fuse(dir);
    empty_memory();
}

fn hide_fuse(dir: &TestDir) {
    if Path::new("/dev/fuse").exists() {
        replace_file(Path::new("/dev/fuse"), "", dir);
    }
}

fn empty_memory() {
    mount(Some("test"), MEMORY, Some("tmpfs"), MsFlags::empty(), Some("mode=1777")).unwrap();
}

/// What lies in memory.
fn in_memory() -> Vec<PathBuf> {
    fs::read_dir(MEMORY).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// A workspace whose tokens are files.
struct Workspace {
    daemon: Daemon,
    demo: Demo,
    dir: TestDir,
}

impl Workspace {
    /// The mountpoint is a link into memory.
    fn start(setup: Setup, change: impl FnOnce(Builder<'_>) -> Builder<'_>) -> Self {
        let dir = TestDir::new();
        without_fuse(&dir);
        Self::start_in(dir, setup, change)
    }

    fn start_in(
        dir: TestDir,
        setup: Setup,
        change: impl FnOnce(Builder<'_>) -> Builder<'_>,
    ) -> Self {
        let demo = Demo::start(setup).unwrap();
        demo.register(&dir.join("configs")).unwrap();
        let builder = Daemon::at(&dir)
            .env("PLATFORM_URL", demo.url())
            .env("WORKSPACE_ID", &demo.address().workspace_id);
        let daemon = change(builder).start();
        Self { daemon, demo, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.daemon.path(name)
    }

    /// The token, once there is one.
    fn token(&self) -> Vec<u8> {
        support::eventually("a token", support::secs(10), || read(&self.path("token")))
    }

    fn status(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.path("status.json")).unwrap()).unwrap()
    }
}

/// The bytes of a file, if it is there.
fn read(path: &Path) -> Option<Vec<u8>> {
    match fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}
