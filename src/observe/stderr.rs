//! Standard error, which this process shares with whoever started it and with what that started.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::stat::{SFlag, fstat};
use nix::unistd::dup2_stderr;

/// Gives this process an open file description of its own for standard error, and returns the one it
/// was started with.
///
/// `O_NONBLOCK` belongs to the description (`open(2)`): others who share it can set it, so that our
/// writes fail, or clear it, so that they block. What this process starts inherits the new one unless
/// it gets the old one back.
///
/// Only pipes and terminals can block for long. A regular file stays shared: two descriptions would
/// write over each other. So does a socket, which cannot be opened anew, and a pipe of another user's.
///
/// # Errors
/// Where the system has no descriptors left.
pub fn own_stderr() -> io::Result<OwnedFd> {
    let stderr = io::stderr();
    let callers = stderr.as_fd().try_clone_to_owned()?;
    let is_pipe =
        SFlag::from_bits_truncate(fstat(&stderr)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO;
    if is_pipe || stderr.is_terminal() {
        let flags = libc::O_APPEND | libc::O_NONBLOCK | libc::O_NOCTTY;
        let own = OpenOptions::new().write(true).custom_flags(flags).open("/proc/self/fd/2");
        if let Ok(own) = own {
            dup2_stderr(&own)?;
        }
    }
    Ok(callers)
}
