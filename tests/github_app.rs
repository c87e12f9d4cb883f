//! A mount whose tokens a GitHub App mints: configured by a file, used by git, healed after refusals.
//!
//! needs: root, fuse, git

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use molecule_tokenfs::demo::github::Installation;
use molecule_tokenfs::demo::ledger::Verdict;
use molecule_tokenfs::demo::{Demo, Setup};
use support::daemon::{Daemon, tokenfs, tokenfs_run};
use support::dir::TestDir;
use support::namespace::sandboxed;
use support::process::{Finished, User, command, run};
use support::{eventually, millis, secs};

/// The demo with an App that acme has installed for two repositories, and a configuration for it.
struct App {
    dir: TestDir,
    demo: Demo,
    config: PathBuf,
}

impl App {
    fn new(life: Duration) -> Self {
        Self::with(life, "owner = 'acme'")
    }

    /// With these lines about installation and scope.
    fn with(life: Duration, scope: &str) -> Self {
        let dir = TestDir::new();
        let repositories = dir.join("repositories");
        fs::create_dir_all(repositories.join("acme")).unwrap();
        let setup = Setup { git_root: Some(repositories), ..Setup::with_life(life) };
        let demo = Demo::start(setup).unwrap();
        for name in ["acme/web.git", "acme/api.git"] {
            demo.create_repository(name).unwrap();
        }
        let key = dir.join("acme.pem");
        let client_id = demo.github().create_app(&key).unwrap();
        demo.github().install(Installation::of(71, "acme", &["web", "api"]));
        let config = dir.join("tokenfs.toml");
        let text = format!(
            "host = ['{}']\n\
             [tokens.default]\nsources = ['acme-app']\n\
             [sources.acme-app]\ntype = 'github-app'\nclient-id = '{client_id}'\n\
             private-key = {{ file = '{}' }}\napi-url = '{}'\n{scope}\n",
            demo.host(),
            key.display(),
            demo.url()
        );
        fs::write(&config, text).unwrap();
        Self { dir, demo, config }
    }

    fn mount(&self) -> Daemon {
        Daemon::at(&self.dir).arg_pair("--config", &self.config).start()
    }

    fn tell(&self, daemon: &Daemon, args: &[&str]) -> Finished {
        tokenfs_run(&self.dir, &[args, &[daemon.mountpoint().to_str().unwrap()]].concat())
    }

    /// git with the one line of the README.
    fn git(&self, daemon: &Daemon, repository: &str) -> Finished {
        let mut git: Command = command("git", User::Own);
        let helper =
            format!("credential.helper=!cat {} #", daemon.path("git-credential").display());
        git.env("HOME", self.dir.path()).env("GIT_TERMINAL_PROMPT", "0");
        git.args(["-c", "credential.helper=", "-c", &helper, "ls-remote"]);
        git.arg(format!("{}/git/{repository}.git", self.demo.url()));
        run(git, &self.dir, secs(20))
    }
}

#[test]
fn git_uses_the_tokens_of_an_app_through_rotations() {
    sandboxed(secs(60), || {
        let app = App::new(secs(6));
        let daemon = app.mount();
        for _ in 0..12 {
            app.git(&daemon, "acme/web").ok();
            std::thread::sleep(secs(1));
        }
        let git = app.demo.ledger().counts().service("git");
        assert_eq!((git.refused(), git.dead), (0, 0), "{git:?}");
        assert!(git.live >= 12 && app.demo.github().minted() >= 3, "{git:?}");
        let status = app.tell(&daemon, &["status"]).ok();
        assert!(status.starts_with("fresh: a token of acme-app is served\n"), "{status}");
    });
}

/// A second App, which globex has installed, and a token for each owner in a directory of its own.
fn of_two_owners(life: Duration) -> App {
    let app = App::new(life);
    fs::create_dir_all(app.dir.join("repositories/globex")).unwrap();
    app.demo.create_repository("globex/docs.git").unwrap();
    let key = app.dir.join("globex.pem");
    let client_id = app.demo.github().create_app(&key).unwrap();
    app.demo.github().install(Installation::of(72, "globex", &["docs"]));
    let mut text = fs::read_to_string(&app.config).unwrap();
    write!(
        text,
        "[tokens.acme]\nsources = ['acme-app']\n[tokens.globex]\nsources = ['globex-app']\n\
         [sources.globex-app]\ntype = 'github-app'\nclient-id = '{client_id}'\n\
         private-key = {{ file = '{}' }}\napi-url = '{}'\nowner = 'globex'\n",
        key.display(),
        app.demo.url()
    )
    .unwrap();
    fs::write(&app.config, text).unwrap();
    app
}

