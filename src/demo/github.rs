//! GitHub's endpoints for Apps: finding an installation, minting a token of it, revoking one
//! (<https://docs.github.com/en/rest/apps/apps>). It checks what GitHub checks: the claim's signature,
//! issuer and times, the installation, and that nothing is asked for beyond the grant.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::demo::ledger::{Ledger, Scope};
use crate::demo::reply::{Body, json_body, respond};
use crate::demo::rest;

/// How far ahead a claim may expire, in seconds.
const MOST_AHEAD: i64 = 600;
/// The longest body that is read, in bytes.
const BODY_LIMIT: usize = 64 * 1024;

/// Where an App is installed, and what it is granted there.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Its number.
    pub id: u64,
    /// The organisation or user.
    pub owner: String,
    /// An organisation, and no user.
    pub is_organisation: bool,
    /// The repositories that the App may use.
    pub repositories: Vec<String>,
    /// What it may do.
    pub permissions: BTreeMap<String, String>,
    /// The owner has suspended it.
    pub is_suspended: bool,
}

impl Installation {
    /// One of an organisation with these repositories, whose contents the App may write.
    #[must_use]
    pub fn of(id: u64, owner: &str, repositories: &[&str]) -> Self {
        let permissions = [("contents", "write"), ("metadata", "read"), ("pull_requests", "write")];
        let text = |it: &&str| (*it).to_owned();
        Self {
            id,
            owner: owner.to_owned(),
            is_organisation: true,
            repositories: repositories.iter().map(text).collect(),
            permissions: permissions.map(|(name, level)| (text(&name), text(&level))).into(),
            is_suspended: false,
        }
    }
}

impl Installation {
    /// As GitHub describes it, with all that it requires.
    fn document(&self, (app_id, client_id): (u64, &str)) -> Value {
        let Self { id, owner, is_organisation, permissions, .. } = self;
        let of = |rest: &str| format!("https://api.github.com/users/{owner}{rest}");
        let kind = if *is_organisation { "Organization" } else { "User" };
        let account = json!({
            "login": owner, "id": id, "node_id": "MDQ6VXNlcjE=", "gravatar_id": "",
            "avatar_url": "https://github.com/images/error/hubot_happy.gif",
            "url": of(""), "html_url": format!("https://github.com/{owner}"),
            "followers_url": of("/followers"), "following_url": of("/following"),
            "gists_url": of("/gists"), "starred_url": of("/starred"),
            "subscriptions_url": of("/subscriptions"), "organizations_url": of("/orgs"),
            "repos_url": of("/repos"), "events_url": of("/events"),
            "received_events_url": of("/received_events"), "type": kind, "site_admin": false,
        });
        let time = "2026-01-01T00:00:00Z";
        json!({
            "id": id, "account": account, "app_id": app_id, "client_id": client_id,
            "app_slug": "demo", "target_id": id, "target_type": kind,
            "repository_selection": "selected", "permissions": permissions, "events": [],
            "access_tokens_url": format!("https://api.github.com/app/installations/{id}/access_tokens"),
            "repositories_url": "https://api.github.com/installation/repositories",
            "html_url": format!("https://github.com/settings/installations/{id}"),
            "single_file_name": null, "created_at": time, "updated_at": time,
            "suspended_at": self.is_suspended.then_some(time), "suspended_by": null,
        })
    }
}

/// A request that an App made, for comparing and counting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The body; `null` where there was none.
    pub body: Value,
    /// What the claim said, whether it was accepted or not.
    pub claims: Value,
    /// The status of the answer.
    pub status: u16,
}

#[derive(Debug)]
struct App {
    client_id: String,
    id: u64,
    public_key: Vec<u8>,
}

/// A refusal that is to come.
#[derive(Debug)]
struct Ordered {
    status: StatusCode,
    message: String,
    retry_after: Option<u64>,
    /// The primary limit is used up until then, in seconds since the Unix epoch.
    resets: Option<i64>,
}

#[derive(Debug, Default)]
struct State {
    apps: Vec<App>,
    installations: Vec<Installation>,
    seen: Vec<Seen>,
    /// Answers that are to come before any other.
    ordered: Vec<Ordered>,
    /// It answers nothing.
    hangs: bool,
    /// It answers this much later, and mints as late.
    slow: Duration,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Github(Mutex<State>);

/// Whether a path is one of the endpoints, also under the prefix of an Enterprise Server.
pub(super) fn is_endpoint(path: &str) -> bool {
    let parts: Vec<_> = trimmed(path).split('/').collect();
    matches!(
        parts.as_slice(),
        ["app", ..]
            | ["installation", "token"]
            | ["orgs" | "users", _, "installation"]
            | ["repos", _, _, "installation"]
    )
}

fn trimmed(path: &str) -> &str {
    path.strip_prefix("/api/v3").unwrap_or(path).trim_matches('/')
}

impl Github {
    /// Creates an App, and writes its private key to a file of mode 0600. Returns its client id.
    ///
    /// # Errors
    /// The key cannot be made or written.
    pub fn create_app(&self, key_file: &Path) -> io::Result<String> {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(io::Error::other)?;
        let der: Pkcs8V1Der<'_> = pair.as_der().map_err(io::Error::other)?;
        let text = STANDARD.encode(der.as_ref());
        let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            lines.join("\n")
        );
        let mut options = std::fs::OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(key_file)?;
        file.write_all(pem.as_bytes())?;
        let mut state = self.state();
        let id = 1_000 + state.apps.len() as u64;
        let client_id = format!("Iv23li{id:014}");
        let public_key = pair.public_key().as_ref().to_vec();
        state.apps.push(App { client_id: client_id.clone(), id, public_key });
        Ok(client_id)
    }

