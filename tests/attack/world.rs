//! What all daemons share.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::mount::{MsFlags, mount};

use crate::recorder::Recorder;
use crate::support::container::own_root;
use crate::support::dir::TestDir;

/// Hosts of an attacker.
pub const EVIL: [&str; 3] = ["evil.local", "evil.ghe.com", "github.localhost"];
const NAMES: &[&str] = &[
    "github.com",
    "api.github.com",
    "ghe.example.com",
    "evil.local",
    "api.evil.local",
    "evil.ghe.com",
    "api.evil.ghe.com",
    "github.localhost",
    "api.github.localhost",
];

/// What all daemons share: a root, a network in which every host notes what it is sent, and the program.
pub struct World {
    pub dir: TestDir,
    pub program: PathBuf,
    /// Each attack has a daemon of its own.
    pub alone: bool,
    recorder: Recorder,
    evil: AtomicUsize,
}

impl World {
    /// Call it in `sandboxed` only.
    pub fn new(program: PathBuf, alone: bool) -> Self {
        let dir = TestDir::new();
        own_root(&dir);
        let none = None::<&str>;
        mount(none, "/dev/shm", Some("tmpfs"), MsFlags::empty(), Some("mode=1777")).unwrap();
        let control = dir.folder("fusectl");
        mount(none, &control, Some("fusectl"), MsFlags::empty(), none).unwrap();
        let recorder = Recorder::start(NAMES, "https://evil.local/redirected", &dir);
        Self { dir, program, alone, recorder, evil: AtomicUsize::new(0) }
    }

    /// The certificates of all hosts.
    pub fn certificates(&self) -> PathBuf {
        self.recorder.certificates()
    }

    /// Requests with a token of ours that came to a host that has no business with it. gh itself takes
    /// tenants and the mock for GitHub (see docs/SECURITY.md) and is not asked about them.
    pub fn tokens_at_evil_hosts(&self) -> usize {
        let seen = self.recorder.seen("ghs_");
        let evil = seen.iter().filter(|(host, _)| EVIL.iter().any(|evil| host.ends_with(evil)));
        let more: usize = evil.map(|(_, seen)| seen.with).sum();
        self.evil.fetch_add(more, Ordering::Relaxed) + more
    }
}
