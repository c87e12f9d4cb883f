//! What outlives a worker of one token: its generations, which of them each view shows, and how far its
//! engine is.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::earlier::Earlier;
use super::layout::{FIRST_SLOTS, Region};
use super::mapping::Mapping;
use super::slot::{self, Generation, Slot};
use super::{SLOTS, State, TOLD_WITHIN, nanos};
use crate::fs::fault;
use crate::refresh::policy::Progress;
use crate::refresh::store::{Saved, Store};
use crate::source::BoxFuture;
use crate::time::Now;
use crate::token::FreshToken;

/// See the module.
pub struct TokenState {
    connection: Arc<State>,
    pub(super) region: Mapping<Region>,
    /// What the supervisor has of it, where that is of an earlier version.
    earlier: Option<Arc<Mapping<Earlier>>>,
    index: usize,
    place: u64,
    /// The names of the sources that slots refer to by number.
    sources: Vec<&'static str>,
    /// One writer of a slot at a time; only this process writes.
    writer: Mutex<Locked>,
    /// The views that there are.
    views: Vec<u8>,
    /// Asks whoever makes rotations visible to do so; without it a publication flips at once.
    rotator: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Tells whenever a generation is prepared or a view flipped.
    changes: Notify,
    is_forgotten: AtomicBool,
}

/// What of a region is kept from being swapped out.
#[derive(Default)]
struct Locked {
    /// Everything before this.
    end: usize,
    /// The slots after the bytes.
    more_slots: bool,
}

impl TokenState {
    pub(super) fn new(
        connection: Arc<State>,
        (region, earlier): (Mapping<Region>, Option<Arc<Mapping<Earlier>>>),
        index: usize,
        place: u64,
        sources: Vec<&'static str>,
        views: Vec<u8>,
    ) -> Self {
        Self {
            connection,
            region,
            earlier,
            index,
            place,
            sources,
            writer: Mutex::default(),
            views,
            rotator: OnceLock::new(),
            changes: Notify::new(),
            is_forgotten: AtomicBool::new(false),
        }
    }

    /// The state that it is a part of.
    #[must_use]
    pub fn connection(&self) -> &Arc<State> {
        &self.connection
    }

    /// The number of a named token, from 1 on: the same in every worker, and of no other token that this
    /// mount ever had.
    #[must_use]
    pub fn place(&self) -> u64 {
        self.place
    }

    /// The number of its region, which no other token has meanwhile.
    pub(in crate::fs) fn index(&self) -> usize {
        self.index
    }

    /// The token is no longer kept: its memory is given back when nobody uses it any more.
    pub fn forget(&self) {
        if !self.is_forgotten.swap(true, Ordering::AcqRel) {
            self.connection.leave_region(self.index);
        }
    }

    /// How many files of a token on demand are open, and when one was opened last (boot clock).
    #[must_use]
    pub fn uses(&self) -> (u64, Duration) {
        let used_at = self.region.used_at.load(Ordering::Relaxed);
        (self.region.opens.load(Ordering::Relaxed), Duration::from_nanos(used_at))
    }

    /// Keeps the same.
    pub fn set_uses(&self, opens: u64, used_at: Duration) {
        self.region.opens.store(opens, Ordering::Relaxed);
        self.region.used_at.store(nanos(used_at), Ordering::Relaxed);
    }

    /// The newest generation that can be served; 0 before the first.
    #[must_use]
    pub fn prepared(&self) -> u64 {
        self.region.prepared()
    }

    /// The generation that a view shows; 0 before the first.
    #[must_use]
    pub fn current(&self, view: u8) -> u64 {
        self.region.current(view)
    }

