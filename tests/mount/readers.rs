//! open(2), read(2), stat(2), mmap(2) and readdir(3), and the programs that use them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use molecule_tokenfs::demo::Setup;
use molecule_tokenfs::source::made_up::MadeUp;
use molecule_tokenfs::view;

use crate::support::daemon::Daemon;
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::{User, command, run};
use crate::support::{eventually, millis, secs};
use crate::{Workspace, read};

/// Rotates every 20 ms (the first token spreads a fleet, and lasts up to 800 ms), and the length changes each time: everything that can go wrong between
/// lookup, open, fstat and read does.
fn rotating(dir: &TestDir) -> Daemon {
    let often = ["--refresh-interval", "20ms", "--refresh-jitter", "0s"];
    Daemon::at(dir).args(["--made-up", "1s"]).args(often).start()
}

#[expect(clippy::disallowed_methods, reason = "a test runs in real time")]
fn for_a_while(time: Duration, mut step: impl FnMut()) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        step();
    }
}

/// Reads a made-up token until the time is up; returns opens and the generations seen.
fn watch_whole_tokens(path: &std::path::Path, time: Duration) -> (u64, HashSet<u64>) {
    let (mut opens, mut numbers) = (0, HashSet::new());
    for_a_while(time, || {
        let seen = read(path).expect("an open never fails");
        assert_eq!(seen.size, seen.bytes.len() as u64, "fstat and the bytes disagree");
        numbers.insert(MadeUp::number(&seen.bytes).expect("a token is whole"));
        opens += 1;
    });
    (opens, numbers)
}

#[test]
fn eight_readers_of_a_token_that_rotates_every_20_ms_see_no_error_and_no_torn_byte() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let daemon = rotating(&dir);
        let paths = [daemon.path("token"), daemon.path("live/token")];
        let readers: Vec<_> = (0..8)
            .map(|n| {
                let path = paths[n % 2].clone();
                std::thread::spawn(move || watch_whole_tokens(&path, secs(4)))
            })
            .collect();
        for reader in readers {
            let (opens, numbers) = reader.join().expect("a reader");
            assert!(opens > 100 && numbers.len() > 50, "{opens} opens, {} tokens", numbers.len());
        }
    });
}

#[test]
fn an_open_file_keeps_its_token_while_the_name_moves_on() {
    sandboxed(secs(20), || {
        let dir = TestDir::new();
        let daemon = Daemon::at(&dir).args(["--made-up", "400ms"]).start();
        let mut old = File::open(daemon.path("token")).unwrap();
        let mut first = Vec::new();
        old.read_to_end(&mut first).unwrap();
        eventually("a rotation", secs(5), || {
            (fs::read(daemon.path("token")).unwrap() != first).then_some(())
        });
        let mut again = Vec::new();
        old.seek(SeekFrom::Start(0)).unwrap();
        old.read_to_end(&mut again).unwrap();
        assert_eq!(again, first);
        let now = fs::metadata(daemon.path("token")).unwrap();
        assert_ne!(now.ino(), old.metadata().unwrap().ino(), "a generation is an inode");
    });
}

#[test]
fn looking_around_fetches_nothing_and_an_open_does() {
    sandboxed(secs(20), || {
        let workspace = Workspace::start(Setup::default());
        let listed: HashSet<_> = fs::read_dir(workspace.path("."))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        for view in view::ALL {
            let name = view.path().split('/').next().unwrap();
            assert!(listed.contains(name), "{name} is not listed");
            let metadata = fs::metadata(workspace.path(view.path())).unwrap();
            assert_eq!(metadata.len(), 1, "never empty: `test -s` must not be false for ever");
            assert_eq!(metadata.permissions().mode() & 0o7777, 0o400);
        }
        let state = workspace.status()["state"].clone();
        assert_eq!(state, "idle");
        assert_eq!(workspace.demo.ledger().counts().platform.requests, 0);
        let token = fs::read(workspace.path("token")).unwrap();
        assert_eq!(workspace.demo.ledger().counts().platform.requests, 1);
        assert_eq!(fs::metadata(workspace.path("token")).unwrap().len(), token.len() as u64);
        assert_eq!(workspace.status()["state"], "fresh");
    });
}

