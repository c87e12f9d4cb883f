//! `attach` and `detach`: shows a mount of this host in a container that runs already, and takes it away.
//!
//! A copy of this process does it, which enters the container. The file system of a hostile one can keep
//! whoever looks at it waiting for ever: then that copy is given up.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::builder::NonEmptyStringValueParser;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::attach::{self, AttachError, Process, Tree};
use crate::cmd::{self, Advise, EXIT_FAILURE, host};
use crate::config;
use crate::fs::memory;
use crate::place::attached::{self, Attached};
use crate::source::table::flaw_of_name;

/// How long the container's file systems, and the daemon, may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Where tokens are in a container.
pub(super) const PLACE: &str = "/run/molecule/token";

/// Which container, and where in it.
#[derive(Debug, clap::Args)]
pub struct Target {
    #[command(flatten)]
    container: Container,

    /// Where in the container: a path without symbolic links
    #[arg(long, value_name = "PATH", default_value = PLACE, value_parser = place)]
    path: PathBuf,

    /// When the process must have started
    #[arg(long, hide = true, value_name = "TICKS", requires = "pid")]
    started: Option<u64>,
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

/// What is shown where.
pub(super) struct Order<'a> {
    /// The mount, or a directory in it; `None` for the mount of this machine.
    pub(super) mountpoint: Option<PathBuf>,
    /// Where in the container.
    pub(super) path: &'a Path,
    /// Whether programs in the container may write to `refresh`.
    pub(super) allow_refresh: bool,
}

/// Shows a mount in a container.
///
/// # Errors
/// What stands in the way, and what to do about it. Nothing is left behind then.
pub fn run(args: &AttachArgs) -> anyhow::Result<ExitCode> {
    let AttachArgs { target, allow_refresh, door, mountpoint } = args;
    let door = door.as_ref().map(|Door(name)| Path::new(host::DEFAULT).join(name));
    let mountpoint = door.or_else(|| mountpoint.clone());
    let order = Order { mountpoint, path: &target.path, allow_refresh: *allow_refresh };
    apart(|note| {
        let (process, name) = target.container.find(target.started).map_err(explained)?;
        let (mountpoint, has_replaced) = show(&process, order, note)?;
        let instead = if has_replaced { ", in the place of an earlier mount" } else { "" };
        let (shown, path) = (mountpoint.display(), target.path.display());
        cmd::print(format!("{shown} is shown at {path} in {name}{instead}\n").as_bytes())
    })
}

/// Takes away what is shown in a container.
///
/// # Errors
/// Where nothing of this host's is there, and what else stands in the way.
pub fn detach(args: &DetachArgs) -> anyhow::Result<ExitCode> {
    let target = &args.target;
    apart(|note| {
        let (process, name) = target.container.find(target.started).map_err(explained)?;
        note.write(&Note::Gone { pid: process.pid(), path: target.path.clone() });
        attach::detach(&process, &target.path).map_err(explained)?;
        let path = target.path.display();
        cmd::print(format!("nothing is shown at {path} in {name} any more\n").as_bytes())
    })
}

/// Shows a mount in the container of a process. This process stays in the container.
pub(super) fn show(
    process: &Process,
    order: Order<'_>,
    note: &Noted,
) -> anyhow::Result<(PathBuf, bool)> {
    let Order { mountpoint, path, allow_refresh } = order;
    let (mountpoint, directory) = directory(mountpoint)?;
    let tree = Tree::of(&directory, &mountpoint, allow_refresh).map_err(explained)?;
    note.write(&Note::Shown(shown(process, &mountpoint, path, allow_refresh)));
    let has_replaced = attach::attach(process, &tree, path).map_err(explained)?;
    Ok((mountpoint, has_replaced))
}

/// Has a copy of this process do it, keeps what that did, and gives up waiting for it.
pub(super) fn apart(work: impl FnOnce(&Noted) -> anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    if !geteuid().is_root() {
        return Err(explained(AttachError::NotPermitted));
    }
    let cannot = || "cannot start the process that enters the container";
    let note = Noted(memory::anonymous(c"molecule-tokenfs-note").with_context(cannot)?);
    let work = || work(&note).map_or_else(|error| cmd::reported(&error), |()| 0);
    match attach::apart(PATIENCE, work) {
        Ok(code) => {
            if code == 0 {
                note.keep();
            }
            Ok(ExitCode::from(code))
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(anyhow!(
            "neither the container's file systems nor the daemon answered within {} s",
            PATIENCE.as_secs()
        )
        .hint("see what is mounted in the container, and whether the daemon is stopped: molecule-tokenfs status")),
        Err(error) => Err(error).with_context(cannot),
    }
}

/// What the process that enters a container would keep of that, if it could then still reach the host's
/// files.
#[derive(Serialize, Deserialize)]
enum Note {
    /// Something is shown; of the mount at this place.
    Shown(Option<(PathBuf, Attached)>),
    /// Nothing is shown at a path any more.
    Gone { pid: i32, path: PathBuf },
}

/// Memory that this process shares with its copy, which writes its [`Note`] there.
pub(super) struct Noted(OwnedFd);

impl Noted {
    /// Before the container is entered.
    fn write(&self, note: &Note) {
        let text = serde_json::to_vec(note).unwrap_or_default();
        // If it cannot be, nothing is kept.
        rustix::io::pwrite(&self.0, &text, 0).ok();
    }

    /// Keeps what was done.
    fn keep(self) {
        let mut text = Vec::new();
        let read = std::fs::File::from(self.0).read_to_end(&mut text);
        let kept = match serde_json::from_slice(&text) {
            Ok(Note::Shown(Some((mountpoint, attached)))) => attached.keep(&mountpoint),
            Ok(Note::Gone { pid, path }) => {
                attached::forget(pid, &path);
                Ok(())
            }
            Ok(Note::Shown(None)) | Err(_) => read.map(|_| ()),
        };
        if let Err(error) = kept {
            let text = format!("warning: a later daemon will not show it again: {error}\n");
            io::stderr().write_all(text.as_bytes()).ok();
        }
    }
}

/// What the next daemon needs to know, to show the same again.
fn shown(
    process: &Process,
    directory: &Path,
    path: &Path,
    allow_refresh: bool,
) -> Option<(PathBuf, Attached)> {
    let directory = std::path::absolute(directory).ok()?;
    let mount = attached::mount_of(&directory).ok()??;
    let attached = Attached {
        pid: process.pid(),
        started: process.started()?,
        device: mount.minor,
        directory,
        path: path.to_owned(),
        allow_refresh,
    };
    Some((mount.target, attached))
}

impl Container {
    /// Its process, and what to call it.
    fn find(&self, started: Option<u64>) -> Result<(Process, String), AttachError> {
        if let Some(wanted) = &self.container {
            let found = attach::find(wanted)?;
            let process = Process::open(found.pid, found.started)?;
            return Ok((process, format!("container {} (process {})", found.id, found.pid)));
        }
        // One of the two is there.
        let pid = self.pid.unwrap_or_default();
        Ok((Process::open(pid, started)?, format!("the container of process {pid}")))
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

pub(super) fn explained(error: AttachError) -> anyhow::Error {
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
