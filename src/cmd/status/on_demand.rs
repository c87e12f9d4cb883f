//! The tokens on demand of a mount, which its document does not tell of.

use std::path::{Path, PathBuf};

use super::parse;
use crate::connection::control;
use crate::status::TokenStatus;

/// Those that were opened lately, by their directories. None where this user may not list them.
pub(super) fn opened_at(mountpoint: &Path) -> Vec<TokenStatus> {
    let repositories = names(&mountpoint.join("repos")).into_iter().flat_map(|owner| names(&owner));
    let places = repositories.chain(names(&mountpoint.join("orgs")));
    let token = |place: PathBuf| {
        let status = parse(&control::status(&place).ok()?).ok()?;
        let name = place.strip_prefix(mountpoint).ok()?.to_string_lossy().into_owned();
        Some(TokenStatus { name, ..status.tokens.into_iter().next()? })
    };
    places.filter_map(token).collect()
}

/// What is in a directory, in order.
fn names(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
