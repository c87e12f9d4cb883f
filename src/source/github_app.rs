//! Installation tokens of a GitHub App, minted by itself.
//!
//! The App proves who it is with a JWT that its private key signs, and asks for a token of one of its
//! installations: `POST /app/installations/{id}/access_tokens`
//! (<https://docs.github.com/en/rest/apps/apps>). The installation is named by its number, or found by
//! its owner or by a repository, and kept until GitHub no longer knows it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::{Explanation, FetchError, FetchErrorKind};
use crate::foreign::{ForeignFile, Launcher, Request, Unreadable, WatchedFile};
use crate::secret::Secret;
use crate::source::http::{self, Answer, Http, Method, Question, StatusCode, Turns, Url};
use crate::source::minted::{self, ClockAhead};
use crate::source::table::{Located, Table, TableError};
use crate::source::{BoxFuture, Configured, Fetched, Scope, Source, SourceName};
use crate::time::Clock;

mod budget;
mod key;
mod said;

use budget::Budget;
pub use budget::Budgets;
use key::Key;

/// GitHub's own API.
const GITHUB: &str = "https://api.github.com";
/// The largest key file, in bytes; a key of 4,096 bits has 3.2 KiB.
const KEY_LIMIT: usize = 64 * 1024;
/// What the mode of a key file may not hold: rights of others, and of the group to write.
const TOO_OPEN: u32 = 0o027;
/// The longest list that GitHub takes (its documentation of the endpoint).
const MOST_REPOSITORIES: usize = 500;
/// A clock that differs by less is no reason for a 401.
const SKEW: i64 = 30;
/// After a secondary limit without `Retry-After`, GitHub wants to be left alone for so long.
const SECONDARY_LIMIT: Duration = Duration::from_mins(1);
/// Every answer is JSON, whose message says more than the status.
const READS: fn(StatusCode) -> bool = |_| true;
const HEADERS: &[(&str, &str)] = &[("X-GitHub-Api-Version", "2022-11-28")];

/// Which installation of the App to ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Installation {
    /// By its number.
    Id(u64),
    /// That of an organisation or user.
    Owner(String),
    /// The one that has this repository: owner and name.
    Repository(String, String),
    /// That of each owner for whom a token is asked; there is none without an owner.
    OfEach,
}

impl fmt::Display for Installation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "installation {id}"),
            Self::Owner(owner) => f.write_str(owner),
            Self::Repository(owner, name) => write!(f, "{owner}/{name}"),
            Self::OfEach => f.write_str("each owner"),
        }
    }
}

/// Which App, which installation, and what its tokens may do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GithubAppConfig {
    /// The source's name.
    pub name: SourceName,
    /// The App's client id, or its number.
    pub app: String,
    /// The file with its private key.
    pub private_key: PathBuf,
    /// The base URL of the API; `https://HOST/api/v3` for GitHub Enterprise Server.
    pub api_url: String,
    /// The installation.
    pub installation: Installation,
    /// The repositories that a token is for; empty is all of the installation.
    pub repositories: Vec<String>,
    /// What it may do with them; empty is all that the installation grants.
    pub permissions: BTreeMap<String, String>,
    /// A proxy, only if configured as such.
    pub proxy: Option<String>,
    /// Additional CA bundle (PEM) for https.
    pub ca_file: Option<PathBuf>,
    /// The longest a request may take.
    pub request_timeout: Duration,
    /// The most tokens that the App mints in a minute on this machine.
    #[serde(default = "mints_a_minute")]
    pub mints_a_minute: usize,
    /// Tokens of it are made on demand: there may be hundreds, each of which would watch the key.
    #[serde(default)]
    pub is_on_demand: bool,
}

/// GitHub documents 900 points a minute, of which a mint costs five; the rest is for others.
fn mints_a_minute() -> usize {
    120
}