    /// Writes a generation into its slot. From now on it can be served, but no view shows it yet.
    fn prepare(&self, token: &FreshToken, now: &Now) {
        let mut locked = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let published = token.publish(now);
        let token = token.token();
        let bytes = &self.region.bytes;
        // What was being written when a worker died is written over.
        let next = if self.prepared() == 0 { 0 } else { (self.newest() + 1) % SLOTS };
        let Some(slot) = self.region.take_slot(next) else { return };
        slot.clear(bytes);
        let length = token.secret.expose().len();
        let slots: Vec<_> = self.region.slots().collect();
        let at = slot::make_room(&slots, bytes, self.prepared(), length);
        self.lock(&mut locked, next, at * slot::WORD + length);
        let source = self.sources.iter().position(|&name| name == token.source);
        let in_the_middle = || self.connection.pass(fault::SLOT);
        slot.write((bytes, at), token, &published, source, now, in_the_middle);
        self.region.newest.store(next as u64, Ordering::Release);
        self.region.prepared.store(token.generation, Ordering::Release);
        self.connection.published();
    }

    /// Keeps a slot and so many of the bytes from being swapped out. Where the limit on locked memory is
    /// lower, they could reach a swap device: that is said once.
    fn lock(&self, locked: &mut Locked, slot: usize, bytes: usize) {
        let lock = |part: &Range<usize>| {
            self.region.lock(part).unwrap_or_else(|error| self.connection.tell_unlocked(error));
        };
        let before = Region::up_to(bytes);
        if locked.end < before.end {
            locked.end = before.end;
            lock(&before);
        }
        if slot >= FIRST_SLOTS && !locked.more_slots {
            locked.more_slots = true;
            lock(&Region::more_slots());
        }
    }

