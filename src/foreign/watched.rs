//! A file of somebody else's that is read again whenever it is needed, and watched in between,
//! without polling (`inotify(7)`).
//!
//! The daemon owns the inotify instance, one for each file, so that nobody else's limits count. The
//! file readers set the watches on it: the paths are not the daemon's to touch.
#![expect(unsafe_code, reason = "registering a descriptor with the runtime is unsafe in tokio")]

use std::future::pending;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Once, OnceLock};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep, timeout_at};
use zeroize::Zeroizing;

use super::answer::{Answer, Found, Stamp, Unreadable};
use super::ask::ForeignFile;
use super::{LIMIT, Launcher, Request};

/// A worker that lives for longer than this watches the file, whether anybody read it or not.
const FIRST_LOOK: Duration = Duration::from_millis(250);
/// In the long run no more than one file reader is started within this by what others do to the file,
const PACE: Duration = Duration::from_secs(1);
/// and so many in a row.
const BURST: u32 = 4;
/// Reads that nobody's change led to are counted, too. However many there were, the next change is
/// looked at after so many times the pace: one for the look before, and one for the read after that.
const LONGEST_PAUSE: u32 = 2;
/// Events are read in portions of this many bytes, and forgotten: the file is looked at anyway.
const EVENTS: usize = 4096;
/// What is left after so many portions is an event of its own.
const PORTIONS: usize = 64;

/// See the module.
///
/// What counts is the file behind the name, links beneath its directory followed: in place, by a
/// rename over it, or by a rename of a link on the way (as Kubernetes does it), with directories that
/// do not exist yet. A change is reported once.
pub struct WatchedFile {
    file: ForeignFile,
    /// Made when it is first needed, and kept.
    instance: OnceLock<AsyncFd<Instance>>,
    /// Tells that there is an instance now.
    made: Notify,
    known: Mutex<Known>,
    warned: Once,
}

/// What is known of the file. Held while a file reader is asked, one at a time.
#[derive(Default)]
struct Known {
    /// The file as it was when it was last read or reported.
    seen: Option<Result<Stamp, Unreadable>>,
    watches: Vec<i32>,
    pace: Pace,
}

impl WatchedFile {
    /// A file, there or not.
    #[must_use]
    pub fn new(request: Request, launcher: Arc<Launcher>) -> Self {
        Self {
            file: ForeignFile::new(request, launcher),
            instance: OnceLock::new(),
            made: Notify::new(),
            known: Mutex::default(),
            warned: Once::new(),
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Its bytes, in [`LIMIT`]. What changes from now on is reported by the next
    /// [`WatchedFile::changed`], even if nobody waits at that moment.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub async fn read(&self) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
        self.read_found().await.map(|found| found.content)
    }

    /// The same with its mode.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub async fn read_found(&self) -> Result<Found, Unreadable> {
        let deadline = Instant::now() + LIMIT;
        let known = timeout_at(deadline, self.known.lock()).await;
        let mut known = known.map_err(|_| Unreadable::Late)?;
        let answer = self.ask(&self.file.request, &mut known, deadline).await;
        known.seen = Some(state(&answer));
        answer?.found
    }

    /// Completes when the file is not the one that was last read or reported. If it never was, then
    /// when it is not the one that it is soon after this call. One waiter at a time.
    ///
    /// Where the kernel refuses a watch (`inotify(7)`: limits), that is logged once, and a change is
    /// noticed at the next [`WatchedFile::read`] only.
    pub async fn changed(&self) {
        if self.instance.get().is_none() {
            sleep(FIRST_LOOK).await;
        }
        if self.instance.get().is_none() {
            self.look().await;
        }
        let instance = loop {
            match self.instance.get() {
                Some(instance) => break instance,
                None => self.made.notified().await,
            }
        };
        loop {
            tokio::select! {
                event = instance.readable() => if event.is_err() { pending::<()>().await },
                () = self.file.freed.notified() => {}
            }
            self.wait_for_pace().await;
            // What happens after this is an event of its own.
            drain(instance);
            if self.look().await {
                return;
            }
        }
    }

