//! The demo, run as a newcomer runs it: it shows what it claims, in every way in which it can mount,
//! and leaves nothing behind.
//! needs: root, fuse, git, gh, fusermount3, python3
//! tests `through_fusermount3`, `may_not_open_the_device` need: host-root

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use support::daemon::PROGRAM;
use support::dir::TestDir;
use support::namespace::{open_fuse_device, private_copy, replace_file, sandboxed};
use support::process::{Finished, ORDINARY, Process, User, command, require, run};
use support::{eventually, secs};

/// `demo` with its files in the test's directory.
fn demo(dir: &TestDir, user: User, args: &[&str]) -> Command {
    require("git", "git");
    require("gh", "gh");
    let mut command = command(PROGRAM, user);
    command.env("TMPDIR", dir.path()).arg("demo").args(args);
    command
}

/// A directory in which anybody may make files.
fn open_dir() -> TestDir {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TestDir::new();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    dir
}

/// The demo's own directories that are left in `dir`.
fn left_behind(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    names.filter(|name| name.starts_with("molecule-demo-")).collect()
}

/// Two short lives, and what must be true of them.
#[track_caller]
fn shows_what_it_claims(dir: &TestDir, user: User) {
    let demo = demo(dir, user, &["--lifetimes", "2", "--life", "8s"]);
    let told = run(demo, dir, secs(60));
    assert!(!told.stdout.contains("files"), "it mounts: {told:?}");
    assert_shown(dir, &told);
    assert_narrow(&told);
}

/// The token for one repository worked there and nowhere else.
#[track_caller]
fn assert_narrow(told: &Finished) {
    let narrow = told.stdout.lines().find(|line| line.starts_with("token for acme/web alone"));
    let narrow = narrow.unwrap_or_else(|| panic!("no third lane: {told:?}"));
    assert!(narrow.contains(" 0 failed, 0 got 401; "), "{narrow}");
    let number = |after: &str, before: &str| {
        let (head, _) = narrow.split_once(before).unwrap();
        head.rsplit_once(after).unwrap().1.parse::<u64>().unwrap()
    };
    assert!(number(": ", " open") >= 2, "{narrow}");
    assert!(number(", ", " minted") >= 2, "it was minted anew for its second life: {narrow}");
    assert!(number("; ", " request") >= 2 && narrow.ends_with("as they should"), "{narrow}");
}

#[track_caller]
fn assert_shown(dir: &TestDir, told: &Finished) {
    let Finished { status, stdout, stderr } = told;
    assert_eq!(status.code(), Some(0), "{stdout}{stderr}");
    let last = stdout.lines().last().unwrap();
    let (ours, frozen) = last.split_once("; ").unwrap();
    assert!(ours.starts_with("mounted token: "), "{last}");
    assert!(ours.contains(" 0 failed, 0 of "), "{last}");
    assert!(!ours.contains(" 0 rotations"), "{last}");
    assert!(frozen.starts_with("frozen token: 0 rotations, "), "{last}");
    assert!(!frozen.contains(" 0 failed") && !frozen.contains(", 0 of "), "{last}");
    assert!(!stdout.contains("ghs_") && !stderr.contains("ghs_"), "it printed a token");
    assert_eq!(left_behind(dir.path()), [""; 0]);
}

#[test]
fn root_sees_no_failure_with_the_mounted_token_and_many_with_the_frozen_one() {
    sandboxed(secs(90), || shows_what_it_claims(&TestDir::new(), User::Own));
}

#[test]
fn an_ordinary_user_sees_the_same_through_fusermount3() {
    sandboxed(secs(90), || {
        require("fusermount3", "fuse3");
        let dir = open_dir();
        open_fuse_device(&dir);
        shows_what_it_claims(&dir, User::Number(ORDINARY));
    });
}

#[test]
fn an_ordinary_user_without_fusermount3_sees_the_same_in_a_namespace() {
    sandboxed(secs(90), || {
        let dir = open_dir();
        open_fuse_device(&dir);
        // Whichever there is: an empty file that nobody can execute lies over it.
        for path in ["/usr/bin/fusermount3", "/usr/local/bin/fusermount3"] {
            if Path::new(path).exists() {
                replace_file(Path::new(path), "", &dir);
            }
        }
        shows_what_it_claims(&dir, User::Number(ORDINARY));
    });
}

