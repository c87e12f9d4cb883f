//! Processes that end with the test that started them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, Uid};

use super::dir::TestDir;
use super::limit::OnTimeout;
use super::{eventually, secs};

/// The user and group that play "somebody ordinary".
pub const ORDINARY: u32 = 1000;

/// Who runs a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Whoever runs the tests.
    Own,
    /// A user and group number, with no other groups. Only root may ask for it.
    Number(u32),
    /// Root that can mount and nothing else: all other capabilities are out of its bounding set.
    Bounded,
}

/// A command that dies with the thread that starts it, with nothing of the test's environment but
/// `PATH`, so that no token or setting of the person who runs the tests gets in.
pub fn command(program: impl AsRef<OsStr>, user: User) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if let User::Number(id) = user {
        assert!(Uid::effective().is_root(), "only root can run a command as another user");
        let id = id.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    }
    if user == User::Bounded {
        command.args(["--bounding-set", "-all,+sys_admin", "--inh-caps", "-all"]);
    }
    command.arg("--").arg(program);
    command.env_clear().env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    command.env("PATH", search_path());
    command
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one thing that tests take from their environment"
)]
pub fn search_path() -> std::ffi::OsString {
    std::env::var_os("PATH").expect("PATH")
}

/// A process and all that it started in its group. Dropping it ends them: SIGTERM, and SIGKILL
/// where that does not help within three seconds.
pub struct Process {
    child: Child,
    name: String,
    output: PathBuf,
    _on_timeout: OnTimeout,
}

impl Process {
    /// Starts a command, its output going to two files in `dir`, `NAME.out` and `NAME.err`.
    pub fn start(command: Command, name: &str, dir: &TestDir) -> Self {
        let errors = dir.path().join(name).with_extension("err");
        Self::start_to(command, name, dir, File::create(errors).expect("a file for the errors"))
    }

    /// The same with this standard error.
    pub fn start_to(
        mut command: Command,
        name: &str,
        dir: &TestDir,
        errors: impl Into<Stdio>,
    ) -> Self {
        let output = dir.path().join(name);
        let child = command
            .stdout(File::create(output.with_extension("out")).expect("a file for the output"))
            .stderr(errors)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}: {command:?}"));
        let group = group(&child);
        let on_timeout = OnTimeout::new(move || {
            let _ = killpg(group, Signal::SIGKILL);
        });
        Self { child, name: name.to_owned(), output, _on_timeout: on_timeout }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        group(&self.child)
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> String {
        read_lossy(&self.output.with_extension("out"))
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        read_lossy(&self.output.with_extension("err"))
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("waiting for a child")
    }

    /// Waits for its end; panics with its errors when that takes too long.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} has ended", self.name);
        eventually(&what, limit, || self.ended())
    }

    /// Sends it (not its group) a signal.
    pub fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(self.pid(), signal).expect("signalling a child");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let group = group(&self.child);
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = killpg(group, Signal::SIGTERM);
            // A stopped process takes no SIGTERM before it goes on.
            let _ = killpg(group, Signal::SIGCONT);
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                eventually("the process has ended", secs(3), || self.child.try_wait().ok()?)
            }));
            if ended.is_err() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        // What it started and left behind. No such process is the good case.
        let _ = killpg(group, Signal::SIGKILL);
    }
}

fn group(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().expect("a process id"))
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// What a finished command left.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Its stdout, when it ended well; panics with everything otherwise.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{}\n{}{}", self.status, self.stdout, self.stderr);
        self.stdout
    }
}

/// Runs a command to its end, all that it started included.
pub fn run(command: Command, dir: &TestDir, limit: Duration) -> Finished {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("run-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let mut process = Process::start(command, &name, dir);
    let status = process.wait(limit);
    Finished { status, stdout: process.stdout(), stderr: process.stderr() }
}

/// Fails with the line to type where a tool is missing.
pub fn require(tool: &str, package: &str) {
    let found = std::env::split_paths(&search_path()).any(|folder| folder.join(tool).exists());
    assert!(found, "{tool} is missing: apt-get install {package}");
}

/// Where `scripts/tools` puts what Debian has not.
pub fn registry_tools() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("../tools/bin")
}

/// One of them; fails with the line to type where it is missing.
pub fn registry_tool(name: &str) -> PathBuf {
    let path = registry_tools().join(name);
    assert!(path.exists(), "{name} is missing: scripts/tools {name}");
    path
}

/// An I/O error's number, for assertions on errnos.
pub fn errno(error: &io::Error) -> Option<nix::errno::Errno> {
    error.raw_os_error().map(nix::errno::Errno::from_raw)
}
