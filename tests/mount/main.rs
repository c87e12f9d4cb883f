//! The daemon on a real mount, seen by the system calls that readers make; a file a topic.
//! needs: root, fuse, fusermount3, busybox
//! tests `git_and_gh_take_a_mounted_file`, `status_and_refresh_are_attributes` need: setfattr
//! tests `idmap` need: linux-6.12
//! tests `idmap` need: setfattr
//! tests `system_call`, `a_call_that_a_mount_cannot_do_without` need: python3
//! tests `through_the_helper`, `a_fanotify_listener` need: host-root

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;
#[path = "../sources/tls.rs"]
mod tls;

mod certificates;
mod clocks;
mod crashes;
mod faults;
mod hanging;
mod idmap;
mod interrupt;
mod layout;
mod lifecycle;
mod listeners;
mod many;
mod outcome;
mod patience;
mod readers;
mod refresh;
mod refused;
mod servers;
mod unserved;
mod write;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use molecule_tokenfs::demo::{Demo, Setup};
use support::daemon::{Builder, Daemon};
use support::dir::TestDir;

/// A demo platform, a workspace that registered with it, and a daemon in it.
struct Workspace {
    demo: Demo,
    daemon: Daemon,
    dir: TestDir,
}

impl Workspace {
    fn start(setup: Setup) -> Self {
        Self::start_with(setup, |builder| builder)
    }

    fn start_with(setup: Setup, change: impl FnOnce(Builder<'_>) -> Builder<'_>) -> Self {
        Self::start_over(setup, |_, builder| change(builder))
    }

    fn start_over(
        setup: Setup,
        change: impl for<'a> FnOnce(&Demo, Builder<'a>) -> Builder<'a>,
    ) -> Self {
        let dir = TestDir::new();
        let demo = Demo::start(setup).expect("the demo platform starts");
        demo.register(&dir.join("configs")).expect("the workspace registers");
        Self::start_in(dir, demo, change)
    }

    /// With a platform and a `configs` directory that are there already, in whatever state.
    fn start_in(
        dir: TestDir,
        demo: Demo,
        change: impl for<'a> FnOnce(&Demo, Builder<'a>) -> Builder<'a>,
    ) -> Self {
        let daemon = change(
            &demo,
            Daemon::at(&dir)
                .env("PLATFORM_URL", demo.url())
                .env("WORKSPACE_ID", &demo.address().workspace_id),
        )
        .start();
        Self { demo, daemon, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.daemon.path(name)
    }

    fn status(&self) -> serde_json::Value {
        status(&self.path("status.json"))
    }
}

fn status(path: &Path) -> serde_json::Value {
    let text = std::fs::read(path).expect("status.json is read");
    serde_json::from_slice(&text).expect("status.json is JSON")
}

/// What one reader saw: the size that `fstat` told, and the bytes.
struct Seen {
    size: u64,
    bytes: Vec<u8>,
}

fn read(path: &Path) -> std::io::Result<Seen> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.size();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Seen { size, bytes })
}
