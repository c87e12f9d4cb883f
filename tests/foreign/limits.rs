//! What is bounded, and what a refusal of the system comes to.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use molecule_tokenfs::demo::Setup;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::support::daemon::{Daemon, PROGRAM};
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::{User, command, run};
use crate::support::{eventually, secs};
use crate::{AT_ONCE, World};

/// How long a file is changed without a pause.
const STORM: Duration = secs(6);

#[test]
fn a_file_that_changes_all_the_time_starts_about_one_process_a_second() {
    sandboxed(secs(90), || {
        let world = World::start();
        world.open().unwrap();
        // A refusal is retried as soon as the bearer changes.
        fs::write(world.bearer(), "not-the-one").unwrap();
        world.refresh();
        eventually("the refusal", AT_ONCE, || {
            (world.token()["last_failure"]["kind"] == "unauthorized").then_some(())
        });
        let opens = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&opens, world.bearer(), WatchFlags::OPEN).unwrap();

        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, bearer) = (Arc::clone(&stop), world.bearer());
        let storm = std::thread::spawn(move || {
            let mut touched = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                let now = TimeSpec::UTIME_NOW;
                let follow = UtimensatFlags::FollowSymlink;
                utimensat(nix::fcntl::AT_FDCWD, &bearer, &now, &now, follow).unwrap();
                touched += 1;
            }
            touched
        });
        let mut read = 0;
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        for _ in 0..STORM.as_millis() / 10 {
            std::thread::sleep(Duration::from_millis(10));
            let mut events = inotify::Reader::new(&opens, &mut buffer);
            while events.next().is_ok() {
                read += 1;
            }
        }
        // One a second, and a few in a row at the beginning. Each change has the platform asked anew,
        // for which the file is read again.
        let most = STORM.as_secs() + 6;
        assert!((2..=most).contains(&read), "the file was opened {read} times");
        world.register();
        eventually("no failure", AT_ONCE, || world.token()["last_failure"].is_null().then_some(()));
        stop.store(true, Ordering::Relaxed);
        let touched = storm.join().unwrap();
        assert!(touched > 1000, "that is no storm: {touched}");
    });
}

#[test]
fn without_inotify_a_change_is_noticed_at_the_next_attempt() {
    sandboxed(secs(90), || {
        for limit in ["max_inotify_instances", "max_inotify_watches"] {
            let dir = TestDir::new();
            let demo = molecule_tokenfs::demo::Demo::start(Setup::default()).unwrap();
            demo.register(&dir.join("configs")).unwrap();
            fs::create_dir(dir.join("token")).unwrap();
            // The limits of a user namespace are its own. Nobody outside sees its mount.
            let script = format!(
                "set -e; echo 0 >/proc/sys/user/{limit}
                 \"$0\" mount --log-level trace \"$1\" &
                 until [ -e \"$1/status.json\" ]; do sleep 0.05; done
                 cat \"$1/token\" >/dev/null
                 until echo now >\"$1/refresh\"; do sleep 0.1; done
                 until grep -q '\"fetches\": 2' \"$1/status.json\"; do sleep 0.1; done
                 kill $!; wait $!"
            );
            let mut mount = command("unshare", User::Own);
            mount.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, PROGRAM]);
            mount.arg(dir.join("token")).env("PLATFORM_URL", demo.url());
            mount.env("CONFIGS_DIR", dir.join("configs"));
            mount.env("WORKSPACE_ID", &demo.address().workspace_id);
            let finished = run(mount, &dir, secs(30));
            let log = &finished.stderr;
            assert!(finished.status.success(), "{limit}: {log}");
            assert_eq!(log.matches("cannot watch the file").count(), 1, "{limit}: {log}");
        }
    });
}

#[test]
fn the_files_backend_reads_in_the_same_way() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let demo = molecule_tokenfs::demo::Demo::start(Setup::default()).unwrap();
        crate::register(&demo, &dir.join("configs"));
        let base = dir.folder("memory");
        let none = None::<&str>;
        nix::mount::mount(none, &base, Some("tmpfs"), nix::mount::MsFlags::empty(), none).unwrap();
        let secret = dir.file("secret", "canary-of-root");
        fs::remove_file(dir.join("configs/.auth_token")).unwrap();
        std::os::unix::fs::symlink(&secret, dir.join("configs/.auth_token")).unwrap();
        let daemon = Daemon::at(&dir)
            .mountpoint(base.join("token"))
            .env("PLATFORM_URL", demo.url())
            .env("WORKSPACE_ID", &demo.address().workspace_id)
            .args(["--backend", "files"])
            .start();
        eventually("the refusal", AT_ONCE, || daemon.log().contains("is a link").then_some(()));
        assert_eq!(demo.ledger().counts().platform.requests, 0);
        fs::remove_file(dir.join("configs/.auth_token")).unwrap();
        crate::register(&demo, &dir.join("configs"));
        eventually("a token", AT_ONCE, || fs::read(daemon.path("token")).ok());
        eventually("no process stays", AT_ONCE, || {
            crate::children(daemon.pid()).is_empty().then_some(())
        });
    });
}
