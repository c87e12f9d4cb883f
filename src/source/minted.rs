//! An installation token in JSON, as GitHub and the platform answer it:
//! `{"token":"ghs_…","expires_at":"2026-04-17T22:50:00Z", …}`.

use std::borrow::Cow;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::temporal::Pieces;
use serde::Deserialize;

use crate::error::{FetchError, FetchErrorKind};
use crate::secret::{Secret, SecretError};
use crate::source::Fetched;
use crate::source::http::{Answer, Url};
use crate::time::Clock;
use crate::token::Term;

/// The longest life of an installation token (GitHub's documentation of
/// `POST /app/installations/{id}/access_tokens`).
pub const MAX_LIFE: Duration = Duration::from_hours(1);

/// The token in a success.
///
/// # Errors
/// [`FetchErrorKind::BadAnswer`], and [`FetchErrorKind::BornExpired`] for a token that was dead when
/// it came.
pub fn fetched(source: &'static str, url: &Url, answer: &Answer) -> Result<Fetched, FetchError> {
    let (secret, expires_at) = parse(&answer.body).map_err(|why| {
        let claimed = answer.content_type;
        let detail = format!("{url} answers with {claimed}: {why}");
        FetchError::new(source, FetchErrorKind::BadAnswer, detail)
    })?;
    let (now, whose) = match answer.server {
        Some(server) => (server, "the issuer's"),
        None => (answer.issued.wall, "this machine's"),
    };
    if expires_at <= now {
        let ago = now.saturating_sub(expires_at).as_secs();
        let detail = format!("it expired {ago} seconds before, by {whose} clock");
        return Err(FetchError::new(source, FetchErrorKind::BornExpired, detail));
    }
    let term = Term::Until { expires_at, server: answer.server };
    Ok(Fetched { secret, issued: answer.issued, term })
}

/// How far a server's clock was ahead of this machine's at its last answer.
#[derive(Debug)]
pub struct ClockAhead(AtomicI64);

/// The server has not told its time yet.
const NO_DATE: i64 = i64::MIN;

impl Default for ClockAhead {
    fn default() -> Self {
        Self(AtomicI64::new(NO_DATE))
    }
}

impl ClockAhead {
    /// Takes it from an answer that has just come.
    pub fn learn(&self, answer: &Answer, clock: &dyn Clock) {
        if let Some(server) = answer.server {
            let ahead = seconds(server) - seconds(clock.now().wall) - 1;
            self.0.store(ahead, Ordering::Relaxed);
        }
    }

    /// In seconds; negative where it was behind.
    #[must_use]
    pub fn get(&self) -> Option<i64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|&ahead| ahead != NO_DATE)
    }
}

/// What is wrong with a body, without a byte of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum BodyError {
    #[error("the body is empty")]
    Empty,
    #[error("the body is not JSON")]
    NotJson,
    #[error("the body ends in the middle of the JSON")]
    Cut,
    #[error("the body is JSON, but not an object with `token` and `expires_at` as strings")]
    Shape,
    #[error("the body has no `{0}`")]
    Missing(&'static str),
    #[error("{0}")]
    Token(#[from] SecretError),
    #[error("`expires_at` is not a time as RFC 3339 writes it")]
    Expiry,
}

/// Strings are borrowed from the body, so that no copy stays behind that nobody wipes.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    token: Option<Text<'a>>,
    #[serde(borrow)]
    expires_at: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn parse(body: &[u8]) -> Result<(Secret, Duration), BodyError> {
    use serde_json::error::Category;

    if body.trim_ascii().is_empty() {
        return Err(BodyError::Empty);
    }
    // The text of serde's error is not repeated: it quotes the body.
    let body: Body<'_> = serde_json::from_slice(body).map_err(|error| match error.classify() {
        Category::Eof => BodyError::Cut,
        Category::Data => BodyError::Shape,
        Category::Syntax | Category::Io => BodyError::NotJson,
    })?;
    let Text(token) = body.token.ok_or(BodyError::Missing("token"))?;
    let secret = Secret::new(token.into_owned().into_bytes())?;
    let Text(expires_at) = body.expires_at.ok_or(BodyError::Missing("expires_at"))?;
    Ok((secret, since_the_epoch(parse_expiry(&expires_at).ok_or(BodyError::Expiry)?)))
}

/// Reads a time as RFC 3339 §5.6 writes it. The last hours of the year 9999 lie beyond what a
/// [`Timestamp`] can hold, and mean "never": they read as its largest.
fn parse_expiry(text: &str) -> Option<Timestamp> {
    text.parse().ok().or_else(|| {
        let pieces = Pieces::parse(text).ok()?;
        let is_whole = pieces.time().is_some() && pieces.offset().is_some();
        (is_whole && pieces.date().year() == 9999).then_some(Timestamp::MAX)
    })
}

