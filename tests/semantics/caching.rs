//! What is read without a request, and what is not.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::reading::{generation, hasty};
use crate::support::{eventually, secs};
use crate::{Mount, Section, fails};

/// Looks again when more tokens have come than the ring holds.
const MAPPING: &str = r"
import json, mmap, os, sys, time
def generation(): return json.load(open(sys.argv[1] + '/status.json'))['tokens'][0]['generation'] or 0
fd = os.open(sys.argv[1] + '/token', os.O_RDONLY)
mapping = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)
first, start = os.pread(fd, 65536, 0), generation()
os.close(fd)
deadline = time.monotonic() + 30
while generation() < start + 66: assert time.monotonic() < deadline; time.sleep(0.05)
assert mapping[:] == first
";

/// Keeps a worker from answering until it is dropped; the watchdog may end it before.
struct Stopped(Pid);

impl Stopped {
    fn worker(mount: &Mount) -> Self {
        let pid = i32::try_from(mount.status()["worker_pid"].as_i64().unwrap()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        Self(Pid::from_raw(pid))
    }

    fn stands(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        stat.contains(") T ")
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

pub fn check(section: &mut Section) {
    let mount = Mount::new();
    let path = mount.path("token");
    let token = fs::read(&path).unwrap();
    let mut bytes = vec![0; token.len()];
    section.says(
        "Bytes of a token that were read once can be read again, through any handle for it, \
         without a request, even while no worker answers.",
        || {
            let (first, second) = (File::open(&path).unwrap(), File::open(&path).unwrap());
            first.read_exact_at(&mut bytes, 0).unwrap();
            let stopped = Stopped::worker(&mount);
            eventually("it stands", secs(5), || stopped.stands().then_some(()));
            for file in [&first, &second] {
                file.read_exact_at(&mut bytes, 0).unwrap();
                assert_eq!(bytes, token);
            }
            assert!(stopped.stands(), "nothing has to be said by it");
        },
    );
    section.says("`fstat` and `close` of such a handle need no worker either.", || {
        let file = File::open(&path).unwrap();
        file.metadata().unwrap();
        let stopped = Stopped::worker(&mount);
        eventually("it stands", secs(5), || stopped.stands().then_some(()));
        assert_eq!(file.metadata().unwrap().len(), token.len() as u64);
        drop(file);
        assert!(stopped.stands(), "nothing has to be said by it");
    });
    let hasty = hasty();
    let live = File::open(hasty.path("live/token")).unwrap();
    live.read_exact_at(&mut [0; 16], 0).unwrap();
    let start = generation(&hasty);
    section.says(
        "A mapping shows its token for as long as it is mapped, through any number of rotations.",
        || {
            hasty.python_for(secs(40), MAPPING);
        },
    );
    section.says(
        "A file of `live` is read anew at each `read`, and so fails with `EKEYEXPIRED` when its \
         token is no longer among the last 64.",
        || {
            eventually("more than the ring holds", secs(20), || {
                (generation(&hasty) > start + 66).then_some(())
            });
            assert_eq!(fails(live.read_at(&mut [0; 16], 0)), Errno::EKEYEXPIRED);
        },
    );
    section.says(
        "A status file shows one state of things to each handle, however small the reads.",
        || {
            for name in ["status.json", "metrics.prom"] {
                let file = File::open(mount.path(name)).unwrap();
                let mut whole = vec![0; file.metadata().unwrap().len().try_into().unwrap()];
                let (start, end) = whole.split_at_mut(600);
                file.read_exact_at(start, 0).unwrap();
                mount.rotate();
                file.read_exact_at(end, 600).unwrap();
                let mut again = vec![0; whole.len()];
                file.read_exact_at(&mut again, 0).unwrap();
                assert_eq!(again, whole, "{name}");
                assert_ne!(fs::read(mount.path(name)).unwrap(), whole, "{name}");
            }
        },
    );
}
