//! The tokens of a mount beside that of its root: each has sources, an engine and a file system of its
//! own, and shares the rest.

use std::io;
use std::sync::Arc;

use crate::fs::generations::State;
use crate::fs::node::Root;
use crate::fs::pages::{Other, Pages};
use crate::fs::{Fs, FsConfig};
use crate::refresh::Engine;
use crate::refresh::policy::Windows;
use crate::refresh::timer::Timer;
use crate::service::TokenService;
use crate::source::{SourceConfig, Surroundings};
use crate::status::Identity;
use crate::time::Clock;
use crate::view::ViewContext;

/// What the tokens of a mount share.
pub struct Shared {
    /// What sources need.
    pub surroundings: Surroundings,
    /// Wakes engines.
    pub timer: Arc<dyn Timer>,
    /// What readers of the mount see.
    pub fs: FsConfig,
    /// What status says of the mount.
    pub identity: Identity,
    /// The state that requests are kept in.
    pub connection: Arc<State>,
}

/// A token as its configuration has it.
pub struct TokenConfig<'a> {
    /// Its name, for status.
    pub name: &'a str,
    /// Where it comes from, in order.
    pub sources: Vec<SourceConfig>,
    /// The engine's numbers.
    pub windows: Windows,
    /// What its directory shows.
    pub root: Root,
    /// What its views are rendered with.
    pub views: ViewContext,
    /// Whose repositories it is for, where that is known.
    pub owners: Vec<String>,
}

/// A token that is served once its engine runs.
pub struct Token {
    /// Its file system.
    pub fs: Arc<Fs>,
    /// Its engine.
    pub engine: Engine,
    /// What the pages of the mount tell of it.
    pub shown: Other,
}

impl Shared {
    /// Makes a token. Its state ends with this process.
    ///
    /// # Errors
    /// Where there is no memory for the state.
    pub fn token(&self, config: TokenConfig<'_>) -> io::Result<Token> {
        let TokenConfig { name, sources, windows, root, views, owners } = config;
        let (timer, clock) = (Arc::clone(&self.timer), Arc::clone(&self.surroundings.clock));
        let service = TokenService::new(sources, windows, &self.surroundings, timer, |names| {
            State::create_after(unused(&*clock), names, root.views())
        })?;
        let TokenService { store, handle, engine, counters } = service;
        let (name, hosts) = (name.to_owned(), views.hosts.clone());
        let identity = Identity { name, owners, hosts, ..self.identity.clone() };
        let shown = (identity.clone(), handle.clone(), Arc::clone(&counters));
        let connection = Arc::clone(&self.connection);
        let pages = Pages::new(identity, Arc::clone(&connection));
        let config = FsConfig { root, views, helper: None, ..self.fs.clone() };
        let fs = Fs::new(config, connection, store, handle, clock, counters, pages);
        Ok(Token { fs, engine, shown })
    }
}

/// A number that no generation of an earlier worker had: there are fewer than 250 a second. The kernel may
/// still know inodes of that worker's tokens.
fn unused(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.now().boot.as_millis() / 4).unwrap_or(u64::MAX)
}
