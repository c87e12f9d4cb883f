//! A mount whose tokens a GitHub App mints: configured by a file, used by git, healed after refusals.
//!
//! needs: root, fuse, git

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "github_app/ending.rs"]
mod ending;
#[path = "github_app/file.rs"]
mod file;
#[path = "github_app/key.rs"]
mod key;
#[path = "support/mod.rs"]
mod support;
#[path = "github_app/told.rs"]
mod told;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use molecule_tokenfs::demo::github::Installation;
use molecule_tokenfs::demo::ledger::Verdict;
use molecule_tokenfs::demo::{Demo, Setup};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use support::daemon::{Daemon, tokenfs, tokenfs_run};
use support::dir::TestDir;
use support::namespace::sandboxed;
use support::process::{Finished, User, command, run};
use support::processes::memory_of_its_own;
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

fn holds_in(app: &App, token: &str, owner: &str, name: &str) -> Option<Verdict> {
    app.demo.ledger().check_for("test", Some(token.as_bytes()), Some((owner, name)))
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
        let told = get("globec");
        assert!(told.stderr.contains("\nhint: did you mean `globex`?\n"), "{told:?}");
        assert!(told.stderr.contains("the tokens there are default, acme, globex"), "{told:?}");
        let one = app.tell(&daemon, &["status", "--token", "globex"]).ok();
        assert!(one.starts_with("fresh: a token of globex-app is served\n\nglobex\n"), "{one}");
        let all = app.tell(&daemon, &["status"]).ok();
        assert!(all.lines().any(|line| line.starts_with("globex   fresh  in ")), "{all}");
        let told = app.tell(&daemon, &["get", "--repo", "acme/web"]);
        assert_eq!(told.status.code(), Some(2), "{told:?}");
        assert!(told.stderr.contains("set `on-demand = true`"), "{told:?}");
        let app = on_demand(secs(3600));
        let daemon = app.mount();
        let web = app.tell(&daemon, &["get", "--repo", "acme/web"]).ok();
        assert_eq!(holds_in(&app, &web, "acme", "web"), Some(Verdict::Live));
        assert_eq!(holds_in(&app, &web, "acme", "api"), Some(Verdict::OutOfScope));
        let get = |name: &str| app.tell(&daemon, &["get", "--token", name]);
        let one = app.tell(&daemon, &["status", "--repo", "Acme/web.git"]).ok();
        assert!(one.starts_with("fresh: a token of acme-app is served\n\nacme/web\n"), "{one}");
        let refresh = daemon.path("repos/acme/web/refresh");
        assert!(one.contains(&format!("> {}\n", refresh.display())), "{one}");
        // A repository that the App may not use is a matter of whoever asked, not of the mount.
        app.tell(&daemon, &["get", "--repo", "acme/none"]);
        let all = app.tell(&daemon, &["status"]).ok();
        for line in
            ["default          idle   ", "repos/acme/none  none   ", "repos/acme/web   fresh  "]
        {
            assert!(all.lines().any(|told| told.starts_with(line)), "{line}: {all}");
        }
        let told = app.tell(&daemon, &["wait", "--repo", "acme"]);
        assert_eq!(told.status.code(), Some(2), "{told:?}");
        assert!(told.stderr.contains("`acme` is no repository"), "{told:?}");
        let told = app.tell(&daemon, &["get", "--repo", "initech/web"]);
        assert!(told.stderr.contains("there is no token for `initech/web`"), "{told:?}");
        for wrong in ["initech", "../acme", "live"] {
            let told = get(wrong);
            assert_eq!(told.status.code(), Some(2), "{told:?}");
            assert!(told.stderr.contains(&format!("there is no token `{wrong}`")), "{told:?}");
        }
    });
}

#[test]
fn a_workers_death_costs_a_named_token_no_fetch_and_no_open() {
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
        assert_eq!(fs::read_to_string(&path).unwrap(), before, "it is the same still");
    });
}

/// A token for each owner and repository of the two Apps, made when it is opened.
fn on_demand(life: Duration) -> App {
    let app = of_two_owners(life);
    let mut text = fs::read_to_string(&app.config).unwrap();
    for name in ["acme", "globex"] {
        text = text.replace(
            &format!("[tokens.{name}]\n"),
            &format!("[tokens.{name}]\non-demand = true\n"),
        );
    }
    fs::write(&app.config, text).unwrap();
    app
}

