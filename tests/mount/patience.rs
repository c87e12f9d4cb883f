//! The opens of git's view and npm's, which rather wait for a moment than get a token that is about to end.

use std::fs;
use std::time::Duration;

use molecule_tokenfs::demo::Setup;
use molecule_tokenfs::demo::faults::{Fault, Service};

use crate::Workspace;
use crate::support::limit::each;
use crate::support::namespace::sandboxed;
use crate::support::process::errno;
use crate::support::{eventually, millis, secs};

const LIFE: Duration = secs(20);

/// A workspace with a token of which less is left than git should have: nothing but an open refreshes it.
fn with_an_old_token() -> (Workspace, Vec<u8>) {
    with_an_old_token_and("8s")
}

/// The same with another deadline.
fn with_an_old_token_and(deadline: &str) -> (Workspace, Vec<u8>) {
    let workspace = Workspace::start_with(Setup::with_life(LIFE), |builder| {
        let patient = ["--git-min-life", "9s", "--open-timeout", deadline];
        builder.args(["--min-life", "1s", "--idle", "1s"]).args(patient)
    });
    let old = fs::read(workspace.path("token")).unwrap();
    let ledger = workspace.demo.ledger();
    eventually("it grows old", LIFE, || (ledger.left(&old) <= secs(8)).then_some(()));
    (workspace, old)
}

/// The token in a view of git's or npm's.
fn password(workspace: &Workspace, view: &str) -> Vec<u8> {
    let text = fs::read_to_string(workspace.path(view)).unwrap();
    let values = text.lines().filter_map(|line| line.split_once('='));
    let is_secret = |key: &str| key == "password" || key.ends_with("/:_authToken");
    let mut secrets = values.filter(|(key, _)| is_secret(key)).map(|(_, value)| value);
    secrets.next().unwrap().as_bytes().to_vec()
}

#[test]
fn git_gets_the_next_token_while_everybody_else_gets_the_old_one() {
    sandboxed(secs(90), || {
        each(&["git-credential", "live/git-credential", "npmrc"], str::to_owned, |view| {
            let (workspace, old) = with_an_old_token();
            workspace.demo.faults().stick(Service::Platform, Some(Fault::Slow(secs(1))));
            std::thread::scope(|scope| {
                let git = scope.spawn(|| password(&workspace, view));
                let others = fs::read(workspace.path("token")).unwrap();
                let git = git.join().unwrap();
                assert!(git != old, "{view}: git got the old token");
                // Unless it came after git.
                assert!(others == old || others == git, "{view}");
            });
            // The rotation reaches the others a moment later.
            eventually("everybody gets it", secs(5), || {
                (fs::read(workspace.path("token")).unwrap() == password(&workspace, view))
                    .then_some(())
            });
        });
    });
}

#[test]
fn a_platform_that_hangs_or_fails_costs_git_no_token() {
    sandboxed(secs(90), || {
        let faults = [Fault::Hang, Fault::Status(500), Fault::Status(403), Fault::Repeat];
        each(
            &faults,
            |fault| fault.to_string(),
            |fault| {
                let (workspace, old) = with_an_old_token();
                workspace.demo.faults().stick(Service::Platform, Some(fault));
                for view in ["git-credential", "live/git-credential", "git-credential"] {
                    // Two that wait for half of the deadline leave some of its life.
                    assert!(password(&workspace, view) == old, "{fault}: {view}");
                }
            },
        );
    });
}

#[test]
fn a_worker_that_dies_meanwhile_costs_git_nothing() {
    sandboxed(secs(60), || {
        // The next worker needs time on a busy machine.
        let (workspace, old) = with_an_old_token_and("12s");
        workspace.demo.faults().stick(Service::Platform, Some(Fault::Slow(millis(500))));
        let git = std::thread::scope(|scope| {
            let git = scope.spawn(|| password(&workspace, "git-credential"));
            let requests = || workspace.demo.ledger().counts().platform.requests;
            eventually("the next token is asked for", secs(5), || (requests() >= 2).then_some(()));
            workspace.daemon.kill_worker(nix::sys::signal::Signal::SIGKILL);
            git.join().unwrap()
        });
        assert!(git != old, "git got the old token");
    });
}

#[test]
fn without_a_token_git_waits_and_fails_as_everybody() {
    sandboxed(secs(60), || {
        let (workspace, old) = with_an_old_token();
        workspace.demo.faults().stick(Service::Platform, Some(Fault::Status(403)));
        let ledger = workspace.demo.ledger();
        eventually("it is dead", LIFE, || ledger.left(&old).is_zero().then_some(()));
        let [git, others] = ["git-credential", "token"]
            .map(|view| errno(&fs::read(workspace.path(view)).unwrap_err()));
        assert_eq!(git, others);
    });
}
