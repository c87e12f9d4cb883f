//! The named errors.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use molecule_tokenfs::demo::Setup;
use molecule_tokenfs::demo::faults::Fault;
use molecule_tokenfs::demo::ledger::Verdict;
use molecule_tokenfs::fs::journal::OPENS;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};

use crate::support::daemon::Daemon;
use crate::support::dir::TestDir;
use crate::support::{eventually, patience, secs};
use crate::{Section, Workspace, fails};

/// The deadline of opens, longer where the machine is slower.
fn deadline(length: Duration) -> [String; 2] {
    ["--open-timeout".to_owned(), format!("{}s", patience(length).as_secs())]
}

/// A deadline that no test waits for: what comes before it comes by itself.
fn patient() -> [String; 2] {
    deadline(secs(60))
}

#[expect(clippy::disallowed_methods, reason = "a test runs in real time")]
fn now() -> Instant {
    Instant::now()
}

fn hour() -> Setup {
    Setup::with_life(Duration::from_hours(1))
}

/// More than there is room for.
const TOO_MANY: usize = 50;

fn too_many(workspace: &Workspace) {
    workspace.stick(Fault::Hang);
    let (refused, other) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let reader = |_| {
        let path = workspace.mount.path("token");
        let (refused, other) = (Arc::clone(&refused), Arc::clone(&other));
        let read = move || {
            let too_many = fails(fs::read(path)) == Errno::EAGAIN;
            if too_many { refused } else { other }.fetch_add(1, Ordering::Relaxed);
        };
        std::thread::Builder::new().stack_size(64 * 1024).spawn(read).unwrap()
    };
    let readers: Vec<_> = (0..OPENS + TOO_MANY).map(reader).collect();
    eventually("the last ones are refused", secs(30), || {
        (refused.load(Ordering::Relaxed) == TOO_MANY).then_some(())
    });
    assert_eq!(workspace.mount.status()["tokens"][0]["refusals"]["EAGAIN"], TOO_MANY);
    assert_eq!(other.load(Ordering::Relaxed), 0);
    // Nobody waits for their deadline.
    kill(workspace.mount.daemon.pid(), Signal::SIGTERM).unwrap();
    for reader in readers {
        reader.join().unwrap();
    }
    assert_eq!(other.load(Ordering::Relaxed), OPENS);
}

pub fn check(section: &mut Section) {
    section.says(
        "No bearer, as before a workspace has registered, and no token in the environment: \
         `ENOKEY`, as soon as the next attempt is due only after the deadline.",
        || {
            let dir = TestDir::new();
            let unregistered = Daemon::at(&dir).args(deadline(secs(1))).start();
            assert_eq!(fails(fs::read(unregistered.path("token"))), Errno::ENOKEY);
        },
    );
    section.says(
        "A source that fails, and none that ever gave a token: `ENOKEY`, as soon as the next \
         attempt is due only after the deadline.",
        || {
            let failing = Workspace::new(hour(), |builder| builder.args(deadline(secs(1))));
            failing.stick(Fault::Status(500));
            assert_eq!(fails(fs::read(failing.mount.path("token"))), Errno::ENOKEY);
        },
    );
    section.says("A source that refuses us: `EKEYREJECTED`, at once.", || {
        let refusing = Workspace::new(hour(), |builder| builder.args(patient()));
        refusing.stick(Fault::Status(403));
        assert_eq!(fails(fs::read(refusing.mount.path("token"))), Errno::EKEYREJECTED);
    });
    section.says(
        "A source that does not answer: `ETIMEDOUT`, at the deadline and not before it.",
        || {
            let hanging = Workspace::new(hour(), |builder| builder.args(deadline(secs(1))));
            hanging.stick(Fault::Hang);
            let start = now();
            assert_eq!(fails(fs::read(hanging.mount.path("token"))), Errno::ETIMEDOUT);
            assert!(now() - start >= patience(secs(1)));
        },
    );
    section.says(
        "A token that ran out while no source gives another: `EKEYEXPIRED`, as soon as the next \
         attempt is due only after the deadline.",
        || {
            let ending = Workspace::new(Setup::with_life(secs(2)), |builder| {
                builder.args(deadline(secs(1)))
            });
            fs::read(ending.mount.path("token")).unwrap();
            ending.stick(Fault::Status(500));
            eventually("it ran out", secs(10), || {
                let error = fs::read(ending.mount.path("token")).err()?;
                assert_eq!(error.raw_os_error(), Some(Errno::EKEYEXPIRED as i32));
                Some(())
            });
        },
    );
    section.says(
        "An open that would have to wait while 4,096 others wait already: `EAGAIN`, at once; the \
         others go on waiting.",
        || too_many(&Workspace::new(hour(), |builder| builder.args(patient()))),
    );
    section.says("A failure takes no token away that is still fresh.", || {
        let workspace = Workspace::new(hour(), |builder| builder);
        let path = workspace.mount.path("token");
        let token = fs::read(&path).unwrap();
        workspace.stick(Fault::Status(500));
        fs::write(workspace.mount.path("refresh"), "now").unwrap();
        eventually("the failure is known", secs(5), || {
            (workspace.mount.status()["state"] == "degraded").then_some(())
        });
        assert_eq!(fs::read(&path).unwrap(), token);
        assert_eq!(workspace.demo.ledger().verdict(&token), Verdict::Live);
    });
}
