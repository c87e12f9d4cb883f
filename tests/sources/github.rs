//! A GitHub App against GitHub's endpoints as the demo has them: what is asked for, and what becomes of
//! each refusal.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use molecule_tokenfs::demo::github::Installation as Installed;
use molecule_tokenfs::secret::Secret;
use molecule_tokenfs::source::SourceName;
use molecule_tokenfs::source::github_app::{GithubAppConfig, Installation, PrivateKey};
use serde_json::{Value, json};

use super::*;

/// A demo with an App that is installed for acme and globex, and a source over it.
pub struct App {
    pub demo: Demo,
    directory: tempfile::TempDir,
    pub config: GithubAppConfig,
}

impl App {
    pub fn new() -> Self {
        Self::with(Setup::default())
    }

    pub fn with(setup: Setup) -> Self {
        trace::capture();
        let demo = Demo::start(setup).expect("the demo starts");
        let directory = tempfile::tempdir().expect("a directory");
        let private_key = directory.path().join("app.pem");
        let app = demo.github().create_app(&private_key).expect("an App");
        demo.github().install(Installed::of(71, "acme", &["web", "api"]));
        let user = Installed { is_organisation: false, ..Installed::of(72, "globex", &["Docs"]) };
        demo.github().install(user);
        let installation = Installation::Owner("acme".to_owned());
        let (name, key) = (SourceName::new("acme-app"), PrivateKey::File(private_key));
        let mut config = GithubAppConfig::new(name, app, key, installation);
        demo.url().clone_into(&mut config.api_url);
        Self { demo, directory, config }
    }

    fn source(&self, change: impl FnOnce(&mut GithubAppConfig)) -> Arc<dyn Source> {
        let mut config = self.config.clone();
        change(&mut config);
        built(SourceConfig::GithubApp(config))
    }

    fn of(&self, installation: Installation) -> Arc<dyn Source> {
        self.source(|config| config.installation = installation)
    }

    pub async fn succeeds(&self, source: &dyn Source) -> Fetched {
        succeeds(&self.demo, source).await
    }

    pub async fn fails(
        &self,
        source: &dyn Source,
        kind: FetchErrorKind,
        detail: &str,
    ) -> FetchError {
        let error = fails(source, kind, detail).await;
        let text = format!("{error} {error:?}");
        assert!(!text.contains("ghs_") && !text.contains("eyJ"), "{text}");
        error
    }

    /// The last request: method, path, body.
    fn last(&self) -> (String, String, Value) {
        let seen = self.demo.github().seen();
        let last = seen.last().expect("a request").clone();
        (last.method, last.path, last.body)
    }

    /// The paths of the requests since there were so many.
    fn paths(&self, before: usize) -> Vec<String> {
        self.demo.github().seen().into_iter().skip(before).map(|seen| seen.path).collect()
    }
}

impl Drop for App {
    /// Whatever a test did: at TRACE nobody wrote a token, a claim or a line of the key.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let key = fs::read_to_string(self.directory.path().join("app.pem")).unwrap_or_default();
            let lines: Vec<&str> = key.lines().filter(|line| line.len() == 64).collect();
            let log = trace::so_far();
            assert!(!log.contains("ghs_") && !log.contains("eyJhbGci"), "a secret is in the log");
            leak::assert_none(&lines, &[("the log", log.as_bytes())]);
        }
    }
}

#[tokio::test]
async fn an_installation_is_found_in_each_way_and_kept() {
    let app = App::new();
    let mint = |id| format!("/app/installations/{id}/access_tokens");
    for (installation, paths) in [
        (Installation::Id(71), vec![mint(71)]),
        (Installation::Owner("Acme".into()), vec!["/orgs/Acme/installation".into(), mint(71)]),
        (
            Installation::Owner("globex".into()),
            vec!["/orgs/globex/installation".into(), "/users/globex/installation".into(), mint(72)],
        ),
        (
            Installation::Repository("globex".into(), "docs".into()),
            vec!["/repos/globex/docs/installation".into(), mint(72)],
        ),
    ] {
        let source = app.of(installation);
        let before = app.demo.github().seen().len();
        app.succeeds(&*source).await;
        assert_eq!(app.paths(before), paths);
        let before = app.demo.github().seen().len();
        app.succeeds(&*source).await;
        assert_eq!(app.paths(before), paths[paths.len() - 1..], "it is kept");
    }
}

