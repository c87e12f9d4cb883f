//! Paths that lead to somebody who does not answer: the mount itself, a file system that hangs.

use std::fs;
use std::os::unix::fs::symlink;

use molecule_tokenfs::demo::Setup;
use nix::errno::Errno;

use crate::hung::Hung;
use crate::support::namespace::sandboxed;
use crate::support::process::errno;
use crate::support::{eventually, secs};
use crate::{AT_ONCE, World, children, end, open};

#[test]
fn a_link_to_the_mounts_own_token_costs_no_worker() {
    sandboxed(secs(120), || {
        // Before the first token an open waits for a fetch: a fetch that opens would wait for itself.
        let world = World::start_over(
            Setup::default(),
            |dir| {
                fs::remove_file(dir.join("configs/.auth_token")).unwrap();
                symlink(dir.join("token/token"), dir.join("configs/.auth_token")).unwrap();
            },
            |builder| builder,
        );
        let worker = world.worker();
        let token = world.daemon.path("token");
        let mut descriptors = None;
        for _ in 0..3 {
            let readers = (0..4).map(|_| {
                let token = token.clone();
                std::thread::spawn(move || open(&token))
            });
            for reader in readers.collect::<Vec<_>>() {
                let refused = reader.join().unwrap().unwrap_err();
                assert_eq!(errno(&refused), Some(Errno::EKEYREJECTED), "{refused}");
            }
            assert_eq!(children(world.daemon.pid()), [worker]);
            eventually("no file reader", secs(5), || children(worker).is_empty().then_some(()));
            let now = world.descriptors();
            assert_eq!(*descriptors.get_or_insert(now), now, "descriptors");
        }
        assert_eq!(world.requests(), 0);
        fs::remove_file(world.bearer()).unwrap();
        world.register();
        eventually("a token", AT_ONCE, || world.open().ok());
        assert_eq!(world.worker(), worker);
        end(world);
    });
}

#[test]
fn a_configs_directory_that_hangs_holds_up_no_open_and_no_end() {
    sandboxed(secs(150), || {
        let world = World::start();
        world.open().unwrap();
        let worker = world.worker();
        let hung = Hung::over(&world.configs());
        // Without a token, that an open waits for one.
        let fingerprint = world.token()["fingerprint"].as_str().unwrap().to_owned();
        fs::write(world.daemon.path("refresh"), fingerprint).unwrap();
        let refused = world.open().unwrap_err();
        let told = [Errno::ETIMEDOUT, Errno::EKEYEXPIRED, Errno::ENOKEY].map(Some);
        assert!(told.contains(&errno(&refused)), "{refused}");
        let readers = eventually("a file reader that hangs", AT_ONCE, || {
            Some(children(worker)).filter(|readers| !readers.is_empty())
        });
        let reader = readers[0];
        harmless(reader.as_raw());

        // However often it is tried, two hang at most.
        for _ in 0..6 {
            fs::write(world.daemon.path("refresh"), "now").ok();
            world.open().ok();
            assert!(children(worker).len() <= 2, "{:?}", children(worker));
        }
        let failure = world.token()["last_failure"].clone();
        assert_eq!(failure["kind"], "bearer_not_read", "{failure}");
        assert_eq!(world.worker(), worker, "the worker lives");
        assert!(children(world.daemon.pid()).len() == 1);

        // It comes back: all that hung is gone, and a token is fetched without another word.
        drop(hung);
        eventually("no file reader", secs(15), || children(worker).is_empty().then_some(()));
        eventually("a token", secs(15), || world.open().ok());
        end(world);
    });
}

#[test]
fn a_daemon_ends_and_starts_while_its_configs_directory_hangs() {
    sandboxed(secs(120), || {
        let world = World::start();
        let _hung = Hung::over(&world.configs());
        world.open().unwrap_err();
        let worker = world.worker();
        eventually("a file reader that hangs", AT_ONCE, || {
            (!children(worker).is_empty()).then_some(())
        });
        let World { mut daemon, demo, dir } = world;
        assert!(daemon.stop().success());
        let daemon = crate::Daemon::at(&dir).env("PLATFORM_URL", demo.url()).start();
        assert!(daemon.log().contains("cannot be looked at"), "{}", daemon.log());
        // Root's, since nobody knows whose.
        fs::read(daemon.path("token")).unwrap_err();
        crate::token(&daemon);
    });
}

/// A file reader has the rights of the agent and no others, holds nothing, and shows itself to nobody.
fn harmless(reader: i32) {
    let status = fs::read_to_string(format!("/proc/{reader}/status")).expect("its status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in {status}"))
            .split_whitespace()
            .collect::<Vec<_>>()
    };
    assert_eq!(field("Uid"), ["1000"; 4]);
    assert_ne!(field("Gid"), ["0"; 4]);
    assert_eq!(field("Groups"), [""; 0]);
    assert_eq!(field("NoNewPrivs"), ["1"]);
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    let names = |directory: &str| {
        let entries = fs::read_dir(format!("/proc/{reader}/{directory}")).expect("root may look");
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    // The directory may be open.
    let open: Vec<_> = names("fd").into_iter().filter(|fd| fd != "3").collect();
    assert_eq!(open, ["0", "1", "2"]);
    let target = |fd: &str| fs::read_link(format!("/proc/{reader}/fd/{fd}")).unwrap();
    assert_eq!(target("0").to_str(), Some("anon_inode:inotify"));
    assert!(target("1").to_str().unwrap().starts_with("pipe:"));
    assert_eq!(target("2").to_str(), Some("/dev/null"));
    assert_eq!(fs::read(format!("/proc/{reader}/environ")).unwrap(), b"");
    let limits = fs::read_to_string(format!("/proc/{reader}/limits")).unwrap();
    assert!(limits.lines().any(|line| {
        let mut words = line.split_whitespace();
        line.starts_with("Max core file size") && words.nth(4) == Some("0")
    }));
    // The agent has the same user, and still may not look.
    let path = format!("/proc/{reader}/environ");
    let looked = std::thread::spawn(move || {
        crate::become_user(crate::ORDINARY);
        fs::read(path)
    });
    let error = looked.join().unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
}
