//! A mounted file: the mountpoint is one view, and what a directory has beside it are attributes.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::spawn;

use molecule_tokenfs::source::made_up::MadeUp;
use nix::errno::Errno;
use nix::sys::inotify::AddWatchFlags;
use nix::sys::signal::Signal;
use nix::sys::statfs::{FUSE_SUPER_MAGIC, statfs};
use rustix::fs::XattrFlags;

use crate::crashes::Watched;
use crate::read;
use crate::support::daemon::{Daemon, PROGRAM, tokenfs, tokenfs_run};
use crate::support::dir::{TestDir, mounts_below};
use crate::support::namespace::{open_fuse_device, sandboxed};
use crate::support::process::{Finished, ORDINARY, User, command, errno, require, run};
use crate::support::{eventually, millis, secs};

const STATUS: &str = "user.molecule.status";
const REFRESH: &str = "system.molecule.refresh";

/// A daemon at a file that it makes itself, with made-up tokens of changing length.
fn mounted(dir: &TestDir, life: &str, more: &[&str]) -> Daemon {
    Daemon::at(dir)
        .mountpoint(dir.join("run/token"))
        .args(["--layout", "file", "--made-up", life])
        .args(more)
        .start()
}

const OFTEN: [&str; 4] = ["--refresh-interval", "30ms", "--refresh-jitter", "0s"];

fn status(file: &Path) -> serde_json::Value {
    let mut text = vec![0; 64 * 1024];
    let length = rustix::fs::getxattr(file, STATUS, text.as_mut_slice()).expect("the status");
    serde_json::from_slice(text.get(..length).unwrap()).expect("JSON")
}

fn generation(file: &Path) -> u64 {
    status(file)["tokens"][0]["generation"].as_u64().unwrap_or_default()
}

fn ask(file: &Path, wish: &str) -> Result<(), Errno> {
    rustix::fs::setxattr(file, REFRESH, wish.as_bytes(), XattrFlags::empty())
        .map_err(|error| Errno::from_raw(error.raw_os_error()))
}

/// Runs a command that ends with the path of the mount.
fn tell(dir: &TestDir, daemon: &Daemon, args: &[&str]) -> Finished {
    tokenfs_run(dir, &[args, &[daemon.mountpoint().to_str().unwrap()]].concat())
}

#[test]
fn readers_of_a_mounted_file_notice_neither_rotations_nor_deaths_of_the_worker() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let mut daemon = mounted(&dir, "1s", &OFTEN);
        let file = daemon.mountpoint().to_owned();
        assert!(fs::metadata(&file).unwrap().is_file());
        let stop = Arc::new(AtomicBool::new(false));
        let reader = |_| {
            let (file, stop) = (file.clone(), Arc::clone(&stop));
            spawn(move || {
                let mut numbers = std::collections::HashSet::new();
                while !stop.load(Ordering::Relaxed) {
                    let seen = read(&file).expect("an open never fails");
                    assert_eq!(seen.size, seen.bytes.len() as u64);
                    numbers.insert(MadeUp::number(&seen.bytes).expect("a token is whole"));
                }
                numbers.len()
            })
        };
        let readers: Vec<_> = (0..4).map(reader).collect();
        // The first token lasts longer, so that a fleet spreads.
        eventually("rotations", secs(5), || (generation(&file) > 8).then_some(()));
        for n in 0..30 {
            std::thread::sleep(millis(40 + n * 13 % 60));
            daemon.kill_worker(Signal::SIGKILL);
        }
        std::thread::sleep(millis(200));
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            let tokens = reader.join().expect("a reader never fails");
            assert!(tokens > 5, "{tokens} tokens");
        }
        assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
        assert!(!dir.join("run").exists(), "what was made is removed");
    });
}

