//! Real gh in a mount with tokens of two owners: which token each command sends.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use molecule_tokenfs::demo::Demo;
use molecule_tokenfs::demo::github::Installation;

use crate::gh_hosts::every_gh;
use crate::support::daemon::{Daemon, PROGRAM};
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::{Finished, User, command, run};
use crate::support::secs;
use crate::world::platform;

/// gh's name for a mock.
const HOST: &str = "github.localhost";

/// A mount with the token of acme, those on demand for its repositories, and one of globex.
struct Site {
    daemon: Daemon,
    demo: Demo,
    dir: TestDir,
}

impl Site {
    /// Call it in `sandboxed` only.
    fn new() -> Self {
        let dir = TestDir::new();
        let demo = platform(&dir, secs(3600));
        let mut text = format!(
            "host = ['{}']\n[tokens.default]\nsources = ['acme']\non-demand = true\n\
             [tokens.globex]\nsources = ['globex']\n",
            demo.host()
        );
        for (id, owner, repositories) in
            [(71, "acme", &["web", "api"]), (72, "globex", &["docs", "x"])]
        {
            let key = dir.join(format!("{owner}.pem"));
            let client = demo.github().create_app(&key).unwrap();
            demo.github().install(Installation::of(id, owner, repositories));
            write!(
                text,
                "[sources.{owner}]\ntype = 'github-app'\nclient-id = '{client}'\nowner = '{owner}'\n\
                 private-key = {{ file = '{}' }}\napi-url = '{}'\n",
                key.display(),
                demo.url()
            )
            .unwrap();
        }
        let config = dir.file("tokenfs.toml", &text);
        let daemon = Daemon::at(&dir).arg_pair("--config", &config).start();
        let site = Self { daemon, demo, dir };
        let mut setup = command(PROGRAM, User::Own);
        setup.args(["setup", "gh", "--dir"]).arg(site.dir.folder("bin"));
        run(setup, &site.dir, secs(10)).ok();
        site
    }

    fn git(&self, words: &[&str]) {
        let mut git = command("git", User::Own);
        git.args(words).env("HOME", self.dir.folder("home")).env("GIT_CONFIG_NOSYSTEM", "1");
        run(git, &self.dir, secs(10)).ok();
    }

    /// A clone of a repository of globex, which is a fork of one of acme.
    fn clone(&self) -> PathBuf {
        let clone = self.dir.folder("clone");
        let path = clone.to_str().unwrap();
        self.git(&["init", "-q", path]);
        for (remote, repository) in [("origin", "globex/docs"), ("upstream", "acme/web")] {
            let address = format!("http://{HOST}/{repository}.git");
            self.git(&["-C", path, "remote", "add", remote, &address]);
        }
        clone
    }

    /// The shim before this gh.
    fn gh(&self, real: &Path, place: &Path, words: &[&str]) -> Finished {
        // What it has cached, it does not ask again.
        let cache = self.dir.join("cache");
        fs::remove_dir_all(&cache).ok();
        let mut gh = command(self.dir.join("bin/gh"), User::Own);
        gh.env("XDG_CACHE_HOME", cache);
        gh.args(words).current_dir(place).env("MOLECULE_REAL_GH", real);
        gh.env("HOME", self.dir.folder("home")).env("GIT_CONFIG_NOSYSTEM", "1");
        gh.env("GH_TOKEN_FILE", self.daemon.path("token")).env("GH_HOST", HOST);
        gh.env("GH_PROMPT_DISABLED", "1").env("GH_NO_UPDATE_NOTIFIER", "1");
        run(gh, &self.dir, secs(30))
    }

    /// Each token by its place in the mount, and how often the server has seen it. Two places may show the
    /// same one.
    fn seen(&self) -> BTreeMap<&'static str, (Vec<u8>, u64)> {
        let places = ["", "globex/", "repos/acme/web/", "repos/acme/api/", "orgs/acme/"];
        let seen = places.map(|place| {
            let token = fs::read(self.daemon.path(&format!("{place}token"))).unwrap();
            let entry = self.demo.ledger().entry(&token).unwrap();
            (place, (token, entry.accepted + entry.refused))
        });
        seen.into()
    }
}

