//! `wait`: returns when a fresh token can be read.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::anyhow;

use crate::cmd::reader::{Reader, Which};
use crate::cmd::{self, Advise, EXIT_NO_TOKEN, EXIT_USAGE};
use crate::config::parse;
use crate::config::settings::shown_span;
use crate::time::{Clock, SystemClock};

/// Between two tries. A refusal comes at once, and asking again costs the source nothing: an open
/// never shortens a back-off.
const TRY_EVERY: Duration = Duration::from_millis(200);

/// The arguments of `wait`.
#[derive(Debug, clap::Args)]
pub struct WaitArgs {
    /// Give up after this long
    #[arg(long = "for", value_name = "SPAN", default_value = "30s")]
    #[arg(value_parser = parse::span_argument)]
    pub limit: Duration,

    /// Which token.
    #[command(flatten)]
    pub which: Which,

    /// The mount [default: the one of this machine or user]
    pub mountpoint: Option<PathBuf>,
}

/// Waits for the mount and for a fresh token in it. No failure ends it early: also what looks
/// permanent heals when the workspace registers or somebody mends the platform. A token that the mount
/// does not have is another matter.
///
/// # Errors
/// The last failure, when time is up; at once for a token that the mount does not have.
pub fn run(args: &WaitArgs) -> anyhow::Result<ExitCode> {
    let end = SystemClock.now().boot + args.limit;
    let left = || end.saturating_sub(SystemClock.now().boot);
    let mut last = None;
    loop {
        match attempt(args.mountpoint.clone(), args.which.clone(), left()) {
            Some(Ok(())) => return Ok(ExitCode::SUCCESS),
            // What serves there has no such token.
            Some(Err(error)) if cmd::describe(&error).1 == EXIT_USAGE => return Err(error),
            Some(Err(error)) => last = Some(error),
            None => {}
        }
        if left().is_zero() {
            let error = last.unwrap_or_else(|| {
                anyhow!("an open is still waiting for a token")
                    .hint("see what the source does: molecule-tokenfs status")
            });
            return Err(error
                .context(format!("no token could be read within {}", shown_span(args.limit)))
                .exit_code(EXIT_NO_TOKEN));
        }
        std::thread::sleep(left().min(TRY_EVERY));
    }
}

/// Opens the token; `None` when that takes longer than `limit`. On a thread of its own, for an open
/// may wait longer than we do; the end of the process interrupts it.
fn attempt(
    mountpoint: Option<PathBuf>,
    which: Which,
    limit: Duration,
) -> Option<anyhow::Result<()>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let opened = Reader::find(mountpoint)
            .and_then(|reader| reader.of_token(&which))
            .and_then(|reader| reader.open(None).map(drop));
        // Nobody listens any more when it took too long.
        let _ = sender.send(opened);
    });
    receiver.recv_timeout(limit).ok()
}
