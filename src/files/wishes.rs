//! The files `refresh`: what consumers write into them is done, as elsewhere, except that no error can
//! come back to them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::files::Token;
use crate::files::contents::{MARKER, REFRESH};
use crate::files::directory::Directory;
use crate::refresh::{Handle, Wish};
use crate::secret::Fingerprint;
use crate::time::{Clock, SystemClock};

/// More than this is not read: whoever writes it means something else.
const MAX_BYTES: usize = 4096;
/// A fetch that comes too soon after another is tried again for this long: nobody was told to.
const POSTPONED: Duration = Duration::from_millis(1500);
/// Between two such tries.
const TRY_EVERY: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Wishes {
    inotify: Inotify,
    marker: PathBuf,
    files: Vec<Wished>,
}

/// The file of a token.
struct Wished {
    path: String,
    file: File,
    token: Handle,
    /// Until when a fetch that came too soon is still wanted (boot clock).
    postponed: Option<Duration>,
}

impl Wishes {
    /// Makes a file for each token and watches it.
    pub(super) fn new<'a>(
        directory: &Directory,
        tokens: impl IntoIterator<Item = &'a Token>,
    ) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let mut files = Vec::new();
        for token in tokens {
            let path = token.path(REFRESH);
            let file = directory.make_refresh(&path)?;
            inotify.add_watch(&directory.path().join(&path), AddWatchFlags::IN_CLOSE_WRITE)?;
            files.push(Wished { path, file, token: token.handle.clone(), postponed: None });
        }
        // Its removal is a change of the number of its links.
        let marker = directory.path().join(MARKER);
        inotify.add_watch(&marker, AddWatchFlags::IN_ATTRIB)?;
        Ok(Self { inotify, marker, files })
    }

    /// Readable when somebody has written.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// How long until there is something to do though nobody writes.
    pub(super) fn time_to_wake(&self) -> Option<Duration> {
        self.files.iter().any(|wished| wished.postponed.is_some()).then_some(TRY_EVERY)
    }

    /// Does what was written, if anything was. False where somebody took the files away.
    pub(super) fn hear(&mut self) -> bool {
        let has_news = self.inotify.read_events().is_ok();
        if has_news && !self.marker.exists() {
            return false;
        }
        if has_news {
            self.read();
        }
        for wished in self.files.iter_mut().filter(|wished| wished.postponed.is_some()) {
            wished.fetch();
        }
        true
    }

    fn read(&mut self) {
        let mut refused = Vec::new();
        for wished in &mut self.files {
            match wished.read() {
                Ok(more) => refused.extend(more),
                Err(error) => {
                    tracing::warn!("cannot read what was written into {}: {error}", wished.path);
                }
            }
        }
        // Whoever was refused may not know which token it was. To the others it means nothing.
        for fingerprint in refused {
            self.files.iter().for_each(|wished| wished.token.reject(fingerprint, None));
        }
    }

    /// Asks for a fetch of every token, now or as soon as that is allowed.
    pub(super) fn fetch(&mut self) {
        self.files.iter_mut().for_each(Wished::fetch);
    }
}

impl Wished {
    /// Asks for the fetches that were written into the file; returns the tokens that were refused.
    fn read(&mut self) -> io::Result<Vec<Fingerprint>> {
        let mut text = [0; MAX_BYTES];
        let length = self.file.read_at(&mut text, 0)?;
        if length == 0 {
            return Ok(Vec::new());
        }
        self.file.set_len(0)?;
        let mut refused = Vec::new();
        for line in text.get(..length).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
            match Wish::parse(line) {
                Some(Wish::Fetch) => self.fetch(),
                Some(Wish::Another(fingerprint)) => refused.push(fingerprint),
                // Not what it is: it may be a token.
                None => {
                    tracing::warn!("what was written into {} is no fingerprint", self.path);
                }
            }
        }
        Ok(refused)
    }

    /// Asks for a fetch now, or as soon as that is allowed.
    fn fetch(&mut self) {
        let now = SystemClock.now().boot;
        if self.token.refresh().is_ok() {
            self.postponed = None;
        } else if now >= *self.postponed.get_or_insert(now.saturating_add(POSTPONED)) {
            tracing::info!("no refresh: the source asked to be left alone");
            self.postponed = None;
        }
    }
}
