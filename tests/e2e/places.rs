//! Where the scripts and the binary look for a mount that nobody names.

use std::fs;
use std::path::Path;
use std::process::Command;

use molecule_tokenfs::files::MARKER;
use nix::mount::{MsFlags, mount};

use crate::support::daemon::{Daemon, PROGRAM};
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::{User, command, run};
use crate::support::secs;
use crate::world::script;

const SYSTEM: &str = "/run/molecule/token";
const USERS: &str = "/run/user/1000/molecule/token";

/// Hides this machine's `/run`.
fn own_run() {
    mount(None::<&str>, "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

/// Files as a daemon keeps them, with this token.
fn lay_out(mountpoint: &str, token: &str) {
    let mountpoint = Path::new(mountpoint);
    fs::create_dir_all(mountpoint).unwrap();
    fs::write(mountpoint.join("token"), token).unwrap();
    let view = format!("username=x-access-token\npassword={token}\n");
    fs::write(mountpoint.join("git-credential"), view).unwrap();
    fs::write(mountpoint.join(MARKER), "").unwrap();
}

/// The token that each reader finds: the shim and the shell helper under both shells, the binary.
fn found(dir: &TestDir) -> Vec<String> {
    let request = dir.file("request", "protocol=https\nhost=github.com\n");
    let recorder = dir.file("bin/gh", "#!/bin/sh\necho \"password=$GH_TOKEN\"\n");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&recorder, mode).unwrap();
    let mut commands: Vec<Command> = Vec::new();
    for shell in [&["dash"][..], &["busybox", "sh"]] {
        for (name, action) in [("gh", "api"), ("git-credential-molecule", "get")] {
            let mut command = command("env", User::Own);
            command.args(shell).arg(script(name)).arg(action);
            commands.push(command);
        }
    }
    let mut binary = command(PROGRAM, User::Own);
    binary.args(["git-credential", "get"]);
    commands.push(binary);
    let readers = commands.into_iter().map(|mut command| {
        command.env("XDG_RUNTIME_DIR", "/run/user/1000").env("MOLECULE_REAL_GH", &recorder);
        command.stdin(fs::File::open(&request).unwrap());
        let said = run(command, dir, secs(10));
        let mut lines = said.stdout.lines();
        lines.find_map(|line| line.strip_prefix("password=")).unwrap_or("").to_owned()
    });
    readers.collect()
}

#[test]
fn the_system_s_mount_comes_before_the_user_s() {
    sandboxed(secs(30), || {
        own_run();
        let dir = TestDir::new();
        assert_eq!(found(&dir), [""; 5]);
        lay_out(USERS, "ghs_users");
        assert_eq!(found(&dir), ["ghs_users"; 5]);
        fs::create_dir_all(SYSTEM).unwrap(); // the mountpoint without a mount
        assert_eq!(found(&dir), ["ghs_users"; 5]);
        lay_out(SYSTEM, "ghs_system");
        assert_eq!(found(&dir), ["ghs_system"; 5]);
    });
}

#[test]
fn a_mount_in_file_layout_is_found_in_both_places() {
    sandboxed(secs(30), || {
        own_run();
        let dir = TestDir::new();
        for place in [USERS, SYSTEM] {
            fs::create_dir_all(Path::new(place).parent().unwrap()).unwrap();
            let arguments = ["--made-up", "1h", "--layout", "file"];
            let daemon = Daemon::at(&dir).mountpoint(place).args(arguments).start();
            let token = fs::read_to_string(place).unwrap();
            assert_eq!(found(&dir), [token.as_str(); 5], "{place}");
            drop(daemon);
        }
    });
}
