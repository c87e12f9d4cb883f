//! The Molecule platform's endpoint for installation tokens.
//!
//! `GET {url}/workspaces/{id}/github-installation-token` with the workspace's bearer, or
//! `GET {url}/admin/github-installation-token`, answers
//! `{"token":"ghs_…","expires_at":"2026-04-17T22:50:00Z"}`. The platform caches the token until less
//! than five minutes of it remain.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::temporal::Pieces;
use serde::{Deserialize, Serialize};

use crate::error::{FetchError, FetchErrorKind};
use crate::foreign::{Launcher, Request, Unreadable, WatchedFile};
use crate::secret::{Secret, SecretError};
use crate::source::http::{self, Http, Turns, Url};
use crate::source::{BoxFuture, Fetched, Source};
use crate::time::Clock;
use crate::token::Term;

const NAME: &str = "platform";

/// The longest life of an installation token (GitHub's documentation of
/// `POST /app/installations/{id}/access_tokens`).
const MAX_LIFE: Duration = Duration::from_hours(1);

/// The longest bearer, in bytes: what servers accept as a header line.
pub const MAX_BEARER_BYTES: usize = 16 * 1024;

/// The platform has not told its time yet.
const NO_DATE: i64 = i64::MIN;

/// How to reach the platform.
#[derive(Clone, Serialize, Deserialize)]
pub struct PlatformConfig {
    /// `PLATFORM_URL`: base URL, http or https, without a trailing slash.
    pub url: String,
    /// `WORKSPACE_ID`: picks the workspace-scoped path; else the admin path.
    pub workspace_id: Option<String>,
    /// The file that holds the bearer: `${CONFIGS_DIR}/.auth_token`.
    pub bearer_file: PathBuf,
    /// The user that the bearer is read as, where this process may become another: the owner of the
    /// directory when the daemon started. `None` is its owner at each fetch.
    #[serde(default)]
    pub bearer_user: Option<u32>,
    /// A proxy for the platform, only if configured as such.
    pub proxy: Option<String>,
    /// Additional CA bundle (PEM) for https.
    pub ca_file: Option<PathBuf>,
    /// The longest a request may take.
    pub request_timeout: Duration,
}

impl fmt::Debug for PlatformConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlatformConfig")
            .field("url", &http::without_userinfo(&self.url))
            .field("workspace_id", &self.workspace_id)
            .field("bearer_file", &self.bearer_file)
            .field("bearer_user", &self.bearer_user)
            .field("proxy", &self.proxy.as_deref().map(http::without_userinfo))
            .field("ca_file", &self.ca_file)
            .field("request_timeout", &self.request_timeout)
            .finish()
    }
}

/// See the module.
pub struct Platform {
    url: String,
    workspace_id: Option<String>,
    bearer_file: WatchedFile,
    http: Http,
    /// In seconds; [`NO_DATE`] before the first answer that told it.
    clock_ahead: AtomicI64,
}

impl Platform {
    /// A source over the platform; connects at the first fetch.
    pub fn new(config: PlatformConfig, clock: Arc<dyn Clock>, launcher: Arc<Launcher>) -> Self {
        let bearer = Request::file(&config.bearer_file, MAX_BEARER_BYTES);
        let bearer = Request { user: config.bearer_user, ..bearer };
        Self {
            url: config.url,
            workspace_id: config.workspace_id,
            bearer_file: WatchedFile::new(bearer, Arc::clone(&launcher)),
            http: Http {
                source: NAME,
                proxy: config.proxy,
                ca_file: config.ca_file.map(|path| http::ca_file(&path, launcher)),
                timeout: config.request_timeout,
                clock,
                turns: Turns::default(),
            },
            clock_ahead: AtomicI64::new(NO_DATE),
        }
    }

    async fn ask(&self) -> Result<Fetched, FetchError> {
        let bearer = self.bearer().await?;
        let url = endpoint(&self.url, self.workspace_id.as_deref())
            .map_err(|why| error(FetchErrorKind::NotConfigured, why))?;
        let answer = self.http.get(&url, &bearer).await?;
        if let Some(server) = answer.server {
            let ahead = seconds(server) - seconds(self.http.clock.now().wall) - 1;
            self.clock_ahead.store(ahead, Ordering::Relaxed);
        }
        let (secret, expires_at) = parse(&answer.body).map_err(|why| {
            let claimed = answer.content_type;
            error(FetchErrorKind::BadAnswer, format!("{url} answers with {claimed}: {why}"))
        })?;
        let (now, whose) = match answer.server {
            Some(server) => (server, "the platform's"),
            None => (answer.issued.wall, "this machine's"),
        };
        if expires_at <= now {
            let ago = now.saturating_sub(expires_at).as_secs();
            let detail = format!("it expired {ago} seconds before, by {whose} clock");
            return Err(error(FetchErrorKind::BornExpired, detail));
        }
        let term = Term::Until { expires_at, server: answer.server };
        Ok(Fetched { secret, issued: answer.issued, term })
    }

    /// Reads the bearer, anew at every fetch: the platform may replace it at any time.
    async fn bearer(&self) -> Result<Secret, FetchError> {
        let read = self.bearer_file.read().await;
        let bearer = read.map_err(|why| (unreadable(why), why.to_string()));
        bearer.and_then(|text| parse_bearer(&text)).map_err(|(kind, why)| {
            error(kind, format!("{}: {why}", self.bearer_file.path().display()))
        })
    }
}