    /// Installs the App, or changes its installation of the same number.
    pub fn install(&self, installation: Installation) {
        let mut state = self.state();
        state.installations.retain(|known| known.id != installation.id);
        state.installations.push(installation);
    }

    /// Removes an installation.
    pub fn uninstall(&self, id: u64) {
        self.state().installations.retain(|known| known.id != id);
    }

    /// Answers the next request with this refusal.
    pub fn refuse_next(&self, status: u16, message: &str, retry_after: Option<u64>) {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let message = message.to_owned();
        self.state().ordered.push(Ordered { status, message, retry_after, resets: None });
    }

    /// Answers the next request with the word that the primary limit is used up until a time of the
    /// issuer's clock, in seconds since the Unix epoch.
    pub fn limit_next(&self, resets: i64) {
        let (status, message) = (StatusCode::FORBIDDEN, "API rate limit exceeded".to_owned());
        let limited = Ordered { status, message, retry_after: None, resets: Some(resets) };
        self.state().ordered.push(limited);
    }

    /// Answers nothing from now on.
    pub fn hang(&self) {
        self.state().hangs = true;
    }

    /// Answers, and mints, this much later from now on.
    pub fn slow(&self, by: Duration) {
        self.state().slow = by;
    }

    /// The requests so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// How many tokens were minted.
    #[must_use]
    pub fn minted(&self) -> usize {
        self.state().seen.iter().filter(|seen| seen.status == 201).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn answer(
        &self,
        ledger: &Ledger,
        request: Request<Incoming>,
    ) -> Response<Body> {
        if self.state().hangs {
            std::future::pending::<()>().await;
        }
        let slow = self.state().slow;
        if !slow.is_zero() {
            tokio::time::sleep(slow).await;
        }
        let (parts, body) = request.into_parts();
        let Ok(body) = Limited::new(body, BODY_LIMIT).collect().await else {
            return refusal(StatusCode::PAYLOAD_TOO_LARGE, "Payload too large");
        };
        let body = body.to_bytes();
        let path = parts.uri.path().to_owned();
        if trimmed(&path) == "installation/token" {
            return revoke(ledger, &parts.method, &parts.headers);
        }
        let now = ledger.issuer_time().as_second();
        let mut state = self.state();
        let claim = rest::credential(&parts.headers).unwrap_or_default();
        let claims = claims(&claim);
        let response = state.respond(ledger, &parts.method, &path, &claim, &body, now);
        state.seen.push(Seen {
            method: parts.method.to_string(),
            path,
            body: serde_json::from_slice(&body).unwrap_or_default(),
            claims: claims.unwrap_or_default(),
            status: response.status().as_u16(),
        });
        response
    }
}

/// What a claim says, unchecked.
fn claims(claim: &[u8]) -> Option<Value> {
    let body = std::str::from_utf8(claim).ok()?.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).ok()?).ok()
}

impl State {
    fn respond(
        &mut self,
        ledger: &Ledger,
        method: &Method,
        path: &str,
        claim: &[u8],
        body: &[u8],
        now: i64,
    ) -> Response<Body> {
        if !self.ordered.is_empty() {
            let Ordered { status, message, retry_after, resets } = self.ordered.remove(0);
            let mut response = refusal(status, &message);
            if let Some(seconds) = retry_after {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
            }
            if let Some(resets) = resets {
                let headers = response.headers_mut();
                headers.insert("x-ratelimit-remaining", HeaderValue::from(0));
                headers.insert("x-ratelimit-reset", HeaderValue::from(resets));
            }
            return response;
        }
        if let Err(why) = self.accepts(claim, now) {
            return refusal(StatusCode::UNAUTHORIZED, why);
        }
        let parts: Vec<_> = trimmed(path).split('/').collect();
        let found = match (method, parts.as_slice()) {
            (&Method::GET, ["repos", owner, name, "installation"]) => self.find(|it| {
                it.owner.eq_ignore_ascii_case(owner)
                    && it.repositories.iter().any(|known| known.eq_ignore_ascii_case(name))
            }),
            (&Method::GET, ["orgs", owner, "installation"]) => {
                self.find(|it| it.is_organisation && it.owner.eq_ignore_ascii_case(owner))
            }
            (&Method::GET, ["users", owner, "installation"]) => {
                self.find(|it| !it.is_organisation && it.owner.eq_ignore_ascii_case(owner))
            }
            (&Method::POST, ["app", "installations", id, "access_tokens"]) => {
                let installation = self.find(|it| it.id.to_string() == **id);
                return installation.map_or_else(not_found, |it| mint(ledger, it, body));
            }
            _ => None,
        };
        let app = self.apps.first();
        let app = app.map(|app| (app.id, &*app.client_id)).unwrap_or_default();
        found.map_or_else(not_found, |it| json_body(StatusCode::OK, &it.document(app)))
    }