    /// Lets a view show the newest prepared generation.
    pub fn flip(&self, view: u8) {
        if let Some(word) = self.region.current.get(usize::from(view)) {
            word.fetch_max(self.prepared(), Ordering::AcqRel);
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
    #[must_use]
    pub fn wants_rotation(&self) -> bool {
        let is_untold = |view: &u8| self.touched(*view) < self.prepared();
        !self.is_settled() || (self.is_seen() && self.views.iter().any(is_untold))
    }

    /// Leaves flipping to `rotate`, which is called after each publication that somebody may see.
    pub fn rotate_with(&self, rotate: impl Fn() + Send + Sync + 'static) {
        self.rotator.set(Box::new(rotate)).ok();
    }

    /// Somebody has asked for the directory, and may watch what happens in it.
    pub fn see(&self) {
        if !self.is_seen() {
            self.region.seen.store(1, Ordering::Release);
        }
    }

    fn is_seen(&self) -> bool {
        self.region.is_seen()
    }

    /// Completes when the view shows at least this generation.
    pub async fn flipped(&self, view: u8, generation: u64) {
        self.until(|| self.current(view) >= generation).await;
    }

    /// Completes when a newer generation is prepared.
    pub async fn prepared_after(&self, generation: u64) {
        self.until(|| self.prepared() > generation).await;
    }

    async fn until(&self, is_so: impl Fn() -> bool) {
        loop {
            // Made before the look, so that a change after it is not missed.
            let changed = self.changes.notified();
            if is_so() {
                return;
            }
            changed.await;
        }
    }

    /// Flips the views of a generation that nobody has made visible within `patience`: for a mount
    /// whose supervisor cannot rename. It never interferes with a rename that is under way. Of each flip
    /// `flipped` is told, since the kernel has not heard of it.
    pub async fn flip_what_stays(&self, patience: Duration, flipped: impl Fn()) {
        loop {
            self.until(|| !self.is_settled()).await;
            let newest = self.prepared();
            tokio::time::sleep(patience).await;
            let may_flip = !self.is_settled() && !self.connection.is_renaming();
            if self.prepared() == newest && may_flip {
                tracing::debug!(generation = newest, "nobody renames: flipping without events");
                for view in &self.views {
                    self.flip(*view);
                }
                flipped();
            }
        }
    }

    /// The generation of which the view's live inode has told watchers.
    #[must_use]
    pub fn touched(&self, view: u8) -> u64 {
        self.region.touched(view)
    }

    /// The live inode of the view has told watchers of what it shows.
    pub fn touch(&self, view: u8) {
        if let Some(word) = self.region.touched.get(usize::from(view)) {
            word.fetch_max(self.current(view), Ordering::AcqRel);
            self.changes.notify_waiters();
        }
    }

    /// Completes when every view shows the newest generation, and when its watchers were told so, if
    /// that does not take long: two generations at a time would be one event.
    async fn told(&self) {
        self.until(|| self.is_settled()).await;
        if self.rotator.get().is_some() {
            let told = self.until(|| !self.wants_rotation());
            tokio::time::timeout(TOLD_WITHIN, told).await.ok();
        }
    }

    /// The number of the slot that was written last.
    fn newest(&self) -> usize {
        let newest = self.region.newest.load(Ordering::Acquire);
        usize::try_from(newest).unwrap_or_default() % SLOTS
    }

    /// The slots, the one that was written last first. They are written in turn, so this is the order of
    /// their generations.
    fn newest_first(&self) -> impl Iterator<Item = &Slot> {
        let newest = self.newest();
        let older = newest + 1..self.region.used();
        (0..=newest).rev().chain(older.rev()).filter_map(|number| self.region.slot(number))
    }

    /// The slot of a generation, nearly always the first that is looked at.
    pub(super) fn slot(&self, generation: u64) -> Option<&Slot> {
        self.newest_first().find(|slot| slot.head.holds(generation))
    }

    /// Whether a generation is still in its slot.
    #[must_use]
    pub fn keeps(&self, generation: u64) -> bool {
        self.slot(generation).is_some()
    }

    /// Since when there is a newer generation (boot clock), while there is one. Zero for a generation that
    /// is not kept any more, and nothing where those of an earlier worker are not known.
    pub(in crate::fs) fn passed_at(&self, generation: u64) -> Option<Duration> {
        if self.prepared() <= generation {
            return None;
        }
        let mut next = Duration::ZERO;
        for slot in self.newest_first() {
            match slot.kept() {
                Some((newer, published)) if newer > generation => next = published,
                Some((found, _)) if found == generation => return Some(next),
                _ => break,
            }
        }
        // There is none before the first.
        match generation {
            0 => Some(next),
            _ => self.connection.has_tokens().then_some(Duration::ZERO),
        }
    }

    /// A generation, while it is one of the last [`SLOTS`].
    #[must_use]
    pub fn generation(&self, generation: u64) -> Option<Generation> {
        match self.slot(generation) {
            Some(slot) => slot.read(&self.region.bytes, generation, &self.sources),
            None => self.earlier.as_ref()?.generation(generation, &self.sources),
        }
    }

    /// Goes on from what an earlier version left.
    fn go_on(&self) {
        let Some(earlier) = &self.earlier else { return };
        self.region.prepared.fetch_max(earlier.prepared(), Ordering::AcqRel);
        for (word, current) in self.region.current.iter().zip(earlier.current()) {
            word.fetch_max(current, Ordering::AcqRel);
        }
    }
}

impl Store for TokenState {
    fn reserve(&self) -> u64 {
        self.connection.reserve()
    }

    fn publish(&self, token: &FreshToken, now: &Now) {
        self.prepare(token, now);
        self.changes.notify_waiters();
        match self.rotator.get().filter(|_| self.is_seen()) {
            Some(rotate) => rotate(),
            None => self.views.iter().for_each(|view| self.flip(*view)),
        }
    }

    fn settled(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.told())
    }

    fn load(&self) -> Saved {
        self.go_on();
        Saved {
            token: self.generation(self.prepared()).map(|generation| generation.token),
            progress: self.region.progress.load(),
        }
    }

    fn save(&self, saved: &Progress) {
        self.region.progress.save(saved);
    }
}

impl Drop for TokenState {
    fn drop(&mut self) {
        let is_forgotten = self.is_forgotten.load(Ordering::Acquire);
        self.connection.drop_region(self.index, is_forgotten);
    }
}