#[test]
fn programs_read_it_and_nothing_writes_to_it() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        let file = dir.file("token", "");
        // What is there decides.
        let daemon = Daemon::at(&dir).args(["--made-up", "1h", "--view", "header"]).start();
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("Authorization: Bearer ghs_"), "{text}");
        // busybox uses sendfile(2).
        for program in [&["cat"][..], &["busybox", "cat"]] {
            let mut cat = command(program[0], User::Own);
            cat.args(&program[1..]).arg(&file);
            assert_eq!(run(cat, &dir, secs(5)).ok(), text, "{program:?}");
        }
        let user = XattrFlags::empty();
        for (kind, outcome) in [
            ("open", OpenOptions::new().write(true).open(&file).map(drop)),
            ("chmod", fs::set_permissions(&file, Permissions::from_mode(0o644))),
            ("truncate", nix::unistd::truncate(&file, 0).map_err(io::Error::from)),
            ("utimes", fs::File::open(&file).and_then(|f| f.set_modified(std::time::UNIX_EPOCH))),
            ("status", rustix::fs::setxattr(&file, STATUS, b"x", user).map_err(io::Error::from)),
            (
                "setxattr",
                rustix::fs::setxattr(&file, "user.x", b"x", user).map_err(io::Error::from),
            ),
            ("removexattr", rustix::fs::removexattr(&file, STATUS).map_err(io::Error::from)),
        ] {
            assert_eq!(errno(&outcome.expect_err(kind)), Some(Errno::EROFS), "{kind}");
        }
        assert_eq!(tell(&dir, &daemon, &["get"]).ok(), text);
        let refused = tell(&dir, &daemon, &["get", "--view", "token"]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(refused.stderr.contains("shows `header` and not `token`"), "{refused:?}");
        drop(daemon);
        assert_eq!(fs::read(&file).unwrap(), b"", "what was there stays");
    });
}

#[test]
fn status_and_refresh_are_attributes() {
    require("setfattr", "attr");
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        let daemon = mounted(&dir, "1h", &["--mode", "0444"]);
        let file = daemon.mountpoint();
        read(file).unwrap();
        assert_eq!(status(file)["layout"], "file");
        assert_eq!(status(file)["view"], "token");
        let size = rustix::fs::getxattr_query(file, STATUS).unwrap();
        let mut exact = vec![0; size];
        assert_eq!(rustix::fs::getxattr(file, STATUS, exact.as_mut_slice()), Ok(size));
        assert!(serde_json::from_slice::<serde_json::Value>(&exact).is_ok());
        let mut short = vec![0; size / 2];
        let too_little = rustix::fs::getxattr(file, STATUS, short.as_mut_slice());
        assert_eq!(too_little, Err(rustix::io::Errno::RANGE));
        let unknown = rustix::fs::getxattr(file, "user.other", exact.as_mut_slice());
        assert_eq!(unknown, Err(rustix::io::Errno::NODATA));
        let length = rustix::fs::listxattr(file, exact.as_mut_slice()).unwrap();
        assert_eq!(&exact[..length], b"user.molecule.status\0");

        // What status says of a token that is refused works here.
        let said = tell(&dir, &daemon, &["status"]).ok();
        let line = said.lines().find(|line| line.contains("setfattr")).expect(&said).trim();
        let mut shell = command("sh", User::Own);
        shell.args(["-c", line]);
        run(shell, &dir, secs(5)).ok();
        assert!(!said.contains("/refresh"), "{said}");
        eventually("another token", secs(5), || (generation(file) == 2).then_some(()));

        assert_eq!(ask(file, "nonsense"), Err(Errno::EINVAL));
        assert_eq!(ask(file, "0123abcd\n"), Ok(()), "a token that nobody knows");
        assert_eq!(ask(file, "now\n"), Ok(()));
        assert_eq!(ask(file, ""), Err(Errno::EBUSY), "a second one within a second");
        eventually("another token", secs(5), || (generation(file) == 3).then_some(()));

        // Another user may read this one, and its status, but ask for nothing.
        let other = |words: &[&str]| {
            let mut command = command(words[0], User::Number(ORDINARY));
            command.args(&words[1..]).arg(file);
            run(command, &dir, secs(10))
        };
        assert!(other(&["getfattr", "--only-values", "-n", STATUS]).ok().starts_with('{'));
        let refused = other(&["setfattr", "-n", REFRESH, "-v", ""]);
        assert!(refused.stderr.contains("Permission denied"), "{refused:?}");
    });
}

#[test]
fn a_watcher_of_a_mounted_file_sees_each_generation_once() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let daemon = mounted(&dir, "2s", &["--refresh-interval", "60ms", "--refresh-jitter", "0s"]);
        let file = daemon.mountpoint();
        let watched = Watched::start(&[(file.to_owned(), AddWatchFlags::IN_ATTRIB)]);
        read(file).unwrap();
        eventually("a second token", secs(5), || (generation(file) > 1).then_some(()));
        let kills = 6;
        for _ in 0..kills {
            std::thread::sleep(millis(300));
            daemon.kill_worker(Signal::SIGKILL);
        }
        // A worker that dies between taking a number and publishing what is to have it leaves a number
        // that was never a generation.
        let events = eventually("as many events as generations", secs(10), || {
            let before = generation(file);
            let events = watched.counts().values().sum::<u64>();
            let is_all = events <= before && before <= events + kills;
            (is_all && generation(file) == before).then_some(events)
        });
        assert!(events >= 6, "{events} generations");
    });
}

