//! The wiring of all users: shells that `docker exec` opens do not inherit our environment.
//!
//! Root does this, so nothing that the command's user may own or change is run, read or written to.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};

use crate::cmd::setup::{gh, git, git_config};
use crate::spawn;

/// Where programs go that do not belong to the distribution, first in every usual PATH.
const PROGRAMS: &str = "/usr/local/bin";

/// What was wired, and was not before. Taken back when dropped: what a run made ends with it. What it
/// cannot take back, because it was killed, the next one takes over; by hand `setup git --undo
/// --system` and `setup gh --undo` do.
#[derive(Debug, Default)]
pub struct SystemWide {
    git: Option<PathBuf>,
    gh: bool,
}

impl SystemWide {
    /// Wires what can be wired: a read-only root, or one without git, is no reason to give up.
    pub fn wire(settings: &[(String, String)]) -> Self {
        let mut wired = Self::default();
        match system_file().and_then(|file| {
            git::write_block(&file, settings, " --system").map(|written| (file, written))
        }) {
            Ok((file, written)) => {
                tracing::debug!("git is wired for all users in {}", file.display());
                wired.git = written.changed.then_some(file);
            }
            Err(error) => told("git", &error),
        }
        match check_directory(Path::new(PROGRAMS)).and_then(|()| gh::put_in(Path::new(PROGRAMS))) {
            Ok(changed) => {
                tracing::debug!("gh is wired for all users in {PROGRAMS}");
                wired.gh = changed;
            }
            Err(error) => told("gh", &error),
        }
        wired
    }
}

/// git's system configuration, provided that only root can change it.
fn system_file() -> anyhow::Result<PathBuf> {
    let file = git_config::system_file()?;
    let found = if file.exists() { Some(&*file) } else { file.parent() };
    spawn::check(found.unwrap_or(&file))
        .map_err(|why| anyhow!("others than root can change {}: {why}", file.display()))?;
    Ok(file)
}

/// Checks that a directory and all directories above it belong to root and are not world-writable. A
/// group that may write them, such as Debian's `staff`, was chosen by root.
fn check_directory(directory: &Path) -> anyhow::Result<()> {
    // Root creates missing directories.
    let Some(there) = directory.ancestors().find_map(|there| fs::canonicalize(there).ok()) else {
        return Ok(());
    };
    for directory in there.ancestors() {
        let found = fs::metadata(directory)?;
        if found.uid() != 0 || found.mode() & 0o002 != 0 {
            bail!("others than root can change {}", directory.display());
        }
    }
    Ok(())
}

fn told(tool: &str, error: &anyhow::Error) {
    tracing::warn!(
        "{tool} works for the command, and not in other shells of this container: {error:#}"
    );
}

impl Drop for SystemWide {
    fn drop(&mut self) {
        let git = self.git.take().map(|file| git::take_out_block(&file).map(|_| ()));
        let gh = self.gh.then(|| gh::take_out(Path::new(PROGRAMS)).map(|_| ()));
        for error in [git, gh].into_iter().flatten().filter_map(Result::err) {
            tracing::warn!("some of the wiring for all users is left: {error:#}");
        }
    }
}
