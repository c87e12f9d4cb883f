//! System calls that an older kernel has not, or that a container's filter does not know: the mount does
//! without them, or says so and files are served instead.

use std::fs;

use molecule_tokenfs::secret::Fingerprint;
use nix::libc;
use nix::sys::signal::Signal;

use crate::status;
use crate::support::daemon::{Builder, Daemon, tokenfs_run};
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::{eventually, limit, secs};

/// The newer calls that a program like this may use, with the kernel that brought them.
const NEWER: [(&str, libc::c_long); 18] = [
    ("execveat, 3.19", libc::SYS_execveat),
    ("mlock2, 4.4", libc::SYS_mlock2),
    ("copy_file_range, 4.5", libc::SYS_copy_file_range),
    ("statx, 4.11", libc::SYS_statx),
    ("pidfd_send_signal, 5.1", libc::SYS_pidfd_send_signal),
    ("open_tree, 5.2", libc::SYS_open_tree),
    ("move_mount, 5.2", libc::SYS_move_mount),
    ("fsopen, 5.2", libc::SYS_fsopen),
    ("fsconfig, 5.2", libc::SYS_fsconfig),
    ("fsmount, 5.2", libc::SYS_fsmount),
    ("pidfd_open, 5.3", libc::SYS_pidfd_open),
    ("clone3, 5.3", libc::SYS_clone3),
    ("openat2, 5.6", libc::SYS_openat2),
    ("pidfd_getfd, 5.6", libc::SYS_pidfd_getfd),
    ("faccessat2, 5.8", libc::SYS_faccessat2),
    ("close_range, 5.9", libc::SYS_close_range),
    ("epoll_pwait2, 5.11", libc::SYS_epoll_pwait2),
    ("fchmodat2, 6.6", libc::SYS_fchmodat2),
];

fn serving(builder: Builder<'_>) -> Daemon {
    builder.args(["--made-up", "1h", "--backend", "fuse"]).start()
}

/// Has another token fetched; whether the helper has made that visible. On a busy machine it may be late.
fn rotates(daemon: &Daemon) -> bool {
    let late = || daemon.log().matches("flipping without events").count();
    let (token, before) = (fs::read(daemon.path("token")).unwrap(), late());
    fs::write(daemon.path("refresh"), Fingerprint::of(&token).to_string()).unwrap();
    let next = eventually("another token", secs(10), || {
        fs::read(daemon.path("token")).ok().filter(|next| *next != token)
    });
    assert_eq!(fs::read(daemon.path("live/token")).unwrap(), next);
    late() == before
}

/// Reads, loses its worker, and rotates.
fn does_it_all(daemon: &Daemon) {
    let token = fs::read(daemon.path("token")).unwrap();
    let old = daemon.worker();
    daemon.kill_worker(Signal::SIGKILL);
    assert_eq!(fs::read(daemon.path("live/token")).unwrap(), token, "{}", daemon.log());
    assert_ne!(daemon.worker(), old);
    eventually("the helper renames", secs(20), || rotates(daemon).then_some(()));
    assert_eq!(status(&daemon.path("status.json"))["backend"], "fuse");
}

#[test]
fn no_newer_system_call_is_needed() {
    sandboxed(secs(120), || {
        limit::each(
            &NEWER,
            |(name, _)| name.to_owned(),
            |(_, number)| {
                let dir = TestDir::new();
                let mut daemon = serving(Daemon::refused(&dir, &format!("{number}:ENOSYS")));
                does_it_all(&daemon);
                assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
            },
        );
    });
}

#[test]
fn all_newer_system_calls_together_are_not_needed() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        // It is the first of them, also by number.
        let all = format!("{}-:ENOSYS", libc::SYS_execveat);
        let mut daemon = serving(Daemon::refused(&dir, &all).args(["--without-resend"]));
        does_it_all(&daemon);
        assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
    });
}

#[test]
fn a_call_that_a_mount_cannot_do_without_is_named_and_files_are_served() {
    sandboxed(secs(60), || {
        let calls = format!("{}:ENOSYS,{}", libc::SYS_close_range, libc::SYS_unshare);
        let why = "this process may not give up the descriptors of a thread: EPERM";
        let dir = TestDir::new();
        let fuse = ["--made-up", "1m", "--backend", "fuse"];
        let mut refused = Daemon::refused(&dir, &calls).args(fuse).spawn();
        assert_eq!(refused.process().wait(secs(10)).code(), Some(1));
        let said = refused.log();
        assert!(said.contains(why) && said.contains("--backend files"), "{said}");
        assert!(!refused.mountpoint().exists(), "nothing is left");

        let auto = ["--made-up", "1m", "--allow-disk"];
        let mut daemon = Daemon::refused(&dir, &calls).args(auto).start();
        let token = eventually("a token", secs(10), || fs::read(daemon.path("token")).ok());
        assert!(token.starts_with(b"ghs_"));
        let path = daemon.mountpoint().to_str().unwrap().to_owned();
        let said = tokenfs_run(&dir, &["status", &path]).stdout;
        assert!(said.contains(why), "{said}");
        assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
    });
}
