//! Id-mapped binds of the mount (`mount_setattr(2)`, `FUSE_ALLOW_IDMAP`: Linux 6.12), as runtimes make them
//! for a container with a user namespace. Debian 12's runc 1.1 and mount(8) 2.38 cannot yet (runc 1.2 and
//! util-linux 2.39 can), so the system calls are made here.

#![expect(unsafe_code, reason = "no library has mount_setattr(2)")]

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use molecule_tokenfs::connection::kernel::Kernel;
use molecule_tokenfs::demo::Setup;
use molecule_tokenfs::demo::faults::{Fault, Service};
use molecule_tokenfs::secret::Fingerprint;
use nix::libc;
use nix::sys::signal::Signal;
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::Workspace;
use crate::support::daemon::Daemon;
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::{Finished, Process, User, command, run};
use crate::support::{eventually, secs};

/// The owner of the files on the host, and who that is through the bind.
const OWNER: u32 = 1000;
const MAPPED: u32 = 2000;
/// Neither.
const STRANGER: u32 = 3000;

/// A user namespace in which user and group `OWNER` are those called `MAPPED` outside.
fn mapping(dir: &TestDir) -> OwnedFd {
    let mut sleep = command("unshare", User::Own);
    sleep.args(["--user", "sleep", "60"]);
    let process = Process::start(sleep, "mapping", dir);
    let of = |process: &str, what: &str| PathBuf::from(format!("/proc/{process}/{what}"));
    let pid = process.pid().to_string();
    let own = fs::read_link(of("self", "ns/user")).unwrap();
    eventually("another user namespace", secs(5), || {
        fs::read_link(of(&pid, "ns/user")).ok().filter(|its| *its != own)
    });
    for map in ["uid_map", "gid_map"] {
        fs::write(of(&pid, map), format!("{OWNER} {MAPPED} 1")).unwrap();
    }
    fs::File::open(of(&pid, "ns/user")).unwrap().into()
}

/// Binds `source` to `target`, id-mapped.
fn bind_mapped(source: &Path, target: &Path, mapping: &OwnedFd) -> std::io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, source, flags)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(mapping.as_raw_fd()).unwrap(),
    };
    // SAFETY: the kernel reads an empty path and as many bytes of the attributes as they have.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if set != 0 {
        return Err(std::io::Error::last_os_error());
    }
    move_mount(&tree, c"", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(())
}

/// A daemon for `OWNER`, and its mount id-mapped at another place.
struct Mapped {
    workspace: Workspace,
    bound: PathBuf,
}

impl Mapped {
    fn new(flags: &[&str]) -> Self {
        assert!(Kernel::running() >= Kernel(6, 12), "this test needs Linux 6.12");
        let owner = OWNER.to_string();
        let workspace = Workspace::start_with(Setup::default(), |builder| {
            builder.args(["--owner", owner.as_str(), "--group", owner.as_str()]).args(flags)
        });
        let dir = &workspace.dir;
        // Everybody can pass the directory of a test.
        let is_file = fs::metadata(workspace.daemon.mountpoint()).unwrap().is_file();
        let bound = if is_file { dir.file("bound", "") } else { dir.folder("bound") };
        bind_mapped(workspace.daemon.mountpoint(), &bound, &mapping(dir)).unwrap();
        Self { workspace, bound }
    }

    /// The mount by its own path, with who owns it there, and by the bind.
    fn doors(&self) -> [(&Path, u32); 2] {
        [(self.workspace.daemon.mountpoint(), OWNER), (&self.bound, MAPPED)]
    }

    /// A line of shell, with the mount or the bind as `$1` and one more word as `$2`.
    fn shell(&self, door: &Path, user: u32, line: &str, word: &str) -> Finished {
        let mut sh = command("sh", User::Number(user));
        sh.args(["-c", line, "sh"]).arg(door).arg(word);
        run(sh, &self.workspace.dir, secs(10))
    }

