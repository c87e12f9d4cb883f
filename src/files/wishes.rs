//! The file `refresh`: what consumers write into it is done, as elsewhere, except that no error can
//! come back to them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::files::directory::{Directory, MARKER, REFRESH};
use crate::refresh::{Handle, Wish};
use crate::time::{Clock, SystemClock};

/// More than this is not read: whoever writes it means something else.
const MAX_BYTES: usize = 4096;
/// A fetch that comes too soon after another is tried again for this long: nobody was told to.
const POSTPONED: Duration = Duration::from_millis(1500);
/// Between two such tries.
const TRY_EVERY: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Wishes {
    file: File,
    inotify: Inotify,
    marker: PathBuf,
    token: Handle,
    /// Until when a fetch that came too soon is still wanted (boot clock).
    postponed: Option<Duration>,
}

impl Wishes {
    /// Makes the file and watches it.
    pub(super) fn new(directory: &Directory, token: Handle) -> io::Result<Self> {
        let file = directory.make_refresh()?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let path = directory.path();
        inotify.add_watch(&path.join(REFRESH), AddWatchFlags::IN_CLOSE_WRITE)?;
        // Its removal is a change of the number of its links.
        let marker = path.join(MARKER);
        inotify.add_watch(&marker, AddWatchFlags::IN_ATTRIB)?;
        Ok(Self { file, inotify, marker, token, postponed: None })
    }

    /// Readable when somebody has written.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// How long until there is something to do though nobody writes.
    pub(super) fn time_to_wake(&self) -> Option<Duration> {
        self.postponed.map(|_| TRY_EVERY)
    }

    /// Does what was written, if anything was. False where somebody took the files away.
    pub(super) fn hear(&mut self) -> bool {
        let has_news = self.inotify.read_events().is_ok();
        if has_news && !self.marker.exists() {
            return false;
        }
        if has_news && let Err(error) = self.read() {
            tracing::warn!("cannot read what was written into {REFRESH}: {error}");
        }
        if self.postponed.is_some() {
            self.fetch();
        }
        true
    }

    fn read(&mut self) -> io::Result<()> {
        let mut text = [0; MAX_BYTES];
        let length = self.file.read_at(&mut text, 0)?;
        self.file.set_len(0)?;
        for line in text.get(..length).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
            match Wish::parse(line) {
                Some(Wish::Fetch) => self.fetch(),
                Some(wish @ Wish::Another(_)) => drop(self.token.fulfil(wish, None)),
                // Not what it is: it may be a token.
                None => tracing::warn!("what was written into {REFRESH} is no fingerprint"),
            }
        }
        Ok(())
    }

    /// Asks for a fetch now, or as soon as that is allowed.
    pub(super) fn fetch(&mut self) {
        let now = SystemClock.now().boot;
        if self.token.refresh().is_ok() {
            self.postponed = None;
        } else if now >= *self.postponed.get_or_insert(now.saturating_add(POSTPONED)) {
            tracing::info!("no refresh: the source asked to be left alone");
            self.postponed = None;
        }
    }
}
