//! Answers what a dead worker had read, on kernels that do not deliver it again (before Linux 6.9).
//!
//! The journal in the shared state names the request that was in hand and the opens that waited.
//! Those of which it keeps everything are put to a session of their own, over a socket, and what that
//! answers is passed on to the kernel. Any other one is answered ESTALE, upon which the kernel walks
//! its path anew by itself; so is whatever was read and not even entered in the journal. Numbers of
//! requests are sequential, so it must be one of the next; answering one that nobody made is harmless.
//!
//! What is put to a session stays in the journal until its answer is the kernel's. It is in a socket
//! before, and would be lost there if this worker died, too: its reader would wait for ever.
//!
//! What is left: where the lost request was the `fstat` or the `read` of an open file, there is no path
//! to walk, and where it was a second look, none to walk again; the reader sees ESTALE.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use rustix::net::{RecvFlags, Shutdown};
use zerocopy::{FromBytes as _, Immutable, IntoBytes};

use crate::connection::handover;
use crate::connection::wire::{
    self, ANSWER_HEADER, AnswerHeader, REQUEST_HEADER, RequestHeader, opcode,
};
use crate::fs::fault;
use crate::fs::generations::State;
use crate::fs::journal::{Left, Opcode};
use crate::time::{Clock, SystemClock};

/// The requests after the newest known one that may have been read, too.
const UNKNOWN: u64 = 1024;
/// Between the numbers of two requests (`FUSE_REQ_ID_STEP`).
const STEP: u64 = 2;
/// The number of INIT, the first request.
const FIRST: u64 = 2;
/// The longest that the kernel's second path walk is taken to last: it does not walk a third time.
const SECOND_WALK: Duration = Duration::from_secs(2);
/// A number that the kernel gives to no request: the answer to it says that all before are in hand.
const MARK: u64 = 1;
/// In the number of a request that is delivered again (`FUSE_UNIQUE_RESEND`).
const AGAIN: u64 = 1 << 63;
/// The longest that the requests may take to be in hand.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest answer: a read of 128 KiB.
const ANSWER: usize = 256 * 1024;

/// Runs a session to its end.
pub(super) type Run = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// Takes care of all that an earlier worker left. To be called before anything is read from the
/// device; `session` makes a session over a socket that yields these bytes of INIT first.
///
/// # Errors
/// Where the system has no descriptors or threads left.
pub(super) fn recover(
    state: &Arc<State>,
    device: BorrowedFd<'_>,
    init: &[u8],
    session: impl FnOnce(OwnedFd) -> io::Result<Run>,
) -> io::Result<()> {
    let (newest, handling, opens) = state.requests_left();
    // An open, too: it may be its thread's second look, after which the kernel would not walk again.
    let is_kept = |left: &Left| left.call.opcode != Opcode::Other;
    let not_kept = handling.filter(|left| !is_kept(left)).map(|left| left.unique);
    let walk_anew = |unique: u64| {
        state.step();
        wire::answer(device, unique, Err(Errno::ESTALE))
    };
    let hits =
        not_kept.into_iter().chain(unknown(newest)).filter(|unique| walk_anew(*unique)).count();
    if hits > 0 {
        tracing::debug!(hits, "the kernel walks paths anew");
        state.spare_until(SystemClock.now().boot.saturating_add(SECOND_WALK));
    }
    let handling = handling.filter(is_kept);
    if let Some(left) = &handling {
        state.keep(left, SystemClock.now().boot);
    }
    let kept: Vec<_> = handling.into_iter().chain(opens).collect();
    if kept.is_empty() {
        return Ok(());
    }
    tracing::debug!(requests = kept.len(), "what an earlier worker had in hand is taken over");

    let (ours, theirs) = handover::packets()?;
    rustix::io::write(&ours, init)?;
    let run = session(theirs)?;
    thread::Builder::new().name("recovery".into()).spawn(run)?;
    let (tell, told) = channel();
    let (answers, device, expected) = (ours.try_clone()?, device.try_clone_to_owned()?, kept.len());
    let answered = Arc::clone(state);
    thread::Builder::new()
        .name("recovery-answers".into())
        .stack_size(64 * 1024)
        .spawn(move || pass_on(&answered, &answers, &device, expected, &tell))?;
    for left in &kept {
        rustix::io::write(&ours, &request(left))?;
        state.step();
    }
    rustix::io::write(&ours, bare(opcode::STATFS).as_bytes())?;
    if told.recv_timeout(PATIENCE).is_err() {
        tracing::warn!("what an earlier worker had in hand takes long to be taken over");
    }
    Ok(())
}