#[test]
fn a_token_on_demand_is_for_exactly_its_repository() {
    sandboxed(secs(60), || {
        let app = on_demand(secs(3600));
        let daemon = app.mount();
        let holds = |token: &str, owner, name| {
            app.demo.ledger().check_for("test", Some(token.as_bytes()), Some((owner, name)))
        };
        let web = fs::read_to_string(daemon.path("repos/acme/web/token")).unwrap();
        assert_eq!(holds(&web, "acme", "web"), Some(Verdict::Live));
        assert_eq!(holds(&web, "acme", "api"), Some(Verdict::OutOfScope));
        let minted = app.demo.github().minted();
        for same in ["repos/acme/web", "repos/Acme/WEB", "repos/acme/web.git"] {
            let view = daemon.path(&format!("{same}/git-credential"));
            assert!(fs::read_to_string(view).unwrap().contains(&web), "{same}");
        }
        assert_eq!(app.demo.github().minted(), minted, "one token, however it is spelt");
        let all = fs::read_to_string(daemon.path("orgs/globex/token")).unwrap();
        assert_eq!(holds(&all, "globex", "docs"), Some(Verdict::Live));
        assert_eq!(holds(&all, "acme", "web"), Some(Verdict::OutOfScope));
        let listed = |path: &str| {
            let names = fs::read_dir(daemon.path(path)).unwrap();
            let mut names: Vec<_> =
                names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(listed("repos"), ["acme"]);
        assert_eq!(listed("repos/acme"), ["web"]);
        assert_eq!(listed("orgs"), ["globex"]);
        assert!(listed(".").contains(&"repos".to_owned()));
    });
}

#[test]
fn both_helpers_take_the_token_of_the_repository_at_hand() {
    sandboxed(secs(60), || {
        let app = on_demand(secs(3600));
        let daemon = app.mount();
        let mountpoint = daemon.mountpoint().display().to_string();
        let shell = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/git-credential-molecule");
        let binary = format!("{} git-credential", support::daemon::PROGRAM);
        for helper in [shell, &binary] {
            let helper = format!("{helper} --host {} --mountpoint {mountpoint}", app.demo.host());
            for repository in ["acme/web", "globex/docs", "acme/api"] {
                let before = app.demo.ledger().counts().service("git");
                let mut git: Command = command("git", User::Own);
                git.env("HOME", app.dir.path()).env("GIT_TERMINAL_PROMPT", "0");
                let asks = format!("credential.helper=!{helper}");
                git.args([
                    "-c",
                    "credential.helper=",
                    "-c",
                    &asks,
                    "-c",
                    "credential.useHttpPath=true",
                ]);
                git.args(["ls-remote", &format!("{}/git/{repository}.git", app.demo.url())]);
                run(git, &app.dir, secs(20)).ok();
                let after = app.demo.ledger().counts().service("git");
                assert!(after.refused() == 0 && after.live > before.live, "{helper}: {after:?}");
            }
        }
        let seen = app.demo.github().seen();
        let narrowed: Vec<_> =
            seen.iter().filter(|seen| !seen.body["repositories"].is_null()).collect();
        assert_eq!(narrowed.len(), 3, "one mint for each repository, for both helpers: {seen:?}");
        let file = app.dir.join("gitconfig");
        let mut setup = tokenfs(&app.dir, User::Own);
        setup
            .args(["setup", "git", "--by-repository", "--host", app.demo.host(), "--file"])
            .arg(&file);
        run(setup, &app.dir, secs(10)).ok();
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.to_lowercase().contains("usehttppath = true"), "{text}");
    });
}

#[test]
fn names_on_demand_cost_nothing_until_one_is_opened() {
    sandboxed(secs(60), || {
        let app = on_demand(secs(3600));
        let daemon = app.mount();
        for number in 0..10_000 {
            let path = daemon.path(&format!("repos/acme/r{number}/token"));
            assert_eq!(fs::metadata(path).unwrap().len(), 1);
        }
        assert_eq!(app.demo.github().seen().len(), 0, "nobody was asked");
        for impossible in [
            "repos/acme/a b",
            "repos/-acme",
            "repos/acme/..x/../é",
            "repos/initech",
            "orgs/initech",
        ] {
            let error = fs::metadata(daemon.path(impossible)).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{impossible}");
        }
        let error = fs::read_to_string(daemon.path("repos/acme/secret/token")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::EKEYREJECTED), "{error}");
        let status = fs::read_to_string(daemon.path("repos/acme/secret/status.json")).unwrap();
        assert!(status.contains("not_granted") && status.contains("secret"), "{status}");
        // Long after its name was forgotten.
        fs::read_to_string(daemon.path("repos/acme/web/token")).unwrap();
    });
}

