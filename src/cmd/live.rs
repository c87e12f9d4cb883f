//! Asking a source once, for people who configure it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::config::settings::shown_span;
use crate::error::{FetchError, FetchErrorKind};
use crate::foreign::Launcher;
use crate::source::{Fetched, SourceConfig, Surroundings};
use crate::time::{Clock, SystemClock};
use crate::token::Term;

/// The longest that a source may take, whatever its own limit.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks each source for a token, one after the other. The tokens are forgotten.
///
/// # Errors
/// Where this process has no runtime or no `/proc`. What a source says is in the list.
pub fn ask(sources: Vec<SourceConfig>) -> anyhow::Result<Vec<Result<Fetched, FetchError>>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let launcher = Launcher::own().context("cannot open the program")?;
    let surroundings = Surroundings::new(clock, launcher);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let answers = runtime.block_on(async {
        let mut answers = Vec::new();
        for source in sources {
            let source = source.build(&surroundings);
            let late = |_| {
                let detail = format!("no answer in {}", shown_span(PATIENCE));
                Err(FetchError::new(source.name(), FetchErrorKind::TimedOut, detail))
            };
            answers.push(tokio::time::timeout(PATIENCE, source.fetch()).await.unwrap_or_else(late));
        }
        answers
    });
    runtime.shutdown_background();
    Ok(answers)
}

/// What came, without the token: its fingerprint, and what is left of its life.
#[must_use]
pub fn described(fetched: &Fetched) -> String {
    let fingerprint = fetched.secret.fingerprint();
    match fetched.term {
        Term::Until { expires_at, server } => {
            let now = server.unwrap_or(fetched.issued.wall);
            let left = Duration::from_secs(expires_at.saturating_sub(now).as_secs());
            format!("token {fingerprint}, {} left", shown_span(left))
        }
        _ => format!("token {fingerprint}, whose expiry nobody knows"),
    }
}
