//! What the log says, and how often.

use std::fs;
use std::thread;

use molecule_tokenfs::demo::faults::{Fault, Service};
use molecule_tokenfs::demo::{Demo, Setup};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};

use crate::support::daemon::{Daemon, PROGRAM};
use crate::support::dir::TestDir;
use crate::support::namespace::{open_fuse_device, sandboxed};
use crate::support::process::{ORDINARY, User, command, run};
use crate::support::{eventually, secs};

#[test]
fn the_death_of_a_worker_is_one_warning() {
    sandboxed(secs(60), || {
        for resend in [&[][..], &["--without-resend"]] {
            let dir = TestDir::new();
            let demo = Demo::start(Setup::default()).unwrap();
            demo.register(&dir.join("configs")).unwrap();
            let daemon = Daemon::at(&dir).env("PLATFORM_URL", demo.url()).args(resend);
            let daemon = daemon.env("WORKSPACE_ID", &demo.address().workspace_id);
            let daemon = daemon.log_level("info").args(["--owner", "0"]).start();
            demo.faults().stick(Service::Platform, Some(Fault::Hang));
            let path = daemon.path("token");
            // The next worker finds it waiting.
            let reader = thread::spawn(move || fs::read(path).map_err(|error| error.to_string()));
            eventually("the reader waits", secs(5), || {
                (demo.ledger().counts().platform.requests > 0).then_some(())
            });
            daemon.kill_worker(Signal::SIGKILL);
            eventually("the next one asks, too", secs(10), || {
                (demo.ledger().counts().platform.requests > 1).then_some(())
            });
            demo.faults().stick(Service::Platform, None);
            let _ = reader.join().unwrap();
            let log = eventually("the death is told", secs(5), || {
                Some(daemon.log()).filter(|log| log.contains("the worker died"))
            });
            assert!(!log.contains("ERROR") && !log.contains("Short read"), "{log}");
            assert!(!log.contains("log.file"), "{log}");
        }
    });
}

#[test]
fn memory_that_cannot_be_locked_is_told_once_and_not_by_each_worker() {
    sandboxed(secs(60), || {
        setrlimit(Resource::RLIMIT_MEMLOCK, 0, 0).unwrap();
        let dir = TestDir::new();
        open_fuse_device(&dir);
        dir.give_to(ORDINARY);
        let user = User::Number(ORDINARY);
        let mut daemon = Daemon::of(&dir, user).log_level("info").args(["--made-up", "1m"]).start();
        for _ in 0..3 {
            let before = eventually("a worker", secs(10), || daemon.worker());
            kill(before, Signal::SIGKILL).unwrap();
            eventually("the next worker", secs(10), || {
                daemon.worker().filter(|worker| *worker != before)
            });
            let mut cat = command("cat", user);
            cat.arg(daemon.path("token"));
            run(cat, &dir, secs(5)).ok();
        }
        assert_eq!(daemon.stop().code(), Some(0));
        let log = daemon.log();
        assert_eq!(log.matches("cannot lock the memory").count(), 1, "{log}");
        assert_eq!(log.matches("signal: 9 (SIGKILL)").count(), 3, "{log}");
    });
}

#[test]
fn no_line_names_a_directory_of_whoever_built_the_program() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        // Everything, that of libraries too, and a panic.
        let daemon = Daemon::at(&dir).log_level("trace,fuser=trace,tokio=trace,hyper=trace");
        let mut daemon = daemon.args(["--made-up", "1m", "--fault", "panic:readdir:2"]).start();
        for _ in 0..3 {
            let entries = fs::read_dir(daemon.mountpoint()).unwrap();
            assert!(entries.collect::<Result<Vec<_>, _>>().is_ok());
            fs::read(daemon.path("token")).unwrap();
        }
        assert_eq!(daemon.stop().code(), Some(0));
        let log = daemon.log();
        assert!(log.contains("a fault on demand") && log.contains("fuser::"), "{log}");
        let built_in = [env!("CARGO_MANIFEST_DIR"), "/.cargo/", "/registry/"];
        for line in log.lines().filter(|line| !line.contains(PROGRAM)) {
            assert!(!built_in.iter().any(|place| line.contains(place)), "{line}");
        }
    });
}