/// Installs the App of acme for this many repositories, `r0`, `r1` and so on.
fn install_many(app: &App, number: usize) {
    let names: Vec<_> = (0..number).map(|number| format!("r{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    app.demo.github().install(Installation::of(71, "acme", &names));
}

#[test]
fn a_crowd_of_readers_mints_once_for_each_repository() {
    sandboxed(secs(90), || {
        let app = on_demand(secs(3600));
        install_many(&app, 50);
        let daemon = Daemon::at(&app.dir)
            .arg_pair("--config", &app.config)
            .args(["--open-timeout", "30s"])
            .log_level("info")
            .start();
        let tokens: Vec<_> = std::thread::scope(|scope| {
            let reader = |number: usize| {
                let path = daemon.path(&format!("repos/acme/r{}/token", number % 50));
                scope.spawn(move || fs::read_to_string(path).unwrap())
            };
            let readers: Vec<_> = (0..1000).map(reader).collect();
            readers.into_iter().map(|reader| reader.join().unwrap()).collect()
        });
        let distinct: std::collections::HashSet<_> = tokens.iter().collect();
        assert_eq!((distinct.len(), app.demo.github().minted()), (50, 50));
    });
}

#[test]
fn an_app_mints_no_more_than_its_budget_and_says_so() {
    sandboxed(secs(60), || {
        let app = on_demand(secs(3600));
        install_many(&app, 12);
        let text = fs::read_to_string(&app.config).unwrap();
        let text = text.replace("owner = 'acme'", "owner = 'acme'\nmints-per-minute = 10");
        fs::write(&app.config, text).unwrap();
        let daemon = app.mount();
        let read =
            |number: usize| fs::read_to_string(daemon.path(&format!("repos/acme/r{number}/token")));
        for number in 0..10 {
            read(number).unwrap();
        }
        let refused = read(10).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(nix::libc::ENOKEY), "{refused}");
        let status = fs::read_to_string(daemon.path("repos/acme/r10/status.json")).unwrap();
        assert!(
            status.contains("rate_limited") && status.contains("of the source, 10, is used up"),
            "{status}"
        );
        assert_eq!(app.demo.github().minted(), 10);
        read(3).unwrap();
    });
}

#[test]
fn no_more_tokens_are_kept_than_there_is_room_for_and_an_open_one_is_the_last_to_go() {
    sandboxed(secs(120), || {
        use std::io::Read;
        let app = on_demand(secs(3600));
        install_many(&app, 300);
        let text = fs::read_to_string(&app.config).unwrap();
        let text = text.replace("owner = 'acme'", "owner = 'acme'\nmints-per-minute = 1000");
        fs::write(&app.config, text).unwrap();
        let daemon =
            Daemon::at(&app.dir).arg_pair("--config", &app.config).log_level("info").start();
        let path = |number: usize| daemon.path(&format!("repos/acme/r{number}/token"));
        let mut held = fs::File::open(path(0)).unwrap();
        for number in 1..300 {
            fs::read_to_string(path(number)).unwrap();
        }
        let kept = fs::read_dir(daemon.path("repos/acme")).unwrap().count();
        assert_eq!(kept, 256);
        let mut token = String::new();
        held.read_to_string(&mut token).unwrap();
        assert_eq!(app.demo.ledger().verdict(token.as_bytes()), Verdict::Live);
        let minted = app.demo.github().minted();
        assert_eq!(fs::read_to_string(path(0)).unwrap(), token, "it is still there");
        fs::read_to_string(path(299)).unwrap();
        assert_eq!(app.demo.github().minted(), minted);
        fs::read_to_string(path(1)).unwrap();
        assert_eq!(app.demo.github().minted(), minted + 1, "this one had gone");
    });
}

/// As much as a worker may take for a token on demand, in bytes: 15 KiB were measured, 4 of them shared.
const MOST_ON_DEMAND: u64 = 16 * 1024;
/// What may be left of one that was forgotten, in bytes, on the average: the allocator keeps some.
const MOST_LEFT: u64 = 4 * 1024;

#[test]
fn a_token_on_demand_takes_little_memory_and_gives_it_back() {
    sandboxed(secs(150), || {
        let app = on_demand(secs(3600));
        install_many(&app, 400);
        let text = fs::read_to_string(&app.config).unwrap();
        let text = text.replace("owner = 'acme'", "owner = 'acme'\nmints-per-minute = 1000");
        fs::write(&app.config, text).unwrap();
        let daemon =
            Daemon::at(&app.dir).arg_pair("--config", &app.config).log_level("info").start();
        let worker = daemon.worker().unwrap().as_raw();
        let memory_after = |numbers: std::ops::Range<usize>| {
            for number in numbers {
                fs::read(daemon.path(&format!("repos/acme/r{number}/token"))).unwrap();
            }
            // What a fetch needed is given back when it has ended.
            std::thread::sleep(secs(3));
            memory_of_its_own(worker)
        };
        let (one, all) = (memory_after(0..1), memory_after(1..256));
        let each = all.saturating_sub(one) / 255;
        let others = memory_after(256..400);
        let left = others.saturating_sub(all) / 144;
        println!("{each} bytes for each, {left} left of each that was forgotten");
        assert!(each > 0 && each <= MOST_ON_DEMAND, "{each} bytes each");
        assert!(left <= MOST_LEFT, "{left} bytes are left of each that was forgotten");
    });
}

#[test]
fn tokens_on_demand_rotate_and_outlive_workers() {
    sandboxed(secs(60), || {
        let app = on_demand(secs(6));
        let daemon = app.mount();
        let paths = ["repos/acme/web", "repos/acme/api", "repos/globex/docs"];
        for round in 0..24 {
            for path in paths {
                let token = fs::read_to_string(daemon.path(&format!("{path}/token"))).unwrap();
                let (owner, name) = path.trim_start_matches("repos/").split_once('/').unwrap();
                let repository = Some((owner, name));
                let verdict =
                    app.demo.ledger().check_for("test", Some(token.as_bytes()), repository);
                assert_eq!(verdict, Some(Verdict::Live), "{path}");
            }
            if round % 6 == 5 {
                daemon.kill_worker(nix::sys::signal::Signal::SIGKILL);
            }
            std::thread::sleep(millis(400));
        }
        assert!(app.demo.github().minted() >= 6);
    });
}

/// Reads files at these paths until the value is dropped, and tells what failed.
fn read_until(paths: &[PathBuf], stop: &std::sync::atomic::AtomicBool) -> (usize, Vec<String>) {
    let (mut opens, mut failed) = (0, Vec::new());
    while !stop.load(std::sync::atomic::Ordering::Acquire) {
        for path in paths {
            match fs::read(path) {
                Ok(token) if token.starts_with(b"ghs_") => opens += 1,
                other => failed.push(format!("{}: {other:?}", path.display())),
            }
        }
    }
    (opens, failed)
}

/// Named tokens and tokens on demand are kept as that of the root is.
#[test]
fn a_death_and_an_upgrade_cost_no_token_while_github_is_down() {
    sandboxed(secs(90), || {
        use std::io::Read;
        use std::os::unix::fs::MetadataExt;
        let app = on_demand(secs(3600));
        let daemon = app.mount();
        let named = ["acme", "globex"].map(|name| format!("{name}/token"));
        let on_demand =
            ["repos/acme/web", "repos/acme/api", "repos/globex/docs", "orgs/acme", "orgs/globex"];
        let on_demand = on_demand.map(|path| format!("{path}/token"));
        let paths: Vec<_> = std::iter::once("token".to_owned())
            .chain(named)
            .chain(on_demand)
            .map(|path| daemon.path(&path))
            .collect();
        let tokens: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
        let inodes =
            || -> Vec<_> { paths.iter().map(|path| fs::metadata(path).unwrap().ino()).collect() };
        let (before, minted) = (inodes(), app.demo.github().minted());
        let mut held: Vec<_> = paths.iter().map(|path| fs::File::open(path).unwrap()).collect();
        // Whoever asks is refused.
        for installation in [71, 72] {
            app.demo.github().uninstall(installation);
        }
        let asked = app.demo.github().seen().len();
        let stop = std::sync::atomic::AtomicBool::new(false);
        let (opens, failed) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_until(&paths, &stop));
            for _ in 0..4 {
                let worker = daemon.worker();
                daemon.kill_worker(nix::sys::signal::Signal::SIGKILL);
                eventually("the next worker", secs(10), || {
                    daemon.worker().filter(|now| Some(*now) != worker)
                });
                std::thread::sleep(millis(300));
            }
            app.tell(&daemon, &["upgrade"]).ok();
            std::thread::sleep(millis(300));
            stop.store(true, std::sync::atomic::Ordering::Release);
            reader.join().unwrap()
        });
        assert!(failed.is_empty() && opens > 100, "{opens}: {failed:?}");
        for (file, token) in held.iter_mut().zip(&tokens) {
            let mut text = Vec::new();
            file.read_to_end(&mut text).unwrap();
            assert_eq!(&text, token, "an open file reads on");
        }
        let after: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
        assert_eq!((after, inodes()), (tokens, before));
        assert_eq!((app.demo.github().seen().len(), app.demo.github().minted()), (asked, minted));
    });
}

