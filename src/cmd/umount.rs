//! `umount`: takes a mount of ours away; the daemon behind it then ends by itself.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::anyhow;
use rustix::fs::{FlockOperation, flock};

use crate::cmd::serve::explained;
use crate::cmd::{Advise, EXIT_FAILURE};
use crate::config;
use crate::connection::mount;
use crate::files;
use crate::spawn;
use crate::time::{Clock, SystemClock};

/// How long a daemon may take to say which process it is.
const ASK: Duration = Duration::from_secs(1);
/// How long a daemon may take to remove the directories that it made.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The arguments of `umount`.
#[derive(Debug, clap::Args)]
pub struct UmountArgs {
    /// The mount [default: the one of this machine or user]
    mountpoint: Option<PathBuf>,

    /// Detach it even while files are open there
    #[arg(long, short = 'z')]
    lazy: bool,
}

/// Runs the command. When it returns, the directories that the daemon made are gone.
pub fn run(args: UmountArgs) -> anyhow::Result<ExitCode> {
    let target = args.mountpoint.map_or_else(|| config::find_mountpoint(None), Ok);
    let target = target.map_err(|nowhere| {
        // That there is no token is what was wanted here.
        anyhow!("{nowhere}")
            .hint("see what is mounted: findmnt -t fuse.molecule-tokenfs")
            .exit_code(EXIT_FAILURE)
    })?;
    if let Some(found) = files::Found::at(&target) {
        found.end(&target).map_err(explained)?;
        return Ok(ExitCode::SUCCESS);
    }
    let target = std::path::absolute(&target)?;
    // Later there is nobody to ask.
    let daemon = if args.lazy { Err(Silent) } else { daemon_of(&target) };
    mount::unmount(&target, args.lazy).map_err(explained)?;
    if let Ok(daemon) = daemon {
        wait_until_tidied(&target, daemon);
    }
    Ok(ExitCode::SUCCESS)
}

/// A daemon that does not answer, or was not asked: it is not waited for.
struct Silent;

/// The process that serves a mount, if it says so. Another process asks: one that gets no answer holds the
/// mount until it is killed.
fn daemon_of(target: &Path) -> Result<Option<u32>, Silent> {
    let mut status = Command::new("/proc/self/exe");
    status.args(["status", "--json"]).arg(target).stdin(Stdio::null());
    let answer = spawn::output(&mut status, ASK).map_err(|_| Silent)?;
    let status: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap_or_default();
    let process = status.get("supervisor_pid").and_then(serde_json::Value::as_u64);
    Ok(process.and_then(|process| u32::try_from(process).ok()))
}

/// Waits until the daemon has removed the directories that it made.
fn wait_until_tidied(target: &Path, daemon: Option<u32>) {
    let deadline = SystemClock.now().boot.saturating_add(PATIENCE);
    let is_tidying = || match File::open(target) {
        // The daemon keeps what it mounts on locked until all is removed.
        Ok(place) => flock(&place, FlockOperation::NonBlockingLockShared).is_err(),
        // The directories above it go next, and then the daemon.
        Err(_) => daemon.is_some_and(is_daemon),
    };
    while is_tidying() && SystemClock.now().boot < deadline {
        thread::sleep(LOOK_EVERY);
    }
}

/// Whether this process is a daemon of `mount`, and has not ended. One of `run` goes on.
fn is_daemon(process: u32) -> bool {
    let words = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    words.split(|byte| *byte == 0).nth(1) == Some(b"mount")
}