/// A name of GitHub's: letters, digits and some marks, at most `most` of them.
fn is_name(text: &str, marks: &str, most: usize) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || marks.contains(c);
    !text.is_empty() && text.len() <= most && text.chars().all(is_part)
}

/// A repository's name.
fn is_repository(text: &str) -> bool {
    is_name(text, "-_.", 100) && !matches!(text, "." | "..")
}

impl Configured for GithubAppConfig {
    const TYPE: &'static str = "github-app";

    fn parse(table: &mut Table) -> Result<Self, TableError> {
        let client_id = table.text("client-id")?;
        let app_id = table.number("app-id")?;
        let app = match (client_id, app_id) {
            (Some(id), None) => id.value,
            (None, Some(id)) => id.to_string(),
            (Some(_), Some(_)) => return Err(table.error("has both `client-id` and `app-id`")),
            (None, None) => {
                let error = table.error("has no `client-id`");
                return Err(
                    error.hint("it is on the App's page, under General; `app-id` does, too")
                );
            }
        };
        let private_key = table.secret_file("private-key")?.ok_or_else(|| {
            let error = table.error("has no `private-key`");
            error.hint("private-key = { file = \"/etc/molecule/app.pem\" }")
        })?;
        let api_url = url(table, "api-url")?.unwrap_or_else(|| GITHUB.to_owned());
        let id = table.number("installation-id")?.map(Installation::Id);
        let owner = table.text("owner")?;
        if let Some(Located { value, line }) =
            owner.as_ref().filter(|it| !Scope::is_owner(&it.value))
        {
            return Err(table.invalid(
                "owner",
                *line,
                "the name of an organisation or user",
                quoted(value),
            ));
        }
        let owner = owner.map(|owner| Installation::Owner(owner.value));
        let repository = match table.text("repository")? {
            None => None,
            Some(Located { value, line }) => match value.split_once('/') {
                Some((owner, name)) if Scope::is_owner(owner) && is_repository(name) => {
                    Some(Installation::Repository(owner.to_owned(), name.to_owned()))
                }
                _ => {
                    return Err(table.invalid(
                        "repository",
                        line,
                        "OWNER/REPOSITORY",
                        quoted(&value),
                    ));
                }
            },
        };
        let mut installations = [id, owner, repository].into_iter().flatten();
        let installation = installations.next().unwrap_or(Installation::OfEach);
        if installations.next().is_some() {
            return Err(
                table.error("has more than one of `owner`, `repository` and `installation-id`")
            );
        }
        let repositories = repositories(table)?;
        let permissions = table.map("permissions")?;
        Ok(Self {
            name: SourceName::new(table.name()),
            app,
            private_key,
            api_url,
            installation,
            repositories,
            permissions,
            proxy: url(table, "proxy")?,
            ca_file: table.text("ca-file")?.map(|path| path.value.into()),
            request_timeout: table.span("request-timeout")?.unwrap_or(Duration::from_secs(10)),
            mints_a_minute: match table.number("mints-per-minute")? {
                Some(most) => usize::try_from(most).unwrap_or(usize::MAX),
                None => mints_a_minute(),
            },
            is_on_demand: false,
        })
    }

    fn narrowed(&self, scope: &Scope) -> Option<Self> {
        let is_other = |owner: &str| !owner.eq_ignore_ascii_case(&scope.owner);
        if self.owner().is_some_and(is_other) {
            return None;
        }
        let mut narrowed = Self { is_on_demand: true, ..self.clone() };
        if let Some(name) = &scope.repository {
            let is_it = |known: &String| known.eq_ignore_ascii_case(name);
            if !self.repositories.is_empty() && !self.repositories.iter().any(is_it) {
                return None;
            }
            narrowed.repositories = vec![name.clone()];
        }
        if self.installation == Installation::OfEach {
            narrowed.installation = match &scope.repository {
                Some(name) => Installation::Repository(scope.owner.clone(), name.clone()),
                None => Installation::Owner(scope.owner.clone()),
            };
        }
        Some(narrowed)
    }

