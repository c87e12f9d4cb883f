//! What `status.json` tells to whom.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use molecule_tokenfs::demo::{Demo, Setup};
use molecule_tokenfs::status::{self, metrics};
use nix::mount::{MsFlags, mount};
use serde_json::Value;

use crate::support::daemon::{Daemon, tokenfs};
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::{ORDINARY, User, command, run};
use crate::support::{eventually, secs};
use crate::{AT_ONCE, World, register};

/// Somebody who has nothing to do with the tokens.
const STRANGER: u32 = 1001;
/// A group that may read the tokens.
const GROUP: u32 = 2000;

/// A page as this user sees it, with these other groups.
fn page(path: &Path, dir: &TestDir, user: u32, groups: &str) -> String {
    let mut cat = command("setpriv", User::Own);
    let user = user.to_string();
    cat.args(["--reuid", &user, "--regid", &user, "--groups", groups, "cat"]).arg(path);
    let page = run(cat, dir, secs(10)).ok();
    let is_metrics = path.ends_with("metrics.prom");
    let size = if is_metrics { metrics::SIZE } else { status::SIZE };
    assert_eq!(page.len(), size, "the size is always the same");
    page
}

/// Whether a document tells particulars: it then names the bearer's file.
fn tells(page: &str) -> bool {
    let document: Value = serde_json::from_str(page).expect("JSON");
    let token = &document["tokens"][0];
    let failure = &token["last_failure"];
    assert_eq!(failure["kind"], "bearer_unusable");
    assert_eq!(failure["message"], "the bearer file cannot be used");
    let detail = failure["detail"].as_str().unwrap();
    assert_eq!(detail.is_empty(), !page.contains(".auth_token"), "{page}");
    assert_eq!(detail.is_empty(), !page.contains("offset"), "{page}");
    !detail.is_empty()
}

/// A bearer that cannot be used, for a reason that is nobody else's business.
fn spoil(dir: &TestDir) {
    fs::write(dir.join("configs/.auth_token"), "a b").unwrap();
}

#[test]
fn strangers_learn_nothing_of_files_from_a_mounts_status() {
    sandboxed(secs(60), || {
        for (mode, group_may) in [("0400", false), ("0440", true)] {
            let group = GROUP.to_string();
            let arguments = ["--mode", mode, "--group", &group];
            let world =
                World::start_over(Setup::default(), spoil, |builder| builder.args(arguments));
            world.open().unwrap_err();
            let status = world.daemon.path("status.json");
            let sees = |user, groups: &str| tells(&page(&status, &world.dir, user, groups));
            assert!(sees(0, "0"));
            assert!(sees(ORDINARY, "1000"));
            assert!(!sees(STRANGER, "1001"));
            assert!(!sees(STRANGER, "1001,200,20000"));
            assert_eq!(sees(STRANGER, "1001,2000"), group_may);
            let metrics = page(&world.daemon.path("metrics.prom"), &world.dir, STRANGER, "1001");
            assert!(metrics.contains("fetch_failures_total") && !metrics.contains(".auth_token"));

            // A handle stays what it was when its worker dies.
            let mut held = command("setpriv", User::Own);
            let script =
                "exec 3<\"$1\"; : >\"$2\"; until [ -e \"$3\" ]; do sleep 0.05; done; cat <&3";
            let go_on = world.dir.join("go-on");
            let shared = world.dir.folder("shared");
            fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
            let opened = shared.join("opened");
            held.args(["--reuid", "1001", "--regid", "1001", "--clear-groups", "sh", "-c", script]);
            held.arg("sh").arg(&status).arg(&opened).arg(&go_on);
            let mut reader = crate::support::process::Process::start(held, "held", &world.dir);
            eventually("the page is open", AT_ONCE, || opened.exists().then_some(()));
            world.daemon.kill_worker(nix::sys::signal::Signal::SIGKILL);
            world.open().unwrap_err();
            fs::write(go_on, "").unwrap();
            assert!(reader.wait(AT_ONCE).success(), "{}", reader.stderr());
            assert!(!reader.stdout().contains(".auth_token"), "{}", reader.stdout());
        }
    });
}

#[test]
fn among_files_the_whole_document_is_for_those_who_may_read_the_tokens() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let demo = Demo::start(Setup::default()).unwrap();
        register(&demo, &dir.join("configs"));
        spoil(&dir);
        let base = dir.folder("memory");
        let none = None::<&str>;
        mount(none, &base, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        let mountpoint = base.join("token");
        let daemon = Daemon::at(&dir)
            .mountpoint(&mountpoint)
            .env("PLATFORM_URL", demo.url())
            .args(["--backend", "files"])
            .start();
        eventually("the failure", AT_ONCE, || {
            let status = fs::read_to_string(daemon.path("status.json")).ok()?;
            status.contains("bearer_unusable").then_some(())
        });
        let (reduced, full) = (daemon.path("status.json"), daemon.path("status.full.json"));
        assert!(!tells(&page(&reduced, &dir, STRANGER, "1001")));
        assert!(!tells(&page(&reduced, &dir, ORDINARY, "1000")));
        assert!(tells(&page(&full, &dir, ORDINARY, "1000")));
        let mode = fs::metadata(&full).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o400);

        // The command takes what it may.
        let told = |user| {
            let mut status = tokenfs(&dir, User::Number(user));
            status.arg("status").arg(&mountpoint);
            run(status, &dir, secs(10)).stdout
        };
        assert!(told(ORDINARY).contains(".auth_token: no bearer may hold the byte 0x20"));
        let reduced = told(STRANGER);
        assert!(reduced.contains("the bearer file cannot be used"), "{reduced}");
        assert!(!reduced.contains(".auth_token"), "{reduced}");
        drop(daemon);
        assert!(!full.exists());
    });
}
