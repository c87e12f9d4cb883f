//! The pages that show how things stand. Each handle reads one rendering, so that a reader with a
//! small buffer never sees two of them mixed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::fs::generations::State;
use crate::fs::node::Page;
use crate::refresh::Handle;
use crate::status::counters::Counters;
use crate::status::metrics;
use crate::status::{self, Identity, RemountStatus, Status, UpgradeStatus};
use crate::time::{self, Now};

/// Renderings that are kept for open handles, and their bytes. A handle beyond them reads a new rendering.
const KEPT: usize = 256;
const KEPT_BYTES: usize = 16 * 1024 * 1024;
/// For how long, and for how many threads, a rendering is kept whose size was asked for.
const MEASURED_FOR: Duration = Duration::from_secs(1);
const MEASURED: usize = 64;

/// In the number of a handle: whoever opened it may know the particulars. The kernel keeps the number,
/// so that this outlives the worker.
const MAY_KNOW: u64 = 1 << 63;

/// Another token that the pages of a mount tell of: its identity, the way to it, and its counters.
pub type Other = (Identity, Handle, Arc<Counters>);

/// The tokens on demand that the pages of a mount tell of. Telling of them wakes none, and asks nobody.
pub trait OnDemand: Send + Sync {
    /// How many are kept.
    fn count(&self) -> usize;

    /// Those that are kept, by the names of their paths; the most lately opened first.
    fn shown(&self) -> Vec<Other>;
}

/// The pages of one mount.
pub struct Pages {
    identity: Identity,
    state: Arc<State>,
    others: Vec<Other>,
    on_demand: OnceLock<Arc<dyn OnDemand>>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    last: u64,
    renderings: VecDeque<(u64, Arc<[u8]>)>,
    measured: VecDeque<Measured>,
}

/// A rendering whose size a thread was told (boot clock), and which it will ask for next.
struct Measured {
    thread: u32,
    at: Duration,
    rendering: Arc<[u8]>,
}

impl Pages {
    /// The pages of the mount with this identity.
    #[must_use]
    pub fn new(identity: Identity, state: Arc<State>) -> Self {
        let (others, on_demand) = (Vec::new(), OnceLock::new());
        Self { identity, state, others, on_demand, kept: Mutex::default() }
    }

    /// The same, which tell of these tokens, too.
    #[must_use]
    pub fn with_others(self, others: Vec<Other>) -> Self {
        Self { others, ..self }
    }

    /// From now on they tell of these tokens on demand, too.
    pub fn tell_of(&self, on_demand: Arc<dyn OnDemand>) {
        // A mount has them or has not: nobody sets it twice.
        self.on_demand.set(on_demand).ok();
    }

    /// Whether rendering a page takes so long that others should not wait for it.
    pub fn are_long(&self) -> bool {
        self.on_demand.get().is_some_and(|on_demand| on_demand.count() > 0)
    }

    /// What the pages of a mount tell of this token.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The size of a page: fixed, so that `stat` is right without rendering it.
    #[must_use]
    pub fn size(&self, page: Page) -> u64 {
        let (tokens, on_demand) = (1 + self.others.len(), self.on_demand.get().is_some());
        match page {
            Page::Status => status::size(tokens, on_demand) as u64,
            Page::Metrics => metrics::size(tokens, on_demand) as u64,
        }
    }

    /// Renders a page for a new handle: for whoever `may_know` with all particulars.
    pub fn open(
        &self,
        page: Page,
        may_know: bool,
        token: &Handle,
        counters: &Counters,
        now: &Now,
    ) -> u64 {
        let rendering = self.render(page, may_know, token, counters, now);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last += 1;
        let handle = kept.last | if may_know { MAY_KNOW } else { 0 };
        let mut bytes: usize = kept.renderings.iter().map(|(_, rendering)| rendering.len()).sum();
        while kept.renderings.len() >= KEPT || bytes + rendering.len() > KEPT_BYTES {
            let Some((_, oldest)) = kept.renderings.pop_front() else { break };
            bytes -= oldest.len();
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
        self.render(page, handle & MAY_KNOW != 0, token, counters, now)
    }

    /// The status without padding, for an extended attribute. A thread that asked for its `size`
    /// alone gets that very rendering with its next call, if that comes soon.
    pub fn attribute(
        &self,
        thread: u32,
        size: bool,
        token: &Handle,
        counters: &Counters,
        now: &Now,
    ) -> Arc<[u8]> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.measured.retain(|measured| now.boot.saturating_sub(measured.at) < MEASURED_FOR);
        let known = kept.measured.iter().position(|measured| measured.thread == thread);
        let measured = known.and_then(|known| kept.measured.remove(known));
        if let Some(measured) = measured.filter(|_| !size) {
            return measured.rendering;
        }
        drop(kept);
        // The kernel gives it to those alone who may read the file. There is room for one token.
        let document = self.of_the_configuration(true, token, counters, now);
        let rendering: Arc<[u8]> = status::fitted(&document).into();
        // Callers outside our pid namespace all have the number 0.
        if size && thread != 0 {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.measured.len() == MEASURED {
                kept.measured.pop_front();
            }
            let rendering = Arc::clone(&rendering);
            kept.measured.push_back(Measured { thread, at: now.boot, rendering });
        }
        rendering
    }

    /// Forgets a handle.
    pub fn release(&self, handle: u64) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.renderings.retain(|(number, _)| *number != handle);
    }

    fn render(
        &self,
        page: Page,
        may_know: bool,
        token: &Handle,
        counters: &Counters,
        now: &Now,
    ) -> Arc<[u8]> {
        let document = self.document(may_know, token, counters, now);
        match page {
            Page::Status => status::padded(&document).into(),
            Page::Metrics => {
                let others = self.others.iter().map(|(_, _, counters)| &**counters);
                let counters: Vec<&Counters> = std::iter::once(counters).chain(others).collect();
                metrics::padded(&document, &counters).into()
            }
        }
    }

    fn document(&self, may_know: bool, token: &Handle, counters: &Counters, now: &Now) -> Status {
        let mut document = self.of_the_configuration(may_know, token, counters, now);
        let Some(on_demand) = self.on_demand.get() else { return document };
        if !may_know {
            // Nor may they list the directories of names.
            document.add_on_demand(on_demand.count(), Vec::new());
            return document;
        }
        let tokens = on_demand.shown();
        let shown = tokens.iter().map(|(identity, token, counters)| {
            status::token_on_demand(identity, token.snapshot(), counters, now)
        });
        document.add_on_demand(tokens.len(), shown.collect());
        document
    }

    /// The document of the tokens of the configuration.
    fn of_the_configuration(
        &self,
        may_know: bool,
        token: &Handle,
        counters: &Counters,
        now: &Now,
    ) -> Status {
        let describe = if may_know { status::document } else { status::document_for_strangers };
        let mut document = describe(&self.identity, &token.snapshot(), counters, now);
        for (identity, token, counters) in &self.others {
            document.add(describe(identity, &token.snapshot(), counters, now));
        }
        document.last_upgrade = self.state.last_upgrade().map(|(at, outcome)| UpgradeStatus {
            // Exact: whoever asked for an upgrade tells its outcome from an earlier one by it.
            at: time::exact_timestamp(at),
            succeeded: outcome.is_ok(),
            reason: outcome.err().filter(|_| may_know),
        });
        document.last_remount = self
            .state
            .last_remount()
            .map(|(at, reason)| RemountStatus { at: time::exact_timestamp(at), reason });
        document
    }
}
