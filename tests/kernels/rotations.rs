//! Watchers of a view, which are told when its token has passed.

use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::support::daemon::Daemon;
use crate::support::{eventually, millis, secs};

/// How many rotations there were, and of how many a watcher was told.
#[derive(Debug)]
pub struct Deletions {
    pub rotations: u64,
    pub told: u64,
}

impl Deletions {
    /// Watches a view anew after each rotation, as a program does that follows a file.
    pub fn count(daemon: &Daemon, rotations: u64) -> Self {
        let path: PathBuf = daemon.path("token");
        let read = || std::fs::read(&path).ok();
        eventually("a first token", secs(30), read);
        let mut told = 0;
        for _ in 0..rotations {
            let inotify = Inotify::init(InitFlags::IN_NONBLOCK).expect("inotify");
            let token = read();
            inotify.add_watch(&path, AddWatchFlags::IN_DELETE_SELF).expect("a watch");
            // A rotation may have come between the two.
            eventually("a rotation", secs(30), || (read() != token).then_some(()));
            std::thread::sleep(millis(100));
            told += match inotify.read_events() {
                Ok(events) => u64::from(!events.is_empty()),
                Err(Errno::EAGAIN) => 0,
                Err(error) => panic!("{error}"),
            };
        }
        Self { rotations, told }
    }
}
