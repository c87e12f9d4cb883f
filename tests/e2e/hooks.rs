//! A push whose hook lasts longer than what was left of the token when git asked for it: git asks before
//! the hook, and sends the token after it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use molecule_tokenfs::demo::Demo;
use molecule_tokenfs::demo::faults::{Fault, Service};
use molecule_tokenfs::demo::ledger::Verdict;
use molecule_tokenfs::time::{Clock as _, SystemClock};

use crate::git::{Helper, configure, git};
use crate::support::daemon::{Daemon, PROGRAM};
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::{Finished, Process, User, command, run};
use crate::support::{eventually, millis, secs};
use crate::world::{World, platform, programs};

/// How long the tokens live.
const LIFE: Duration = secs(30);

/// A clone with a commit to push, and a hook that takes so long.
fn clone_with_hook(
    world: &World,
    home: &Path,
    program: &Path,
    name: &str,
    hook: Duration,
) -> PathBuf {
    let url = world.demo.create_repository(&format!("{name}.git")).unwrap();
    let clone = world.dir.join(name);
    let path = clone.to_str().unwrap();
    git(world, home, program, &["clone", "-q", &url, path]).ok();
    git(world, home, program, &["-C", path, "commit", "-q", "--allow-empty", "-m", "more"]).ok();
    let pre_push = clone.join(".git/hooks/pre-push");
    fs::create_dir_all(pre_push.parent().unwrap()).unwrap();
    fs::write(&pre_push, format!("#!/bin/sh\nsleep {}\n", hook.as_secs_f64())).unwrap();
    fs::set_permissions(&pre_push, fs::Permissions::from_mode(0o755)).unwrap();
    clone
}

/// Lets a token grow old, so that `left` of it is left, and then pushes with every git and helper at
/// once. The hook outlasts that token.
fn push_with_old_token(world: &World, left: Duration) {
    let hook = left + secs(2);
    let mut pushes = Vec::new();
    for helper in Helper::ALL {
        let home = world.dir.folder(&format!("home-{}", helper.name()));
        configure(world, &home, helper);
        for (number, program) in programs("git").into_iter().enumerate() {
            let name = format!("{}-{number}", helper.name());
            let clone = clone_with_hook(world, &home, &program, &name, hook);
            pushes.push((name, home.clone(), program, clone));
        }
    }
    let ledger = world.demo.ledger();
    let old = fs::read(world.daemon.path("token")).unwrap();
    eventually("the token grows old", LIFE, || (ledger.left(&old) <= left).then_some(()));
    // Everybody else gets it still.
    assert_eq!(ledger.verdict(&old), Verdict::Live);
    let running: Vec<_> = pushes
        .into_iter()
        .map(|(name, home, program, clone)| {
            let mut push = world.command(&program);
            push.env("HOME", home).arg("-C").arg(clone).args(["push", "-q", "origin", "HEAD"]);
            (Process::start(push, &name, &world.dir), name)
        })
        .collect();
    for (mut process, name) in running {
        let status = process.wait(hook + secs(20));
        assert!(status.success(), "{name}: {status}\n{}", process.stderr());
    }
    let seen = ledger.counts().service("git");
    assert_eq!((seen.dead, seen.revoked, seen.unknown), (0, 0, 0), "{seen:?}");
    assert_eq!(ledger.verdict(&old), Verdict::Dead, "the hook did not outlast the token");
}

#[test]
fn a_hook_may_outlast_what_was_left_of_the_token() {
    sandboxed(secs(120), || {
        // Nothing refreshes but an open.
        let world = World::with(LIFE, &["--min-life", "1s", "--idle", "1s"]);
        push_with_old_token(&world, secs(5));
    });
}

#[test]
fn how_long_a_hook_may_last_can_be_said() {
    sandboxed(secs(120), || {
        let flags = ["--min-life", "1s", "--idle", "1s", "--git-min-life", "15s"];
        push_with_old_token(&World::with(LIFE, &flags), secs(11));
    });
}

/// What the helper answers to git.
fn ask(world_dir: &TestDir, mountpoint: &Path, host: &str) -> Finished {
    let request = world_dir.file("request", format!("protocol=https\nhost={host}\n"));
    let mut helper = command(PROGRAM, User::Own);
    helper.args(["git-credential", "--host", host, "--mountpoint"]).arg(mountpoint).arg("get");
    helper.stdin(fs::File::open(request).unwrap());
    run(helper, world_dir, secs(20))
}

/// A daemon with these flags, whose platform takes a while for every token but the first.
fn slow_daemon(dir: &TestDir, flags: &[&str]) -> (Demo, Daemon, Vec<u8>) {
    let demo = platform(dir, secs(20));
    let daemon = Daemon::at(dir)
        .env("PLATFORM_URL", demo.url())
        .env("WORKSPACE_ID", &demo.address().workspace_id)
        .args(["--min-life", "1s", "--idle", "1s", "--git-min-life", "9s", "--host", demo.host()])
        .args(flags)
        .start();
    let path = daemon.mountpoint();
    let path = if path.is_file() { path.to_owned() } else { path.join("token") };
    let old = eventually("there is a token", secs(10), || fs::read(&path).ok());
    demo.faults().stick(Service::Platform, Some(Fault::Slow(millis(2200))));
    (demo, daemon, old)
}

/// Asserts that git gets another token than this one.
fn assert_gets_another(dir: &TestDir, daemon: &Daemon, demo: &Demo, old: &[u8]) {
    let said = ask(dir, daemon.mountpoint(), demo.host()).ok();
    assert!(said.contains("password=ghs_"), "{said}");
    assert!(!said.contains(std::str::from_utf8(old).unwrap()), "git got the old token");
}

#[test]
fn the_helper_waits_where_the_mounted_file_is_not_git_s_view() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let (demo, daemon, old) = slow_daemon(&dir, &["--layout", "file"]);
        let ledger = demo.ledger();
        eventually("it grows old", secs(20), || (ledger.left(&old) <= secs(8)).then_some(()));
        assert_gets_another(&dir, &daemon, &demo, &old);
    });
}

#[test]
fn the_helper_waits_for_a_file_that_is_about_to_be_replaced() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let (demo, daemon, _) = slow_daemon(&dir, &["--backend", "files", "--allow-disk"]);
        let old = eventually("the next one is asked for, late", secs(40), || {
            let status = fs::read(daemon.path("status.json")).ok()?;
            let status: serde_json::Value = serde_json::from_slice(&status).ok()?;
            let fetching = status.pointer("/tokens/0/fetching")?.as_bool()?;
            let end: Timestamp = status.pointer("/tokens/0/expires_at")?.as_str()?.parse().ok()?;
            let left = end.duration_since(SystemClock.now().timestamp());
            let token = fs::read(daemon.path("token")).ok()?;
            (fetching && left.as_millis() < 8800).then_some(token)
        });
        assert_gets_another(&dir, &daemon, &demo, &old);
    });
}
