//! The sources against the demo platform: every answer that a platform can give, every way in which
//! it can fail, and not a byte of a token or bearer in errors or logs.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::future::Future;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use molecule_tokenfs::demo::faults::{Fault, Service};
use molecule_tokenfs::demo::ledger::Verdict;
use molecule_tokenfs::demo::{Demo, Setup};
use molecule_tokenfs::error::{FetchError, FetchErrorKind};
use molecule_tokenfs::foreign::Launcher;
use molecule_tokenfs::source::platform::PlatformConfig;
use molecule_tokenfs::source::{Fetched, Source, SourceConfig, Surroundings};
use molecule_tokenfs::time::SystemClock;
use molecule_tokenfs::token::Term;

#[path = "sources/alone.rs"]
mod alone;
#[path = "sources/file.rs"]
mod file;
#[path = "sources/github.rs"]
mod github;
#[path = "sources/github_shared.rs"]
mod github_shared;
#[path = "support/leak.rs"]
mod leak;
#[path = "sources/tls.rs"]
mod tls;
#[path = "sources/trace.rs"]
mod trace;

use alone::alone;
use tls::Tls;

/// No test here needs a tenth of it.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a test waits for something that must not happen.
const QUIET: Duration = Duration::from_millis(150);

const WORKSPACE: &str = "demo-workspace";

fn built(config: SourceConfig) -> Arc<dyn Source> {
    config.build(&surroundings())
}

/// Those of a process of its own.
fn surroundings() -> Surroundings {
    let program = File::open(env!("CARGO_BIN_EXE_molecule-tokenfs")).expect("the program");
    Surroundings::new(Arc::new(SystemClock), Launcher::new(program))
}

/// The source gives a token that lives.
async fn succeeds(demo: &Demo, source: &dyn Source) -> Fetched {
    let fetched = fetch(source).await.expect("a token");
    assert_eq!(demo.ledger().verdict(fetched.secret.expose()), Verdict::Live);
    fetched
}

/// The source gives none, and says this.
async fn fails(source: &dyn Source, kind: FetchErrorKind, detail: &str) -> FetchError {
    let error = fetch(source).await.expect_err("no token");
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.detail.contains(detail), "`{detail}` is not in: {error}");
    error
}

/// A demo platform, and a workspace that registered with it.
struct Workspace {
    demo: Demo,
    configs: tempfile::TempDir,
    bearer: String,
    config: PlatformConfig,
}

impl Workspace {
    fn registered() -> Self {
        Self::with(Setup::default())
    }

    fn with(setup: Setup) -> Self {
        trace::capture();
        let demo = Demo::start(setup).expect("the demo platform starts");
        let configs = tempfile::tempdir().expect("a directory");
        let bearer_file = demo.register(configs.path()).expect("the bearer is written");
        let bearer = std::fs::read_to_string(&bearer_file).expect("the bearer is read");
        let config = PlatformConfig {
            url: demo.url().to_owned(),
            workspace_id: Some(WORKSPACE.to_owned()),
            bearer_file,
            bearer_user: None,
            proxy: None,
            ca_file: None,
            request_timeout: Duration::from_secs(10),
        };
        Self { demo, configs, bearer, config }
    }

    fn source(&self) -> Arc<dyn Source> {
        self.source_with(|_| ())
    }

    fn source_with(&self, change: impl FnOnce(&mut PlatformConfig)) -> Arc<dyn Source> {
        let mut config = self.config.clone();
        change(&mut config);
        built(SourceConfig::Platform(config))
    }

    /// The next request meets this fault.
    fn fault(&self, fault: Fault) {
        self.demo.faults().once(Service::Platform, fault);
    }

    fn requests(&self) -> u64 {
        self.demo.ledger().counts().platform.requests
    }

    async fn succeeds(&self, source: &dyn Source) -> Fetched {
        succeeds(&self.demo, source).await
    }

    async fn fails(&self, source: &dyn Source, kind: FetchErrorKind, detail: &str) -> FetchError {
        let error = fails(source, kind, detail).await;
        self.no_secret_in(&format!("{error} {error:?}"));
        error
    }

    fn no_secret_in(&self, text: &str) {
        assert!(!text.contains("ghs_"), "a token shows");
        leak::assert_none(&[&self.bearer], &[("the text", text.as_bytes())]);
    }
}

impl Drop for Workspace {
    /// Whatever a test did: at TRACE nobody wrote a token or the bearer.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.no_secret_in(&trace::so_far());
        }
    }
}

async fn fetch(source: &dyn Source) -> Result<Fetched, FetchError> {
    within(source.fetch()).await
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("the test's time limit")
}

