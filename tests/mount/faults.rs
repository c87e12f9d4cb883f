//! A worker that breaks at a certain place: readers do not notice, or get an error and no hang.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::thread::JoinHandle;

use molecule_tokenfs::demo::faults::{Fault::Slow, Service};
use molecule_tokenfs::demo::{Demo, Setup};
use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::crashes::Readers;
use crate::read;
use crate::support::daemon::Daemon;
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::opens::Opens;
use crate::support::process::errno;
use crate::support::{eventually, limit, millis, secs};

/// Tokens rotate each tenth of a second.
fn broken(dir: &TestDir, args: &[&str]) -> Daemon {
    let often = ["--refresh-interval", "100ms", "--refresh-jitter", "0s"];
    Daemon::at(dir).args(["--made-up", "1s"]).args(often).args(args).start()
}

/// Makes every kind of request to the mount; what is refused is refused by a named error.
fn everything(daemon: &Daemon) {
    for folder in [".", "live"] {
        let names = fs::read_dir(daemon.path(folder)).expect("a directory");
        let names: Vec<_> = names.map(|name| name.expect("a name")).collect();
        assert!(names.len() > 5);
    }
    nix::sys::statfs::statfs(daemon.mountpoint()).expect("statfs");
    for name in ["token", "live/token"] {
        let seen = read(&daemon.path(name)).expect("a token");
        assert_eq!(seen.size, seen.bytes.len() as u64);
    }
    let file = File::open(daemon.path("live/token")).expect("a token");
    assert_eq!(rustix::fs::ioctl_blksszget(&file), Err(rustix::io::Errno::NOTTY));
    rustix::fs::fsync(&file).ok();
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).ok();
    let mut polled = [rustix::event::PollFd::new(&file, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut polled, None), Ok(1));
    let token = daemon.path("token");
    rustix::fs::getxattr(&token, "user.x", &mut [0_u8; 64]).expect_err("no such attribute");
    rustix::fs::listxattr(&token, &mut [0_u8; 256]).ok();
    let refused = fs::create_dir(daemon.path("new")).expect_err("it is read-only");
    assert_eq!(errno(&refused), Some(Errno::EROFS));
    let mut refresh = OpenOptions::new().write(true).open(daemon.path("refresh")).expect("opened");
    if let Err(error) = refresh.write(b"now") {
        assert_eq!(errno(&error), Some(Errno::EAGAIN));
    }
}

/// The places and at which pass: some requests the kernel makes only once.
const PANICS: [&str; 20] = [
    "lookup:2",
    "getattr:2",
    "setattr:2",
    "open:2",
    "read:2",
    "write:1",
    "release:2",
    "readdir:2",
    "statfs:2",
    "ioctl:1",
    "getxattr:1",
    "listxattr:1",
    "rename:2",
    "mkdir:1",
    "task:1",
    "slot:2",
    "fsync:1",
    "lseek:1",
    "poll:1",
    "after-lookup:9",
];

#[test]
fn a_panic_in_any_handler_is_not_noticed() {
    sandboxed(secs(90), || {
        limit::each(&PANICS, str::to_owned, |place| {
            let dir = TestDir::new();
            let daemon = broken(&dir, &["--fault", &format!("panic:{place}")]);
            let readers = Readers::start(&daemon, 2);
            eventually("it happened", secs(20), || {
                everything(&daemon);
                daemon.log().contains("a fault on demand").then_some(())
            });
            everything(&daemon);
            readers.end();
        });
    });
}

#[test]
fn a_request_of_which_workers_die_is_answered_with_an_error_and_the_others_are_served() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let daemon = broken(&dir, &["--fault", "panic:readdir:1-"]);
        let readers = Opens::start(&daemon, 2);
        for _ in 0..5 {
            let mut names = fs::read_dir(daemon.mountpoint()).expect("a directory");
            let error = names.next().expect("an answer").expect_err("no worker survives it");
            assert_eq!(errno(&error), Some(Errno::EIO));
        }
        let during = readers.done();
        eventually("the others are served", secs(5), || {
            (readers.done() > during + 100).then_some(())
        });
        let seen = readers.end();
        assert!(seen.is_clean(false), "{seen:?}");
        daemon.wait_for_log("workers died of it");
    });
}

/// An open of a generation that is gone is told to look again, and the kernel does so once: a worker that
/// dies in between must not tell it a second time.
#[test]
fn a_death_between_judgement_and_answer_makes_no_open_fail() {
    sandboxed(secs(60), || {
        for kernel in [&[][..], &["--without-resend"]] {
            let dir = TestDir::new();
            let daemon = broken(&dir, &[&["--fault", "kill:judged:/7"], kernel].concat());
            let token =
                File::options().read(true).custom_flags(libc::O_PATH).open(daemon.path("token"));
            let token = token.expect("a descriptor of the generation of now");
            let again = format!("/proc/self/fd/{}", token.as_raw_fd());
            for n in 0..200 {
                let bytes = fs::read(&again).unwrap_or_else(|error| panic!("open {n}: {error}"));
                assert!(!bytes.is_empty());
            }
            assert!(daemon.log().matches("the worker died").count() > 40, "{}", daemon.log());
        }
    });
}

