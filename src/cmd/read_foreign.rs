//! `read-foreign` (hidden): reads a file of somebody else's with that user's rights, and sends it to
//! the process that started it. See [`crate::foreign`].

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

use crate::foreign::{Request, child};

/// The arguments of `read-foreign`.
#[derive(Debug, clap::Args)]
pub struct ReadForeignArgs {
    /// What to read, as JSON
    request: OsString,
}

/// Answers on standard output.
///
/// # Errors
/// When the request is none, or nobody reads the answer; nobody hears of it.
pub fn run(args: &ReadForeignArgs) -> anyhow::Result<ExitCode> {
    let request = Request::parse(&args.request)?;
    child::serve(&request, io::stdin().as_fd(), io::stdout().lock())?;
    Ok(ExitCode::SUCCESS)
}