/// A time before 1970 reads as 1970: whatever expired then is dead.
fn since_the_epoch(time: Timestamp) -> Duration {
    Duration::try_from(time.as_duration()).unwrap_or_default()
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_is_taken_as_it_is_documented() {
        let documented = br#" {"expires_at":"2026-04-17T22:50:00Z","token":"ghs_abc.def-1","more":[{"x":null}]} "#;
        let (secret, expires_at) = parse(documented).unwrap();
        assert_eq!(secret.expose(), b"ghs_abc.def-1");
        assert_eq!(text_of(expires_at), "2026-04-17T22:50:00Z");
        let escaped = br#"{"token":"gh\u0073_a","expires_at":"2026-04-18T00:50:00.5+02:00"}"#;
        let (secret, expires_at) = parse(escaped).unwrap();
        assert_eq!(secret.expose(), b"ghs_a");
        assert_eq!(text_of(expires_at), "2026-04-17T22:50:00.5Z");
    }

    fn text_of(time: Duration) -> String {
        crate::time::exact_timestamp(time).to_string()
    }

    #[test]
    fn an_expiry_at_the_end_of_all_years_is_taken() {
        let expiry = |text: &str| {
            parse(format!(r#"{{"token":"ghs_a","expires_at":"{text}"}}"#).as_bytes())
                .map(|(_, expires_at)| expires_at.as_secs())
        };
        let last = Timestamp::MAX.as_second().unsigned_abs();
        for text in
            ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999999999-12:00", "9999-12-31t23:00:00z"]
        {
            assert_eq!(expiry(text), Ok(last), "{text}");
        }
        // Beyond what nanoseconds in 64 bits can count.
        assert_eq!(expiry("2300-01-01T00:00:00Z"), Ok(10_413_792_000));
        assert_eq!(expiry("1969-12-31T23:59:59Z"), Ok(0));
        for text in
            ["9999-12-31", "9999-12-31T23:59:59", "9999-13-01T00:00:00Z", "99999-01-01T00:00:00Z"]
        {
            assert_eq!(expiry(text), Err(BodyError::Expiry), "{text}");
        }
    }

    #[test]
    fn an_answer_that_is_not_one_is_named_without_a_byte_of_it() {
        let time = r#""expires_at":"2026-04-17T22:50:00Z""#;
        let with_token = |token: &str| format!(r#"{{"token":{token},{time}}}"#);
        let with_time = |time: &str| format!(r#"{{"token":"canary","expires_at":"{time}"}}"#);
        for (body, error) in [
            (String::new(), BodyError::Empty),
            (" \n".to_owned(), BodyError::Empty),
            ("<html>canary</html>".to_owned(), BodyError::NotJson),
            (r#"{"token":"canary","exp"#.to_owned(), BodyError::Cut),
            (with_token(r#""canary""#) + "canary", BodyError::NotJson),
            (r#"["canary"]"#.to_owned(), BodyError::Shape),
            (with_token("17"), BodyError::Shape),
            (with_token(r#"["canary"]"#), BodyError::Shape),
            (with_token(r#""canary","token":"canary""#), BodyError::Shape),
            (with_token("null"), BodyError::Missing("token")),
            (format!(r#"{{"access_token":"canary",{time}}}"#), BodyError::Missing("token")),
            (r#"{"token":"canary"}"#.to_owned(), BodyError::Missing("expires_at")),
            (with_token(r#""""#), BodyError::Token(SecretError::Empty)),
            (
                with_token(r#""canary\n""#),
                BodyError::Token(SecretError::BadByte { byte: b'\n', offset: 6 }),
            ),
            (
                with_token(r#""\u0000canary""#),
                BodyError::Token(SecretError::BadByte { byte: 0, offset: 0 }),
            ),
            (
                with_token(&format!("\"{}\"", "a".repeat(70_000))),
                BodyError::Token(SecretError::TooLong),
            ),
            (with_time("canary"), BodyError::Expiry),
            (with_time("2026-04-17T22:50:00"), BodyError::Expiry),
        ] {
            assert_eq!(parse(body.as_bytes()), Err(error), "{body}");
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }

    #[test]
    fn a_token_in_the_body_is_borrowed_and_not_copied() {
        let body: Body<'_> = serde_json::from_slice(br#"{"token":"ghs_a"}"#).unwrap();
        assert!(matches!(body.token, Some(Text(Cow::Borrowed("ghs_a")))));
    }

    proptest! {
        #[test]
        fn no_body_makes_the_parser_panic(body: Vec<u8>) {
            let _ = parse(&body);
        }

        #[test]
        fn a_token_is_taken_exactly_if_a_header_can_carry_it(
            token in prop_oneof!["[!-~]{1,80}", ".{0,20}", "[!-~]{0,9}\\PC[!-~]{0,9}", any::<String>()],
            expires_at in "2026-0[1-9]-[12][0-8]T0[0-9]:[0-5][0-9]:[0-5][0-9]Z",
        ) {
            let body = serde_json::json!({ "token": token, "expires_at": expires_at }).to_string();
            let graphic = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
            match parse(body.as_bytes()) {
                Ok((secret, when)) => {
                    prop_assert!(graphic);
                    prop_assert_eq!(secret.expose_str(), token);
                    prop_assert_eq!(text_of(when), expires_at);
                }
                Err(BodyError::Token(_)) => prop_assert!(!graphic),
                Err(other) => prop_assert!(false, "{}", other),
            }
        }

        #[test]
        fn an_answer_that_was_cut_gives_no_token(
            token in "[!-~]{1,40}",
            per_mille in 0..1000_usize,
        ) {
            let body = serde_json::json!({ "token": token, "expires_at": "2026-04-17T22:50:00Z" });
            let body = body.to_string();
            let kept = body.len() * per_mille / 1000;
            let error = parse(&body.as_bytes()[..kept]).unwrap_err();
            prop_assert!(matches!(error, BodyError::Cut | BodyError::Empty), "{}", error);
        }
    }
}
