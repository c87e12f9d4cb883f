//! Threads that open and read as fast as they can, and the threads that they are compared with.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use molecule_tokenfs::secret::Fingerprint;
use molecule_tokenfs::time::{Clock, SystemClock};
use nix::errno::Errno;

use crate::judge::{Refused, Seen, Served, Span, TOLERANCE};
use crate::support::limit::Adopt;
use crate::support::{millis, process};

/// How long a reader waits after a refusal that came at once, so that opens that get a token, and
/// not refusals, are what the soak is made of.
const PAUSE: Duration = millis(20);

pub fn boot() -> Duration {
    SystemClock.now().boot
}

/// What all threads share.
struct Shared {
    stop: AtomicBool,
    served: AtomicU64,
    open_timeout: Duration,
    /// The deadline of each reader's open, in nanoseconds of the boot clock.
    deadlines: Vec<AtomicU64>,
}

/// The threads. Dropping them lets them end.
pub struct Readers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Seen>>,
    controls: Vec<JoinHandle<(u64, u64)>>,
}

/// How often the control threads woke up, and how often later than [`TOLERANCE`] after the deadline.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Control {
    pub wake_ups: u64,
    pub late: u64,
}

impl Readers {
    /// One reader of each path, and as many control threads.
    pub fn start(paths: &[PathBuf], open_timeout: Duration) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            served: AtomicU64::new(0),
            open_timeout,
            deadlines: paths.iter().map(|_| AtomicU64::new(0)).collect(),
        });
        let adopt = Adopt::here();
        let threads = paths.iter().cloned().enumerate().map(|(number, path)| {
            let (shared, adopt) = (Arc::clone(&shared), adopt.clone());
            thread::spawn(move || {
                adopt.enter();
                shared.read(number, &path)
            })
        });
        let threads = threads.collect();
        let controls = (0..paths.len()).map(|number| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.sleep(number))
        });
        let controls = controls.collect();
        Self { shared, threads, controls }
    }

    /// Opens so far that got a token.
    pub fn served(&self) -> u64 {
        self.shared.served.load(Ordering::Relaxed)
    }

    /// Ends them all, and says what they saw.
    pub fn finish(mut self) -> (Vec<Seen>, Control) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let seen = self.threads.drain(..).map(|reader| reader.join().expect("a reader"));
        let seen = seen.collect();
        let mut control = Control { wake_ups: 0, late: 0 };
        for thread in self.controls.drain(..) {
            let (wake_ups, late) = thread.join().expect("a control thread");
            control.wake_ups += wake_ups;
            control.late += late;
        }
        (seen, control)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn read(&self, number: usize, path: &Path) -> Seen {
        let mut seen = Seen::default();
        let (mut last, mut fingerprint) = (Vec::new(), Fingerprint::of(b""));
        let mut bytes = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let start = boot();
            self.deadlines[number].store(nanos(start + self.open_timeout), Ordering::Relaxed);
            let opened = File::open(path);
            let open = Span { start, end: boot() };
            match opened {
                Ok(file) => {
                    match whole(file, &mut bytes) {
                        Ok(size) => {
                            if bytes != last {
                                last.clone_from(&bytes);
                                fingerprint = Fingerprint::of(&bytes);
                            }
                            seen.served.push(Served { fingerprint, open });
                            seen.other_sizes += u64::from(size != bytes.len() as u64);
                        }
                        Err(_) => seen.unreadable += 1,
                    }
                    self.served.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    let errno = process::errno(&error).unwrap_or(Errno::UnknownErrno);
                    seen.refused.push(Refused { errno, open });
                    thread::sleep(PAUSE);
                }
            }
        }
        seen
    }

    /// Sleeps to the deadline of the open in which reader `number` is, over and over: what comes
    /// late here is the machine's doing.
    fn sleep(&self, number: usize) -> (u64, u64) {
        let (mut wake_ups, mut late) = (0, 0);
        while !self.stop.load(Ordering::Relaxed) {
            let deadline = Duration::from_nanos(self.deadlines[number].load(Ordering::Relaxed));
            let left = deadline.saturating_sub(boot());
            if left.is_zero() {
                thread::sleep(millis(1));
                continue;
            }
            thread::sleep(left);
            wake_ups += 1;
            late += u64::from(boot() > deadline + TOLERANCE);
        }
        (wake_ups, late)
    }
}

/// Reads a file to its end, and gives the size that `fstat` told before.
fn whole(mut file: File, bytes: &mut Vec<u8>) -> std::io::Result<u64> {
    bytes.clear();
    let size = file.metadata()?.size();
    file.read_to_end(bytes)?;
    Ok(size)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap()
}
