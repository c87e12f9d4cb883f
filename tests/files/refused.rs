//! Where the memory that a mount shares with its worker cannot be had, the tokens are files.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::empty_memory;
use crate::support::daemon::{PROGRAM, tokenfs};
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
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
