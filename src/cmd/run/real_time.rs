//! Signals without a name.

#![expect(unsafe_code, reason = "sends a signal by its number")]

use nix::unistd::Pid;

/// Sends a real-time signal (`signal(7)`); a process that is gone needs none.
pub fn kill_by_number(process: Pid, number: i32) {
    // SAFETY: a system call with two numbers; the kernel refuses those that mean nothing.
    unsafe { libc::kill(process.as_raw(), number) };
}
