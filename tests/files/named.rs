//! Named tokens among files: each in a directory of its own, as on a mount.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use molecule_tokenfs::demo::github::Installation;
use molecule_tokenfs::demo::ledger::Verdict;
use molecule_tokenfs::demo::{Demo, Setup};
use molecule_tokenfs::files::MARKER;
use molecule_tokenfs::secret::Fingerprint;
use molecule_tokenfs::view;
use nix::sys::signal::{Signal, kill};

use crate::support::daemon::{Builder, Daemon, PROGRAM, tokenfs, tokenfs_run};
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::{Finished, ORDINARY, User, command, run};
use crate::support::{eventually, millis, secs};
use crate::{in_memory, read, without_fuse};

/// Two owners, each with an App, a repository and a token: acme's is the default, too.
struct Owners {
    dir: TestDir,
    demo: Demo,
    config: PathBuf,
}

const OWNERS: [(&str, u64, &str); 2] = [("acme", 71, "web"), ("globex", 72, "docs")];

impl Owners {
    fn new(life: Duration) -> Self {
        let dir = TestDir::new();
        without_fuse(&dir);
        let repositories = dir.join("repositories");
        for (owner, ..) in OWNERS {
            fs::create_dir_all(repositories.join(owner)).unwrap();
        }
        let setup = Setup { git_root: Some(repositories), ..Setup::with_life(life) };
        let demo = Demo::start(setup).unwrap();
        let mut text = format!(
            "host = ['{}']\n[tokens.default]\nsources = ['acme-app']\non-demand = true\n",
            demo.host()
        );
        for (owner, number, repository) in OWNERS {
            demo.create_repository(&format!("{owner}/{repository}.git")).unwrap();
            let key = dir.join(format!("{owner}.pem"));
            let client_id = demo.github().create_app(&key).unwrap();
            demo.github().install(Installation::of(number, owner, &[repository]));
            write!(
                text,
                "[tokens.{owner}]\nsources = ['{owner}-app']\n[sources.{owner}-app]\n\
                 type = 'github-app'\nclient-id = '{client_id}'\n\
                 private-key = {{ file = '{}' }}\napi-url = '{}'\nowner = '{owner}'\n",
                key.display(),
                demo.url()
            )
            .unwrap();
        }
        let config = dir.file("tokenfs.toml", text);
        Self { dir, demo, config }
    }

    fn builder(&self) -> Builder<'_> {
        Daemon::at(&self.dir).arg_pair("--config", &self.config)
    }

    /// A daemon whose tokens are all there.
    fn serve(&self) -> Daemon {
        let daemon = self.builder().start();
        for directory in ["", "acme/", "globex/"] {
            token(&daemon, directory);
        }
        daemon
    }

    fn tell(&self, daemon: &Daemon, args: &[&str]) -> Finished {
        tokenfs_run(&self.dir, &[args, &[daemon.mountpoint().to_str().unwrap()]].concat())
    }

    /// What the server says of a token for a repository.
    fn holds(&self, token: &[u8], owner: &str, repository: &str) -> Option<Verdict> {
        self.demo.ledger().check_for("test", Some(token), Some((owner, repository)))
    }

    /// Removes a token from the configuration.
    fn forget_globex(&self) {
        let text = fs::read_to_string(&self.config).unwrap();
        fs::write(&self.config, text.split("[tokens.globex]").next().unwrap()).unwrap();
    }
}

/// A token in a directory, once there is one.
fn token(daemon: &Daemon, directory: &str) -> Vec<u8> {
    let path = daemon.path(&format!("{directory}token"));
    eventually("a token", secs(10), || read(&path))
}

