//! An image that calls the old names, as its ordinary user: the two scripts mount the tokens, and keep
//! git, gh and what reads `~/.gh_token` alive.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use molecule_tokenfs::demo::Demo;
use molecule_tokenfs::demo::faults::{Fault, Service};
use molecule_tokenfs::demo::ledger::Verdict;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::daemon::PROGRAM;
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::{Finished, ORDINARY, Process, User, command, run};
use crate::support::{eventually, secs};
use crate::world::{REPOSITORIES, platform, programs, two_owners, url};

/// The home of the ordinary user of an image, with the two scripts where images have them.
struct Image {
    user: User,
    demo: Demo,
    dir: TestDir,
    scripts: PathBuf,
}

impl Image {
    /// Call it in `sandboxed` only.
    fn new() -> Self {
        let image = Self::of(User::Number(ORDINARY));
        image.dir.give_to(ORDINARY);
        image
    }

    /// The same of another user.
    fn of(user: User) -> Self {
        let dir = TestDir::new();
        let demo = platform(&dir, secs(3600));
        let scripts = dir.folder("app/scripts");
        for name in ["molecule-git-token-helper.sh", "molecule-gh-token-refresh.sh"] {
            fs::copy(crate::world::script(name), scripts.join(name)).unwrap();
        }
        symlink(PROGRAM, dir.folder("bin").join("molecule-tokenfs")).unwrap();
        dir.folder("home");
        Self { user, demo, dir, scripts }
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = command(program, self.user);
        command.env("HOME", self.dir.join("home")).current_dir(self.dir.join("home"));
        command.env("PATH", format!("{}:/usr/bin:/bin", self.dir.join("bin").display()));
        command.env("PLATFORM_URL", self.demo.url()).env("CONFIGS_DIR", self.dir.join("configs"));
        command.env("WORKSPACE_ID", &self.demo.address().workspace_id);
        command.env("GIT_CONFIG_NOSYSTEM", "1");
        // gh's name for a mock.
        command.env("MOLECULE_TOKENFS_HOST", format!("{},github.localhost", self.demo.host()));
        command
    }

    fn helper(&self, action: &str) -> Finished {
        let mut command = self.command("sh");
        command.arg(self.scripts.join("molecule-git-token-helper.sh")).arg(action);
        run(command, &self.dir, secs(30))
    }

    /// Ends the daemon that serves, whoever started it.
    fn end_the_daemon(&self) {
        let status = self.dir.join("home/.molecule-token-cache/token/status.json");
        let mut cat = self.command("cat");
        cat.arg(&status);
        let text = run(cat, &self.dir, secs(10)).stdout;
        let Ok(status) = serde_json::from_str::<serde_json::Value>(&text) else { return };
        let process = status.get("supervisor_pid").and_then(serde_json::Value::as_i64).unwrap();
        let process = Pid::from_raw(process.try_into().unwrap());
        kill(process, Signal::SIGTERM).unwrap();
        eventually("the daemon has ended", secs(10), || kill(process, None).is_err().then_some(()));
    }

    /// Whether there is something at a path, for its user: root may not look into the mount of another.
    fn sees(&self, path: &Path) -> bool {
        let mut test = self.command("test");
        test.arg("-e").arg(path);
        run(test, &self.dir, secs(10)).status.success()
    }

    fn is_live(&self, token: &str) -> bool {
        self.demo.ledger().verdict(token.trim_end().as_bytes()) == Verdict::Live
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        self.end_the_daemon();
    }
}

#[test]
fn the_helper_mounts_answers_git_and_wires_gh() {
    sandboxed(secs(90), || {
        let image = Image::new();
        let first = image.helper("_fetch_token").ok();
        assert!(image.is_live(&first), "{first}");
        assert_eq!(
            image.helper("get").ok(),
            format!("username=x-access-token\npassword={first}\n")
        );
        assert_eq!(image.demo.ledger().counts().platform.requests, 1, "the mount stays");

        let refreshed = image.helper("_refresh_gh");
        assert_eq!(refreshed.status.code(), Some(0), "{refreshed:?}");
        assert_eq!(refreshed.stdout, "");
        assert!(
            refreshed.stderr.ends_with("_refresh_gh: token refreshed successfully\n"),
            "{refreshed:?}"
        );
        let home = image.dir.join("home");
        let mut cat = image.command("cat");
        cat.arg(home.join(".gh_token"));
        let second = run(cat, &image.dir, secs(10)).ok();
        assert!(second != first.trim_end() && image.is_live(&second), "{second}");
        for link in [".gh_token", ".config/gh/hosts.yml"] {
            assert!(home.join(link).is_symlink(), "{link}");
        }

        let url = image.demo.create_repository("old.git").unwrap();
        let key = format!("credential.{}.helper", image.demo.url());
        let helper = format!("!{}", image.scripts.join("molecule-git-token-helper.sh").display());
        let mut git = image.command(&programs("git")[0]);
        git.args(["-c", &format!("{key}={helper}"), "ls-remote", &url, "HEAD"]);
        assert!(run(git, &image.dir, secs(20)).ok().contains("HEAD"));
        let mut gh = image.command(&programs("gh")[0]);
        gh.args(["api", "/user"]).env("GH_HOST", "github.localhost");
        run(gh, &image.dir, secs(20)).ok();
        assert_eq!(image.demo.ledger().counts().service("rest").live, 1);

        image.demo.faults().stick(Service::Platform, Some(Fault::Status(500)));
        let failed = image.helper("_refresh_gh");
        assert_eq!(failed.status.code(), Some(1), "{failed:?}");
        assert!(failed.stderr.ends_with("_refresh_gh: API fetch failed\n"), "{failed:?}");
        assert_eq!(image.helper("_fetch_token").ok().trim_end(), second, "it is still served");
    });
}

