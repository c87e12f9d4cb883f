//! Readers that never pause and note what they see.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use molecule_tokenfs::source::made_up::MadeUp;
use molecule_tokenfs::time::{Clock as _, SystemClock};

use super::daemon::Daemon;

/// What says whether bytes are right. It is told when the open began and when it had ended (boot clock).
pub type Judge = Box<dyn FnMut(&[u8], Range<Duration>) -> bool + Send>;

/// A file, and what its readers should see there.
pub struct Reader {
    pub path: PathBuf,
    pub is_right: Judge,
}

/// What readers saw.
#[derive(Debug, Default, Clone, serde::Serialize)]
pub struct Seen {
    pub opens: u64,
    /// By error.
    pub failed_opens: BTreeMap<String, u64>,
    /// `fstat` or `read` of a file that was open, by error.
    pub failed_afterwards: BTreeMap<String, u64>,
    /// No token, or not a whole one.
    pub wrong_bytes: u64,
    /// `fstat` told another size than that of the bytes.
    pub wrong_sizes: u64,
    pub longest_open_ms: f64,
}

impl Seen {
    /// What another one saw, too.
    pub fn add(&mut self, other: &Self) {
        self.opens += other.opens;
        for (all, more) in [
            (&mut self.failed_opens, &other.failed_opens),
            (&mut self.failed_afterwards, &other.failed_afterwards),
        ] {
            for (error, number) in more {
                *all.entry(error.clone()).or_default() += number;
            }
        }
        self.wrong_bytes += other.wrong_bytes;
        self.wrong_sizes += other.wrong_sizes;
        self.longest_open_ms = self.longest_open_ms.max(other.longest_open_ms);
    }

    /// Nothing but tokens; `residue` allows ESTALE, and another one's size, for a file that is open.
    pub fn is_clean(&self, residue: bool) -> bool {
        let stale = |errors: &BTreeMap<String, u64>| errors.keys().all(|error| error == "ESTALE");
        self.failed_opens.is_empty()
            && (self.failed_afterwards.is_empty() || residue && stale(&self.failed_afterwards))
            && self.wrong_bytes == 0
            && (self.wrong_sizes == 0 || residue)
    }

    /// No failure and no wrong byte, whatever `fstat` said.
    pub fn has_only_tokens(&self) -> bool {
        self.failed_opens.is_empty() && self.failed_afterwards.is_empty() && self.wrong_bytes == 0
    }

    fn open(&mut self, reader: &mut Reader) {
        let start = boot();
        let opened = File::open(&reader.path);
        let end = boot();
        let took = end.saturating_sub(start);
        self.longest_open_ms = self.longest_open_ms.max(took.as_secs_f64() * 1000.0);
        self.opens += 1;
        let mut bytes = Vec::new();
        let file = match opened {
            Ok(file) => file,
            Err(error) => return count(&mut self.failed_opens, &error),
        };
        let mut read = |mut file: File| -> io::Result<u64> {
            let size = file.metadata()?.size();
            file.read_to_end(&mut bytes)?;
            Ok(size)
        };
        match read(file) {
            Ok(size) => {
                self.wrong_sizes += u64::from(size != bytes.len() as u64);
                self.wrong_bytes += u64::from(!(reader.is_right)(&bytes, start..end));
            }
            Err(error) => count(&mut self.failed_afterwards, &error),
        }
    }
}

/// The boot clock.
pub fn boot() -> Duration {
    SystemClock.now().boot
}

fn count(errors: &mut BTreeMap<String, u64>, error: &io::Error) {
    let name = super::process::errno(error).map_or_else(|| error.to_string(), |e| format!("{e:?}"));
    *errors.entry(name).or_default() += 1;
}

/// Makes this thread, and no other, one of an ordinary user.
pub fn become_user(id: u32) {
    let group = rustix::process::Gid::from_raw(id);
    rustix::thread::set_thread_res_gid(group, group, group).expect("the group");
    let user = rustix::process::Uid::from_raw(id);
    rustix::thread::set_thread_res_uid(user, user, user).expect("the user");
}

/// Does something on a thread of an ordinary user.
pub fn as_user<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let act = || {
            become_user(super::process::ORDINARY);
            act()
        };
        scope.spawn(act).join().expect("it succeeds")
    })
}

/// Readers at work.
pub struct Opens {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Seen>>,
}

impl Opens {
    /// So many readers of made-up tokens; half of them read `token`, half `live/token`.
    pub fn start(daemon: &Daemon, number: usize) -> Self {
        Self::of(daemon, number, None)
    }

    /// The same as this user and group.
    pub fn of(daemon: &Daemon, number: usize, user: Option<u32>) -> Self {
        let names = ["token", "live/token"].into_iter().cycle().take(number);
        let readers = names.map(|name| Reader {
            path: daemon.path(name),
            is_right: Box::new(|bytes, _| MadeUp::number(bytes).is_some()),
        });
        Self::by(readers, user)
    }

    /// These readers, as this user and group.
    pub fn by(readers: impl IntoIterator<Item = Reader>, user: Option<u32>) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let start = |mut reader: Reader| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            thread::spawn(move || {
                if let Some(id) = user {
                    become_user(id);
                }
                let mut seen = Seen::default();
                while !stop.load(Ordering::Relaxed) {
                    seen.open(&mut reader);
                    done.fetch_add(1, Ordering::Relaxed);
                }
                seen
            })
        };
        let threads = readers.into_iter().map(start).collect();
        Self { stop, done, threads }
    }

    /// Opens so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Ends them; a reader that hangs hangs the caller, whose time limit names it.
    pub fn end(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for thread in self.threads.drain(..) {
            all.add(&thread.join().expect("a reader"));
        }
        all
    }
}

impl Drop for Opens {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
