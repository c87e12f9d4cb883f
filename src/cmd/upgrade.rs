//! `upgrade`: a worker of the program that is on disk now takes a mount over, without an unmount.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::cmd::{self, Advise};
use crate::config;
use crate::connection::supervisor::UPGRADE;
use crate::place::control;
use crate::status::{Backend, Status};
use crate::time::{Clock, SystemClock};

/// How long the newer worker may take; the supervisor gives it 10 s.
const LIMIT: Duration = Duration::from_secs(12);
/// Between two looks at the outcome.
const LOOK: Duration = Duration::from_millis(50);

/// The arguments of `upgrade`.
#[derive(Debug, clap::Args)]
pub struct UpgradeArgs {
    /// The mount [default: the one of this machine or user]
    mountpoint: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// When there is no mount, or the newer worker did not take over; the old one then goes on.
pub fn run(args: &UpgradeArgs) -> anyhow::Result<ExitCode> {
    let mountpoint = config::find_mountpoint(args.mountpoint.clone())?;
    let before = status(&mountpoint)?;
    if before.backend == Backend::Files {
        let at = mountpoint.display();
        return Err(anyhow::anyhow!("the tokens at {at} are files, kept by one process that cannot hand over"))
            .hint(format!("start it again: molecule-tokenfs umount {at}, then molecule-tokenfs mount --background {at}"));
    }
    let supervisor = Pid::from_raw(i32::try_from(before.supervisor_pid)?);
    kill(supervisor, UPGRADE)
        .with_context(|| format!("cannot signal the daemon (process {supervisor})"))
        .hint("run this as the user that runs the daemon")?;
    let deadline = SystemClock.now().boot + LIMIT;
    loop {
        sleep(LOOK);
        let now = status(&mountpoint)?;
        if now.last_upgrade != before.last_upgrade
            && let Some(upgrade) = now.last_upgrade
        {
            if let Some(reason) = upgrade.reason {
                return Err(anyhow::anyhow!("the newer worker did not take over: {reason}"))
                    .hint("the old one goes on; its log says more");
            }
            let (version, worker) = (now.version, now.worker_pid);
            cmd::print(format!("version {version} serves now (process {worker})\n").as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
        if SystemClock.now().boot >= deadline {
            bail!("the daemon (process {supervisor}) does not say how the upgrade went");
        }
    }
}

/// The status of a mount; of a directory of doors, that of any of them.
fn status(mountpoint: &Path) -> anyhow::Result<Status> {
    let text = control::status(mountpoint)
        .or_else(|error| of_any_door(mountpoint).ok_or(error))
        .with_context(|| format!("cannot read the status of {}", mountpoint.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

fn of_any_door(directory: &Path) -> Option<Vec<u8>> {
    let doors = std::fs::read_dir(directory).ok()?.flatten();
    doors.into_iter().find_map(|door| control::status(&door.path()).ok())
}
