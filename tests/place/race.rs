//! Somebody exchanges the entries of a directory in a loop (`renameat2(2)`, `RENAME_EXCHANGE`) while
//! root mounts there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{JoinHandle, sleep, spawn};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::kill;
use nix::sys::statfs::{FUSE_SUPER_MAGIC, statfs};
use nix::unistd::Pid;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::support::daemon::tokenfs_run;
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::{eventually, millis, secs};
use crate::{ATTACKER, directory};

/// As many as the attack took that covered another directory ten times.
const MOUNTS: u32 = 200;
/// Where each succeeds or fails by chance, and takes its time.
const FEWER: u32 = 40;

/// A user who exchanges two paths while this is not paused.
struct Exchange {
    state: Arc<AtomicU8>,
    thread: Option<JoinHandle<u64>>,
}

const RUNS: u8 = 0;
const IS_TO_PAUSE: u8 = 1;
const PAUSES: u8 = 2;
const ENDS: u8 = 3;

impl Exchange {
    fn start(paths: [PathBuf; 2], user: u32) -> Self {
        let state = Arc::new(AtomicU8::new(RUNS));
        let thread = spawn({
            let state = Arc::clone(&state);
            move || {
                // Of this thread alone (`setfsuid(2)`).
                nix::unistd::setfsgid(user.into());
                nix::unistd::setfsuid(user.into());
                let [one, other] = &paths;
                let mut exchanged = 0;
                loop {
                    match state.load(Ordering::SeqCst) {
                        RUNS => {}
                        ENDS => return exchanged,
                        _ => {
                            let pauses = (IS_TO_PAUSE, PAUSES, Ordering::SeqCst);
                            let _ = state.compare_exchange(pauses.0, pauses.1, pauses.2, pauses.2);
                            sleep(millis(1));
                            continue;
                        }
                    }
                    // One that is mounted on is refused, nearly always.
                    exchanged += u64::from(
                        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).is_ok(),
                    );
                }
            }
        });
        Self { state, thread: Some(thread) }
    }

    /// Lets nothing be exchanged while an action goes on.
    fn paused<T>(&self, action: impl FnOnce() -> T) -> T {
        self.state.store(IS_TO_PAUSE, Ordering::SeqCst);
        eventually("it pauses", secs(5), || {
            (self.state.load(Ordering::SeqCst) == PAUSES).then_some(())
        });
        let done = action();
        self.state.store(RUNS, Ordering::SeqCst);
        done
    }

    /// Ends it, and tells how often the paths were exchanged.
    fn stop(mut self) -> u64 {
        self.state.store(ENDS, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.state.store(ENDS, Ordering::SeqCst);
    }
}

/// What became of all mounts.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    /// Of the empty directory.
    right: u32,
    /// Of the other one, with files in it.
    wrong: u32,
    refused: u32,
}

fn is_mounted(path: &Path) -> bool {
    statfs(path).is_ok_and(|it| it.filesystem_type() == FUSE_SUPER_MAGIC)
}

/// Unmounts, and waits for the end of the daemon.
fn end(mountpoint: &Path) {
    let status = fs::read(mountpoint.join("status.json")).unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    let daemon = Pid::from_raw(status["supervisor_pid"].as_i64().unwrap().try_into().unwrap());
    umount2(mountpoint, MntFlags::MNT_DETACH).unwrap();
    eventually("the daemon has ended", secs(5), || kill(daemon, None).err());
}

/// Mounts so often at an empty directory, which this user exchanges for a full one meanwhile.
fn mount_during_exchanges(dir: &TestDir, place: &Path, user: u32, mounts: u32) -> Tally {
    let paths = ["token", "full"].map(|name| place.join(name));
    for path in &paths {
        fs::create_dir(path).unwrap();
    }
    fs::write(paths[1].join("theirs"), "x").unwrap();
    let full = fs::metadata(&paths[1]).unwrap().ino();
    let exchange = Exchange::start(paths.clone(), user);
    let mut tally = Tally::default();
    for _ in 0..mounts {
        let words = ["mount", "--background", "--backend", "fuse", "--made-up", "1m"];
        let mount = tokenfs_run(dir, &[&words[..], &[paths[0].to_str().unwrap()]].concat());
        if !mount.status.success() {
            assert!(mount.stderr.contains("error: "), "{mount:?}");
            tally.refused += 1;
            continue;
        }
        exchange.paused(|| {
            let (covered, other): (Vec<&PathBuf>, _) = paths.iter().partition(|it| is_mounted(it));
            let (covered, other) = (covered[0], other[0]);
            if fs::metadata(other).unwrap().ino() == full {
                tally.right += 1;
            } else {
                tally.wrong += 1;
            }
            end(covered);
        });
    }
    assert!(exchange.stop() > u64::from(mounts), "it hardly exchanged anything");
    tally
}

#[test]
fn a_directory_of_somebody_else_on_the_way_is_refused_and_nothing_is_covered() {
    sandboxed(secs(240), || {
        let dir = TestDir::new();
        let place = directory(&dir, "theirs", ATTACKER, 0o755);
        let tally = mount_during_exchanges(&dir, &place, ATTACKER, MOUNTS);
        assert_eq!(tally, Tally { refused: MOUNTS, ..Tally::default() });
    });
}

#[test]
fn in_a_directory_of_our_own_too_nothing_but_the_empty_directory_is_covered() {
    sandboxed(secs(240), || {
        let dir = TestDir::new();
        let place = directory(&dir, "ours", 0, 0o755);
        let tally = mount_during_exchanges(&dir, &place, 0, FEWER);
        assert_eq!(tally.wrong, 0, "{tally:?}");
        assert!(tally.right > 0 && tally.refused > 0, "{tally:?}");
    });
}
