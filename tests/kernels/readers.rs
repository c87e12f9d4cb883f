//! Readers that never pause and note what each call says.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use molecule_tokenfs::source::made_up::MadeUp;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, fstat};
use nix::sys::uio::pread;

use crate::support::daemon::Daemon;
use crate::support::dir::TestDir;
use crate::support::{eventually, secs};

/// What readers of one kind saw.
#[derive(Debug, Default, Clone, serde::Serialize)]
pub struct Seen {
    pub opens: u64,
    /// By call and error.
    pub errors: BTreeMap<String, u64>,
    /// No token, or not a whole one.
    pub wrong_bytes: u64,
    /// `fstat` told another size than that of the bytes.
    pub wrong_sizes: u64,
    /// The same of a view that is bound, whose size is that of the token that was bound.
    pub sizes_of_a_bound_view: u64,
    pub longest_open_ms: f64,
}

impl Seen {
    pub fn add(&mut self, other: &Self) {
        self.opens += other.opens;
        for (error, number) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += number;
        }
        self.wrong_bytes += other.wrong_bytes;
        self.wrong_sizes += other.wrong_sizes;
        self.sizes_of_a_bound_view += other.sizes_of_a_bound_view;
        self.longest_open_ms = self.longest_open_ms.max(other.longest_open_ms);
    }

    /// The errors of one call.
    pub fn errors_of(&self, call: &str) -> BTreeMap<&str, u64> {
        self.errors
            .iter()
            .filter(|(error, _)| error.split(' ').next() == Some(call))
            .map(|(error, number)| (error.as_str(), *number))
            .collect()
    }

    fn note<T>(&mut self, call: &str, result: Result<T, Errno>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(errno) => {
                *self.errors.entry(format!("{call} {errno:?}")).or_default() += 1;
                None
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a test runs in real time")]
    fn open(&mut self, path: &Path) -> Option<OwnedFd> {
        let start = Instant::now();
        let opened = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        self.longest_open_ms = self.longest_open_ms.max(start.elapsed().as_secs_f64() * 1000.0);
        self.opens += 1;
        self.note("open", opened)
    }

    /// Opens, looks at, reads and closes a file, each by its own call. Whether it was opened.
    fn file(&mut self, path: &Path, kind: Kind) -> bool {
        let Some(file) = self.open(path) else { return false };
        let size = self.note("fstat", fstat(&file)).map(|stat| stat.st_size);
        let mut bytes = vec![0; 4096];
        let read = match kind {
            Kind::Pread => self.note("pread", pread(&file, &mut bytes, 0)),
            _ => self.note("read", nix::unistd::read(file.as_fd(), &mut bytes)),
        };
        if let Some(read) = read {
            bytes.truncate(read);
            self.wrong_bytes += u64::from(MadeUp::number(&bytes).is_none());
            let is_wrong = size.is_some_and(|size| usize::try_from(size).ok() != Some(read));
            if kind == Kind::BoundView {
                self.sizes_of_a_bound_view += u64::from(is_wrong);
            } else {
                self.wrong_sizes += u64::from(is_wrong);
            }
        }
        self.close(file.into_raw_fd());
        true
    }

    fn close(&mut self, file: RawFd) {
        self.note("close", nix::unistd::close(file));
    }

    /// Lists a directory. It is no proof that a worker serves: the kernel may know what is in it.
    fn listing(&mut self, path: &Path) {
        let opened =
            nix::dir::Dir::open(path, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
        if let Some(mut directory) = self.note("opendir", opened) {
            let mut names = 0;
            for entry in directory.iter() {
                names += u64::from(self.note("readdir", entry).is_some());
            }
            self.opens += 1;
            self.wrong_bytes += u64::from(self.errors.is_empty() && names < 3);
        }
    }
}

/// What a reader reads, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Path,
    Pread,
    Live,
    BoundView,
    BoundLive,
    Listing,
}

/// Fourteen, so that several wait whenever a worker dies.
const READERS: [(Kind, &str); 14] = [
    (Kind::Path, "path"),
    (Kind::Path, "path"),
    (Kind::Path, "path"),
    (Kind::Path, "path"),
    (Kind::Pread, "path"),
    (Kind::Live, "live"),
    (Kind::Live, "live"),
    (Kind::Live, "live"),
    (Kind::BoundView, "bound view"),
    (Kind::BoundView, "bound view"),
    (Kind::BoundView, "bound view"),
    (Kind::BoundLive, "bound live"),
    (Kind::BoundLive, "bound live"),
    (Kind::Listing, "listing"),
];

/// Readers at work.
pub struct Readers {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<(&'static str, JoinHandle<Seen>)>,
}

impl Readers {
    pub fn start(daemon: &Daemon, dir: &TestDir) -> Self {
        eventually("a first token", secs(30), || std::fs::read(daemon.path("token")).ok());
        let bound = |name: &str, place: &str| {
            let place = dir.file(place, "");
            let none = None::<&str>;
            mount(Some(&daemon.path(name)), &place, none, MsFlags::MS_BIND, none).expect("a bind");
            place
        };
        let (bound_view, bound_live) =
            (bound("token", "bound-view"), bound("live/token", "bound-live"));
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = READERS.map(|(kind, name)| {
            let path = match kind {
                Kind::Path | Kind::Pread => daemon.path("token"),
                Kind::Live => daemon.path("live/token"),
                Kind::BoundView => bound_view.clone(),
                Kind::BoundLive => bound_live.clone(),
                Kind::Listing => daemon.mountpoint().to_owned(),
            };
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            (name, thread::spawn(move || read(kind, &path, &stop, &done)))
        });
        Self { stop, done, threads: threads.into() }
    }

    /// Files opened so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Ends them; a reader that hangs hangs the caller, whose time limit names it.
    pub fn end(mut self) -> BTreeMap<&'static str, Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = BTreeMap::<_, Seen>::new();
        for (kind, thread) in self.threads.drain(..) {
            all.entry(kind).or_default().add(&thread.join().expect("a reader"));
        }
        all
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn read(kind: Kind, path: &Path, stop: &AtomicBool, done: &AtomicU64) -> Seen {
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        if kind == Kind::Listing {
            seen.listing(path);
        } else if seen.file(path, kind) {
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
    seen
}
