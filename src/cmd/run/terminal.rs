//! The terminal: whose job is in its foreground (`tcsetpgrp(3)`).

use std::fs::File;

use nix::sys::signal::{Signal, killpg, raise};
use nix::unistd::{Pid, getpgrp, getsid, tcgetpgrp, tcsetpgrp};

/// The terminal that we were started on, in its foreground.
#[derive(Debug)]
pub struct Terminal(File);

impl Terminal {
    /// `None` without one, and in the background, where it belongs to somebody else.
    pub fn own() -> Option<Self> {
        let terminal = File::open("/dev/tty").ok()?;
        (tcgetpgrp(&terminal) == Ok(getpgrp())).then_some(Self(terminal))
    }

    /// Takes it from the command. Our signals are blocked, SIGTTOU too.
    pub fn take_back(&self) {
        tcsetpgrp(&self.0, getpgrp()).ok();
    }

    /// What becomes of us when the terminal stopped the command (Ctrl-Z): a shell above us has to see
    /// that we stop, too. Returns when it lets us go on, and the command with us.
    pub fn stop_with(&self, command: Pid) {
        if has_shell_above() {
            self.take_back();
            // The whole job, if we are a part of a pipe.
            if killpg(getpgrp(), Signal::SIGSTOP).is_err() {
                raise(Signal::SIGSTOP).ok();
            }
            if tcgetpgrp(&self.0) == Ok(getpgrp()) {
                tcsetpgrp(&self.0, command).ok();
            }
        }
        // Without a shell nobody would ever continue it: Ctrl-Z does nothing then, as without us.
        killpg(command, Signal::SIGCONT).ok();
    }
}

/// Whether a shell with job control waits for us: it leads the session, and we are a job of it.
fn has_shell_above() -> bool {
    getsid(None).is_ok_and(|leader| leader != getpgrp())
}
