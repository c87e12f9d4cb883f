//! What the process that serves does besides: `mount` only ends when it is told to, `run` has the
//! duties of a container's first process.
//!
//! Whoever serves has one thread for all of that, reads the signals in it, and tells the companion.

use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;

use crate::status::Backend;

/// A signal that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// One with a name.
    Named(Signal),
    /// One with a number only (`signal(7)`).
    RealTime(i32),
}

impl Received {
    /// The next one that came, if any.
    pub fn next(signals: &SignalFd) -> Option<Self> {
        let number = i32::try_from(signals.read_signal().ok()??.ssi_signo).ok()?;
        Some(Signal::try_from(number).map_or(Self::RealTime(number), Self::Named))
    }
}

/// What the companion wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: serving goes on.
    GoOn,
    /// The end of serving.
    Stop,
    /// That the program which is on disk now takes over.
    Upgrade,
    /// That a token is fetched now. Only files need it: a mount has a file for that.
    Refresh,
}

/// See the module.
pub trait Companion {
    /// The views can be read from now on. Called once.
    fn ready(&mut self, backend: Backend) -> Answer;

    /// One of the signals came that were taken by [`take_signals`](super::supervisor::take_signals).
    ///
    /// `settle` is for whoever waits for any child at all (`waitpid(2)` with -1): it tells whether a
    /// process is a child of the one who serves, who has then taken its exit status himself.
    fn signal(&mut self, signal: Received, settle: &mut dyn FnMut(Pid) -> bool) -> Answer;
}
