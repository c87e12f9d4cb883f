//! What is left of a mount when its processes die, and when it is taken away.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use molecule_tokenfs::demo::Setup;
use molecule_tokenfs::demo::faults::Fault;
use molecule_tokenfs::demo::ledger::Verdict;
use molecule_tokenfs::secret::Fingerprint;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bound::{bind, kill_worker};
use crate::support::daemon::{Daemon, tokenfs_run};
use crate::support::dir::TestDir;
use crate::support::hung::Hung;
use crate::support::{eventually, millis, secs};
use crate::{Mount, Section, Workspace, fails, is_token};

/// Reads without a pause; an error or a torn token is a panic.
fn read_often(path: &Path) -> JoinHandle<()> {
    let path = path.to_owned();
    std::thread::spawn(move || {
        for _ in 0..2000 {
            is_token(&fs::read(&path).expect("an open never fails"));
        }
    })
}

/// What is seen of a mount whose worker hangs in another file system.
struct Hanging {
    reason: String,
    /// The token before and after.
    before: Vec<u8>,
    after: Vec<u8>,
    /// The errors of what was there before.
    open: Errno,
    bound: Errno,
    under_way: Errno,
}

fn hang() -> Hanging {
    let dir = TestDir::new();
    let hung = Hung::new(&dir);
    let fault = format!("open:readdir:1:{}", hung.file().display());
    let args = ["--open-timeout", "60s", "--fault", &fault];
    let setup = Setup::with_life(Duration::from_hours(1));
    let workspace = Workspace::new(setup, |builder| builder.args(args));
    let mount = &workspace.mount;
    let path = mount.path("token");
    let before = fs::read(&path).unwrap();
    let open = File::open(mount.path("live/token")).unwrap();
    let bound = bind(mount, "live/token", "bound");
    // From now on opens wait, for as long as a token that was refused is withheld.
    workspace.stick(Fault::Hang);
    fs::write(mount.path("refresh"), Fingerprint::of(&before).to_string()).unwrap();
    let waits = path.clone();
    let under_way = std::thread::spawn(move || fs::read(waits));
    let listed = fs::read_dir(mount.daemon.mountpoint()).unwrap().next();
    assert!(listed.unwrap().is_ok(), "the next worker answers");
    let reason = || {
        let status = fs::read(mount.path("status.json")).ok()?;
        let status: serde_json::Value = serde_json::from_slice(&status).ok()?;
        Some(status["last_remount"]["reason"].as_str()?.to_owned())
    };
    let reason = eventually("it is made anew", secs(20), reason);
    let under_way = fails(under_way.join().unwrap());
    assert_eq!(hung.waiting(), 1);
    Hanging {
        reason,
        before,
        after: fs::read(path).unwrap(),
        open: fails(open.read_at(&mut [0; 8], 0)),
        bound: fails(fs::read(bound)),
        under_way,
    }
}

fn worker(mount: &Mount) -> i32 {
    i32::try_from(mount.status()["worker_pid"].as_i64().unwrap()).unwrap()
}

