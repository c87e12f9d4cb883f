//! A `molecule-tokenfs mount` of the test's own.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use molecule_tokenfs::files::MARKER;
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, statfs};
use nix::unistd::Pid;

use super::dir::TestDir;
use super::process::{Finished, Process, User, command, run};
use super::{eventually, secs};

/// The program under test: the one that Cargo built beside the tests, or the one that scripts/test names,
/// which has nothing made for tests.
pub const PROGRAM: &str = match option_env!("MOLECULE_TEST_PROGRAM") {
    Some(program) => program,
    None => env!("CARGO_BIN_EXE_molecule-tokenfs"),
};

/// A command of the program under test, with `HOME` in the test's directory.
pub fn tokenfs(dir: &TestDir, user: User) -> Command {
    copy_of_tokenfs(dir, user, Path::new(PROGRAM))
}

fn copy_of_tokenfs(dir: &TestDir, user: User, program: &Path) -> Command {
    let mut command = command(program, user);
    command.env("HOME", dir.path()).env("CONFIGS_DIR", dir.join("configs"));
    command
}

/// How a daemon is started.
pub struct Builder<'a> {
    dir: &'a TestDir,
    mountpoint: PathBuf,
    command: Command,
    log_level: String,
}

impl Builder<'_> {
    /// Logs this instead of all of our own messages.
    pub fn log_level(mut self, level: &str) -> Self {
        level.clone_into(&mut self.log_level);
        self
    }

    /// Mounts there instead of at `token` in the test's directory.
    pub fn mountpoint(mut self, path: impl Into<PathBuf>) -> Self {
        self.mountpoint = path.into();
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Changes the command itself.
    pub fn change(mut self, change: impl FnOnce(&mut Command)) -> Self {
        change(&mut self.command);
        self
    }

    /// A flag with its value.
    pub fn arg_pair(mut self, flag: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.arg(flag).arg(value);
        self
    }

    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Starts it without waiting for anything: for starts that must fail.
    pub fn spawn(self) -> Daemon {
        let errors = self.dir.join(self.name()).with_extension("err");
        self.spawn_to(File::create(errors).expect("a file for the log"))
    }

    /// The same with this standard error.
    pub fn spawn_to(mut self, errors: impl Into<Stdio>) -> Daemon {
        self.command.args(["--log-level", &self.log_level]).arg(&self.mountpoint);
        let name = self.name();
        let process = Process::start_to(self.command, &name, self.dir, errors);
        Daemon { process, mountpoint: self.mountpoint }
    }

    fn name(&self) -> String {
        format!("daemon{}", self.mountpoint.display()).replace('/', "-")
    }

    /// Starts it and waits until the mount answers.
    pub fn start(self) -> Daemon {
        self.spawn().serving()
    }

    /// The same with this standard error.
    pub fn start_to(self, errors: impl Into<Stdio>) -> Daemon {
        self.spawn_to(errors).serving()
    }
}

/// A running daemon. Dropping it ends it as a service manager would, with SIGTERM; what it left
/// mounted is detached with the directory.
pub struct Daemon {
    process: Process,
    mountpoint: PathBuf,
}

