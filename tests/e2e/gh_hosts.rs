//! Which hosts real gh sends the token to, whatever host it is told to talk to.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::recorder::{Recorder, Seen};
use crate::support::daemon::{Daemon, PROGRAM};
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::{User, command, registry_tool, run};
use crate::support::secs;
use crate::world::programs;

/// Hosts of an attacker. gh takes the second for a tenant of GitHub's own, the third for a mock.
const EVIL: [&str; 3] = ["evil.local", "evil.ghe.com", "github.localhost"];

/// Every name that somebody in these tests answers to.
const NAMES: &[&str] = &[
    "github.com",
    "api.github.com",
    "gist.github.com",
    "ghe.example.com",
    "octo.ghe.com",
    "api.octo.ghe.com",
    "evil.local",
    "api.evil.local",
    "gist.evil.local",
    "evil.ghe.com",
    "api.evil.ghe.com",
    "gist.evil.ghe.com",
    "github.localhost",
    "api.github.localhost",
    "gist.github.localhost",
];

/// Every gh that is to be had, oldest first.
pub fn every_gh() -> Vec<PathBuf> {
    let mut all = programs("gh");
    all.extend(["gh-2.88", "gh-2.103"].map(registry_tool));
    all
}

/// What the daemon starts with, so that it needs no platform.
const TOKEN: &str = "ghs_theTokenOfTheseTests";

/// Commands of gh, the variables and the directory that they are run with.
type Ways<'a> = (&'a [(&'a str, &'a str)], Option<&'a Path>, &'a [&'a [&'a str]]);

/// A daemon with tokens for some hosts, the shim, and a network in which everybody notes what they get.
struct Site {
    recorder: Recorder,
    daemon: Daemon,
    dir: TestDir,
    token: String,
}

impl Site {
    /// Call it in `sandboxed` only.
    fn of(hosts: &[&str]) -> Self {
        let dir = TestDir::new();
        let recorder = Recorder::start(NAMES, "https://evil.local/redirected", &dir);
        let daemon = Daemon::at(&dir)
            .env("GITHUB_TOKEN", TOKEN)
            .args(hosts.iter().flat_map(|host| ["--host", host]))
            .start();
        let token = std::fs::read_to_string(daemon.path("token")).unwrap();
        let site = Self { recorder, daemon, dir, token };
        let mut setup = site.command(Path::new(PROGRAM), &["setup", "gh", "--dir"]);
        setup.arg(site.dir.folder("bin"));
        run(setup, &site.dir, secs(10)).ok();
        site
    }

    fn command(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = command(program, User::Own);
        command.args(words).current_dir(self.dir.folder("work"));
        command.env("HOME", self.dir.folder("home")).env("GIT_CONFIG_NOSYSTEM", "1");
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_SSL_CAINFO", self.recorder.certificates());
        command
    }

    /// The shim before this gh.
    fn gh(&self, real: &Path, words: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut gh = self.command(&self.dir.join("bin/gh"), words);
        gh.env("MOLECULE_REAL_GH", real).env("GH_TOKEN_FILE", self.daemon.path("token"));
        gh.env("SSL_CERT_FILE", self.recorder.certificates());
        gh.env("GH_PROMPT_DISABLED", "1").env("GH_NO_UPDATE_NOTIFIER", "1");
        gh.envs(variables.iter().copied());
        gh
    }

    /// A clone whose only remote is at this host.
    fn clone_of(&self, host: &str) -> PathBuf {
        let clone = self.dir.folder(&format!("clone-of-{host}"));
        let path = clone.to_str().unwrap();
        let remote = format!("https://{host}/o/r.git");
        for words in [
            &["init", "-q", path][..],
            &["-C", path, "config", "remote.origin.url", &remote],
            &["-C", path, "config", "remote.origin.gh-resolved", "base"],
        ] {
            run(self.command(Path::new("git"), words), &self.dir, secs(10)).ok();
        }
        clone
    }

