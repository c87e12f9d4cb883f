//! A terminal: the command is in its foreground, and jobs stop and go on.

use std::path::Path;

use crate::own_root;
use crate::support::daemon::PROGRAM;
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::{User, command, run};
use crate::support::secs;

/// Plays a scene of `terminal.py` and checks how the command ended.
fn play(scene: &str, words: &[&str], code: i32) {
    let (scene, words) = (scene.to_owned(), words.iter().map(|word| (*word).to_owned()));
    let words: Vec<_> = words.collect();
    sandboxed(secs(90), move || {
        let dir = TestDir::new();
        own_root(&dir);
        let mut python = command("python3", User::Own);
        python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run/terminal.py"));
        python.arg(scene).args(words).env("HOME", dir.path());
        python.env("RUN", format!("{PROGRAM} run --made-up 1m"));
        let told = run(python, &dir, secs(80));
        assert!(
            told.stdout.ends_with(&format!("ended {code}\n")),
            "{}{}",
            told.stdout,
            told.stderr
        );
    });
}

const BASH: [&str; 3] = ["bash", "--norc", "-i"];

#[test]
fn a_shell_as_the_command_has_job_control() {
    play("shell", &[&[PROGRAM, "run", "--made-up", "1m", "--"], &BASH[..]].concat(), 5);
}

#[test]
fn a_job_of_a_shell_stops_and_goes_on_with_its_command() {
    play("job", &BASH, 6);
}

#[test]
fn a_command_that_nobody_could_continue_does_not_stop() {
    play("alone", &[PROGRAM, "run", "--made-up", "1m", "--", "sleep", "64"], 130);
}
