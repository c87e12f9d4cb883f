//! A Docker engine of a test's own, with everything it makes in the test's directory.
//!
//! It pulls nothing: an image is a directory that a test fills. Containers have no network, or with
//! `--network=host` that of the test. Needs
//! `dockerd` (the package docker.io) and the machine's own root. Start it within
//! [`sandboxed`](super::namespace::sandboxed), so that what it mounts goes with the test.
//!
//! ```ignore
//! let engine = Engine::start(&dir);
//! engine.import("busybox", &busybox_root(&dir));
//! let volume = format!("{}:/token:ro", daemon.path("live/token").display());
//! let container = engine.run(&["--cap-drop=ALL", "-v", &volume], "busybox", &["sleep", "600"]);
//! let token = container.exec(&["cat", "/token"]).ok();
//! ```

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::dir::TestDir;
use super::limit::OnTimeout;
use super::process::{Finished, Process, User, command, require, run};
use super::{eventually, secs};

/// How long one command of the client may take.
const COMMAND_LIMIT: Duration = secs(30);

/// A running engine. Dropping it ends its containers, `dockerd`, `containerd`, the shims, and removes
/// their control groups.
pub struct Engine<'a> {
    dir: &'a TestDir,
    place: PathBuf,
    _on_timeout: OnTimeout,
    // Last, so that it is still there when the containers are ended.
    dockerd: Process,
}

impl<'a> Engine<'a> {
    /// Starts an engine and waits until it answers.
    pub fn start(dir: &'a TestDir) -> Self {
        for tool in ["dockerd", "docker", "containerd"] {
            require(tool, "docker.io");
        }
        let place = dir.folder("docker");
        let mut dockerd = command("dockerd", User::Own);
        for (option, name) in [("data-root", "data"), ("exec-root", "exec"), ("pidfile", "pid")] {
            dockerd.arg(format!("--{option}={}", place.join(name).display()));
        }
        dockerd.args(["--iptables=false", "--bridge=none"]);
        dockerd.arg(format!("--host=unix://{}", place.join("socket").display()));
        dockerd.arg(format!("--cgroup-parent=/{}", group_name(&place)));
        let on_timeout = OnTimeout::new({
            let place = place.clone();
            move || end_what_is_left(&place)
        });
        let dockerd = Process::start(dockerd, "dockerd", dir);
        let mut engine = Self { dir, place, _on_timeout: on_timeout, dockerd };
        eventually("the Docker engine answers", secs(60), || {
            if let Some(status) = engine.dockerd.ended() {
                panic!("dockerd ended: {status}\n{}", engine.dockerd.stderr());
            }
            let socket_is_there = engine.place.join("socket").exists();
            (socket_is_there && engine.docker(&["version"]).status.success()).then_some(())
        });
        engine
    }

    /// A command of Docker's client, not started yet.
    pub fn client(&self) -> Command {
        let mut client = command("docker", User::Own);
        client.arg(format!("--host=unix://{}", self.place.join("socket").display()));
        client.env("HOME", &self.place);
        client
    }

    /// Runs Docker's client with these arguments.
    pub fn docker(&self, args: &[impl AsRef<OsStr>]) -> Finished {
        let mut client = self.client();
        client.args(args);
        run(client, self.dir, COMMAND_LIMIT)
    }

    /// Makes an image of this name whose root is a copy of a directory.
    pub fn import(&self, name: &str, root: &Path) {
        let archive = self.dir.join(format!("image-{name}.tar"));
        let mut tar = command("tar", User::Own);
        tar.arg("-cf").arg(&archive).arg("-C").arg(root).arg(".");
        run(tar, self.dir, COMMAND_LIMIT).ok();
        self.docker(&[OsStr::new("import"), archive.as_os_str(), OsStr::new(name)]).ok();
        fs::remove_file(archive).expect("the archive");
    }

    /// Starts a container that goes on in the background. Dropping it removes it.
    pub fn run(&self, options: &[&str], image: &str, words: &[&str]) -> Container<'_> {
        let mut args = vec!["run", "--detach", "--ulimit=nofile=4096:20000"];
        if !options.contains(&"--network=host") {
            args.push("--network=none");
        }
        args.extend(options);
        args.push(image);
        args.extend(words);
        let id = self.docker(&args).ok().trim().to_owned();
        Container { engine: self, id }
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        // Its containers end with it: nothing asks it to keep them alive.
        self.dockerd.signal(Signal::SIGTERM);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.dockerd.wait(secs(20));
        }));
        end_what_is_left(&self.place);
        let is_well = ended.is_ok() || std::thread::panicking();
        assert!(is_well, "dockerd did not end\n{}", self.dockerd.stderr());
    }
}

