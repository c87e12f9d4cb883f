//! The duties of a first process: signals, orphans, the worker, and what is left at the end.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};

use crate::support::container::{Container, own_root};
use crate::support::daemon::PROGRAM;
use crate::support::dir::{TestDir, mounts_below};
use crate::support::namespace::sandboxed;
use crate::support::process::run;
use crate::support::processes::children;
use crate::support::{eventually, millis, secs};
use crate::{MOUNTPOINT, run_with};

#[test]
fn a_signal_to_the_first_process_reaches_the_command() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        own_root(&dir);
        for (script, signal, code) in [
            ("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done", Signal::SIGTERM, 7),
            ("echo ready; exec sleep 60", Signal::SIGTERM, 143),
            ("trap 'exit 8' USR1; echo ready; while :; do sleep 0.05; done", Signal::SIGUSR1, 8),
            ("echo ready; exec sleep 60", Signal::SIGINT, 130),
        ] {
            let inner = run_with(&dir, &["--user", "1000", "--", "sh", "-c", script]);
            let mut container = Container::start(&dir, &inner);
            container.wait_for("ready");
            kill(container.first, signal).unwrap();
            let status = container.outer.wait(secs(10));
            assert_eq!(status.code(), Some(code), "{script}: {}", container.outer.stderr());
        }
    });
}

#[test]
fn a_thousand_orphans_are_waited_for_and_no_zombie_is_left() {
    sandboxed(secs(120), || {
        let dir = TestDir::new();
        own_root(&dir);
        // Each inner shell ends before the sleep that it started: an orphan.
        let script = "n=0; while [ $n -lt 1000 ]; do (sleep 0.2 & ) ; n=$((n+1)); done
            while grep -qx sleep /proc/[0-9]*/comm 2>/dev/null; do sleep 0.1; done
            echo zombies $(grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l)
            echo highest $(sh -c 'echo $$'); cat $GH_TOKEN_FILE";
        let inner = run_with(&dir, &["--user", "1000", "--", "sh", "-c", script]);
        let mut container = Container::start(&dir, &inner);
        let status = container.outer.wait(secs(100));
        let said = container.said();
        assert_eq!(status.code(), Some(0), "{said}{}", container.outer.stderr());
        assert!(said.starts_with("zombies 0\n"), "{said}");
        let highest: u32 = said.lines().nth(1).unwrap()[8..].trim().parse().unwrap();
        assert!(highest > 2000, "so many processes were not there: {highest}");
        assert!(said.contains("\nghs_"), "the worker is as it was: {said}");
    });
}

/// What can be seen of the machine that `run` may change.
fn seen() -> BTreeSet<(PathBuf, Option<Vec<u8>>)> {
    fn look(path: &Path, seen: &mut BTreeSet<(PathBuf, Option<Vec<u8>>)>) {
        for entry in fs::read_dir(path).unwrap().flatten() {
            let path = entry.path();
            let small = entry.metadata().is_ok_and(|data| data.is_file() && data.len() < 65_536);
            seen.insert((path.clone(), small.then(|| fs::read(&path).unwrap_or_default())));
            if path.is_dir() && !path.is_symlink() {
                look(&path, seen);
            }
        }
    }
    let mut all = BTreeSet::new();
    for path in ["/run", "/etc", "/usr/local/bin", "/usr/local/etc"] {
        if Path::new(path).is_dir() {
            look(Path::new(path), &mut all);
        }
    }
    all
}

