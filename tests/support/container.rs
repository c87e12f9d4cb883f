//! What a container is made of: a process namespace, and directories of its own.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::unistd::Pid;

use super::dir::TestDir;
use super::process::{Process, User, command};
use super::processes::children;
use super::{eventually, namespace, secs};

/// What a container has of its own. Call it in `sandboxed` only.
pub fn own_root(dir: &TestDir) {
    mount(None::<&str>, "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    for path in ["/etc", "/usr/local"] {
        namespace::private_copy(Path::new(path), dir);
    }
    fs::write("/etc/gitconfig", "").unwrap();
}

/// A process that is the first of a process namespace, with the process that made that.
pub struct Container {
    pub outer: Process,
    pub first: Pid,
}

impl Container {
    /// Starts a command so.
    pub fn start(dir: &TestDir, inner: &Command) -> Self {
        let errors = fs::File::create(dir.join("container.err")).unwrap();
        Self::start_to(dir, inner, errors)
    }

    /// The same with this standard error.
    pub fn start_to(dir: &TestDir, inner: &Command, errors: impl Into<Stdio>) -> Self {
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

    pub fn said(&self) -> String {
        self.outer.stdout()
    }

    /// Waits until it has said this.
    pub fn wait_for(&mut self, words: &str) {
        eventually(words, secs(15), || {
            if let Some(status) = self.outer.ended() {
                panic!("the container ended: {status}\n{}", self.outer.stderr());
            }
            self.outer.stdout().contains(words).then_some(())
        });
    }

    /// A command in the namespaces of the container, as `docker exec` runs one: with nothing of the
    /// environment of `run`.
    pub fn enter(&self, words: &[&str]) -> Command {
        let mut enter = command("nsenter", User::Own);
        enter.args(["--target", &self.first.to_string(), "--mount", "--pid", "--"]).args(words);
        enter
    }
}
