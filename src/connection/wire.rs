//! The few words of the kernel's protocol that we speak ourselves; the rest is fuser's (`fuse(4)`,
//! `include/uapi/linux/fuse.h`).

use std::os::fd::AsFd;

use nix::errno::Errno;

/// `sizeof(struct fuse_out_header)`
pub(super) const ANSWER_HEADER: usize = 16;
/// `sizeof(struct fuse_in_header)`
pub(super) const REQUEST_HEADER: usize = 40;
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

/// The beginning of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestHeader {
    pub(super) opcode: u32,
    pub(super) unique: u64,
}

impl RequestHeader {
    /// Of a request as the kernel wrote it; nothing where it is cut.
    pub(super) fn of(request: &[u8]) -> Option<Self> {
        let opcode = request.get(4..8)?.try_into().ok()?;
        let unique = request.get(8..16)?.try_into().ok()?;
        Some(Self { opcode: u32::from_ne_bytes(opcode), unique: u64::from_ne_bytes(unique) })
    }
}

/// Answers a request with an error, or with nothing but success; whether there was such a request.
pub(super) fn answer(device: impl AsFd, unique: u64, outcome: Result<(), Errno>) -> bool {
    let error = outcome.err().map_or(0, |errno| -(errno as i32));
    rustix::io::write(device, &out(error, unique)).is_ok()
}

/// Asks the kernel to deliver again what was read and not answered (`FUSE_NOTIFY_RESEND`, Linux 6.9).
/// Whether it does; where the connection has ended it does not matter.
pub(super) fn deliver_again(device: impl AsFd) -> bool {
    const RESEND: i32 = 7;
    rustix::io::write(device, &out(RESEND, 0)) != Err(rustix::io::Errno::INVAL)
}

/// `struct fuse_out_header` alone.
fn out(error: i32, unique: u64) -> [u8; ANSWER_HEADER] {
    const LENGTH: u32 = 16;
    let mut header = [0; ANSWER_HEADER];
    let words = LENGTH.to_ne_bytes().into_iter().chain(error.to_ne_bytes());
    let bytes = words.chain(unique.to_ne_bytes());
    header.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    header
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
        request[4] = 14;
        request[8] = 6;
        let header = RequestHeader { opcode: 14, unique: 6 };
        if cfg!(target_endian = "little") {
            assert_eq!(RequestHeader::of(&request), Some(header));
        }
        assert_eq!(RequestHeader::of(&request[..12]), None);
    }
}