#[test]
fn gh_sends_the_token_of_the_repository_that_it_is_about() {
    sandboxed(secs(240), || {
        let site = Site::new();
        let (clone, elsewhere) = (site.clone(), site.dir.folder("elsewhere"));
        let mark = |value: Option<&str>| {
            let key = "remote.origin.gh-resolved";
            let path = clone.to_str().unwrap();
            match value {
                Some(value) => site.git(&["-C", path, "config", key, value]),
                None => site.git(&["-C", path, "config", "--unset-all", key]),
            }
        };
        let query = "query={ repository(owner: \"globex\", name: \"docs\") { id } }";
        let clone_to = site.dir.join("cloned");
        let web = "repos/acme/web/";
        let cases: &[(&Path, &[&str], &str)] = &[
            (&elsewhere, &["api", "user"], ""),
            (&elsewhere, &["api", "repos/acme/web"], web),
            (&elsewhere, &["api", "/repos/Acme/API/pulls?state=open"], "repos/acme/api/"),
            (&elsewhere, &["api", "repos/globex/docs/pulls"], "globex/"),
            (&elsewhere, &["api", "orgs/globex/members"], "globex/"),
            (&elsewhere, &["api", "orgs/acme/members"], "orgs/acme/"),
            (&elsewhere, &["api", "graphql", "-f", query], "globex/"),
            (&elsewhere, &["pr", "list", "-R", "acme/web"], web),
            (&elsewhere, &["issue", "list", "--repo=globex/docs"], "globex/"),
            (
                &elsewhere,
                &["issue", "view", "http://github.localhost/acme/api/issues/1"],
                "repos/acme/api/",
            ),
            (&elsewhere, &["repo", "view", "globex/docs"], "globex/"),
            (&elsewhere, &["repo", "clone", "globex/docs", clone_to.to_str().unwrap()], "globex/"),
            (&clone, &["pr", "list"], web),
            (&clone, &["release", "list"], web),
            (&clone, &["run", "list", "-R", "globex/docs"], "globex/"),
        ];
        let marked: &[(&Path, &[&str], &str)] =
            &[(&clone, &["pr", "list"], "globex/"), (&clone, &["repo", "view"], "globex/")];
        for real in every_gh() {
            for (value, cases) in [(None, cases), (Some("base"), marked)] {
                if value.is_some() {
                    mark(value);
                }
                for (place, words, expected) in cases {
                    let before = site.seen();
                    // Whether it likes what the mock answers is its own business.
                    let said = site.gh(&real, place, words);
                    let after = site.seen();
                    for (place, (token, seen)) in &after {
                        let rose = *seen > before[place].1;
                        let is_it = *token == after[expected].0;
                        assert_eq!(rose, is_it, "{} {words:?}: {place}: {said:?}", real.display());
                    }
                }
            }
            mark(None);
        }
        let rest = site.demo.ledger().counts().service("rest");
        assert_eq!(rest.refused(), 0, "{rest:?}");
    });
}

#[test]
fn a_repository_that_the_app_may_not_use_is_named_before_anything_is_sent() {
    sandboxed(secs(60), || {
        let site = Site::new();
        let real = every_gh().remove(0);
        let place = site.dir.folder("elsewhere");
        let said = site.gh(&real, &place, &["pr", "list", "-R", "acme/secret"]);
        assert_eq!(said.status.code(), Some(4), "{said:?}");
        let [start, end] = [
            "gh: no token for acme/secret: ",
            ": Key was rejected by service. What is wrong and what to do: molecule-tokenfs status --repo \
             acme/secret\n",
        ];
        assert!(said.stderr.starts_with(start) && said.stderr.ends_with(end), "{said:?}");
        assert_eq!(said.stderr.lines().count(), 1, "{said:?}");
        assert_eq!(site.demo.ledger().counts().service("rest").live, 0);
        let mut status = command(PROGRAM, User::Own);
        status.args(["status", "--repo", "acme/secret"]).arg(site.daemon.mountpoint());
        let told = run(status, &site.dir, secs(10));
        assert_eq!(told.status.code(), Some(3), "{told:?}");
        assert!(
            told.stdout.contains("acme/secret") && told.stdout.contains("what fails"),
            "{told:?}"
        );
        let mut status = command(PROGRAM, User::Own);
        status.args(["status", "--token", "globex"]).arg(site.daemon.mountpoint());
        let told = run(status, &site.dir, secs(10)).ok();
        assert!(told.contains("\nglobex\n") && !told.contains("\ndefault\n"), "{told}");
    });
}