#[test]
fn nothing_is_left_when_the_command_has_ended() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        own_root(&dir);
        fs::write("/usr/local/bin/gh", "#!/bin/sh\nexec /usr/bin/gh \"$@\"\n").unwrap();
        fs::write("/etc/gitconfig", "[user]\n\tname = somebody\n").unwrap();
        let before = seen();
        let [quiet, deaf] = ["47.11", "47.12"];
        let script = format!(
            "setsid sleep {quiet} & (trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep {deaf}' & )
             sleep 0.2; cat $GH_TOKEN_FILE; ls /run >&2; exit 5"
        );
        let told =
            run(run_with(&dir, &["--user", "1000", "--", "sh", "-c", &script]), &dir, secs(20));
        assert_eq!(told.status.code(), Some(5), "{told:?}");
        assert!(told.stdout.starts_with("ghs_") && told.stderr.contains("molecule"), "{told:?}");
        assert_eq!(mounts_below(Path::new(MOUNTPOINT)).len(), 0);
        let after = seen();
        let changed: Vec<_> = before.symmetric_difference(&after).map(|(path, _)| path).collect();
        assert_eq!(changed, Vec::<&PathBuf>::new());
        let left = fs::read_dir("/proc").unwrap().flatten().filter(|process| {
            let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
            [quiet, deaf].iter().any(|word| words == format!("sleep\0{word}\0").as_bytes())
        });
        assert_eq!(left.count(), 0);
    });
}

#[test]
fn a_worker_that_is_killed_is_not_noticed_by_the_command() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        own_root(&dir);
        let script = "echo ready; n=0; while [ ! -e stop ]; do
            cat $GH_TOKEN_FILE >/dev/null || exit 9; n=$((n+1)); done; echo reads $n";
        dir.give_to(1000);
        let inner = run_with(&dir, &["--user", "1000", "--", "sh", "-c", script]);
        let mut container = Container::start(&dir, &inner);
        container.wait_for("ready");
        let worker = || {
            let is_worker = |pid: &nix::unistd::Pid| {
                let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                words.starts_with(b"molecule-tokenfs\0worker\0")
            };
            children(container.first).into_iter().find(is_worker)
        };
        let mut killed = BTreeSet::new();
        for _ in 0..5 {
            let next = eventually("the next worker is there", secs(10), || {
                worker().filter(|pid| !killed.contains(&pid.as_raw()))
            });
            kill(next, Signal::SIGKILL).unwrap();
            killed.insert(next.as_raw());
            std::thread::sleep(millis(300));
        }
        dir.file("stop", "");
        let status = container.outer.wait(secs(10));
        assert_eq!(status.code(), Some(0), "{}", container.outer.stderr());
        let reads = container.said().rsplit_once("reads ").unwrap().1.trim().parse::<u32>();
        assert!(reads.is_ok_and(|reads| reads > 10), "{}", container.said());
    });
}

#[test]
fn the_command_goes_on_when_the_tokens_are_unmounted() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        own_root(&dir);
        let script = "echo ready; while [ -e $GH_TOKEN_FILE ]; do sleep 0.05; done
            (sleep 0.1 & ); sleep 0.3; exit 6";
        let mut container = Container::start(&dir, &run_with(&dir, &["--", "sh", "-c", script]));
        container.wait_for("ready");
        run(container.enter(&["umount", "--lazy", MOUNTPOINT]), &dir, secs(5)).ok();
        assert_eq!(container.outer.wait(secs(10)).code(), Some(6), "{}", container.outer.stderr());
        let told = container.outer.stderr();
        assert!(told.contains("the command goes on without tokens: they were unmounted"), "{told}");
    });
}

#[test]
fn an_upgrade_goes_on_for_the_user_of_the_command() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        own_root(&dir);
        dir.give_to(1000);
        let script = "echo ready; while [ ! -e stop ]; do sleep 0.05; done; cat $GH_TOKEN_FILE";
        let words = ["--host", "ghe.example", "--user", "1000", "--", "sh", "-c", script];
        let mut container = Container::start(&dir, &run_with(&dir, &words));
        container.wait_for("ready");
        let upgraded = run(container.enter(&[PROGRAM, "upgrade"]), &dir, secs(20));
        assert!(upgraded.status.success(), "{upgraded:?}{}", container.outer.stderr());
        let view = format!("{MOUNTPOINT}/netrc");
        let netrc = run(container.enter(&["cat", &view]), &dir, secs(5)).ok();
        assert!(netrc.starts_with("machine ghe.example "), "{netrc}");
        dir.file("stop", "");
        assert_eq!(container.outer.wait(secs(10)).code(), Some(0), "{}", container.outer.stderr());
        assert!(container.said().starts_with("ready\nghs_"), "{}", container.said());
    });
}
