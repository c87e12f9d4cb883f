//! git through each of its three helpers.

use std::path::Path;

use crate::support::daemon::PROGRAM;
use crate::support::namespace::sandboxed;
use crate::support::secs;
use crate::world::{World, programs, script};

/// Tells git to ask this helper for the platform's host, and nothing else.
fn configure(world: &World, helper: &str) {
    let key = format!("credential.{}.helper", world.demo.url());
    for (option, value) in [("--replace-all", ""), ("--add", helper)] {
        let mut command = world.command("git");
        command.args(["config", "--global", option, &key, value]);
        world.run(command).ok();
    }
    for (key, value) in [("user.name", "a"), ("user.email", "a@example.com")] {
        let mut command = world.command("git");
        command.args(["config", "--global", key, value]);
        world.run(command).ok();
    }
}

fn git(world: &World, program: &Path, words: &[&str]) -> String {
    let mut command = world.command(program);
    command.args(words);
    world.run(command).ok()
}

/// Clones, commits and pushes with every git here over several lives of a token.
fn clone_commit_and_push(helper: impl Fn(&World) -> String + Send + 'static) {
    sandboxed(secs(90), move || {
        let world = World::new();
        let url = world.demo.create_repository("work.git").unwrap();
        configure(&world, &helper(&world));
        let gits = programs("git");
        world.over_several_lives("git", |round| {
            let program = &gits[round % gits.len()];
            let clone = format!("clone-{round}");
            git(&world, program, &["clone", "-q", &url, &clone]);
            let message = format!("round {round}");
            let commit = ["-C", &clone, "commit", "-q", "--allow-empty", "-m", &message];
            git(&world, program, &commit);
            git(&world, program, &["-C", &clone, "push", "-q", "origin", "HEAD"]);
            let pushed = git(&world, program, &["ls-remote", &url, "HEAD"]);
            let head = git(&world, program, &["-C", &clone, "rev-parse", "HEAD"]);
            assert!(pushed.starts_with(head.trim()), "{pushed}{head}");
        });
    });
}

#[test]
fn the_one_liner_serves_git_over_several_lives() {
    clone_commit_and_push(|world| {
        format!("!cat {} #", world.daemon.path("git-credential").display())
    });
}

#[test]
fn the_helper_in_the_shell_serves_git_over_several_lives() {
    clone_commit_and_push(|world| {
        format!(
            "{} --host {} --mountpoint {}",
            script("git-credential-molecule").display(),
            world.demo.host(),
            world.daemon.mountpoint().display()
        )
    });
}

#[test]
fn the_binary_serves_git_over_several_lives() {
    clone_commit_and_push(binary);
}

fn binary(world: &World) -> String {
    let mount = world.daemon.mountpoint().display();
    format!("{PROGRAM} git-credential --host {} --mountpoint {mount}", world.demo.host())
}

/// Whether this git asks a helper again within one command.
fn goes_on_after_a_refusal(world: &World, program: &Path) -> bool {
    let version = git(world, program, &["version"]);
    let mut numbers = version.trim_start_matches("git version ").split('.');
    let mut next = || numbers.next().unwrap().parse::<u32>().unwrap();
    (next(), next()) >= (2, 46)
}

#[test]
fn a_token_that_is_revoked_costs_a_new_git_nothing_and_an_old_one_one_command() {
    sandboxed(secs(60), || {
        let world = World::new();
        let url = world.demo.create_repository("work.git").unwrap();
        let shell = format!(
            "{} --host {} --mountpoint {}",
            script("git-credential-molecule").display(),
            world.demo.host(),
            world.daemon.mountpoint().display()
        );
        for helper in [shell, binary(&world)] {
            configure(&world, &helper);
            for program in programs("git") {
                let ask = || {
                    let mut command = world.command(&program);
                    command.args(["ls-remote", &url]);
                    world.run(command)
                };
                ask().ok();
                assert_eq!(world.demo.ledger().revoke(None), 1, "the one that is in use");
                if !goes_on_after_a_refusal(&world, &program) {
                    assert!(!ask().status.success(), "{} went on", program.display());
                }
                ask().ok();
                // The control file takes one report a second.
                std::thread::sleep(secs(1));
            }
        }
    });
}

#[test]
fn setup_wires_git_to_the_mount() {
    sandboxed(secs(30), || {
        let world = World::new();
        let url = world.demo.create_repository("work.git").unwrap();
        let mut setup = world.command(PROGRAM);
        setup.args(["setup", "git", "--host", world.demo.host(), "--mountpoint"]);
        world
            .run({
                setup.arg(world.daemon.mountpoint());
                setup
            })
            .ok();
        for program in programs("git") {
            git(&world, &program, &["ls-remote", &url]);
        }
    });
}