    fn describe(&self) -> String {
        let (url, app) = (http::without_userinfo(&self.api_url), &self.app);
        let key = self.private_key.display();
        format!("tokens {} from {url} as the App {app} with the key {key}", self.wanted())
    }
}

impl GithubAppConfig {
    /// The owner whose installation it is, where that is said.
    fn owner(&self) -> Option<&str> {
        match &self.installation {
            Installation::Owner(owner) | Installation::Repository(owner, _) => Some(owner),
            Installation::Id(_) | Installation::OfEach => None,
        }
    }

    /// What tokens are asked for, in words.
    fn wanted(&self) -> String {
        let mut wanted = format!("of {}", self.installation);
        if !self.repositories.is_empty() {
            wanted = format!("{wanted}, repositories {}", self.repositories.join(", "));
        }
        if !self.permissions.is_empty() {
            let permissions = self.permissions.iter();
            let permissions: Vec<_> =
                permissions.map(|(name, level)| format!("{name}: {level}")).collect();
            wanted = format!("{wanted}, permissions {}", permissions.join(", "));
        }
        wanted
    }
}

fn quoted(text: &str) -> String {
    format!("`{}`", text.escape_debug())
}

fn url(table: &mut Table, key: &'static str) -> Result<Option<String>, TableError> {
    let Some(Located { value, line }) = table.text(key)? else { return Ok(None) };
    match http::parse_url(&value) {
        Ok(_) => Ok(Some(value)),
        // It may hold a password.
        Err(why) => Err(table.invalid(key, line, "a URL", why)),
    }
}

fn repositories(table: &mut Table) -> Result<Vec<String>, TableError> {
    let named = table.texts("repositories")?.unwrap_or_default();
    if let Some(Located { line, .. }) = named.get(MOST_REPOSITORIES) {
        let expected = format!("at most {MOST_REPOSITORIES}");
        return Err(table.invalid("repositories", *line, expected, named.len()));
    }
    for Located { value, line } in &named {
        if !is_repository(value) {
            let expected = "names of repositories without their owner";
            return Err(table.invalid("repositories", *line, expected, quoted(value)));
        }
    }
    Ok(named.into_iter().map(|name| name.value).collect())
}

/// The file of the private key.
enum KeyFile {
    Watched(Box<WatchedFile>),
    Unwatched(ForeignFile),
}

/// See the module.
pub struct GithubApp {
    config: GithubAppConfig,
    key: KeyFile,
    http: Http,
    /// The number of the installation; 0 while it is not known.
    installation: AtomicU64,
    /// What is added to this machine's clock in claims, in seconds: GitHub refused one without it.
    correction: AtomicI64,
    clock_ahead: ClockAhead,
    budget: Arc<Budget>,
}

impl GithubApp {
    /// A source over GitHub; connects at the first fetch.
    #[expect(clippy::needless_pass_by_value, reason = "every source is made like this")]
    pub fn new(
        config: GithubAppConfig,
        clock: Arc<dyn Clock>,
        launcher: Arc<Launcher>,
        budgets: Arc<Budgets>,
    ) -> Self {
        let budget = budgets.of(&format!("{} {}", config.api_url, config.app));
        let key = Request { anywhere: true, ..Request::file(&config.private_key, KEY_LIMIT) };
        let installation = match config.installation {
            Installation::Id(id) => id,
            _ => 0,
        };
        Self {
            key: if config.is_on_demand {
                KeyFile::Unwatched(ForeignFile::new(key, Arc::clone(&launcher)))
            } else {
                KeyFile::Watched(Box::new(WatchedFile::new(key, Arc::clone(&launcher))))
            },
            http: Http {
                source: config.name.get(),
                proxy: config.proxy.clone(),
                ca_file: config.ca_file.as_deref().map(|path| http::ca_file(path, launcher)),
                timeout: config.request_timeout,
                clock,
                turns: Turns::default(),
            },
            installation: AtomicU64::new(installation),
            correction: AtomicI64::new(0),
            clock_ahead: ClockAhead::default(),
            budget,
            config,
        }
    }

