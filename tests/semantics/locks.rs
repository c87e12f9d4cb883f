//! flock(2), fcntl(2) and fsync(2).

use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::libc;

use crate::{Mount, Section};

fn lock_of(kind: i32) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap(),
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

pub fn check(section: &mut Section) {
    let mount = Mount::new();
    let open = || File::open(mount.path("token")).unwrap();
    section.says(
        "`flock` and `fcntl` locks work between the processes of a machine, on one token: the next \
         one has locks of its own.",
        || {
            let exclusive = FlockArg::LockExclusiveNonblock;
            let held = Flock::lock(open(), exclusive).unwrap();
            let (_, second) = Flock::lock(open(), exclusive).unwrap_err();
            assert_eq!(second, Errno::EAGAIN);
            mount.rotate();
            Flock::lock(open(), exclusive).unwrap();
            drop(held);
            let file = open();
            fcntl(&file, FcntlArg::F_OFD_SETLK(&lock_of(libc::F_RDLCK))).unwrap();
        },
    );
    section.says("A view cannot be locked for writing by `fcntl`: `EBADF`.", || {
        let refused = fcntl(open(), FcntlArg::F_OFD_SETLK(&lock_of(libc::F_WRLCK)));
        assert_eq!(refused, Err(Errno::EBADF));
    });
    section.says("`fsync` and `fdatasync` succeed and do nothing.", || {
        let before = mount.attempts();
        open().sync_all().unwrap();
        open().sync_data().unwrap();
        assert_eq!(mount.attempts(), before);
        assert!(!mount.daemon.log().contains("Not Implemented"), "{}", mount.daemon.log());
    });
}
