//! The Molecule platform's endpoint for installation tokens.
//!
//! `GET {url}/workspaces/{id}/github-installation-token` with the workspace's bearer, or
//! `GET {url}/admin/github-installation-token`, answers
//! `{"token":"ghs_…","expires_at":"2026-04-17T22:50:00Z"}`. The platform caches the token until less
//! than five minutes of it remain.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{FetchError, FetchErrorKind};
use crate::foreign::{Launcher, Request, Unreadable, WatchedFile};
use crate::secret::{Secret, SecretError};
use crate::source::http::{self, Http, Turns, Url};
use crate::source::minted::{self, ClockAhead};
use crate::source::{BoxFuture, Fetched, Source};
use crate::time::Clock;

/// Its name.
pub const NAME: &str = "platform";

/// The longest bearer, in bytes: what servers accept as a header line.
pub const MAX_BEARER_BYTES: usize = 16 * 1024;

/// Whether this can be the id of a workspace, which becomes a part of a path: what RFC 3986 §2.3 calls
/// unreserved, and neither `.` nor `..`.
#[must_use]
pub fn is_workspace_id(id: &str) -> bool {
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    !id.is_empty() && id != "." && id != ".." && id.bytes().all(unreserved)
}

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
    clock_ahead: ClockAhead,
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
            clock_ahead: ClockAhead::default(),
        }
    }

    async fn ask(&self) -> Result<Fetched, FetchError> {
        let bearer = self.bearer().await?;
        let url = endpoint(&self.url, self.workspace_id.as_deref())
            .map_err(|why| error(FetchErrorKind::NotConfigured, why))?;
        let answer = self.http.get(&url, &bearer).await?;
        self.clock_ahead.learn(&answer, &*self.http.clock);
        minted::fetched(NAME, &url, &answer)
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
        Some(minted::MAX_LIFE)
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        Box::pin(self.ask())
    }

    fn clock_ahead(&self) -> Option<i64> {
        self.clock_ahead.get()
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.bearer_file.changed())
    }
}

fn error(kind: FetchErrorKind, detail: impl Into<String>) -> FetchError {
    FetchError::new(NAME, kind, detail)
}

/// The address to ask.
fn endpoint(base: &str, workspace_id: Option<&str>) -> Result<Url, String> {
    let scope: &[&str] = match workspace_id {
        Some(id @ ("" | "." | "..")) => return Err(format!("WORKSPACE_ID cannot be \"{id}\"")),
        Some(id) => &["workspaces", id],
        None => &["admin"],
    };
    http::below(base, &[scope, &["github-installation-token"]].concat())
        .map_err(|why| format!("PLATFORM_URL {}: {why}", http::without_userinfo(base)))
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
        fn no_text_makes_the_url_functions_panic_or_show_a_password(text: String) {
            let _ = http::parse_url(&text);
            let _ = endpoint(&text, None);
            let with_password = format!("http://me:canary{text}@host/");
            prop_assert!(!http::without_userinfo(&with_password).contains("canary"));
        }
    }
}