    async fn mint(&self) -> Result<Fetched, FetchError> {
        let key = self.read_key().await?;
        let was_known = self.installation.load(Ordering::Relaxed) != 0;
        let minted = self.mint_once(&key).await;
        let is_gone = matches!(&minted, Err(error) if error.kind == FetchErrorKind::NotInstalled);
        // Whoever removes an App and installs it again gets another number.
        if was_known && is_gone && !matches!(self.config.installation, Installation::Id(_)) {
            self.installation.store(0, Ordering::Relaxed);
            return self.mint_once(&key).await;
        }
        minted
    }

    async fn mint_once(&self, key: &Key) -> Result<Fetched, FetchError> {
        let id = match self.installation.load(Ordering::Relaxed) {
            0 => self.find(key).await?,
            id => id,
        };
        let url = self.url(&["app", "installations", &id.to_string(), "access_tokens"])?;
        let mut body = serde_json::Map::new();
        if !self.config.repositories.is_empty() {
            body.insert("repositories".to_owned(), json!(self.config.repositories));
        }
        if !self.config.permissions.is_empty() {
            body.insert("permissions".to_owned(), json!(self.config.permissions));
        }
        let body = serde_json::Value::Object(body).to_string().into_bytes();
        let (most, now) = (self.config.mints_a_minute, self.http.clock.now().boot);
        self.budget.take(most, now).map_err(|wait| {
            let seconds = wait.as_secs() + 1;
            let app = &self.config.app;
            let detail = format!("the App {app} may not mint for another {seconds} s: {most} a minute are its budget here, or GitHub asked it to wait");
            self.error(FetchErrorKind::RateLimited, detail).retry_after(Some(wait))
        })?;
        let answer = self.ask(key, Method::POST, &url, Some(body)).await?;
        match answer.status {
            StatusCode::CREATED | StatusCode::OK => {
                minted::fetched(self.http.source, &url, &answer).map_err(in_own_words)
            }
            StatusCode::NOT_FOUND => Err(self.not_installed()),
            StatusCode::UNPROCESSABLE_ENTITY => {
                let (said, wanted) = (said::message(&answer.body), self.config.wanted());
                Err(self
                    .error(FetchErrorKind::NotGranted, format!("{wanted}: GitHub says: {said}")))
            }
            _ => Err(self.refused(&url, &answer)),
        }
    }

    /// The number of the installation; kept for the next time.
    async fn find(&self, key: &Key) -> Result<u64, FetchError> {
        let paths = match &self.config.installation {
            Installation::Id(id) => return Ok(*id),
            Installation::OfEach => {
                let detail = "the source names no owner, so it gives tokens on demand only";
                return Err(self.error(FetchErrorKind::NotConfigured, detail));
            }
            Installation::Repository(owner, name) => {
                vec![["repos", owner, name, "installation"].to_vec()]
            }
            // An organisation or a user: their numbers are in one space, their addresses are not.
            Installation::Owner(owner) => {
                vec![vec!["orgs", owner, "installation"], vec!["users", owner, "installation"]]
            }
        };
        for path in paths {
            let url = self.url(&path)?;
            let answer = self.ask(key, Method::GET, &url, None).await?;
            match answer.status {
                StatusCode::OK => {
                    let id = said::installation(&answer.body).ok_or_else(|| {
                        let detail = format!("{url} answers without the number of an installation");
                        self.error(FetchErrorKind::BadAnswer, detail)
                    })?;
                    self.installation.store(id, Ordering::Relaxed);
                    return Ok(id);
                }
                StatusCode::NOT_FOUND => {}
                _ => return Err(self.refused(&url, &answer)),
            }
        }
        Err(self.not_installed())
    }