/// Refuses all that an earlier worker left, where no other takes care of it.
pub(super) fn refuse(state: &State, device: BorrowedFd<'_>, errno: Errno) {
    let (newest, handling, opens) = state.requests_left();
    for left in handling.into_iter().chain(opens) {
        wire::answer(device, left.unique, Err(errno));
        state.answered(left.unique);
    }
    for unique in unknown(newest) {
        wire::answer(device, unique, Err(errno));
    }
}

/// The numbers of the requests that may have been read and are not in the journal.
fn unknown(newest: u64) -> impl Iterator<Item = u64> {
    (1..=UNKNOWN).map(move |n| newest.max(FIRST) + n * STEP)
}

/// Passes answers on until all have come, and the one that says that all requests are in hand: until
/// then there may be more to write.
fn pass_on(
    state: &State,
    answers: &OwnedFd,
    device: &OwnedFd,
    mut expected: usize,
    tell: &Sender<()>,
) {
    let mut marked = false;
    let mut answer = vec![0; ANSWER];
    // The answer to INIT is none of the kernel's business.
    let mut skip = true;
    while expected > 0 || !marked {
        let length = match rustix::net::recv(answers, answer.as_mut_slice(), RecvFlags::empty()) {
            Ok((length, _)) if length >= ANSWER_HEADER => length,
            Err(rustix::io::Errno::INTR) => continue,
            _ => break,
        };
        if std::mem::take(&mut skip) {
            continue;
        }
        let Ok((header, _)) = AnswerHeader::mut_from_prefix(&mut answer) else { break };
        if header.unique == MARK {
            marked = true;
            tell.send(()).ok();
            continue;
        }
        expected = expected.saturating_sub(1);
        header.unique &= !AGAIN;
        let unique = header.unique;
        state.pass(fault::PASSED_ON);
        // One that was answered after all, or whose reader is gone, is nobody's.
        rustix::io::write(device, answer.get(..length).unwrap_or_default()).ok();
        state.answered(unique);
        answer.get_mut(..length).unwrap_or_default().fill(0);
    }
    tell.send(()).ok();
    // In good order: fuser takes the mere end of a socket for a broken request, and logs an error; and
    // another one where its last answer finds nobody.
    if rustix::io::write(answers, bare(opcode::DESTROY).as_bytes()).is_ok() {
        rustix::net::recv(answers, answer.as_mut_slice(), RecvFlags::empty()).ok();
    }
    rustix::net::shutdown(answers.as_fd(), Shutdown::Both).ok();
}

/// Of INIT's kind of request: nothing but a header.
fn bare(opcode: u32) -> RequestHeader {
    RequestHeader {
        length: 40,
        opcode,
        unique: MARK,
        node: 1,
        uid: 0,
        gid: 0,
        thread: 0,
        padding: 0,
    }
}

/// `struct fuse_open_in`
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct OpenIn {
    flags: u32,
    open_flags: u32,
}

/// `struct fuse_getattr_in`
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct GetattrIn {
    /// `FUSE_GETATTR_FH`, 1, says that the handle counts.
    flags: u32,
    dummy: u32,
    handle: u64,
}

/// `struct fuse_read_in`
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ReadIn {
    handle: u64,
    offset: u64,
    size: u32,
    read_flags: u32,
    lock_owner: u64,
    flags: u32,
    padding: u32,
}

/// A request as the kernel would deliver it again.
fn request(left: &Left) -> Vec<u8> {
    let call = &left.call;
    let handle = (call.handle != u64::MAX).then_some(call.handle);
    let body = match call.opcode {
        Opcode::Open => OpenIn { flags: call.flags, open_flags: 0 }.as_bytes().to_vec(),
        Opcode::Getattr => {
            let flags = u32::from(handle.is_some());
            GetattrIn { flags, dummy: 0, handle: handle.unwrap_or(0) }.as_bytes().to_vec()
        }
        Opcode::Read | Opcode::Readdir => ReadIn {
            handle: handle.unwrap_or(0),
            offset: call.offset,
            // A page fits into every directory buffer of the kernel's.
            size: if call.opcode == Opcode::Readdir { 4096 } else { call.size },
            read_flags: 0,
            lock_owner: 0,
            flags: 0,
            padding: 0,
        }
        .as_bytes()
        .to_vec(),
        Opcode::Other => Vec::new(),
    };
    let (uid, gid) = left.caller.numbers();
    let header = RequestHeader {
        length: u32::try_from(REQUEST_HEADER + body.len()).unwrap_or_default(),
        opcode: call.opcode as u32,
        unique: left.unique | AGAIN,
        node: call.ino,
        uid,
        gid,
        thread: left.caller.thread,
        padding: 0,
    };
    [header.as_bytes(), &body].concat()
}
