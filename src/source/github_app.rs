//! Installation tokens of a GitHub App, minted by itself.
//!
//! The App proves who it is with a JWT that its private key signs, and asks for a token of one of its
//! installations: `POST /app/installations/{id}/access_tokens`
//! (<https://docs.github.com/en/rest/apps/apps>). The installation is named by its number, or found by
//! its owner or by a repository, and kept until GitHub no longer knows it. Sources of one App share what
//! they find and mint, where it is the same.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::sync::OnceCell;

use crate::error::{Explanation, FetchError, FetchErrorKind};
use crate::foreign::Launcher;
use crate::secret::Secret;
use crate::source::http::{self, Answer, Http, Method, Question, StatusCode, Turns, Url};
use crate::source::minted::{self, ClockAhead};
use crate::source::{BoxFuture, Fetched, Source};
use crate::time::Clock;
use crate::token::Token;

mod budget;
mod config;
mod explain;
mod key;
mod key_place;
mod revoke;
mod said;
mod shared;

pub use budget::{Awaited, MintQueue, NotNow};
pub use config::{GITHUB, GithubAppConfig, Installation, PrivateKey};
use explain::explain;
use key::Key;
use key_place::KeyPlace;
use revoke::Given;
pub use shared::Apps;
use shared::{App, Minted, Number};

/// A clock that differs by less is no reason for a 401.
const SKEW: i64 = 30;
/// After a secondary limit without `Retry-After`, GitHub wants to be left alone for so long.
const SECONDARY_LIMIT: Duration = Duration::from_mins(1);
/// Every answer is JSON, whose message says more than the status.
const READS: fn(StatusCode) -> bool = |_| true;
const MEDIA_TYPE: &str = "application/vnd.github+json";
const HEADERS: &[(&str, &str)] = &[("X-GitHub-Api-Version", "2022-11-28")];

/// See the module.
pub struct GithubApp {
    config: GithubAppConfig,
    key: KeyPlace,
    http: Http,
    app: Arc<App>,
    installation: Arc<Number>,
    /// The tokens of the installation with this number, as far as it is known.
    minted: Mutex<Option<(u64, Arc<Minted>)>>,
    /// Which of them this source has given last.
    given: AtomicU64,
    /// A reader waits for the token that is being fetched.
    is_awaited: AtomicBool,
    /// What is added to this machine's clock in claims, in seconds: GitHub refused one without it.
    correction: AtomicI64,
    clock_ahead: ClockAhead,
}

/// The key, read when it is first needed in a fetch.
type ReadKey = OnceCell<Key>;

impl GithubApp {
    /// A source over GitHub; connects at the first fetch.
    #[expect(clippy::needless_pass_by_value, reason = "every source is made like this")]
    pub fn new(
        config: GithubAppConfig,
        clock: Arc<dyn Clock>,
        launcher: Arc<Launcher>,
        apps: Arc<Apps>,
    ) -> Self {
        let app = apps.of(&config);
        Self {
            key: KeyPlace::new(&config.private_key, config.is_on_demand, &launcher),
            http: Http {
                source: config.name.get(),
                proxy: config.proxy.clone(),
                ca_file: config.ca_file.as_deref().map(|path| http::ca_file(path, launcher)),
                timeout: config.request_timeout,
                clock,
                turns: Turns::default(),
            },
            installation: app.installation(&config),
            minted: Mutex::default(),
            given: AtomicU64::new(0),
            is_awaited: AtomicBool::new(false),
            correction: AtomicI64::new(0),
            clock_ahead: ClockAhead::default(),
            app,
            config,
        }
    }