#[tokio::test]
async fn a_token_is_asked_for_the_repositories_and_permissions_of_the_configuration() {
    let app = App::new();
    let whole = app.source(|_| ());
    app.succeeds(&*whole).await;
    assert_eq!(app.last().2, json!({}));
    let narrow = app.source(|config| {
        config.repositories = vec!["web".to_owned()];
        config.permissions = [("contents".to_owned(), "read".to_owned())].into();
    });
    let token = app.succeeds(&*narrow).await;
    let body = json!({ "repositories": ["web"], "permissions": { "contents": "read" } });
    assert_eq!(app.last(), ("POST".into(), "/app/installations/71/access_tokens".into(), body));
    let check = |repository| {
        app.demo.ledger().check_for("test", Some(token.secret.expose()), Some(("acme", repository)))
    };
    assert_eq!((check("web"), check("api")), (Some(Verdict::Live), Some(Verdict::OutOfScope)));
    assert!(matches!(token.term, Term::Until { server: Some(_), .. }));
}

#[tokio::test]
async fn each_refusal_is_named_with_app_owner_and_what_github_says() {
    use FetchErrorKind as Kind;
    let app = App::new();
    let client = app.config.app.clone();
    let absent = app.of(Installation::Owner("initech".into()));
    app.fails(&*absent, Kind::NotInstalled, &format!("the App {client} and initech")).await;
    let absent = app.of(Installation::Id(99));
    app.fails(&*absent, Kind::NotInstalled, "installation 99").await;
    let beyond = app.source(|config| config.repositories = vec!["secret".to_owned()]);
    app.fails(&*beyond, Kind::NotGranted, "of acme, repositories secret: GitHub says: There is at")
        .await;
    let beyond = app
        .source(|config| config.permissions = [("administration".into(), "write".into())].into());
    app.fails(
        &*beyond,
        Kind::NotGranted,
        "permissions administration: write: GitHub says: The perm",
    )
    .await;

    let source = app.source(|_| ());
    app.demo
        .github()
        .install(Installed { is_suspended: true, ..Installed::of(71, "acme", &["web"]) });
    app.fails(&*source, Kind::Suspended, "This installation has been suspended").await;
    app.demo.github().install(Installed::of(71, "acme", &["web"]));
    app.succeeds(&*source).await;

    let said = "You have exceeded a secondary rate limit. Please wait a few minutes";
    app.demo.github().refuse_next(403, said, Some(7));
    let limited = app.fails(&*source, Kind::RateLimited, "").await;
    assert_eq!(limited.retry_after, Some(Duration::from_secs(7)));
    // What one source is told, all of its App's heed; this one is of another process.
    app.fails(&*source, Kind::RateLimited, "may not mint for another").await;
    let source = app.source(|_| ());
    app.demo.github().refuse_next(403, said, None);
    let limited = app.fails(&*source, Kind::RateLimited, "secondary rate limit").await;
    assert_eq!(limited.retry_after, Some(Duration::from_mins(1)));
    let source = app.source(|_| ());
    app.demo.github().refuse_next(403, "Although you appear to have the correct authorization credentials, the organization has an IP allow list enabled", None);
    app.fails(&*source, Kind::Forbidden, "IP allow list").await;
    app.demo.github().refuse_next(502, "Bad gateway", None);
    app.fails(&*source, Kind::ServerError, "502").await;
    app.succeeds(&*source).await;
}

#[tokio::test]
async fn an_app_that_was_installed_anew_is_found_again_once() {
    let app = App::new();
    let source = app.source(|_| ());
    app.succeeds(&*source).await;
    app.demo.github().uninstall(71);
    app.fails(&*source, FetchErrorKind::NotInstalled, "acme").await;
    app.demo.github().install(Installed::of(81, "acme", &["web"]));
    app.succeeds(&*source).await;
    // Between two fetches: the number that is known is gone, and the new one is taken at once.
    app.demo.github().uninstall(81);
    app.demo.github().install(Installed::of(91, "acme", &["web"]));
    let before = app.demo.github().seen().len();
    app.succeeds(&*source).await;
    assert_eq!(
        app.paths(before),
        [
            "/app/installations/81/access_tokens",
            "/orgs/acme/installation",
            "/app/installations/91/access_tokens"
        ]
    );
}

