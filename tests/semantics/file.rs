//! A mount that is a file: one view, and attributes for what a directory has beside its views.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use molecule_tokenfs::secret::Fingerprint;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::XattrFlags;
use serde_json::Value;

use crate::support::daemon::Daemon;
use crate::support::process::{Finished, ORDINARY, User, errno, require};
use crate::support::{eventually, kernel_resends, millis, secs};
use crate::watching::{count, watch};
use crate::{Mount, Section, fails, is_token};

const STATUS: &str = "user.molecule.status";
const REFRESH: &str = "system.molecule.refresh";

const MAPPING: &str = r"
import errno, mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
assert mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ)[:] == os.pread(fd, 65536, 0)
try: mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ); sys.exit('mapped')
except OSError as error: assert error.errno == errno.ENODEV, error
";

const READ_STATUS: &str = "getfattr --only-values -n user.molecule.status \"$1\"";
const ASK: &str = "setfattr -n system.molecule.refresh -v 00000000 \"$1\"";

fn mounted(more: &[&str]) -> Mount {
    Mount::living("1h", |builder| builder.args(["--layout", "file"]).args(more))
}

fn attribute(file: &Path, name: &str, room: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; room];
    let length = rustix::fs::getxattr(file, name, bytes.as_mut_slice())?;
    bytes.truncate(length);
    Ok(bytes)
}

fn set(file: &Path, name: &str, value: &str) -> io::Result<()> {
    Ok(rustix::fs::setxattr(file, name, value.as_bytes(), XattrFlags::empty())?)
}

fn status(file: &Path) -> Value {
    serde_json::from_slice(&attribute(file, STATUS, 64 * 1024).unwrap()).unwrap()
}

fn worker(file: &Path) -> Pid {
    Pid::from_raw(status(file)["worker_pid"].as_i64().unwrap().try_into().unwrap())
}

/// Stops or kills the worker, and waits for the next.
fn break_worker(file: &Path, signal: Signal) {
    let old = worker(file);
    kill(old, signal).unwrap();
    eventually("another worker serves", secs(10), || (worker(file) != old).then_some(()));
}

/// Has another token fetched, as a consumer that got 401 does.
fn rotate(file: &Path) {
    let token = fs::read(file).unwrap();
    set(file, REFRESH, &Fingerprint::of(&token).to_string()).unwrap();
    eventually("another token", secs(5), || (fs::read(file).ok()? != token).then_some(()));
}

/// Waits out the second in which another fetch is refused.
fn ask(file: &Path, wish: &str) {
    eventually("it is heard", secs(5), || set(file, REFRESH, wish).ok());
}

pub fn check(section: &mut Section) {
    require("setfattr", "attr");
    let mut mount = mounted(&[]);
    let file = mount.daemon.mountpoint().to_owned();
    what_it_is(section, &mount, &file);
    events(section);
    its_status(section, &file);
    its_refresh(section, &file);
    section.says("Whatever else would write fails with `EROFS`.", || {
        let before = (fs::read(&file).unwrap(), fs::metadata(&file).unwrap().mode());
        let times = |file: File| file.set_modified(std::time::UNIX_EPOCH);
        for (kind, refused) in [
            ("open", OpenOptions::new().write(true).open(&file).map(drop)),
            ("truncate", Ok(nix::unistd::truncate(&file, 0)).and_then(|cut| Ok(cut?))),
            ("chmod", fs::set_permissions(&file, fs::Permissions::from_mode(0o666))),
            ("chown", std::os::unix::fs::chown(&file, Some(1), Some(1))),
            ("utimes", File::open(&file).and_then(times)),
            ("status", set(&file, STATUS, "x")),
            ("another attribute", set(&file, "user.x", "x")),
            ("no attribute", Ok(rustix::fs::removexattr(&file, STATUS)).and_then(|it| Ok(it?))),
        ] {
            assert_eq!(fails(refused), Errno::EROFS, "{kind}");
        }
        assert_eq!((fs::read(&file).unwrap(), fs::metadata(&file).unwrap().mode()), before);
    });
    the_end(section, &mut mount, &file);
}

