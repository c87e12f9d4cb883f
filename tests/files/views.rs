//! What is in the files, and when they are there.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use molecule_tokenfs::demo::faults::{Fault, Service};
use molecule_tokenfs::demo::ledger::Verdict;
use molecule_tokenfs::demo::{Demo, Setup};
use molecule_tokenfs::secret::Secret;
use molecule_tokenfs::token::Published;
use molecule_tokenfs::view::{self, ViewContext};
use nix::mount::{MsFlags, mount};

use crate::support::daemon::Daemon;
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::ORDINARY;
use crate::support::{eventually, millis, secs};
use crate::{MEMORY, Workspace, empty_memory, hide_fuse, read, without_fuse};

/// Each view is what `view::render` makes of the token and its expiry.
fn assert_rendered(path: impl Fn(&str) -> std::path::PathBuf) {
    let token = fs::read(path("token")).unwrap();
    let expiry = fs::read_to_string(path("expires_at")).unwrap();
    let published =
        Published { secret: Secret::new(token).unwrap(), expires_at: expiry.trim().parse().ok() };
    assert!(published.expires_at.is_some());
    let context = ViewContext { hosts: vec!["github.com".to_owned()] };
    for view in view::ALL {
        let rendered = view::render(*view, &published, &context);
        assert_eq!(fs::read(path(view.path())).unwrap(), rendered.as_bytes(), "{}", view.path());
    }
}

#[test]
fn the_files_equal_those_of_a_mount_byte_for_byte() {
    sandboxed(secs(40), || {
        empty_memory();
        let dir = TestDir::new();
        // A token whose expiry nobody knows: nothing in the views depends on the moment.
        let start = |backend: &'static str| {
            Daemon::at(&dir)
                .mountpoint(dir.join(backend))
                .env("GITHUB_TOKEN", "ghs_theOneOfTheEnvironment")
                .env("PLATFORM_URL", "http://127.0.0.1:1")
                .args(["--backend", backend, "--host", "github.com", "--host", "git.example:8443"])
                .start()
        };
        let (fuse, files) = (start("fuse"), start("files"));
        for view in view::ALL {
            let of_mount = fs::read(fuse.path(view.path())).unwrap();
            let of_files = eventually("the view", secs(10), || read(&files.path(view.path())));
            assert_eq!(of_files, of_mount, "{}", view.path());
            let attributes = |daemon: &Daemon| {
                let it = fs::metadata(daemon.path(view.path())).unwrap();
                (it.size(), it.mode(), it.uid(), it.gid())
            };
            assert_eq!(attributes(&files), attributes(&fuse), "{}", view.path());
        }
        for page in ["status.json", "metrics.prom", "refresh"] {
            let attributes = |daemon: &Daemon| {
                let it = fs::metadata(daemon.path(page)).unwrap();
                let size = if page == "refresh" { 0 } else { it.size() };
                (it.mode(), it.uid(), it.gid(), size)
            };
            assert_eq!(attributes(&files), attributes(&fuse), "{page}");
        }
        drop((fuse, files));

        // With an expiry, which depends on the moment of the request: each for itself.
        for backend in ["fuse", "files"] {
            let demo = molecule_tokenfs::demo::Demo::start(Setup::default()).unwrap();
            demo.register(&dir.join("configs")).unwrap();
            let builder = Daemon::at(&dir).mountpoint(dir.join("expiring"));
            let builder = builder.env("PLATFORM_URL", demo.url());
            let daemon = builder.args(["--backend", backend]).start();
            eventually("a token", secs(10), || read(&daemon.path("token")));
            assert_rendered(|name| daemon.path(name));
        }
    });
}

#[test]
fn readers_of_thirty_rotations_see_whole_live_tokens_where_only_memory_can_be_written() {
    sandboxed(secs(60), || {
        empty_memory();
        let dir = TestDir::under(MEMORY);
        hide_fuse(&dir);
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(None::<&str>, "/", None::<&str>, read_only, None::<&str>).unwrap();
        assert!(fs::write("/written", "").is_err(), "the root is read-only");
        let setup = Setup::with_life(secs(20)).lengths(40..=600);
        let workspace = Workspace::start_in(dir, setup, |builder| {
            builder.args(["--refresh-interval", "100ms", "--refresh-jitter", "0s"])
        });
        assert_eq!(workspace.status()["backend"], "files");
        workspace.token();

        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let (is_over, seen) = (Arc::clone(&is_over), Arc::clone(&seen));
                let path = workspace.path("token");
                std::thread::spawn(move || {
                    let mut mine = Vec::new();
                    while !is_over.load(Ordering::Relaxed) {
                        let token = fs::read(&path).expect("there always is one");
                        if mine.last() != Some(&token) {
                            mine.push(token);
                        }
                    }
                    seen.lock().unwrap().extend(mine);
                })
            })
            .collect();
        eventually("30 rotations", secs(30), || {
            let status = workspace.status();
            (status["tokens"][0]["fetches"].as_u64() > Some(30)).then_some(())
        });
        is_over.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
        let seen = seen.lock().unwrap();
        assert!(seen.len() > 20 * 4, "{} changes seen", seen.len());
        for token in seen.iter() {
            assert_eq!(workspace.demo.ledger().verdict(token), Verdict::Live);
        }
        assert_rendered_once_settled(&workspace);
    });
}

