//! A directory that looks to the commands like one that a daemon keeps.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};

use super::{LOOK_EVERY, Reader};

/// The directory, with one token in it.
pub(in crate::cmd) struct FakeMount(Arc<tempfile::TempDir>);

impl FakeMount {
    /// A mount whose token has this status.
    pub(in crate::cmd) fn new(token: &Value) -> Self {
        let mount = Self(Arc::new(tempfile::tempdir().unwrap()));
        fs::write(mount.path(crate::files::MARKER), "").unwrap();
        fs::write(mount.path("token"), "ghs_one").unwrap();
        fs::write(mount.path("refresh"), "").unwrap();
        mount.set(token);
        mount
    }

    pub(in crate::cmd) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Replaces the status in one step, as a mount does.
    fn set(&self, token: &Value) {
        let text = json!({ "state": "fresh", "tokens": [token] }).to_string();
        fs::write(self.path("status.new"), text).unwrap();
        fs::rename(self.path("status.new"), self.path("status.json")).unwrap();
    }

    pub(in crate::cmd) fn reader(&self) -> Reader {
        Reader::find(Some(self.0.path().to_owned())).unwrap()
    }

    /// Once a refresh is asked for, shows these statuses, one after the other, each for long enough
    /// to be seen.
    pub(in crate::cmd) fn answer_refresh(&self, statuses: Vec<Value>) -> FakeSource {
        let mount = Self(Arc::clone(&self.0));
        let ended = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&ended);
        let thread = thread::spawn(move || {
            while fs::read(mount.path("refresh")).unwrap() != b"refresh\n" {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                thread::sleep(LOOK_EVERY / 10);
            }
            for status in &statuses {
                mount.set(status);
                thread::sleep(LOOK_EVERY * 3);
            }
        });
        FakeSource { ended, thread: Some(thread) }
    }
}

/// What answers a refresh; it ends with its test.
pub(in crate::cmd) struct FakeSource {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for FakeSource {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
