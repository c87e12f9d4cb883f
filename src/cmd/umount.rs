//! `umount`: takes a mount of ours away; the daemon behind it then ends by itself.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config;
use crate::connection::mount;
use crate::files;

/// The arguments of `umount`.
#[derive(Debug, clap::Args)]
pub struct UmountArgs {
    /// Where it is mounted
    mountpoint: Option<PathBuf>,

    /// Detach it even while files are open there
    #[arg(long, short = 'z')]
    lazy: bool,
}

/// Runs the command.
pub fn run(args: UmountArgs) -> anyhow::Result<ExitCode> {
    let target = args.mountpoint.map_or_else(|| config::find_mountpoint(None), Ok)?;
    if let Some(found) = files::Found::at(&target) {
        found.end(&target).map_err(super::serve::explained)?;
        return Ok(ExitCode::SUCCESS);
    }
    mount::unmount(&target, args.lazy).map_err(super::serve::explained)?;
    Ok(ExitCode::SUCCESS)
}