    /// The token by its name, and by its bound one.
    fn read(&self, door: &Path, user: u32) -> Finished {
        self.shell(door, user, "cat \"$1/token\" && cat \"$1/live/token\"", "")
    }
}

fn is_denied(told: &Finished) {
    assert!(!told.status.success() && told.stderr.contains("Permission denied"), "{told:?}");
}

#[test]
fn the_owner_by_the_map_of_a_bind_reads_and_refreshes_and_nobody_else() {
    sandboxed(secs(60), || {
        let mapped = Mapped::new(&[]);
        let token = mapped.workspace.path("token");
        for rotation in 0..12 {
            let current = fs::read_to_string(&token).unwrap();
            for (door, owner) in mapped.doors() {
                assert_eq!(mapped.read(door, owner).ok(), format!("{current}{current}"));
                for other in [OWNER, MAPPED, STRANGER].into_iter().filter(|user| *user != owner) {
                    is_denied(&mapped.read(door, other));
                    is_denied(&mapped.shell(door, other, "echo now > \"$1/refresh\"", ""));
                }
                let told = mapped.shell(door, owner, "stat -c %u,%g \"$1/token\"", "");
                assert_eq!(told.ok(), format!("{owner},{owner}\n"));
            }
            if rotation == 6 {
                // The next one answers INIT as this one did, and the bind stays what it was.
                mapped.workspace.daemon.kill_worker(Signal::SIGKILL);
            }
            let (door, owner) = mapped.doors()[rotation % 2];
            let fingerprint = Fingerprint::of(current.as_bytes()).to_string();
            mapped.shell(door, owner, "echo \"$2\" > \"$1/refresh\"", &fingerprint).ok();
            eventually("another token", secs(10), || {
                (fs::read_to_string(&token).unwrap() != current).then_some(())
            });
        }
    });
}

/// Everybody may read, so that the mode bits tell nobody apart; who is refused hears of it soon.
const OPEN_TO_ALL: [&str; 4] = ["--mode", "0444", "--open-timeout", "500ms"];

#[test]
fn a_rejection_withholds_from_the_user_who_said_so_by_whatever_door() {
    sandboxed(secs(60), || {
        for (rejecter, at) in [(OWNER, 0), (MAPPED, 1)] {
            let mapped = Mapped::new(&OPEN_TO_ALL);
            let doors = mapped.doors().map(|(door, _)| door);
            let token = fs::read_to_string(mapped.workspace.path("token")).unwrap();
            // The platform caches its token, and so insists on it.
            mapped.workspace.demo.faults().stick(Service::Platform, Some(Fault::Repeat));
            let fingerprint = Fingerprint::of(token.as_bytes()).to_string();
            mapped.shell(doors[at], rejecter, "echo \"$2\" > \"$1/refresh\"", &fingerprint).ok();
            let others = [OWNER, MAPPED, STRANGER].into_iter().filter(|user| *user != rejecter);
            for other in others {
                for door in doors {
                    assert_eq!(mapped.read(door, other).ok(), format!("{token}{token}"));
                }
            }
            for door in doors {
                for name in ["token", "live/token"] {
                    let told = mapped.shell(door, rejecter, "cat \"$1/$2\"", name);
                    assert!(!told.status.success(), "{rejecter} {told:?}");
                }
            }
            let judged = &mapped.workspace.status()["summary"];
            let words = format!("not to user {rejecter}");
            assert!(judged.as_str().unwrap().contains(&words), "{judged}");
        }
    });
}

/// How often a process has read anything (`proc_pid_io(5)`).
fn reads_of(process: nix::unistd::Pid) -> u64 {
    let told = fs::read_to_string(format!("/proc/{process}/io")).unwrap();
    let line = told.lines().find_map(|line| line.strip_prefix("syscr: "));
    line.unwrap().parse().unwrap()
}