#[test]
fn an_upgrade_ends_tokens_whose_sources_changed_or_that_are_not_configured_any_more() {
    sandboxed(secs(60), || {
        let app = on_demand(secs(3600));
        let daemon = app.mount();
        let read = |path: &str| fs::read_to_string(daemon.path(path));
        let (acme, globex_token) = (read("acme/token").unwrap(), read("globex/token").unwrap());
        let web = read("repos/acme/web/token").unwrap();
        let root = read("token").unwrap();
        // Of `acme`, only one repository from now on; `globex` is gone.
        let text = fs::read_to_string(&app.config).unwrap();
        let text = text.replace("owner = 'acme'", "owner = 'acme'\nrepositories = ['web']");
        let globex = text.find("[tokens.globex]").unwrap();
        fs::write(&app.config, &text[..globex]).unwrap();
        let told = app.tell(&daemon, &["upgrade"]);
        assert!(told.status.success(), "{told:?}: {}", daemon.log());
        let status = app.tell(&daemon, &["status", "--json"]).ok();
        assert!(!status.contains("globex"), "{status}");
        assert_eq!(read("globex/token").unwrap_err().kind(), std::io::ErrorKind::NotFound);
        let narrowed = read("acme/token").unwrap();
        assert!(narrowed != acme && narrowed != globex_token);
        assert_eq!(holds_in(&app, &narrowed, "acme", "api"), Some(Verdict::OutOfScope));
        assert_eq!(holds_in(&app, &narrowed, "acme", "web"), Some(Verdict::Live));
        assert_ne!(read("token").unwrap(), root, "its source changed, too");
        assert_eq!(read("repos/acme/web/token").unwrap(), web, "this one is what it was");
    });
}

