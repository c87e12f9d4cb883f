//! fanotify(7): security agents that are told of every file that is closed.

use std::fs::{self, File};
use std::thread;

use molecule_tokenfs::secret::Fingerprint;
use nix::fcntl::AT_FDCWD;
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};

use crate::support::daemon::Daemon;
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::{eventually, secs};

#[test]
fn a_fanotify_listener_is_told_of_a_file_that_was_held_across_a_rotation() {
    sandboxed(secs(40), || {
        let dir = TestDir::new();
        let daemon = Daemon::at(&dir).args(["--made-up", "1h"]).start();
        let path = daemon.path("token");
        let token = fs::read(&path).unwrap();
        let held = File::open(&path).unwrap();
        fs::write(daemon.path("refresh"), Fingerprint::of(&token).to_string()).unwrap();
        eventually("a rotation", secs(5), || (fs::read(&path).ok()? != token).then_some(()));
        thread::sleep(secs(6));

        let init = InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC;
        let listener =
            Fanotify::init(init, EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC).unwrap();
        let mark = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_MOUNT;
        let mountpoint = Some(daemon.mountpoint());
        listener.mark(mark, MaskFlags::FAN_CLOSE_NOWRITE, AT_FDCWD, mountpoint).unwrap();
        drop(held);
        let events = listener.read_events().expect("the event, with its file");
        assert!(events[0].fd().is_some());
    });
}
