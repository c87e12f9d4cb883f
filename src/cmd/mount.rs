//! `mount`: serves the tokens at a mountpoint.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::SettingsArgs;

/// The arguments of `mount`.
#[derive(Debug, clap::Args)]
pub struct MountArgs {
    /// Where to mount: a directory, or a regular file for the token alone [default:
    /// /run/molecule/token for root, else $XDG_RUNTIME_DIR/molecule/token]
    pub mountpoint: Option<PathBuf>,

    /// Return as soon as the mount serves, and go on in the background
    #[arg(long)]
    pub background: bool,

    /// The settings.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// Mounts and serves.
///
/// # Errors
/// When the mount cannot be made.
pub fn run(_args: MountArgs) -> anyhow::Result<ExitCode> {
    todo!("by the floor below")
}
