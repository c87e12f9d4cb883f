//! `refresh`: fetches a new token now.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::cmd::reader::{Reader, TokenStatus};
use crate::cmd::{self, Advise, EXIT_FAILURE, EXIT_NO_TOKEN};
use crate::config::parse;
use crate::config::settings::shown_span;

/// The arguments of `refresh`.
#[derive(Debug, clap::Args)]
pub struct RefreshArgs {
    /// Wait this long for the source's answer
    #[arg(long = "for", value_name = "SPAN", default_value = "15s")]
    #[arg(value_parser = parse::span_argument)]
    pub limit: Duration,

    /// The mount [default: the one of this machine or user]
    pub mountpoint: Option<PathBuf>,
}

/// Asks for a new token, waits for it, and prints its fingerprint and life in one line.
///
/// # Errors
/// When the source gives none; a token that is still served is named.
pub fn run(args: &RefreshArgs) -> anyhow::Result<ExitCode> {
    let reader = Reader::find(args.mountpoint.clone())?;
    let refreshed = reader.refresh(args.limit, "refresh")?;
    let now = &refreshed.now;
    let token = described(now);
    if let Some(failure) = &now.last_failure {
        let failed = failure.to_error();
        return Err(match token {
            Some(token) => {
                failed.context(format!("no new token; {token} is kept")).exit_code(EXIT_FAILURE)
            }
            None => failed.context("no token").exit_code(EXIT_NO_TOKEN),
        });
    }
    let line = match token {
        None => "no token, and no source has failed\n".to_owned(),
        Some(token) if now.generation == refreshed.before.generation => {
            format!("{token}: the source gives no other yet\n")
        }
        Some(token) => format!("{token}\n"),
    };
    cmd::print(line.as_bytes())?;
    Ok(if now.generation.is_some() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_NO_TOKEN) })
}

fn described(status: &TokenStatus) -> Option<String> {
    let fingerprint = status.fingerprint.as_ref()?;
    // A dead token is none.
    let left = Some(status.left()).filter(|left| !left.is_zero())?;
    Some(format!("token {fingerprint}, {} left", shown_span(left)))
}