fn what_it_is(section: &mut Section, mount: &Mount, file: &Path) {
    section.says(
        "With `--layout file`, or where the mountpoint is a regular file, the mount is one view: \
         the token, or what `--view` names.",
        || {
            assert!(fs::metadata(file).unwrap().is_file());
            is_token(&fs::read(file).unwrap());
            let header = Mount::living("1h", |builder| {
                builder.mountpoint(mount.dir.file("header", "")).args(["--view", "header"])
            });
            let text = fs::read_to_string(header.daemon.mountpoint()).unwrap();
            assert!(text.starts_with("Authorization: Bearer ghs_"), "{text}");
        },
    );
    section.says(
        "Each open of it gives the newest token, and `fstat` of the handle the size of that.",
        || {
            let mut seen = Vec::new();
            for _ in 0..4 {
                rotate(file);
                let mut opened = File::open(file).unwrap();
                let size = opened.metadata().unwrap().size();
                let mut token = Vec::new();
                opened.read_to_end(&mut token).unwrap();
                assert_eq!(size, token.len() as u64);
                seen.push(is_token(&token));
            }
            assert!(seen.is_sorted_by(|one, next| one < next), "{seen:?}");
        },
    );
    section.says("It has the same inode number for ever, and one link.", || {
        let number = fs::metadata(file).unwrap().ino();
        rotate(file);
        break_worker(file, Signal::SIGKILL);
        let now = fs::metadata(file).unwrap();
        assert_eq!((now.ino(), now.nlink()), (number, 1));
    });
    section.says("It cannot be mapped shared (`ENODEV`); a private mapping works.", || {
        mount.python(MAPPING);
    });
}

fn events(section: &mut Section) {
    section.says("inotify on it reports `IN_ATTRIB` once for each rotation.", || {
        let mount = mounted(&["--refresh-interval", "400ms", "--refresh-jitter", "0s"]);
        let file = mount.daemon.mountpoint();
        // Nothing is fetched before the first open.
        let events = counted(watch(file, AddWatchFlags::IN_ATTRIB));
        fs::read(file).unwrap();
        is_told(&events, file, 4, 0);
    });
}

/// Counts events as they come, until the number is dropped: two that are alike and not read in between
/// would be one (inotify(7)).
fn counted(inotify: Inotify) -> Arc<AtomicU64> {
    let number = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&number);
    std::thread::spawn(move || {
        while Arc::strong_count(&counter) > 1 {
            let events = inotify.read_events().map_or(0, |events| events.len());
            counter.fetch_add(events as u64, Ordering::Relaxed);
            std::thread::sleep(millis(5));
        }
    });
    number
}

/// Waits until there are as many events as rotations, and so many at least. A worker that is killed
/// between taking a number and publishing what is to have it leaves a number that was never a generation.
fn is_told(events: &AtomicU64, file: &Path, least: u64, kills: u64) {
    eventually("an event for each rotation", secs(15), || {
        let number = events.load(Ordering::Relaxed);
        let generation = status(file)["tokens"][0]["generation"].as_u64()?;
        let is_all = number <= generation && generation <= number + kills;
        (number >= least && is_all).then_some(())
    });
}

#[track_caller]
fn is_denied(told: &Finished) {
    assert!(told.stderr.contains("/token: "), "{told:?}");
    assert!(told.stderr.contains("Permission denied"), "{told:?}");
}

fn its_status(section: &mut Section, file: &Path) {
    section.says(
        "The attribute `user.molecule.status` is the document of `status.json`, for all who may \
         read the file; others get `EACCES`.",
        || {
            let document = status(file);
            assert_eq!((&document["layout"], &document["view"]), (&"file".into(), &"token".into()));
            assert_eq!(document["tokens"][0]["state"], "fresh", "{document}");
            let mount = mounted(&["--owner", "4242", "--group", "1000", "--mode", "0440"]);
            mount.shell(User::Number(ORDINARY), READ_STATUS).ok();
            is_denied(&mount.shell(User::Number(4243), READ_STATUS));
        },
    );
    section.says(
        "A buffer that is too small for all of it gets `ERANGE`, and the size that was reported \
         holds for the next read of it.",
        || {
            for _ in 0..20 {
                let size = rustix::fs::getxattr_query(file, STATUS).unwrap();
                assert_eq!(attribute(file, STATUS, size).unwrap().len(), size);
                assert_eq!(fails(attribute(file, STATUS, size / 2)), Errno::ERANGE);
            }
        },
    );
    section.says(
        "`listxattr` names it alone; any other attribute is not there: `ENODATA`.",
        || {
            let mut names = [0; 256];
            let length = rustix::fs::listxattr(file, &mut names).unwrap();
            assert_eq!(&names[..length], b"user.molecule.status\0");
            for name in ["user.x", REFRESH, "security.selinux", "trusted.x"] {
                assert_eq!(fails(attribute(file, name, 100)), Errno::ENODATA, "{name}");
            }
        },
    );
}

