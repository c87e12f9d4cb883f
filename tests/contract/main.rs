//! The GitHub source against GitHub's own contract: its `OpenAPI` description in a validating proxy before
//! the demo, its reference client beside it, and its claims checked by another implementation (`PyJWT`).
//! needs: contract, node

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use molecule_tokenfs::demo::github::{Installation, Seen};
use molecule_tokenfs::demo::{Demo, Setup};
use serde::Deserialize;
use serde_json::Value;
use support::daemon::tokenfs;
use support::dir::TestDir;
use support::limit::within;
use support::process::{Finished, Process, User, command, registry_tool, registry_tools, run};
use support::{eventually, secs};

/// What `scripts/tools contract` put there.
fn packages() -> PathBuf {
    registry_tools().join("../contract")
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract").join(name)
}

/// A request that went through the proxy.
#[derive(Debug, Deserialize)]
struct Exchange {
    method: String,
    path: String,
    status: u16,
    problems: Vec<String>,
}

/// The demo with an App, and the proxy before it.
struct World {
    dir: TestDir,
    demo: Demo,
    app: String,
    proxy: Process,
    url: String,
}

impl World {
    fn new() -> Self {
        let dir = TestDir::new();
        let demo = Demo::start(Setup::default()).unwrap();
        let app = demo.github().create_app(&dir.join("app.pem")).unwrap();
        demo.github().install(Installation::of(71, "acme", &["web", "api"]));
        let user =
            Installation { is_organisation: false, ..Installation::of(72, "globex", &["docs"]) };
        demo.github().install(user);
        let mut proxy = command(registry_tool("contract"), User::Own);
        proxy.arg(script("proxy.py")).arg(packages().join("github.json")).arg(demo.url());
        proxy.arg(dir.join("app.pem")).arg(&app);
        let proxy = Process::start(proxy, "proxy", &dir);
        let port: u16 = eventually("the proxy's port", secs(60), || {
            proxy.stdout().split_once('\n')?.0.parse().ok()
        });
        let url = format!("http://127.0.0.1:{port}");
        Self { dir, demo, app, proxy, url }
    }

    /// Asks once over the proxy, with these lines about installation and scope.
    fn ask(&self, scope: &str) -> Finished {
        self.ask_with(&self.dir.join("app.pem"), scope)
    }

    /// The same with another key.
    fn ask_with(&self, key: &Path, scope: &str) -> Finished {
        let config = self.dir.join("tokenfs.toml");
        let text = format!(
            "[tokens.default]\nsources = ['app']\n[sources.app]\ntype = 'github-app'\n\
             client-id = '{}'\nprivate-key = {{ file = '{}' }}\napi-url = '{}'\n{scope}\n",
            self.app,
            key.display(),
            self.url,
        );
        fs::write(&config, text).unwrap();
        let mut check = tokenfs(&self.dir, User::Own);
        check.args(["check", "--live", "--config"]).arg(config);
        run(check, &self.dir, secs(30))
    }

