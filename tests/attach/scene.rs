//! What the tests stand on: a host with a daemon, whose tokens rotate ten times a second.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::support::daemon::{Daemon, tokenfs_run};
use crate::support::dir::TestDir;
use crate::support::docker::busybox_root;
use crate::support::namespace::{old_control_groups, own_null};
use crate::support::process::{Finished, ORDINARY, Process, User, command, run};
use crate::support::{eventually, secs};

/// Where tokens are in a container.
pub const PLACE: &str = "/run/molecule/token";
/// The user in each container, who owns the tokens.
pub const AGENT: u32 = ORDINARY;

/// Reads without a pause until ten rotations were seen, and stops at the first error.
const READ: &str = r#"
    rotations=-1 last=
    while [ "$rotations" -lt 10 ]; do
        now=$(cat /run/molecule/token/token) || exit
        [ -n "$now" ] || exit 9
        [ "$now" = "$last" ] || rotations=$((rotations + 1))
        last=$now
    done
    echo read"#;

/// What an agent, and root without capabilities, try that must not succeed: each line that they print is
/// something that did.
const TAMPER: &str = r"
    cd /
    umount /run/molecule/token && echo unmounted
    umount -l /run/molecule/token && echo detached
    mv /run/molecule/token /run/molecule/other && echo moved
    mv /run/molecule/token/token /run/molecule/token/old && echo renamed
    rm -f /run/molecule/token/token && echo removed
    echo x >/run/molecule/token/token && echo written
    echo x >/run/molecule/token/new && echo made
    echo now >/run/molecule/token/refresh && echo refreshed
    mount -o remount,rw /run/molecule/token && echo remounted
    mount -t tmpfs tmpfs /run/molecule/token && echo covered
    true";

/// What only a root that has a file system of its own in memory there can do, and to itself.
const TAMPER_ABOVE: &str = "cd /; mv /run/molecule /run/other && echo moved; true";

/// See the module. Make it in `sandboxed` only.
pub struct Scene {
    pub dir: TestDir,
    /// A root directory for containers.
    pub root: PathBuf,
}

impl Scene {
    pub fn new() -> Self {
        let dir = TestDir::new();
        // What engines keep of their containers is this test's own.
        mount(None::<&str>, "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
        own_null(&dir);
        old_control_groups();
        let root = busybox_root(&dir);
        Self { dir, root }
    }

    /// A daemon that mounts at the usual place, for this user.
    pub fn daemon(&self, owner: u32) -> Daemon {
        self.daemon_at(Path::new(PLACE), owner)
    }

    pub fn daemon_at(&self, mountpoint: &Path, owner: u32) -> Daemon {
        let often = ["--refresh-interval", "100ms", "--refresh-jitter", "0s"];
        let daemon = Daemon::at(&self.dir).mountpoint(mountpoint).args(["--made-up", "1s"]);
        daemon.args(often).arg_pair("--owner", owner.to_string()).log_level("info").start()
    }

    pub fn attach(&self, words: &[&str]) -> Finished {
        tokenfs_run(&self.dir, &[&["attach"], words].concat())
    }

    pub fn detach(&self, words: &[&str]) -> Finished {
        tokenfs_run(&self.dir, &[&["detach"], words].concat())
    }

    /// The name of a container that no other test has.
    pub fn name(&self) -> String {
        self.dir.path().file_name().unwrap().to_str().unwrap().to_owned()
    }
}

/// A command that failed with this among its words.
#[track_caller]
pub fn expect_refusal(finished: &Finished, words: &str) {
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    assert!(finished.stderr.contains(words), "{words}: {finished:?}");
    assert_eq!(finished.stdout, "", "{finished:?}");
}

/// A container that runs.
pub trait Container {
    /// Its first process, as the host numbers it.
    fn pid(&self) -> i32;

    /// Runs a line of the shell in it as this user.
    fn shell(&self, user: u32, line: &str) -> Finished;
}

/// A process with mounts of its own, and nothing else: as little as a container can be.
pub struct Apart {
    process: Process,
}

impl Apart {
    /// One that sleeps.
    pub fn start(scene: &Scene) -> Self {
        Self::start_with(scene, &["--propagation", "private"], &["sleep", "600"])
    }

    /// The same with options for `unshare(1)`, and other words.
    pub fn start_with(scene: &Scene, options: &[&str], words: &[&str]) -> Self {
        let mut unshare = command("unshare", User::Own);
        unshare.arg("--mount").args(options).arg("--").args(words);
        let process = Process::start(unshare, "apart", &scene.dir);
        let own = fs::read_link("/proc/thread-self/ns/mnt").unwrap();
        let its = format!("/proc/{}/ns/mnt", process.pid());
        eventually("it has mounts of its own", secs(5), || {
            (fs::read_link(&its).ok()? != own).then_some(())
        });
        Self { process }
    }

    /// As the words of a command.
    pub fn number(&self) -> String {
        self.process.pid().to_string()
    }

    /// Runs a line of the shell there, as root.
    pub fn line(&self, scene: &Scene, line: &str) -> Finished {
        let mut enter = command("nsenter", User::Own);
        enter.args(["--target", &self.number(), "--mount", "--", "sh", "-c", line]);
        run(enter, &scene.dir, secs(10))
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// The whole life of a mount in a container that was started without any right, and is called so.
pub fn lives(scene: &Scene, container: &dyn Container, name: &[&str]) {
    let told = scene.attach(name).ok();
    let pid = format!("process {}", container.pid());
    assert!(told.contains(&pid) && told.contains(" is shown at /run/molecule/token in "), "{told}");
    assert_eq!(container.shell(AGENT, READ).ok(), "read\n");
    let stranger = container.shell(AGENT + 1, "cat /run/molecule/token/token");
    assert!(stranger.stderr.contains("Permission denied"), "{stranger:?}");
    assert_eq!(container.shell(AGENT, TAMPER).ok(), "");
    assert_eq!(container.shell(AGENT, TAMPER_ABOVE).ok(), "");
    assert_eq!(container.shell(0, TAMPER).ok(), "");
    let told = scene.detach(name).ok();
    assert!(told.contains("nothing is shown at /run/molecule/token in "), "{told}");
    assert_eq!(container.shell(AGENT, "ls -A /run/molecule/token").ok(), "");
    expect_refusal(&scene.detach(name), "nothing of molecule-tokenfs is shown at");
}