#[test]
fn every_view_and_its_live_twin_hold_the_same_token() {
    sandboxed(secs(20), || {
        let workspace = Workspace::start(Setup::default());
        let token = String::from_utf8(fs::read(workspace.path("token")).unwrap()).unwrap();
        for view in view::ALL.iter().filter(|view| view.path() != "expires_at") {
            let seen = read(&workspace.path(view.path())).unwrap();
            let live = read(&workspace.path(&format!("live/{}", view.path()))).unwrap();
            assert_eq!(seen.bytes, live.bytes, "{}", view.path());
            assert_eq!(seen.size, seen.bytes.len() as u64, "{}", view.path());
            if view.path() != "gh/config.yml" {
                let text = String::from_utf8(seen.bytes).unwrap();
                assert!(text.contains(&token), "{}", view.path());
            }
        }
    });
}

/// What shells and small programs do with the files; each line must print the token.
#[test]
fn programs_that_read_in_ways_of_their_own_get_the_whole_token() {
    sandboxed(secs(60), || {
        let workspace = Workspace::start(Setup::default());
        let token = String::from_utf8(fs::read(workspace.path("token")).unwrap()).unwrap();
        for line in [
            "cat token",
            "busybox cat token",
            "dd if=token bs=1 status=none",
            "tail -c +1 token",
            ". ./env; printf %s \"$GH_TOKEN\"",
            "test -s token && printf %s \"$(cat token)\"",
            "cp token \"$OUT/copy\" && cat \"$OUT/copy\"",
            "tar -cf - token | tar -xOf -",
            "jq -j .access_token token.json",
            "jq -j .status.token exec-credential.json",
            "sed -n 's/^password=//p' git-credential | tr -d '\\n'",
            "python3 -c 'import mmap,sys; f=open(\"token\",\"rb\"); \
             sys.stdout.buffer.write(mmap.mmap(f.fileno(),0,access=mmap.ACCESS_READ)[:])'",
            "python3 -c 'import os,sys; s=os.open(\"token\",0); n=os.fstat(s).st_size; \
             os.sendfile(1,s,0,n)' | cat",
        ] {
            let mut sh = command("bash", User::Own);
            sh.args(["-c", line]).current_dir(workspace.path(".")).env("OUT", workspace.dir.path());
            assert_eq!(run(sh, &workspace.dir, secs(20)).ok(), token, "{line}");
        }
    });
}

#[test]
fn nothing_outside_the_mount_is_reached_through_it() {
    sandboxed(secs(20), || {
        let workspace = Workspace::start(Setup::default());
        fs::write(workspace.dir.join("secret"), "outside").unwrap();
        // `..` of the root is the parent directory, as everywhere; inside it stays inside.
        assert!(fs::read(workspace.path("live/../../secret")).is_ok());
        for name in ["live/../secret", "../token/secret", "gh/../secret", ".next-token"] {
            assert!(fs::metadata(workspace.path(name)).is_err(), "{name}");
        }
        std::os::unix::fs::symlink(workspace.dir.join("secret"), workspace.path("link"))
            .expect_err("no links are made in it");
    });
}

#[test]
fn a_status_page_is_one_rendering_however_it_is_read() {
    sandboxed(secs(20), || {
        let dir = TestDir::new();
        let daemon = rotating(&dir);
        for_a_while(millis(500), || {
            fs::read(daemon.path("token")).unwrap();
            let mut page = File::open(daemon.path("status.json")).unwrap();
            let size = page.metadata().unwrap().len();
            let (mut text, mut piece) = (Vec::new(), [0; 100]);
            loop {
                let length = page.read(&mut piece).unwrap();
                if length == 0 {
                    break;
                }
                text.extend_from_slice(&piece[..length]);
            }
            assert_eq!(text.len() as u64, size);
            serde_json::from_slice::<serde_json::Value>(&text).expect("whole JSON");
        });
    });
}
