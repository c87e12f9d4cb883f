//! The command shares standard error with `run`, and the terminal. It cannot harm it through them.

use std::fs;
use std::io;

use nix::sys::signal::{Signal, kill};

use crate::support::container::{Container, own_root};
use crate::support::daemon::PROGRAM;
use crate::support::dir::{TestDir, mounts_below};
use crate::support::limit::each;
use crate::support::namespace::sandboxed;
use crate::support::process::{Process, User, command, run};
use crate::support::processes::children;
use crate::support::{eventually, secs};
use crate::terminal::play;
use crate::{MOUNTPOINT, run_with};

/// Makes standard error fail for everybody who shares its description, and then lets `run` and its worker
/// log as much as it can.
const ATTACK: &str = r#"
import fcntl, os, time
fcntl.fcntl(2, fcntl.F_SETFL, fcntl.fcntl(2, fcntl.F_GETFL) | os.O_NONBLOCK)
for size in (65536, 1):
    try:
        while True:
            os.write(2, b"x" * size)
    except BlockingIOError:
        pass
mount = os.environ["MOLECULE_TOKENFS_MOUNTPOINT"]
end = time.monotonic() + 3
asked = 0
while time.monotonic() < end:
    try:
        if asked % 50 == 0:
            os.kill(os.getppid(), 12)  # an upgrade: the supervisor tells of it
        with open(mount + "/refresh", "w") as control:
            control.write("refresh")
        asked += 1
    except OSError:
        pass
    with open(mount + "/token") as token:
        assert token.read().startswith("ghs_")
print("asked", asked > 1, "below", os.getppid())
"#;

#[test]
fn a_command_that_spoils_standard_error_does_not_end_run() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        own_root(&dir);
        let attack = dir.file("attack.py", ATTACK);
        let words = ["--log-level", "trace", "--", "python3", attack.to_str().unwrap()];
        let mut inner = command(PROGRAM, User::Own);
        inner.args(["run", "--made-up", "1m"]).args(words).env("HOME", dir.path());

        // As the first process, and as any other.
        let (_reader, errors) = io::pipe().unwrap();
        let mut container = Container::start_to(&dir, &inner, errors);
        assert_eq!(container.outer.wait(secs(20)).code(), Some(0), "{}", container.said());
        assert_eq!(container.said(), "asked True below 1\n");

        let (_reader, errors) = io::pipe().unwrap();
        let mut process = Process::start_to(inner, "run", &dir, errors);
        let pid = process.pid();
        assert_eq!(process.wait(secs(20)).code(), Some(0), "{}", process.stdout());
        assert_eq!(process.stdout(), format!("asked True below {pid}\n"));
        assert_eq!(mounts_below(MOUNTPOINT.as_ref()).len(), 0);
    });
}

/// Tells which descriptors there are, but the one with which it looks, and the flags of the first three.
const DESCRIPTORS: &str = r#"
import fcntl, os
listed = os.listdir("/proc/self/fd")
print(sorted(fd for fd in map(int, listed) if os.path.exists(f"/proc/self/fd/{fd}")))
print([fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_NONBLOCK | os.O_APPEND) for fd in range(3)])
print([os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)])
"#;

#[test]
fn the_command_gets_the_caller_s_descriptors_and_none_of_ours() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        own_root(&dir);
        let look = dir.file("look.py", DESCRIPTORS);
        for backend in ["fuse", "files"] {
            let (reader, errors) = io::pipe().unwrap();
            let mut shell = command("sh", User::Own);
            let line = "exec 7</dev/null; python3 \"$LOOK\"; exec \"$@\" python3 \"$LOOK\"";
            shell.args(["-c", line, "sh", PROGRAM, "run", "--made-up", "1m", "--backend", backend]);
            shell.args(["--log-level", "off", "--user", "1000", "--"]);
            shell.env("HOME", dir.path()).env("LOOK", &look);
            let mut process = Process::start_to(shell, "run", &dir, errors);
            assert_eq!(process.wait(secs(20)).code(), Some(0), "{}", process.stdout());
            let said = process.stdout();
            let lines: Vec<_> = said.lines().collect();
            let (before, after) = lines.split_at(3);
            assert_eq!(before, after, "{said}");
            assert!(before[0].starts_with("[0, 1, 2, 7") && before[1] == "[0, 0, 0]", "{said}");
            drop(reader);
        }
    });
}

