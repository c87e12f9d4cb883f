//! The token endpoint, as the Molecule platform answers it.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use hyper::header::{AGE, AUTHORIZATION, HeaderValue, LOCATION};
use hyper::{HeaderMap, Response, StatusCode};
use rand::Rng;
use rand::distr::Alphanumeric;
use serde_json::json;

use crate::demo::faults::Fault;
use crate::demo::ledger::{Issued, Ledger};
use crate::demo::reply::{Body, DateHeader, cut, json_body, plain, respond, unannounced};

/// Before a path: the target of [`Fault::RedirectSame`].
pub(super) const MOVED: &str = "/moved";

/// The bearer that the endpoint accepts.
pub(super) struct Bearer(Mutex<String>);

impl Default for Bearer {
    fn default() -> Self {
        Self(Mutex::new(random_bearer()))
    }
}

impl Bearer {
    pub(super) fn rotate(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = random_bearer();
    }

    /// Writes `.auth_token` as the workspace runtime does: mode 0600, no newline, all at once.
    pub(super) fn write(&self, configs_dir: &Path) -> io::Result<PathBuf> {
        let bearer = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        std::fs::create_dir_all(configs_dir)?;
        let (path, new) = (configs_dir.join(".auth_token"), configs_dir.join(".auth_token.new"));
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bearer.as_bytes())?;
        std::fs::rename(new, &path)?;
        Ok(path)
    }

    fn accepts(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        given.and_then(|value| value.strip_prefix("Bearer ")) == Some(known.as_str())
    }
}

fn random_bearer() -> String {
    rand::rng().sample_iter(Alphanumeric).take(43).map(char::from).collect()
}

/// What came to the other origin, where nobody should come.
#[derive(Debug, Default)]
pub struct Strays {
    requests: AtomicU64,
    with_credential: AtomicU64,
}

impl Strays {
    /// All requests.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Those that carried an `Authorization` header.
    #[must_use]
    pub fn with_credential(&self) -> u64 {
        self.with_credential.load(Ordering::Relaxed)
    }

    /// Counts one and answers like a thief: with a token that nobody knows.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Response<Body> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if headers.contains_key(AUTHORIZATION) {
            self.with_credential.fetch_add(1, Ordering::Relaxed);
        }
        let token = "ghs_from_another_origin_0123456789";
        json_body(StatusCode::OK, &json!({ "token": token, "expires_at": "2099-01-01T00:00:00Z" }))
    }
}

/// Whether a path is the endpoint's.
pub(super) fn is_endpoint(path: &str) -> bool {
    path.strip_prefix(MOVED).unwrap_or(path).ends_with("/github-installation-token")
}

/// What the platform knows.
pub(super) struct Platform<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) bearer: &'a Bearer,
    pub(super) workspace_id: &'a str,
    /// The other origin that a redirect may point to.
    pub(super) elsewhere: &'a str,
}

/// Answers a request for a token.
pub(super) async fn answer(
    platform: &Platform<'_>,
    path: &str,
    headers: &HeaderMap,
    fault: Option<Fault>,
) -> Response<Body> {
    if !platform.bearer.accepts(headers) {
        platform.ledger.count(|counts| counts.unauthorized += 1);
        return json_body(StatusCode::UNAUTHORIZED, &json!({ "error": "invalid token" }));
    }
    let endpoint = path.strip_prefix(MOVED).unwrap_or(path);
    let scoped = format!("/workspaces/{}/github-installation-token", platform.workspace_id);
    if endpoint != "/admin/github-installation-token" && endpoint != scoped {
        return json_body(StatusCode::NOT_FOUND, &json!({ "error": "unknown workspace" }));
    }
    match fault {
        None => token(&platform.ledger.issue()),
        Some(Fault::Cut) => cut(token(&platform.ledger.issue())).await,
        Some(fault) => misbehave(platform, path, fault),
    }
}

