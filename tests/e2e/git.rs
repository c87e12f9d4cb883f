//! git and its three helpers, where a token is refused in mid-command.

use std::fs;
use std::path::Path;

use molecule_tokenfs::demo::faults::{Fault, Service};

use crate::support::daemon::PROGRAM;
use crate::support::namespace::sandboxed;
use crate::support::process::{Finished, Process};
use crate::support::{eventually, secs};
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

/// Wires git as the manual says: with `setup git`, and nothing else.
pub fn set_up(world: &World, home: &Path) {
    let mut setup = world.command(PROGRAM);
    setup.args(["setup", "git", "--host", world.demo.host(), "--mountpoint"]);
    setup.arg(world.daemon.mountpoint()).env("HOME", home);
    world.run(setup).ok();
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

/// Clones, takes back the token that the server has just accepted while git waits for that very
/// answer, and says how it ended and what git asked of its helper, in order.
fn clone_with_a_token_revoked_meanwhile(
    world: &World,
    program: &Path,
    url: &str,
) -> (Finished, Vec<&'static str>) {
    let ledger = world.demo.ledger();
    let accepted = ledger.counts().service("git").live;
    let (clone, trace) = (world.dir.join("clone"), world.dir.join("trace"));
    let mut command = world.command(program);
    command.env("GIT_TRACE", &trace).args(["clone", "-q", url]).arg(&clone);
    // The first request of a clone has no token; the second has, and is the one to be slow.
    world.demo.faults().script(Service::Git, [None, Some(Fault::Slow(secs(2)))]);
    let mut cloning = Process::start(command, "cloning", &world.dir);
    eventually("the server accepts the token", secs(10), || {
        (ledger.counts().service("git").live > accepted).then_some(())
    });
    assert!(ledger.revoke(None) > 0, "none was in use");
    let status = cloning.wait(secs(20));
    let finished = Finished { status, stdout: cloning.stdout(), stderr: cloning.stderr() };
    let lines = fs::read_to_string(&trace).unwrap();
    fs::remove_file(trace).unwrap();
    if finished.status.success() {
        fs::remove_dir_all(clone).unwrap();
    }
    let asked = lines.lines().filter(|line| line.contains("run_command: ")).filter_map(|line| {
        let line = line.trim_end_matches('\'');
        let (_, action) = line.split_once("git-credential ")?.1.rsplit_once(' ')?;
        ["get", "store", "erase"].into_iter().find(|known| *known == action)
    });
    (finished, asked.collect())
}

#[test]
fn a_token_revoked_in_the_middle_of_a_clone_costs_one_fetch() {
    sandboxed(secs(60), || {
        // So long a life that nothing but a refusal makes the daemon fetch.
        let world = World::of_life(secs(3600), "60s");
        let ledger = world.demo.ledger();
        let url = world.demo.create_repository("work.git").unwrap();
        let home = world.dir.folder("home");
        set_up(&world, &home);
        for program in programs("git") {
            let ask = || git(&world, &home, &program, &["ls-remote", &url]).ok();
            ask();
            let before = ledger.counts();
            let (cloned, asked) = clone_with_a_token_revoked_meanwhile(&world, &program, &url);
            let refused = ledger.counts().service("git").revoked - before.service("git").revoked;
            if retries(&world, &program) {
                assert!(cloned.status.success(), "{asked:?} {cloned:?}");
                // git forgets the state of an answer that it approved, so that the question after
                // the first refusal looks like a first one. The one after the second tells.
                assert!((1..=2).contains(&refused), "{refused} requests were refused");
                assert!(asked.contains(&"store") && !asked.contains(&"erase"), "{asked:?}");
            } else {
                assert!(!cloned.status.success(), "{} went on", program.display());
                assert_eq!(refused, 1);
                assert_eq!(asked, ["get", "store", "erase"]);
            }
            ask();
            let issued = ledger.counts().platform.issued - before.platform.issued;
            assert_eq!(issued, 1, "{}: {asked:?}", program.display());
            // The control file takes one report a second.
            std::thread::sleep(secs(1));
        }
    });
}

#[test]
fn setup_is_all_that_git_needs() {
    sandboxed(secs(30), || {
        let world = World::new();
        let url = world.demo.create_repository("work.git").unwrap();
        let home = world.dir.folder("home");
        set_up(&world, &home);
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
