//! `mount --background`: starts the daemon, passes on what it says until it serves, and tells where
//! its log goes.

use std::ffi::OsString;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitCode, Stdio};

use anyhow::Context;
use nix::unistd::{Uid, dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cmd::EXIT_FAILURE;
use crate::cmd::served::flag;
use crate::config::{self, Settings};
use crate::observe::{self, Target};

/// What the daemon tells the parent that waits for it.
const READY: &str = "ready\n";
/// The name of the log file, where nobody names another.
const LOG_FILE: &str = "molecule-tokenfs.log";

/// Starts the daemon and returns when it serves. What stands in its way is told on standard error.
///
/// # Errors
/// Where no process can be started.
pub fn start(settings: &Settings) -> anyhow::Result<ExitCode> {
    for warning in &settings.warnings {
        say(&format!("warning: {warning}"));
    }
    let log = settings.log_file.value.is_none().then(Log::choose);
    let mut daemon = spawn(log.as_ref())?;
    let is_ready = pass_on_until_ready(&mut daemon)?;
    if let Some(log) = log {
        say(&log.sentence);
    }
    if is_ready {
        return Ok(ExitCode::SUCCESS);
    }
    let code = daemon.wait()?.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.filter(|code| *code != 0).unwrap_or(EXIT_FAILURE)))
}

fn spawn(log: Option<&Log>) -> anyhow::Result<Child> {
    let mut given = std::env::args_os().skip(1);
    let name = given.next();
    let log = log.map(|log| flag("default-log", &OsString::from(log.target.clone())));
    // Not by path: the file may have been replaced since we started.
    Command::new("/proc/self/exe")
        .arg0(env!("CARGO_PKG_NAME"))
        .args(name)
        .arg("--tell-parent")
        .args(log)
        .args(given.filter(|argument| argument != "--background"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start the daemon")
}

/// For the daemon: tells the parent that it serves, and lets go of what it shares with it.
///
/// # Errors
/// When nobody hears it, or there is no `/dev/null`.
pub fn tell_parent() -> io::Result<()> {
    let parent = io::stdout().as_fd().try_clone_to_owned()?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    nix::unistd::write(&parent, READY.as_bytes())?;
    Ok(())
}

/// Passes on what the daemon says. Whether it is ready; else it has ended.
fn pass_on_until_ready(daemon: &mut Child) -> io::Result<bool> {
    let (Some(mut output), Some(mut errors)) = (daemon.stdout.take(), daemon.stderr.take()) else {
        return Ok(false); // Both are pipes.
    };
    let mut said = Vec::new();
    loop {
        let mut events = [
            PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(errors.as_fd(), PollFlags::IN),
        ];
        match poll(&mut events, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [has_output, has_errors] = events.map(|event| !event.revents().is_empty());
        if has_errors {
            pass_on(&mut errors)?;
        }
        if has_output {
            let mut chunk = [0; READY.len()];
            let count = output.read(&mut chunk)?;
            said.extend_from_slice(chunk.get(..count).unwrap_or_default());
            let is_ready = said == READY.as_bytes();
            if is_ready || count == 0 {
                while has_more(&errors) && pass_on(&mut errors)? > 0 {}
                return Ok(is_ready);
            }
        }
    }
}

fn has_more(errors: &ChildStderr) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(errors, PollFlags::IN)], Some(&at_once)).is_ok_and(|ready| ready > 0)
}

/// Passes on what is there; the number of bytes, which is 0 at the end.
fn pass_on(errors: &mut ChildStderr) -> io::Result<usize> {
    let mut chunk = [0; 4096];
    let count = errors.read(&mut chunk)?;
    // A closed standard error is no reason to leave the daemon alone.
    let _ = io::stderr().write_all(chunk.get(..count).unwrap_or_default());
    Ok(count)
}

fn say(sentence: &str) {
    let _ = io::stderr().write_all(format!("{sentence}\n").as_bytes());
}

/// Where the log of the daemon goes, and how to say it.
struct Log {
    target: Target,
    sentence: String,
}

impl Log {
    /// The system's logger, else a file where such files lie.
    fn choose() -> Self {
        if observe::check(&Target::Syslog).is_ok() {
            let name = env!("CARGO_PKG_NAME");
            let sentence = format!("the log goes to the system's logger, as {name}");
            return Self { target: Target::Syslog, sentence };
        }
        let no_logger = "there is no system's logger here (/dev/log)";
        let Some(path) = usual_file() else {
            let sentence = format!(
                "nothing is logged: {no_logger}, and no HOME; name a file: --log-file FILE"
            );
            return Self { target: Target::Nowhere, sentence };
        };
        if let Some(folder) = path.parent() {
            // A failure is told by the file, which cannot be opened then.
            DirBuilder::new().recursive(true).mode(0o700).create(folder).ok();
        }
        let target = Target::File(path.clone());
        match observe::check(&target) {
            Ok(()) => Self { target, sentence: format!("the log goes to {}", path.display()) },
            Err(error) => {
                let sentence = format!(
                    "nothing is logged: {no_logger}, and I {error}; name another file: --log-file FILE"
                );
                Self { target: Target::Nowhere, sentence }
            }
        }
    }
}

/// The file for root's log, or a user's (XDG Base Directory Specification).
fn usual_file() -> Option<PathBuf> {
    if Uid::effective().is_root() {
        return Some(Path::new("/var/log").join(LOG_FILE));
    }
    let state = config::env("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || config::env("HOME").map(|home| Path::new(&home).join(".local/state"));
    Some(state.or_else(home)?.join(LOG_FILE))
}