#[tokio::test]
async fn a_claim_follows_githubs_clock_where_this_machines_is_wrong() {
    for minutes in [-10, 10] {
        let app =
            App::with(Setup::default().minting(|minting| minting.clock_offset = minutes * 60));
        let source = app.source(|_| ());
        app.succeeds(&*source).await;
        // One claim was refused; the next ones are right at once.
        let refused =
            |app: &App| app.demo.github().seen().iter().filter(|seen| seen.status == 401).count();
        assert_eq!(refused(&app), 1, "{minutes}");
        app.succeeds(&*source).await;
        assert_eq!(refused(&app), 1, "{minutes}");
        let ahead = source.clock_ahead().expect("GitHub tells the time");
        assert!(ahead.abs_diff(minutes * 60) <= 3, "{ahead}");
    }
}

#[tokio::test]
async fn a_key_that_is_none_is_named_with_file_and_line_and_heals_when_it_is_replaced() {
    let app = App::new();
    let (path, source) = (app.directory.path().join("app.pem"), app.source(|_| ()));
    let good = fs::read(&path).expect("the key");
    let shown = path.display().to_string();
    let cases: [(&str, &[u8]); 4] = [
        ("it holds no private key in PEM form", b"hello\n"),
        (
            "line 1: the key is encrypted with a passphrase",
            b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
        ),
        ("line 2: it is an EC key", b"\n-----BEGIN EC PRIVATE KEY-----\n"),
        ("line 1: the key that begins there is damaged (its end is missing)", &good[..900]),
    ];
    for (why, content) in cases {
        fs::write(&path, content).expect("it is written");
        app.fails(&*source, FetchErrorKind::KeyUnusable, &format!("{shown}: {why}")).await;
    }
    fs::write(&path, &good).expect("it is written");
    app.succeeds(&*source).await;
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("its mode");
    app.fails(&*source, FetchErrorKind::KeyUnusable, "others can read it: its mode is 0644").await;
    fs::remove_file(&path).expect("it is removed");
    app.fails(&*source, FetchErrorKind::KeyUnusable, "it does not exist").await;
    let changed = source.changed();
    app.demo.github().create_app(&path).expect("a key of another App");
    within(changed).await;
    app.fails(&*source, FetchErrorKind::Unauthorized, "could not be decoded").await;
    assert_eq!(app.demo.github().minted(), 1);
}

#[tokio::test]
async fn a_server_that_is_not_github_gets_no_claim_twice_and_learns_no_key() {
    let app = App::new();
    for body in ["<html>", "{}"] {
        app.demo.github().refuse_next(200, body, None);
        let source = app.source(|_| ());
        app.fails(&*source, FetchErrorKind::BadAnswer, "without the number").await;
    }
    let enterprise = app.source(|config| config.api_url = format!("{}/api/v3", app.demo.url()));
    app.succeeds(&*enterprise).await;
    assert_eq!(app.last().1, "/api/v3/app/installations/71/access_tokens");
}

#[tokio::test]
async fn a_key_of_the_environment_is_as_good_and_named_by_its_variable() {
    let app = App::new();
    let with = |value: Option<&[u8]>| {
        let encoded =
            |value: &[u8]| Secret::new(STANDARD.encode(value).into_bytes()).expect("short");
        let (name, value) = ("APP_KEY".to_owned(), value.map(encoded));
        app.source(|config| config.private_key = PrivateKey::Variable { name, value })
    };
    let pem = fs::read_to_string(app.directory.path().join("app.pem")).expect("the key");
    app.succeeds(&*with(Some(pem.as_bytes()))).await;
    app.succeeds(&*with(Some(pem.replace('\n', "\\n").as_bytes()))).await;
    for (value, why) in [
        (None, "the variable APP_KEY: it was not set when the daemon was started"),
        (Some(&b"canary"[..]), "the variable APP_KEY: it holds no private key in PEM form"),
        (Some(&pem.as_bytes()[..900]), "the variable APP_KEY: line 1: the key that begins there"),
    ] {
        let error = app.fails(&*with(value), FetchErrorKind::KeyUnusable, why).await;
        assert!(error.explain().remedy.starts_with("set the variable"), "{:?}", error.explain());
    }
}