#[tokio::test]
async fn a_token_comes_over_both_paths_with_its_life_by_the_platforms_clock() {
    // An issuer whose clock is an hour off: only the difference of its own times counts.
    for clock_offset in [0, 3600, -3600] {
        let workspace = Workspace::with(
            Setup::default().minting(|minting| minting.clock_offset = clock_offset),
        );
        for id in [Some(WORKSPACE.to_owned()), None] {
            let source = workspace.source_with(|config| config.workspace_id = id);
            assert_eq!(source.clock_ahead(), None);
            let fetched = workspace.succeeds(&*source).await;
            let ahead = source.clock_ahead().unwrap();
            assert!((ahead - clock_offset).abs() <= 2, "{ahead} s ahead");
            let life = by_the_servers_clock(&fetched).unwrap();
            assert!((3595..3600).contains(&life.as_secs()), "{life:?}");
            // Never longer than the issuer counts.
            let left = workspace.demo.ledger().left(fetched.secret.expose());
            assert!(life <= left + Duration::from_secs(1), "{life:?} of {left:?}");
            assert_eq!(source.max_life(), Some(Duration::from_hours(1)));
        }
        assert_eq!(workspace.requests(), 2);
    }
}

/// The life of a token by the platform's own clock, where it told the time.
fn by_the_servers_clock(fetched: &Fetched) -> Option<Duration> {
    match fetched.term {
        Term::Until { expires_at, server } => Some(expires_at.saturating_sub(server?)),
        Term::For(_) | Term::Assumed(_) => panic!("the platform tells an expiry"),
    }
}

#[tokio::test]
async fn the_platforms_time_is_its_date_with_the_age_of_an_answer() {
    let workspace = Workspace::registered();
    let source = workspace.source();
    for (fault, life) in [
        (Fault::NoDate, None),
        (Fault::TwoDates(-1800), None),
        (Fault::DateOff(600), Some(2995..=3000)),
        (Fault::DateOff(-600), Some(4195..=4200)),
        (Fault::Age(30), Some(3595..=3600)),
    ] {
        workspace.fault(fault);
        let fetched = workspace.succeeds(&*source).await;
        let told = by_the_servers_clock(&fetched).map(|life| life.as_secs());
        match (told, life) {
            (Some(told), Some(life)) => assert!(life.contains(&told), "{fault}: {told}"),
            (told, life) => assert_eq!(told.is_some(), life.is_some(), "{fault}"),
        }
    }
}

#[tokio::test]
async fn every_wrong_answer_has_its_kind_and_is_followed_by_a_right_one() {
    use FetchErrorKind as Kind;

    let workspace = Workspace::registered();
    let source = workspace.source();
    for (fault, kind, detail) in [
        (Fault::Status(401), Kind::Unauthorized, "answers 401 Unauthorized"),
        (Fault::Status(403), Kind::Forbidden, "answers 403 Forbidden"),
        (Fault::Status(404), Kind::NotFound, "answers 404 Not Found"),
        (Fault::Status(500), Kind::ServerError, "answers 500 Internal Server Error"),
        (Fault::Status(503), Kind::ServerError, "answers 503 Service Unavailable"),
        (Fault::Status(204), Kind::BadAnswer, "answers 204 No Content"),
        (Fault::Status(418), Kind::BadAnswer, "answers 418"),
        (Fault::RetryAfter(3), Kind::RateLimited, "answers 429 Too Many Requests"),
        (Fault::RetryAfterDate(3), Kind::RateLimited, "answers 429 Too Many Requests"),
        (Fault::RateLimit(3), Kind::RateLimited, "answers 403 Forbidden"),
        (Fault::Close, Kind::Unreachable, "connection closed before message completed"),
        (Fault::Reset, Kind::Unreachable, "no whole answer from http://127.0.0.1:"),
        (Fault::Cut, Kind::Unreachable, "no whole answer from http://127.0.0.1:"),
        (Fault::Html, Kind::BadAnswer, "text/html: the body is not JSON"),
        (Fault::Truncated, Kind::BadAnswer, "the body ends in the middle of the JSON"),
        (Fault::EmptyToken, Kind::BadAnswer, "the token is empty"),
        (Fault::NewlineToken, Kind::BadAnswer, "0x0a at offset"),
        (Fault::NulToken, Kind::BadAnswer, "0x00 at offset"),
        (Fault::OtherKey, Kind::BadAnswer, "application/json: the body has no `token`"),
        (Fault::NoExpiry, Kind::BadAnswer, "the body has no `expires_at`"),
        (Fault::Huge, Kind::BadAnswer, "answers with more than 1024 KiB"),
        (Fault::HugeStream, Kind::BadAnswer, "answers with more than 1024 KiB"),
        (Fault::BornExpired, Kind::BornExpired, "it expired"),
        (Fault::RedirectElsewhere, Kind::Redirected, "redirects to http://127.0.0.1:"),
    ] {
        workspace.fault(fault);
        let error = workspace.fails(&*source, kind, detail).await;
        match error.retry_after {
            // The answer's date may be cut to the second before the one that was reckoned with.
            Some(wish) => assert!(
                kind == Kind::RateLimited && (2..=4).contains(&wish.as_secs()),
                "{fault}: {wish:?}"
            ),
            None => assert_ne!(kind, Kind::RateLimited, "{fault}"),
        }
        workspace.succeeds(&*source).await;
    }
    // One request for each: nothing was tried again behind the engine's back.
    assert_eq!(workspace.requests(), 2 * 24);
}