fn token(issued: &Issued) -> Response<Body> {
    with_token(issued, "token", issued.secret.expose_str())
}

fn with_token(issued: &Issued, key: &str, token: &str) -> Response<Body> {
    let expires_at = issued.expires_at.to_string();
    json_body(StatusCode::OK, &json!({ key: token, "expires_at": expires_at }))
}

fn misbehave(platform: &Platform<'_>, path: &str, fault: Fault) -> Response<Body> {
    let ledger = platform.ledger;
    match fault {
        Fault::Html => {
            let page = "<!doctype html><title>Sign in</title><form>Please sign in</form>";
            respond(StatusCode::OK, "text/html", page.into())
        }
        Fault::Truncated => {
            let whole = json!({ "token": ledger.issue().secret.expose_str() }).to_string();
            let part = whole.get(..whole.len() - 8).unwrap_or_default().to_owned();
            respond(StatusCode::OK, "application/json", part.into())
        }
        Fault::EmptyToken => with_token(&ledger.issue(), "token", ""),
        Fault::NewlineToken => {
            let issued = ledger.issue();
            with_token(&issued, "token", &format!("{}\n", issued.secret.expose_str()))
        }
        Fault::NulToken => {
            let issued = ledger.issue();
            with_token(&issued, "token", &format!("{}\0x", issued.secret.expose_str()))
        }
        Fault::BornExpired => token(&ledger.issue_dead()),
        Fault::HugeStream => unannounced(misbehave(platform, path, Fault::Huge)),
        Fault::Huge => {
            let issued = ledger.issue();
            // By hand: serde_json takes its time for 10 MB where it is not optimized.
            let filler = "x".repeat(10 * 1024 * 1024);
            let (token, expires_at) = (issued.secret.expose_str(), issued.expires_at);
            let body =
                format!(r#"{{"filler":"{filler}","token":"{token}","expires_at":"{expires_at}"}}"#);
            respond(StatusCode::OK, "application/json", body.into())
        }
        Fault::RedirectElsewhere => redirect(&format!("{}{path}", platform.elsewhere)),
        Fault::RedirectLoop => redirect(path),
        Fault::RedirectSame => redirect(&format!("{MOVED}{path}")),
        Fault::NoDate => with_date(token(&ledger.issue()), DateHeader::Missing),
        Fault::DateOff(seconds) => with_date(token(&ledger.issue()), DateHeader::Off(seconds)),
        Fault::TwoDates(seconds) => with_date(token(&ledger.issue()), DateHeader::Two(seconds)),
        Fault::Age(seconds) => {
            let behind = i64::try_from(seconds).map_or(i64::MIN, i64::wrapping_neg);
            let mut response = with_date(token(&ledger.issue()), DateHeader::Off(behind));
            response.headers_mut().insert(AGE, HeaderValue::from(seconds));
            response
        }
        Fault::Repeat => token(&ledger.repeat()),
        Fault::OtherKey => {
            let issued = ledger.issue();
            with_token(&issued, "access_token", issued.secret.expose_str())
        }
        Fault::NoExpiry => {
            let issued = ledger.issue();
            json_body(StatusCode::OK, &json!({ "token": issued.secret.expose_str() }))
        }
        // The server itself did what these mean.
        Fault::Cut
        | Fault::Status(_)
        | Fault::RetryAfter(_)
        | Fault::RetryAfterDate(_)
        | Fault::RateLimit(_)
        | Fault::Hang
        | Fault::Slow(_)
        | Fault::Close
        | Fault::Reset => token(&ledger.issue()),
    }
}

fn redirect(target: &str) -> Response<Body> {
    let mut response = plain(StatusCode::TEMPORARY_REDIRECT, "moved");
    if let Ok(target) = HeaderValue::from_str(target) {
        response.headers_mut().insert(LOCATION, target);
    }
    response
}

fn with_date(mut response: Response<Body>, date: DateHeader) -> Response<Body> {
    response.extensions_mut().insert(date);
    response
}