#[test]
fn tokens_of_two_owners_lie_side_by_side_and_git_takes_the_right_one() {
    sandboxed(secs(60), || {
        let app = of_two_owners(secs(6));
        let daemon = app.mount();
        let git = |repository: &str| {
            let mut git: Command = command("git", User::Own);
            git.env("HOME", app.dir.path()).env("GIT_TERMINAL_PROMPT", "0");
            for owner in ["acme", "globex"] {
                let key = format!("credential.{}/git/{owner}.helper", app.demo.url());
                let view = daemon.path(&format!("{owner}/git-credential"));
                git.args([
                    "-c",
                    &format!("{key}="),
                    "-c",
                    &format!("{key}=!cat {} #", view.display()),
                ]);
            }
            git.args(["ls-remote", &format!("{}/git/{repository}.git", app.demo.url())]);
            run(git, &app.dir, secs(20)).ok()
        };
        for _ in 0..8 {
            for repository in ["acme/web", "globex/docs", "acme/api"] {
                git(repository);
            }
            std::thread::sleep(millis(700));
        }
        let seen = app.demo.ledger().counts().service("git");
        assert_eq!((seen.refused(), seen.out_of_scope), (0, 0), "{seen:?}");
        assert!(seen.live >= 24 && app.demo.github().minted() >= 4, "{seen:?}");
        let status = app.tell(&daemon, &["status", "--json"]).ok();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let names: Vec<_> =
            status["tokens"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
        assert_eq!(names, ["default", "acme", "globex"]);
        let metrics = fs::read_to_string(daemon.path("metrics.prom")).unwrap();
        for token in ["default", "acme", "globex"] {
            assert!(metrics.contains(&format!("token_state{{token=\"{token}\"")), "{metrics}");
        }
    });
}

#[test]
fn commands_take_a_token_by_its_name() {
    sandboxed(secs(60), || {
        let app = of_two_owners(secs(3600));
        let daemon = app.mount();
        let get = |name: &str| app.tell(&daemon, &["get", "--token", name]);
        let (acme, globex) = (get("acme").ok(), get("globex").ok());
        let holds = |token: &str, owner, name| {
            app.demo.ledger().check_for("test", Some(token.as_bytes()), Some((owner, name)))
        };
        assert_eq!(holds(&acme, "acme", "web"), Some(Verdict::Live));
        assert_eq!(holds(&globex, "globex", "docs"), Some(Verdict::Live));
        assert_eq!(holds(&globex, "acme", "web"), Some(Verdict::OutOfScope));
        assert_eq!(get("default").ok(), app.tell(&daemon, &["get"]).ok());
        std::thread::sleep(millis(1100));
        app.tell(&daemon, &["refresh", "--token", "globex"]).ok();
        assert_ne!(get("globex").ok(), globex);
        assert_eq!(get("acme").ok(), acme, "nobody asked for another of this one");
        for wrong in ["initech", "../acme", "live"] {
            let told = get(wrong);
            assert_eq!(told.status.code(), Some(2), "{told:?}");
            assert!(told.stderr.contains(&format!("there is no token `{wrong}`")), "{told:?}");
        }
    });
}

#[test]
fn a_workers_death_costs_a_named_token_a_fetch_and_no_open() {
    sandboxed(secs(60), || {
        let app = of_two_owners(secs(3600));
        let daemon = app.mount();
        let path = daemon.path("globex/token");
        let before = fs::read_to_string(&path).unwrap();
        for _ in 0..5 {
            daemon.kill_worker(nix::sys::signal::Signal::SIGKILL);
            for _ in 0..20 {
                let token = fs::read_to_string(&path).unwrap();
                assert_eq!(app.demo.ledger().verdict(token.as_bytes()), Verdict::Live);
                let by_git = fs::read_to_string(daemon.path("globex/git-credential")).unwrap();
                assert!(by_git.contains(&token), "one token at a time");
            }
        }
        assert_ne!(fs::read_to_string(&path).unwrap(), before, "it was fetched anew");
    });
}

#[test]
fn a_token_for_one_repository_opens_no_other() {
    sandboxed(secs(30), || {
        let app = App::with(secs(3600), "repository = 'acme/web'\nrepositories = ['web']");
        let daemon = app.mount();
        app.git(&daemon, "acme/web").ok();
        let other = app.git(&daemon, "acme/api");
        assert!(other.stderr.contains("not found"), "{other:?}");
        assert_eq!(app.demo.ledger().counts().service("git").out_of_scope, 1);
    });
}

#[test]
fn a_refusal_names_app_and_owner_and_heals_when_the_app_is_installed() {
    sandboxed(secs(60), || {
        let app = App::new(secs(3600));
        app.demo.github().uninstall(71);
        let daemon = app.mount();
        let told = app.tell(&daemon, &["get"]);
        assert_eq!(told.status.code(), Some(3), "{told:?}");
        for part in [
            "acme-app: the GitHub App is not installed there (the App Iv23li",
            " and acme)",
            "hint: install it for this owner",
        ] {
            assert!(told.stderr.contains(part), "{part}: {told:?}");
        }
        let status = app.tell(&daemon, &["status"]);
        assert!(status.stdout.contains("the GitHub App is not installed there"), "{status:?}");
        assert!(!status.stdout.contains("PLATFORM_URL"), "{status:?}");
        app.demo.github().install(Installation::of(72, "acme", &["web"]));
        // Nothing tells the daemon: somebody asks for it.
        eventually("a token", secs(30), || {
            app.tell(&daemon, &["refresh"]).status.success().then_some(())
        });
        let token = app.tell(&daemon, &["get"]).ok();
        assert_eq!(app.demo.ledger().verdict(token.as_bytes()), Verdict::Live);
    });
}

#[test]
fn check_shows_the_app_and_asks_nobody() {
    let app = App::new(secs(3600));
    let mut check = tokenfs(&app.dir, User::Own);
    check.arg("check").arg("--config").arg(&app.config);
    let shown = run(check, &app.dir, secs(10)).ok();
    let line = "  1. acme-app: tokens of acme from http://127.0.0.1:";
    assert!(shown.contains(line) && !shown.contains("  2. "), "{shown}");
    assert_eq!(app.demo.github().seen().len(), 0);
}

#[test]
fn check_live_asks_once_and_says_what_came() {
    let app = App::new(secs(3600));
    let check = || {
        let mut check = tokenfs(&app.dir, User::Own);
        check.args(["check", "--live", "--config"]).arg(&app.config);
        run(check, &app.dir, secs(20))
    };
    let shown = check().ok();
    assert!(shown.contains("\n     gives token ") && shown.contains(" left\n"), "{shown}");
    assert!(!shown.contains("ghs_"), "{shown}");
    assert_eq!(app.demo.github().minted(), 1);
    app.demo.github().uninstall(71);
    let told = check();
    assert_eq!(told.status.code(), Some(3), "{told:?}");
    assert!(told.stdout.contains("gives none: the GitHub App is not installed there"), "{told:?}");
}

#[test]
fn init_writes_a_configuration_that_was_tried_and_serves() {
    sandboxed(secs(60), || {
        let app = App::new(secs(3600));
        let file = app.dir.join("new.toml");
        let init = |args: &[&str]| {
            let mut init = tokenfs(&app.dir, User::Own);
            init.args(["init", "github-app", "--api-url", app.demo.url(), "--key"]);
            init.arg(app.dir.join("acme.pem")).arg("--file").arg(&file).args(args);
            run(init, &app.dir, secs(20))
        };
        let missing = init(&["--owner", "acme"]);
        assert_eq!(missing.status.code(), Some(2), "{missing:?}");
        assert!(missing.stderr.contains("--client-id must be given"), "{missing:?}");
        let client = app.demo.github().create_app(&app.dir.join("acme.pem")).unwrap();
        let wrong = init(&["--client-id", &client, "--owner", "initech"]);
        assert_eq!(wrong.status.code(), Some(3), "{wrong:?}");
        assert!(wrong.stderr.contains("nothing was written") && !file.exists(), "{wrong:?}");
        let args = ["--client-id", &client, "--owner", "acme", "--permission", "contents=read"];
        let told = init(&args).ok();
        for part in ["it works: token ", "molecule-tokenfs mount --background --config "] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(!told.contains("ghs_"), "{told}");
        let again = init(&args);
        assert_eq!(again.status.code(), Some(2), "{again:?}");
        assert!(again.stderr.contains("is there already"), "{again:?}");
        let daemon = Daemon::at(&app.dir).arg_pair("--config", &file).start();
        app.git(&daemon, "acme/web").ok();
    });
}