    /// Asks with a claim. One that is refused for a wrong clock is corrected by GitHub's, once.
    async fn ask(
        &self,
        key: &Key,
        method: Method,
        url: &Url,
        body: Option<Vec<u8>>,
    ) -> Result<Answer, FetchError> {
        let question = |bearer| Question {
            method: method.clone(),
            url: url.clone(),
            bearer,
            accept: "application/vnd.github+json",
            headers: HEADERS,
            body: body.clone(),
            reads: READS,
        };
        let answer = self.send(question(self.claim(key)?)).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let ahead = self.clock_ahead.get().unwrap_or_default();
        let earlier = self.correction.load(Ordering::Relaxed);
        let correction = if ahead.abs() > SKEW { ahead } else { 0 };
        if correction.abs_diff(earlier) <= SKEW.unsigned_abs() {
            return Ok(answer);
        }
        self.correction.store(correction, Ordering::Relaxed);
        tracing::debug!(
            source = self.http.source,
            correction,
            "the claim's times follow GitHub's clock"
        );
        self.send(question(self.claim(key)?)).await
    }

    async fn send(&self, question: Question) -> Result<Answer, FetchError> {
        let answer = self.http.ask(question).await.map_err(in_own_words)?;
        self.clock_ahead.learn(&answer, &*self.http.clock);
        Ok(answer)
    }

    fn claim(&self, key: &Key) -> Result<Secret, FetchError> {
        let correction = self.correction.load(Ordering::Relaxed);
        let change = Duration::from_secs(correction.unsigned_abs());
        let now = self.http.clock.now().wall;
        let now =
            if correction < 0 { now.saturating_sub(change) } else { now.saturating_add(change) };
        key.claim(&self.config.app, now).map_err(|why| self.key_error(&why))
    }

    /// Reads the key, anew at every fetch: it may be replaced at any time.
    async fn read_key(&self) -> Result<Key, FetchError> {
        let found = match &self.key {
            KeyFile::Watched(file) => file.read_found().await,
            KeyFile::Unwatched(file) => file.read_found().await,
        };
        let found = found.map_err(|why| {
            if why.is_transient() && why != Unreadable::Missing {
                self.error(FetchErrorKind::BearerNotRead, self.of_key(&why))
            } else {
                self.key_error(&why)
            }
        })?;
        if found.mode & TOO_OPEN != 0 {
            let why = format!("others can read it: its mode is {:04o}", found.mode & 0o7777);
            return Err(self.key_error(&why));
        }
        Key::parse(&found.content).map_err(|why| self.key_error(&why))
    }

    fn of_key(&self, why: &dyn fmt::Display) -> String {
        format!("{}: {why}", self.config.private_key.display())
    }

    fn key_error(&self, why: &dyn fmt::Display) -> FetchError {
        self.error(FetchErrorKind::KeyUnusable, self.of_key(why))
    }

    fn not_installed(&self) -> FetchError {
        let detail = format!("the App {} and {}", self.config.app, self.config.installation);
        self.error(FetchErrorKind::NotInstalled, detail)
    }

    /// What a status means that is neither success nor expected.
    fn refused(&self, url: &Url, answer: &Answer) -> FetchError {
        let said = said::message(&answer.body);
        let mut error = in_own_words(self.http.refused(url, answer));
        if answer.status == StatusCode::FORBIDDEN && error.kind != FetchErrorKind::RateLimited {
            let is_limit = said.contains("rate limit");
            let kind = if said.contains("suspended") {
                FetchErrorKind::Suspended
            } else if is_limit {
                FetchErrorKind::RateLimited
            } else {
                FetchErrorKind::Forbidden
            };
            let wish = is_limit.then_some(SECONDARY_LIMIT);
            error = self.error(kind, error.detail).retry_after(wish);
        }
        if let (FetchErrorKind::RateLimited, Some(wish)) = (error.kind, error.retry_after) {
            self.budget.leave_alone(self.http.clock.now().boot.saturating_add(wish));
        }
        let _ = fmt::Write::write_fmt(
            &mut error.detail,
            format_args!(" to the App {}: {said}", self.config.app),
        );
        error
    }