#[tokio::test]
async fn a_bearer_never_goes_to_another_origin() {
    let workspace = Workspace::registered();
    let source = workspace.source();
    workspace.fault(Fault::RedirectElsewhere);
    workspace.fails(&*source, FetchErrorKind::Redirected, "redirects to").await;
    assert_eq!(workspace.demo.strays().requests(), 0);

    workspace.fault(Fault::RedirectSame);
    workspace.succeeds(&*source).await;

    workspace.demo.faults().stick(Service::Platform, Some(Fault::RedirectLoop));
    let asked = workspace.requests();
    workspace.fails(&*source, FetchErrorKind::BadAnswer, "redirects more than 3 times").await;
    assert_eq!(workspace.requests() - asked, 4);
}

#[tokio::test]
async fn a_platform_that_hangs_is_given_up_in_time_and_a_slow_one_is_waited_for() {
    let workspace = Workspace::registered();
    let source =
        workspace.source_with(|config| config.request_timeout = Duration::from_millis(250));
    workspace.fault(Fault::Hang);
    workspace.fails(&*source, FetchErrorKind::TimedOut, "no answer in 0.25 seconds").await;
    workspace.succeeds(&*source).await;

    workspace.fault(Fault::Slow(QUIET));
    workspace.succeeds(&*workspace.source()).await;
}

