//! A copy of this process for what may never end, and stays where it went.

#![expect(unsafe_code, reason = "forks")]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use rustix::process::Pid;

use crate::spawn;
use crate::time::{Clock, SystemClock};

/// Of a copy that panicked, or that a signal ended.
const FAILURE: u8 = 1;

/// Does this in a copy of the process, and gives what that ends with. After `limit` the copy is killed and
/// left alone: it may wait in the kernel, where no signal ends it.
///
/// This process must have one thread.
///
/// # Errors
/// If there can be no copy; `TimedOut` if it did not end in time.
#[expect(clippy::disallowed_methods, reason = "the copy must not go back to the callers")]
pub fn apart(limit: Duration, work: impl FnOnce() -> u8) -> io::Result<u8> {
    // SAFETY: no other thread can hold a lock of which the copy would get one that is never released:
    // there is none (see above).
    let copy = match unsafe { fork() }? {
        ForkResult::Child => {
            // Nothing of the callers' may be done twice.
            let code = catch_unwind(AssertUnwindSafe(work)).unwrap_or(FAILURE);
            std::process::exit(code.into())
        }
        ForkResult::Parent { child } => child,
    };
    let deadline = SystemClock.now().boot.saturating_add(limit);
    let pid = Pid::from_raw(copy.as_raw()).ok_or(rustix::io::Errno::SRCH)?;
    let ended = spawn::wait_for_end(pid, deadline);
    if let Err(error) = ended {
        // It may have ended meanwhile, which is as well.
        let _ = kill(copy, Signal::SIGKILL);
        return Err(error);
    }
    match waitpid(copy, None)? {
        WaitStatus::Exited(_, code) => Ok(u8::try_from(code).unwrap_or(FAILURE)),
        _ => Ok(FAILURE),
    }
}