    fn url(&self, path: &[&str]) -> Result<Url, FetchError> {
        let base = &self.config.api_url;
        let bad = |why: &dyn fmt::Display| {
            let shown = http::without_userinfo(base);
            self.error(FetchErrorKind::NotConfigured, format!("api-url {shown}: {why}"))
        };
        let mut url = http::plain(http::parse_url(base).map_err(|why| bad(&why))?);
        url.path_segments_mut()
            .map_err(|()| bad(&"nothing can stand below it"))?
            .pop_if_empty()
            .extend(path);
        Ok(url)
    }

    fn error(&self, kind: FetchErrorKind, detail: impl Into<String>) -> FetchError {
        in_own_words(FetchError::new(self.http.source, kind, detail))
    }
}

/// An error in the words of this source.
fn in_own_words(error: FetchError) -> FetchError {
    let explanation = explain(error.kind);
    error.explained(explanation)
}

impl Source for GithubApp {
    fn name(&self) -> &'static str {
        self.http.source
    }

    fn max_life(&self) -> Option<Duration> {
        Some(minted::MAX_LIFE)
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        Box::pin(self.mint())
    }

    fn clock_ahead(&self) -> Option<i64> {
        self.clock_ahead.get()
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        match &self.key {
            KeyFile::Watched(file) => Box::pin(file.changed()),
            KeyFile::Unwatched(_) => Box::pin(std::future::pending()),
        }
    }
}

/// What an error means where a GitHub App is asked, and not the platform.
fn explain(kind: FetchErrorKind) -> Option<Explanation> {
    use FetchErrorKind as Kind;
    let (sentence, remedy) = match kind {
        Kind::NotConfigured => {
            ("the source is not configured rightly", "correct `api-url` and `proxy` of the source")
        }
        Kind::BearerNotRead => (
            "the App's private key could not be read just now",
            "look at the file system that the key lies on; it is tried again by itself",
        ),
        Kind::Unreachable => (
            "GitHub cannot be reached",
            "check the network from here, and `api-url` and `proxy` of the source: curl -sS https://api.github.com/zen",
        ),
        Kind::TimedOut => (
            "GitHub did not answer in time",
            "see https://www.githubstatus.com; it is tried again by itself",
        ),
        Kind::ServerError => (
            "GitHub failed to mint a token",
            "see https://www.githubstatus.com; it is tried again by itself",
        ),
        Kind::RateLimited => {
            ("GitHub limits the App's rate", "wait: it is tried again when GitHub allows it")
        }
        Kind::Unauthorized => (
            "GitHub does not accept the App's signature",
            "check that `client-id` or `app-id` and `private-key` belong to the same App, and that the key was not deleted on the App's page",
        ),
        Kind::Forbidden => (
            "GitHub forbids the App a token",
            "read what GitHub says; an IP allow list of the owner must have this machine's address",
        ),
        Kind::NotFound => ("GitHub has nothing at this address", "check `api-url` of the source"),
        Kind::BadAnswer => (
            "the answer is not one of GitHub's",
            "check `api-url` of the source: it must be GitHub's API (for GitHub Enterprise Server https://HOST/api/v3) and no proxy or login page",
        ),
        Kind::Redirected => (
            "GitHub redirects to another origin, where the App's signature must not go",
            "set `api-url` to the address that it redirects to, if that is GitHub",
        ),
        Kind::BornExpired => (
            "GitHub gave a token that had already expired",
            "check the clock of this machine: date -u",
        ),
        Kind::ClocksDisagree => (
            "GitHub's clock and this machine's disagree, and by one of them the token has expired",
            "set this machine's clock: compare `date -u` with the Date of https://api.github.com",
        ),
        _ => return None,
    };
    Some(Explanation { sentence, remedy })
}

#[cfg(test)]
mod tests;
