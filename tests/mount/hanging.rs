//! Workers that hang where no signal reaches them: the supervisor never has more than two, and readers
//! get a token or an error all the same.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use molecule_tokenfs::demo::faults::{Fault, Service};
use molecule_tokenfs::demo::{Demo, Setup};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::unistd::Pid;
use rustix::process::Resource;

use crate::status;
use crate::support::daemon::Daemon;
use crate::support::dir::{TestDir, mounts_below};
use crate::support::hung::Hung;
use crate::support::limited::Limited;
use crate::support::namespace::{open_fuse_device, sandboxed};
use crate::support::opens::as_user;
use crate::support::process::{ORDINARY, User, errno};
use crate::support::{eventually, millis, secs};

/// How long an open waits here.
const DEADLINE: Duration = secs(3);
/// What it may take longer when workers hang one after the other: each is given some seconds.
const SLACK: Duration = secs(10);

/// The workers of a daemon of which some thread has not ended.
fn workers(supervisor: Pid) -> usize {
    let children = format!("/proc/{supervisor}/task/{supervisor}/children");
    let children = fs::read_to_string(children).unwrap_or_default();
    let lives = |child: &&str| {
        let threads = fs::read_dir(format!("/proc/{child}/task")).into_iter().flatten().flatten();
        let mut stats = threads.map(|thread| fs::read_to_string(thread.path().join("stat")));
        stats.any(|stat| stat.is_ok_and(|stat| is_of_a_worker(&stat)))
    };
    children.split_whitespace().filter(lives).count()
}

/// Whether a thread that has not ended is one of a worker's, and not of an ordinary user's mount helper.
fn is_of_a_worker(stat: &str) -> bool {
    let Some((name, rest)) = stat.rsplit_once(") ") else { return false };
    !rest.starts_with(['Z', 'X']) && !name.contains("fusermount")
}

/// Counts workers all the time.
struct Census {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Census {
    fn of(daemon: &Daemon) -> Self {
        let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (supervisor, counts, stopped) = (daemon.pid(), Arc::clone(&most), Arc::clone(&stop));
        let thread = spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                counts.fetch_max(workers(supervisor), Ordering::Relaxed);
                sleep(millis(2));
            }
        });
        Self { stop, most, thread: Some(thread) }
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for Census {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the census");
        }
    }
}

/// Reads in time: a token, or an error of these.
#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
fn read(path: &Path, allowed: &[Errno]) -> Result<Vec<u8>, Errno> {
    let start = Instant::now();
    let read = fs::read(path).map_err(|error| errno(&error).expect("an error of the system"));
    let took = start.elapsed();
    assert!(took < DEADLINE + SLACK, "{took:?}: {:?}", read.map(|_| "a token"));
    if let Err(errno) = &read {
        assert!(allowed.contains(errno), "{errno}");
    }
    read
}

fn at<'a>(dir: &'a TestDir, fault: &str) -> crate::support::daemon::Builder<'a> {
    let args = ["--made-up", "1h", "--open-timeout", "3s", "--fault", fault];
    Daemon::at(dir).log_level("info").args(args)
}

fn remounts(daemon: &Daemon) -> Option<()> {
    let text = fs::read(daemon.path("status.json")).ok()?;
    let status: serde_json::Value = serde_json::from_slice(&text).ok()?;
    status["last_remount"]["reason"].as_str().map(|_| ())
}

fn generation(daemon: &Daemon) -> u64 {
    status(&daemon.path("status.json"))["tokens"][0]["generation"].as_u64().unwrap_or_default()
}

/// Every open gets the token, and there never were more than two workers.
fn all_is_well(daemon: &Daemon, census: &Census, token: &[u8]) {
    for name in ["token", "live/token"] {
        assert_eq!(read(&daemon.path(name), &[]).as_deref(), Ok(token), "{name}");
    }
    assert!(census.most() <= 2, "{} workers", census.most());
    eventually("one worker is left", secs(5), || (workers(daemon.pid()) == 1).then_some(()));
}

/// What an open may see of which workers hang.
const HANGING: [Errno; 4] = [Errno::EIO, Errno::ETIMEDOUT, Errno::ECONNABORTED, Errno::ENOTCONN];

fn replaced(daemon: &Daemon) -> usize {
    let log = daemon.log();
    log.matches("the worker does not answer").count() + log.matches("is made anew").count()
}

