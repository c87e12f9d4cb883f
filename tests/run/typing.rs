//! A command with fewer rights than the shell that called `run` does not type into that shell.
//! (The kernel forbids it to all where `dev.tty.legacy_tiocsti` is 0.)

use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::support::daemon::PROGRAM;
use crate::support::dir::TestDir;
use crate::support::process::{User, command, run};
use crate::support::secs;
use crate::terminal::play_with;

/// A program that everybody can run and that types a line.
fn typer(dir: &TestDir) -> PathBuf {
    let typer = dir.join("typer");
    let mut cc = command("cc", User::Own);
    cc.args(["-no-pie", "-o"]).arg(&typer);
    cc.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run/typer.c"));
    run(cc, dir, secs(30)).ok();
    typer
}

/// What is on the screen of a shell that root has, when it has run this.
fn in_a_shell_of_root(line: &str) -> String {
    play_with("typed", &["bash", "--norc", "-i"], 5, &[("TYPE", line)])
}

fn kernel_allows_it() -> bool {
    let setting = fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti");
    setting.map_or(true, |setting| setting.trim() == "1")
}

#[test]
fn a_command_of_another_user_or_with_fewer_capabilities_does_not_type() {
    let dir = TestDir::new();
    let typer = typer(&dir);
    let typer = typer.display();
    let allowed = if kernel_allows_it() { 0 } else { Errno::EIO as i32 };
    // That it can be done at all.
    let said = in_a_shell_of_root(&format!("setpriv --reuid 1000 --clear-groups {typer}"));
    assert!(said.contains(&format!("typing: native={allowed} high={allowed} ")), "{said}");
    assert_eq!(said.contains("\ntyped-42"), kernel_allows_it(), "{said}");

    let eperm = Errno::EPERM as i32;
    for backend in ["fuse", "files"] {
        let run = format!("{PROGRAM} run --made-up 1m --backend {backend} --no-system-wide");
        for words in ["--user 1000", "--user 1000 --keep-capabilities", "--no-new-privileges", ""] {
            let said = in_a_shell_of_root(&format!("{run} {words} -- {typer}"));
            assert!(said.contains(&format!("typing: native={eperm} high={eperm} ")), "{said}");
            if cfg!(target_arch = "x86_64") && said.contains("i386=") {
                assert!(said.contains(&format!(" i386={eperm} process32=1 ")), "{said}");
            }
            assert!(!said.contains(" x32=0"), "{said}");
            assert!(said.contains(" size=0"), "other requests go on: {said}");
            assert!(!said.contains("typed-42"), "{words}: {said}");
        }
    }
    let run = format!("{PROGRAM} run --made-up 1m --no-system-wide --keep-capabilities");
    let said = in_a_shell_of_root(&format!("{run} -- {typer}"));
    assert!(said.contains("typing: native=0 "), "it has every right that the shell has: {said}");
}

#[test]
fn where_it_cannot_be_kept_from_it_the_command_is_refused() {
    let dir = TestDir::new();
    let typer = typer(&dir);
    let typer = typer.display();
    let without = "setpriv --bounding-set -sys_admin --inh-caps -sys_admin";
    let run = format!("{without} {PROGRAM} run --made-up 1m --backend files --no-system-wide");
    if kernel_allows_it() {
        let shell =
            dir.file("refused.sh", format!("{run} --user 1000 -- {typer}; echo typing: ended $?"));
        let said = in_a_shell_of_root(&format!("sh {}", shell.display()));
        assert!(said.contains("typing: ended 126"), "{said}");
        assert!(said.contains("error: cannot keep the command from typing into"), "{said}");
        for way in ["--no-new-privileges", "setsid --wait", "legacy_tiocsti=0"] {
            assert!(said.contains(way), "{way}: {said}");
        }
    }
    let eperm = Errno::EPERM as i32;
    for line in [
        format!("{run} --user 1000 --no-new-privileges -- {typer}"),
        format!("setsid --wait {run} --user 1000 -- {typer}"),
    ] {
        let said = in_a_shell_of_root(&line);
        assert!(said.contains(&format!("typing: native={eperm} ")), "{line}: {said}");
        assert!(!said.contains("typed-42"), "{line}: {said}");
    }
}
