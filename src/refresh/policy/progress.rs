//! What of a policy outlives the process that it is in.

use std::time::Duration;

use crate::refresh::Rejection;
use crate::refresh::policy::Clocks;
use crate::source::MAX_SOURCES;

/// How it goes with one source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackOff {
    /// Failed attempts in a row.
    pub strikes: u32,
    /// No attempt before this (boot clock); zero where there is no such bound.
    pub not_before: Duration,
    /// The source asked not to be tried before this (boot clock): not even a forced fetch may.
    pub wish: Duration,
}

/// The engine's small state that is worth keeping: without it a crash would reset a back-off.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Progress {
    /// Of each source, best first.
    pub sources: [BackOff; MAX_SOURCES],
    /// The next refresh (boot clock), where one is planned.
    pub next_refresh: Option<Duration>,
    /// What a consumer rejected.
    pub rejected: Option<Rejection>,
    /// What was learnt about the clocks.
    pub clocks: Clocks,
    /// A source was seen to give the same token twice.
    pub repeats: bool,
    /// The last open (boot clock).
    pub last_open: Option<Duration>,
}
