//! The one HTTP client of the sources: whom they talk to, what they send, how much they read, and
//! what an answer that is no success means.
//!
//! A client is made for each fetch. Fetches lie minutes apart, so there is no connection worth
//! keeping, no idle timer to wake up for, the root certificates are not held in memory in between,
//! and those installed or replaced since are found.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Certificate, Client, Proxy, Response, redirect};
use tokio::sync::{Semaphore, oneshot};
use zeroize::Zeroizing;

use crate::error::{FetchError, FetchErrorKind};
use crate::foreign::{ForeignFile, Launcher, Request};
use crate::secret::Secret;
use crate::time::{Clock, Now};

mod headers;
mod url;

pub use reqwest::{Method, StatusCode, Url};

use self::headers::{content_type, limit, server_time};
pub use self::url::{UrlError, below, parse_url, without_userinfo};
use self::url::{origin, plain, shown};

/// The largest answer that is read, in bytes. A token has at most 64 KiB.
pub const BODY_LIMIT: usize = 1024 * 1024;

/// How many redirects within one origin are followed.
const REDIRECTS: usize = 3;

const USER_AGENT: &str = concat!("molecule-tokenfs/", env!("CARGO_PKG_VERSION"));

/// How many exchanges may be under way: one, and one that was given up and has not noticed yet.
const EXCHANGES: usize = 2;

/// The largest bundle of CA certificates that is read, in bytes; those of the web have a quarter.
const CA_LIMIT: usize = 1024 * 1024;

/// The bundle of CA certificates at `path`. Somebody named it, so links may lead anywhere; but its
/// directory may belong to others.
#[must_use]
pub fn ca_file(path: &Path, launcher: Arc<Launcher>) -> Arc<ForeignFile> {
    let request = Request { anywhere: true, ..Request::file(path, CA_LIMIT) };
    Arc::new(ForeignFile::new(request, launcher))
}

/// What a source needs to talk to its server.
#[derive(Clone)]
pub struct Http {
    /// The source's name, for errors.
    pub source: &'static str,
    /// The proxy, if one is configured for this source. Those of the environment are ignored: a
    /// credential must not go to a proxy by accident.
    pub proxy: Option<String>,
    /// A bundle of CA certificates (PEM) to trust beside the system's. See [`ca_file`].
    pub ca_file: Option<Arc<ForeignFile>>,
    /// The longest that one fetch may take, from the connection to the last byte, with redirects.
    pub timeout: Duration,
    /// Tells when a request was sent.
    pub clock: Arc<dyn Clock>,
    /// Bounds the threads that exchanges have.
    pub turns: Turns,
}

/// Leave for an exchange to have a thread. Clones share it.
#[derive(Clone)]
pub struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(EXCHANGES)))
    }
}

/// A request with a bearer (RFC 6750 §2.1).
#[derive(Clone)]
pub struct Question {
    /// The method.
    pub method: Method,
    /// The address.
    pub url: Url,
    /// The credential.
    pub bearer: Secret,
    /// The media type to ask for.
    pub accept: &'static str,
    /// Further headers.
    pub headers: &'static [(&'static str, &'static str)],
    /// The body, JSON without a secret in it.
    pub body: Option<Vec<u8>>,
    /// Of which answers the body is read; that of others may hold anything.
    pub reads: fn(StatusCode) -> bool,
}

impl Question {
    /// `GET url`, of which only a success (status 200) is read.
    #[must_use]
    pub fn get(url: Url, bearer: Secret) -> Self {
        let reads = |status| status == StatusCode::OK;
        let accept = "application/json";
        Self { method: Method::GET, url, bearer, accept, headers: &[], body: None, reads }
    }
}

/// An answer that is no redirect, read to its end.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// When the request was sent.
    pub issued: Now,
    /// The server's clock when it answered, since the Unix epoch, at the latest that it can have
    /// shown: `Date` (RFC 9110 §6.6.1), the end of its second, and the `Age` that a cache adds to it
    /// (RFC 9111 §5.1). `None` where there is no `Date`, where it is no date, and where there are two.
    pub server: Option<Duration>,
    /// The media type that the server claims, for messages.
    pub content_type: &'static str,
    /// The server asks to be left alone for so long, or a rate limit is used up.
    pub limit: Limit,
    /// The body, where it was asked for; it may hold a token anywhere, and is wiped when dropped.
    pub body: Zeroizing<Vec<u8>>,
}