#[test]
fn a_user_who_may_not_open_the_device_sees_the_same_with_files() {
    sandboxed(secs(90), || {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = open_dir();
        open_fuse_device(&dir);
        fs::set_permissions("/dev/fuse", fs::Permissions::from_mode(0o600)).unwrap();
        let demo = demo(&dir, User::Number(ORDINARY), &["--lifetimes", "2", "--life", "8s"]);
        let told = run(demo, &dir, secs(60));
        says_that_it_keeps_files(&told, "this user may not open /dev/fuse");
        assert_shown(&dir, &told);
    });
}

#[test]
fn a_container_without_the_device_sees_the_same_with_files() {
    sandboxed(secs(90), || {
        let dir = TestDir::new();
        let mut demo = command("unshare", User::Own);
        demo.env("TMPDIR", dir.path()).args(["--mount", "sh", "-c"]);
        demo.arg(
            "mkdir $TMPDIR/dev && mount --bind /dev $TMPDIR/dev && mount -t tmpfs none /dev && \
             mkdir /dev/shm && for device in null urandom; do \
             : >/dev/$device && mount --bind $TMPDIR/dev/$device /dev/$device || exit; done; \
             \"$0\" demo --lifetimes 2 --life 8s && ls -A /dev/shm",
        );
        demo.arg(PROGRAM);
        let told = run(demo, &dir, secs(60));
        says_that_it_keeps_files(&told, "there is no /dev/fuse here");
        assert_shown(&dir, &told);
    });
}

#[track_caller]
fn says_that_it_keeps_files(told: &Finished, why: &str) {
    assert!(told.stdout.contains(why), "{told:?}");
    assert!(told.stdout.contains("the tokens are files, replaced at each rotation"), "{told:?}");
    assert!(told.stdout.contains("there is none for one repository alone"), "{told:?}");
    assert!(!told.stdout.contains("acme"), "no third lane: {told:?}");
}

#[test]
fn a_terminal_shows_all_lanes_live_and_is_given_back_as_it_was() {
    sandboxed(secs(60), || {
        require("script", "bsdutils");
        let dir = TestDir::new();
        let mut terminal = command("script", User::Own);
        terminal
            .env("TMPDIR", dir.path())
            .env("PROGRAM", PROGRAM)
            .env("TERM", "xterm")
            .args(["-qec"]);
        terminal.arg(
            "stty rows 26 cols 100; stty -a >before; \
             \"$PROGRAM\" demo --life 8s --lifetimes 1; echo \"code $?\"; stty -a >after",
        );
        terminal.arg("typescript").current_dir(dir.path());
        run(terminal, &dir, secs(40)).ok();
        let read = |name| String::from_utf8_lossy(&fs::read(dir.join(name)).unwrap()).into_owned();
        let shown = read("typescript");
        let (screen, after) = shown.split_once("\x1b[?1049l").expect("the other screen was left");
        assert!(screen.contains("\x1b[?1049h"), "it drew on the other screen");
        for text in [
            "TOKEN FROM THE MOUNT",
            "TOKEN FROZEN AT START",
            "TOKEN FOR ONE REPOSITORY",
            "other repo: 404",
            "dead for",
            "rotations",
        ] {
            assert!(screen.contains(text), "{text}");
        }
        assert!(after.contains("mounted token: ") && after.contains("code 0"), "{after}");
        assert_eq!(read("before"), read("after"), "the terminal's settings");
        assert!(!shown.contains("ghs_"), "it showed a token");
    });
}

#[test]
fn a_demo_that_is_stopped_gives_the_terminal_back_and_goes_on_where_it_was() {
    sandboxed(secs(90), || {
        require("python3", "python3");
        let dir = TestDir::new();
        let mut python = command("python3", User::Own);
        python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run/terminal.py"));
        python.args(["demo", "bash", "--norc", "-i"]).env("TMPDIR", dir.path());
        python.env("DEMO", format!("{PROGRAM} demo --life 8s --lifetimes 1")).env("TERM", "xterm");
        let told = run(python, &dir, secs(80)).ok();
        let (before, after) = told.split_once("Stopped").unwrap();
        assert!(before.contains("\x1b[?1049l"), "the other screen was left: {told}");
        assert!(after.contains("\x1b[?1049h"), "and entered again: {told}");
        assert!(after.contains("got-0") && told.ends_with("ended 7\n"), "{told}");
        assert_eq!(left_behind(dir.path()), [""; 0]);
    });
}