fn unreadable(why: Unreadable) -> FetchErrorKind {
    match why {
        Unreadable::Missing => FetchErrorKind::NotRegistered,
        why if why.is_transient() => FetchErrorKind::BearerNotRead,
        _ => FetchErrorKind::BearerUnusable,
    }
}

/// The bearer in the text of its file: one line.
fn parse_bearer(text: &[u8]) -> Result<Secret, (FetchErrorKind, String)> {
    let unusable = |why: &str| (FetchErrorKind::BearerUnusable, why.to_owned());
    let end = text.iter().rposition(|b| !matches!(b, b'\n' | b'\r')).map_or(0, |last| last + 1);
    let line = text.get(..end).unwrap_or_default();
    if line.contains(&b'\n') {
        return Err(unusable("it has more than one line"));
    }
    Secret::new(line.to_vec()).map_err(|why| match why {
        SecretError::Empty => (FetchErrorKind::NotRegistered, "it is empty".to_owned()),
        SecretError::TooLong => unusable("it is too long"),
        SecretError::BadByte { byte, offset } => {
            unusable(&format!("no bearer may hold the byte 0x{byte:02x} at offset {offset}"))
        }
    })
}

impl Source for Platform {
    fn name(&self) -> &'static str {
        NAME
    }

    fn max_life(&self) -> Option<Duration> {
        Some(MAX_LIFE)
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        Box::pin(self.ask())
    }

    fn clock_ahead(&self) -> Option<i64> {
        Some(self.clock_ahead.load(Ordering::Relaxed)).filter(|&ahead| ahead != NO_DATE)
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.bearer_file.changed())
    }
}

fn error(kind: FetchErrorKind, detail: impl Into<String>) -> FetchError {
    FetchError::new(NAME, kind, detail)
}

/// The address to ask. The user part of the base URL is dropped: the bearer is the only credential.
fn endpoint(base: &str, workspace_id: Option<&str>) -> Result<Url, String> {
    let shown = http::without_userinfo(base);
    let mut url =
        http::plain(http::parse_url(base).map_err(|why| format!("PLATFORM_URL {shown}: {why}"))?);
    let scope = match workspace_id {
        Some(id @ ("" | "." | "..")) => return Err(format!("WORKSPACE_ID cannot be \"{id}\"")),
        Some(id) => vec!["workspaces", id],
        None => vec!["admin"],
    };
    url.path_segments_mut()
        .map_err(|()| format!("PLATFORM_URL {shown}: nothing can stand below it"))?
        .pop_if_empty()
        .extend(scope)
        .push("github-installation-token");
    Ok(url)
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

    fn config(bearer_file: PathBuf) -> PlatformConfig {
        PlatformConfig {
            url: "http://me:canary@127.0.0.1:9".to_owned(),
            workspace_id: None,
            bearer_file,
            bearer_user: None,
            proxy: Some("http://me:canary@proxy:3128".to_owned()),
            ca_file: None,
            request_timeout: Duration::from_secs(10),
        }
    }

    #[test]
    fn the_workspaces_path_is_taken_where_there_is_a_workspace() {
        for (base, workspace, url) in [
            ("http://host:8080", None, "http://host:8080/admin/github-installation-token"),
            ("http://host/", Some("w1"), "http://host/workspaces/w1/github-installation-token"),
            (
                "https://me:pw@host/base/?q#f",
                Some("../a b?"),
                "https://host/base/workspaces/..%2Fa%20b%3F/github-installation-token",
            ),
        ] {
            assert_eq!(endpoint(base, workspace).unwrap().as_str(), url);
        }
        for (base, workspace) in [
            ("host:8080", None),
            ("", None),
            ("http://me:canary@", None),
            ("http://host", Some("..")),
        ] {
            let why = endpoint(base, workspace).unwrap_err();
            assert!(!why.contains("canary"), "{why}");
        }
    }

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

    #[test]
    fn a_bearer_is_one_line_of_ascii() {
        for (text, bearer) in [("one", "one"), ("two\n", "two"), ("three\r\n\n", "three")] {
            assert_eq!(parse_bearer(text.as_bytes()).unwrap().expose_str(), bearer);
        }
        for empty in ["", "\n"] {
            let (kind, _) = parse_bearer(empty.as_bytes()).unwrap_err();
            assert_eq!(kind, FetchErrorKind::NotRegistered, "{empty:?}");
        }
        for bad in ["canary\ncanary", "canary\0", "can ary", "canary\u{fc}"] {
            let (kind, why) = parse_bearer(bad.as_bytes()).unwrap_err();
            assert_eq!(kind, FetchErrorKind::BearerUnusable);
            assert!(!why.contains("canary"), "{why}");
        }
    }

    #[test]
    fn a_configuration_does_not_show_the_user_part_of_its_urls() {
        let shown = format!("{:?}", config(PathBuf::from("/configs/.auth_token")));
        assert!(!shown.contains("canary") && shown.contains("…@proxy:3128"), "{shown}");
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

        #[test]
        fn no_text_makes_the_url_functions_panic_or_show_a_password(text: String) {
            let _ = http::parse_url(&text);
            let _ = endpoint(&text, None);
            let with_password = format!("http://me:canary{text}@host/");
            prop_assert!(!http::without_userinfo(&with_password).contains("canary"));
        }
    }
}
