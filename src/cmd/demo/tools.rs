//! The programs that the demo runs: which there are, and how to get those that are missing.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::cmd::Advise;
use crate::cmd::setup::gh::real_gh_of;
use crate::spawn;

/// What asks the REST interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// GitHub's own command line.
    Gh,
    /// curl, where there is no gh.
    Curl,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tools {
    /// Where they were found.
    pub(super) path: OsString,
    /// What asks the REST interface.
    pub(super) asker: Asker,
    /// gh itself. What PATH calls so may be a shim that gives it the machine's fresh tokens.
    pub(super) gh: PathBuf,
}

impl Tools {
    pub(super) fn find() -> anyhow::Result<Self> {
        let path = spawn::search_path();
        if find_in(&path, "git").is_none() {
            return Err(anyhow::anyhow!("git is not installed, and the demo is about git")
                .hint("install it: apt-get install git"));
        }
        let gh = real_gh_of(find_all_in(&path, "gh"));
        let asker = if gh.is_some() {
            Asker::Gh
        } else if find_in(&path, "curl").is_some() {
            Asker::Curl
        } else {
            return Err(anyhow::anyhow!("neither gh nor curl is installed")
                .hint("install one, better the first: apt-get install gh"));
        };
        Ok(Self { path, asker, gh: gh.unwrap_or_default() })
    }

    /// What is missing for the whole demo, with the line that installs it.
    pub(super) fn notes(&self) -> Vec<String> {
        match self.asker {
            Asker::Gh => Vec::new(),
            Asker::Curl => {
                vec![
                    "gh is not installed, so curl asks in its place: apt-get install gh".to_owned(),
                ]
            }
        }
    }
}

/// The first executable of this name in `path`; empty and relative entries do not count.
pub(super) fn find_in(path: &OsStr, name: &str) -> Option<PathBuf> {
    find_all_in(path, name).next()
}

/// All of them.
fn find_all_in(path: &OsStr, name: &str) -> impl Iterator<Item = PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let executable = |path: &Path| {
        let metadata = std::fs::metadata(path).ok();
        metadata.is_some_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(path)
        .filter(|directory| directory.is_absolute())
        .map(move |directory| directory.join(name))
        .filter(move |program| executable(program))
}