/// A container of an [`Engine`].
pub struct Container<'a> {
    engine: &'a Engine<'a>,
    id: String,
}

impl Container<'_> {
    /// Its id, for the client.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its first process, as this machine numbers it.
    pub fn pid(&self) -> Pid {
        let pid = self.engine.docker(&["inspect", "--format={{.State.Pid}}", &self.id]).ok();
        Pid::from_raw(pid.trim().parse().expect("a process id"))
    }

    /// Runs a command in it.
    pub fn exec(&self, words: &[&str]) -> Finished {
        self.exec_with(&[], words)
    }

    /// Runs a command in it with options of `docker exec`.
    pub fn exec_with(&self, options: &[&str], words: &[&str]) -> Finished {
        let mut args = vec!["exec"];
        args.extend(options);
        args.push(&self.id);
        args.extend(words);
        self.engine.docker(&args)
    }

    /// What it has written so far, to stdout and to stderr.
    pub fn logs(&self) -> (String, String) {
        let logs = self.engine.docker(&["logs", &self.id]);
        (logs.stdout, logs.stderr)
    }

    /// Waits until its first process ends, and tells how.
    pub fn wait(&self) -> i32 {
        self.engine.docker(&["wait", &self.id]).ok().trim().parse().expect("a status")
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // A panic here, on the way of another one, would end all tests.
        let remove = || self.engine.docker(&["rm", "--force", &self.id]);
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(remove));
    }
}

/// A root directory with a static busybox and links for all that it can do. Needs `busybox`.
pub fn busybox_root(dir: &TestDir) -> PathBuf {
    require("busybox", "busybox-static");
    let root = dir.folder("busybox-root");
    for folder in ["bin", "etc", "tmp", "dev", "proc", "sys", "run"] {
        dir.folder(&format!("busybox-root/{folder}"));
    }
    let program = root.join("bin/busybox");
    let mut install = command("sh", User::Own);
    let script = r#"cp "$(command -v busybox)" "$1" && "$1" --install -s "$2""#;
    install.args(["-ec", script, "sh"]).arg(&program).arg(root.join("bin"));
    run(install, dir, secs(10)).ok();
    // The links name the program by its path outside.
    for link in fs::read_dir(root.join("bin")).expect("a directory").flatten() {
        if link.path().is_symlink() {
            fs::remove_file(link.path()).expect("a link");
            std::os::unix::fs::symlink("/bin/busybox", link.path()).expect("a link");
        }
    }
    dir.file("busybox-root/etc/passwd", "root:x:0:0:root:/:/bin/sh\n");
    root
}

/// The control group of all containers of an engine.
fn group_name(place: &Path) -> String {
    let dir = place.parent().and_then(Path::file_name).unwrap_or_default();
    dir.to_string_lossy().into_owned()
}

/// Ends what an engine that did not end well has left: whatever has its directory in its command line,
/// and whatever lives in its control groups, which then go, too.
fn end_what_is_left(place: &Path) {
    for process in processes_of(place) {
        let _ = kill(process, Signal::SIGKILL);
    }
    let groups = control_groups(&group_name(place));
    for group in &groups {
        let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        for member in members.lines().filter_map(|line| line.parse().ok()) {
            let _ = kill(Pid::from_raw(member), Signal::SIGKILL);
        }
    }
    // A group can be removed when the last of its processes is gone.
    for _ in 0..100 {
        if groups.iter().rev().all(|group| fs::remove_dir(group).is_ok() || !group.exists()) {
            return;
        }
        std::thread::sleep(super::millis(20));
    }
}

fn processes_of(place: &Path) -> Vec<Pid> {
    let place = place.as_os_str().as_encoded_bytes();
    let own = Pid::this();
    let ids = fs::read_dir("/proc").expect("/proc").flatten();
    ids.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw))
        .filter(|pid| *pid != own)
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.windows(place.len()).any(|part| part == place)
        })
        .collect()
}

/// The directories of a control group in all hierarchies, parents before their children.
fn control_groups(name: &str) -> Vec<PathBuf> {
    fn walk(path: &Path, found: &mut Vec<PathBuf>) {
        found.push(path.to_owned());
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path(), found);
            }
        }
    }
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found = Vec::new();
    for group in hierarchies.map(|path| path.join(name)).chain([root.join(name)]) {
        if group.is_dir() {
            walk(&group, &mut found);
        }
    }
    found
}
