//! Answers in the place of a worker while none can be started, so that no reader waits for ever: each
//! request with one error.
//!
//! The supervisor does so itself, between its other duties. Nobody else reads the connection meanwhile:
//! a worker that starts waits for the word to do so, and one that was killed runs no more.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::Supervisor;
use crate::connection::wire::{self, READ_BUFFER, RequestHeader, opcode};
use crate::connection::{manager, recovery};
use crate::error::ReadErrorKind;
use crate::time::{Clock, SystemClock};

/// So many requests are answered before the supervisor looks after its other duties.
const AT_A_TIME: usize = 256;

/// While it waits for its turn, overdue opens are looked for so often.
const LOOK: Duration = Duration::from_secs(1);

/// Whether somebody must stand in.
#[derive(Debug, Default)]
pub(super) struct StandIn {
    /// Since when nobody serves (boot clock); nothing while a worker does.
    unserved: Option<Duration>,
    /// Why no worker starts; empty where none has failed.
    why: String,
    is_at_work: bool,
}

impl StandIn {
    /// No worker serves any more.
    pub(super) fn nobody_serves(&mut self, now: Duration) {
        self.unserved.get_or_insert(now);
    }

    /// Why the last start failed.
    pub(super) fn why(&mut self, why: String) {
        self.why = why;
    }

    /// A worker serves again.
    pub(super) fn dismiss(&mut self, target: &Path) {
        if std::mem::take(self).is_at_work {
            tracing::info!("a worker serves again");
            manager::ready(target);
        }
    }

    /// The connection is a new one, on which nothing has come yet.
    pub(super) fn connection_is_new(&mut self) {
        self.is_at_work = false;
    }

    /// When it must begin (boot clock), if no worker serves until then: when those who wait longest have
    /// reached their deadline, or sooner, where the next start comes too late for them anyway.
    fn begins(&self, open_timeout: Duration, next_start: Option<Duration>) -> Option<Duration> {
        let since = self.unserved?;
        let deadline = since.saturating_add(open_timeout);
        Some(if next_start.is_some_and(|at| at >= deadline) { since } else { deadline })
    }
}

impl Supervisor {
    /// Whether the supervisor answers what comes on the connection.
    pub(super) fn stands_in(&self) -> bool {
        self.stand_in.is_at_work && !self.connection_is_lost
    }

    /// When the supervisor must look whether it stands in (boot clock).
    pub(super) fn next_look_for_readers(&self, now: Duration) -> Option<Duration> {
        let begins = self.stand_in_begins().filter(|_| !self.stand_in.is_at_work)?;
        Some(begins.min(now.saturating_add(LOOK)))
    }

    fn stand_in_begins(&self) -> Option<Duration> {
        if self.connection_is_lost || self.init_answer.is_none() {
            return None;
        }
        let next_start = self.worker.is_none().then(|| self.pace.not_before());
        self.stand_in.begins(self.setup.open_timeout, next_start)
    }

    /// While nobody serves: sees to it that no reader waits beyond its deadline.
    pub(super) fn stand_in(&mut self) {
        let now = SystemClock.now().boot;
        let Some(begins) = self.stand_in_begins() else { return };
        if !self.stand_in.is_at_work {
            self.answer_overdue(now);
            if now < begins {
                return;
            }
            self.stand_in.is_at_work = true;
            let why = &self.stand_in.why;
            tracing::error!("nobody serves ({why}): opens fail with EIO until a worker starts");
            manager::trouble(&format!("no worker can be started: {why}"));
            self.refuse_what_is_left();
        }
        let errno = ReadErrorKind::Unserved.errno();
        let state = &self.setup.state;
        refuse_what_came(&self.device, errno, |unique| state.answered(unique));
    }

    /// Refuses what a dead worker had read, or has it delivered again.
    fn refuse_what_is_left(&self) {
        let errno = ReadErrorKind::Unserved.errno();
        let (device, state) = (self.device.as_fd(), &self.setup.state);
        if !self.setup.delivers_again(device) {
            recovery::refuse(state, device, errno);
        }
        state.forget_requests(true);
    }
}