/// What the headers of an answer say of rate limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limit {
    /// For how long the server wants to be left alone.
    pub wish: Option<Duration>,
    /// A rate limit is used up.
    pub is_used_up: bool,
}

impl Http {
    /// Gets `url` with a bearer.
    ///
    /// # Errors
    /// Those of [`Http::ask`], and [`Http::refused`] for any status but 200.
    pub async fn get(&self, url: &Url, bearer: &Secret) -> Result<Answer, FetchError> {
        let answer = self.ask(Question::get(url.clone(), bearer.clone())).await?;
        if answer.status == StatusCode::OK { Ok(answer) } else { Err(self.refused(url, &answer)) }
    }

    /// Asks, and takes any answer. Redirects are followed within the origin only, and where they keep the
    /// method.
    ///
    /// # Errors
    /// [`FetchErrorKind::Unreachable`], [`FetchErrorKind::TimedOut`],
    /// [`FetchErrorKind::NoCertificates`], [`FetchErrorKind::Redirected`];
    /// [`FetchErrorKind::BadAnswer`] for a body above [`BODY_LIMIT`] and for redirects without end;
    /// [`FetchErrorKind::NotConfigured`] for a proxy that is not a URL.
    pub async fn ask(&self, question: Question) -> Result<Answer, FetchError> {
        let url = &question.url.clone();
        let timed_out = |why: &str| {
            Err(self.error(FetchErrorKind::TimedOut, format!("{}: {why}", origin(url))))
        };
        let Ok(turn) = Arc::clone(&self.turns.0).try_acquire_owned() else {
            return timed_out("the last requests, which were given up, have not ended yet");
        };
        let trusted = self.trusted(url).await?;
        let (tell, told) = oneshot::channel();
        let http = self.clone();
        thread::Builder::new()
            .name("fetch".to_owned())
            .spawn(move || {
                http.exchange_alone(&question, trusted, tell);
                drop(turn);
            })
            .map_err(|why| {
                self.error(FetchErrorKind::Unreachable, format!("no thread can be started: {why}"))
            })?;
        match tokio::time::timeout(self.timeout, told).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self.error(FetchErrorKind::Panicked, "")),
            Err(_) => timed_out(&format!("no answer in {} seconds", self.timeout.as_secs_f64())),
        }
    }

    /// An exchange on a runtime of its own, until nobody waits for it any more. A connection may have
    /// 128 reads in one turn of its task, of up to 400 KiB each, all of which is parsed before
    /// anything else runs: a server with much to say (for ever another `103 Early Hints`) must not
    /// hold up the opens that wait.
    fn exchange_alone(
        &self,
        question: &Question,
        trusted: Vec<Certificate>,
        mut tell: oneshot::Sender<Result<Answer, FetchError>>,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let answer = match runtime {
            Err(why) => Err(self.error(FetchErrorKind::Unreachable, why.to_string())),
            Ok(runtime) => {
                let answer = runtime.block_on(async {
                    let client = self.client(&question.url, trusted)?;
                    tokio::select! {
                        answer = self.exchange(&client, question) => answer,
                        () = tell.closed() => Err(self.error(FetchErrorKind::TimedOut, "")),
                    }
                });
                // A name may still be looked up, which nothing can end.
                runtime.shutdown_background();
                answer
            }
        };
        // Whoever gave it up needs no answer.
        let _ = tell.send(answer);
    }

    async fn exchange(&self, client: &Client, question: &Question) -> Result<Answer, FetchError> {
        let Question { method, url: first, bearer, .. } = question;
        let mut url = first.clone();
        for _ in 0..=REDIRECTS {
            let issued = self.clock.now();
            let mut request = client
                .request(method.clone(), url.clone())
                .header(ACCEPT, question.accept)
                .header(AUTHORIZATION, self.authorization(bearer)?);
            for (name, value) in question.headers {
                request = request.header(*name, *value);
            }
            if let Some(body) = &question.body {
                request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
            }
            let response = request.send().await.map_err(|error| self.no_answer(first, error))?;
            let keeps_the_method = match response.status() {
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
                StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => {
                    *method == Method::GET
                }
                _ => return self.read(question, issued, response).await,
            };
            if !keeps_the_method {
                let detail = format!("{} redirects a {method}", shown(first));
                return Err(self.error(FetchErrorKind::BadAnswer, detail));
            }
            url = self.redirection(&url, response.headers())?;
        }
        Err(self.error(
            FetchErrorKind::BadAnswer,
            format!("{} redirects more than {REDIRECTS} times", shown(first)),
        ))
    }

    fn client(&self, url: &Url, trusted: Vec<Certificate>) -> Result<Client, FetchError> {
        let mut builder = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(0);
        let mut https = url.scheme() == "https";
        builder = match &self.proxy {
            None => builder.no_proxy(),
            Some(text) => {
                let proxy = parse_url(text).and_then(|url| {
                    https |= url.scheme() == "https";
                    Proxy::all(url).map_err(|error| UrlError::Invalid(root_cause(&error)))
                });
                builder.proxy(proxy.map_err(|error| {
                    self.error(
                        FetchErrorKind::NotConfigured,
                        format!("the proxy {}: {error}", without_userinfo(text)),
                    )
                })?)
            }
        };
        builder = if !https {
            // Loading the system's certificates fails where there are none, and is not needed.
            builder.tls_certs_only([])
        } else if trusted.is_empty() {
            builder
        } else {
            builder.tls_certs_merge(trusted)
        };
        // The rest of the configuration is constant: only the certificates can fail.
        builder.build().map_err(|error| {
            self.error(
                FetchErrorKind::NoCertificates,
                format!("{} needs them: {}", origin(url), root_cause(&error)),
            )
        })
    }

    /// The certificates to trust beside the system's, where https is spoken at all.
    async fn trusted(&self, url: &Url) -> Result<Vec<Certificate>, FetchError> {
        let proxy = self.proxy.as_deref().and_then(|text| parse_url(text).ok());
        let is_https = proxy.iter().chain([url]).any(|url| url.scheme() == "https");
        match &self.ca_file {
            Some(file) if is_https => self.bundle(file).await,
            _ => Ok(Vec::new()),
        }
    }

    async fn bundle(&self, file: &ForeignFile) -> Result<Vec<Certificate>, FetchError> {
        let unusable = |why: String| {
            self.error(FetchErrorKind::NoCertificates, format!("{}: {why}", file.path().display()))
        };
        let pem = file.read().await.map_err(|why| unusable(why.to_string()))?;
        let certificates =
            Certificate::from_pem_bundle(&pem).map_err(|error| unusable(root_cause(&error)))?;
        if certificates.is_empty() {
            return Err(unusable("it holds no certificate in PEM form".to_owned()));
        }
        Ok(certificates)
    }

    fn authorization(&self, bearer: &Secret) -> Result<HeaderValue, FetchError> {
        let line = Zeroizing::new([b"Bearer ".as_slice(), bearer.expose()].concat());
        let mut value = HeaderValue::from_bytes(&line).map_err(|_| {
            self.error(FetchErrorKind::BearerUnusable, "it cannot be a header's value")
        })?;
        // Masks it in `Debug`, and so in the logs of every library below.
        value.set_sensitive(true);
        Ok(value)
    }

    /// Where a redirect leads. No error repeats a byte of `Location`: the server could have put our
    /// bearer into it, even as the name of a host.
    fn redirection(&self, from: &Url, headers: &HeaderMap) -> Result<Url, FetchError> {
        let here = origin(from);
        let target = headers
            .get(LOCATION)
            .and_then(|location| location.to_str().ok())
            .and_then(|location| from.join(location).ok())
            .ok_or_else(|| {
                self.error(FetchErrorKind::BadAnswer, format!("{here} redirects to nowhere"))
            })?;
        if target.origin() != from.origin() {
            let is_web = matches!(target.scheme(), "http" | "https");
            let there = if is_web && target.host_str() == from.host_str() {
                origin(&target)
            } else {
                "another host".to_owned()
            };
            let detail = format!("{here} redirects to {there}");
            return Err(self.error(FetchErrorKind::Redirected, detail));
        }
        Ok(plain(target))
    }

    async fn read(
        &self,
        question: &Question,
        issued: Now,
        mut response: Response,
    ) -> Result<Answer, FetchError> {
        let (url, status) = (&question.url, response.status());
        let mut answer = Answer {
            status,
            issued,
            server: server_time(response.headers()),
            content_type: content_type(response.headers()),
            limit: limit(response.headers(), issued),
            body: Zeroizing::default(),
        };
        if !(question.reads)(status) {
            return Ok(answer);
        }
        let too_large = || {
            self.error(
                FetchErrorKind::BadAnswer,
                format!("{} answers with more than {} KiB", shown(url), BODY_LIMIT / 1024),
            )
        };
        let announced = response.content_length().unwrap_or_default();
        let announced = usize::try_from(announced).unwrap_or(usize::MAX);
        if announced > BODY_LIMIT {
            return Err(too_large());
        }
        let mut body = Zeroizing::new(Vec::with_capacity(announced));
        // Each chunk is dropped once it is copied: a body may come in a million of them, and each
        // would keep its own bookkeeping.
        while let Some(chunk) =
            response.chunk().await.map_err(|error| self.no_answer(url, error))?
        {
            if body.len() + chunk.len() > BODY_LIMIT {
                return Err(too_large());
            }
            append(&mut body, &chunk);
        }
        answer.body = body;
        Ok(answer)
    }

    /// What a status says that is neither success nor redirect: the kinds of that name,
    /// [`FetchErrorKind::BadAnswer`] for any other. The body is not looked at: it may hold a token.
    #[must_use]
    pub fn refused(&self, url: &Url, answer: &Answer) -> FetchError {
        let Answer { status, limit: Limit { wish, is_used_up }, .. } = *answer;
        let kind = match status {
            StatusCode::TOO_MANY_REQUESTS => FetchErrorKind::RateLimited,
            StatusCode::FORBIDDEN if wish.is_some() || is_used_up => FetchErrorKind::RateLimited,
            StatusCode::FORBIDDEN => FetchErrorKind::Forbidden,
            StatusCode::UNAUTHORIZED => FetchErrorKind::Unauthorized,
            StatusCode::NOT_FOUND => FetchErrorKind::NotFound,
            status if status.is_server_error() => FetchErrorKind::ServerError,
            _ => FetchErrorKind::BadAnswer,
        };
        self.error(kind, format!("{} answers {status}", shown(url))).retry_after(wish)
    }

    fn no_answer(&self, url: &Url, error: reqwest::Error) -> FetchError {
        // Without its URL, in which there may be a password.
        let error = error.without_url();
        let what = if error.is_connect() { "cannot connect to" } else { "no whole answer from" };
        let mut detail = format!("{what} {}", origin(url));
        if let Some(proxy) = &self.proxy {
            let _ = write!(detail, " through {}", without_userinfo(proxy));
        }
        let _ = write!(detail, ": {}", root_cause(&error));
        self.error(FetchErrorKind::Unreachable, detail)
    }

    fn error(&self, kind: FetchErrorKind, detail: impl Into<String>) -> FetchError {
        FetchError::new(self.source, kind, detail)
    }
}

