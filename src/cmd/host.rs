//! `serve`: one daemon for a host, with a door for each group of readers.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::anyhow;
use nix::unistd::geteuid;

use crate::advice::{Advise, EXIT_USAGE};
use crate::cmd::mount::{self, MountArgs};
use crate::cmd::served::ServeArgs;
use crate::config::Origin;
use crate::config::parse::BackendChoice;
use crate::status::Layout;

/// Where the doors are where nobody names another place.
pub const DEFAULT: &str = "/run/molecule/doors";

/// The arguments of `serve`.
#[derive(Debug, clap::Args)]
pub struct HostArgs {
    /// The directory of the doors; missing directories are made, and removed at the end
    #[arg(default_value = DEFAULT)]
    directory: PathBuf,

    /// Return as soon as the doors can be used, and go on in the background
    #[arg(long)]
    background: bool,

    /// Say on standard output when they can: for the parent of `--background`
    #[arg(long, hide = true, conflicts_with = "background")]
    tell_parent: bool,

    /// What is served.
    #[command(flatten)]
    serve: ServeArgs,
}

/// Serves the doors of the configuration.
///
/// # Errors
/// When they cannot be served; the error says what stands in the way and what to do.
pub fn run(args: HostArgs) -> anyhow::Result<ExitCode> {
    let HostArgs { directory, background, tell_parent, serve } = args;
    // A door that says no owner is root's.
    let default_owner = serve.default_owner.or(Some(0));
    let serve = ServeArgs { default_owner, doors: true, ..serve };
    let settings = serve.load()?;
    if !geteuid().is_root() {
        return Err(anyhow!("only root can serve other users and their containers")
            .hint("sudo molecule-tokenfs serve; for yourself: molecule-tokenfs mount"));
    }
    let is_other =
        |layout: Option<Layout>| layout.is_some_and(|layout| layout != Layout::Directory);
    if settings.backend.value == BackendChoice::Files || is_other(settings.layout.value) {
        let (setting, from) = if is_other(settings.layout.value) {
            ("layout", &settings.layout.origin)
        } else {
            ("backend", &settings.backend.origin)
        };
        return Err(told(setting, from).exit_code(EXIT_USAGE));
    }
    let args = MountArgs { mountpoint: None, background, tell_parent, with_parent: false, serve };
    mount::serve_as_daemon(&args, &settings, &directory)
}

fn told(setting: &str, from: &Origin) -> anyhow::Error {
    anyhow!("doors are directories of a mount, and `{setting}` ({from}) asks for something else")
        .hint(format!("leave `{setting}` out of the configuration of `serve`"))
}
