//! What is compared: the same content as a file of tmpfs, through our mount, and through a file system
//! in C that knows nothing but that content.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, statfs};
use nix::unistd::Pid;

use crate::support::daemon::Daemon;
use crate::support::dir::TestDir;
use crate::support::process::{Process, User, command, run};
use crate::support::processes;
use crate::support::{eventually, secs};

pub const TMPFS: &str = "tmpfs";
pub const BY_PATH: &str = "token";
pub const LIVE: &str = "live/token";
pub const C_CACHED: &str = "C, page cache";
pub const C_DIRECT: &str = "C, direct_io";

/// A file, and the processes that serve it.
pub struct Subject {
    pub name: &'static str,
    pub file: PathBuf,
    pub servers: Vec<i32>,
}

/// All of them, served for as long as this lives.
pub struct Subjects {
    pub all: Vec<Subject>,
    pub content: Vec<u8>,
    _servers: (Daemon, [Process; 2]),
}

impl Subjects {
    pub fn start(dir: &TestDir) -> Self {
        let daemon = Daemon::at(dir).log_level("warn").args(["--made-up", "1h"]).start();
        let content = fs::read(daemon.path("token")).expect("a token");
        let ours = processes_of(&daemon.path("status.json"));

        let folder = dir.folder("tmpfs");
        mount(Some("bench"), &folder, Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .expect("a tmpfs");
        let tmpfs = dir.file("tmpfs/token", &content);

        let program = compile(dir);
        let (cached, cached_file) = serve_in_c(dir, &program, &content, "cached");
        let (direct, direct_file) = serve_in_c(dir, &program, &content, "direct");
        let subject = |name, file, servers| Subject { name, file, servers };
        let all = vec![
            subject(TMPFS, tmpfs, Vec::new()),
            subject(BY_PATH, daemon.path("token"), ours.clone()),
            subject(C_CACHED, cached_file, vec![cached.pid().as_raw()]),
            subject(LIVE, daemon.path("live/token"), ours),
            subject(C_DIRECT, direct_file, vec![direct.pid().as_raw()]),
        ];
        Self { all, content, _servers: (daemon, [cached, direct]) }
    }
}

/// The supervisor and the worker of a mount.
pub fn processes_of(status: &Path) -> Vec<i32> {
    let status = fs::read(status).expect("status.json is read");
    let status: serde_json::Value = serde_json::from_slice(&status).expect("JSON");
    ["supervisor_pid", "worker_pid"]
        .map(|key| status[key].as_i64().and_then(|process| process.try_into().ok()).expect(key))
        .to_vec()
}

fn compile(dir: &TestDir) -> PathBuf {
    let program = dir.join("constant");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cost/constant.c");
    let mut cc = command("cc", User::Own);
    cc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program).arg(source).arg("-lfuse3");
    run(cc, dir, secs(20)).ok();
    program
}

fn serve_in_c(dir: &TestDir, program: &Path, content: &[u8], way: &str) -> (Process, PathBuf) {
    let mountpoint = dir.folder(way);
    let content = str::from_utf8(content).expect("text");
    let mut server = command(program, User::Own);
    server.arg(content).arg(&mountpoint).arg(way);
    let mut server = Process::start(server, way, dir);
    eventually("the file system in C answers", secs(10), || {
        assert!(server.ended().is_none(), "it ended: {}", server.stderr());
        (statfs(&mountpoint).ok()?.filesystem_type() == FUSE_SUPER_MAGIC).then_some(())
    });
    (server, mountpoint.join("token"))
}

/// Where readers and servers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// All on one core: the scheduler has nothing to decide.
    OneCore,
    /// On all that this process had at first, as the scheduler likes.
    AllCores,
}

/// The cores that this process may use.
pub struct Cores(CpuSet);

impl Cores {
    pub fn of_this_thread() -> Self {
        Self(sched_getaffinity(Pid::from_raw(0)).expect("the cores of this thread"))
    }

    pub fn count(&self) -> usize {
        self.numbers().count()
    }

    fn numbers(&self) -> impl Iterator<Item = usize> {
        (0..CpuSet::count()).filter(|&core| self.0.is_set(core).unwrap_or(false))
    }

    /// Puts this thread, what it starts from now on, and all threads of these processes there.
    pub fn put(&self, place: Place, processes: &[i32]) {
        let mut set = self.0;
        if place == Place::OneCore {
            set = CpuSet::new();
            set.set(self.numbers().last().expect("a core")).expect("a core's number");
        }
        sched_setaffinity(Pid::from_raw(0), &set).expect("this thread is moved");
        for thread in processes::threads(processes) {
            let thread = thread.file_name().and_then(|name| name.to_str()?.parse().ok());
            sched_setaffinity(Pid::from_raw(thread.expect("its number")), &set)
                .expect("a server's thread is moved");
        }
    }
}
