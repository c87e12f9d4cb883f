//! A terminal: the command is in its foreground, and jobs stop and go on.

use std::path::Path;

use crate::support::container::own_root;
use crate::support::daemon::PROGRAM;
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::{User, command, run};
use crate::support::secs;

/// Plays a scene of `terminal.py`, checks how the command ended, and gives what was on the screen.
pub fn play(scene: &str, words: &[&str], code: i32) -> String {
    play_with(scene, words, code, &[])
}

/// The same with these in the environment.
pub fn play_with(scene: &str, words: &[&str], code: i32, variables: &[(&str, &str)]) -> String {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let variables: Vec<_> = variables.iter().map(own).collect();
    let (scene, words) = (scene.to_owned(), words.iter().map(|word| (*word).to_owned()));
    let words: Vec<_> = words.collect();
    let (show, shown) = std::sync::mpsc::channel();
    sandboxed(secs(90), move || {
        let dir = TestDir::new();
        own_root(&dir);
        let mut python = command("python3", User::Own);
        python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run/terminal.py"));
        python.arg(scene).args(words).env("HOME", dir.path());
        python.env("RUN", format!("{PROGRAM} run --made-up 1m --log-level info"));
        python.envs(variables);
        let told = run(python, &dir, secs(80));
        assert!(
            told.stdout.ends_with(&format!("ended {code}\n")),
            "{}{}",
            told.stdout,
            told.stderr
        );
        show.send(told.stdout).unwrap();
    });
    shown.recv().unwrap()
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

/// Opens its terminal by the name of a stream, and tells whose that is.
const OPEN: &str = "echo one >/dev/stdout && echo all is open; stat -c owner-%u $(tty)";

#[test]
fn a_terminal_that_is_ours_alone_is_the_users_and_that_of_a_shell_stays_the_shells() {
    let run = [PROGRAM, "run", "--made-up", "1m", "--user", "1000", "--", "sh", "-c", OPEN];
    let said = play("opened", &run, 0);
    assert!(said.contains("owner-1000"), "{said}");

    for before in ["", "setsid --wait "] {
        let dir = TestDir::new();
        let script = format!(
            "{before}{PROGRAM} run --made-up 1m --no-new-privileges --user 1000 -- \
             sh -c 'echo typed >/dev/stdout; echo typing: ended'; stat -c owner-%u $(tty)"
        );
        let line = format!("sh {}", dir.file("script", script).display());
        let said = play_with("typed", &BASH, 5, &[("TYPE", &line)]);
        assert!(said.contains("Permission denied"), "{said}");
        assert!(said.contains("owner-0"), "{said}");
    }
}

#[test]
fn a_command_that_nobody_could_continue_does_not_stop() {
    let words = [PROGRAM, "run", "--made-up", "1m", "--log-level", "info", "--", "sleep", "64"];
    play("alone", &words, 130);
}
