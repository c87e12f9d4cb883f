//! `get`: prints a view.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use zeroize::Zeroizing;

use crate::cmd::reader::{Reader, TokenStatus};
use crate::cmd::{self, Advise, EXIT_NO_TOKEN};
use crate::config::parse;
use crate::config::settings::shown_span;

/// How long `--min-life` waits for the source: longer than its requests may take by default.
const REFRESH_LIMIT: Duration = Duration::from_secs(15);

/// How often a rotation between reading and judging is put up with.
const TRIES: usize = 5;

/// The arguments of `get`.
#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// What to print: token, header, git-credential, …
    #[arg(long)]
    pub view: Option<String>,

    /// Only a token that lives at least this long; a refresh is asked for if that helps
    #[arg(long, value_name = "SPAN", value_parser = parse::span_argument)]
    pub min_life: Option<Duration>,

    /// The mount [default: the one of this machine or user]
    pub mountpoint: Option<PathBuf>,
}

/// Prints the bytes of a view, and nothing else.
///
/// # Errors
/// When there is no token, or none that lives long enough.
pub fn run(args: &GetArgs) -> anyhow::Result<ExitCode> {
    let reader = Reader::find(args.mountpoint.clone())?;
    let view = args.view.as_deref();
    let bytes = match args.min_life {
        None => reader.read(view)?,
        Some(min_life) => read_living(&reader, view, min_life)?,
    };
    cmd::print(&bytes)?;
    Ok(ExitCode::SUCCESS)
}

/// A view whose token lives at least `min_life`.
fn read_living(
    reader: &Reader,
    view: Option<&str>,
    min_life: Duration,
) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let (bytes, status) = read_judged(reader, view)?;
    if status.left() >= min_life {
        return Ok(bytes);
    }
    let refreshed = reader.refresh(REFRESH_LIMIT, "--min-life");
    let (bytes, status) = read_judged(reader, view)?;
    if status.left() >= min_life {
        return Ok(bytes);
    }
    let failure = match refreshed {
        Ok(refreshed) => refreshed.now.last_failure.map(|failure| failure.to_error()),
        Err(error) => Some(error),
    };
    let what = format!(
        "the token lives {} more, less than the {} asked for",
        shown_span(status.left()),
        shown_span(min_life)
    );
    Err(match failure {
        Some(failure) => failure.context(what),
        None => anyhow!("{what}, and the source gives no other yet")
            .hint("ask for less: a platform that caches gives each token until its last minutes"),
    }
    .exit_code(EXIT_NO_TOKEN))
}

/// The bytes of a view and the status of the very token that is in them.
fn read_judged(
    reader: &Reader,
    view: Option<&str>,
) -> anyhow::Result<(Zeroizing<Vec<u8>>, TokenStatus)> {
    // The open comes first: it is what fetches a token where there is none.
    let mut before = reader.open(view).and_then(|_| reader.status("--min-life"))?;
    for _ in 0..TRIES {
        let bytes = reader.read(view)?;
        let after = reader.status("--min-life")?;
        if after.generation == before.generation {
            return Ok((bytes, after));
        }
        before = after;
    }
    Err(anyhow!("the token changes faster than it can be judged"))
}
