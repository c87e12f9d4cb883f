//! Which token git and gh would take in a clone, and what is told where they would take another.

use std::path::PathBuf;

use super::support::daemon::{Daemon, PROGRAM};
use super::support::namespace::sandboxed;
use super::support::secs;
use super::{Report, Site};

const CHECK: &str = "repository";

/// A mount with a token for acme and one for globex, and a clone of repositories of both.
struct Clone {
    site: Site,
    _daemon: Daemon,
    path: PathBuf,
}

impl Clone {
    /// Call it in `sandboxed` only.
    fn new() -> Self {
        let site = Site::new();
        site.register();
        let config = site.dir.file(
            "tokenfs.toml",
            "[tokens.default]\nsources = ['platform']\nowners = ['acme']\n\
             [tokens.globex]\nsources = ['platform']\nowners = ['globex']\n",
        );
        let builder = Daemon::at(&site.dir).env("PLATFORM_URL", site.demo.url());
        let daemon = builder.arg_pair("--config", &config).start();
        site.wire();
        site.run("git init -q clone").ok();
        let clone = Self { path: site.dir.join("clone"), site, _daemon: daemon };
        clone.git("remote add origin https://github.com/globex/docs.git");
        clone.git("remote add upstream https://github.com/acme/web.git");
        clone
    }

    fn git(&self, words: &str) {
        self.site.run(&format!("git -C {} {words}", self.path.display())).ok();
    }

    fn doctor(&self) -> Report {
        let (path, mountpoint) = (self.path.display(), self.site.mountpoint());
        Report::of(&self.site.run(&format!("cd {path} && {PROGRAM} doctor --json {mountpoint}")))
    }

    /// Asserts that this is said.
    #[track_caller]
    fn says(&self, sentence: &str) {
        let said = self.doctor().said(CHECK);
        let sentence = sentence.replace("MOUNT", &self.site.mountpoint());
        assert!(said.contains(&sentence), "{sentence}: {said:?}");
    }
}

#[test]
fn the_tokens_of_a_clone_are_told_with_the_reason() {
    sandboxed(secs(60), || {
        let clone = Clone::new();
        let told = "git takes MOUNT/git-credential for globex/docs (the remote origin), and not the token in \
                    MOUNT/globex: git was not told"
            .replace("MOUNT", &clone.site.mountpoint());
        let remedy = clone.doctor().told("warn", CHECK, &told);
        assert!(remedy.starts_with("molecule-tokenfs setup git --by-repository"), "{remedy}");
        clone.site.run(&format!("{PROGRAM} setup git --global --by-repository")).ok();
        clone.doctor().assert_well();
        clone.says(
            "git takes MOUNT/globex/git-credential for globex/docs (the remote origin): the token \
             `globex` is for globex",
        );
        clone.says(
            "git takes MOUNT/git-credential for acme/web (the remote upstream): the default token, \
             since no other is for acme",
        );
        clone.says(
            "gh takes MOUNT/token for acme/web (the remote upstream), and no other token is for it",
        );
        clone.git("config remote.origin.gh-resolved base");
        clone.says("gh takes MOUNT/globex/token for globex/docs (the remote origin)");
        clone.doctor().assert_well();
        // What git does is asked of git: with ssh there is no token.
        clone.git("remote set-url upstream git@github.com:acme/web.git");
        clone.says(
            "git takes no token of the mount for acme/web (the remote upstream): it uses ssh",
        );
    });
}

#[test]
fn git_and_gh_with_different_tokens_are_told() {
    sandboxed(secs(60), || {
        let clone = Clone::new();
        clone.site.run(&format!("{PROGRAM} setup git --global --by-repository")).ok();
        clone.git("config remote.origin.gh-resolved base");
        clone.doctor().assert_well();
        // Two lines for the owner, with the wrong token.
        let (key, mountpoint) =
            ("credential.https://github.com/globex.helper", clone.site.mountpoint());
        clone.site.run(&format!("git config --global --add {key} ''")).ok();
        clone
            .site
            .run(&format!("git config --global --add {key} '!cat {mountpoint}/git-credential #'"))
            .ok();
        let bad = clone.doctor().bad(Some(CHECK));
        let different = format!(
            "for globex/docs git takes the token in {mountpoint}, and gh takes {mountpoint}/globex/token"
        );
        assert!(bad.iter().any(|told| told.contains(&different)), "{bad:?}");
        clone.site.run(&format!("git config --global --unset-all {key}")).ok();
        clone
            .site
            .run(&format!(
                "git config --global --add {key} '' && git config --global --add {key} \
                 '!cat {mountpoint}/globex/git-credential #'"
            ))
            .ok();
        assert_eq!(clone.doctor().bad(Some(CHECK)), Vec::<String>::new());
    });
}

#[test]
fn a_remote_whose_owner_no_token_is_for() {
    sandboxed(secs(60), || {
        let clone = Clone::new();
        clone.site.run(&format!("{PROGRAM} setup git --global --by-repository")).ok();
        clone.git("remote add other https://github.com/initech/x.git");
        let told = "no token is for initech (the remote other): with that of another owner GitHub answers 404";
        let remedy = clone.doctor().told("warn", CHECK, told);
        assert!(remedy.contains("owners = [\"initech\"]"), "{remedy}");
        clone.git("remote remove other");
        clone.doctor().assert_well();
    });
}

#[test]
fn a_token_that_came_this_minute_is_said_to_be_unknown_to_some_servers() {
    sandboxed(secs(60), || {
        let (site, _daemon) = Site::wired();
        let said = site.doctor().said("token");
        let told = said.iter().find(|told| told.contains("a 404 or 401 "));
        assert!(told.is_some_and(|told| told.contains("try again in some seconds")), "{said:?}");
    });
}