#[test]
fn a_warm_open_looks_nobody_up_and_one_after_a_rejection_does() {
    sandboxed(secs(60), || {
        const OPENS: u64 = 200;
        let mapped = Mapped::new(&OPEN_TO_ALL);
        let token = mapped.workspace.path("token");
        let bytes = fs::read(&token).unwrap();
        let reads_per_open = || {
            let worker = mapped.workspace.daemon.worker().unwrap();
            let before = reads_of(worker);
            (0..OPENS).for_each(|_| assert_eq!(fs::read(&token).unwrap(), bytes));
            (reads_of(worker) - before) / OPENS
        };
        // Of the connection: OPEN and RELEASE, and now and then LOOKUP.
        let warm = reads_per_open();
        assert!(warm <= 2, "{warm} reads for each open");
        mapped.workspace.demo.faults().stick(Service::Platform, Some(Fault::Repeat));
        let fingerprint = Fingerprint::of(&bytes).to_string();
        let [(plain, owner), _] = mapped.doors();
        mapped.shell(plain, owner, "echo \"$2\" > \"$1/refresh\"", &fingerprint).ok();
        let rejected = reads_per_open();
        assert!(rejected > warm, "{rejected} reads for each open");
    });
}

#[test]
fn what_no_mode_bit_decides_goes_by_the_callers_own_number() {
    sandboxed(secs(60), || {
        let file = Mapped::new(&["--layout", "file"]);
        let refresh = "setfattr -n system.molecule.refresh -v now \"$1\"";
        let read = "cat \"$1\" && getfattr --only-values -n user.molecule.status \"$1\"";
        for (door, owner) in file.doors() {
            assert!(file.shell(door, owner, read, "").ok().contains("\"state\""));
            is_denied(&file.shell(door, STRANGER, read, ""));
            is_denied(&file.shell(door, STRANGER, refresh, ""));
        }
        let [(plain, _), (bound, _)] = file.doors();
        is_denied(&file.shell(bound, MAPPED, refresh, ""));
        file.shell(plain, OWNER, refresh, "").ok();

        let failing = Mapped::new(&[]);
        fs::remove_file(failing.workspace.dir.join("configs/.auth_token")).unwrap();
        fs::read(failing.workspace.path("token")).unwrap_err();
        let [(plain, _), (bound, _)] = failing.doors();
        for (door, user, knows) in
            [(plain, OWNER, true), (bound, OWNER, true), (bound, MAPPED, false), (plain, 0, true)]
        {
            let told = failing.shell(door, user, "cat \"$1/status.json\"", "").ok();
            assert_eq!(told.contains(".auth_token"), knows, "{user}: {told}");
        }
    });
}

/// Its workers neither find who is outside by number, nor may go by the numbers of the `/proc` there.
#[test]
fn a_daemon_in_a_pid_namespace_takes_nobody_for_somebody_else() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        // The parent's /proc stays mounted.
        let inner = || Daemon::by(&dir, "unshare", &["--pid", "--fork", "--kill-child", "--"]);
        let daemon = inner().start();
        fs::read(daemon.path("token")).unwrap_err();
        let status = daemon.path("status.json");
        assert!(!fs::read_to_string(&status).unwrap().contains(".auth_token"), "not even root");
        let supervisor = daemon.worker().expect("the child of unshare").to_string();
        let mut inside = command("nsenter", User::Own);
        inside.args(["--target", &supervisor, "--pid", "cat"]).arg(&status);
        let told = run(inside, &dir, secs(5)).ok();
        assert!(told.contains("\"state\"") && !told.contains(".auth_token"), "{told}");

        let file = dir.join("file");
        let layout = ["--layout", "file", "--made-up", "1h"];
        let daemon = inner().args(layout).mountpoint(&file).start();
        assert!(fs::read(&file).unwrap().starts_with(b"ghs_"));
        let refresh = rustix::fs::setxattr(
            &file,
            "system.molecule.refresh",
            b"now",
            rustix::fs::XattrFlags::empty(),
        );
        assert_eq!(refresh, Err(rustix::io::Errno::ACCESS), "{}", daemon.log());
    });
}
