//! `refresh`: fetches a new token now.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;

use crate::cmd::reader::{Reader, Refreshed, Which, as_error};
use crate::cmd::{self, Advise, EXIT_FAILURE, EXIT_NO_TOKEN};
use crate::config::parse;
use crate::config::settings::shown_span;
use crate::status::TokenStatus;

/// The arguments of `refresh`.
#[derive(Debug, clap::Args)]
pub struct RefreshArgs {
    /// Wait this long for the source's answer
    #[arg(long = "for", value_name = "SPAN", default_value = "15s")]
    #[arg(value_parser = parse::span_argument)]
    pub limit: Duration,

    /// Which token.
    #[command(flatten)]
    pub which: Which,

    /// The mount [default: the one of this machine or user]
    pub mountpoint: Option<PathBuf>,
}

/// Asks for a new token, waits for it, and prints its fingerprint and life in one line.
///
/// # Errors
/// When the source gives none; a token that is still served is named.
pub fn run(args: &RefreshArgs) -> anyhow::Result<ExitCode> {
    let reader = Reader::find(args.mountpoint.clone())?.of_token(&args.which)?;
    let line = outcome(&reader.refresh(args.limit)?)?;
    cmd::print(line.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn outcome(refreshed: &Refreshed) -> anyhow::Result<String> {
    let now = &refreshed.now;
    let token = described(now);
    if let Some(failure) = &now.last_failure {
        let failed = as_error(failure);
        return Err(match token {
            Some(token) => failed
                .context(format!("no new token came; still served: {token}"))
                .exit_code(EXIT_FAILURE),
            None => failed.context("no token").exit_code(EXIT_NO_TOKEN),
        });
    }
    match token {
        None => Err(anyhow!("no token came, and no source says why").exit_code(EXIT_NO_TOKEN)),
        Some(token) if refreshed.brought_another() => Ok(format!("{token}\n")),
        Some(token) => Ok(format!("{token}: the source gives no other yet\n")),
    }
}

fn described(status: &TokenStatus) -> Option<String> {
    let fingerprint = status.fingerprint.as_ref()?;
    // A dead token is none.
    let left = Some(status.left()).filter(|left| !left.is_zero())?;
    Some(format!("token {fingerprint}, {} left", shown_span(left)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::describe;
    use crate::status::FailureStatus;

    fn token(fingerprint: &str, left_seconds: u64) -> TokenStatus {
        TokenStatus {
            fingerprint: Some(fingerprint.to_owned()),
            left_seconds: Some(left_seconds),
            ..TokenStatus::default()
        }
    }

    fn failing(token: TokenStatus) -> TokenStatus {
        let failure = FailureStatus {
            source: "platform".to_owned(),
            message: "no answer".to_owned(),
            ..FailureStatus::default()
        };
        TokenStatus { last_failure: Some(failure), ..token }
    }

    fn told(before: TokenStatus, now: TokenStatus) -> (String, Option<u8>) {
        match outcome(&Refreshed { before, now }) {
            Ok(line) => (line, None),
            Err(error) => {
                let (text, code) = describe(&error);
                (text, Some(code))
            }
        }
    }

    #[test]
    fn a_new_token_and_the_same_one_are_told_apart() {
        let new = told(token("aaaaaaaa", 10), token("bbbbbbbb", 3599));
        assert_eq!(new, ("token bbbbbbbb, 59m59s left\n".to_owned(), None));
        let same = told(token("aaaaaaaa", 10), token("aaaaaaaa", 9));
        let line = "token aaaaaaaa, 9s left: the source gives no other yet\n";
        assert_eq!(same, (line.to_owned(), None));
    }

    #[test]
    fn a_failure_says_whether_a_token_is_left() {
        assert_eq!(
            told(token("aaaaaaaa", 10), failing(token("aaaaaaaa", 9))),
            (
                "error: no new token came; still served: token aaaaaaaa, 9s left\n\
                 \x20 caused by: platform: no answer\n"
                    .to_owned(),
                Some(EXIT_FAILURE)
            )
        );
        for dead in [TokenStatus::default(), token("aaaaaaaa", 0)] {
            assert_eq!(
                told(TokenStatus::default(), failing(dead)),
                (
                    "error: no token\n  caused by: platform: no answer\n".to_owned(),
                    Some(EXIT_NO_TOKEN)
                )
            );
        }
    }
}