#[test]
fn a_worker_whose_answering_thread_opens_its_own_mount_is_replaced_ten_times_in_a_row() {
    sandboxed(secs(180), || {
        let dir = TestDir::new();
        let own = dir.join("token/live/token");
        let daemon = at(&dir, &format!("open:open:3-12:{}", own.display())).start();
        let census = Census::of(&daemon);
        let token = read(&daemon.path("token"), &[]).unwrap();
        let again = || read(&daemon.path("token"), &HANGING).ok();
        assert_eq!(eventually("the last has hung", secs(150), again), token);
        assert!(replaced(&daemon) >= 10, "{}", daemon.log());
        all_is_well(&daemon, &census, &token);
    });
}

#[test]
fn a_worker_whose_waiting_opens_wait_for_its_own_mount_is_replaced_ten_times_in_a_row() {
    sandboxed(secs(180), || {
        let dir = TestDir::new();
        let fault = format!("open:task:1-10:{}", dir.join("token/live/token").display());
        let demo = Demo::start(Setup::default()).expect("the demo platform starts");
        demo.register(&dir.join("configs")).expect("the workspace registers");
        demo.faults().stick(Service::Platform, Some(Fault::Hang));
        let daemon = Daemon::at(&dir)
            .log_level("info")
            .env("PLATFORM_URL", demo.url())
            .env("WORKSPACE_ID", &demo.address().workspace_id)
            .args(["--open-timeout", "1s", "--fault", &fault])
            .start();
        let census = Census::of(&daemon);
        let read_at_once = || {
            let reader = |()| {
                let path = daemon.path("token");
                spawn(move || read(&path, &HANGING))
            };
            let readers = [(); 3].map(reader);
            for reader in readers {
                drop(reader.join().expect("a reader"));
            }
        };
        eventually("ten have hung", secs(150), || {
            read_at_once();
            (replaced(&daemon) >= 10).then_some(())
        });
        demo.faults().heal();
        let token = eventually("a token comes", secs(20), || {
            read(&daemon.path("token"), &[&[Errno::ENOKEY], &HANGING[..]].concat()).ok()
        });
        all_is_well(&daemon, &census, &token);
    });
}

#[test]
fn a_worker_that_hangs_in_another_file_system_costs_the_connection_and_not_the_mount() {
    sandboxed(secs(90), || {
        let dir = TestDir::new();
        let hung = Hung::new(&dir);
        let daemon = at(&dir, &format!("open:open:3:{}", hung.file().display())).start();
        let census = Census::of(&daemon);
        let token = read(&daemon.path("token"), &[]).unwrap();
        let held = File::open(daemon.path("live/token")).unwrap();
        // Delivered to the next worker.
        assert_eq!(read(&daemon.path("token"), &[]).as_deref(), Ok(&token[..]));
        assert_eq!(workers(daemon.pid()), 2);
        eventually("the mount is made anew", secs(20), || remounts(&daemon));
        let dead = held.read_at(&mut [0; 8], 0).unwrap_err();
        assert_eq!(errno(&dead), Some(Errno::ENOTCONN));
        assert_eq!(mounts_below(daemon.mountpoint()).len(), 1);
        assert_eq!(read(&daemon.path("token"), &[]).as_deref(), Ok(&token[..]));
        assert_eq!(generation(&daemon), 1, "the state is the same");
        assert!(daemon.log().contains("the mount is made anew"), "{}", daemon.log());
        assert_eq!(hung.waiting(), 1, "it hangs on");
        hung.let_go();
        all_is_well(&daemon, &census, &token);
    });
}

#[test]
fn where_two_workers_hang_no_third_is_started_and_opens_fail_until_one_has_ended() {
    sandboxed(secs(120), || {
        let dir = TestDir::new();
        let hung = Hung::new(&dir);
        let fault = format!("open:open:3-99:{}", hung.file().display());
        let daemon = at(&dir, &fault).start();
        let census = Census::of(&daemon);
        let token = read(&daemon.path("token"), &[]).unwrap();
        eventually("two hang", secs(40), || {
            read(&daemon.path("token"), &HANGING).err();
            daemon.log().contains("nobody serves").then_some(())
        });
        for _ in 0..20 {
            assert_eq!(read(&daemon.path("live/token"), &HANGING), Err(Errno::EIO));
            sleep(millis(100));
        }
        assert_eq!(errno(&fs::metadata(daemon.path("netrc")).unwrap_err()), Some(Errno::EIO));
        assert_eq!(workers(daemon.pid()), 2);
        hung.let_go();
        eventually("a token is served again", secs(10), || {
            read(&daemon.path("token"), &HANGING).ok()
        });
        all_is_well(&daemon, &census, &token);
    });
}