/// What an error comes from in the end: the system's or the TLS library's own words, without the names
/// in a server's certificate that the latter adds.
fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let mut words = cause.to_string();
    if let Some(end) = words.find("; certificate is only valid for") {
        words.truncate(end);
    }
    words
}

/// Appends to a buffer that holds a secret, without leaving a copy behind where it grows.
fn append(buffer: &mut Zeroizing<Vec<u8>>, bytes: &[u8]) {
    if buffer.capacity() - buffer.len() < bytes.len() {
        let room = (buffer.len() + bytes.len()).next_power_of_two();
        let mut larger = Zeroizing::new(Vec::with_capacity(room));
        larger.extend_from_slice(buffer);
        *buffer = larger;
    }
    buffer.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::headers::tests::headers;
    use super::*;
    use crate::time::SystemClock;

    fn http() -> Http {
        Http {
            source: "test",
            proxy: None,
            ca_file: None,
            timeout: Duration::from_secs(10),
            clock: Arc::new(SystemClock),
            turns: Turns::default(),
        }
    }

    #[test]
    fn a_status_decides_the_kind() {
        let url = parse_url("http://me:pw@host:8080/x?secret").unwrap();
        let kind = |status: u16, pairs: &[_]| {
            let status = StatusCode::from_u16(status).unwrap();
            let answer = Answer {
                status,
                issued: Now::default(),
                server: None,
                content_type: "",
                limit: limit(&headers(pairs), Now::default()),
                body: Zeroizing::default(),
            };
            let error = http().refused(&url, &answer);
            assert!(error.detail.starts_with("http://host:8080/x answers "), "{error}");
            (error.kind, error.retry_after.map(|wish| wish.as_secs()))
        };
        assert_eq!(kind(401, &[]), (FetchErrorKind::Unauthorized, None));
        assert_eq!(kind(403, &[]), (FetchErrorKind::Forbidden, None));
        assert_eq!(kind(403, &[("retry-after", "9")]), (FetchErrorKind::RateLimited, Some(9)));
        let used_up = ("x-ratelimit-remaining", "0");
        assert_eq!(kind(403, &[used_up]), (FetchErrorKind::RateLimited, None));
        assert_eq!(kind(429, &[]), (FetchErrorKind::RateLimited, None));
        assert_eq!(kind(404, &[]), (FetchErrorKind::NotFound, None));
        assert_eq!(kind(500, &[]), (FetchErrorKind::ServerError, None));
        assert_eq!(kind(503, &[("retry-after", "9")]), (FetchErrorKind::ServerError, Some(9)));
        for other in [201, 204, 206, 300, 304, 400, 405, 407, 418] {
            assert_eq!(kind(other, &[]), (FetchErrorKind::BadAnswer, None), "{other}");
        }
    }

    #[test]
    fn a_redirect_stays_within_scheme_host_and_port() {
        let from = parse_url("http://host/a/b").unwrap();
        let follow =
            |location: &str| http().redirection(&from, &headers(&[("location", location)]));
        for (location, target) in [
            ("c", "http://host/a/c"),
            ("/c", "http://host/c"),
            ("//HOST:80/c", "http://host/c"),
            ("http://me:pw@host/c#f", "http://host/c"),
        ] {
            assert_eq!(follow(location).unwrap().as_str(), target, "{location}");
        }
        for (location, shown) in [
            ("https://host/c", "https://host"),
            ("http://host:8080/c", "http://host:8080"),
            ("http://host.example/c", "another host"),
            ("http://host@evil/c?token", "another host"),
            ("//evil", "another host"),
            ("file:///etc/passwd", "another host"),
            ("canary://host/", "another host"),
        ] {
            let error = follow(location).unwrap_err();
            assert_eq!(error.kind, FetchErrorKind::Redirected, "{location}");
            assert_eq!(error.detail, format!("http://host redirects to {shown}"));
        }
        assert_eq!(follow("http://[").unwrap_err().kind, FetchErrorKind::BadAnswer);
        assert_eq!(
            http().redirection(&from, &HeaderMap::new()).unwrap_err().kind,
            FetchErrorKind::BadAnswer
        );
    }

    #[test]
    fn the_names_in_a_certificate_are_not_repeated() {
        let said = "invalid peer certificate: certificate not valid for name \"a\"; certificate \
                    is only valid for DnsName(\"canary\")";
        let shown = root_cause(&std::io::Error::other(said.to_owned()));
        assert_eq!(shown, "invalid peer certificate: certificate not valid for name \"a\"");
    }

    #[test]
    fn a_bearer_is_masked_where_headers_are_printed() {
        let bearer = Secret::new(b"canary".to_vec()).unwrap();
        let value = http().authorization(&bearer).unwrap();
        assert_eq!(value.as_bytes(), b"Bearer canary");
        assert!(!format!("{value:?}").contains("canary"));
    }
}
