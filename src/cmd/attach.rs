//! `attach` and `detach`: shows a mount of this host in a container that runs already, and takes it away.
//!
//! Another process of this program does it, which enters the container. The file system of a hostile one
//! can keep whoever looks at it waiting for ever: then that process is given up.

use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, ExitCode};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::builder::NonEmptyStringValueParser;
use nix::unistd::geteuid;

use crate::attach::{self, AttachError, Process, Tree};
use crate::cmd::{self, Advise, EXIT_FAILURE, host};
use crate::config;
use crate::source::table::flaw_of_name;
use crate::spawn;

/// How long the container's file systems, and the daemon, may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Where tokens are in a container.
pub(super) const PLACE: &str = "/run/molecule/token";
/// What is given to the process that enters the container.
pub(super) const ALONE: &str = "--alone";

/// Which container, and where in it.
#[derive(Debug, clap::Args)]
pub struct Target {
    #[command(flatten)]
    container: Container,

    /// Where in the container: a path without symbolic links
    #[arg(long, value_name = "PATH", default_value = PLACE, value_parser = place)]
    path: PathBuf,

    /// Enter the container: this process is watched by another
    #[arg(long, hide = true)]
    alone: bool,

    /// What becomes the root of a container that is being made, as the host names it
    #[arg(long, hide = true, value_name = "DIRECTORY", requires = "alone")]
    rootfs: Option<PathBuf>,
}

/// One of these.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Container {
    /// A process of the container, as this host numbers it
    #[arg(long, value_name = "PID")]
    pid: Option<i32>,

    /// The container's name, its id, or the beginning of its id: of Docker, containerd, podman, CRI-O, runc or crun
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    container: Option<String>,
}

/// The arguments of `attach`.
#[derive(Debug, clap::Args)]
pub struct AttachArgs {
    /// Where.
    #[command(flatten)]
    target: Target,

    /// Let programs in the container write to `refresh`: ask for a new token, and report one that was
    /// refused. Such a token is withheld from the same user in other containers, too
    #[arg(long)]
    allow_refresh: bool,

    /// Show this door of `molecule-tokenfs serve`
    #[arg(long, value_name = "NAME", conflicts_with = "mountpoint")]
    door: Option<Door>,

    /// The mount, or a directory in it: a door, or that of a named token [default: the mount of this machine]
    mountpoint: Option<PathBuf>,
}

/// The arguments of `detach`.
#[derive(Debug, clap::Args)]
pub struct DetachArgs {
    /// Where.
    #[command(flatten)]
    target: Target,
}

/// Shows a mount in a container.
///
/// # Errors
/// What stands in the way, and what to do about it. Nothing is left behind then.
pub fn run(args: &AttachArgs) -> anyhow::Result<ExitCode> {
    let target = &args.target;
    if !target.alone {
        return watched();
    }
    let door = args.door.as_ref().map(|Door(name)| Path::new(host::DEFAULT).join(name));
    let (mountpoint, directory) = directory(door.or_else(|| args.mountpoint.clone()))?;
    let (process, name) = target.container.find().map_err(explained)?;
    let process = match &target.rootfs {
        Some(rootfs) => process.in_root(rootfs).map_err(explained)?,
        None => process,
    };
    let tree = Tree::of(&directory, &mountpoint, args.allow_refresh).map_err(explained)?;
    let has_replaced = attach::attach(&process, &tree, &target.path).map_err(explained)?;
    let instead = if has_replaced { ", in the place of an earlier mount" } else { "" };
    let (shown, path) = (mountpoint.display(), target.path.display());
    cmd::print(format!("{shown} is shown at {path} in {name}{instead}\n").as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Takes away what is shown in a container.
///
/// # Errors
/// Where nothing of this host's is there, and what else stands in the way.
pub fn detach(args: &DetachArgs) -> anyhow::Result<ExitCode> {
    let target = &args.target;
    if !target.alone {
        return watched();
    }
    let (process, name) = target.container.find().map_err(explained)?;
    attach::detach(&process, &target.path).map_err(explained)?;
    let path = target.path.display();
    cmd::print(format!("nothing is shown at {path} in {name} any more\n").as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Has another process do it, and gives up waiting for it.
fn watched() -> anyhow::Result<ExitCode> {
    if !geteuid().is_root() {
        return Err(explained(AttachError::NotPermitted));
    }
    let mut given = std::env::args_os().skip(1);
    // Not by path: the file may have been replaced since we started.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(env!("CARGO_PKG_NAME")).args(given.next()).arg(ALONE).args(given);
    match spawn::status(&mut command, PATIENCE) {
        Ok(status) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            Ok(ExitCode::from(code.unwrap_or(EXIT_FAILURE)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Err(anyhow!(
            "neither the container's file systems nor the daemon answered within {} s",
            PATIENCE.as_secs()
        )
        .hint("see what is mounted in the container, and whether the daemon is stopped: molecule-tokenfs status")),
        Err(error) => Err(error).context("cannot start the process that enters the container"),
    }
}

impl Container {
    /// Its process, and what to call it.
    fn find(&self) -> Result<(Process, String), AttachError> {
        if let Some(wanted) = &self.container {
            let found = attach::find(wanted)?;
            let process = Process::open(found.pid, found.started)?;
            return Ok((process, format!("container {} (process {})", found.id, found.pid)));
        }
        // One of the two is there.
        let pid = self.pid.unwrap_or_default();
        Ok((Process::open(pid, None)?, format!("the container of process {pid}")))
    }
}

/// The directory to show, held.
fn directory(explicit: Option<PathBuf>) -> anyhow::Result<(PathBuf, std::os::fd::OwnedFd)> {
    let (path, served) = config::find_served(explicit).exit_code(EXIT_FAILURE)?;
    let directory = served.into_mount().ok_or_else(|| {
        anyhow!("the tokens at {} are files, and no mount", path.display())
            .hint("bind the directory when the container starts: docker run -v …")
    })?;
    Ok((path, directory))
}

fn explained(error: AttachError) -> anyhow::Error {
    match error.hint() {
        Some(hint) => anyhow::Error::new(error).hint(hint),
        None => error.into(),
    }
}

/// The name of a door.
#[derive(Debug, Clone)]
pub(super) struct Door(String);

impl Door {
    pub(super) fn name(&self) -> &str {
        &self.0
    }
}

impl FromStr for Door {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let is_name = flaw_of_name(name).is_none();
        is_name.then(|| Self(name.to_owned())).ok_or("it must be the NAME of [doors.NAME]")
    }
}

/// A path in the container.
pub(super) fn place(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let mut parts = path.components();
    let is_plain = parts.next() == Some(Component::RootDir)
        && parts.clone().count() > 0
        && parts.all(|part| matches!(part, Component::Normal(_)));
    if is_plain {
        Ok(path.to_owned())
    } else {
        Err("it must be an absolute path, not /, without ..".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_absolute_path_that_goes_nowhere_but_down() {
        for text in ["/run/molecule/token", "/t", "/run//x/", "/run/./x"] {
            assert!(place(text).is_ok(), "{text}");
        }
        for text in ["", "/", "run/x", "../x", "/run/../etc", "/.."] {
            assert!(place(text).is_err(), "{text}");
        }
    }
}