pub fn check(section: &mut Section) {
    let mut mount = Mount::new();
    let path = mount.path("token");
    section.says(
        "From Linux 6.9 on, no open and no read fails because a worker dies, and files that are \
         open stay what they were.",
        || {
            let token = fs::read(&path).unwrap();
            let (held, live) =
                (File::open(&path).unwrap(), File::open(mount.path("live/token")).unwrap());
            for _ in 0..3 {
                let reader = read_often(&path);
                kill_worker(&mount);
                reader.join().unwrap();
                for file in [&held, &live] {
                    let mut bytes = vec![0; token.len()];
                    file.read_exact_at(&mut bytes, 0).unwrap();
                    assert_eq!(bytes, token);
                }
            }
            assert_eq!(fs::read(&path).unwrap(), token);
        },
    );
    section.says(
        "A status file that is open while a worker dies shows a newer state to the next read.",
        || {
            let file = File::open(mount.path("status.json")).unwrap();
            let mut bytes = vec![0; file.metadata().unwrap().len().try_into().unwrap()];
            let mut worker = || -> serde_json::Value {
                file.read_exact_at(&mut bytes, 0).unwrap();
                let status: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                status["worker_pid"].clone()
            };
            let before = worker();
            kill_worker(&mount);
            assert_ne!(worker(), before);
            assert_eq!(worker(), mount.status()["worker_pid"]);
        },
    );
    section.says(
        "A worker that dies while an open waits is replaced, and the open gets its token.",
        || {
            let setup = Setup::with_life(Duration::from_hours(1));
            let workspace = Workspace::new(setup, |builder| builder);
            workspace.stick(Fault::Slow(millis(700)));
            let path = workspace.mount.path("token");
            let reader = std::thread::spawn(move || fs::read(path));
            eventually("it waits", secs(5), || {
                (workspace.demo.ledger().counts().platform.requests > 0).then_some(())
            });
            kill_worker(&workspace.mount);
            let token = reader.join().unwrap().unwrap();
            assert_eq!(workspace.demo.ledger().verdict(&token), Verdict::Live);
        },
    );
    section.says(
        "A request that kills one worker after another fails with `EIO`; the others are served.",
        || {
            let broken =
                Mount::living("1h", |builder| builder.args(["--fault", "panic:readdir:1-"]));
            let mut names = fs::read_dir(broken.daemon.mountpoint()).unwrap();
            assert_eq!(fails(names.next().unwrap()), Errno::EIO);
            is_token(&fs::read(broken.path("token")).unwrap());
        },
    );
    section.says(
        "While no worker can be started, every request fails with `EIO`, an open within its \
         deadline; the start is retried for ever, at most 30 seconds apart, and once it succeeds \
         all is as before.",
        || {
            let limited = Mount::living("1h", |builder| {
                builder.args(["--open-timeout", "1s", "--fault", "panic:start:2-7"])
            });
            let path = limited.path("token");
            let token = fs::read(&path).unwrap();
            kill(Pid::from_raw(worker(&limited)), Signal::SIGKILL).unwrap();
            assert_eq!(fails(fs::read(&path)), Errno::EIO);
            assert_eq!(fails(fs::read_dir(limited.daemon.mountpoint())), Errno::EIO);
            let again = || fs::read(&path).ok();
            assert_eq!(eventually("a worker starts", secs(30), again), token);
        },
    );
    let hanging = hang();
    section.says(
        "If a worker was killed and has not ended 3 seconds later, the connection is given up: \
         the mount is made anew at the same place with the same token, and `last_remount` in the \
         status says so.",
        || {
            assert_eq!(hanging.after, hanging.before);
            assert!(hanging.reason.contains("did not end"), "{}", hanging.reason);
        },
    );
    section.says(
        "Files that were open or bound then are not part of the new mount: they fail with \
         `ENOTCONN`, and what was under way with `ECONNABORTED`.",
        || {
            assert_eq!((hanging.open, hanging.bound), (Errno::ENOTCONN, Errno::ENOTCONN));
            assert_eq!(hanging.under_way, Errno::ECONNABORTED);
        },
    );
    section.says(
        "Before Linux 6.9, too, no open by a path of the mount fails because a worker dies. A \
         `read`, `fstat` or listing of what is open may fail with `ESTALE` in that instant, and \
         so may the open of a view that is bound, if its token has just passed.",
        || {
            let older = Mount::living("1h", |builder| builder.args(["--without-resend"]));
            let path = older.path("live/token");
            // This file may be one of those.
            let worker = || {
                let status = fs::read(older.path("status.json")).ok()?;
                let status: serde_json::Value = serde_json::from_slice(&status).ok()?;
                status["worker_pid"].as_i64()
            };
            for _ in 0..3 {
                let path = path.clone();
                let reader = std::thread::spawn(move || {
                    for _ in 0..1000 {
                        let file = File::open(&path).expect("an open never fails");
                        if let Err(error) = file.metadata() {
                            assert_eq!(fails(Err::<(), _>(error)), Errno::ESTALE);
                        }
                        let mut bytes = vec![0; 100];
                        match file.read_at(&mut bytes, 0) {
                            Ok(length) => assert!(is_token(&bytes[..length]) > 0),
                            Err(error) => assert_eq!(fails(Err::<(), _>(error)), Errno::ESTALE),
                        }
                    }
                });
                let old = eventually("a worker", secs(5), worker);
                kill(Pid::from_raw(i32::try_from(old).unwrap()), Signal::SIGKILL).unwrap();
                eventually("another", secs(5), || worker().filter(|new| *new != old));
                reader.join().unwrap();
            }
        },
    );
    section.says("No open fails because of an upgrade, either.", || {
        let reader = read_often(&path);
        let place = mount.daemon.mountpoint().to_str().unwrap().to_owned();
        tokenfs_run(&mount.dir, &["upgrade", &place]).ok();
        reader.join().unwrap();
    });
    section.says(
        "When the supervisor dies, what is under way fails with `ECONNABORTED` or `ENOTCONN`, \
         and everything after it with `ENOTCONN` until the next start.",
        || {
            let setup = Setup::with_life(Duration::from_hours(1));
            let mut hanging =
                Workspace::new(setup, |builder| builder.args(["--open-timeout", "60s"]));
            hanging.stick(Fault::Hang);
            let token = hanging.mount.path("token");
            let reader = std::thread::spawn(move || fs::read(token));
            eventually("it waits", secs(5), || {
                (hanging.demo.ledger().counts().platform.requests > 0).then_some(())
            });
            kill(hanging.mount.daemon.pid(), Signal::SIGKILL).unwrap();
            hanging.mount.daemon.process().wait(secs(5));
            let error = fails(reader.join().unwrap());
            assert!(matches!(error, Errno::ECONNABORTED | Errno::ENOTCONN), "{error}");
            kill(mount.daemon.pid(), Signal::SIGKILL).unwrap();
            mount.daemon.process().wait(secs(5));
            eventually("readers get an error", secs(5), || {
                let error = fails(Err::<(), _>(fs::read(&path).err()?));
                assert!(matches!(error, Errno::ECONNABORTED | Errno::ENOTCONN), "{error}");
                (error == Errno::ENOTCONN).then_some(())
            });
            assert_eq!(fails(fs::read(mount.path("status.json"))), Errno::ENOTCONN);
            mount.daemon = Daemon::at(&mount.dir).args(["--made-up", "1h"]).start();
            is_token(&fs::read(&path).unwrap());
        },
    );
    section.says(
        "`umount` fails with `EBUSY` while a file is open, and `umount -l` ends the daemon when the \
         last is closed.",
        || {
            let held = File::open(&path).unwrap();
            let root = mount.daemon.mountpoint().to_owned();
            assert_eq!(umount2(&root, MntFlags::empty()), Err(Errno::EBUSY));
            umount2(&root, MntFlags::MNT_DETACH).unwrap();
            drop(held);
            assert_eq!(mount.daemon.process().wait(secs(10)).code(), Some(0));
        },
    );
}