    fn find(&self, is_it: impl Fn(&Installation) -> bool) -> Option<&Installation> {
        self.installations.iter().find(|it| is_it(it))
    }

    fn accepts(&self, claim: &[u8], now: i64) -> Result<(), &'static str> {
        #[derive(Deserialize)]
        struct Claims {
            iat: i64,
            exp: i64,
            iss: Value,
        }
        const UNREADABLE: &str = "A JSON web token could not be decoded";
        let text = std::str::from_utf8(claim).map_err(|_| UNREADABLE)?;
        let (signed, signature) = text.rsplit_once('.').ok_or(UNREADABLE)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| UNREADABLE)?;
        let claims = claims(claim).and_then(|claims| serde_json::from_value(claims).ok());
        let Claims { iat, exp, iss } = claims.ok_or(UNREADABLE)?;
        let issuer = iss.as_str().map_or_else(|| iss.to_string(), str::to_owned);
        let app =
            self.apps.iter().find(|app| app.client_id == issuer || app.id.to_string() == issuer);
        let app = app.ok_or("Integration not found")?;
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &app.public_key)
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| UNREADABLE)?;
        if iat > now {
            return Err(
                "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued",
            );
        }
        if exp <= now {
            return Err(
                "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires",
            );
        }
        if exp > now + MOST_AHEAD {
            return Err("'Expiration time' claim ('exp') is too far in the future");
        }
        Ok(())
    }
}

fn mint(ledger: &Ledger, installation: &Installation, body: &[u8]) -> Response<Body> {
    #[derive(Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Wanted {
        repositories: Option<Vec<String>>,
        repository_ids: Option<Vec<u64>>,
        permissions: Option<BTreeMap<String, String>>,
    }
    if installation.is_suspended {
        return refusal(StatusCode::FORBIDDEN, "This installation has been suspended");
    }
    let wanted = if body.is_empty() { Ok(Wanted::default()) } else { serde_json::from_slice(body) };
    let Ok(Wanted { repositories, repository_ids: None, permissions }) = wanted else {
        return refusal(StatusCode::BAD_REQUEST, "Problems parsing JSON");
    };
    let has = |name: &String| {
        installation.repositories.iter().any(|known| known.eq_ignore_ascii_case(name))
    };
    if repositories.iter().flatten().any(|name| !has(name)) {
        return refusal(
            StatusCode::UNPROCESSABLE_ENTITY,
            "There is at least one repository that does not exist or is not accessible to the parent installation.",
        );
    }
    let level = |level: &str| ["read", "write", "admin"].iter().position(|known| *known == level);
    let is_granted = |(name, wanted): (&String, &String)| {
        let granted = installation.permissions.get(name);
        level(wanted).is_some() && granted.is_some_and(|granted| level(granted) >= level(wanted))
    };
    if !permissions.iter().flatten().all(is_granted) {
        return refusal(
            StatusCode::UNPROCESSABLE_ENTITY,
            "The permissions requested are not granted to this installation.",
        );
    }
    let issued = ledger.issue_for(Scope {
        owner: installation.owner.clone(),
        repositories: Some(
            repositories.clone().unwrap_or_else(|| installation.repositories.clone()),
        ),
    });
    let mut document = Map::new();
    document.insert("token".to_owned(), json!(issued.secret.expose_str()));
    document.insert("expires_at".to_owned(), json!(issued.expires_at.to_string()));
    document.insert(
        "permissions".to_owned(),
        json!(permissions.unwrap_or_else(|| installation.permissions.clone())),
    );
    document.insert("repository_selection".to_owned(), json!("selected"));
    json_body(StatusCode::CREATED, &Value::Object(document))
}

fn revoke(ledger: &Ledger, method: &Method, headers: &HeaderMap) -> Response<Body> {
    let token = rest::credential(headers).unwrap_or_default();
    let entry = ledger.entry(&token);
    match entry {
        Some(entry) if *method == Method::DELETE => {
            ledger.revoke(Some(entry.fingerprint));
            respond(StatusCode::NO_CONTENT, "application/json", String::new().into())
        }
        _ => refusal(StatusCode::UNAUTHORIZED, "Bad credentials"),
    }
}

fn not_found() -> Response<Body> {
    refusal(StatusCode::NOT_FOUND, "Not Found")
}

fn refusal(status: StatusCode, message: &str) -> Response<Body> {
    let documentation = "https://docs.github.com/rest";
    json_body(status, &json!({ "message": message, "documentation_url": documentation }))
}
