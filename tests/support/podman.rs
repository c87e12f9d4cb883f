//! podman, with all that it keeps in the directory of a test.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::dir::TestDir;
use super::namespace::replace_file;
use super::process::{ORDINARY, User, command};

/// The numbers that an ordinary user may give out in a user namespace begin here (`subuid(5)`).
pub const FIRST_OF_MANY: u32 = 100_000;

/// The number on this machine of a user in a container of [`an_ordinary_user`]'s, whose root is that
/// user.
pub const fn outside(inside: u32) -> u32 {
    FIRST_OF_MANY + inside - 1
}

/// A command of podman, not started yet.
pub fn podman(dir: &TestDir, user: User) -> Command {
    let place = dir.folder("podman");
    let configuration = dir.file(
        "podman/containers.conf",
        "[containers]\ndefault_ulimits=[\"nofile=4096:20000\", \"nproc=16384:16384\"]\n\
         [engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\n",
    );
    let mut podman = command("podman", user);
    podman.env("CONTAINERS_CONF", configuration).env("HOME", &place);
    podman.env("XDG_RUNTIME_DIR", &place);
    for (option, name) in [("--root", "root"), ("--runroot", "runroot"), ("--tmpdir", "tmp")] {
        podman.arg(option).arg(place.join(name));
    }
    // runc cannot do without control groups, which an ordinary user has none of here.
    podman.args(["--runtime", if user == User::Own { "runc" } else { "crun" }]);
    podman
}

/// Makes an ordinary user who may give out numbers, for this namespace.
pub fn an_ordinary_user(dir: &TestDir) {
    let users = format!("root:x:0:0::/root:/bin/sh\nworker:x:{ORDINARY}:{ORDINARY}::/:/bin/sh\n");
    replace_file("/etc/passwd".as_ref(), &users, dir);
    for list in ["/etc/subuid", "/etc/subgid"] {
        replace_file(list.as_ref(), &format!("worker:{FIRST_OF_MANY}:65536\n"), dir);
    }
}

/// podman keeps the user namespace of an ordinary user with a process that outlives all containers.
pub fn end_pause(dir: &Path) {
    for file in ["libpod/tmp/pause.pid", "tmp/pause.pid"] {
        let process = fs::read_to_string(dir.join("podman").join(file)).ok();
        if let Some(process) = process.and_then(|text| text.trim().parse().ok()) {
            kill(Pid::from_raw(process), Signal::SIGKILL).ok();
        }
    }
}
