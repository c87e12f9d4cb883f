//! What a setuid program that the command may use as it likes (as `sudo` may be) can do to `run`: a copy
//! of setpriv is one here.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;

use crate::run_with;
use crate::support::container::{Container, own_root};
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::Process;
use crate::support::secs;

/// Makes everybody root.
fn sudo(dir: &TestDir) -> PathBuf {
    let sudo = dir.join("sudo");
    fs::copy("/usr/bin/setpriv", &sudo).unwrap();
    fs::set_permissions(&sudo, fs::Permissions::from_mode(0o4755)).unwrap();
    sudo
}

/// What the command tries; it says what it did, and that it reads tokens all the same.
const ATTACK: &str = r#"
    as_root() { "$SUDO" --reuid 0 --regid 0 --clear-groups -- "$@" 2>/dev/null; }
    as_root true && echo root || echo no root
    as_root umount --lazy "$MOLECULE_TOKENFS_MOUNTPOINT" && echo unmounted
    as_root cat /proc/$PPID/environ >/dev/null && echo looked in
    for child in $(cat /proc/$PPID/task/$PPID/children); do
        grep -qsz '^worker$' /proc/$child/cmdline && as_root kill -STOP "$child" && echo stopped a worker
    done
    cat "$GH_TOKEN_FILE" >/dev/null && echo token
    as_root kill -STOP $PPID && echo stopped
    as_root kill -KILL $PPID && echo killed
    sleep 0.3
    cat "$GH_TOKEN_FILE" >/dev/null && echo token
    as_root mv "${MOLECULE_TOKENFS_MOUNTPOINT%/*}" /run/moved && echo renamed
    cat /run/moved/token/token >/dev/null && echo end
    exit 0"#;

fn attack(dir: &TestDir, words: &[&str]) -> Command {
    let words = [words, &["--no-system-wide", "--user", "1000", "--", "sh", "-c", ATTACK]].concat();
    let mut inner = run_with(dir, &words);
    inner.env("SUDO", sudo(dir));
    inner
}

#[test]
fn as_the_first_process_run_is_neither_stopped_nor_ended_by_it() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        own_root(&dir);
        let mut container = Container::start(&dir, &attack(&dir, &[]));
        let status = container.outer.wait(secs(40));
        assert_eq!(status.code(), Some(0), "{}{}", container.said(), container.outer.stderr());
        let said = "root\nstopped a worker\ntoken\nstopped\nkilled\ntoken\nrenamed\nend\n";
        assert_eq!(container.said(), said, "{}", container.outer.stderr());
    });
}

#[test]
fn elsewhere_only_a_command_that_gains_no_privileges_cannot_end_run() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        own_root(&dir);
        let mut process = Process::start(attack(&dir, &["--no-new-privileges"]), "run", &dir);
        assert_eq!(process.wait(secs(40)).code(), Some(0), "{}", process.stderr());
        assert_eq!(process.stdout(), "no root\ntoken\ntoken\n");

        let mut process = Process::start(attack(&dir, &[]), "run", &dir);
        assert_eq!(process.wait(secs(40)).signal(), Some(9), "{}", process.stderr());
        // It may be ended with `run` before it can say that it killed it.
        let said = process.stdout();
        assert!(said.starts_with("root\nstopped a worker\ntoken\nstopped\n"), "{said}");
    });
}
