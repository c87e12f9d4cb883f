//! The few words of the kernel's protocol that we speak ourselves; the rest is fuser's (`fuse(4)`,
//! `include/uapi/linux/fuse.h`).

use std::os::fd::AsFd;

use nix::errno::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The length of the beginning of an answer.
pub(super) const ANSWER_HEADER: usize = size_of::<AnswerHeader>();
/// The length of the beginning of a request.
pub(super) const REQUEST_HEADER: usize = size_of::<RequestHeader>();
/// The kernel reads nothing shorter from us (`FUSE_MIN_READ_BUFFER`).
pub(super) const READ_BUFFER: usize = 8192;

/// What a request asks for, as far as it makes a difference here.
pub(super) mod opcode {
    pub(in crate::connection) const FORGET: u32 = 2;
    pub(in crate::connection) const STATFS: u32 = 17;
    pub(in crate::connection) const RELEASE: u32 = 18;
    pub(in crate::connection) const FLUSH: u32 = 25;
    pub(in crate::connection) const RELEASEDIR: u32 = 29;
    pub(in crate::connection) const INTERRUPT: u32 = 36;
    pub(in crate::connection) const DESTROY: u32 = 38;
    pub(in crate::connection) const BATCH_FORGET: u32 = 42;
}

/// The beginning of a request (`struct fuse_in_header`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct RequestHeader {
    /// Of the whole request.
    pub(super) length: u32,
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) thread: u32,
    pub(super) padding: u32,
}

impl RequestHeader {
    /// Of a request as the kernel wrote it; nothing where it is cut.
    pub(super) fn of(request: &[u8]) -> Option<Self> {
        Some(Self::read_from_prefix(request).ok()?.0)
    }
}

/// The beginning of an answer (`struct fuse_out_header`).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct AnswerHeader {
    /// Of the whole answer.
    pub(super) length: u32,
    /// A negative errno, or 0; in a message without a request, its kind.
    pub(super) error: i32,
    pub(super) unique: u64,
}

impl AnswerHeader {
    /// Of an answer without more than this.
    fn alone(error: i32, unique: u64) -> Self {
        // It is 16 bytes long.
        Self { length: 16, error, unique }
    }
}

/// Answers a request with an error, or with nothing but success; whether there was such a request.
pub(super) fn answer(device: impl AsFd, unique: u64, outcome: Result<(), Errno>) -> bool {
    let error = outcome.err().map_or(0, |errno| -(errno as i32));
    rustix::io::write(device, AnswerHeader::alone(error, unique).as_bytes()).is_ok()
}

/// Asks the kernel to deliver again what was read and not answered (`FUSE_NOTIFY_RESEND`, Linux 6.9).
/// Whether it does; where the connection has ended it does not matter.
pub(super) fn deliver_again(device: impl AsFd) -> bool {
    const RESEND: i32 = 7;
    rustix::io::write(device, AnswerHeader::alone(RESEND, 0).as_bytes())
        != Err(rustix::io::Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_length_error_and_number() {
        let (ours, theirs) = crate::connection::handover::packets().unwrap();
        assert!(answer(&ours, 0x0102, Err(Errno::EIO)));
        let mut bytes = [0; 64];
        assert_eq!(rustix::io::read(&theirs, &mut bytes), Ok(ANSWER_HEADER));
        assert_eq!(bytes[..4], 16_u32.to_ne_bytes());
        assert_eq!(bytes[4..8], (-5_i32).to_ne_bytes());
        assert_eq!(bytes[8..16], 0x0102_u64.to_ne_bytes());
        assert!(deliver_again(&ours));
        rustix::io::read(&theirs, &mut bytes).unwrap();
        assert_eq!(bytes[4..8], 7_i32.to_ne_bytes());
    }

    #[test]
    fn a_request_that_is_cut_is_none() {
        let mut request = [0; REQUEST_HEADER];
        request[4..8].copy_from_slice(&14_u32.to_ne_bytes());
        request[8..16].copy_from_slice(&6_u64.to_ne_bytes());
        let header = RequestHeader::of(&request).unwrap();
        assert_eq!((header.opcode, header.unique, header.node), (14, 6, 0));
        assert_eq!(RequestHeader::of(&request[..12]), None);
    }
}
