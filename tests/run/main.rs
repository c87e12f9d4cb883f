//! `run`: the first process of a container, of whose making is only what it needs: a process
//! namespace, and `/etc`, `/usr/local` and `/run` of its own.
//! needs: root, fuse, git, gh, busybox, python3, cc

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod command;
mod hostile;
mod init;
mod log;
mod privileges;
mod real;
#[path = "../support/mod.rs"]
mod support;
mod terminal;
mod typing;
#[path = "../e2e/world.rs"]
#[expect(dead_code, reason = "of the world, only the platform is at home here")]
mod world;

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::unistd::Pid;
use support::daemon::PROGRAM;
use support::dir::TestDir;
use support::process::{Process, User, command};
use support::{eventually, namespace, secs};

/// Where `run` mounts when nobody says so.
const MOUNTPOINT: &str = "/run/molecule/token";

/// What a container has of its own. Call it in `sandboxed` only.
fn own_root(dir: &TestDir) {
    mount(None::<&str>, "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    for path in ["/etc", "/usr/local"] {
        namespace::private_copy(Path::new(path), dir);
    }
    fs::write("/etc/gitconfig", "").unwrap();
}

/// `run` with made-up tokens and these words.
fn run_with(dir: &TestDir, words: &[&str]) -> Command {
    let mut run = command(PROGRAM, User::Own);
    run.args(["run", "--made-up", "1m", "--log-level", "debug"]).args(words);
    run.env("HOME", dir.path()).current_dir(dir.path());
    run
}

/// A process that is the first of a process namespace, with the process that made that.
struct Container {
    outer: Process,
    first: Pid,
}

impl Container {
    /// Starts a command so.
    fn start(dir: &TestDir, inner: &Command) -> Self {
        let errors = fs::File::create(dir.join("container.err")).unwrap();
        Self::start_to(dir, inner, errors)
    }

    /// The same with this standard error.
    fn start_to(dir: &TestDir, inner: &Command, errors: impl Into<Stdio>) -> Self {
        let mut outer = command("unshare", User::Own);
        outer.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
        outer.arg(inner.get_program()).args(inner.get_args());
        for (name, value) in inner.get_envs() {
            outer.env(name, value.unwrap_or(OsStr::new("")));
        }
        if let Some(place) = inner.get_current_dir() {
            outer.current_dir(place);
        }
        let mut outer = Process::start_to(outer, "container", dir, errors);
        let first = eventually("the first process is there", secs(10), || {
            if let Some(status) = outer.ended() {
                panic!("the container ended: {status}\n{}", outer.stderr());
            }
            children(outer.pid()).into_iter().next()
        });
        Self { outer, first }
    }

    fn said(&self) -> String {
        self.outer.stdout()
    }

    /// Waits until it has said this.
    fn wait_for(&mut self, words: &str) {
        eventually(words, secs(15), || {
            if let Some(status) = self.outer.ended() {
                panic!("the container ended: {status}\n{}", self.outer.stderr());
            }
            self.outer.stdout().contains(words).then_some(())
        });
    }

    /// A command in the namespaces of the container, as `docker exec` runs one: with nothing of the
    /// environment of `run`.
    fn enter(&self, words: &[&str]) -> Command {
        let mut enter = command("nsenter", User::Own);
        enter.args(["--target", &self.first.to_string(), "--mount", "--pid", "--"]).args(words);
        enter
    }
}

/// The children of a process (`proc_pid_stat(5)`).
fn children(parent: Pid) -> Vec<Pid> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let listed = fs::read_to_string(path).unwrap_or_default();
    listed.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}
