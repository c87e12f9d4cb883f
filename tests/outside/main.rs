//! Other people's programs on the mount: watchers, containers, and whatever reads or copies files.
//! needs: root, fuse, cc, setpriv
//! tests `see_each_rotation_once` need: inotifywait
//! tests `see_each_rotation_once` need: node
//! tests `see_each_rotation_once` need: python
//! tests `see_each_rotation_once` need: watchmedo
//! tests `programs_that_read` need: fio
//! tests `programs_that_read` need: rsync
//!
//! The gate runs each for some seconds; `scripts/evidence watchers`, `outside`, `rotations`, `waiting`
//! and `bound` run them for long and keep the figures.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a test shows its figures")]
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod bound;
mod programs;
mod rotations;
mod waiting;
mod watchers;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use molecule_tokenfs::source::made_up::MadeUp;
use nix::sys::signal::{Signal, kill};
use support::daemon::{Builder, Daemon};
use support::dir::TestDir;
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

/// A daemon whose made-up token of another length comes every `interval`.
fn rotating<'a>(dir: &'a TestDir, interval: &str) -> Builder<'a> {
    let often = ["--refresh-interval", interval, "--refresh-jitter", "0s"];
    Daemon::at(dir).args(["--made-up", "2s"]).args(often)
}

/// Kills the worker and waits until another one answers.
fn replace_worker(daemon: &Daemon) {
    let old = daemon.worker().expect("a worker");
    kill(old, Signal::SIGKILL).expect("the worker is killed");
    eventually("another worker", secs(10), || {
        daemon.worker().is_some_and(|new| new != old).then_some(())
    });
}

fn status(daemon: &Daemon) -> serde_json::Value {
    let text = std::fs::read(daemon.path("status.json")).expect("status.json is read");
    serde_json::from_slice(&text).expect("status.json is JSON")
}

/// The generation that `status.json` names.
fn generation(daemon: &Daemon) -> u64 {
    let generation = status(daemon).pointer("/tokens/0/generation").cloned();
    generation.and_then(|generation| generation.as_u64()).unwrap_or_default()
}

/// What one open of a file gave.
struct Seen {
    /// What `fstat` told of the handle.
    size: u64,
    bytes: Vec<u8>,
}

impl Seen {
    /// Whether the handle told another size than it has bytes.
    fn differs(&self) -> bool {
        self.size != self.bytes.len() as u64
    }

    /// Whether the bytes are one whole made-up token.
    fn is_whole(&self) -> bool {
        MadeUp::number(&self.bytes).is_some()
    }
}

fn read(path: &Path) -> std::io::Result<Seen> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.size();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Seen { size, bytes })
}