fn status(daemon: &Daemon, directory: &str) -> serde_json::Value {
    let path = daemon.path(&format!("{directory}status.json"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn names(status: &serde_json::Value) -> Vec<&str> {
    let tokens = status["tokens"].as_array().unwrap();
    tokens.iter().map(|token| token["name"].as_str().unwrap()).collect()
}

#[test]
fn each_has_its_views_its_status_and_its_files_for_wishes() {
    sandboxed(secs(60), || {
        let owners = Owners::new(secs(3600));
        let owner = ORDINARY.to_string();
        let daemon = owners.builder().args(["--owner", &owner, "--mode", "0440"]).start();
        let globex = token(&daemon, "globex/");
        assert_eq!(owners.holds(&globex, "globex", "docs"), Some(Verdict::Live));
        assert_eq!(owners.holds(&globex, "acme", "web"), Some(Verdict::OutOfScope));
        assert_eq!(owners.holds(&token(&daemon, ""), "acme", "web"), Some(Verdict::Live));
        let attributes = |name: &str| {
            let it = fs::metadata(daemon.path(name)).unwrap();
            (it.permissions().mode() & 0o7777, it.uid())
        };
        for view in view::ALL {
            let named = attributes(&format!("globex/{}", view.path()));
            assert_eq!(named, (0o440, ORDINARY), "{}", view.path());
        }
        for directory in ["globex", "globex/gh"] {
            assert_eq!(attributes(directory), (0o711, 0));
        }
        for page in ["refresh", "status.json", "metrics.prom", "status.full.json"] {
            assert_eq!(attributes(&format!("globex/{page}")), attributes(page), "{page}");
        }
        eventually("its own status", secs(5), || {
            let status = status(&daemon, "globex/");
            (names(&status) == ["globex"] && status["state"] == "fresh").then_some(())
        });
        eventually("the status of all", secs(5), || {
            let status = status(&daemon, "");
            let is_fresh = |token: &serde_json::Value| token["state"] == "fresh";
            assert_eq!(names(&status), ["default", "acme", "globex"]);
            status["tokens"].as_array().unwrap().iter().all(is_fresh).then_some(())
        });
        let metrics = fs::read_to_string(daemon.path("metrics.prom")).unwrap();
        for (family, name) in [("token_state", "globex"), ("open_wait_seconds_count", "acme")] {
            let sample = format!("molecule_tokenfs_{family}{{token=\"{name}\"");
            assert!(metrics.contains(&sample), "{sample}: {metrics}");
        }
        daemon.wait_for_log("tokens on demand (repos/…, orgs/…) need a mount");
    });
}

#[test]
fn they_rotate_each_by_its_own_life_and_only_live_ones_are_there() {
    sandboxed(secs(90), || {
        let owners = Owners::new(secs(12));
        let often = ["--refresh-interval", "1s", "--refresh-jitter", "0s"];
        let daemon = owners.builder().args(often).start();
        let first = token(&daemon, "globex/");
        let mut rotations = 0;
        let mut last = first;
        eventually("three rotations", secs(30), || {
            let now = read(&daemon.path("globex/token"))?;
            assert_eq!(owners.demo.ledger().verdict(&now), Verdict::Live);
            if now != last {
                (rotations, last) = (rotations + 1, now);
            }
            std::thread::sleep(millis(5));
            (rotations == 3).then_some(())
        });
        // Its App is taken away: its files go, and nothing else does.
        owners.demo.github().uninstall(72);
        eventually("globex has no views", secs(30), || {
            let is_there = |view: &str| daemon.path(&format!("globex/{view}")).exists();
            (!view::ALL.iter().any(|view| is_there(view.path()))).then_some(())
        });
        daemon.wait_for_log("no token `globex` may be served");
        token(&daemon, "");
        token(&daemon, "acme/");
        let told = owners.tell(&daemon, &["status"]);
        assert_eq!(told.status.code(), Some(3), "{told:?}");
        assert!(told.stdout.starts_with("none: globex: "), "{told:?}");
        let told = owners.tell(&daemon, &["get", "--token", "globex"]);
        assert_eq!(told.status.code(), Some(3), "{told:?}");
        assert!(told.stderr.contains("not installed"), "{told:?}");
        owners.tell(&daemon, &["get", "--token", "acme"]).ok();
    });
}

#[test]
fn a_wish_is_for_one_token_and_a_fingerprint_finds_its_own() {
    sandboxed(secs(60), || {
        let owners = Owners::new(secs(3600));
        let daemon = owners.serve();
        let (acme, globex) = (token(&daemon, "acme/"), token(&daemon, "globex/"));
        let other = |directory: &'static str, than: &[u8]| {
            let path = daemon.path(&format!("{directory}token"));
            let than = than.to_owned();
            eventually("another token", secs(10), move || read(&path).filter(|it| *it != than))
        };
        fs::write(daemon.path("globex/refresh"), "now\n").unwrap();
        let second = other("globex/", &globex);
        assert_eq!(token(&daemon, "acme/"), acme, "nobody asked for another of this one");
        // Whoever was refused may not know which one it was. One so young is offered again, once.
        eventually("a token after the refused one", secs(10), || {
            fs::write(daemon.path("refresh"), format!("{}\n", Fingerprint::of(&second))).ok()?;
            read(&daemon.path("globex/token")).filter(|it| *it != second)
        });
        assert_eq!(token(&daemon, "acme/"), acme);
        std::thread::sleep(millis(1100));
        kill(daemon.pid(), Signal::SIGUSR1).unwrap();
        other("acme/", &acme);
    });
}

#[test]
fn commands_take_a_token_by_its_name_and_say_which_there_are() {
    sandboxed(secs(60), || {
        let owners = Owners::new(secs(3600));
        let daemon = owners.serve();
        let tell = |args: &[&str]| owners.tell(&daemon, args);
        tell(&["wait", "--token", "globex"]).ok();
        let globex = tell(&["get", "--token", "globex"]).ok();
        assert_eq!(owners.holds(globex.as_bytes(), "globex", "docs"), Some(Verdict::Live));
        let line = tell(&["refresh", "--token", "globex"]).ok();
        assert!(line.starts_with("token ") && line.ends_with(" left\n"), "{line}");
        assert_ne!(tell(&["get", "--token", "globex"]).ok(), globex);
        let all = tell(&["status"]).ok();
        for name in ["default", "acme", "globex"] {
            assert!(all.lines().any(|line| line.starts_with(&format!("{name} "))), "{all}");
        }
        let one = tell(&["status", "--token", "globex"]).ok();
        assert!(one.starts_with("fresh: a token of globex-app is served\n\nglobex\n"), "{one}");
        assert!(one.contains(&format!("> {}", daemon.path("globex/refresh").display())), "{one}");
        let json = tell(&["status", "--json", "--token", "default"]).ok();
        assert_eq!(names(&serde_json::from_str(&json).unwrap()), ["default"]);

        let mut exec = tokenfs(&owners.dir, User::Own);
        exec.args(["exec", "--token", "globex", "--env", "T", "--mountpoint"]);
        exec.arg(daemon.mountpoint()).args(["--", "sh", "-c", "printf %s \"$T\""]);
        let printed = run(exec, &owners.dir, secs(10)).ok();
        assert_eq!(printed, tell(&["get", "--token", "globex"]).ok());

        for command in ["get", "wait", "refresh", "status"] {
            let told = tell(&[command, "--token", "globec"]);
            assert_eq!(told.status.code(), Some(2), "{told:?}");
            assert!(told.stderr.contains("there is no token `globec` at "), "{told:?}");
            assert!(told.stderr.contains("\nhint: did you mean `globex`?\n"), "{told:?}");
            assert!(told.stderr.contains("the tokens there are default, acme, globex"), "{told:?}");
            let told = tell(&[command, "--repo", "acme/web"]);
            assert_eq!(told.status.code(), Some(2), "{told:?}");
            let why = "need a mount, and this is kept as files, because there is no /dev/fuse here";
            assert!(told.stderr.contains(why), "{told:?}");
            assert!(told.stderr.contains("configure [tokens.NAME]"), "{told:?}");
        }
        let mut doctor = tokenfs(&owners.dir, User::Own);
        doctor
            .arg("doctor")
            .arg(daemon.mountpoint())
            .env("MOLECULE_TOKENFS_CONFIG", &owners.config);
        let doctor = run(doctor, &owners.dir, secs(20));
        assert!(doctor.stdout.contains("globex: a token of globex-app is served"), "{doctor:?}");
        assert!(doctor.stdout.contains("tokens on demand need a mount"), "{doctor:?}");
        let config = owners.config.to_str().unwrap();
        let check = tokenfs_run(&owners.dir, &["check", "--config", config, "--backend", "files"]);
        let warning = "warning: tokens on demand (repos/…, orgs/…) need a mount";
        assert!(check.ok().contains(warning));
        // It is no mount of its own.
        let told = tokenfs_run(&owners.dir, &["umount", daemon.path("globex").to_str().unwrap()]);
        assert_eq!(told.status.code(), Some(1), "{told:?}");
        assert!(daemon.path("globex").join(MARKER).exists(), "{told:?}");
    });
}

#[test]
fn what_a_killed_daemon_left_is_removed_also_of_tokens_that_are_no_longer_configured() {
    sandboxed(secs(60), || {
        let owners = Owners::new(secs(3600));
        let mut daemon = owners.serve();
        daemon.process().signal(Signal::SIGKILL);
        daemon.process().wait(secs(5));
        let leftover = fs::read_link(daemon.mountpoint()).unwrap();
        assert!(leftover.join("globex/token").exists());
        let told = owners.tell(&daemon, &["status", "--token", "globex"]);
        assert_eq!(told.status.code(), Some(1), "{told:?}");
        assert!(told.stdout.contains("is gone: the last token is still good"), "{told:?}");
        // As one that was killed while it made a directory.
        fs::create_dir(leftover.join(".new-unfinished")).unwrap();

        owners.forget_globex();
        let mut daemon = owners.builder().start();
        daemon.wait_for_log("what a killed daemon left");
        token(&daemon, "acme/");
        assert!(!daemon.path("globex").exists());
        assert!(!leftover.exists());
        assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
        assert_eq!(in_memory(), [""; 0].map(Path::new));
    });
}

#[test]
fn in_memory_at_the_mountpoint_what_is_somebody_elses_stays_and_is_named() {
    sandboxed(secs(60), || {
        let owners = Owners::new(secs(3600));
        let path = Path::new(crate::MEMORY).join("here");
        let start = || owners.builder().mountpoint(&path);
        let mut daemon = start().start();
        token(&daemon, "globex/");
        daemon.process().signal(Signal::SIGKILL);
        daemon.process().wait(secs(5));
        fs::create_dir(path.join("mine")).unwrap();
        let mut daemon = start().spawn();
        assert_eq!(daemon.process().wait(secs(5)).code(), Some(1), "{}", daemon.log());
        assert!(daemon.log().contains("mine"), "{}", daemon.log());
        assert!(!path.join("globex").exists(), "what a daemon left is gone");
        fs::remove_dir(path.join("mine")).unwrap();
        let daemon = start().start();
        token(&daemon, "globex/");
        tokenfs_run(&owners.dir, &["umount", path.to_str().unwrap()]).ok();
        assert_eq!(fs::read_dir(&path).map_or(0, Iterator::count), 0);
    });
}

#[test]
fn git_takes_the_token_of_the_owner_through_both_helpers() {
    sandboxed(secs(120), || {
        let owners = Owners::new(secs(3600));
        let daemon = owners.serve();
        let host = owners.demo.host();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/git-credential-molecule");
        for helper in [format!("!{PROGRAM} git-credential"), format!("!{}", script.display())] {
            let git = |owner: &str, repository: &str| {
                let mut git: Command = command("git", User::Own);
                git.env("HOME", owners.dir.path()).env("GIT_TERMINAL_PROMPT", "0");
                // The default's first, as `setup git` writes it; each owner's resets it.
                let urls = ["", "/git/acme", "/git/globex"];
                for (url, directory) in urls.into_iter().zip(["", "acme", "globex"]) {
                    let key = format!("credential.{}{url}.helper", owners.demo.url());
                    let place = daemon.path(directory);
                    let value = format!("{helper} --mountpoint {} --host {host}", place.display());
                    git.args(["-c", &format!("{key}="), "-c", &format!("{key}={value}")]);
                }
                git.args([
                    "ls-remote",
                    &format!("{}/git/{owner}/{repository}.git", owners.demo.url()),
                ]);
                run(git, &owners.dir, secs(30))
            };
            let before = owners.demo.ledger().counts().service("git");
            for (owner, _, repository) in OWNERS {
                git(owner, repository).ok();
            }
            let after = owners.demo.ledger().counts().service("git");
            assert_eq!(after.refused(), before.refused(), "{helper}: {after:?}");
            // A server refuses globex' token: the helper tells that to its files.
            let refused = token(&daemon, "globex/");
            let acme = token(&daemon, "acme/");
            owners.demo.ledger().revoke(Some(Fingerprint::of(&refused)));
            std::thread::sleep(millis(1100));
            git("globex", "docs");
            eventually("another token of globex", secs(10), || {
                read(&daemon.path("globex/token")).filter(|token| *token != refused)
            });
            git("globex", "docs").ok();
            assert_eq!(token(&daemon, "acme/"), acme, "{helper}");
        }
    });
}