    async fn mint(&self) -> Result<Fetched, FetchError> {
        // Whoever waits for its turn must be told to come later before the engine takes it for hung: that
        // would be this source's failure.
        let deadline = self.http.clock.now().boot.saturating_add(self.config.request_timeout);
        let key = ReadKey::new();
        let (number, was_known) = self.installation(&key).await?;
        let minted = self.newest(&key, number, deadline).await;
        let is_gone = matches!(&minted, Err(error) if error.kind == FetchErrorKind::NotInstalled);
        // Whoever removes an App and installs it again gets another number.
        if was_known && is_gone && !matches!(self.config.installation, Installation::Id(_)) {
            self.installation.forget(number).await;
            let (number, _) = self.installation(&key).await?;
            return self.newest(&key, number, deadline).await;
        }
        minted
    }

    /// The number of the installation, and whether it was known before.
    async fn installation(&self, key: &ReadKey) -> Result<(u64, bool), FetchError> {
        if let Installation::Id(id) = self.config.installation {
            return Ok((id, true));
        }
        let mut number = self.installation.0.lock().await;
        let was_known = *number != 0;
        if !was_known {
            *number = self.find(key).await?;
        }
        Ok((*number, was_known))
    }

    /// The newest token, which others may have had, or a new one for whoever has had that, whose turn comes
    /// by the `deadline` (boot clock).
    async fn newest(
        &self,
        key: &ReadKey,
        number: u64,
        deadline: Duration,
    ) -> Result<Fetched, FetchError> {
        let minted = self.minted(number);
        let asked = minted.ended();
        if self.is_awaited.load(Ordering::Relaxed) {
            self.app.budget.hurry(&minted.awaited);
        }
        let mut last = minted.last.lock().await;
        let had = self.given.load(Ordering::Relaxed);
        if let Some(token) = last.newer_than(had, &self.http.clock.now()) {
            self.given.store(last.number, Ordering::Relaxed);
            return Ok(token);
        }
        // An attempt was under way when it was asked for, and has failed.
        if let Some(failure) = last.failure.as_ref().filter(|_| minted.ended() != asked) {
            return Err(FetchError { source_name: self.http.source, ..failure.clone() });
        }
        minted.awaited.store(self.is_awaited.load(Ordering::Relaxed), Ordering::Relaxed);
        let outcome = self.mint_once(key, number, &minted.awaited, deadline).await;
        minted.keep(&mut last, &outcome);
        if let Ok(token) = &outcome {
            self.given.store(last.number, Ordering::Relaxed);
            self.revoke_later(&token.secret, minted::MAX_LIFE);
        }
        outcome
    }

    /// What is minted of the installation with this number.
    fn minted(&self, number: u64) -> Arc<Minted> {
        let mut minted = self.minted.lock().unwrap_or_else(PoisonError::into_inner);
        match &*minted {
            Some((of, minted)) if *of == number => Arc::clone(minted),
            _ => {
                let found = self.app.minted(number, &self.config);
                self.given.store(0, Ordering::Relaxed);
                *minted = Some((number, Arc::clone(&found)));
                found
            }
        }
    }

    async fn mint_once(
        &self,
        key: &ReadKey,
        id: u64,
        awaited: &Awaited,
        deadline: Duration,
    ) -> Result<Fetched, FetchError> {
        let url = self.url(&["app", "installations", &id.to_string(), "access_tokens"])?;
        let mut body = serde_json::Map::new();
        if !self.config.repositories.is_empty() {
            body.insert("repositories".to_owned(), json!(self.config.repositories));
        }
        if !self.config.permissions.is_empty() {
            body.insert("permissions".to_owned(), json!(self.config.permissions));
        }
        let body = serde_json::Value::Object(body).to_string().into_bytes();
        // Before its turn is taken.
        self.key(key).await?;
        let most = self.config.mints_a_minute;
        let turn = self.app.budget.turn(most, awaited, deadline, &*self.http.clock).await;
        turn.map_err(|not_now| self.not_now(not_now))?;
        let answer = self.ask(key, Method::POST, &url, Some(body)).await?;
        match answer.status {
            StatusCode::CREATED | StatusCode::OK => {
                minted::fetched(self.http.source, &url, &answer).map_err(in_own_words)
            }
            StatusCode::NOT_FOUND => Err(self.not_installed()),
            StatusCode::UNPROCESSABLE_ENTITY => {
                let said = said::message(&answer.body);
                let detail = format!("{}: GitHub says: {said}", self.asked_for());
                Err(self.error(FetchErrorKind::NotGranted, detail))
            }
            _ => Err(self.refused(&url, &answer)),
        }
    }