#[tokio::test]
async fn a_platform_that_cannot_be_reached_is_named_without_its_password() {
    let workspace = Workspace::registered();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (url, detail) in [
        (format!("http://me:canary@{closed}"), "Connection refused"),
        ("http://me:canary@no-such-host.invalid".to_owned(), "failed to lookup address"),
        // A server that speaks no TLS.
        (
            workspace.demo.url().replace("http://", "https://me:canary@"),
            "cannot connect to https://",
        ),
    ] {
        let ca = Tls::new();
        let source = workspace.source_with(|config| {
            config.url = url;
            config.ca_file = Some(ca.certificate());
            // A resolver may take its time.
            config.request_timeout = LIMIT;
        });
        let error = workspace.fails(&*source, FetchErrorKind::Unreachable, detail).await;
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
    assert!(!trace::so_far().contains("canary"));
    assert_eq!(workspace.requests(), 0);
}

#[tokio::test]
async fn an_address_that_is_none_asks_nobody() {
    let workspace = Workspace::registered();
    for (url, detail) in [
        ("127.0.0.1:8080", "PLATFORM_URL 127.0.0.1:8080: it is not a URL"),
        ("ftp://me:canary@127.0.0.1", "ftp://…@127.0.0.1: it must begin with http:// or https://"),
    ] {
        let source = workspace.source_with(|config| config.url = url.to_owned());
        workspace.fails(&*source, FetchErrorKind::NotConfigured, detail).await;
    }
    let source = workspace.source_with(|config| config.proxy = Some("me:canary@proxy".to_owned()));
    let error = workspace.fails(&*source, FetchErrorKind::NotConfigured, "the proxy …@proxy").await;
    assert!(!error.detail.contains("canary"), "{error}");
}

#[tokio::test]
async fn a_workspace_that_has_not_registered_waits_for_its_bearer_and_wakes_at_once() {
    let workspace = Workspace::registered();
    let configs = workspace.configs.path().join("mounted/later");
    let source = workspace.source_with(|config| config.bearer_file = configs.join(".auth_token"));
    workspace.fails(&*source, FetchErrorKind::NotRegistered, "it does not exist").await;
    assert_eq!(workspace.requests(), 0);

    assert!(tokio::time::timeout(QUIET, source.changed()).await.is_err(), "nothing changed yet");
    workspace.demo.register(&configs).unwrap();
    within(source.changed()).await;
    workspace.succeeds(&*source).await;
}

#[tokio::test]
async fn a_bearer_that_was_replaced_heals_a_refusal_at_once() {
    let workspace = Workspace::registered();
    let source = workspace.source();
    workspace.succeeds(&*source).await;
    workspace.demo.rotate_bearer();
    workspace.fails(&*source, FetchErrorKind::Unauthorized, "answers 401").await;

    let register = async {
        tokio::time::sleep(QUIET).await;
        workspace.demo.register(workspace.configs.path()).unwrap();
    };
    let ((), ()) = within(async { tokio::join!(source.changed(), register) }).await;
    workspace.succeeds(&*source).await;
}

#[tokio::test]
async fn a_proxy_is_used_where_it_is_configured() {
    let workspace = Workspace::registered();
    let source = workspace.source_with(|config| {
        config.url = "http://platform.invalid".to_owned();
        // The demo answers a proxy's request form, too.
        config.proxy = Some(workspace.config.url.replace("http://", "http://me:canary@"));
    });
    workspace.succeeds(&*source).await;

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let source = workspace.source_with(|config| {
        config.proxy = Some(format!("http://me:canary@{closed}"));
    });
    let error = workspace.fails(&*source, FetchErrorKind::Unreachable, " through http://…@").await;
    assert!(!error.detail.contains("canary"), "{error}");
    assert!(!trace::so_far().contains("canary"));
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_ignored() {
    let nobody = "http://127.0.0.1:1";
    let proxies =
        ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"].map(|name| (name, nobody));
    if alone("a_proxy_of_the_environment_is_ignored", &proxies) {
        let workspace = Workspace::registered();
        workspace.succeeds(&*workspace.source()).await;
    }
}

#[tokio::test]
async fn https_is_checked_against_the_bundle_that_is_named() {
    // The system's bundle is one of strangers; its place is the environment's to tell.
    let stranger = Tls::new();
    let system = stranger.certificate();
    let system = [("SSL_CERT_FILE", system.to_str().unwrap())];
    if alone("https_is_checked_against_the_bundle_that_is_named", &system) {
        let workspace = Workspace::registered();
        let tls = Tls::new();
        let url = tls.serve(workspace.demo.host()).await;
        let source = |ca_file: Option<PathBuf>| {
            workspace.source_with(|config| (config.url, config.ca_file) = (url.clone(), ca_file))
        };
        workspace.succeeds(&*source(Some(tls.certificate()))).await;
        for untrusted in [source(Some(stranger.certificate())), source(None)] {
            let detail = "invalid peer certificate";
            workspace.fails(&*untrusted, FetchErrorKind::Unreachable, detail).await;
        }
        assert_eq!(workspace.requests(), 1);
    }
}

#[tokio::test]
async fn a_bundle_that_is_missing_or_empty_is_named() {
    let workspace = Workspace::registered();
    let missing = workspace.configs.path().join("missing.pem");
    let empty = workspace.configs.path().join("empty.pem");
    std::fs::write(&empty, "no certificate\n").unwrap();
    for (path, detail) in [
        (missing, "missing.pem: it does not exist"),
        (empty, "empty.pem: it holds no certificate in PEM form"),
    ] {
        let source = workspace.source_with(|config| {
            config.url = "https://127.0.0.1:1".to_owned();
            config.ca_file = Some(path);
        });
        workspace.fails(&*source, FetchErrorKind::NoCertificates, detail).await;
    }
}

#[tokio::test]
async fn without_ca_certificates_http_works_and_https_says_what_is_missing() {
    let none = [("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", "/nonexistent")];
    if alone("without_ca_certificates_http_works_and_https_says_what_is_missing", &none) {
        let workspace = Workspace::registered();
        workspace.succeeds(&*workspace.source()).await;

        let tls = Tls::new();
        let url = tls.serve(workspace.demo.host()).await;
        let source = workspace.source_with(|config| config.url.clone_from(&url));
        let detail = "No CA certificates were loaded from the system";
        let error = workspace.fails(&*source, FetchErrorKind::NoCertificates, detail).await;
        assert!(error.kind.explain().remedy.contains("ca-certificates"));

        let source = workspace
            .source_with(|config| (config.url, config.ca_file) = (url, Some(tls.certificate())));
        workspace.succeeds(&*source).await;
    }
}

#[tokio::test]
async fn the_logs_were_on_while_nothing_showed() {
    let workspace = Workspace::registered();
    let fetched = workspace.succeeds(&*workspace.source()).await;
    let logged = trace::so_far();
    leak::assert_none(&[fetched.secret.expose_str()], &[("the log", logged.as_bytes())]);
    for library in ["reqwest::", "hyper_util::"] {
        assert!(logged.contains(library), "no line of {library} was captured");
    }
}
