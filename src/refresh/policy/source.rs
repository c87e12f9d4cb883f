//! How it goes with one source.

use std::time::Duration;

use super::{BackOff, windows};
use crate::error::FetchErrorKind;
use crate::refresh::Rejection;
use crate::time::Now;

/// The request to a source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Request {
    #[default]
    None,
    InFlight,
    /// In flight, but the source has changed since: its answer may be stale.
    Overtaken,
}

/// How it goes with one source.
#[derive(Debug, Clone, Default)]
pub(super) struct SourceState {
    pub(super) request: Request,
    /// Failures in a row.
    pub(super) strikes: u32,
    /// The last failure, while the streak lasts.
    pub(super) failure: Option<FetchErrorKind>,
    /// The failure does not heal by itself.
    pub(super) permanent: bool,
    /// No attempt before this (boot clock).
    pub(super) not_before: Duration,
    /// The source asked not to be tried before this; not even a forced fetch may.
    pub(super) wish: Duration,
    /// The rejection of its last token, until it gives another.
    pub(super) rejection: Option<Box<Rejection>>,
    /// It has given a token since the start, so that its next one does not count as the first.
    pub(super) has_given: bool,
}

impl SourceState {
    pub(super) fn succeed(&mut self) {
        *self = Self {
            request: self.request,
            rejection: self.rejection.take(),
            has_given: self.has_given,
            ..Self::default()
        };
    }

    pub(super) fn in_flight(&self) -> bool {
        self.request != Request::None
    }

    /// What a successor must know of it.
    pub(super) fn back_off(&self) -> BackOff {
        BackOff { strikes: self.strikes, not_before: self.not_before, wish: self.wish }
    }

    /// Goes on where an earlier process stopped.
    pub(super) fn resume(&mut self, saved: &BackOff, now: &Now) {
        let latest = now.boot.saturating_add(windows::LONGEST_WISH);
        self.strikes = saved.strikes;
        self.not_before = saved.not_before.min(latest);
        self.wish = saved.wish.min(latest);
        // Which failure it was is not kept, only that it was one.
        self.failure = (saved.strikes > 0).then_some(FetchErrorKind::Unreachable);
    }

    pub(super) fn heals_by_change(&self) -> bool {
        self.permanent || self.failure == Some(FetchErrorKind::NotRegistered)
    }
}
