//! git and its three helpers, where a token is refused in mid-command.

use std::path::Path;

use crate::support::daemon::PROGRAM;
use crate::support::namespace::sandboxed;
use crate::support::process::Finished;
use crate::support::secs;
use crate::world::{World, programs, script};

/// The forms in which git is told to ask the mount.
#[derive(Debug, Clone, Copy)]
pub enum Helper {
    /// The line of the README that needs `cat` alone.
    OneLiner,
    /// `scripts/git-credential-molecule`.
    Shell,
    /// `molecule-tokenfs git-credential`.
    Binary,
}

impl Helper {
    pub const ALL: [Self; 3] = [Self::OneLiner, Self::Shell, Self::Binary];

    pub fn name(self) -> &'static str {
        match self {
            Self::OneLiner => "one-liner",
            Self::Shell => "shell",
            Self::Binary => "binary",
        }
    }

    /// As `credential.URL.helper` has it.
    fn command(self, world: &World) -> String {
        let options = format!(
            "--host {} --mountpoint {}",
            world.demo.host(),
            world.daemon.mountpoint().display()
        );
        match self {
            Self::OneLiner => format!("!cat {} #", world.daemon.path("git-credential").display()),
            Self::Shell => format!("{} {options}", script("git-credential-molecule").display()),
            Self::Binary => format!("{PROGRAM} git-credential {options}"),
        }
    }
}

/// Tells git to ask this helper for the platform's host, and nothing else.
pub fn configure(world: &World, home: &Path, helper: Helper) {
    let key = format!("credential.{}.helper", world.demo.url());
    let helper = helper.command(world);
    let add = |option: &str, key: &str, value: &str| {
        git(world, home, Path::new("git"), &["config", "--global", option, key, value]).ok();
    };
    add("--replace-all", &key, "");
    add("--add", &key, &helper);
    add("--replace-all", "user.name", "somebody");
    add("--replace-all", "user.email", "somebody@example.com");
}

/// Runs git with this home.
pub fn git(world: &World, home: &Path, program: &Path, words: &[&str]) -> Finished {
    let mut command = world.command(program);
    command.env("HOME", home).args(words);
    world.run(command)
}

/// Whether this git asks a helper again within one command, as those since 2.46 do.
pub fn retries(world: &World, program: &Path) -> bool {
    let version = world.version(program);
    let mut numbers = version.trim_start_matches("git ").split('.');
    let mut next = || numbers.next().unwrap().parse::<u32>().unwrap();
    (next(), next()) >= (2, 46)
}

#[test]
fn a_revoked_token_costs_a_new_git_nothing_and_an_old_one_a_single_command() {
    sandboxed(secs(60), || {
        let world = World::new();
        let url = world.demo.create_repository("work.git").unwrap();
        let home = world.dir.folder("home");
        for helper in [Helper::Shell, Helper::Binary] {
            configure(&world, &home, helper);
            for program in programs("git") {
                let ask = || git(&world, &home, &program, &["ls-remote", &url]);
                ask().ok();
                assert!(world.demo.ledger().revoke(None) > 0, "none was in use");
                let next = ask();
                if retries(&world, &program) {
                    next.ok();
                } else {
                    assert!(!next.status.success(), "{} went on", program.display());
                }
                ask().ok();
                // The control file takes one report a second.
                std::thread::sleep(secs(1));
            }
        }
    });
}

#[test]
fn setup_is_all_that_git_needs() {
    sandboxed(secs(30), || {
        let world = World::new();
        let url = world.demo.create_repository("work.git").unwrap();
        let home = world.dir.folder("home");
        let mut setup = world.command(PROGRAM);
        setup.args(["setup", "git", "--host", world.demo.host(), "--mountpoint"]);
        setup.arg(world.daemon.mountpoint()).env("HOME", &home);
        world.run(setup).ok();
        for program in programs("git") {
            git(&world, &home, &program, &["ls-remote", &url]).ok();
        }
    });
}

#[test]
fn git_stops_with_a_sentence_when_the_mount_is_gone() {
    sandboxed(secs(30), || {
        let mut world = World::new();
        let url = world.demo.create_repository("work.git").unwrap();
        let home = world.dir.folder("home");
        world.daemon.stop();
        for helper in [Helper::Shell, Helper::Binary] {
            configure(&world, &home, helper);
            for program in programs("git") {
                let refused = git(&world, &home, &program, &["ls-remote", &url]);
                assert!(!refused.status.success(), "{refused:?}");
                assert!(refused.stderr.contains("molecule-tokenfs status"), "{refused:?}");
            }
        }
    });
}
