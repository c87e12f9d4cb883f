//! What of a token outlives the process that refreshes it.

use std::future::ready;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::refresh::policy::Progress;
use crate::source::BoxFuture;
use crate::time::Now;
use crate::token::{FreshToken, Token};

/// What an engine needs to go on where an earlier one stopped.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Saved {
    /// The newest published token.
    pub token: Option<Token>,
    /// The back-off and what goes with it.
    pub progress: Progress,
}

/// The place where it is kept. Every call is cheap, never blocks on I/O and never fails: the memory
/// is there from the start.
pub trait Store: Send + Sync + 'static {
    /// A generation number that was never given before, in this mount, to any process.
    fn reserve(&self) -> u64;

    /// Makes a generation what readers get. Its number was reserved; `now` decides the expiry that
    /// views show. It is called before any waiting open learns of the token.
    fn publish(&self, token: &FreshToken, now: &Now);

    /// Completes when readers get the newest generation under every name. The next one is published
    /// only then, so that watchers see each.
    fn settled(&self) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }

    /// What an earlier engine left.
    fn load(&self) -> Saved;

    /// Keeps the small state.
    fn save(&self, progress: &Progress);
}

/// A store in this process's own memory, where nothing has to outlive it: for files, tests and
/// simulations. A second engine on the same
/// store goes on where the first one stopped.
#[derive(Debug, Default)]
pub struct MemoryStore {
    generation: AtomicU64,
    saved: Mutex<Saved>,
}

impl MemoryStore {
    fn with<T>(&self, change: impl FnOnce(&mut Saved) -> T) -> T {
        change(&mut self.saved.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Store for MemoryStore {
    fn reserve(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn publish(&self, token: &FreshToken, _: &Now) {
        self.with(|saved| saved.token = Some(token.token().clone()));
    }

    fn load(&self) -> Saved {
        self.with(|saved| saved.clone())
    }

    fn save(&self, progress: &Progress) {
        self.with(|saved| saved.progress = *progress);
    }
}