    /// Finds the number of the installation.
    async fn find(&self, key: &ReadKey) -> Result<u64, FetchError> {
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
        key: &ReadKey,
        method: Method,
        url: &Url,
        body: Option<Vec<u8>>,
    ) -> Result<Answer, FetchError> {
        let now = self.http.clock.now().boot;
        self.app.budget.may_ask(now).map_err(|not_now| self.not_now(not_now))?;
        let key = self.key(key).await?;
        let question = |bearer| Question {
            method: method.clone(),
            url: url.clone(),
            bearer,
            accept: MEDIA_TYPE,
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
        let kind = FetchErrorKind::KeyUnusable;
        key.claim(&self.config.app, now).map_err(|why| self.key_error(kind, why))
    }

    async fn key<'a>(&self, key: &'a ReadKey) -> Result<&'a Key, FetchError> {
        key.get_or_try_init(|| self.read_key()).await
    }

    async fn read_key(&self) -> Result<Key, FetchError> {
        self.key.read().await.map_err(|why| {
            let kind = if why.is_transient {
                FetchErrorKind::BearerNotRead
            } else {
                FetchErrorKind::KeyUnusable
            };
            self.key_error(kind, &why.words)
        })
    }

    fn key_error(&self, kind: FetchErrorKind, why: &str) -> FetchError {
        let error = self.error(kind, format!("{}: {why}", self.config.private_key));
        match &self.config.private_key {
            PrivateKey::Variable { .. } => error.explained(Some(explain::KEY_OF_A_VARIABLE)),
            PrivateKey::File(_) => error,
        }
    }

    /// Where the configuration says so, a token that lives for so long is revoked at an orderly end.
    fn revoke_later(&self, secret: &Secret, left: Duration) {
        if let (true, Ok(url)) = (self.config.revoke_on_exit, self.url(&["installation", "token"]))
        {
            let dies = self.http.clock.now().boot.saturating_add(left);
            let (secret, http) = (secret.clone(), self.http.clone());
            self.app.given.add(Given { secret, dies, http, url });
        }
    }

    fn not_now(&self, why: NotNow) -> FetchError {
        let (app, most) = (&self.config.app, self.config.mints_a_minute);
        let (wait, why, explanation) = match why {
            NotNow::Asked(wait) => (wait, "GitHub asked it to wait".to_owned(), None),
            NotNow::UsedUp(wait) => (
                wait,
                format!("`mints-per-minute` of the source, {most}, is used up"),
                Some(explain::BUDGET_USED_UP),
            ),
        };
        let detail =
            format!("the App {app} may not mint for another {} s: {why}", wait.as_secs() + 1);
        let error = self.error(FetchErrorKind::RateLimited, detail).retry_after(Some(wait));
        let explanation = explanation.or(error.explanation);
        error.explained(explanation)
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
            self.app.budget.leave_alone(self.http.clock.now().boot.saturating_add(wish));
        }
        error.detail = format!("{}, to {}: GitHub says: {said}", error.detail, self.asked_for());
        error
    }

    /// Who asks for what, in words.
    fn asked_for(&self) -> String {
        format!("the App {} for tokens {}", self.config.app, self.config.wanted())
    }

    fn url(&self, path: &[&str]) -> Result<Url, FetchError> {
        let base = &self.config.api_url;
        http::below(base, path).map_err(|why| {
            let shown = http::without_userinfo(base);
            self.error(FetchErrorKind::NotConfigured, format!("api-url {shown}: {why}"))
        })
    }

    fn error(&self, kind: FetchErrorKind, detail: impl Into<String>) -> FetchError {
        in_own_words(FetchError::new(self.http.source, kind, detail))
    }
}