#[test]
fn a_command_that_stops_the_output_of_the_terminal_stops_its_own_only() {
    for backend in ["fuse", "files"] {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/run/stop_output.py");
        let words = [PROGRAM, "run", "--made-up", "1m", "--backend", backend];
        let level = ["--log-level", "info,fuser=debug", "--", "python3", script];
        let said = play("stopped", &[&words[..], &level].concat(), 0);
        assert!(said.contains("tokens were read"), "{said}");
    }
}

#[test]
fn on_a_terminal_only_warnings_are_logged_unless_somebody_says_otherwise() {
    let words = [PROGRAM, "run", "--made-up", "1m", "--owner", "0"];
    let command = ["--", "sh", "-c", "kill -USR2 $PPID; sleep 0.5; cat $GH_TOKEN_FILE"];
    let said = play("nothing", &[&words[..], &command].concat(), 0);
    assert!(said.starts_with("ghs_"), "{said}");
    let said = play("nothing", &[&words[..], &["--log-level", "info"], &command].concat(), 0);
    for words in ["serving at", "taken over", "ghs_"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn real_time_signals_are_passed_on_and_end_nobody() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        own_root(&dir);
        let script = "trap 'echo heard' RTMIN; trap 'echo the last' RTMAX; echo ready >&2
            while [ ! -e stop ] && kill -0 $PPID; do sleep 0.05; done";
        each(
            &["fuse", "files"],
            |backend| (*backend).to_owned(),
            |backend| {
                let dir = TestDir::new();
                let mut inner = run_with(&dir, &["--no-system-wide", "--backend", backend]);
                inner
                    .args(["--mountpoint"])
                    .arg(dir.join("token"))
                    .args(["--", "bash", "-c", script]);
                let mut process = Process::start(inner, "run", &dir);
                eventually("it runs", secs(10), || {
                    process.stderr().contains("ready").then_some(())
                });
                for signal in ["-34", "-64"] {
                    let mut kill = command("sh", User::Own);
                    kill.args(["-c", "kill $1 $2", "sh", signal, &process.pid().to_string()]);
                    run(kill, &dir, secs(5)).ok();
                }
                eventually("both are heard", secs(10), || {
                    let said = process.stdout();
                    (said.contains("heard") && said.contains("the last")).then_some(())
                });
                fs::write(dir.join("stop"), "").unwrap();
                assert_eq!(process.wait(secs(10)).code(), Some(0), "{}", process.stderr());
            },
        );
    });
}

#[test]
fn the_directory_of_the_shim_that_a_killed_run_left_is_removed_by_the_next() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        own_root(&dir);
        let left = || {
            let listed = fs::read_dir("/run").unwrap().flatten();
            let names = listed.map(|entry| entry.file_name().into_string().unwrap());
            names.filter(|name| name.starts_with("molecule-tokenfs-bin-")).collect::<Vec<_>>()
        };
        let inner = run_with(&dir, &["--", "sleep", "60"]);
        let mut killed = Process::start(inner, "killed", &dir);
        let first = eventually("the shim", secs(10), || left().into_iter().next());
        eventually("the command", secs(10), || (children(killed.pid()).len() > 1).then_some(()));
        let command = children(killed.pid());
        killed.signal(Signal::SIGKILL);
        killed.wait(secs(5));
        for pid in command {
            let _ = kill(pid, Signal::SIGKILL);
        }
        assert_eq!(left(), [first.as_str()]);
        let script = "ls /run >&2; cat $GH_TOKEN_FILE; command -v gh";
        let second = run(run_with(&dir, &["--", "sh", "-c", script]), &dir, secs(20));
        assert!(second.stdout.contains("molecule-tokenfs-bin-"), "{second:?}");
        assert!(!second.stderr.lines().any(|line| line == first), "{second:?}");
        assert_eq!(left(), [""; 0]);
    });
}
