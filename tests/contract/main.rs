//! The GitHub source against GitHub's own contract: its `OpenAPI` description in a validating proxy
//! before the demo, its reference client beside it, and its claims checked by another implementation. They are
//! packages of npm: `scripts/evidence contract` fetches them and runs this.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use molecule_tokenfs::demo::github::{Installation, Seen};
use molecule_tokenfs::demo::{Demo, Setup};
use serde_json::Value;
use support::daemon::tokenfs;
use support::dir::TestDir;
use support::process::{Finished, Process, User, command, run};
use support::{eventually, secs};

/// The directory in which the packages are, and the description, cut to what is in use.
#[expect(clippy::disallowed_methods, reason = "how scripts/evidence says where they are")]
fn packages() -> PathBuf {
    let packages = std::env::var_os("MOLECULE_CONTRACT");
    packages.unwrap_or_else(|| panic!("run scripts/evidence contract")).into()
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract").join(name)
}

/// The demo with an App, and the proxy before it.
struct World {
    dir: TestDir,
    demo: Demo,
    app: String,
    proxy: String,
    _process: Process,
}

impl World {
    fn new() -> Self {
        let (dir, packages) = (TestDir::new(), packages());
        let demo = Demo::start(Setup::default()).unwrap();
        let app = demo.github().create_app(&dir.join("app.pem")).unwrap();
        demo.github().install(Installation::of(71, "acme", &["web", "api"]));
        let user =
            Installation { is_organisation: false, ..Installation::of(72, "globex", &["docs"]) };
        demo.github().install(user);
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut proxy = command(packages.join("node_modules/.bin/prism"), User::Own);
        proxy.arg("proxy").arg(packages.join("github.json")).arg(demo.url());
        proxy.args(["--errors", "--host", "127.0.0.1", "--port", &port.to_string()]);
        let process = Process::start(proxy, "prism", &dir);
        eventually("the proxy", secs(60), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        let proxy = format!("http://127.0.0.1:{port}");
        Self { dir, demo, app, proxy, _process: process }
    }

    /// Asks once, with these lines about installation and scope, over the proxy or at another address.
    fn ask(&self, url: &str, scope: &str) -> Finished {
        let config = self.dir.join("tokenfs.toml");
        let text = format!(
            "[tokens.default]\nsources = ['app']\n[sources.app]\ntype = 'github-app'\n\
             client-id = '{}'\nprivate-key = {{ file = '{}' }}\napi-url = '{url}'\n{scope}\n",
            self.app,
            self.dir.join("app.pem").display(),
        );
        fs::write(&config, text).unwrap();
        let mut check = tokenfs(&self.dir, User::Own);
        check.args(["check", "--live", "--config"]).arg(config);
        run(check, &self.dir, secs(30))
    }

    fn seen_since(&self, before: usize) -> Vec<Seen> {
        self.demo.github().seen().into_iter().skip(before).collect()
    }

    /// Runs a script of Node's with these words.
    fn node(&self, name: &str, words: &[&str]) -> Command {
        let mut node = command("node", User::Own);
        node.arg(script(name)).args(words).current_dir(packages());
        node.env("MODULES", packages().join("node_modules"));
        node.env("KEY", self.dir.join("app.pem"));
        node
    }
}

const NARROW: &str = "repositories = ['web']\npermissions = { contents = 'read' }";

#[test]
#[ignore = "scripts/evidence contract runs it, with packages of npm"]
fn every_request_and_answer_is_one_that_github_describes() {
    let world = World::new();
    let ways = [
        "installation-id = 71".to_owned(),
        "owner = 'acme'".to_owned(),
        "owner = 'globex'".to_owned(),
        "repository = 'acme/web'".to_owned(),
        format!("owner = 'acme'\n{NARROW}"),
    ];
    for scope in &ways {
        let told = world.ask(&world.proxy, scope).ok();
        assert!(told.contains("gives token "), "{scope}: {told}");
    }
    // The proxy does refuse what is not described.
    let wrong =
        world.ask(&world.proxy, "owner = 'acme'\npermissions = { contents = 'everything' }");
    assert!(
        wrong.stdout.contains("not_granted") || wrong.stdout.contains("gives none"),
        "{wrong:?}"
    );
    assert_eq!(wrong.status.code(), Some(3), "{wrong:?}");
    println!("{} ways to ask, each accepted by the proxy", ways.len());
}

#[test]
#[ignore = "scripts/evidence contract runs it, with packages of npm"]
fn the_reference_client_asks_the_same() {
    let world = World::new();
    for (words, scope) in [
        (vec!["71"], "installation-id = 71".to_owned()),
        (vec!["71", "web", "contents=read"], format!("installation-id = 71\n{NARROW}")),
    ] {
        let before = world.demo.github().seen().len();
        world.ask(&world.proxy, &scope).ok();
        let ours = world.seen_since(before);
        let before = world.demo.github().seen().len();
        let words: Vec<_> = [&[&*world.proxy, &*world.app][..], &words].concat();
        run(world.node("octokit.mjs", &words), &world.dir, secs(60)).ok();
        let theirs = world.seen_since(before);
        let asked = |seen: &[Seen]| {
            let asked = seen.iter().map(|seen| {
                let body = Some(&seen.body).filter(|body| **body != serde_json::json!({}));
                let body = body.cloned().unwrap_or(Value::Null);
                (
                    seen.method.clone(),
                    seen.path.clone(),
                    body,
                    seen.claims["iss"].clone(),
                    seen.status,
                )
            });
            asked.collect::<Vec<_>>()
        };
        assert_eq!(asked(&ours), asked(&theirs), "{scope}");
        let life = |seen: &Seen| {
            seen.claims["exp"].as_i64().unwrap() - seen.claims["iat"].as_i64().unwrap()
        };
        for seen in ours.iter().chain(&theirs) {
            assert!(life(seen) <= 660, "{seen:?}");
        }
    }
    println!("the same method, path, body and issuer as @octokit/auth-app");
}

#[test]
#[ignore = "scripts/evidence contract runs it, with packages of npm"]
fn a_claim_is_one_that_another_implementation_verifies() {
    let world = World::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut verifier =
        Process::start(world.node("verify.mjs", &[&port.to_string()]), "verify", &world.dir);
    eventually("the verifier", secs(20), || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    world.ask(&format!("http://127.0.0.1:{port}"), "owner = 'acme'");
    eventually("its word", secs(10), || verifier.stdout().contains("verified RS256").then_some(()));
    assert!(!verifier.stdout().contains("WRONG"), "{}", verifier.stdout());
    assert!(verifier.ended().is_none());
}