/// Answers what has come, up to [`AT_A_TIME`] requests, with this error; `answered` is told of each by its
/// number.
fn refuse_what_came(device: &OwnedFd, errno: Errno, mut answered: impl FnMut(u64)) {
    let Ok(_patience) = Impatient::new(device) else { return };
    let mut request = [0; READ_BUFFER];
    for _ in 0..AT_A_TIME {
        match rustix::io::read(device, &mut request) {
            Ok(length) => {
                let request = request.get(..length).unwrap_or_default();
                let Some(RequestHeader { opcode, unique, .. }) = RequestHeader::of(request) else {
                    continue;
                };
                if let Some(outcome) = outcome(opcode, errno) {
                    wire::answer(device, unique, outcome);
                    answered(unique);
                }
            }
            // ENOENT: the reader of the request gave up just now.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::NOENT) => {}
            // No more has come; or the connection has ended, as will be heard.
            Err(_) => return,
        }
    }
}

/// What a request is answered; nothing where the kernel wants no answer.
fn outcome(opcode: u32, errno: Errno) -> Option<Result<(), Errno>> {
    match opcode {
        opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT => None,
        // What has no error that anybody would see.
        opcode::RELEASE | opcode::RELEASEDIR | opcode::FLUSH | opcode::DESTROY => Some(Ok(())),
        _ => Some(Err(errno)),
    }
}

/// The connection, as long as reading it does not wait. All who hold it share that.
struct Impatient<'a> {
    device: &'a OwnedFd,
    flags: OFlags,
}

impl<'a> Impatient<'a> {
    fn new(device: &'a OwnedFd) -> rustix::io::Result<Self> {
        let flags = fcntl_getfl(device)?;
        fcntl_setfl(device.as_fd(), flags | OFlags::NONBLOCK)?;
        Ok(Self { device, flags })
    }
}

impl Drop for Impatient<'_> {
    fn drop(&mut self) {
        // It fails for no descriptor that is open.
        fcntl_setfl(self.device, self.flags).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_begins_at_the_deadline_or_at_once_where_no_start_comes_before() {
        let mut stand_in = StandIn::default();
        assert_eq!(stand_in.begins(SECOND * 5, Some(SECOND)), None, "somebody serves");
        stand_in.nobody_serves(SECOND * 100);
        stand_in.nobody_serves(SECOND * 101);
        for (next_start, begins) in [(None, 105), (Some(104), 105), (Some(105), 100)] {
            let next_start = next_start.map(|seconds| SECOND * seconds);
            assert_eq!(stand_in.begins(SECOND * 5, next_start), Some(SECOND * begins));
        }
        stand_in.dismiss(Path::new("/"));
        assert_eq!(stand_in.begins(SECOND * 5, None), None);
    }
    use crate::connection::handover;
    use zerocopy::FromBytes as _;

    use crate::connection::wire::REQUEST_HEADER;

    fn request(opcode: u32, unique: u64) -> [u8; REQUEST_HEADER] {
        let none = RequestHeader::read_from_bytes(&[0; REQUEST_HEADER]).unwrap();
        zerocopy::transmute!(RequestHeader { opcode, unique, ..none })
    }

    #[test]
    fn each_request_is_refused_but_those_that_want_no_answer_or_have_no_error() {
        let (kernel, device) = handover::packets().unwrap();
        for (opcode, unique) in [(14, 2), (opcode::FORGET, 4), (opcode::RELEASE, 6), (1, 8)] {
            rustix::io::write(&kernel, &request(opcode, unique)).unwrap();
        }
        let mut told = Vec::new();
        refuse_what_came(&device, Errno::EIO, |unique| told.push(unique));
        assert_eq!(told, [2, 6, 8]);
        let mut answer = [0; 64];
        for (unique, error) in [(2_u64, -5_i32), (6, 0), (8, -5)] {
            assert_eq!(rustix::io::read(&kernel, &mut answer), Ok(16));
            assert_eq!(
                (&answer[4..8], &answer[8..16]),
                (&error.to_ne_bytes()[..], &unique.to_ne_bytes()[..])
            );
        }
        let flags = fcntl_getfl(&device).unwrap();
        assert!(!flags.contains(OFlags::NONBLOCK), "the next worker waits for requests again");
    }
}
