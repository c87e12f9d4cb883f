//! What other processes of the same user see of the daemon, and what those that it starts get.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use crate::support::daemon::{Daemon, tokenfs};
use crate::support::dir::TestDir;
use crate::support::leak::Search;
use crate::support::namespace::{open_fuse_device, sandboxed};
use crate::support::process::{ORDINARY, Process, User, command, run};
use crate::support::{eventually, secs};
use crate::{IN_THE_ENVIRONMENT, pids};

fn token() -> Search {
    Search::new([IN_THE_ENVIRONMENT])
}

/// Puts a program of this name before the real one in PATH that writes down its arguments and
/// environment first; gives that PATH and the file that it writes.
fn listen(dir: &TestDir, name: &str) -> (String, PathBuf) {
    let mut path = command("printenv", User::Own);
    path.arg("PATH");
    let path = run(path, dir, secs(5)).ok().trim_end().to_owned();
    let heard = dir.file(&format!("{name}.heard"), "");
    let script = format!(
        "#!/bin/sh\n{{ printf '%s\\n' \"$0\" \"$@\"; env; }} >>'{}'\nPATH='{path}' exec {name} \"$@\"\n",
        heard.display()
    );
    let program = dir.file(&format!("bin/{name}"), script);
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    (format!("{}:{path}", dir.join("bin").display()), heard)
}

#[test]
fn nobody_of_the_same_user_looks_into_the_daemon_and_it_leaves_no_core() {
    sandboxed(secs(30), || {
        // What it must turn off itself.
        setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY).unwrap();
        let dir = TestDir::new();
        open_fuse_device(&dir);
        let user = User::Number(ORDINARY);
        dir.give_to(ORDINARY);
        let daemon = Daemon::of(&dir, user).env("GITHUB_TOKEN", IN_THE_ENVIRONMENT).start();
        let mut sleep = command("sleep", user);
        sleep.arg("100").env("GITHUB_TOKEN", IN_THE_ENVIRONMENT);
        let sleeper = Process::start(sleep, "sleep", &dir);
        let cat = |path: &Path| {
            let mut cat = command("cat", user);
            cat.arg(path);
            run(cat, &dir, secs(5))
        };
        let file = |pid: u64, name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
        let owner = |pid, name: &str| fs::metadata(file(pid, name)).unwrap().uid();
        let sleep = u64::try_from(sleeper.pid().as_raw()).unwrap();

        // Once it is `sleep`, and not the program that changed the user.
        eventually("any other process is open to its user", secs(5), || {
            cat(&file(sleep, "environ")).stdout.contains(IN_THE_ENVIRONMENT).then_some(())
        });
        assert_eq!(owner(sleep, "mem"), ORDINARY);
        for pid in pids(cat(&daemon.path("status.json")).ok().as_bytes()) {
            for name in ["environ", "maps", "auxv"] {
                let refused = cat(&file(pid, name));
                assert!(!refused.status.success(), "{name}");
                assert_eq!(token().first_in(refused.stdout.as_bytes()), None);
            }
            assert_eq!(owner(pid, "mem"), 0, "it is dumpable");
            let limits = fs::read_to_string(file(pid, "limits")).unwrap();
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            let core = core.split_whitespace().collect::<Vec<_>>();
            assert_eq!(core[4..6], ["0", "0"], "{limits}");
        }
    });
}

#[test]
fn the_programs_that_it_starts_get_no_token() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        open_fuse_device(&dir);
        let user = User::Number(ORDINARY);
        let (path, heard) = listen(&dir, "fusermount3");
        dir.give_to(ORDINARY);
        let mut daemon = Daemon::of(&dir, user)
            .env("PATH", &path)
            .env("GITHUB_TOKEN", IN_THE_ENVIRONMENT)
            .env("GH_TOKEN", IN_THE_ENVIRONMENT)
            .start();
        // The mount is there before the signals are.
        eventually("it serves", secs(5), || daemon.log().contains("serving at").then_some(()));
        assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
        let text = fs::read(heard).unwrap();
        assert!(String::from_utf8_lossy(&text).contains("_FUSE_COMMFD"), "it was not asked");
        assert_eq!(token().first_in(&text), None, "fusermount3 got the token");

        // Root would not run this one at all.
        let (path, heard) = listen(&dir, "git");
        dir.give_to(ORDINARY);
        let mut setup = tokenfs(&dir, user);
        setup
            .args(["setup", "git", "--file", dir.join("gitconfig").to_str().unwrap()])
            .env("PATH", path)
            .env("GITHUB_TOKEN", IN_THE_ENVIRONMENT)
            .env("GH_TOKEN", IN_THE_ENVIRONMENT);
        run(setup, &dir, secs(20)).ok();
        let text = fs::read(heard).unwrap();
        assert!(String::from_utf8_lossy(&text).contains("config"), "it was not asked");
        assert_eq!(token().first_in(&text), None, "git got the token");
    });
}