    /// Looks whether the file is another one, and sets the watches anew.
    async fn look(&self) -> bool {
        let mut known = self.known.lock().await;
        let request = Request { content: false, ..self.file.request.clone() };
        let now = state(&self.ask(&request, &mut known, Instant::now() + LIMIT).await);
        known.seen.replace(now).is_some_and(|seen| seen != now)
    }

    async fn wait_for_pace(&self) {
        loop {
            let pause = self.known.lock().await.pace.pause();
            if pause.is_zero() {
                return;
            }
            sleep(pause).await;
        }
    }

    async fn ask(
        &self,
        request: &Request,
        known: &mut Known,
        deadline: Instant,
    ) -> Result<Answer, Unreadable> {
        known.pace.count();
        let instance = self.instance().map(|it| it.get_ref().0.try_clone());
        let answer = self.file.ask(request, instance.and_then(Result::ok), deadline).await?;
        self.keep(&answer, known);
        Ok(answer)
    }

    fn instance(&self) -> Option<&AsyncFd<Instance>> {
        if self.instance.get().is_none() {
            match Instance::new() {
                // Nobody else makes one: the lock is held.
                Ok(instance) => drop(self.instance.set(instance)),
                Err(error) => self.warn(&error),
            }
            self.made.notify_one();
        }
        self.instance.get()
    }

    /// Keeps the watches that were set, and removes those that are of no use any more.
    fn keep(&self, answer: &Answer, known: &mut Known) {
        if let Some(errno) = answer.unwatched {
            self.warn(&io::Error::from_raw_os_error(errno));
        }
        let old = std::mem::replace(&mut known.watches, answer.watches.clone());
        for watch in old.into_iter().filter(|watch| !answer.watches.contains(watch)) {
            if let Some(instance) = self.instance.get() {
                // EINVAL: its file is gone, and so is the watch.
                inotify::remove_watch(&instance.get_ref().0, watch).ok();
            }
        }
    }

    fn warn(&self, error: &io::Error) {
        self.warned.call_once(|| {
            tracing::warn!(path = %self.path().display(), %error, "cannot watch the file: a change is noticed at the next regular attempt");
        });
    }
}

/// The state that an answer tells.
fn state(answer: &Result<Answer, Unreadable>) -> Result<Stamp, Unreadable> {
    answer.as_ref().map_err(|why| *why)?.found.as_ref().map(|found| found.stamp).map_err(|why| *why)
}

/// How soon the file may be looked at because somebody did something to it.
#[derive(Default)]
struct Pace {
    /// When all file readers so far would have been started at a steady pace.
    paid_until: Option<Instant>,
}

impl Pace {
    /// A file reader is started.
    fn count(&mut self) {
        let now = Instant::now();
        let until = self.paid_until.map_or(now, |until| until.max(now)) + PACE;
        self.paid_until = Some(until.min(now + PACE * (BURST - 1 + LONGEST_PAUSE)));
    }

    /// How long to wait before the next one.
    fn pause(&self) -> Duration {
        let Some(until) = self.paid_until else { return Duration::ZERO };
        until.saturating_duration_since(Instant::now() + PACE * (BURST - 1))
    }
}

/// Reads events until none is left, or enough were read.
fn drain(instance: &AsyncFd<Instance>) {
    let mut buffer = [0; EVENTS];
    for _ in 0..PORTIONS {
        let read = instance.try_io(tokio::io::Interest::READABLE, |instance| {
            Ok(rustix::io::read(&instance.0, &mut buffer)?)
        });
        if read.is_err() {
            return;
        }
    }
}

struct Instance(OwnedFd);

impl Instance {
    fn new() -> io::Result<AsyncFd<Self>> {
        let instance = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // SAFETY: the instance owns its descriptor, `as_raw_fd` always gives that one, and nothing
        // closes it before `AsyncFd` deregisters it and drops the instance.
        unsafe { AsyncFd::register(Self(instance)) }.map_err(io::Error::from)
    }
}

impl AsRawFd for Instance {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
