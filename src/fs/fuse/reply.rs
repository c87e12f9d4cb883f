//! Answers, in the kernel's terms, and how a request ends with its answer.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, INodeNo, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr,
};

use crate::fs::attribute::Attribute;
use crate::fs::fault;
use crate::fs::journal::Call;
use crate::fs::{Attributes, Cache, Fs, Opened, Request};

/// What `stat` tells programs to read at a time, in bytes.
pub(super) const BLOCK: u32 = 4096;

/// See [`before_abort`].
static BEFORE_ABORT: OnceLock<fn()> = OnceLock::new();

/// Calls this before a request that was dropped unanswered ends the process: what was logged of it
/// must get out.
pub fn before_abort(last: fn()) {
    BEFORE_ABORT.set(last).ok();
}

/// The answer to an open.
pub(super) type OpenResult = Result<Opened, nix::errno::Errno>;

/// A reply that can be an error.
pub(super) trait Refuse {
    fn refuse(self, errno: Errno);
}

macro_rules! refusable {
    ($($reply:ty),*) => {$(
        impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        }
    )*};
}

refusable!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyEmpty,
    ReplyEntry,
    ReplyIoctl,
    ReplyLseek,
    ReplyOpen,
    ReplyPoll,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr
);

/// A reply that is answered once; its end is the end of the request.
pub(super) struct Reply<R, F: Deref<Target = Fs>> {
    unanswered: Option<R>,
    pub(super) fs: F,
    pub(super) unique: u64,
    call: Call,
    /// It may be among the opens that wait.
    waited: bool,
    /// See [`Adapter::passed_on`](super::Adapter::passed_on).
    passed_on: bool,
}

impl<R, F: Deref<Target = Fs>> Reply<R, F> {
    /// The reply to a request that was entered.
    pub(super) fn new(reply: R, fs: F, request: &Request, call: Call, passed_on: bool) -> Self {
        let Request { unique, again, .. } = *request;
        // One that is delivered again may have waited with a worker that died.
        Self { unanswered: Some(reply), fs, unique, call, waited: again, passed_on }
    }

    pub(super) fn answer(mut self, answer: impl FnOnce(R)) {
        if let Some(reply) = self.unanswered.take() {
            answer(reply);
        }
    }
}

impl<R> Reply<R, &Fs> {
    /// The same, for another thread to answer.
    pub(super) fn suspend(mut self, fs: Arc<Fs>) -> Reply<R, Arc<Fs>> {
        let (unanswered, unique, call) = (self.unanswered.take(), self.unique, self.call);
        let passed_on = self.passed_on;
        // The request does not end here.
        std::mem::forget(self);
        Reply { unanswered, fs, unique, call, waited: true, passed_on }
    }
}

impl<R, F: Deref<Target = Fs>> Drop for Reply<R, F> {
    fn drop(&mut self) {
        if self.unanswered.is_some() {
            // fuser would answer EIO. A dead worker is better: the next one gets the request again.
            tracing::error!("a request was dropped unanswered: this is a bug, please report it");
            if let Some(last) = BEFORE_ABORT.get() {
                last();
            }
            std::process::abort();
        }
        self.fs.leave(self.unique, &self.call, self.waited && !self.passed_on);
    }
}

pub(super) fn error(errno: nix::errno::Errno) -> Errno {
    Errno::from_i32(errno as i32)
}

fn time(since_epoch: Duration) -> SystemTime {
    UNIX_EPOCH.checked_add(since_epoch).unwrap_or(UNIX_EPOCH)
}

pub(super) fn attr(attributes: &Attributes) -> FileAttr {
    let modified = time(attributes.modified);
    FileAttr {
        ino: INodeNo(attributes.ino),
        size: attributes.size,
        blocks: attributes.size.div_ceil(512),
        atime: modified,
        mtime: modified,
        ctime: modified,
        crtime: modified,
        kind: if attributes.directory { FileType::Directory } else { FileType::RegularFile },
        perm: attributes.mode,
        nlink: attributes.links,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

pub(super) fn answer_open(reply: Reply<ReplyOpen, impl Deref<Target = Fs>>, opened: OpenResult) {
    reply.fs.pass(fault::JUDGED);
    reply.answer(|reply| match opened {
        Ok(Opened { handle, cache }) => {
            let cache = match cache {
                Cache::Keep => FopenFlags::FOPEN_KEEP_CACHE,
                Cache::Direct => FopenFlags::FOPEN_DIRECT_IO,
            };
            reply.opened(FileHandle(handle), cache | FopenFlags::FOPEN_NOFLUSH);
        }
        Err(errno) => reply.error(error(errno)),
    });
}

pub(super) fn answer_attribute(reply: ReplyXattr, attribute: Result<Attribute, nix::errno::Errno>) {
    match attribute {
        Ok(Attribute::Size(size)) => reply.size(size),
        Ok(Attribute::Value(value)) => reply.data(&value),
        Err(errno) => reply.error(error(errno)),
    }
}
