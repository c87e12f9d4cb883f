//! The named errors.

use std::fs;
use std::time::{Duration, Instant};

use molecule_tokenfs::demo::Setup;
use molecule_tokenfs::demo::faults::Fault;
use molecule_tokenfs::demo::ledger::Verdict;
use nix::errno::Errno;

use crate::support::daemon::Daemon;
use crate::support::dir::TestDir;
use crate::support::{eventually, secs};
use crate::{Section, Workspace, fails};

/// A time limit that no test waits for: what comes before it comes by itself.
const PATIENT: [&str; 2] = ["--open-timeout", "60s"];

#[expect(clippy::disallowed_methods, reason = "a test runs in real time")]
fn now() -> Instant {
    Instant::now()
}

fn hour() -> Setup {
    Setup::with_life(Duration::from_hours(1))
}

pub fn check(section: &mut Section) {
    section.says("No source configured: `ENOKEY`, at once.", || {
        let dir = TestDir::new();
        let unconfigured = Daemon::at(&dir).args(PATIENT).start();
        assert_eq!(fails(fs::read(unconfigured.path("token"))), Errno::ENOKEY);
    });
    section.says(
        "A source that fails, and none that ever gave a token: `ENOKEY`, once no other try comes \
         before the deadline.",
        || {
            let failing = Workspace::new(hour(), |builder| builder.args(["--open-timeout", "1s"]));
            failing.stick(Fault::Status(500));
            assert_eq!(fails(fs::read(failing.mount.path("token"))), Errno::ENOKEY);
        },
    );
    section.says("A source that refuses us: `EKEYREJECTED`, at once.", || {
        let refusing = Workspace::new(hour(), |builder| builder.args(PATIENT));
        refusing.stick(Fault::Status(403));
        assert_eq!(fails(fs::read(refusing.mount.path("token"))), Errno::EKEYREJECTED);
    });
    section.says(
        "A source that does not answer: `ETIMEDOUT`, at the deadline and not before it.",
        || {
            let hanging = Workspace::new(hour(), |builder| builder.args(["--open-timeout", "1s"]));
            hanging.stick(Fault::Hang);
            let start = now();
            assert_eq!(fails(fs::read(hanging.mount.path("token"))), Errno::ETIMEDOUT);
            assert!(now() - start >= secs(1));
        },
    );
    section.says(
        "A token that ran out while no source gives another: `EKEYEXPIRED`, once no other try comes \
         before the deadline.",
        || {
        let ending = Workspace::new(Setup::with_life(secs(2)), |builder| {
            builder.args(["--open-timeout", "1s"])
        });
        fs::read(ending.mount.path("token")).unwrap();
        ending.stick(Fault::Status(500));
        eventually("it ran out", secs(10), || {
            let error = fs::read(ending.mount.path("token")).err()?;
            assert_eq!(error.raw_os_error(), Some(Errno::EKEYEXPIRED as i32));
            Some(())
        });
    });
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
