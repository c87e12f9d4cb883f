//! `run`: the first process of a container, of whose making is only what it needs: a process
//! namespace, and `/etc`, `/usr/local` and `/run` of its own.
//! needs: root, fuse, git, gh, busybox, python3, cc

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod command;
mod hostile;
mod init;
mod log;
mod privileges;
mod real;
#[path = "../support/mod.rs"]
mod support;
mod terminal;
mod typing;
#[path = "../e2e/world.rs"]
#[expect(dead_code, reason = "of the world, only the platform is at home here")]
mod world;

use std::process::Command;

use support::daemon::PROGRAM;
use support::dir::TestDir;
use support::process::{User, command};

/// Where `run` mounts when nobody says so.
const MOUNTPOINT: &str = "/run/molecule/token";

/// `run` with made-up tokens and these words.
fn run_with(dir: &TestDir, words: &[&str]) -> Command {
    let mut run = command(PROGRAM, User::Own);
    run.args(["run", "--made-up", "1m", "--log-level", "debug"]).args(words);
    run.env("HOME", dir.path()).current_dir(dir.path());
    run
}
