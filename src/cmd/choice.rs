//! Which of a mount's tokens serves a repository: that for it alone, where the mount makes tokens on
//! demand; else the named one that says it is for the owner; else that of the mount.
//!
//! `scripts/git-credential-molecule` and `scripts/gh` choose in the same way. They need no more than the
//! files either: a directory `repos/OWNER/REPO`, and `owners` and `hosts` in the `status.json` of each
//! named token, which is beside its views. Nothing that is looked at waits for a token.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::fs::demand;
use crate::place::control;
use crate::source::Scope;

/// The view that tells whether a directory is a token's.
const VIEW: &str = "git-credential";

/// A token of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The one for a repository alone, `OWNER/REPO`, or for all of an owner.
    OnDemand(Scope),
    /// A named one, which says that it is for the owner.
    Named(String),
    /// That of the mount itself.
    Mount,
}

/// What a token says of itself; an older daemon says nothing.
#[derive(Default, Deserialize)]
#[serde(default)]
struct About {
    owners: Vec<String>,
    hosts: Vec<String>,
}

impl About {
    /// What the document beside the views in this directory says of the first of its tokens.
    fn read(directory: &Path) -> Option<Self> {
        #[derive(Deserialize)]
        struct Document {
            tokens: Vec<About>,
        }
        let text = control::status(directory).ok()?;
        let document: Document = serde_json::from_slice(&text).ok()?;
        document.tokens.into_iter().next()
    }

    fn is_for_host(&self, host: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|own| own == host)
    }
}

impl Choice {
    /// The token of the mount at `mountpoint` for this repository, or owner, at a host.
    #[must_use]
    pub fn of(mountpoint: &Path, scope: &Scope, host: &str) -> Self {
        let on_demand = Self::OnDemand(scope.clone());
        let directory = mountpoint.join(on_demand.place());
        let is_on_demand = || {
            directory.join(VIEW).exists()
                && About::read(&directory).is_none_or(|about| about.is_for_host(host))
        };
        // For an owner, one that is there already comes before one that has to be made.
        if scope.repository.is_some() && is_on_demand() {
            return on_demand;
        }
        let is_it = |about: &About| about.owners.contains(&scope.owner) && about.is_for_host(host);
        let mut named = named(mountpoint).into_iter();
        if let Some((name, _)) = named.find(|(_, about)| is_it(about)) {
            return Self::Named(name);
        }
        if scope.repository.is_none() && is_on_demand() { on_demand } else { Self::Mount }
    }

    /// Its directory, below the mountpoint.
    #[must_use]
    pub fn place(&self) -> PathBuf {
        match self {
            Self::OnDemand(scope) => demand::place(scope).into(),
            Self::Named(name) => name.into(),
            Self::Mount => PathBuf::new(),
        }
    }

    /// Whether the mount has another token than its own.
    #[must_use]
    pub fn is_there(mountpoint: &Path) -> bool {
        mountpoint.join("repos").is_dir() || !named(mountpoint).is_empty()
    }

    /// Whether the token of the mount says that it is for others than this owner alone.
    #[must_use]
    pub fn leaves_out(mountpoint: &Path, owner: &str) -> bool {
        let about = About::read(mountpoint).unwrap_or_default();
        !about.owners.is_empty() && !about.owners.iter().any(|own| own == owner)
    }
}

/// The named tokens of a mount, in the order of their names: that in which the shell lists them.
fn named(mountpoint: &Path) -> Vec<(String, About)> {
    let entries = fs::read_dir(mountpoint).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let tokens = names.filter_map(|name| {
        let directory = mountpoint.join(&name);
        // `gh` and `live` are directories, too, and no token's.
        directory.join("status.json").exists().then(|| Some((name, About::read(&directory)?)))?
    });
    let mut tokens: Vec<_> = tokens.collect();
    tokens.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mount with tokens on demand for two repositories of acme, and one for globex.
    fn mount() -> tempfile::TempDir {
        let mount = tempfile::tempdir().unwrap();
        for place in ["repos/acme/web", "orgs/acme", "live", "globex", "initech"] {
            let place = mount.path().join(place);
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join(VIEW), "").unwrap();
        }
        let about = |name: &str, about: &str| {
            let text = format!("{{\"tokens\":[{{{about}}},{{\"owners\":[\"acme\"]}}]}}");
            fs::write(mount.path().join(name).join("status.json"), text).unwrap();
        };
        about("", r#""owners":["acme"]"#);
        about("globex", r#""owners":["globex","globex-labs"],"hosts":["github.com"]"#);
        about("initech", r#""owners":["globex"],"hosts":["ghe.example.com"]"#);
        mount
    }

    fn place(mount: &Path, name: &str, host: &str) -> String {
        let scope = match name.split_once('/') {
            Some((owner, name)) => Scope::of_repository(owner, name),
            None => Scope::of_owner(name),
        };
        Choice::of(mount, &scope.unwrap(), host).place().display().to_string()
    }

    #[test]
    fn the_token_of_the_repository_comes_before_that_of_its_owner_and_that_of_the_mount() {
        let mount = mount();
        for (name, expected) in [
            ("Acme/Web.git", "repos/acme/web"),
            ("acme/other", ""),
            ("acme", "orgs/acme"),
            ("Globex/docs", "globex"),
            ("globex-labs/x", "globex"),
            ("globex", "globex"),
            ("nobody/x", ""),
        ] {
            assert_eq!(place(mount.path(), name, "github.com"), expected, "{name}");
        }
        assert!(Choice::is_there(mount.path()));
        assert!(!Choice::is_there(&mount.path().join("globex")));
        assert!(Choice::leaves_out(mount.path(), "globex"));
        assert!(!Choice::leaves_out(mount.path(), "acme"));
    }

    #[test]
    fn a_token_for_another_host_is_not_taken() {
        let mount = mount();
        assert_eq!(place(mount.path(), "globex/docs", "ghe.example.com"), "initech");
        assert_eq!(place(mount.path(), "globex/docs", "other.example.com"), "");
    }
}
