//! The adapter between the kernel's requests (`fuse(4)`, through fuser) and [`Fs`]: it converts,
//! and decides nothing.

use std::ffi::OsStr;
use std::future::poll_fn;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, Once};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType,
    Filesystem, FopenFlags, Generation, INodeNo, IoctlFlags, LockOwner, OpenAccMode, OpenFlags,
    PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, TimeOrNow, WriteFlags,
};
use nix::sched::{CloneFlags, unshare};
use tokio::runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::ReadErrorKind;
use crate::fs::access::Caller;
use crate::fs::attribute::Attribute;
use crate::fs::fault;
use crate::fs::interrupt::Interrupts;
use crate::fs::journal::{Call, Opcode};
use crate::fs::{Attributes, Cache, Fs, NAME_MAX, Open, Opened, Request};

/// Delivered a second time by the kernel (`FUSE_UNIQUE_RESEND`); the number is otherwise the same.
const RESENT: u64 = 1 << 63;
const BLOCK: u32 = 4096;

/// The opens that wait, on a runtime.
#[derive(Debug, Clone)]
pub struct Waiters {
    runtime: runtime::Handle,
    tasks: TaskTracker,
    dismissed: CancellationToken,
    interrupts: Interrupts,
}

impl Waiters {
    /// None yet.
    #[must_use]
    pub fn new(runtime: runtime::Handle) -> Self {
        Self {
            runtime,
            tasks: TaskTracker::new(),
            dismissed: CancellationToken::new(),
            interrupts: Interrupts::default(),
        }
    }

    /// Answers everybody who waits as an unmounted file system does (ENOTCONN), and comes back when
    /// they are answered.
    pub async fn dismiss(&self) {
        self.dismissed.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn wait(
        &self,
        request: Request,
        opened: impl Future<Output = OpenResult> + Send + 'static,
        reply: Reply<ReplyOpen, Arc<Fs>>,
    ) {
        let (dismissed, interrupts) = (self.dismissed.clone(), self.interrupts.clone());
        let (fs, unique) = (Arc::clone(&reply.fs), reply.unique);
        let task = async move {
            reply.fs.pass(fault::TASK);
            let watch = interrupts.watch(request.caller.thread);
            let opened = tokio::select! {
                biased;
                opened = opened => opened,
                () = dismissed.cancelled() => Err(nix::errno::Errno::ENOTCONN),
                () = watch.interrupted() => Err(nix::errno::Errno::EINTR),
            };
            answer_open(reply, &request, opened);
        };
        let mut task = Box::pin(task);
        let task = poll_fn(move |context| fs.work(unique, || task.as_mut().poll(context)));
        self.tasks.spawn_on(task, &self.runtime);
    }
}

type OpenResult = Result<Opened, nix::errno::Errno>;

/// One filesystem as fuser wants it.
pub struct Adapter {
    fs: Arc<Fs>,
    waiters: Waiters,
    /// The thread that answers has descriptors of its own.
    alone: Once,
}

impl Adapter {
    /// An adapter that lets opens wait among `waiters`.
    #[must_use]
    pub fn new(fs: Arc<Fs>, waiters: Waiters) -> Self {
        Self { fs, waiters, alone: Once::new() }
    }

    /// Enters a request: every handler that answers begins with it. The request is left when its
    /// reply is answered; `None` when it already is.
    fn enter<R: Refuse>(
        &self,
        request: &fuser::Request,
        call: Call,
        reply: R,
    ) -> Option<(Request, Reply<R, &Fs>)> {
        // The kernel finds a descriptor faster for a thread that shares its table with no other: a
        // fiftieth of an open. Where it may not be, all is as before.
        self.alone.call_once(|| {
            unshare(CloneFlags::CLONE_FILES).ok();
        });
        let caller = Caller { uid: request.uid(), gid: request.gid(), thread: request.pid() };
        let unique = request.unique().0;
        let (unique, again) = (unique & !RESENT, unique & RESENT != 0);
        let request = Request { unique, caller };
        let fs = &*self.fs;
        let reply = Reply { unanswered: Some(reply), fs, unique, call, waited: false };
        match self.fs.enter(&request, &call, again) {
            Ok(()) => Some((request, reply)),
            Err(errno) => {
                reply.answer(|reply| reply.refuse(error(errno)));
                None
            }
        }
    }
}

/// A reply that can be an error.
trait Refuse {
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
struct Reply<R, F: Deref<Target = Fs>> {
    unanswered: Option<R>,
    fs: F,
    unique: u64,
    call: Call,
    waited: bool,
}

impl<R, F: Deref<Target = Fs>> Reply<R, F> {
    fn answer(mut self, answer: impl FnOnce(R)) {
        self.write(answer);
    }

