//! What outlives a worker of one token: its generations, and how far its engine is. Which of them each
//! view shows is a matter of its places.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use tokio::sync::Notify;

use super::earlier::Earlier;
use super::layout::{FIRST_SLOTS, Region};
use super::mapping::Mapping;
use super::place::{Place, until};
use super::slot::{self, Generation, Slot};
use super::{SLOTS, State, TOLD_WITHIN, nanos};
use crate::fs::fault;
use crate::refresh::policy::Progress;
use crate::refresh::store::{Saved, Store};
use crate::source::BoxFuture;
use crate::time::Now;
use crate::token::FreshToken;

/// So many times the patience with renames that go on.
const LONGEST_RENAMES: u32 = 20;

/// See the module.
pub struct TokenState {
    connection: Arc<State>,
    pub(super) region: Arc<Mapping<Region>>,
    /// What the supervisor has of it, where that is of an earlier version.
    earlier: Option<Arc<Mapping<Earlier>>>,
    index: usize,
    /// Where it is shown.
    places: RwLock<Vec<Arc<Place>>>,
    /// The names of the sources that slots refer to by number.
    sources: Vec<&'static str>,
    /// One writer of a slot at a time; only this process writes.
    writer: Mutex<Locked>,
    /// Asks whoever makes rotations visible to do so; without it a publication flips at once.
    rotator: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Tells whenever a generation is prepared or a view flipped.
    changes: Arc<Notify>,
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
        region: Mapping<Region>,
        earlier: Option<Arc<Mapping<Earlier>>>,
        index: usize,
        sources: Vec<&'static str>,
    ) -> Self {
        Self {
            connection,
            region: Arc::new(region),
            earlier,
            index,
            places: RwLock::default(),
            sources,
            writer: Mutex::default(),
            rotator: OnceLock::new(),
            changes: Arc::default(),
            is_forgotten: AtomicBool::new(false),
        }
    }

    /// Gives it a place in its own region, with these views.
    pub(super) fn with_place(self, number: u64, views: Vec<u8>) -> Self {
        let (region, changes) = (Arc::clone(&self.region), Arc::clone(&self.changes));
        let place = Place::new(region, (self.index, number), views, changes, None);
        self.show_at(Arc::new(place));
        self
    }

    /// Shows it at a place from now on.
    pub(super) fn show_at(&self, place: Arc<Place>) {
        self.places.write().unwrap_or_else(PoisonError::into_inner).push(place);
    }

    /// What tells of changes at its places.
    pub(super) fn changes(&self) -> Arc<Notify> {
        Arc::clone(&self.changes)
    }

    /// Where it is shown.
    fn places(&self) -> RwLockReadGuard<'_, Vec<Arc<Place>>> {
        self.places.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first place where it is shown.
    #[must_use]
    pub fn place(&self) -> Option<Arc<Place>> {
        self.places().first().cloned()
    }

    /// The state that it is a part of.
    #[must_use]
    pub fn connection(&self) -> &Arc<State> {
        &self.connection
    }

    /// The number of its region, which no other token has meanwhile.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// The token is no longer kept: its memory is given back when nobody uses it any more.
    pub fn forget(&self) {
        if !self.is_forgotten.swap(true, Ordering::AcqRel) {
            self.connection.leave_region(self.index);
            self.changes.notify_waiters();
        }
    }

    /// It is no longer shown at a place. If `for_ever`, nothing is.
    pub fn leave(&self, place: &Arc<Place>, for_ever: bool) {
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        places.retain(|other| !Arc::ptr_eq(other, place));
        drop(places);
        if for_ever {
            place.forget();
        }
        self.changes.notify_waiters();
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

    /// Whether every view shows the newest generation, at every place.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.places().iter().all(|place| place.is_settled())
    }

    /// Whether some view, or its live inode, has not told watchers of the newest generation.
    #[must_use]
    pub fn wants_rotation(&self) -> bool {
        self.places().iter().any(|place| place.wants_rotation())
    }

    /// Leaves flipping to `rotate`, which is called after each publication that somebody may see.
    pub fn rotate_with(&self, rotate: impl Fn() + Send + Sync + 'static) {
        self.rotator.set(Box::new(rotate)).ok();
    }

    /// Asks whoever makes rotations visible to do so, or lets views flip where nobody does.
    pub fn rotate(&self) {
        let rotate = self.rotator.get();
        let (seen, unseen): (Vec<_>, Vec<_>) =
            self.places().iter().cloned().partition(|place| rotate.is_some() && place.is_seen());
        for place in unseen {
            place.flip_all();
        }
        for place in &seen {
            place.flip_unwatched();
        }
        if let Some(rotate) = rotate.filter(|_| !seen.is_empty()) {
            rotate();
        }
    }

    /// Completes when a newer generation is prepared.
    pub async fn prepared_after(&self, generation: u64) {
        self.until(|| self.prepared() > generation).await;
    }

    async fn until(&self, is_so: impl Fn() -> bool) {
        until(&self.changes, is_so).await;
    }

    /// Flips the views of a generation that nobody has made visible within `patience`: for a mount
    /// whose supervisor cannot rename. It never interferes with renames that go on: where a token is shown
    /// in very many places they take longer than that. Of each flip `flipped` is told, since the kernel has
    /// not heard of it. Completes when the token is forgotten.
    pub async fn flip_what_stays(&self, patience: Duration, flipped: impl Fn()) {
        loop {
            let is_forgotten = || self.is_forgotten.load(Ordering::Acquire);
            self.until(|| is_forgotten() || !self.is_settled()).await;
            if is_forgotten() {
                return;
            }
            let newest = self.prepared();
            self.no_rename_for(patience).await;
            if self.prepared() == newest && !self.is_settled() {
                tracing::debug!(generation = newest, "nobody renames: flipping without events");
                self.places().iter().for_each(|place| place.flip_all());
                flipped();
            }
        }
    }

    /// Completes when the supervisor has renamed nothing for so long, or between two renames when it has
    /// renamed for very long: that can be for other tokens.
    async fn no_rename_for(&self, patience: Duration) {
        for times in 1.. {
            let before = self.connection.renames();
            tokio::time::sleep(patience).await;
            let now = self.connection.renames();
            if !now.is_in_one() && (now == before || times >= LONGEST_RENAMES) {
                return;
            }
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
        let generation = self.prepared();
        self.places().iter().for_each(|place| place.prepare(generation));
        self.changes.notify_waiters();
        self.rotate();
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