fn its_refresh(section: &mut Section, file: &Path) {
    section.says(
        "Setting `system.molecule.refresh` does what writing to `refresh` does, with `EBUSY` where \
         that says `EAGAIN`.",
        || {
            for wish in ["refresh\n", "now", ""] {
                let before = fs::read(file).unwrap();
                ask(file, wish);
                eventually("another token", secs(5), || {
                    (fs::read(file).unwrap() != before).then_some(())
                });
            }
            ask(file, "now");
            // Unless the machine stood still for a second in between.
            eventually("it is refused", secs(10), || {
                let second = set(file, REFRESH, "now").err()?;
                assert_eq!(second.raw_os_error(), Some(Errno::EBUSY as i32));
                Some(())
            });
            for wish in ["no", "refresh now", "0123456", "0123456g", &"x".repeat(5000)] {
                assert_eq!(fails(set(file, REFRESH, wish)), Errno::EINVAL, "{wish}");
            }
        },
    );
    section.says(
        "Its owner and root may set that, and the group where `--refresh-mode` says so; nobody else: \
         `EACCES`.",
        || {
            let group = ["--group", "1000", "--refresh-mode", "0620"];
            let mount = mounted(&[&["--owner", "4242", "--mode", "0444"], &group[..]].concat());
            mount.shell(User::Number(ORDINARY), ASK).ok();
            is_denied(&mount.shell(User::Number(4243), ASK));
            let mount = mounted(&["--owner", "4242", "--group", "1000", "--mode", "0444"]);
            mount.shell(User::Number(ORDINARY), READ_STATUS).ok();
            is_denied(&mount.shell(User::Number(ORDINARY), ASK));
            for user in [User::Own, User::Number(4242)] {
                mount.shell(user, ASK).ok();
            }
        },
    );
    section.says("Setting it causes an `IN_ATTRIB`, too, as with any attribute.", || {
        let mount = mounted(&[]);
        let file = mount.daemon.mountpoint();
        let inotify = watch(file, AddWatchFlags::IN_ATTRIB);
        set(file, REFRESH, "00000000").unwrap();
        let seen = count(&inotify, 1, AddWatchFlags::IN_ATTRIB);
        assert_eq!(seen.into_values().collect::<Vec<_>>(), [1]);
        assert_eq!(inotify.read_events().err(), Some(Errno::EAGAIN));
    });
}

fn the_end(section: &mut Section, mount: &mut Mount, file: &Path) {
    section.says(
        "No open fails because a worker dies, and each rotation is still reported exactly once.",
        || {
            // A new worker lets a token that lives long be for a while.
            let mount = Mount::living("2s", |builder| {
                let often = ["--refresh-interval", "400ms", "--refresh-jitter", "0s"];
                builder.args(["--layout", "file"]).args(often)
            });
            let file = mount.daemon.mountpoint().to_owned();
            let events = counted(watch(&file, AddWatchFlags::IN_ATTRIB));
            let (path, served) = (file.clone(), Arc::new(AtomicU64::new(0)));
            let count = Arc::clone(&served);
            let reader = std::thread::spawn(move || {
                // Until nobody else counts.
                while Arc::strong_count(&count) > 1 {
                    let mut bytes = Vec::new();
                    let mut file = File::open(&path).expect("an open never fails");
                    match file.read_to_end(&mut bytes) {
                        Ok(_) => drop(is_token(&bytes)),
                        // Before Linux 6.9 a read that the dead worker had in hand can be lost.
                        Err(error) => {
                            assert_eq!(errno(&error), Some(Errno::ESTALE));
                            assert!(!kernel_resends(), "{error}");
                        }
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
            for _ in 0..4 {
                // Where a lost open is made anew, the second death must not hit that one, too.
                let before = served.load(Ordering::Relaxed);
                eventually("the reader is served", secs(10), || {
                    (served.load(Ordering::Relaxed) > before + 1).then_some(())
                });
                break_worker(&file, Signal::SIGKILL);
            }
            drop(served);
            reader.join().unwrap();
            is_told(&events, &file, 4, 4);
        },
    );
    section.says(
        "A worker that is stopped for good is replaced, and the opens that waited get their token.",
        || {
            let reader = {
                let file = file.to_owned();
                kill(worker(&file), Signal::SIGSTOP).unwrap();
                std::thread::spawn(move || fs::read(file))
            };
            is_token(&reader.join().unwrap().unwrap());
        },
    );
    section.says(
        "When the supervisor dies, opens and attributes fail with `ENOTCONN` until the next start.",
        || {
            kill(mount.daemon.pid(), Signal::SIGKILL).unwrap();
            mount.daemon.process().wait(secs(5));
            eventually("readers get an error", secs(5), || {
                let error = fails(Err::<(), _>(fs::read(file).err()?));
                assert!(matches!(error, Errno::ECONNABORTED | Errno::ENOTCONN), "{error}");
                (error == Errno::ENOTCONN).then_some(())
            });
            assert_eq!(fails(attribute(file, STATUS, 100)), Errno::ENOTCONN);
            assert_eq!(fails(set(file, REFRESH, "now")), Errno::ENOTCONN);
            mount.daemon =
                Daemon::at(&mount.dir).args(["--layout", "file", "--made-up", "1h"]).start();
            is_token(&fs::read(file).unwrap());
        },
    );
}
