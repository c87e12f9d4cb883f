//! The adapter between the kernel's requests (`fuse(4)`, through fuser) and [`Fs`]: it converts,
//! and decides nothing.

mod reply;
mod waiters;

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Once};
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FileType, Filesystem,
    Generation, INodeNo, IoctlFlags, LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags,
    PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr,
    TimeOrNow, WriteFlags,
};
use nix::sched::{CloneFlags, unshare};

pub use self::reply::before_abort;
pub use self::waiters::Waiters;

use self::reply::{BLOCK, Refuse, Reply, answer_attribute, answer_open, attr, error};
use crate::caller::Caller;
use crate::error::ReadErrorKind;
use crate::fs::journal::{Call, Opcode};
use crate::fs::places::Places;
use crate::fs::{Fs, NAME_MAX, Open, Request};

/// The longest write that the kernel hands over in one piece, in bytes: no wish is so long. It sizes
/// the buffer of whoever reads requests.
pub const MAX_WRITE: u32 = 4096;

/// Delivered a second time by the kernel (`FUSE_UNIQUE_RESEND`); the number is otherwise the same.
const RESENT: u64 = 1 << 63;

/// The tokens of a mount as fuser wants them.
pub struct Adapter {
    places: Arc<Places>,
    waiters: Waiters,
    /// The thread that answers has descriptors of its own.
    alone: Once,
    /// See [`Adapter::passed_on`].
    passed_on: bool,
}

/// Gives this thread a copy of the descriptors of its process, for itself. What another thread is about to
/// close stays open in the copy: it must be taken while no process is started, for the end of one that is
/// would never be heard of.
pub fn separate_descriptors() {
    unshare(CloneFlags::CLONE_FILES).ok();
}

impl Adapter {
    /// An adapter that lets opens wait among `waiters`.
    #[must_use]
    pub fn new(places: Arc<Places>, waiters: Waiters) -> Self {
        Self { places, waiters, alone: Once::new(), passed_on: false }
    }

    /// Somebody passes its answers on to the kernel. A request that the journal keeps stays there until
    /// then: if this worker dies in between, the next one must still know of it.
    #[must_use]
    pub fn passed_on(self) -> Self {
        Self { passed_on: true, ..self }
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
        self.alone.call_once(separate_descriptors);
        let caller = Caller::new(request.uid(), request.gid(), request.pid());
        let unique = request.unique().0;
        let (unique, again) = (unique & !RESENT, unique & RESENT != 0);
        let request = Request { unique, again, caller };
        let fs: &Fs = self.places.root();
        let reply = Reply::new(reply, fs, &request, call, self.passed_on);
        match fs.enter(&request, &call) {
            Ok(()) => Some((request, reply)),
            Err(errno) => {
                reply.answer(|reply| reply.refuse(error(errno)));
                None
            }
        }
    }
}

/// Handlers of everything that would write: EROFS, whatever the arguments.
macro_rules! refuse_writes {
    ($($name:ident($($argument:ty),*) -> $reply:ty;)*) => {$(
        fn $name(&self, request: &fuser::Request, $(_: $argument,)* reply: $reply) {
            let call = Call::other(stringify!($name), 0);
            let Some((_, reply)) = self.enter(request, call, reply) else { return };
            let errno = error(self.places.root().refuse(ReadErrorKind::ReadOnly));
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
    fn init(&mut self, _: &fuser::Request, config: &mut fuser::KernelConfig) -> io::Result<()> {
        // A size that the kernel cannot have refused.
        config.set_max_write(MAX_WRITE).ok();
        Ok(())
    }

    fn lookup(&self, request: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let Some((request, reply)) = self.enter(request, Call::other("lookup", parent.0), reply)
        else {
            return;
        };
        let entry = self.places.lookup(&request, parent.0, name);
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
        let attributes = self.places.getattr(&request, ino.0, handle);
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
            _ if is_about_access => Err(self.places.root().refuse(ReadErrorKind::ReadOnly)),
            Some(_) => self.places.truncate(&request, ino.0),
            None if touches => self.places.touch(&request, ino.0),
            None => self.places.getattr(&request, ino.0, None),
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
        match self.places.open(&request, &call, writing) {
            Open::Now(opened) => answer_open(reply, opened),
            Open::Wait(opened) => {
                let reply = reply.suspend(Arc::clone(self.places.root()));
                self.waiters.wait(request.caller.thread, opened, reply);
            }
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
        let chunk = self.places.read(ino.0, handle.0, offset, size);
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
        let Some((request, reply)) = self.enter(request, Call::other("write", ino.0), reply) else {
            return;
        };
        let written = self.places.write(&request, ino.0, data);
        reply.answer(|reply| match written {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(error(errno)),
        });
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
        self.places.release(ino.0, handle.0);
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
        let entries = self.places.readdir(ino.0);
        reply.answer(|mut reply| match entries {
            Ok(entries) => {
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                for (next, (ino, directory, name)) in (1..).zip(entries).skip(offset) {
                    let kind = if directory { FileType::Directory } else { FileType::RegularFile };
                    if reply.add(INodeNo(ino), next, kind, &*name) {
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
        let attribute = self.places.attribute(&request, ino.0, name, size);
        reply.answer(|reply| answer_attribute(reply, attribute));
    }

    fn listxattr(&self, request: &fuser::Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let Some((_, reply)) = self.enter(request, Call::other("listxattr", ino.0), reply) else {
            return;
        };
        let names = self.places.attribute_names(ino.0, size);
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
        let set = self.places.set_attribute(&request, ino.0, name, value);
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
        let renamed = self.places.rename(&request, (parent.0, name), (new_parent.0, new_name));
        reply.answer(|reply| match renamed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(error(errno)),
        });
    }

    leave_to_the_kernel! {
        // Before Linux 5.16 there is no FOPEN_NOFLUSH: without this a `close` would need a worker.
        flush(INodeNo, FileHandle, LockOwner) -> ReplyEmpty;
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
