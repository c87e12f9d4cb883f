//! What tests of the whole program share: directories, processes, namespaces and time limits that
//! are cleaned up whatever happens.
//!
//! A test that starts a process or mounts something runs its body in [`limit::within`] (or
//! [`namespace::sandboxed`], which adds a mount namespace of its own):
//!
//! ```ignore
//! #[path = "../support/mod.rs"]
//! mod support;
//!
//! #[test]
//! fn a_reader_gets_the_token() {
//!     sandboxed(secs(20), || {
//!         let dir = TestDir::new();
//!         let daemon = Daemon::at(&dir).env("PLATFORM_URL", &url).start();
//!         assert_eq!(fs::read(daemon.path("token")).unwrap(), b"…");
//!     });
//! }
//! ```

#![allow(dead_code, reason = "each test target uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

pub mod claim;
pub mod container;
pub mod daemon;
pub mod dir;
pub mod docker;
pub mod hung;
pub mod leak;
pub mod limit;
pub mod limited;
pub mod namespace;
pub mod opens;
pub mod picture;
pub mod podman;
pub mod process;
pub mod processes;
pub mod server;
pub mod template;
pub mod traps;
pub mod wall_clock;

use std::time::{Duration, Instant};

use molecule_tokenfs::connection::kernel::Kernel;

/// So many seconds.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// So many milliseconds.
pub const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A time limit as it counts on this machine: an emulated one is many times slower
/// (`MOLECULE_TEST_PATIENCE` says how many).
#[expect(clippy::disallowed_methods, reason = "how scripts/evidence kernels says where tests run")]
pub fn patience(limit: Duration) -> Duration {
    let factor =
        std::env::var("MOLECULE_TEST_PATIENCE").ok().and_then(|factor| factor.parse().ok());
    limit * factor.unwrap_or(1)
}

/// Waits until something is there, looking every 10 ms; panics with `what` when it takes too long.
#[expect(clippy::disallowed_methods, reason = "a test waits in real time")]
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience(limit);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "after {limit:?} still not so: {what}");
        std::thread::sleep(millis(10));
    }
}

/// Whether the kernel delivers requests again that a dead worker had read (`FUSE_NOTIFY_RESEND`).
pub fn kernel_resends() -> bool {
    Kernel::running().resends()
}
