//! Thousands of rotations leave nothing behind: no memory, no descriptor, no inode in the kernel.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{scope, sleep};

use nix::errno::Errno;
use serde_json::json;

use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::{Process, User, command, errno};
use crate::support::processes::{descriptors, memory_of_its_own};
use crate::support::{eventually, millis, secs};
use crate::{generation, report, rotating};

const FIRST: u64 = 100;
const LAST: u64 = 5_100;

/// What the allocator and the kernel's counters may differ by between two looks at the same thing.
const MEMORY_TOLERANCE: u64 = 128 * 1024;
/// The kernel counts inodes in batches for each processor, and other mounts have some, too. Ten views
/// were each a new inode 5,000 times.
const INODE_TOLERANCE: u64 = 500;

/// What there is of everything.
#[derive(Debug, Clone, Copy, serde::Serialize)]
struct Stock {
    generation: u64,
    /// In bytes, without what is mapped of files.
    supervisor_memory: u64,
    worker_memory: u64,
    supervisor_descriptors: usize,
    worker_descriptors: usize,
    /// Of all FUSE mounts of the machine, after the kernel let go of what nobody uses.
    kernel_inodes: u64,
}

/// The inodes of all FUSE mounts (`slabinfo(5)`).
fn fuse_inodes() -> u64 {
    fs::write("/proc/sys/vm/drop_caches", "2").expect("unused inodes are dropped");
    // Objects that lie in half-empty pages of a processor's own are counted until these are given back.
    fs::write("/sys/kernel/slab/fuse_inode/shrink", "1").ok();
    let text = fs::read_to_string("/proc/slabinfo").expect("slabinfo");
    let line = text.lines().find_map(|line| line.strip_prefix("fuse_inode ")).expect("fuse_inode");
    line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
}

/// What readers met.
#[derive(Default)]
struct Met {
    opens: AtomicU64,
    /// A handle of a live view that was held for 64 rotations.
    too_old: AtomicU64,
}

fn keep_reading(path: &Path, stop: &AtomicBool, met: &Met) {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        bytes.clear();
        let mut file = fs::File::open(path).expect("an open gets a token");
        met.opens.fetch_add(1, Ordering::Relaxed);
        let size = file.metadata().expect("fstat").size();
        match file.read_to_end(&mut bytes) {
            Ok(length) => assert_eq!(length as u64, size, "{}", path.display()),
            Err(error) if errno(&error) == Some(Errno::EKEYEXPIRED) => {
                met.too_old.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
}

#[test]
#[ignore = "scripts/evidence rotations runs it: other mounts of the machine disturb it"]
fn five_thousand_rotations_leave_nothing_behind() {
    sandboxed(secs(300), || {
        let dir = TestDir::new();
        let daemon = rotating(&dir, "1ms").log_level("warn").start();
        let watch = |name: &str, path: PathBuf| {
            let mut inotifywait = command("inotifywait", User::Own);
            inotifywait.args(["-m", "-q", "-e", "moved_to,attrib", "-o", "/dev/null"]).arg(path);
            Process::start(inotifywait, name, &dir)
        };
        let _watchers = [
            watch("watch-root", daemon.path(".")),
            watch("watch-gh", daemon.path("gh")),
            watch("watch-live", daemon.path("live/token")),
        ];
        let (stop, met) = (AtomicBool::new(false), Met::default());
        let look = || {
            let [supervisor, worker] = [daemon.pid(), daemon.worker().expect("a worker")];
            let [supervisor, worker] = [supervisor.as_raw(), worker.as_raw()];
            Stock {
                generation: generation(&daemon),
                supervisor_memory: memory_of_its_own(supervisor),
                worker_memory: memory_of_its_own(worker),
                supervisor_descriptors: descriptors(supervisor),
                worker_descriptors: descriptors(worker),
                kernel_inodes: fuse_inodes(),
            }
        };
        let [first, last] = scope(|scope| {
            let paths = ["token", "live/token", "gh/hosts.yml", "live/netrc"];
            let readers = paths.map(|name| {
                let (path, stop, met) = (daemon.path(name), &stop, &met);
                scope.spawn(move || keep_reading(&path, stop, met))
            });
            let stocks = [FIRST, LAST].map(|wanted| {
                eventually("enough rotations", secs(120), || {
                    assert!(readers.iter().all(|reader| !reader.is_finished()), "readers go on");
                    (generation(&daemon) >= wanted).then_some(())
                });
                look()
            });
            stop.store(true, Ordering::Relaxed);
            stocks
        });
        sleep(millis(10));
        report(&json!({
            "after_the_first": first,
            "at_the_end": last,
            "rotations_between": last.generation - first.generation,
            "opens": met.opens.load(Ordering::Relaxed),
            "handles_held_for_64_rotations": met.too_old.load(Ordering::Relaxed),
            "watchers": 3,
        }));
        assert_eq!(first.supervisor_descriptors, last.supervisor_descriptors);
        assert_eq!(first.worker_descriptors, last.worker_descriptors);
        assert!(last.kernel_inodes <= first.kernel_inodes + INODE_TOLERANCE, "{last:?}");
        assert!(last.supervisor_memory <= first.supervisor_memory + MEMORY_TOLERANCE);
        assert!(last.worker_memory <= first.worker_memory + MEMORY_TOLERANCE);
    });
}
