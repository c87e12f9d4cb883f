//! The pages that show how things stand. Each handle reads one rendering, so that a reader with a
//! small buffer never sees two of them mixed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::fs::counters::Counters;
use crate::fs::generations::State;
use crate::fs::metrics;
use crate::fs::node::Page;
use crate::fs::status::{self, Identity, UpgradeStatus};
use crate::refresh::Handle;
use crate::time::{self, Now};

/// Renderings that are kept for open handles. A handle beyond them reads a new rendering.
const KEPT: usize = 256;

/// The pages of one mount.
pub struct Pages {
    identity: Identity,
    state: Arc<State>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    last: u64,
    renderings: VecDeque<(u64, Arc<[u8]>)>,
}

impl Pages {
    /// The pages of the mount with this identity.
    #[must_use]
    pub fn new(identity: Identity, state: Arc<State>) -> Self {
        Self { identity, state, kept: Mutex::default() }
    }

    /// The size of a page: fixed, so that `stat` is right without rendering it.
    #[must_use]
    pub fn size(page: Page) -> u64 {
        match page {
            Page::Status => status::SIZE as u64,
            Page::Metrics => metrics::SIZE as u64,
        }
    }

    /// Renders a page for a new handle.
    pub fn open(&self, page: Page, token: &Handle, counters: &Counters, now: &Now) -> u64 {
        let rendering = self.render(page, token, counters, now);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last += 1;
        let handle = kept.last;
        if kept.renderings.len() == KEPT {
            kept.renderings.pop_front();
        }
        kept.renderings.push_back((handle, rendering));
        handle
    }

    /// The rendering of a handle; a new one where it is not kept (any more).
    pub fn read(
        &self,
        page: Page,
        handle: u64,
        token: &Handle,
        counters: &Counters,
        now: &Now,
    ) -> Arc<[u8]> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let rendering = kept.renderings.iter().find(|(number, _)| *number == handle);
        if let Some((_, rendering)) = rendering {
            return Arc::clone(rendering);
        }
        drop(kept);
        self.render(page, token, counters, now)
    }

    /// Forgets a handle.
    pub fn release(&self, handle: u64) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.renderings.retain(|(number, _)| *number != handle);
    }

    fn render(&self, page: Page, token: &Handle, counters: &Counters, now: &Now) -> Arc<[u8]> {
        let snapshot = token.snapshot();
        let mut document = status::document(&self.identity, &snapshot, counters, now);
        document.last_upgrade = self.state.last_upgrade().map(|(at, outcome)| UpgradeStatus {
            // Exact: whoever asked for an upgrade tells its outcome from an earlier one by it.
            at: time::exact_timestamp(at),
            succeeded: outcome.is_ok(),
            reason: outcome.err(),
        });
        match page {
            Page::Status => status::padded(&document).into(),
            Page::Metrics => metrics::padded(&document, counters).into(),
        }
    }
}
