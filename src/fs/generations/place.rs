//! What outlives a worker of a place, where a token is shown: which generation each view shows there, and
//! which one watchers were told of.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::State;
use super::layout::{self, Region};
use super::mapping::Mapping;

/// See the module. Most tokens have one place, which is in their own region.
pub struct Place {
    pub(super) region: Arc<Mapping<Region>>,
    index: usize,
    number: u64,
    /// The views that there are.
    views: Vec<u8>,
    /// Tells whenever a generation of the token is prepared or a view of it flipped, at any place.
    changes: Arc<Notify>,
    /// Where the region is the place's own.
    own: Option<Arc<State>>,
    is_forgotten: AtomicBool,
}

impl Place {
    pub(super) fn new(
        region: Arc<Mapping<Region>>,
        (index, number): (usize, u64),
        views: Vec<u8>,
        changes: Arc<Notify>,
        own: Option<Arc<State>>,
    ) -> Self {
        Self { region, index, number, views, changes, own, is_forgotten: AtomicBool::new(false) }
    }

    /// Its number, from 1 on: the same in every worker, and of no other place that this mount ever had.
    /// That of the root, and of one on demand, is 0.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The number of its region, which no other place has meanwhile.
    pub(in crate::fs) fn index(&self) -> usize {
        self.index
    }

    /// The newest generation that can be shown; 0 before the first.
    fn prepared(&self) -> u64 {
        self.region.prepared()
    }

    /// From now on this generation can be shown, but no view shows it yet.
    pub(super) fn prepare(&self, generation: u64) {
        self.region.prepared.fetch_max(generation, Ordering::AcqRel);
    }

    /// Shows the token with this key, whose newest generation is that.
    pub(super) fn show(&self, key: [u64; 2], newest: u64) {
        let shows = self.region.shows.each_ref();
        let is_kept = shows.iter().zip(key).all(|(word, key)| word.load(Ordering::Acquire) == key);
        if is_kept {
            // A worker that died may not have come to this.
            return self.prepare(newest);
        }
        // The order: whoever dies in between leaves a place that shows nothing.
        let words = self.region.current.iter().chain(&self.region.touched);
        self.region.prepared.store(0, Ordering::Release);
        words.for_each(|word| word.store(0, Ordering::Release));
        shows.iter().zip(key).for_each(|(word, key)| word.store(key, Ordering::Release));
        self.prepare(newest);
        if !self.is_seen() {
            self.flip_all();
        }
    }

    /// The generation that a view shows; 0 before the first.
    #[must_use]
    pub fn current(&self, view: u8) -> u64 {
        self.region.current(view)
    }

    /// Lets a view show the newest prepared generation.
    pub fn flip(&self, view: u8) {
        if let Some(word) = self.region.current.get(usize::from(view)) {
            word.fetch_max(self.prepared(), Ordering::AcqRel);
            self.changes.notify_waiters();
        }
    }

    /// Lets all views do so.
    pub(super) fn flip_all(&self) {
        self.views.iter().for_each(|view| self.flip(*view));
    }

    /// The live inode of the view has told watchers of what it shows.
    pub fn touch(&self, view: u8) {
        if let Some(word) = self.region.touched.get(usize::from(view)) {
            word.fetch_max(self.current(view), Ordering::AcqRel);
            self.changes.notify_waiters();
        }
    }

    /// Whether every view shows the newest generation.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let newest = self.prepared();
        self.views.iter().all(|view| self.current(*view) >= newest)
    }

    /// Whether some view, or its live inode, has not told watchers of the newest generation.
    pub(super) fn wants_rotation(&self) -> bool {
        let newest = self.prepared();
        let is_door = self.own.is_some();
        let is_untold =
            |view: &u8| self.region.touches(is_door, *view) && self.region.touched(*view) < newest;
        !self.is_settled() || (self.is_seen() && self.views.iter().any(is_untold))
    }

    /// Lets the views flip that nobody renames, though somebody may watch others.
    pub(super) fn flip_unwatched(&self) {
        let is_door = self.own.is_some();
        let unwatched = self.views.iter().filter(|view| !self.region.renames(is_door, **view));
        unwatched.for_each(|view| self.flip(*view));
    }

    /// Somebody has asked for the directory, and may watch what happens in it.
    pub fn see(&self) {
        self.note(layout::DIRECTORY);
    }

    /// Somebody has looked a view up.
    pub fn see_view(&self, view: u8) {
        self.note(layout::view(view));
    }

    /// Somebody has looked a view up in `live`.
    pub fn see_live(&self, view: u8) {
        self.note(layout::live(view));
    }

    fn note(&self, seen: u64) {
        // Nearly always it was.
        if !self.region.is_seen(seen) {
            self.region.seen.fetch_or(seen, Ordering::AcqRel);
        }
    }

    pub(super) fn is_seen(&self) -> bool {
        self.region.is_seen(layout::DIRECTORY)
    }

    /// Completes when the view shows at least this generation.
    pub async fn flipped(&self, view: u8, generation: u64) {
        until(&self.changes, || self.current(view) >= generation).await;
    }

    /// Nothing is shown there any more: its memory is given back when nobody uses it.
    pub(super) fn forget(&self) {
        if let Some(state) = &self.own
            && !self.is_forgotten.swap(true, Ordering::AcqRel)
        {
            state.leave_region(self.index);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(state) = &self.own {
            state.drop_region(self.index, self.is_forgotten.load(Ordering::Acquire));
        }
    }
}

/// Completes when something is so, which is looked at after each change.
pub(super) async fn until(changes: &Notify, is_so: impl Fn() -> bool) {
    loop {
        // Made before the look, so that a change after it is not missed.
        let notified = changes.notified();
        if is_so() {
            return;
        }
        notified.await;
    }
}
