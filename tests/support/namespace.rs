//! Namespaces of a test's own, so that tests run side by side and leave the machine as it was.
//!
//! Linux keeps them per thread: what the thread of a test unshares is seen by it and by what it
//! starts, and is gone with the last of them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::dir::TestDir;
use super::limit::within;
use super::process::{User, command, run};
use super::secs;

/// Runs the body of a test within its limit and in a mount namespace of its own.
pub fn sandboxed(limit: Duration, body: impl FnOnce() + Send + 'static) {
    within(limit, move || {
        private_mounts();
        body();
    });
}

/// Gives this thread and what it starts from now on a mount namespace; nothing mounted here is seen
/// outside.
fn private_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap_or_else(|error| {
        panic!("no mount namespace: {error}: run scripts/test, or run as root (in a container: --cap-add SYS_ADMIN)")
    });
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
}

/// Gives this thread and what it starts a network of their own: nothing but a loopback device, with
/// every port free. Needs `busybox`.
pub fn private_network(dir: &TestDir) {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
    let mut up = command("busybox", User::Own);
    up.args(["ip", "link", "set", "lo", "up"]);
    run(up, dir, secs(5)).ok();
}

/// Puts a file with these contents in the place of another, for this namespace only.
pub fn replace_file(path: &Path, contents: &str, dir: &TestDir) {
    let name = format!("replaced{}", path.display()).replace('/', "-");
    let source = dir.file(&name, contents);
    fs::set_permissions(&source, fs::Permissions::from_mode(0o644)).expect("a mode");
    bind(&source, path);
}

/// Lets every user open `/dev/fuse` in this namespace, as distributions do, whatever the machine's
/// own node says.
pub fn open_fuse_device(dir: &TestDir) {
    let node = dir.join("dev-fuse");
    match mknod(&node, SFlag::S_IFCHR, Mode::empty(), makedev(10, 229)) {
        Ok(()) => {}
        // In a user namespace nobody makes a node, and the machine's own is open to all: without
        // that scripts/test would not have come here.
        Err(Errno::EPERM) => return,
        Err(error) => panic!("no device node: {error}"),
    }
    fs::set_permissions(&node, fs::Permissions::from_mode(0o666)).expect("a mode");
    bind(&node, Path::new("/dev/fuse"));
}

/// Puts a node of the test's own in the place of `/dev/null`: crun gives what it finds as standard input to
/// the container's user, the machine's too.
pub fn own_null(dir: &TestDir) {
    let node = dir.join("dev-null");
    mknod(&node, SFlag::S_IFCHR, Mode::empty(), makedev(1, 3)).expect("a device node");
    fs::set_permissions(&node, fs::Permissions::from_mode(0o666)).expect("a mode");
    bind(&node, Path::new("/dev/null"));
}

/// Half of a machine's control groups can be of the new kind; crun takes all or nothing.
pub fn old_control_groups() {
    let _ = umount2("/sys/fs/cgroup/unified", MntFlags::MNT_DETACH);
}

/// Gives this namespace a `/dev` of its own, with what a container has there: for sockets in it.
pub fn private_devices(dir: &TestDir) {
    let devices = dir.folder("dev");
    mount(Some("dev"), &devices, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .expect("a tmpfs");
    for name in ["null", "zero", "full", "random", "urandom", "tty", "fuse"] {
        let place = devices.join(name);
        fs::File::create(&place).expect("a place for a device");
        bind(&Path::new("/dev").join(name), &place);
    }
    for name in ["pts", "shm"] {
        let place = devices.join(name);
        fs::create_dir(&place).expect("a directory");
        bind(&Path::new("/dev").join(name), &place);
    }
    std::os::unix::fs::symlink("/proc/self/fd", devices.join("fd")).expect("a link");
    let recursive = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(&devices), "/dev", None::<&str>, recursive, None::<&str>).expect("another /dev");
}

pub fn bind(source: &Path, target: &Path) {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .unwrap_or_else(|error| panic!("binding over {}: {error}", target.display()));
}

/// Lets this namespace write to a directory of the machine's without a trace: what it writes goes
/// into the test's directory.
pub fn private_copy(path: &Path, dir: &TestDir) {
    let layers = dir.folder(&format!("copy-of{}", path.display()).replace('/', "-"));
    // Not every file system can be the upper layer of an overlay; a tmpfs can.
    let none = None::<&str>;
    mount(none, &layers, Some("tmpfs"), MsFlags::empty(), none).expect("a tmpfs");
    for layer in ["upper", "work"] {
        fs::create_dir(layers.join(layer)).expect("a layer");
    }
    let (lower, layers) = (path.display(), layers.display());
    let options = format!("lowerdir={lower},upperdir={layers}/upper,workdir={layers}/work");
    mount(Some("overlay"), path, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .unwrap_or_else(|error| panic!("no overlay over {lower}: {error}"));
}