impl Daemon {
    /// A daemon that mounts at `token` in this directory, logs everything and knows no platform.
    pub fn at(dir: &TestDir) -> Builder<'_> {
        Self::of(dir, User::Own)
    }

    /// The same from a copy of the program.
    pub fn of_copy<'a>(dir: &'a TestDir, program: &Path) -> Builder<'a> {
        let mut command = copy_of_tokenfs(dir, User::Own, program);
        command.arg("mount");
        Builder { dir, mountpoint: dir.join("token"), command, log_level: "trace".to_owned() }
    }

    /// The same, for which system calls are refused: `NUMBER[:ERRNO]`, with a comma between two.
    pub fn refused<'a>(dir: &'a TestDir, calls: &str) -> Builder<'a> {
        let mut command = copy_of_tokenfs(dir, User::Own, Path::new("python3"));
        let refuse = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/refuse.py");
        command.arg(refuse).arg(calls).arg(PROGRAM).arg("mount");
        Builder { dir, mountpoint: dir.join("token"), command, log_level: "trace".to_owned() }
    }

    /// The same, started by a program that executes what follows its arguments.
    pub fn by<'a>(dir: &'a TestDir, program: &str, args: &[&str]) -> Builder<'a> {
        let mut command = copy_of_tokenfs(dir, User::Own, Path::new(program));
        command.args(args).arg(PROGRAM).arg("mount");
        Builder { dir, mountpoint: dir.join("token"), command, log_level: "trace".to_owned() }
    }

    /// The same, run by this user.
    pub fn of(dir: &TestDir, user: User) -> Builder<'_> {
        let mut command = tokenfs(dir, user);
        command.arg("mount");
        Builder { dir, mountpoint: dir.join("token"), command, log_level: "trace".to_owned() }
    }

    /// A daemon that serves doors at `doors` in this directory.
    pub fn of_host(dir: &TestDir) -> Builder<'_> {
        let mut command = tokenfs(dir, User::Own);
        command.arg("serve");
        Builder { dir, mountpoint: dir.join("doors"), command, log_level: "trace".to_owned() }
    }

    /// Waits until the mount answers.
    fn serving(mut self) -> Self {
        eventually("the mount answers", secs(10), || {
            if let Some(status) = self.process.ended() {
                panic!("the daemon ended: {status}\n{}", self.process.stderr());
            }
            let kind = statfs(&self.mountpoint).ok()?.filesystem_type();
            (kind == FUSE_SUPER_MAGIC || self.keeps_files()).then_some(())
        });
        self
    }

    /// Whether it, and no daemon before it, has put files there.
    fn keeps_files(&self) -> bool {
        let status = std::fs::read(self.path("status.json")).unwrap_or_default();
        let status = serde_json::from_slice::<serde_json::Value>(&status).unwrap_or_default();
        let process = status.get("worker_pid").and_then(serde_json::Value::as_i64);
        process == Some(self.pid().as_raw().into()) && self.path(MARKER).exists()
    }

    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// The path of something in the mount.
    pub fn path(&self, name: &str) -> PathBuf {
        self.mountpoint.join(name)
    }

    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// The worker now: the youngest child of the supervisor that is none of an ordinary user's helpers.
    pub fn worker(&self) -> Option<Pid> {
        let children = format!("/proc/{0}/task/{0}/children", self.pid());
        let children = std::fs::read_to_string(children).ok()?;
        let is_helper = |child: &&str| {
            let name = std::fs::read_to_string(format!("/proc/{child}/comm"));
            name.is_ok_and(|name| name.starts_with("fusermount"))
        };
        let worker = children.split_whitespace().rev().find(|child| !is_helper(child))?;
        worker.parse().ok().map(Pid::from_raw)
    }

    /// Sends the worker a signal, if there is one.
    pub fn kill_worker(&self, signal: Signal) {
        if let Some(worker) = self.worker() {
            kill(worker, signal).ok();
        }
    }

    /// Stops all that serves the mount with SIGSTOP, until the value is dropped. No thread of it runs
    /// any more when this returns.
    pub fn pause(&self) -> Paused {
        let status = std::fs::read(self.path("status.json")).expect("status.json is read");
        let status: serde_json::Value = serde_json::from_slice(&status).expect("JSON");
        let mut processes = ["supervisor_pid", "worker_pid"]
            .map(|key| status.get(key).and_then(serde_json::Value::as_i64).expect(key))
            .map(|process| Pid::from_raw(process.try_into().expect("a process id")))
            .to_vec();
        processes.dedup();
        for &process in &processes {
            kill(process, Signal::SIGSTOP).expect("stopping a daemon");
        }
        let paused = Paused(processes);
        eventually("the daemon stands still", secs(5), || {
            paused.0.iter().all(|&process| stands_still(process)).then_some(())
        });
        paused
    }

    /// Sends it (not its worker) a signal.
    pub fn process_signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// Waits until it has logged this: the log is written by a thread of its own.
    pub fn wait_for_log(&self, words: &str) {
        eventually(&format!("in the log: {words}"), secs(5), || {
            self.log().contains(words).then_some(())
        });
    }

    /// The process, for signals and waits.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it as a service manager would, and says how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        self.process.signal(Signal::SIGTERM);
        self.process.wait(secs(5))
    }
}

/// A daemon that is stopped. Dropping it lets the daemon go on.
pub struct Paused(Vec<Pid>);

impl Drop for Paused {
    fn drop(&mut self) {
        for &process in &self.0 {
            let _ = kill(process, Signal::SIGCONT);
        }
    }
}

/// Whether every thread of a process is stopped (`proc_pid_stat(5)`), or will be before it runs on:
/// the supervisor's helper sleeps in a request to the mount until the worker goes on.
fn stands_still(process: Pid) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("its threads");
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 'D']))
    })
}

/// Runs one command of the program under test to its end.
pub fn tokenfs_run(dir: &TestDir, args: &[&str]) -> Finished {
    let mut command = tokenfs(dir, User::Own);
    command.args(args);
    run(command, dir, secs(20))
}