#[test]
fn a_first_worker_that_crashes_at_every_start_ends_the_mount() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let args = ["--made-up", "1h", "--fault", "panic:start:1-"];
        let mut daemon = Daemon::at(&dir).args(args).spawn();
        let status = daemon.process().wait(secs(20));
        assert_eq!(status.code(), Some(1), "{}", daemon.log());
        assert!(daemon.log().contains("failed 6 times in a row"), "{}", daemon.log());
        assert!(read(&daemon.path("token")).is_err());
        assert!(crate::support::dir::mounts_below(dir.path()).is_empty());
    });
}

#[test]
fn a_worker_that_is_killed_a_hundred_times_is_always_restarted() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let daemon = Daemon::at(&dir).args(["--made-up", "1h"]).start();
        let first = read(&daemon.path("token")).unwrap().bytes;
        for _ in 0..100 {
            let old = daemon.worker();
            daemon.kill_worker(Signal::SIGKILL);
            eventually("another one", secs(5), || (daemon.worker() != old).then_some(()));
            assert_eq!(read(&daemon.path("live/token")).unwrap().bytes, first);
        }
    });
}

#[test]
fn without_the_kernels_help_no_open_fails_or_hangs_either() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let daemon = broken(&dir, &["--without-resend"]);
        let readers = Opens::start(&daemon, 4);
        for n in 0..30 {
            std::thread::sleep(millis(60 + n * 13 % 60));
            daemon.kill_worker(Signal::SIGKILL);
        }
        let seen = readers.end();
        println!("{seen:?}");
        assert!(seen.opens > 300 && seen.is_clean(true), "{seen:?}");
    });
}

/// Without the kernel's help an answer to what a dead worker left goes over a socket first.
#[test]
fn a_death_before_an_answer_is_passed_on_leaves_nobody_waiting() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let demo = Demo::start(Setup::default()).expect("the demo platform starts");
        demo.register(&dir.join("configs")).expect("the workspace registers");
        demo.faults().stick(Service::Platform, Some(Slow(secs(2))));
        let daemon = Daemon::at(&dir)
            .args(["--open-timeout", "20s", "--without-resend", "--fault", "kill:passed-on"])
            .env("PLATFORM_URL", demo.url())
            .env("WORKSPACE_ID", &demo.address().workspace_id)
            .start();
        let open = |name| {
            let path = daemon.path(name);
            std::thread::spawn(move || fs::read(path))
        };
        let readers: Vec<_> = ["token", "live/token", "header"].into_iter().map(open).collect();
        std::thread::sleep(millis(300));
        daemon.kill_worker(Signal::SIGKILL);
        let is_done = || readers.iter().all(JoinHandle::is_finished).then_some(());
        eventually("all are answered", secs(10), is_done);
        for reader in readers {
            assert!(!reader.join().expect("a reader").expect("a token").is_empty());
        }
        assert_eq!(daemon.log().matches("the worker died").count(), 2, "{}", daemon.log());
    });
}

/// Its sweep over the requests that may be lost takes longer than a worker may be silent.
#[test]
fn a_worker_that_takes_over_slowly_is_left_to_it() {
    sandboxed(secs(90), || {
        let dir = TestDir::new();
        let slow = ["--without-resend", "--open-timeout", "30s", "--fault", "sleep:step:1-:5ms"];
        let daemon = Daemon::at(&dir).args(["--made-up", "1h"]).args(slow).start();
        let readers = Opens::start(&daemon, 2);
        for _ in 0..2 {
            let served = |what| {
                let done = readers.done();
                eventually(what, secs(30), || (readers.done() > done + 10).then_some(()));
            };
            served("served");
            let old = daemon.worker();
            daemon.kill_worker(Signal::SIGKILL);
            let next = eventually("the next one", secs(5), || {
                daemon.worker().filter(|next| Some(*next) != old)
            });
            served("served again");
            assert_eq!(daemon.worker(), Some(next), "{}", daemon.log());
        }
        let seen = readers.end();
        assert!(seen.is_clean(true), "{seen:?}");
        assert!(seen.longest_open_ms > 4000.0, "{seen:?}");
    });
}

/// Each step of its start takes a while, and all of them longer than a worker may take for one.
#[test]
fn a_worker_that_starts_slowly_is_left_to_it() {
    sandboxed(secs(90), || {
        let dir = TestDir::new();
        // The first worker has passed four times.
        let slow = ["--open-timeout", "60s", "--fault", "sleep:step:5-7:3s"];
        let daemon = Daemon::at(&dir).args(["--made-up", "1h"]).args(slow).start();
        let token = read(&daemon.path("token")).unwrap().bytes;
        let old = daemon.worker();
        daemon.kill_worker(Signal::SIGKILL);
        let next = eventually("the next one", secs(5), || {
            daemon.worker().filter(|next| Some(*next) != old)
        });
        assert_eq!(read(&daemon.path("live/token")).unwrap().bytes, token);
        assert_eq!(daemon.worker(), Some(next), "{}", daemon.log());
        assert!(!daemon.log().contains("has not gone on"), "{}", daemon.log());
    });
}
