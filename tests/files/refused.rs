//! Where the memory that a mount shares with its worker cannot be had, or what is called `/dev/fuse` is
//! no FUSE device, the tokens are files.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::empty_memory;
use crate::support::daemon::{Daemon, PROGRAM, tokenfs, tokenfs_run};
use crate::support::dir::TestDir;
use crate::support::namespace::{bind, sandboxed};
use crate::support::process::{Process, User, command, run};
use crate::support::{eventually, secs};

/// The program, for which a seccomp filter refuses `memfd_create(2)`.
fn without_memfd(dir: &TestDir) -> Command {
    let mut refuse = command("python3", User::Own);
    refuse.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/refuse.py"));
    refuse.arg(nix::libc::SYS_memfd_create.to_string()).arg(PROGRAM);
    refuse.env("HOME", dir.path()).env("CONFIGS_DIR", dir.join("configs"));
    refuse
}

/// The program, which may write no larger files than 32 KiB.
fn with_small_files(dir: &TestDir) -> Command {
    let mut shell = command("sh", User::Own);
    shell.args(["-c", "ulimit -f 64; exec \"$@\"", "sh", PROGRAM]);
    shell.env("HOME", dir.path()).env("CONFIGS_DIR", dir.join("configs"));
    shell
}

type Make = fn(&TestDir) -> Command;

#[test]
fn a_refusal_of_shared_memory_of_a_mount_is_told_and_files_are_served() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        empty_memory();
        let mount = dir.join("token");
        let eperm = ("EPERM: Operation not permitted", "seccomp profile allow it");
        let efbig = ("EFBIG: File too large", "ulimit -f unlimited");
        for (make, (errno, remedy)) in [(without_memfd as Make, eperm), (with_small_files, efbig)] {
            let mut refused = make(&dir);
            refused.args(["mount", "--made-up", "1m", "--backend", "fuse"]).arg(&mount);
            let refused = run(refused, &dir, secs(10));
            assert_eq!(refused.status.code(), Some(1), "{refused:?}");
            let why = format!(
                "this process may not share memory between its processes (memfd_create): {errno}"
            );
            assert!(refused.stderr.contains(&format!("error: {why}")), "{refused:?}");
            assert!(refused.stderr.contains(remedy), "{refused:?}");
            assert!(!mount.exists(), "nothing is left");

            let mut auto = make(&dir);
            auto.args(["mount", "--made-up", "1m"]).arg(&mount);
            let process = Process::start(auto, "auto", &dir);
            let token = eventually("a token", secs(10), || fs::read(mount.join("token")).ok());
            assert!(token.starts_with(b"ghs_") && mount.is_symlink());
            let mut status = tokenfs(&dir, User::Own);
            status.arg("status").arg(&mount);
            let status = run(status, &dir, secs(5)).stdout;
            assert!(status.contains(&format!("plain files, without FUSE ({why})")), "{status}");
            drop(process);
            assert!(!mount.is_symlink());
        }
    });
}

/// As a container runtime masks what its containers shall not see.
#[test]
fn a_device_that_lies_over_that_of_fuse_is_named_and_files_are_served() {
    sandboxed(secs(60), || {
        empty_memory();
        for masked in ["/dev/null", "/dev/zero"] {
            bind(Path::new(masked), Path::new("/dev/fuse"));
            let dir = TestDir::new();
            let why = "/dev/fuse is no FUSE device here";
            let mount = dir.join("token");
            let shown = mount.to_str().unwrap();
            let fuse = ["mount", "--made-up", "1m", "--backend", "fuse", shown];
            let refused = tokenfs_run(&dir, &fuse);
            assert_eq!(refused.status.code(), Some(1), "{refused:?}");
            assert!(refused.stderr.contains(&format!("error: {why}")), "{refused:?}");
            assert!(refused.stderr.contains("--device /dev/fuse"), "{refused:?}");
            assert!(!mount.exists(), "nothing is left");

            let mut daemon = Daemon::at(&dir).args(["--made-up", "1m"]).start();
            eventually("a token", secs(10), || fs::read(daemon.path("token")).ok());
            let status = tokenfs_run(&dir, &["status", shown]).stdout;
            assert!(status.contains(&format!("plain files, without FUSE ({why})")), "{status}");
            let doctor = tokenfs_run(&dir, &["doctor", shown]).stdout;
            assert!(doctor.contains("there is no /dev/fuse"), "{doctor}");
            assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
        }
    });
}

#[test]
fn a_kernel_that_refuses_a_mount_for_another_reason_is_quoted_and_files_are_served() {
    sandboxed(secs(60), || {
        empty_memory();
        let dir = TestDir::new();
        let calls = format!("{}:EINVAL,{}:ENOMEM", nix::libc::SYS_fsopen, nix::libc::SYS_mount);
        let mut daemon = Daemon::refused(&dir, &calls).args(["--made-up", "1m"]).start();
        eventually("a token", secs(10), || fs::read(daemon.path("token")).ok());
        let status = tokenfs_run(&dir, &["status", daemon.mountpoint().to_str().unwrap()]).stdout;
        let why = "the kernel refuses to create the file system: EINVAL: Invalid argument";
        assert!(status.contains(&format!("plain files, without FUSE ({why})")), "{status}");
        assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
    });
}