#[test]
fn a_daemon_whose_worker_hangs_ends_when_it_is_told_to_and_leaves_no_reader_waiting() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let hung = Hung::new(&dir);
        let fault = format!("open:open:3-99:{}", hung.file().display());
        let mut daemon = at(&dir, &fault).start();
        read(&daemon.path("token"), &[]).unwrap();
        let path = daemon.path("token");
        let reader = spawn(move || read(&path, &HANGING));
        eventually("a worker hangs", secs(10), || (hung.waiting() == 1).then_some(()));
        assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
        reader.join().expect("a reader").expect_err("nobody serves");
        assert!(mounts_below(daemon.mountpoint()).is_empty());
        assert_eq!(hung.waiting(), 1);
    });
}

/// An ordinary user's daemon whose worker hangs at the second open; with the kernel's control file system
/// for connections, through which alone such a user can abort one, or without.
fn of_a_user(dir: &TestDir, is_controlled: bool) -> (Hung, Daemon) {
    open_fuse_device(dir);
    dir.give_to(ORDINARY);
    let hung = Hung::new(dir);
    let (none, kind) = (None::<&str>, if is_controlled { "fusectl" } else { "tmpfs" });
    let connections = Path::new("/sys/fs/fuse/connections");
    mount(none, connections, Some(kind), MsFlags::empty(), none).expect(kind);
    let fault = format!("open:open:3:{}", hung.file().display());
    let daemon = Daemon::of(dir, User::Number(ORDINARY))
        .log_level("info")
        .args(["--made-up", "1h", "--open-timeout", "3s", "--fault", &fault])
        .start();
    (hung, daemon)
}

fn read_as_user(daemon: &Daemon, name: &str) -> Result<Vec<u8>, Errno> {
    // Between the old mount and the new one, the helper shows the directory beneath.
    let allowed = [&[Errno::ENOENT], &HANGING[..]].concat();
    as_user(|| read(&daemon.path(name), &allowed))
}

#[test]
fn what_hangs_costs_the_connection_where_the_user_may_abort_it_through_the_helper() {
    for is_controlled in [true, false] {
        sandboxed(secs(60), move || {
            let dir = TestDir::new();
            let (hung, daemon) = of_a_user(&dir, is_controlled);
            let token = read_as_user(&daemon, "token").unwrap();
            assert_eq!(read_as_user(&daemon, "token").as_deref(), Ok(&token[..]));
            let said = if is_controlled { "is made anew" } else { "stays as it is" };
            eventually(said, secs(20), || daemon.log().contains(said).then_some(()));
            assert_eq!(read_as_user(&daemon, "live/token").as_deref(), Ok(&token[..]));
            assert_eq!((hung.waiting(), workers(daemon.pid())), (1, 2));
            assert_eq!(as_user(|| remounts(&daemon)).is_some(), is_controlled);
            assert_eq!(mounts_below(daemon.mountpoint()).len(), 1);
            hung.let_go();
            eventually("it ends", secs(5), || (workers(daemon.pid()) == 1).then_some(()));
            assert_eq!(read_as_user(&daemon, "token").as_deref(), Ok(&token[..]));
        });
    }
}

/// The mount helper is a process, too.
#[test]
fn a_mount_that_cannot_be_made_anew_yet_is_tried_again_through_the_helper() {
    sandboxed(secs(90), || {
        let dir = TestDir::new();
        let (hung, daemon) = of_a_user(&dir, true);
        let token = read_as_user(&daemon, "token").unwrap();
        assert_eq!(read_as_user(&daemon, "token").as_deref(), Ok(&token[..]));
        let limited = as_user(|| Limited::to(&daemon, Resource::Nproc, 1));
        let said = "cannot be made anew";
        eventually(said, secs(20), || daemon.log().contains(said).then_some(()));
        assert_eq!(read_as_user(&daemon, "token"), Err(Errno::ENOTCONN));
        as_user(move || drop(limited));
        let again = || read_as_user(&daemon, "token").ok();
        assert_eq!(eventually("a token again", secs(40), again), token);
        assert_eq!(mounts_below(daemon.mountpoint()).len(), 1);
        hung.let_go();
    });
}