    /// What the proxy saw so far.
    fn exchanges(&self) -> Vec<Exchange> {
        let output = self.proxy.stdout();
        output.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Asks in this way: all that was exchanged must be as GitHub describes it, and there must be so much.
    fn ask_validly(&self, scope: &str, exchanges: usize) -> Finished {
        let before = self.exchanges().len();
        let told = self.ask(scope);
        let seen = self.exchanges().split_off(before);
        assert!(seen.iter().all(|it| it.problems.is_empty()), "{scope}: {seen:?}");
        assert_eq!(seen.len(), exchanges, "{scope}: {seen:?} {told:?}");
        told
    }

    fn seen_since(&self, before: usize) -> Vec<Seen> {
        self.demo.github().seen().into_iter().skip(before).collect()
    }

    /// Asks once as the reference client does, with these words after address and App.
    fn ask_with_octokit(&self, words: &[&str]) -> Finished {
        let mut node = command("node", User::Own);
        node.arg(script("octokit.mjs")).args([&*self.url, &*self.app]).args(words);
        node.env("MODULES", packages().join("node_modules"));
        node.env("KEY", self.dir.join("app.pem"));
        run(node, &self.dir, secs(60))
    }
}

const NARROW: &str = "repositories = ['web']\npermissions = { contents = 'read' }";

#[test]
fn every_request_and_answer_is_one_that_github_describes_and_every_claim_is_verified() {
    within(secs(120), || {
        let world = World::new();
        for (scope, exchanges) in [
            ("installation-id = 71".to_owned(), 1),
            ("owner = 'acme'".to_owned(), 2),
            // A user: no organisation has this name.
            ("owner = 'globex'".to_owned(), 3),
            ("repository = 'acme/web'".to_owned(), 2),
            (format!("owner = 'acme'\n{NARROW}"), 2),
        ] {
            let told = world.ask_validly(&scope, exchanges).ok();
            assert!(told.contains("gives token "), "{scope}: {told}");
        }
        // Each claim was signed for this App, and each of these is refused with a name.
        let github = world.demo.github();
        let refused = |scope: &str, exchanges, kind: &str| {
            let told = world.ask_validly(scope, exchanges);
            assert_eq!(told.status.code(), Some(3), "{told:?}");
            let said = format!("{}{}", told.stdout, told.stderr);
            assert!(said.contains(kind), "{scope}: {said}");
        };
        refused("owner = 'initech'", 2, "not installed");
        refused("repository = 'acme/secret'", 1, "not installed");
        refused("installation-id = 99", 1, "not installed");
        refused("owner = 'acme'\nrepositories = ['secret']", 2, "at least one repository");
        refused("owner = 'acme'\npermissions = { administration = 'write' }", 2, "not granted");
        github.refuse_next(403, "You have exceeded a secondary rate limit", Some(7));
        refused("installation-id = 71", 1, "rate limit");
        github
            .install(Installation { is_suspended: true, ..Installation::of(71, "acme", &["web"]) });
        refused("owner = 'acme'", 2, "suspended");
        github.install(Installation::of(71, "acme", &["web"]));
        world.ask_validly("owner = 'acme'", 2).ok();
    });
}

#[test]
fn the_proxy_lets_nothing_wrong_through() {
    within(secs(60), || {
        let world = World::new();
        let refused = |told: &Finished, method: &str, status: u16, problem: &str| {
            assert_eq!(told.status.code(), Some(3), "{told:?}");
            let last = world.exchanges().pop().unwrap();
            assert_eq!((&*last.method, last.status), (method, status), "{last:?}");
            assert!(last.problems.len() == 1 && last.problems[0].contains(problem), "{last:?}");
        };
        let minted = || world.demo.github().minted();
        let wrong = "installation-id = 71\npermissions = { contents = 'everything' }";
        refused(&world.ask(wrong), "POST", 400, "'everything' is not one of");
        let other = world.dir.join("other.pem");
        world.demo.github().create_app(&other).unwrap();
        let told = world.ask_with(&other, "installation-id = 71");
        refused(&told, "POST", 400, "Signature verification failed");
        assert_eq!(world.demo.github().seen().len(), 0, "nothing came through");
        world.demo.github().refuse_next(201, "no token", None);
        refused(&world.ask("installation-id = 71"), "POST", 502, "'token' is a required property");
        world.demo.github().refuse_next(200, "no installation", None);
        refused(&world.ask("owner = 'acme'"), "GET", 502, "required property");
        assert_eq!(minted(), 1, "the one without a token");
    });
}

/// What of a request both clients must agree in: method, path, body, the claim's issuer, and the answer's
/// status. No body is as good as an empty one.
fn asked(seen: &[Seen]) -> Vec<(String, String, Value, Value, u16)> {
    let asked = seen.iter().map(|seen| {
        let body = Some(&seen.body).filter(|body| **body != serde_json::json!({}));
        let (method, path) = (seen.method.clone(), seen.path.clone());
        let issuer = seen.claims.get("iss").cloned().unwrap_or_default();
        (method, path, body.cloned().unwrap_or_default(), issuer, seen.status)
    });
    asked.collect()
}

#[test]
fn the_reference_client_asks_the_same() {
    within(secs(120), || {
        let world = World::new();
        for (words, scope) in [
            (&["71"][..], "installation-id = 71".to_owned()),
            (&["71", "web", "contents=read"], format!("installation-id = 71\n{NARROW}")),
        ] {
            let before = world.demo.github().seen().len();
            world.ask_validly(&scope, 1).ok();
            let ours = world.seen_since(before);
            let before = world.demo.github().seen().len();
            world.ask_with_octokit(words).ok();
            let theirs = world.seen_since(before);
            assert_eq!(ours.len(), 1);
            assert_eq!(asked(&ours), asked(&theirs), "{scope}");
            for seen in ours.iter().chain(&theirs) {
                let claim = |key: &str| seen.claims[key].as_i64().unwrap();
                assert!((1..=660).contains(&(claim("exp") - claim("iat"))), "{seen:?}");
            }
            let last = world.exchanges().pop().unwrap();
            assert!(last.problems.is_empty() && last.path == ours[0].path, "{last:?}");
        }
    });
}