#[test]
fn watchers_of_a_named_tokens_directory_see_each_rotation() {
    sandboxed(secs(60), || {
        let app = of_two_owners(secs(3600));
        let daemon = app.mount();
        fs::read(daemon.path("acme/token")).unwrap();
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
        let events = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ATTRIB;
        inotify.add_watch(&daemon.path("acme"), events).unwrap();
        let seen = |name: &str| -> usize {
            let events = inotify.read_events().unwrap_or_default();
            events.iter().filter(|event| event.name.as_deref() == Some(name.as_ref())).count()
        };
        for rotation in 0..6 {
            if rotation == 3 {
                let worker = daemon.worker();
                daemon.kill_worker(nix::sys::signal::Signal::SIGKILL);
                eventually("the next worker", secs(10), || {
                    daemon.worker().filter(|now| Some(*now) != worker)
                });
            }
            let before = fs::read(daemon.path("acme/token")).unwrap();
            std::thread::sleep(millis(1100));
            app.tell(&daemon, &["refresh", "--token", "acme"]).ok();
            eventually("the view is moved", secs(5), || (seen("token") > 0).then_some(()));
            let after = fs::read(daemon.path("acme/token")).unwrap();
            assert_ne!(before, after, "whoever hears of it gets the new one");
        }
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
fn doctor_wants_no_bearer_where_no_platform_is_asked() {
    sandboxed(secs(30), || {
        let app = App::new(secs(3600));
        let daemon = app.mount();
        app.tell(&daemon, &["get"]).ok();
        let mut doctor = tokenfs(&app.dir, User::Own);
        doctor.arg("doctor").arg(daemon.mountpoint()).env("MOLECULE_TOKENFS_CONFIG", &app.config);
        let said = run(doctor, &app.dir, secs(20)).stdout;
        assert!(said.contains("acme-app gives tokens") && !said.contains("bearer"), "{said}");
    });
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
fn check_live_asks_each_source_of_every_token_once() {
    let app = of_two_owners(secs(3600));
    let check = |args: &[&str]| {
        let mut check = tokenfs(&app.dir, User::Own);
        check.args(["check", "--live", "--config"]).arg(&app.config).args(args);
        run(check, &app.dir, secs(20))
    };
    let shown = check(&[]).ok();
    assert_eq!(shown.matches("\n     gives token ").count(), 2, "{shown}");
    assert!(shown.contains("The token `globex` is asked of these"), "{shown}");
    assert!(shown.contains("\n  1. acme-app, as above\n"), "{shown}");
    assert_eq!(app.demo.github().minted(), 2);
    // What fails is that of a named token alone.
    app.demo.github().uninstall(72);
    let told = check(&["--json"]);
    assert_eq!(told.status.code(), Some(3), "{told:?}");
    let told: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
    assert!(told["sources"][0]["gives"].is_string(), "{told}");
    assert_eq!(told["tokens"][2]["name"], "globex");
    assert_eq!(told["tokens"][2]["sources"][0]["error"]["kind"], "not_installed");
}

#[test]
fn init_writes_a_configuration_that_was_tried_and_serves() {
    sandboxed(secs(60), || {
        let app = App::new(secs(3600));
        let file = app.dir.join("new.toml");
        let init = |args: &[&str]| {
            let mut init = tokenfs(&app.dir, User::Own);
            init.args(["init", "github-app", "--api-url", app.demo.url(), "--key"]);
            init.arg(app.dir.join("acme.pem")).args(args);
            if !args.contains(&"--file") {
                init.arg("--file").arg(&file);
            }
            run(init, &app.dir, secs(20))
        };
        let missing = init(&["--owner", "acme"]);
        assert_eq!(missing.status.code(), Some(2), "{missing:?}");
        assert!(missing.stderr.contains("--client-id must be given"), "{missing:?}");
        // Before anything is asked: nobody answers three questions in vain.
        let nowhere = init(&["--file", "/nowhere/new.toml"]);
        assert_eq!(nowhere.status.code(), Some(2), "{nowhere:?}");
        assert!(nowhere.stderr.contains("hint: make it: mkdir -p /nowhere\n"), "{nowhere:?}");
        let client = app.demo.github().create_app(&app.dir.join("acme.pem")).unwrap();
        let wrong = init(&["--client-id", &client, "--owner", "initech"]);
        assert_eq!(wrong.status.code(), Some(3), "{wrong:?}");
        assert!(wrong.stderr.contains("nothing was written") && !file.exists(), "{wrong:?}");
        let no_owner = init(&["--client-id", &client, "--owner", "https://github.com/acme"]);
        assert_eq!(no_owner.status.code(), Some(2), "{no_owner:?}");
        assert!(no_owner.stderr.contains("nothing was written"), "{no_owner:?}");
        let key = app.dir.join("acme.pem");
        let mode = |mode| fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        let open = init(&["--client-id", &client, "--owner", "acme"]);
        mode(0o600);
        let chmod = format!("hint: chmod 0600 {}\n", key.display());
        assert!(open.stderr.contains("others can read it"), "{open:?}");
        assert!(open.stderr.contains(&chmod), "{open:?}");
        let args = ["--client-id", &client, "--owner", "acme", "--permission", "contents=read"];
        let told = init(&args).ok();
        // Only the default file is read by `setup` without being named.
        let host = format!("molecule-tokenfs setup git --system --host {}\n", app.demo.host());
        for part in ["it works: token ", "molecule-tokenfs mount --background --config ", &host] {
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
