//! Answers in the place of a worker while none can be started, so that no reader waits for ever: each
//! request with one error.
//!
//! The supervisor does so itself, between its other duties. Nobody else reads the connection meanwhile:
//! a worker that starts waits for the word to do so, and one that was killed runs no more.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::Supervisor;
use crate::connection::wire::{self, READ_BUFFER, RequestHeader, opcode};
use crate::connection::{manager, recovery};
use crate::error::ReadErrorKind;

/// So many requests are answered before the supervisor looks after its other duties.
const AT_A_TIME: usize = 256;

impl Supervisor<'_> {
    /// Begins to stand in, because of `why`.
    pub(super) fn stand_in(&self, why: &str) {
        tracing::error!("nobody serves ({why}): opens fail with EIO until a worker starts");
        manager::trouble(&format!("no worker can be started: {why}"));
        self.refuse_what_is_left();
        self.refuse();
    }

    /// Answers what has come with an error.
    pub(super) fn refuse(&self) {
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
    use zerocopy::FromBytes as _;

    use super::*;
    use crate::connection::handover;
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