#[test]
fn a_worker_that_dies_inside_the_flip_tells_it_once_all_the_same() {
    sandboxed(secs(60), || {
        for place in ["setattr", "after-setattr"] {
            let dir = TestDir::new();
            let fault = format!("kill:{place}:/2");
            let often = ["--refresh-interval", "100ms", "--refresh-jitter", "0s"];
            let daemon = mounted(&dir, "2s", &[&often[..], &["--fault", &fault]].concat());
            let file = daemon.mountpoint();
            let watched = Watched::start(&[(file.to_owned(), AddWatchFlags::IN_ATTRIB)]);
            let first = daemon.worker();
            read(file).unwrap();
            eventually("as many events as generations", secs(20), || {
                let seen = read(file).expect("an open never fails");
                assert_eq!(seen.size, seen.bytes.len() as u64);
                let events = watched.counts().values().sum::<u64>();
                (events >= 6 && events == generation(file)).then_some(())
            });
            assert_ne!(daemon.worker(), first, "it died");
        }
    });
}

#[test]
fn every_command_knows_a_mounted_file() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let mut daemon = mounted(&dir, "1h", &[]);
        let file = daemon.mountpoint().to_owned();
        let path = file.to_str().unwrap();
        tell(&dir, &daemon, &["wait"]).ok();
        let token = tell(&dir, &daemon, &["get", "--view", "token"]).ok();
        assert_eq!(tell(&dir, &daemon, &["get", "--min-life", "10m"]).ok(), token);
        assert!(tell(&dir, &daemon, &["status"]).ok().contains("a file: the view token"));
        assert_eq!(status_of(&tell(&dir, &daemon, &["status", "--json"]).ok())["layout"], "file");
        let said = tell(&dir, &daemon, &["refresh"]).ok();
        assert!(said.starts_with("token "), "{said}");
        let token = fs::read_to_string(&file).unwrap();
        let shown =
            tokenfs_run(&dir, &["exec", "--mountpoint", path, "--", "printenv", "GH_TOKEN"]);
        assert_eq!(shown.ok(), format!("{token}\n"));

        let old = daemon.worker();
        assert!(tell(&dir, &daemon, &["upgrade"]).ok().contains("serves now"));
        assert_ne!(daemon.worker(), old);
        let second = tokenfs_run(&dir, &["mount", "--layout", "file", path]);
        let holder = format!("already mounted by molecule-tokenfs (process {})", daemon.pid());
        assert!(second.stderr.contains(&holder), "{second:?}");

        // A dead mount is cleaned up, and its file is there for the next one.
        daemon.process().signal(Signal::SIGKILL);
        daemon.process().wait(secs(2));
        eventually("readers get an error", secs(2), || read(&file).is_err().then_some(()));
        assert_eq!(tokenfs_run(&dir, &["status", path]).status.code(), Some(3));
        let mut again = mounted(&dir, "1h", &[]);
        assert!(read(&file).is_ok());
        tell(&dir, &again, &["umount"]).ok();
        assert_eq!(again.process().wait(secs(5)).code(), Some(0));
        assert_eq!(mounts_below(dir.path()).len(), 0);
    });
}

fn status_of(text: &str) -> serde_json::Value {
    serde_json::from_str(text).expect("JSON")
}

/// A directory with what the script needs, and with this program.
fn tools(dir: &TestDir, program: &str) -> PathBuf {
    let program = Path::new(program);
    let tools = dir.folder(&format!("with-{}", program.file_name().unwrap().display()));
    for tool in [Path::new("/usr/bin/cat"), Path::new("/usr/bin/sha256sum"), program] {
        let place = tools.join(tool.file_name().unwrap());
        if !place.exists() {
            symlink(tool, place).unwrap();
        }
    }
    tools
}