    /// Runs gh in the ways in which it can be told to talk to a host; in all of them, or in one of each
    /// kind.
    fn name(&self, real: &Path, host: &str, all: bool) {
        let repository = format!("{host}/o/r");
        let url = format!("https://{repository}");
        let (user, issue, pull) =
            (format!("{url}/user"), format!("{url}/issues/1"), format!("{url}/pull/1"));
        let plain = format!("http://{repository}");
        let clone = self.dir.join("cloned");
        let clone = clone.to_str().unwrap();
        let cloned = self.clone_of(host);
        let ways: [Ways<'_>; 4] = [
            (
                &[],
                None,
                &[
                    &["api", "--hostname", host, "user"],
                    &["api", &user],
                    &["repo", "view", &url],
                    &["repo", "clone", &url, clone],
                    &["evil", host],
                    &["api", "--hostname", host, "graphql", "-f", "query={viewer{login}}"],
                    &["api", &plain],
                    &["repo", "view", &repository],
                    &["repo", "clone", &repository, clone],
                    &["repo", "fork", &repository, "--clone=false"],
                    &["repo", "sync", &repository],
                    &["pr", "list", "-R", &repository],
                    &["pr", "view", &pull],
                    &["issue", "view", &issue],
                    &["release", "download", "-R", &url],
                    &["secret", "list", "-R", &repository],
                    &["run", "list", "-R", &repository],
                    &["workflow", "list", "-R", &repository],
                    &["auth", "status", "--hostname", host],
                    &["extension", "install", &url],
                ],
            ),
            (
                &[("GH_HOST", host)],
                None,
                &[
                    &["api", "user"],
                    &["repo", "list"],
                    &["gist", "list"],
                    &["search", "repos", "x"],
                ],
            ),
            (&[("GH_REPO", &repository)], None, &[&["pr", "list"], &["api", "repos/{owner}/x"]]),
            (&[], Some(&cloned), &[&["pr", "list"], &["repo", "view"], &["pr", "checkout", "1"]]),
        ];
        for (variables, place, commands) in ways {
            let some = if variables.is_empty() && place.is_none() { 5 } else { 1 };
            for words in commands.iter().take(if all { usize::MAX } else { some }) {
                let mut gh = self.gh(real, words, variables);
                if let Some(place) = place {
                    gh.current_dir(place);
                }
                // Whether it likes what it is answered is its own business.
                run(gh, &self.dir, secs(20));
            }
        }
    }

    /// Asserts that gh gives the token to this host.
    fn assert_served(&self, real: &Path, host: &str) {
        self.recorder.seen(&self.token);
        let asked = self.gh(real, &["api", "--hostname", host, "user"], &[]);
        run(asked, &self.dir, secs(20)).ok();
        let seen = self.recorder.seen(&self.token);
        let with: usize = seen.values().map(|seen| seen.with).sum();
        assert!(with > 0, "{}: {host} got no token: {seen:?}", real.display());
    }

    /// Asserts that nobody but these hosts, and the API's names of them, was sent the token.
    fn assert_only(&self, real: &Path, hosts: &[&str], said: &str) {
        let seen = self.recorder.seen(&self.token);
        let is_theirs = |host: &str| {
            hosts.iter().any(|&own| {
                host == own
                    || host.strip_suffix(own).is_some_and(|name| ["api.", "gist."].contains(&name))
            })
        };
        let others: Vec<(&String, &Seen)> =
            seen.iter().filter(|(host, seen)| seen.with > 0 && !is_theirs(host)).collect();
        assert!(others.is_empty(), "{} {said}: {others:?}", real.display());
        assert!(!seen.is_empty(), "{} {said}: nobody was asked", real.display());
    }

    /// Nobody but the configured hosts ever gets the token, and these do. `all` of the ways to name an
    /// evil host are tried with the newest gh, else some.
    fn assert_bound(&self, hosts: &[&str], all: bool) {
        // The user's own settings still count.
        let aliases = "aliases:\n    evil: api --hostname $1 user\n    good: api user\n";
        self.dir.file("home/.config/gh/config.yml", aliases);
        let gh = every_gh();
        for (number, real) in gh.iter().enumerate() {
            for host in hosts {
                self.assert_served(real, host);
            }
            for (place, host) in EVIL.iter().enumerate() {
                let is_one_of_all = all && place == 0 && number + 1 == gh.len();
                self.name(real, host, is_one_of_all);
                self.assert_only(real, hosts, host);
            }
            run(self.gh(real, &["api", "redirect"], &[]), &self.dir, secs(20));
            self.assert_only(real, hosts, "redirect");
            run(self.gh(real, &["good"], &[]), &self.dir, secs(20)).ok();
            let seen = self.recorder.seen(&self.token);
            let main = hosts.first().unwrap();
            let is_main = |host: &String| host.ends_with(main);
            assert!(seen.iter().any(|(host, seen)| is_main(host) && seen.with > 0), "{seen:?}");
        }
    }
}

#[test]
fn of_an_enterprise_server_and_github_no_other_host_gets_the_token() {
    sandboxed(secs(300), || {
        let hosts = ["ghe.example.com", "github.com"];
        Site::of(&hosts).assert_bound(&hosts, true);
    });
}

#[test]
fn of_a_tenant_no_other_host_gets_the_token() {
    sandboxed(secs(300), || Site::of(&["octo.ghe.com"]).assert_bound(&["octo.ghe.com"], false));
}

#[test]
fn of_github_no_enterprise_server_gets_the_token() {
    sandboxed(secs(120), || {
        let site = Site::of(&["github.com"]);
        for real in every_gh() {
            site.assert_served(&real, "github.com");
            site.name(&real, "evil.local", false);
            site.assert_only(&real, &["github.com"], "evil.local");
        }
    });
}