    /// Writes the answer; the request goes on to the end of this value.
    fn write(&mut self, answer: impl FnOnce(R)) {
        if let Some(reply) = self.unanswered.take() {
            answer(reply);
        }
    }
}

impl<R> Reply<R, &Fs> {
    /// The same, for another thread to answer.
    fn suspend(mut self, fs: Arc<Fs>) -> Reply<R, Arc<Fs>> {
        let (unanswered, unique, call) = (self.unanswered.take(), self.unique, self.call);
        // The request does not end here.
        std::mem::forget(self);
        Reply { unanswered, fs, unique, call, waited: true }
    }
}

impl<R, F: Deref<Target = Fs>> Drop for Reply<R, F> {
    fn drop(&mut self) {
        if self.unanswered.is_some() {
            // fuser would answer EIO. A dead worker is better: the next one gets the request again.
            tracing::error!("a request was dropped unanswered: this is a bug, please report it");
            std::process::abort();
        }
        self.fs.leave(self.unique, &self.call, self.waited);
    }
}

fn error(errno: nix::errno::Errno) -> Errno {
    Errno::from_i32(errno as i32)
}

fn time(since_epoch: Duration) -> SystemTime {
    UNIX_EPOCH.checked_add(since_epoch).unwrap_or(UNIX_EPOCH)
}

fn attr(attributes: &Attributes) -> FileAttr {
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

fn answer_open<F: Deref<Target = Fs>>(
    mut reply: Reply<ReplyOpen, F>,
    request: &Request,
    opened: OpenResult,
) {
    reply.fs.pass(fault::JUDGED);
    reply.write(|reply| match opened {
        Ok(Opened { handle, cache }) => {
            let cache = match cache {
                Cache::Keep => FopenFlags::FOPEN_KEEP_CACHE,
                Cache::Direct => FopenFlags::FOPEN_DIRECT_IO,
            };
            reply.opened(FileHandle(handle), cache | FopenFlags::FOPEN_NOFLUSH);
        }
        Err(errno) => reply.error(error(errno)),
    });
    reply.fs.answered_open(request, &opened);
}

fn answer_attribute(reply: ReplyXattr, attribute: Result<Attribute, nix::errno::Errno>) {
    match attribute {
        Ok(Attribute::Size(size)) => reply.size(size),
        Ok(Attribute::Value(value)) => reply.data(&value),
        Err(errno) => reply.error(error(errno)),
    }
}

/// Handlers of everything that would write: EROFS, whatever the arguments.
macro_rules! refuse_writes {
    ($($name:ident($($argument:ty),*) -> $reply:ty;)*) => {$(
        fn $name(&self, request: &fuser::Request, $(_: $argument,)* reply: $reply) {
            let call = Call::other(stringify!($name), 0);
            let Some((_, reply)) = self.enter(request, call, reply) else { return };
            let errno = error(self.fs.refuse(ReadErrorKind::ReadOnly));
            reply.answer(|reply| reply.error(errno));
        }
    )*};
}

/// Handlers of what the kernel does by itself when it is told ENOSYS, which it then remembers. Without
/// them fuser would log each as a warning.
macro_rules! leave_to_the_kernel {
    ($($name:ident($($argument:ty),*) -> $reply:ty;)*) => {$(
        fn $name(&self, request: &fuser::Request, $(_: $argument,)* reply: $reply) {
            let call = Call::other(stringify!($name), 0);
            let Some((_, reply)) = self.enter(request, call, reply) else { return };
            reply.answer(|reply| reply.error(Errno::ENOSYS));
        }
    )*};
}

impl Filesystem for Adapter {
    fn lookup(&self, request: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let Some((request, reply)) = self.enter(request, Call::other("lookup", parent.0), reply)
        else {
            return;
        };
        let entry = self.fs.lookup(&request, parent.0, name);
        reply.answer(|reply| match entry {
            Ok(entry) => reply.entry_with_ttls(
                &entry.attributes_ttl,
                &entry.name_ttl,
                &attr(&entry.attributes),
                Generation(0),
            ),
            Err(errno) => reply.error(error(errno)),
        });
    }

    fn getattr(
        &self,
        request: &fuser::Request,
        ino: INodeNo,
        handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let handle = handle.map(|handle| handle.0);
        let call = Call {
            handle: handle.unwrap_or(u64::MAX),
            ..Call::kept("getattr", Opcode::Getattr, ino.0)
        };
        let Some((request, reply)) = self.enter(request, call, reply) else { return };
        let attributes = self.fs.getattr(&request, ino.0, handle);
        reply.answer(|reply| match attributes {
            Ok((attributes, ttl)) => reply.attr(&ttl, &attr(&attributes)),
            Err(errno) => reply.error(error(errno)),
        });
    }

    fn setattr(
        &self,
        request: &fuser::Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _created: Option<SystemTime>,
        _checked: Option<SystemTime>,
        _backed_up: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let Some((request, reply)) = self.enter(request, Call::other("setattr", ino.0), reply)
        else {
            return;
        };
        let is_about_access = mode.is_some() || uid.is_some() || gid.is_some();
        // The kernel adds "now" to a truncation; a time alone is a `touch`.
        let touches = accessed.is_some() || modified.is_some();
        let answer = match size {
            _ if is_about_access => Err(self.fs.refuse(ReadErrorKind::ReadOnly)),
            Some(_) => self.fs.truncate(&request, ino.0),
            None if touches => self.fs.touch(&request, ino.0),
            None => self.fs.getattr(&request, ino.0, None),
        };
        reply.answer(|reply| match answer {
            Ok((attributes, ttl)) => reply.attr(&ttl, &attr(&attributes)),
            Err(errno) => reply.error(error(errno)),
        });
    }

    fn open(&self, request: &fuser::Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let call =
            Call { flags: flags.0.cast_unsigned(), ..Call::kept("open", Opcode::Open, ino.0) };
        let Some((request, reply)) = self.enter(request, call, reply) else { return };
        let writing = flags.acc_mode() != OpenAccMode::O_RDONLY || flags.0 & libc::O_TRUNC != 0;
        match self.fs.open(&request, ino.0, writing) {
            Open::Now(opened) => answer_open(reply, &request, opened),
            Open::Wait(opened) => match self.fs.suspend(&request, &call) {
                Ok(()) => {
                    let reply = reply.suspend(Arc::clone(&self.fs));
                    self.waiters.wait(request, opened, reply);
                }
                Err(errno) => answer_open(reply, &request, Err(errno)),
            },
        }
    }

    fn read(
        &self,
        request: &fuser::Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let call =
            Call { handle: handle.0, offset, size, ..Call::kept("read", Opcode::Read, ino.0) };
        let Some((_, reply)) = self.enter(request, call, reply) else { return };
        let chunk = self.fs.read(ino.0, handle.0, offset, size);
        reply.answer(|reply| match chunk {
            Ok(chunk) => reply.data(chunk.as_bytes()),
            Err(errno) => reply.error(error(errno)),
        });
    }

    fn write(
        &self,
        request: &fuser::Request,
        ino: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some((_, reply)) = self.enter(request, Call::other("write", ino.0), reply) else {
            return;
        };
        let written = self.fs.write(ino.0, data);
        reply.answer(|reply| match written {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(error(errno)),
        });
    }

    fn flush(
        &self,
        request: &fuser::Request,
        ino: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let Some((_, reply)) = self.enter(request, Call::other("flush", ino.0), reply) else {
            return;
        };
        reply.answer(ReplyEmpty::ok);
    }

    fn release(
        &self,
        request: &fuser::Request,
        ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let Some((_, reply)) = self.enter(request, Call::other("release", ino.0), reply) else {
            return;
        };
        self.fs.release(ino.0, handle.0);
        reply.answer(ReplyEmpty::ok);
    }

    fn readdir(
        &self,
        request: &fuser::Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let call = Call { offset, ..Call::kept("readdir", Opcode::Readdir, ino.0) };
        let Some((_, reply)) = self.enter(request, call, reply) else { return };
        let entries = self.fs.readdir(ino.0);
        reply.answer(|mut reply| match entries {
            Ok(entries) => {
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                for (next, (ino, directory, name)) in (1..).zip(entries).skip(offset) {
                    let kind = if directory { FileType::Directory } else { FileType::RegularFile };
                    if reply.add(INodeNo(ino), next, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(errno) => reply.error(error(errno)),
        });
    }

    fn statfs(&self, request: &fuser::Request, ino: INodeNo, reply: ReplyStatfs) {
        let Some((_, reply)) = self.enter(request, Call::other("statfs", ino.0), reply) else {
            return;
        };
        reply.answer(|reply| reply.statfs(0, 0, 0, 0, 0, BLOCK, NAME_MAX, BLOCK));
    }

    fn ioctl(
        &self,
        request: &fuser::Request,
        ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_size: u32,
        reply: ReplyIoctl,
    ) {
        let Some((_, reply)) = self.enter(request, Call::other("ioctl", ino.0), reply) else {
            return;
        };
        reply.answer(|reply| reply.error(Errno::ENOTTY));
    }

    fn access(
        &self,
        request: &fuser::Request,
        ino: INodeNo,
        _mask: AccessFlags,
        reply: ReplyEmpty,
    ) {
        // The kernel decides by the mode bits (`default_permissions`).
        let Some((_, reply)) = self.enter(request, Call::other("access", ino.0), reply) else {
            return;
        };
        reply.answer(|reply| reply.error(Errno::ENOSYS));
    }

    fn getxattr(
        &self,
        request: &fuser::Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let Some((request, reply)) = self.enter(request, Call::other("getxattr", ino.0), reply)
        else {
            return;
        };
        let attribute = self.fs.attribute(&request, ino.0, name, size);
        reply.answer(|reply| answer_attribute(reply, attribute));
    }

    fn listxattr(&self, request: &fuser::Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let Some((_, reply)) = self.enter(request, Call::other("listxattr", ino.0), reply) else {
            return;
        };
        let names = self.fs.attribute_names(ino.0, size);
        reply.answer(|reply| answer_attribute(reply, names));
    }

    fn setxattr(
        &self,
        request: &fuser::Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let Some((request, reply)) = self.enter(request, Call::other("setxattr", ino.0), reply)
        else {
            return;
        };
        let set = self.fs.set_attribute(&request, ino.0, name, value);
        reply.answer(|reply| match set {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(error(errno)),
        });
    }

    fn rename(
        &self,
        request: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let Some((request, reply)) = self.enter(request, Call::other("rename", parent.0), reply)
        else {
            return;
        };
        let renamed = self.fs.rename(&request, (parent.0, name), (new_parent.0, new_name));
        reply.answer(|reply| match renamed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(error(errno)),
        });
    }

    leave_to_the_kernel! {
        fsync(INodeNo, FileHandle, bool) -> ReplyEmpty;
        fsyncdir(INodeNo, FileHandle, bool) -> ReplyEmpty;
        lseek(INodeNo, FileHandle, i64, i32) -> ReplyLseek;
        poll(INodeNo, FileHandle, PollNotifier, PollEvents, PollFlags) -> ReplyPoll;
        copy_file_range(INodeNo, FileHandle, u64, INodeNo, FileHandle, u64, u64, CopyFileRangeFlags) -> ReplyWrite;
    }

    refuse_writes! {
        mknod(INodeNo, &OsStr, u32, u32, u32) -> ReplyEntry;
        mkdir(INodeNo, &OsStr, u32, u32) -> ReplyEntry;
        unlink(INodeNo, &OsStr) -> ReplyEmpty;
        rmdir(INodeNo, &OsStr) -> ReplyEmpty;
        symlink(INodeNo, &OsStr, &Path) -> ReplyEntry;
        link(INodeNo, INodeNo, &OsStr) -> ReplyEntry;
        create(INodeNo, &OsStr, u32, u32, i32) -> ReplyCreate;
        removexattr(INodeNo, &OsStr) -> ReplyEmpty;
        fallocate(INodeNo, FileHandle, u64, u64, i32) -> ReplyEmpty;
    }
}