/// Between two rotations the views are those of one token.
fn assert_rendered_once_settled(workspace: &Workspace) {
    workspace.demo.faults().stick(Service::Platform, Some(Fault::Status(500)));
    eventually("no rotation any more", secs(10), || {
        (workspace.status()["state"] == "degraded").then_some(())
    });
    assert_rendered(|name| workspace.path(name));
}

#[test]
fn in_an_outage_the_files_go_before_their_token_dies_and_come_back_after_it() {
    sandboxed(secs(90), || {
        let setup = Setup::with_life(secs(6));
        let workspace = Workspace::start(setup, |builder| builder.args(["--min-life", "2s"]));
        let held = workspace.token();
        let open = fs::File::open(workspace.path("token")).unwrap();
        workspace.demo.faults().stick(Service::Platform, Some(Fault::Status(500)));
        eventually("the token is gone", secs(20), || {
            let Some(token) = read(&workspace.path("token")) else { return Some(()) };
            assert_eq!(workspace.demo.ledger().verdict(&token), Verdict::Live);
            std::thread::sleep(millis(5));
            None
        });
        // They go one after the other.
        eventually("every view is gone", secs(5), || {
            view::ALL.iter().all(|view| !workspace.path(view.path()).exists()).then_some(())
        });
        eventually("status says so", secs(5), || {
            (workspace.status()["state"] == "none").then_some(())
        });
        // Whoever has it open keeps it: it was not cut.
        assert_eq!(open.metadata().unwrap().len(), held.len() as u64);

        workspace.demo.faults().heal();
        // The last back-off may be the longest, 30 s.
        let token = eventually("a token is back", secs(40), || read(&workspace.path("token")));
        assert_eq!(workspace.demo.ledger().verdict(&token), Verdict::Live);
        assert_ne!(token, held);
        eventually("status says so", secs(5), || {
            (workspace.status()["state"] == "fresh").then_some(())
        });
    });
}

#[test]
fn the_files_are_for_their_owner_and_the_directory_for_nobody_to_write() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        without_fuse(&dir);
        let owner = ORDINARY.to_string();
        let workspace = Workspace::start_in(dir, Setup::default(), |builder| {
            let access = ["--owner", &owner, "--group", &owner, "--mode", "0440"];
            builder.args(access).args(["--refresh-mode", "0620"])
        });
        workspace.token();
        let attributes = |name: &str| {
            // They come one after the other.
            let it = eventually(name, secs(5), || fs::metadata(workspace.path(name)).ok());
            (it.permissions().mode() & 0o7777, it.uid(), it.gid())
        };
        assert_eq!(attributes("token"), (0o440, ORDINARY, ORDINARY));
        assert_eq!(attributes("gh/hosts.yml"), (0o440, ORDINARY, ORDINARY));
        assert_eq!(attributes("refresh"), (0o620, ORDINARY, ORDINARY));
        assert_eq!(attributes("."), (0o711, 0, 0));
        assert_eq!(attributes("gh"), (0o711, 0, 0));
        assert_eq!(
            fs::read_link(workspace.daemon.mountpoint()).unwrap().parent(),
            Some(Path::new(MEMORY))
        );
    });
}

#[test]
fn the_environments_token_is_not_shown_while_the_platform_takes_a_second() {
    sandboxed(secs(40), || {
        let dir = TestDir::new();
        without_fuse(&dir);
        let demo = Demo::start(Setup::default()).unwrap();
        demo.register(&dir.join("configs")).unwrap();
        demo.faults().stick(Service::Platform, Some(Fault::Slow(secs(1))));
        let daemon = Daemon::at(&dir)
            .env("PLATFORM_URL", demo.url())
            .env("WORKSPACE_ID", &demo.address().workspace_id)
            .env("GITHUB_TOKEN", "ghs_fromBeforeTheStart")
            .start();
        let first = eventually("a token", secs(10), || read(&daemon.path("token")));
        assert_ne!(String::from_utf8_lossy(&first), "ghs_fromBeforeTheStart");
        // The pages come after the views.
        eventually("the platform's token", secs(5), || {
            let status = fs::read_to_string(daemon.path("status.json")).unwrap();
            status.contains("\"source\": \"platform\"").then_some(())
        });
    });
}
