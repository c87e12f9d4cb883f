//! Everything that would write.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;

use molecule_tokenfs::demo::Setup;
use molecule_tokenfs::demo::faults::{Fault, Service};
use molecule_tokenfs::demo::ledger::Verdict;
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, mknod};

use crate::Workspace;
use crate::support::namespace::sandboxed;
use crate::support::process::{Finished, ORDINARY, User, command, errno, run};
use crate::support::{eventually, secs};

/// Each kind of write, by name, on a view and in its directory.
fn writes(root: &Path) -> Vec<(&'static str, io::Result<()>)> {
    let token = root.join("token");
    let new = root.join("new");
    let open = |options: &mut OpenOptions, path: &Path| options.open(path).map(|_| ());
    vec![
        ("open for writing", open(OpenOptions::new().write(true), &token)),
        ("open for both", open(OpenOptions::new().read(true).write(true), &token)),
        ("append", open(OpenOptions::new().append(true), &token)),
        ("O_TRUNC", open(OpenOptions::new().read(true).custom_flags(libc::O_TRUNC), &token)),
        ("create", open(OpenOptions::new().write(true).create(true), &new)),
        ("mkdir", fs::create_dir(&new)),
        ("mknod", mknod(&new, SFlag::S_IFIFO, Mode::S_IRUSR, 0).map_err(io::Error::from)),
        ("symlink", symlink("token", &new)),
        ("link", fs::hard_link(&token, &new)),
        ("rename", fs::rename(&token, &new)),
        ("rename onto", fs::rename(root.join("env"), &token)),
        ("unlink", fs::remove_file(&token)),
        ("rmdir", fs::remove_dir(root.join("live"))),
        ("chmod", fs::set_permissions(&token, Permissions::from_mode(0o644))),
        ("chown", chown(&token, Some(ORDINARY), None)),
        ("truncate", nix::unistd::truncate(&token, 0).map_err(io::Error::from)),
        ("utimes", fs::File::open(&token).and_then(|f| f.set_modified(std::time::UNIX_EPOCH))),
        ("setxattr", set_xattr(&token)),
        ("write a live view", open(OpenOptions::new().write(true), &root.join("live/token"))),
        ("write a page", open(OpenOptions::new().write(true), &root.join("status.json"))),
    ]
}

fn set_xattr(path: &Path) -> io::Result<()> {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(path, "user.test", b"x", flags).map_err(io::Error::from)
}

#[test]
fn every_kind_of_write_is_answered_erofs() {
    sandboxed(secs(20), || {
        let workspace = Workspace::start(Setup::default());
        let token = fs::read(workspace.path("token")).unwrap();
        for (kind, outcome) in writes(&workspace.path(".")) {
            let error = outcome.expect_err(kind);
            assert_eq!(errno(&error), Some(Errno::EROFS), "{kind}");
        }
        assert_eq!(fs::read(workspace.path("token")).unwrap(), token);
        let refusals = workspace.status()["tokens"][0]["refusals"]["EROFS"].as_u64().unwrap();
        assert!(refusals >= 15, "{refusals} counted");
    });
}

#[test]
fn another_user_may_enter_the_directory_and_is_refused_the_token() {
    sandboxed(secs(20), || {
        let workspace = Workspace::start(Setup::default());
        for (line, refusal) in [
            ("cat token", "Permission denied"),
            ("cat live/token", "Permission denied"),
            ("cat gh/hosts.yml", "Permission denied"),
            ("ls .", "Permission denied"),
            ("echo now > refresh", "Permission denied"),
            ("echo x > token", "Permission denied"),
        ] {
            let mut sh = command("sh", User::Number(ORDINARY));
            sh.args(["-c", line]).current_dir(workspace.path("."));
            let done = run(sh, &workspace.dir, secs(5));
            assert!(!done.status.success() && done.stderr.contains(refusal), "{line}: {done:?}");
        }
        let mut sh = command("sh", User::Number(ORDINARY));
        sh.args(["-c", "cat status.json metrics.prom"]).current_dir(workspace.path("."));
        assert!(run(sh, &workspace.dir, secs(5)).ok().contains("\"state\""));
    });
}