/// A fetch under way; nobody waits for it when it has ended, in whatever way.
struct Fetching<'a>(&'a AtomicBool);

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
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

    /// GitHub answers before all its replicas know the token. The platform's tokens come from GitHub as
    /// well, but asking the platform again costs no mint: it repeats its token, which is then served again.
    fn is_known_late(&self) -> bool {
        true
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        Box::pin(async {
            let _fetching = Fetching(&self.is_awaited);
            self.mint().await
        })
    }

    fn resumed(&self, token: &Token) {
        self.revoke_later(&token.secret, token.left(&self.http.clock.now()));
    }

    fn hurry(&self) {
        self.is_awaited.store(true, Ordering::Relaxed);
        let minted = self.minted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, minted)) = &*minted {
            self.app.budget.hurry(&minted.awaited);
        }
    }

    fn explain(&self, kind: FetchErrorKind) -> Option<Explanation> {
        explain(kind)
    }

    fn clock_ahead(&self) -> Option<i64> {
        self.clock_ahead.get()
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        self.key.changed()
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::budget::tests::Stopped;
    use super::*;
    use crate::source::SourceName;
    use crate::time::SystemClock;

    fn source(key: Option<String>, installation: Installation, clock: Arc<dyn Clock>) -> GithubApp {
        let value = key.map(|pem| Secret::new(STANDARD.encode(pem).into_bytes()).unwrap());
        let key = PrivateKey::Variable { name: "ACME_KEY".to_owned(), value };
        let name = SourceName::new("acme-app");
        let config = GithubAppConfig {
            mints_a_minute: 1,
            request_timeout: Duration::from_secs(10),
            ..GithubAppConfig::new(name, "7".to_owned(), key, installation)
        };
        let program = std::fs::File::open("/dev/null").unwrap();
        let launcher = Arc::new(Launcher::new(program));
        GithubApp::new(config, clock, launcher, Arc::default())
    }

    fn without_a_key() -> GithubApp {
        source(None, Installation::Id(71), Arc::new(SystemClock))
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_its_turn_is_told_to_come_later_before_it_counts_as_hung() {
        let second = Duration::from_secs(1);
        let clock: Arc<dyn Clock> = Arc::new(Stopped(tokio::time::Instant::now()));
        let (key, owner) = (Some(key::tests::any()), Installation::Owner("acme".to_owned()));
        let source = source(key, owner, Arc::clone(&clock));
        let timer = Awaited::default();
        source.app.budget.turn(1, &timer, clock.now().boot, &*clock).await.unwrap();
        tokio::time::sleep(second * 47).await;
        // Its installation is found late: of the ten seconds that it has, too little is left to wait.
        let mut number = source.installation.0.lock().await;
        let finds = async {
            tokio::time::sleep(second * 6).await;
            *number = 71;
            drop(number);
        };
        let (fetched, ()) = tokio::join!(source.fetch(), finds);
        let error = fetched.unwrap_err();
        assert_eq!(clock.now().boot, second * 153, "it was told at once");
        let told = (error.kind, error.retry_after, error.explanation);
        let words = Some(explain::BUDGET_USED_UP);
        assert_eq!(told, (FetchErrorKind::RateLimited, Some(second * 7), words));
    }

    #[tokio::test]
    async fn the_queue_knows_of_a_reader_that_waits_until_the_fetch_ends() {
        let source = without_a_key();
        let awaited = Arc::clone(&source.minted(71).awaited);
        source.hurry();
        assert!(awaited.load(Ordering::Relaxed));
        source.fetch().await.unwrap_err();
        assert!(!source.is_awaited.load(Ordering::Relaxed), "it has its answer");
        source.fetch().await.unwrap_err();
        assert!(!awaited.load(Ordering::Relaxed), "nobody waits for this one");
        let fetch = source.fetch();
        source.hurry();
        fetch.await.unwrap_err();
        assert!(awaited.load(Ordering::Relaxed), "somebody came while it was under way");
    }
}
