//! Readers take tokens only from a mount of root's or their own user's, and from files that nobody else
//! could have written.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use nix::mount::MsFlags;
use nix::sched::{CloneFlags, setns, unshare};

use crate::support::daemon::{Daemon, tokenfs};
use crate::support::dir::TestDir;
use crate::support::namespace::{open_fuse_device, sandboxed};
use crate::support::process::{Finished, ORDINARY, User, command, run};
use crate::support::{eventually, secs};
use crate::{ATTACKER, directory, own};

/// What a false token starts with.
const FALSE: &str = "ghs_false";

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Asks git's question of a helper.
fn helper(mut command: Command, dir: &TestDir) -> Command {
    let question = dir.file("question", "protocol=https\nhost=github.com\n\n");
    command.stdin(File::open(question).unwrap());
    command
}

/// Each reader by its name, told to read there as this user; those of the binary first.
fn readers(dir: &TestDir, user: User, place: &Path) -> Vec<(&'static str, Finished)> {
    commands(dir, user, place)
        .into_iter()
        .map(|(name, it)| (name, run(it, dir, secs(20))))
        .collect()
}

/// So many of them are the binary's.
const OF_THE_BINARY: usize = 3;

fn commands(dir: &TestDir, user: User, place: &Path) -> Vec<(&'static str, Command)> {
    let tokenfs = |args: &[&OsStr]| {
        let mut command = tokenfs(dir, user);
        command.args(args);
        command
    };
    let path = place.as_os_str();
    let words = |words: [&'static str; 2]| words.map(OsStr::new);
    let [get, exec] = words(["get", "exec"]);
    let [flag, rest] = words(["--mountpoint", "--"]);
    let [sh, line] = words(["sh", "-c"]);
    let print = OsStr::new("printf %s \"$GH_TOKEN\"");
    let [git, ask] = words(["git-credential", "get"]);
    let shell = |script: &str, words: &[&OsStr]| {
        let mut command = command("sh", user);
        command.arg(repository(script)).args(words).env("HOME", dir.path());
        command
    };
    let real = dir.file("real-gh", "#!/bin/sh\nprintf %s \"$GH_TOKEN\"\n");
    own(&real, 0, 0o755);
    let mut gh = shell("scripts/gh", &[OsStr::new("api")]);
    gh.env("MOLECULE_REAL_GH", &real).env("MOLECULE_TOKENFS_MOUNTPOINT", place);
    let mut python = command("/usr/bin/python3", user);
    python
        .args(["-c", "import sys, molecule_tokenfs as m; print(m.token(sys.argv[1]))"])
        .arg(place)
        .env("PYTHONPATH", repository("scripts/python/src"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    [
        ("get", tokenfs(&[get, path])),
        ("exec", tokenfs(&[exec, flag, path, rest, sh, line, print])),
        ("git-credential", helper(tokenfs(&[git, flag, path, ask]), dir)),
        (
            "git-credential-molecule",
            helper(shell("scripts/git-credential-molecule", &[flag, path, ask]), dir),
        ),
        ("gh", gh),
        ("python", python),
    ]
    .into()
}

/// Every reader gives a token from there, and no false one.
fn all_read(dir: &TestDir, user: User, place: &Path) {
    for (name, read) in readers(dir, user, place) {
        assert!(read.status.success(), "{name}: {read:?}");
        assert!(read.stdout.contains("ghs_") && !read.stdout.contains(FALSE), "{name}: {read:?}");
    }
}

/// No reader gives a token from there, and each says why not.
fn none_reads(dir: &TestDir, user: User, place: &Path, why: &str) {
    for (name, read) in readers(dir, user, place) {
        assert!(!read.stdout.contains("ghs_"), "{name}: {read:?}");
        assert!(!read.status.success(), "{name}: {read:?}");
        assert!(read.stderr.contains(why), "{name}: {why}: {read:?}");
    }
}

/// Puts files there that look like those of a daemon.
fn plant(place: &Path, owner: u32) {
    fs::create_dir_all(place.join("gh")).unwrap();
    let expiry = "password_expiry_utc=4102444800\n";
    let credential = format!("username=x\npassword={FALSE}\n{expiry}");
    for (name, text) in [
        (".molecule-tokenfs", ""),
        ("token", FALSE),
        ("git-credential", credential.as_str()),
        ("status.json", "{\"tokens\":[]}"),
        ("gh/hosts.yml", "github.com:\n    oauth_token: ghs_false\n"),
        ("refresh", ""),
    ] {
        fs::write(place.join(name), text).unwrap();
        own(&place.join(name), owner, 0o644);
    }
    own(&place.join("gh"), owner, 0o755);
    own(place, owner, 0o755);
}

const VICTIM: User = User::Number(ORDINARY);

fn owned() -> [&'static str; 6] {
    ["--owner", "1000", "--made-up", "1h", "--log-level", "info"]
}

#[test]
fn what_root_or_the_same_user_mounted_is_read() {
    sandboxed(secs(120), || {
        let dir = TestDir::new();
        open_fuse_device(&dir);
        let daemon = Daemon::at(&dir).args(&owned()[..4]).start();
        all_read(&dir, VICTIM, daemon.mountpoint());
        let bound = dir.folder("bound");
        let none = None::<&str>;
        nix::mount::mount(Some(daemon.mountpoint()), &bound, none, MsFlags::MS_BIND, none).unwrap();
        all_read(&dir, VICTIM, &bound);
        let file = dir.file("file", "");
        let source = daemon.path("live/token");
        nix::mount::mount(Some(&source), &file, none, MsFlags::MS_BIND, none).unwrap();
        all_read(&dir, VICTIM, &file);

        let home = directory(&dir, "home", ORDINARY, 0o755);
        own(&dir.folder("configs"), ORDINARY, 0o700);
        let daemon = Daemon::of(&dir, VICTIM).mountpoint(home.join("own"));
        let daemon = daemon.args(["--made-up", "1h"]).start();
        all_read(&dir, VICTIM, daemon.mountpoint());
    });
}

#[test]
fn what_somebody_else_put_there_is_not_read() {
    sandboxed(secs(120), || {
        let dir = TestDir::new();
        let theirs = dir.join("theirs");
        plant(&theirs, ATTACKER);
        none_reads(&dir, VICTIM, &theirs, "belongs to user 1001");
        none_reads(&dir, User::Own, &theirs, "belongs to user 1001");
        // Of root, and others may write.
        let open = dir.join("open");
        plant(&open, 0);
        own(&open, 0, 0o777);
        none_reads(&dir, VICTIM, &open, "can be written to by others");
        // The commands take no plain directory and no file for a mount.
        let plain = dir.join("plain");
        plant(&plain, 0);
        fs::remove_file(plain.join(".molecule-tokenfs")).unwrap();
        for place in [plain.clone(), plain.join("token")] {
            for (name, read) in readers(&dir, VICTIM, &place).into_iter().take(OF_THE_BINARY) {
                assert!(!read.stdout.contains("ghs_"), "{name}: {read:?}");
                assert!(read.stderr.contains("nothing is mounted"), "{name}: {read:?}");
            }
        }
    });
}

#[test]
fn the_mount_of_another_user_is_not_read() {
    sandboxed(secs(120), || {
        let dir = TestDir::new();
        open_fuse_device(&dir);
        let home = directory(&dir, "home", ATTACKER, 0o755);
        own(&dir.folder("configs"), ATTACKER, 0o755);
        let daemon = Daemon::of(&dir, User::Number(ATTACKER)).mountpoint(home.join("token"));
        let daemon = daemon.args(["--made-up", "1h"]).start();
        for user in [VICTIM, User::Own] {
            none_reads(&dir, user, daemon.mountpoint(), "");
        }
        // One that lets everybody in. Nobody serves it: whoever asks it anything does not come back.
        let place = dir.folder("open");
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!(
            "fd={},rootmode=40000,user_id={ATTACKER},group_id={ATTACKER},allow_other",
            device.as_raw_fd()
        );
        let (kind, source) = (Some("fuse.molecule-tokenfs"), Some("molecule-tokenfs"));
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        nix::mount::mount(source, &place, kind, flags, Some(options.as_str())).unwrap();
        for (name, command) in commands(&dir, VICTIM, &place).into_iter().take(OF_THE_BINARY) {
            let read = run(command, &dir, secs(5));
            assert!(
                read.stderr.contains("a file system that user 1001 mounted"),
                "{name}: {read:?}"
            );
        }
    });
}

#[test]
fn a_mountpoint_that_its_owner_removed_from_an_older_namespace_gives_no_false_token() {
    sandboxed(secs(120), || {
        let dir = TestDir::new();
        let parent = dir.folder("parent");
        let older = File::open("/proc/thread-self/ns/mnt").unwrap();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let place = parent.join("token");
        let daemon = Daemon::at(&dir).mountpoint(&place).args(&owned()[..4]).start();
        all_read(&dir, VICTIM, &place);
        // Given away after the mount, which would refuse it.
        own(&parent, ATTACKER, 0o755);
        let planted = place.clone();
        thread::spawn(move || {
            // Joining needs a file-system state that no other thread shares.
            unshare(CloneFlags::CLONE_FS).unwrap();
            setns(&older, CloneFlags::CLONE_NEWNS).unwrap();
            nix::unistd::setfsgid(ATTACKER.into());
            nix::unistd::setfsuid(ATTACKER.into());
            fs::remove_dir(&planted).unwrap();
            fs::create_dir(&planted).unwrap();
        })
        .join()
        .unwrap();
        eventually("the mount is gone", secs(5), || {
            (!place.join("status.json").exists()).then_some(())
        });
        plant(&place, ATTACKER);
        none_reads(&dir, VICTIM, &place, "belongs to user 1001");
        drop(daemon);
    });
}

#[test]
fn in_a_user_namespace_mounts_of_root_and_of_the_same_user_are_read() {
    sandboxed(secs(120), || {
        let dir = TestDir::new();
        open_fuse_device(&dir);
        let daemon = Daemon::at(&dir).args(&owned()[..4]).start();
        let home = directory(&dir, "home", ORDINARY, 0o755);
        own(&dir.folder("configs"), ORDINARY, 0o700);
        let own_mount = Daemon::of(&dir, VICTIM).mountpoint(home.join("own"));
        let own_mount = own_mount.args(["--made-up", "1h"]).start();
        let read = |place: &Path| {
            let mut get = command("unshare", VICTIM);
            get.args(["--user", "--map-root-user", "--mount"]);
            get.arg(env!("CARGO_BIN_EXE_molecule-tokenfs")).arg("get").arg(place);
            run(get, &dir, secs(20))
        };
        for place in [daemon.mountpoint(), own_mount.mountpoint()] {
            assert!(read(place).ok().starts_with("ghs_"), "{place:?}");
        }
        // A user who is mapped is told apart from one who is not.
        let theirs = dir.join("theirs");
        plant(&theirs, ORDINARY);
        assert!(read(&theirs).status.success(), "their own files");
    });
}
