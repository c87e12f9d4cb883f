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

/// The kernel's side of INIT as far as it concerns us (`struct fuse_init_in`).
#[derive(FromBytes, Immutable)]
#[repr(C)]
struct InitIn {
    major: u32,
    minor: u32,
    max_readahead: u32,
    flags: u32,
    flags2: u32,
}

/// Our side of it, whole (`struct fuse_init_out`).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct InitOut {
    before: [u32; 3],
    flags: u32,
    between: [u32; 4],
    flags2: u32,
    after: [u32; 7],
}

/// In the flags of both: the second word of flags counts (`FUSE_INIT_EXT`).
const INIT_EXT: u32 = 1 << 30;
/// In the second word: binds of the mount may be id-mapped (`FUSE_ALLOW_IDMAP`, Linux 6.12). The kernel
/// then leaves users and groups out of requests, and wants `default_permissions`, which every mount of
/// ours has.
const ALLOW_IDMAP: u32 = 1 << 8;
/// With this minor version the bit came to mean that.
const KNOWS_IDMAP: u32 = 41;
/// In the second word: a file cannot be opened by its handle (`FUSE_NO_EXPORT_SUPPORT`, Linux 6.9).
const NO_HANDLES: u32 = 1 << 6;
/// As above.
const KNOWS_HANDLES: u32 = 40;

/// Adds to a worker's answer to INIT that binds may be id-mapped, where the kernel offers it. It is not for
/// the worker to say: each must answer as the first one did, and that may have been an older program.
pub(super) fn allow_idmap(init: &[u8], answer: &mut [u8]) {
    ask_for(init, answer, (ALLOW_IDMAP, KNOWS_IDMAP));
}

/// Adds that no file can be opened by its handle (`open_by_handle_at(2)`), where the kernel offers it. Whoever
/// is shown one door, and has `CAP_DAC_READ_SEARCH`, could make up the handle of another.
pub(super) fn forbid_handles(init: &[u8], answer: &mut [u8]) {
    ask_for(init, answer, (NO_HANDLES, KNOWS_HANDLES));
}

fn ask_for(init: &[u8], answer: &mut [u8], (bit, since): (u32, u32)) {
    let init = init.get(REQUEST_HEADER..).and_then(|init| InitIn::read_from_prefix(init).ok());
    let offers = |init: &InitIn| {
        (init.major, init.minor) >= (7, since)
            && init.flags & INIT_EXT != 0
            && init.flags2 & bit != 0
    };
    let answer = answer.get_mut(ANSWER_HEADER..).unwrap_or_default();
    if let Ok((answer, _)) = InitOut::mut_from_prefix(answer)
        && answer.flags & INIT_EXT != 0
        && init.is_some_and(|(init, _)| offers(&init))
    {
        answer.flags2 |= bit;
    }
}

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

    /// What a kernel begins with, and what a worker answers.
    fn init(minor: u32, flags: u32, flags2: u32) -> (Vec<u8>, Vec<u8>) {
        let header = [0; REQUEST_HEADER / 4];
        let init = [&header[..], &[7, minor, 131_072, flags, flags2], &[0; 11]].concat();
        let mut answer = [0_u32; (ANSWER_HEADER + size_of::<InitOut>()) / 4];
        (answer[4], answer[5], answer[7]) = (7, 40, flags & INIT_EXT);
        (init.as_bytes().to_vec(), answer.as_bytes().to_vec())
    }

    #[test]
    fn id_mapped_binds_are_asked_for_where_the_kernel_offers_them() {
        let (init, before) = init(45, INIT_EXT | 1, ALLOW_IDMAP | 1);
        let mut answer = before.clone();
        allow_idmap(&init, &mut answer);
        // fuse_init_out.flags2, bit 40 of all flags: at 32 of the struct.
        assert_eq!(answer.len(), 16 + 64);
        assert_eq!(answer[16 + 32..16 + 36], 0x100_u32.to_ne_bytes());
        let rest = |answer: &[u8]| [&answer[..48], &answer[52..]].concat();
        assert_eq!(rest(&answer), rest(&before));
        let once = answer.clone();
        allow_idmap(&init, &mut answer);
        assert_eq!(answer, once, "of each worker alike");
    }

    #[test]
    fn handles_are_forbidden_where_the_kernel_can() {
        for (minor, flags2, expected) in
            [(40, NO_HANDLES | 1, 0x40_u32), (39, NO_HANDLES, 0), (45, !NO_HANDLES, 0)]
        {
            let (init, mut answer) = init(minor, INIT_EXT, flags2);
            forbid_handles(&init, &mut answer);
            // Bit 38 of all flags.
            assert_eq!(answer[16 + 32..16 + 36], expected.to_ne_bytes(), "{minor} {flags2:x}");
        }
    }

    #[test]
    fn an_answer_stays_as_it_is_where_the_kernel_offers_no_id_mapped_binds() {
        for (minor, flags, flags2) in
            [(40, INIT_EXT, ALLOW_IDMAP), (45, 0, ALLOW_IDMAP), (45, INIT_EXT, !ALLOW_IDMAP)]
        {
            let (init, before) = init(minor, flags, flags2);
            let mut answer = before.clone();
            allow_idmap(&init, &mut answer);
            assert_eq!(answer, before, "{minor} {flags:x} {flags2:x}");
        }
        let (init, answer) = init(45, INIT_EXT, ALLOW_IDMAP);
        // Of an old kernel, or an error.
        for length in [0, 16, 24, answer.len() - 1] {
            let mut cut = answer[..length].to_vec();
            allow_idmap(&init, &mut cut);
            assert_eq!(cut, answer[..length]);
        }
        for length in [0, REQUEST_HEADER, REQUEST_HEADER + 16] {
            let mut same = answer.clone();
            allow_idmap(&init[..length], &mut same);
            assert_eq!(same, answer);
        }
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
