//! Which token of a mount a command is about.

use std::io;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, anyhow};
use serde::Deserialize;

use crate::cmd::reader::nobody_serves;
use crate::cmd::{Advise, EXIT_USAGE};
use crate::config::tables::DEFAULT;
use crate::fs::demand;
use crate::place::control;
use crate::source::Scope;
use crate::source::table::most_like;
use crate::status::{Backend, TokenStatus};

/// Which token of a mount.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Which {
    /// The token, by its name in the configuration, or its directory [default: that of the mount itself]
    #[arg(long, value_name = "NAME")]
    pub token: Option<String>,

    /// The token for this repository alone, made on demand
    #[arg(long, value_name = "OWNER/REPO", conflicts_with = "token")]
    pub repo: Option<String>,
}

/// What of the document is read here.
#[derive(Deserialize)]
struct Status {
    backend: Option<Backend>,
    backend_reason: Option<String>,
    tokens: Vec<TokenStatus>,
}

impl Which {
    /// The token's directory in the mount at `root`, which people know as `mountpoint`; empty for the
    /// token of the mount itself.
    ///
    /// # Errors
    /// When the mount has no such token: with the nearest name that it has, and all of them.
    pub(in crate::cmd) fn directory_in(
        &self,
        mountpoint: &Path,
        root: &Path,
    ) -> anyhow::Result<PathBuf> {
        let on_demand = self.on_demand()?;
        let directory = match (&on_demand, &self.token) {
            (Some(scope), _) => PathBuf::from(demand::place(scope)),
            (None, Some(name)) if name != DEFAULT => PathBuf::from(name),
            _ => return Ok(PathBuf::new()),
        };
        let mut parts = directory.components();
        let is_plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        let is_one =
            (is_plain || on_demand.is_some()) && root.join(&directory).join("status.json").exists();
        if is_one { Ok(directory) } else { Err(self.missing(on_demand.as_ref(), mountpoint, root)) }
    }

    /// The token on demand that is meant, if it is one: `--repo acme/web`, or `--token` with the directory
    /// of one, as `status` lists them.
    fn on_demand(&self) -> anyhow::Result<Option<Scope>> {
        match (&self.token, &self.repo) {
            (Some(name), _) => Ok(demand::at_place(name)),
            (None, Some(repository)) => scope(repository).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// What to say of a token that is not there.
    fn missing(&self, on_demand: Option<&Scope>, mountpoint: &Path, root: &Path) -> anyhow::Error {
        let status = match read(root) {
            Ok(status) => status,
            Err(error) => return nobody_serves(error, mountpoint),
        };
        let shown = mountpoint.display();
        let error = match on_demand {
            _ if root.is_file() => {
                anyhow!("{shown} is mounted as a single file, which has room for one token")
                    .hint("mount a directory, which has all of them")
            }
            Some(scope) => {
                let error = anyhow!("there is no token for `{scope}` at {shown}");
                no_repository(error, &status, root)
            }
            None => {
                let name = self.token.as_deref().unwrap_or_default();
                let error = anyhow!("there is no token `{name}` at {shown}");
                match most_like(name, status.names().map(|known| (known, known))) {
                    Some(known) => error.hint(format!("did you mean `{known}`?")),
                    None => error,
                }
            }
        };
        let names: Vec<_> = status.names().collect();
        let error = match names.as_slice() {
            [_] => error
                .hint("no token but `default` is there: docs/GITHUB_APP.md shows how to add one"),
            _ => error.hint(format!("the tokens there are {}", names.join(", "))),
        };
        error.exit_code(EXIT_USAGE)
    }
}

impl Status {
    /// Those of the configuration.
    fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.tokens.iter().map(|token| &*token.name);
        names.filter(|name| demand::at_place(name).is_none())
    }
}

/// The repository that is meant.
fn scope(repository: &str) -> anyhow::Result<Scope> {
    let parts = repository.split_once('/');
    parts.and_then(|(owner, name)| Scope::of_repository(owner, name)).ok_or_else(|| {
        anyhow!("`{repository}` is no repository")
            .hint("write OWNER/REPO, as in its address")
            .exit_code(EXIT_USAGE)
    })
}

fn no_repository(error: anyhow::Error, status: &Status, root: &Path) -> anyhow::Error {
    if status.backend == Some(Backend::Files) {
        let why = status.backend_reason.as_ref().map(|why| format!(", because {why}"));
        return error
            .context(format!(
                "tokens on demand need a mount, and this is kept as files{}",
                why.unwrap_or_default()
            ))
            .hint(
                "configure [tokens.NAME] with a source for the repository, and use --token NAME",
            );
    }
    if root.join("repos").exists() {
        error.hint("look at `owner`, `owners` and `repositories` in the configuration")
    } else {
        error.hint("set `on-demand = true` in [tokens.default] of the configuration")
    }
}

fn read(root: &Path) -> anyhow::Result<Status> {
    let document = control::status(root).map_err(|error: io::Error| anyhow::Error::new(error))?;
    serde_json::from_slice(&document).context("status.json is not the status of tokens")
}