#[test]
fn git_and_gh_take_a_mounted_file() {
    require("setfattr", "attr");
    sandboxed(secs(60), || {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");
        for view in ["token", "git-credential"] {
            let dir = TestDir::new();
            let daemon = mounted(&dir, "1h", &["--view", view]);
            let file = daemon.mountpoint();
            let path = file.to_str().unwrap();
            let script = format!("{root}/git-credential-molecule");
            // The script tells a refusal by setfattr, or by the binary where there is no such thing.
            for (program, words, teller) in [
                (PROGRAM, &["git-credential"][..], PROGRAM),
                (&script, &[], "/usr/bin/setfattr"),
                (&script, &[], PROGRAM),
            ] {
                let tools = tools(&dir, teller);
                let before = generation(file);
                let ask = |action: &str, more: &str| {
                    let line = format!(
                        "export PATH={}; printf 'protocol=https\nhost=github.com\n{more}\n' | \"$@\"",
                        tools.display()
                    );
                    let mut sh = command("/bin/sh", User::Own);
                    sh.args(["-c", &line, "sh"]).arg(program).args(words);
                    sh.args(["--mountpoint", path, action]);
                    run(sh, &dir, secs(10)).ok()
                };
                let answer = ask("get", "");
                let password = answer.lines().find_map(|line| line.strip_prefix("password="));
                let password = password.expect("a password").to_owned();
                assert!(fs::read_to_string(file).unwrap().contains(&password), "{answer}");
                ask("erase", &format!("password={password}\n"));
                eventually("another token", secs(5), || (generation(file) > before).then_some(()));
                // Rejections of one second count as one.
                std::thread::sleep(secs(1));
            }
        }
        let dir = TestDir::new();
        let daemon = mounted(&dir, "1h", &[]);
        let real = dir.file("gh", "#!/bin/sh\nprintenv GH_TOKEN\n");
        fs::set_permissions(&real, Permissions::from_mode(0o755)).unwrap();
        let mut gh = command("sh", User::Own);
        gh.arg(format!("{root}/gh")).arg("api");
        gh.env("MOLECULE_REAL_GH", &real).env("MOLECULE_TOKENFS_MOUNTPOINT", daemon.mountpoint());
        let token = fs::read_to_string(daemon.mountpoint()).unwrap();
        assert_eq!(run(gh, &dir, secs(10)).ok(), format!("{token}\n"));
    });
}

#[test]
fn what_contradicts_itself_is_refused_and_stays_as_it_was() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        let empty = dir.file("empty", "");
        let folder = dir.folder("folder");
        for (layout, target, code, sentence) in [
            (
                "directory",
                &empty,
                1,
                "is a regular file, and the layout `directory` wants a directory",
            ),
            ("file", &folder, 1, "is a directory, and the layout `file` wants a regular file"),
            ("tree", &folder, 2, "expected directory or file"),
        ] {
            let path = target.to_str().unwrap();
            let refused = tokenfs_run(&dir, &["mount", "--layout", layout, path]);
            assert_eq!(refused.status.code(), Some(code), "{refused:?}");
            assert!(refused.stderr.contains(sentence), "{sentence}: {refused:?}");
        }
        let path = empty.to_str().unwrap();
        let refused = tokenfs_run(&dir, &["mount", "--view", "live/token", path]);
        assert!(refused.stderr.contains("expected one of token, git-credential"), "{refused:?}");
        let refused = tokenfs_run(&dir, &["mount", "--backend", "files", "--layout", "file", path]);
        assert!(refused.stderr.contains("cannot be a single file without FUSE"), "{refused:?}");
        assert!(empty.is_file() && folder.is_dir());
        let kind = statfs(&empty).unwrap().filesystem_type();
        assert_ne!(kind, FUSE_SUPER_MAGIC);
    });
}

#[test]
fn an_ordinary_user_mounts_a_file_through_the_helper() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        open_fuse_device(&dir);
        dir.give_to(ORDINARY);
        let user = User::Number(ORDINARY);
        let mut daemon = Daemon::of(&dir, user)
            .args(["--layout", "file", "--made-up", "1s"])
            .args(OFTEN)
            .start();
        for program in [&["cat"][..], &["busybox", "cat"]] {
            let mut cat = command(program[0], user);
            cat.args(&program[1..]).arg(daemon.mountpoint());
            assert!(run(cat, &dir, secs(5)).ok().starts_with("ghs_"));
        }
        let mut status = tokenfs(&dir, user);
        status.args(["status", "--json"]).arg(daemon.mountpoint());
        assert_eq!(status_of(&run(status, &dir, secs(5)).ok())["view"], "token");
        assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
        assert_eq!(mounts_below(dir.path()).len(), 0);
        assert!(!dir.join("token").exists());
    });
}
