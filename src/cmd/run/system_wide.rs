//! The wiring of all users: shells that `docker exec` opens do not inherit our environment.
//!
//! It is root that writes here. What the command's user may own or change is neither run nor read, and
//! nothing is written where that user could put something in the way.

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
        match system_file()
            .and_then(|file| git::write_block(&file, settings).map(|written| (file, written)))
        {
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

/// git's configuration for all users, where root alone can change it.
fn system_file() -> anyhow::Result<PathBuf> {
    let file = git_config::system_file()?;
    let found = if file.exists() { Some(&*file) } else { file.parent() };
    spawn::check(found.unwrap_or(&file))
        .map_err(|why| anyhow!("{} is not root's alone: {why}", file.display()))?;
    Ok(file)
}

/// Whether a directory is root's, with all above it, and not everybody's. A group that may write it, as
/// Debian's `staff`, is one that root has chosen.
fn check_directory(directory: &Path) -> anyhow::Result<()> {
    // What is missing is made by root.
    let Some(there) = directory.ancestors().find_map(|there| fs::canonicalize(there).ok()) else {
        return Ok(());
    };
    for directory in there.ancestors() {
        let found = fs::metadata(directory)?;
        if found.uid() != 0 || found.mode() & 0o002 != 0 {
            bail!("{} is not root's alone", directory.display());
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