#[test]
fn owner_group_and_mode_are_as_asked() {
    sandboxed(secs(20), || {
        let owner = ORDINARY.to_string();
        let workspace = Workspace::start_with(Setup::default(), |daemon| {
            daemon.args(["--owner", &owner, "--group", "2345", "--mode", "0440"])
        });
        let token = fs::metadata(workspace.path("token")).unwrap();
        assert_eq!((token.uid(), token.gid(), token.mode() & 0o777), (ORDINARY, 2345, 0o440));
        let control = fs::metadata(workspace.path("refresh")).unwrap();
        assert_eq!(control.mode() & 0o777, 0o600);
        let mut cat = command("cat", User::Number(ORDINARY));
        cat.arg(workspace.path("token"));
        assert!(run(cat, &workspace.dir, secs(5)).ok().starts_with("ghs_"));
    });
}

/// A member of the group, who is not the owner, runs a line of shell.
fn member(workspace: &Workspace, line: &str) -> Finished {
    let mut sh = command("sh", User::Number(ORDINARY + 1));
    sh.args(["-c", line, "sh"]).arg(workspace.path("."));
    run(sh, &workspace.dir, secs(30))
}

/// Of this user, with a group of which user 1001 is a member, and a platform that caches its token.
fn shared(refresh_mode: &[&str]) -> Workspace {
    let (owner, group) = (ORDINARY.to_string(), (ORDINARY + 1).to_string());
    let workspace = Workspace::start_with(Setup::default(), |daemon| {
        let daemon = daemon.args(["--owner", &owner, "--group", &group, "--mode", "0440"]);
        daemon.args(refresh_mode)
    });
    fs::read(workspace.path("token")).unwrap();
    workspace.demo.faults().stick(Service::Platform, Some(Fault::Repeat));
    workspace
}

#[test]
fn members_of_the_group_may_read_and_may_ask_for_a_fetch_only_where_the_owner_says_so() {
    sandboxed(secs(60), || {
        let ask = "cat \"$1/token\" > /dev/null && echo 00000000 > \"$1/refresh\"";
        let closed = shared(&[]);
        let refused = member(&closed, ask);
        assert!(refused.stderr.contains("Permission denied"), "{refused:?}");
        for mode in ["0620", "0660"] {
            let open = shared(&["--refresh-mode", mode]);
            let shown = fs::metadata(open.path("refresh")).unwrap().mode() & 0o777;
            assert_eq!(format!("{shown:04o}"), mode);
            member(&open, ask).ok();
        }
    });
}

#[test]
fn a_member_who_rejects_the_token_waits_and_the_owner_is_served() {
    sandboxed(secs(60), || {
        let workspace = shared(&["--refresh-mode", "0660"]);
        let reject = "sha256sum < \"$1/token\" | head -c 8 > \"$1/refresh\"";
        member(&workspace, reject).ok();
        // What another user gets, and within the deadline of an open.
        let token = fs::read(workspace.path("token"));
        let token = token.unwrap_or_else(|error| panic!("{error}: {}", workspace.daemon.log()));
        assert_eq!(workspace.demo.ledger().verdict(&token), Verdict::Live);
        let waits = member(&workspace, "cat \"$1/token\"");
        assert!(!waits.status.success(), "it is withheld from the one who rejected it");
        let status = workspace.status();
        assert_eq!(status["tokens"][0]["state"], "degraded", "{status}");
        let since = &status["tokens"][0]["rejected"]["at"];
        eventually("the member is served again", secs(30), || {
            member(&workspace, "cat \"$1/token\"").status.success().then_some(())
        });
        let rejected = &workspace.status()["tokens"][0]["rejected"];
        assert_eq!((&rejected["at"], &rejected["count"]), (since, &1.into()), "one rejection");
    });
}
