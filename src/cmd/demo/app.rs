//! The GitHub App of the demo, which its daemon mints tokens with: for one repository alone, while a file
//! below `repos/` is being opened.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;

use crate::cmd::demo::place::Place;
use crate::demo::Demo;
use crate::demo::github::Installation;

/// The repository that the lane's token is for.
pub(super) const REPOSITORY: &str = "acme/web";
/// One that the App may use too, and that token may not.
pub(super) const OTHER: &str = "acme/api";

/// Makes the App with its two repositories, and the settings by which the daemon mints with it.
///
/// # Errors
/// A repository, the key or the settings cannot be made.
pub(super) fn create(place: &Place, demo: &Demo) -> anyhow::Result<()> {
    for repository in [REPOSITORY, OTHER] {
        demo.create_repository(&format!("{repository}.git"))?;
    }
    let key = place.root().join("app.pem");
    let client_id = demo.github().create_app(&key).context("cannot make the demo's App")?;
    let names = [REPOSITORY, OTHER].map(|path| path.split_once('/').unwrap_or_default());
    let owner = names.first().map_or("", |(owner, _)| owner);
    demo.github().install(Installation::of(1, owner, &names.map(|(_, name)| name)));
    // A string in JSON is one in TOML, whatever the path holds.
    let key = serde_json::Value::from(key.to_string_lossy());
    let settings = format!(
        "[tokens.app]\nsources = ['app']\non-demand = true\n\n\
         [sources.app]\ntype = 'github-app'\nclient-id = '{client_id}'\nprivate-key = {{ file = {key} }}\n\
         api-url = '{}'\nowner = '{owner}'\n",
        demo.url()
    );
    fs::write(place.settings(), settings).context("cannot write the daemon's settings")
}

/// Where the token for [`REPOSITORY`] is.
pub(super) fn views(place: &Place) -> PathBuf {
    place.mount().join("repos").join(REPOSITORY)
}