#[test]
fn git_gets_the_token_of_the_repository_that_it_names_and_else_that_of_the_mount() {
    sandboxed(secs(90), || {
        // Root's: tokens on demand are in a mount only, which an ordinary user may not be able to make.
        let image = Image::of(User::Own);
        let config = two_owners(&image.dir, &image.demo);
        let mountpoint = image.dir.join("home/.molecule-token-cache/token");
        let helper = format!("!{}", image.scripts.join("molecule-git-token-helper.sh").display());
        let ask = |repository: &str, names_path: bool| {
            let mut git = image.command(&programs("git")[0]);
            git.env("MOLECULE_TOKENFS_CONFIG", &config).env("GIT_TERMINAL_PROMPT", "0");
            git.env("MOLECULE_TOKENFS_MOUNTPOINT", &mountpoint);
            git.args(["-c", &format!("credential.helper={helper}")]);
            git.args(["-c", &format!("credential.useHttpPath={names_path}")]);
            git.args(["ls-remote", &url(&image.demo, repository)]);
            run(git, &image.dir, secs(20))
        };
        let seen = || image.demo.ledger().counts().service("git");
        for repository in REPOSITORIES {
            ask(repository, true).ok();
        }
        assert_eq!(seen().refused(), 0, "{:?}", seen());
        let narrow = image.demo.github().seen().into_iter().filter(|it| it.status == 201);
        let narrow: Vec<_> = narrow.map(|it| it.body["repositories"][0].clone()).collect();
        assert_eq!(narrow, ["web", "api", "docs"], "a token for each repository, and no other");
        // The token of the mount itself is acme's.
        ask("acme/web", false).ok();
        let refused = ask("globex/docs", false);
        assert!(!refused.status.success(), "{refused:?}");
        assert_eq!((seen().out_of_scope, seen().dead), (1, 0), "{:?}", seen());
    });
}

#[test]
fn the_daemon_mounts_refreshes_and_ends_with_the_mount() {
    sandboxed(secs(120), || {
        let image = Image::new();
        let start = |name: &str| {
            let mut daemon = image.command("sh");
            daemon.arg(image.scripts.join("molecule-gh-token-refresh.sh"));
            daemon.env("TOKEN_REFRESH_INITIAL_DELAY_SEC", "1");
            daemon.env("TOKEN_REFRESH_INTERVAL_SEC", "1");
            Process::start(daemon, name, &image.dir)
        };
        let token = image.dir.join("home/.gh_token");
        for (round, signal) in [Some(Signal::SIGTERM), None].into_iter().enumerate() {
            let mut process = start(&format!("refresh-{round}"));
            let log = eventually("it has refreshed twice", secs(30), || {
                let log = process.stderr();
                assert!(process.ended().is_none(), "{log}");
                log.contains("Z refresh succeeded").then_some(log)
            });
            let lines: Vec<_> =
                log.lines().filter(|line| line.starts_with("[molecule-gh")).collect();
            for (line, end) in lines.iter().zip([
                "starting (interval=1s, initial_delay=1s)",
                "initial token refresh",
                "initial refresh succeeded",
                "periodic token refresh",
                "refresh succeeded",
            ]) {
                assert!(line.ends_with(end), "{line}: {end}");
            }
            assert!(process.stdout().contains("_refresh_gh: token refreshed successfully"));
            assert!(token.is_symlink() && image.sees(&token));
            let code = if let Some(signal) = signal {
                process.signal(signal);
                process.wait(secs(10)).code()
            } else {
                image.end_the_daemon();
                process.wait(secs(20)).code()
            };
            assert_eq!(code, Some(if signal.is_some() { 143 } else { 0 }), "{}", process.stderr());
            assert!(!image.sees(&token), "the mount is gone");
        }
    });
}
