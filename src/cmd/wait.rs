//! `wait`: returns when a fresh token can be read.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::cmd::reader::Reader;
use crate::cmd::{Advise, EXIT_NO_TOKEN};
use crate::config::parse;
use crate::config::settings::shown_span;
use crate::time::{Clock, SystemClock};

/// Between two tries. A refusal comes at once, and asking again costs the source nothing: an open
/// never shortens a back-off.
const TRY_EVERY: Duration = Duration::from_millis(200);

/// The arguments of `wait`.
#[derive(Debug, clap::Args)]
pub struct WaitArgs {
    /// Give up after this long; an open that is under way is waited for
    #[arg(long = "for", value_name = "SPAN", default_value = "30s")]
    #[arg(value_parser = parse::span_argument)]
    pub limit: Duration,

    /// The mount [default: the one of this machine or user]
    pub mountpoint: Option<PathBuf>,
}

/// Waits for the mount and for a fresh token in it. No failure ends it early: also what looks
/// permanent heals when the workspace registers or somebody mends the platform.
///
/// # Errors
/// The last failure, when time is up.
pub fn run(args: &WaitArgs) -> anyhow::Result<ExitCode> {
    let end = SystemClock.now().boot + args.limit;
    loop {
        let attempt =
            Reader::find(args.mountpoint.clone()).and_then(|reader| reader.open(None).map(drop));
        let Err(error) = attempt else { return Ok(ExitCode::SUCCESS) };
        let left = end.saturating_sub(SystemClock.now().boot);
        if left.is_zero() {
            return Err(error
                .context(format!("no token could be read within {}", shown_span(args.limit)))
                .exit_code(EXIT_NO_TOKEN));
        }
        std::thread::sleep(left.min(TRY_EVERY));
    }
}
