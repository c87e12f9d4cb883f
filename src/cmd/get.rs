//! `get`: prints a view.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use zeroize::Zeroizing;

use crate::cmd::reader::{Reader, Refreshed, Which, as_error};
use crate::cmd::{self, Advise, EXIT_NO_TOKEN};
use crate::config::parse;
use crate::config::settings::shown_span;
use crate::status::TokenStatus;

/// How long `--min-life` waits for the source: longer than its requests may take by default.
const REFRESH_LIMIT: Duration = Duration::from_secs(15);

/// A refresh is refused within a second of another.
const REFRESH_SPACING: Duration = Duration::from_millis(1100);

/// How often a rotation between reading and judging is put up with.
const TRIES: usize = 5;

/// The arguments of `get`.
#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// What to print: token, header, git-credential, …
    #[arg(long)]
    pub view: Option<String>,

    /// Only a token that lives at least this long; asks for a refresh if that helps
    #[arg(long, value_name = "SPAN", value_parser = parse::span_argument)]
    pub min_life: Option<Duration>,

    /// Which token.
    #[command(flatten)]
    pub which: Which,

    /// The mount [default: the one of this machine or user]
    pub mountpoint: Option<PathBuf>,
}

/// Prints the bytes of a view, and nothing else.
///
/// # Errors
/// When there is no token, or none that lives long enough.
pub fn run(args: &GetArgs) -> anyhow::Result<ExitCode> {
    let reader = Reader::find(args.mountpoint.clone())?.of_token(&args.which)?;
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
    let mut refreshed = reader.refresh(REFRESH_LIMIT);
    if refreshed.as_ref().is_err_and(Reader::was_too_soon) {
        // Somebody else asked just now, and what came then may do.
        std::thread::sleep(REFRESH_SPACING);
        let (bytes, status) = read_judged(reader, view)?;
        if status.left() >= min_life {
            return Ok(bytes);
        }
        refreshed = reader.refresh(REFRESH_LIMIT);
    }
    let (bytes, status) = read_judged(reader, view)?;
    if status.left() >= min_life {
        return Ok(bytes);
    }
    let what = format!(
        "the token lives {} more, less than the {} asked for",
        shown_span(status.left()),
        shown_span(min_life)
    );
    Err(match refreshed {
        Err(error) => error.context(what),
        Ok(Refreshed { now: TokenStatus { last_failure: Some(failure), .. }, .. }) => {
            as_error(&failure).context(what)
        }
        Ok(refreshed) if refreshed.brought_another() => {
            anyhow!("{what}, and it is a new one").hint("ask for less than the source gives")
        }
        Ok(_) => anyhow!("{what}, and the source gives no other yet")
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
    let mut before = reader.open(view).and_then(|_| reader.status())?;
    for _ in 0..TRIES {
        let bytes = reader.read(view)?;
        let after = reader.status()?;
        if after.generation == before.generation {
            return Ok((bytes, after));
        }
        before = after;
    }
    Err(anyhow!("the token changes faster than it can be judged"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cmd::describe;
    use crate::cmd::reader::fake::FakeMount;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn a_token_that_lives_long_enough_is_not_refreshed() {
        let mount = FakeMount::new(&json!({ "generation": 1, "left_seconds": 1800 }));
        let bytes = read_living(&mount.reader(), None, MINUTE * 30).unwrap();
        assert_eq!(**bytes, *b"ghs_one");
        assert_eq!(std::fs::read(mount.path("refresh")).unwrap(), b"");
    }

    #[test]
    fn one_that_does_not_is_refreshed() {
        let mount = FakeMount::new(&json!({ "generation": 1, "left_seconds": 1799 }));
        let _source = mount
            .answer_refresh(vec![json!({ "generation": 2, "left_seconds": 3600, "attempts": 1 })]);
        assert!(read_living(&mount.reader(), None, MINUTE * 30).is_ok());
    }

    #[test]
    fn where_a_refresh_does_not_help_the_life_left_is_told() {
        let mount = FakeMount::new(&json!({ "generation": 1, "left_seconds": 240 }));
        let same = json!({ "generation": 1, "left_seconds": 239, "attempts": 1 });
        let _source = mount.answer_refresh(vec![same]);
        let (text, code) = describe(&read_living(&mount.reader(), None, MINUTE * 30).unwrap_err());
        assert_eq!(
            text,
            "error: the token lives 3m59s more, less than the 30m asked for, and the source gives \
             no other yet\nhint: ask for less: a platform that caches gives each token until its \
             last minutes\n"
        );
        assert_eq!(code, EXIT_NO_TOKEN);
    }

    #[test]
    fn a_new_token_that_lives_no_longer_is_told_as_such() {
        let mount = FakeMount::new(&json!({ "generation": 1, "left_seconds": 9 }));
        let _source = mount.answer_refresh(vec![json!({
            "generation": 2, "fingerprint": "bbbbbbbb", "left_seconds": 60, "attempts": 1,
        })]);
        let error = read_living(&mount.reader(), None, MINUTE * 30).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the token lives 1m more, less than the 30m asked for, and it is a new one"
        );
    }

    #[test]
    fn where_the_refresh_fails_the_reason_is_told_too() {
        let mount = FakeMount::new(&json!({ "generation": 1, "left_seconds": 240 }));
        let failure = json!({ "source": "platform", "message": "no answer", "remedy": "wait" });
        let _source = mount.answer_refresh(vec![
            json!({ "generation": 1, "left_seconds": 239, "attempts": 1, "last_failure": failure }),
        ]);
        let (text, code) = describe(&read_living(&mount.reader(), None, MINUTE * 30).unwrap_err());
        assert_eq!(
            text,
            "error: the token lives 3m59s more, less than the 30m asked for\n\
             \x20 caused by: platform: no answer\nhint: wait\n"
        );
        assert_eq!(code, EXIT_NO_TOKEN);
    }
}