#[test]
fn a_shim_of_the_machines_gives_the_frozen_lane_no_fresh_token() {
    sandboxed(secs(90), || {
        let dir = TestDir::new();
        // Root's programs are looked for in a few directories of root's alone.
        let bin = Path::new("/usr/local/bin");
        private_copy(bin, &dir);
        let mut setup = command(PROGRAM, User::Own);
        setup.args(["setup", "gh", "--dir"]).arg(bin);
        run(setup, &dir, secs(10)).ok();
        let mut demo = demo(&dir, User::Own, &["--lifetimes", "2", "--life", "8s", "--plain"]);
        demo.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        let told = run(demo, &dir, secs(60));
        for line in told.stdout.lines().filter(|line| line.contains("|  frozen ")) {
            let (_, frozen) = line.split_once("|  frozen ").unwrap();
            let (frozen, narrow) = frozen.split_once("|  repository ").unwrap();
            assert!(narrow.contains(" 0 failed, 0 got 401"), "{line}");
            assert!(frozen.contains(" dead for ") || frozen.contains(" 0 failed"), "{line}");
        }
        assert!(told.stdout.contains("FUSE serves the mounted token, at /"), "{told:?}");
        assert_shown(&dir, &told);
    });
}

#[test]
fn a_signal_in_the_middle_leaves_nothing_behind() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        sandboxed(secs(60), move || {
            let dir = TestDir::new();
            let mut demo = Process::start(demo(&dir, User::Own, &["--life", "1m"]), "demo", &dir);
            eventually("something worked", secs(30), || {
                let worked = demo.stdout();
                worked
                    .lines()
                    .any(|line| line.contains("mounted") && !line.contains(" 0 worked"))
                    .then_some(())
            });
            demo.signal(signal);
            assert_eq!(demo.wait(secs(15)).code(), Some(130), "{}", demo.stderr());
            assert_eq!(left_behind(dir.path()), [""; 0]);
            let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
            assert!(!mounts.contains("molecule-demo-"), "{mounts}");
        });
    }
}

#[test]
fn a_killed_demo_leaves_no_daemon_and_no_mount_behind() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let demo = Process::start(demo(&dir, User::Own, &["--life", "1m"]), "demo", &dir);
        let mounted = || fs::read_to_string("/proc/thread-self/mounts").unwrap();
        eventually("it has mounted", secs(30), || {
            mounted().contains("molecule-demo-").then_some(())
        });
        demo.signal(Signal::SIGKILL);
        eventually("the mount is gone", secs(10), || {
            (!mounted().contains("molecule-demo-")).then_some(())
        });
    });
}

#[test]
fn keep_leaves_the_mount_up_with_lines_that_work_when_pasted() {
    sandboxed(secs(90), || {
        let dir = TestDir::new();
        let keep = demo(&dir, User::Own, &["--life", "8s", "--lifetimes", "1", "--keep"]);
        let mut keep = Process::start(keep, "keep", &dir);
        let pasted = eventually("lines to paste", secs(40), || {
            let said = keep.stdout();
            let (_, lines) = said.split_once("In another terminal:\n\n")?;
            lines.ends_with("\n\n").then(|| lines.to_owned())
        });
        assert!(pasted.lines().count() >= 5, "{pasted}");
        let mut narrow = 0;
        for line in pasted.lines().filter(|line| !line.is_empty()) {
            let mut shell = command("sh", User::Own);
            shell.args(["-c", line]);
            let said = run(shell, &dir, secs(20)).ok();
            if line.contains("repos/acme/web/") {
                assert!(said.contains("\"full_name\":\"acme/web\""), "{said}");
                narrow += 1;
            }
        }
        assert_eq!(narrow, 1, "the token for one repository: {pasted}");
        keep.signal(Signal::SIGINT);
        assert_eq!(keep.wait(secs(15)).code(), Some(0), "{}{}", keep.stdout(), keep.stderr());
        assert_eq!(left_behind(dir.path()), [""; 0]);
    });
}
