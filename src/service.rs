//! A token that is served: its chain of sources, its engine, and what is counted of it. The file system,
//! the files backend and tests make it here.

use std::io;
use std::sync::Arc;

use crate::refresh::policy::Windows;
use crate::refresh::store::Store;
use crate::refresh::timer::Timer;
use crate::refresh::{Engine, Handle};
use crate::source::{SourceConfig, Surroundings};
use crate::status::counters::Counters;

/// See the module.
pub struct TokenService<S> {
    /// What outlives the engine.
    pub store: Arc<S>,
    /// The way to the engine.
    pub handle: Handle,
    /// The engine, which somebody has to run.
    pub engine: Engine,
    /// What is counted.
    pub counters: Arc<Counters>,
}

impl<S: Store> TokenService<S> {
    /// Makes the sources, best first, and an engine over them that goes on where the last one on the
    /// same store stopped. `store` is told the names of the sources.
    ///
    /// # Errors
    /// Those of `store`.
    pub fn new(
        sources: Vec<SourceConfig>,
        windows: Windows,
        surroundings: &Surroundings,
        timer: Arc<dyn Timer>,
        store: impl FnOnce(Vec<&'static str>) -> io::Result<S>,
    ) -> io::Result<Self> {
        let (counters, clock) = (Arc::new(Counters::default()), &surroundings.clock);
        let metered =
            |source: SourceConfig| counters.metered(source.build(surroundings), Arc::clone(clock));
        let sources: Vec<_> = sources.into_iter().map(metered).collect();
        let store = Arc::new(store(sources.iter().map(|source| source.name()).collect())?);
        let (kept, clock) = (Arc::clone(&store) as _, Arc::clone(clock));
        let (handle, engine) = Engine::new(sources, windows, kept, clock, timer, rand::random());
        Ok(Self { store, handle, engine, counters })
    }
}
