//! poll(2), epoll(7) and inotify(7).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd as _;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::support::{eventually, secs};
use crate::{Mount, Section};

const EPOLL: &str = r"
import select, sys
file = open(sys.argv[1] + '/token')
epoll = select.epoll()
epoll.register(file, select.EPOLLIN)
assert epoll.poll(0) == [(file.fileno(), select.EPOLLIN)]
assert select.select([file], [], [], 0)[0] == [file]
";

const ROTATIONS: usize = 5;

/// Counts the events of a watch, by name and kind, until as many have come as are expected.
pub fn count(
    inotify: &Inotify,
    expected: usize,
    kind: AddWatchFlags,
) -> BTreeMap<Option<OsString>, usize> {
    let mut seen = BTreeMap::new();
    let mut number = 0;
    eventually("the events have come", secs(10), || {
        for event in inotify.read_events().unwrap_or_default() {
            if event.mask.contains(kind) {
                *seen.entry(event.name).or_default() += 1;
                number += 1;
            }
        }
        (number >= expected).then_some(())
    });
    seen
}

/// A watch for this kind of event that never blocks.
pub fn watch(path: &std::path::Path, kind: AddWatchFlags) -> Inotify {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
    inotify.add_watch(path, kind).unwrap();
    inotify
}

pub fn check(section: &mut Section) {
    let mount = Mount::new();
    mount.rotate();
    section.says(
        "`poll`, `select` and `epoll` say at once that a view can be read: a rotation is no event \
         to them.",
        || {
            let file = File::open(mount.path("token")).unwrap();
            mount.rotate();
            let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLIN | PollFlags::POLLPRI)];
            assert_eq!(poll(&mut polled, PollTimeout::ZERO), Ok(1));
            assert_eq!(polled[0].revents(), Some(PollFlags::POLLIN));
            mount.python(EPOLL);
            assert!(!mount.daemon.log().contains("Not Implemented"), "{}", mount.daemon.log());
        },
    );
    section.says(
        "inotify on a directory reports `IN_MOVED_TO` once for each view and rotation.",
        || {
            let inotify = watch(mount.daemon.mountpoint(), AddWatchFlags::IN_MOVED_TO);
            let views = molecule_tokenfs::view::ALL.iter().map(|view| view.path());
            let views: Vec<_> = views.filter(|path| !path.contains('/')).collect();
            for _ in 0..ROTATIONS {
                mount.rotate();
            }
            let seen = count(&inotify, ROTATIONS * views.len(), AddWatchFlags::IN_MOVED_TO);
            let expected: BTreeMap<_, _> =
                views.iter().map(|view| (Some(OsString::from(*view)), ROTATIONS)).collect();
            assert_eq!(seen, expected);
        },
    );
    section.says(
        "inotify on a view reports `IN_DELETE_SELF` when its token has passed, as for a file that \
         was replaced.",
        || {
            let inotify = watch(&mount.path("token"), AddWatchFlags::IN_DELETE_SELF);
            mount.rotate();
            let seen = count(&inotify, 1, AddWatchFlags::IN_DELETE_SELF);
            assert_eq!(seen, BTreeMap::from([(None, 1)]));
        },
    );
    section.says("inotify on a file of `live` reports `IN_ATTRIB` once for each rotation.", || {
        let inotify = watch(&mount.path("live/token"), AddWatchFlags::IN_ATTRIB);
        for _ in 0..ROTATIONS {
            mount.rotate();
            // Two that are alike and not read in between would be one (inotify(7)).
            let seen = count(&inotify, 1, AddWatchFlags::IN_ATTRIB);
            assert_eq!(seen, BTreeMap::from([(None, 1)]));
        }
        assert_eq!(inotify.read_events().err(), Some(Errno::EAGAIN));
    });
}
