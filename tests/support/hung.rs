//! A file system that takes requests and does not answer, as a network file system whose server is gone:
//! whoever asks it anything sleeps, deaf to every signal.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use fuser::{
    BackgroundSession, Config, Errno, Filesystem, INodeNo, ReplyEntry, Request, SessionACL,
};

use super::dir::TestDir;
use super::limit::OnTimeout;

/// It is let go when dropped, at the latest when its test runs out of time.
pub struct Hung {
    mountpoint: PathBuf,
    waiting: Waiting,
    _session: BackgroundSession,
    _on_timeout: OnTimeout,
}

/// The requests that wait; nothing once they are let go.
#[derive(Clone)]
struct Waiting(Arc<Mutex<Option<Vec<ReplyEntry>>>>);

impl Waiting {
    fn let_go(&self) {
        for reply in self.0.lock().unwrap().take().into_iter().flatten() {
            reply.error(Errno::ENOENT);
        }
    }
}

impl Filesystem for Waiting {
    fn lookup(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        match self.0.lock().unwrap().as_mut() {
            Some(waiting) => waiting.push(reply),
            None => reply.error(Errno::ENOENT),
        }
    }
}

impl Hung {
    /// One in this directory.
    pub fn new(dir: &TestDir) -> Self {
        let mountpoint = dir.folder("hung");
        let waiting = Waiting(Arc::new(Mutex::new(Some(Vec::new()))));
        let mut config = Config::default();
        config.acl = SessionACL::All;
        let session = fuser::spawn_mount(waiting.clone(), &mountpoint, &config).expect("a mount");
        let late = waiting.clone();
        let on_timeout = OnTimeout::new(move || late.let_go());
        Self { mountpoint, waiting, _session: session, _on_timeout: on_timeout }
    }

    /// A file in it, which nobody ever opens.
    pub fn file(&self) -> PathBuf {
        self.mountpoint.join("file")
    }

    /// The mountpoint.
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.waiting.0.lock().unwrap().as_ref().map_or(0, Vec::len)
    }

    /// Lets all go that wait, and all that come.
    pub fn let_go(&self) {
        self.waiting.let_go();
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.let_go();
    }
}
