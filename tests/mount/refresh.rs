//! The control file.

use std::fs;
use std::io;

use molecule_tokenfs::demo::Setup;
use molecule_tokenfs::secret::Fingerprint;
use nix::errno::Errno;

use crate::Workspace;
use crate::support::namespace::sandboxed;
use crate::support::process::{User, command, errno, run};
use crate::support::{eventually, millis, secs};

fn ask(workspace: &Workspace, text: &str) -> Option<Errno> {
    fs::write(workspace.path("refresh"), text).err().map(|error: io::Error| errno(&error).unwrap())
}

#[test]
fn writing_now_fetches_a_new_token_and_twice_in_a_second_is_eagain() {
    sandboxed(secs(20), || {
        let workspace = Workspace::start(Setup::default());
        let first = fs::read(workspace.path("token")).unwrap();
        assert_eq!(ask(&workspace, "now\n"), None);
        assert_eq!(ask(&workspace, "refresh"), Some(Errno::EAGAIN));
        eventually("another token", secs(5), || {
            (fs::read(workspace.path("token")).unwrap() != first).then_some(())
        });
        assert_eq!(workspace.demo.ledger().counts().platform.requests, 2);
        std::thread::sleep(millis(1100));
        let mut sh = command("sh", User::Own);
        sh.args(["-c", "echo >> refresh"]).current_dir(workspace.path("."));
        run(sh, &workspace.dir, secs(5)).ok();
        eventually("a third request", secs(5), || {
            (workspace.demo.ledger().counts().platform.requests == 3).then_some(())
        });
    });
}

#[test]
fn a_rejected_token_is_not_served_again_and_many_rejects_are_one_fetch() {
    sandboxed(secs(20), || {
        let workspace = Workspace::start(Setup::default());
        let first = fs::read(workspace.path("token")).unwrap();
        let fingerprint = Fingerprint::of(&first).to_string();
        for _ in 0..20 {
            assert_eq!(ask(&workspace, &fingerprint), None);
        }
        let second = fs::read(workspace.path("token")).unwrap();
        assert_ne!(second, first, "the very next open gets another");
        assert_eq!(workspace.demo.ledger().counts().platform.requests, 2);
        // What is none of ours changes nothing; late rejects of the old one neither.
        assert_eq!(ask(&workspace, "00000000"), None);
        assert_eq!(ask(&workspace, &fingerprint), None);
        assert_eq!(fs::read(workspace.path("token")).unwrap(), second);
        assert_eq!(workspace.demo.ledger().counts().platform.requests, 2);
    });
}

#[test]
fn anything_else_is_einval_and_reading_gives_nothing() {
    sandboxed(secs(20), || {
        let workspace = Workspace::start(Setup::default());
        for text in ["please", "1234567", "123456789", "zzzzzzzz", &"x".repeat(5000)] {
            assert_eq!(ask(&workspace, text), Some(Errno::EINVAL), "{text}");
        }
        assert_eq!(fs::read(workspace.path("refresh")).unwrap(), b"");
        assert_eq!(workspace.demo.ledger().counts().platform.requests, 0);
    });
}
