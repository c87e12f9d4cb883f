//! Keeps the command from typing at the terminal that it shares with the shell which called `run`: with
//! `TIOCSTI` (`ioctl_tty(2)`) it could leave a line there that the shell runs with its own rights. With
//! `TIOCLINUX` (`ioctl_console(2)`) it could paste one on a console.

#![expect(unsafe_code, reason = "installs a seccomp filter")]

use std::fs;
use std::io;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO, sock_filter,
};

/// Whether the kernel refuses it to all (Linux 6.2, `Documentation/admin-guide/sysctl/dev.rst`).
pub fn is_forbidden_to_all() -> bool {
    fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti").is_ok_and(|value| value.trim() == "0")
}

/// Forbids it to this process and all that it starts: the two answer EPERM then.
///
/// # Errors
/// EACCES without `CAP_SYS_ADMIN` and `no_new_privs`; EINVAL where the kernel has no filters
/// (`seccomp(2)`).
pub fn forbid() -> io::Result<()> {
    let program = libc::sock_fprog { len: STEPS, filter: FILTER.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program, whose length is right, and writes to nothing.
    let done =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

// `seccomp_data`: where the number of the call, the architecture, and the low half of the second
// argument lie. Of the request the kernel itself looks at no more than that half.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const REQUEST: u32 = if cfg!(target_endian = "big") { 28 } else { 24 };

// The architectures that a program can have beside ours (`linux/audit.h`).
const X86_64: u32 = 0xC000_003E;
const I386: u32 = 0x4000_0003;
const AARCH64: u32 = 0xC000_00B7;
const ARM: u32 = 0x4000_0028;
/// The bit that makes a call one of x32, a variant of x86-64.
const X32: u32 = 0x4000_0000;

const fn load(offset: u32) -> sock_filter {
    step(BPF_LD | BPF_W | BPF_ABS, 0, 0, offset)
}

/// Skips so many steps where the loaded value is this one.
const fn skip_if(value: u32, steps: u8) -> sock_filter {
    step(BPF_JMP | BPF_JEQ | BPF_K, steps, 0, value)
}

const fn answer(verdict: u32) -> sock_filter {
    step(BPF_RET | BPF_K, 0, 0, verdict)
}

#[expect(clippy::cast_possible_truncation, reason = "the codes are of 16 bits")]
const fn step(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

/// How many steps the filter has.
const STEPS: u16 = 23;

/// Each architecture numbers `ioctl` in its own way. A program of another one is not ended.
#[expect(clippy::cast_possible_truncation, reason = "numbers and requests are of 32 bits")]
const FILTER: [sock_filter; STEPS as usize] = [
    load(ARCHITECTURE),
    skip_if(X86_64, 6),
    skip_if(I386, 10),
    skip_if(ARM, 9),
    skip_if(AARCH64, 11),
    // Ours, if it is none of these.
    load(NUMBER),
    skip_if(libc::SYS_ioctl as u32, 11),
    answer(SECCOMP_RET_ALLOW),
    // x86-64, and x32 with either number.
    load(NUMBER),
    step(BPF_ALU | BPF_AND | BPF_K, 0, 0, !X32),
    skip_if(16, 7),
    skip_if(514, 6),
    answer(SECCOMP_RET_ALLOW),
    // i386 and arm.
    load(NUMBER),
    skip_if(54, 3),
    answer(SECCOMP_RET_ALLOW),
    // aarch64.
    load(NUMBER),
    step(BPF_JMP | BPF_JEQ | BPF_K, 0, 3, 29),
    // An ioctl.
    load(REQUEST),
    skip_if(libc::TIOCSTI as u32, 2),
    skip_if(libc::TIOCLINUX as u32, 1),
    answer(SECCOMP_RET_ALLOW),
    answer(SECCOMP_RET_ERRNO | libc::EPERM as u32),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter answers to a call, as the kernel works it out.
    fn verdict(architecture: u32, number: u32, request: u64) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = FILTER[at];
            at += 1;
            match u32::from(code) {
                code if code == BPF_LD | BPF_W | BPF_ABS => {
                    loaded = match k {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        REQUEST => u32::try_from(request & u64::from(u32::MAX)).unwrap(),
                        other => panic!("loads {other}"),
                    }
                }
                code if code == BPF_ALU | BPF_AND | BPF_K => loaded &= k,
                code if code == BPF_JMP | BPF_JEQ | BPF_K => {
                    at += usize::from(if loaded == k { jt } else { jf });
                }
                code if code == BPF_RET | BPF_K => return k,
                other => panic!("no such step: {other}"),
            }
        }
    }

    #[test]
    fn typing_is_refused_on_each_architecture_and_nothing_else_is() {
        let eperm = SECCOMP_RET_ERRNO | libc::EPERM as u32;
        let ioctls = [
            (X86_64, 16),
            (X86_64, X32 + 514),
            (X86_64, X32 + 16),
            (I386, 54),
            (ARM, 54),
            (AARCH64, 29),
        ];
        for (architecture, number) in ioctls {
            for request in [0x5412, 0x541C, 0xDEAD_BEEF_0000_5412] {
                let told = verdict(architecture, number, request);
                assert_eq!(told, eperm, "{architecture:x} {number} {request:x}");
            }
            // TCGETS, TIOCGWINSZ, TIOCSCTTY, and a number that only begins like it.
            for request in [0x5401, 0x5413, 0x540E, 0x1_5412_0000, 0x0001_5412] {
                let told = verdict(architecture, number, request);
                assert_eq!(told, SECCOMP_RET_ALLOW, "{architecture:x} {number} {request:x}");
            }
            for other in [0, 1, 15, 17, 28, 30, 53, 55, 512, 1024] {
                assert_eq!(verdict(architecture, other, 0x5412), SECCOMP_RET_ALLOW, "{other}");
            }
        }
        assert_eq!(verdict(0xC000_00F3, 7777, 0x5412), SECCOMP_RET_ALLOW, "some other machine");
    }
}
