//! The tokens of a mount: each has sources, an engine, a state and a file system of its own, and shares
//! the rest.

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::fs::generations::regions::{Kind, Whose};
use crate::fs::generations::{Place, State, TokenState};
use crate::fs::node::Root;
use crate::fs::pages::{Other, Pages};
use crate::fs::{Fs, FsConfig};
use crate::refresh::policy::Windows;
use crate::refresh::timer::Timer;
use crate::refresh::{Engine, Handle};
use crate::service::TokenService;
use crate::source::{SourceConfig, Surroundings};
use crate::status::Identity;
use crate::status::counters::Counters;
use crate::view::ViewContext;

/// A token with a directory of its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NamedToken {
    /// Its name, that of the directory.
    pub name: String,
    /// Where it comes from, in order.
    pub sources: Vec<SourceConfig>,
    /// What its views are rendered with.
    pub views: ViewContext,
    /// Whose repositories it is for, in lower case, where that is known.
    #[serde(default)]
    pub owners: Vec<String>,
}

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
    /// What outlives a worker.
    pub connection: Arc<State>,
}

/// A token as its configuration has it.
pub struct TokenConfig<'a> {
    /// What kind of token.
    pub kind: Kind,
    /// Its name, for status; it is found by it.
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
    /// The tokens that its pages tell of besides.
    pub others: Vec<Other>,
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

/// A token that is served, for each place where it is shown.
#[derive(Clone)]
pub(super) struct Shown {
    pub(super) store: Arc<TokenState>,
    pub(super) handle: Handle,
    pub(super) counters: Arc<Counters>,
}

impl Shared {
    /// Makes a token, which goes on where an earlier worker's stopped.
    ///
    /// # Errors
    /// Where there is no memory for the state.
    pub fn token(&self, config: TokenConfig<'_>) -> io::Result<Token> {
        let TokenConfig { kind, name, sources, windows, root, views, owners, others } = config;
        let identity = identity(&sources)?;
        let whose = Whose { kind, name, configuration: &identity };
        let service = self.service(whose, sources, windows, root.views())?;
        let nowhere = || io::Error::other("a token that is shown nowhere");
        let place = service.store.place().ok_or_else(nowhere)?;
        let hosts = views.hosts.clone();
        let identity = Identity { name: name.to_owned(), owners, hosts, ..self.identity.clone() };
        let config = FsConfig { root, views, ..self.fs.clone() };
        let TokenService { store, handle, engine, counters } = service;
        let token = Shown { store, handle, counters };
        let (fs, shown) = self.show(&token, place, config, identity, others);
        Ok(Token { fs, engine, shown })
    }

    /// What serves a token, at whatever place.
    pub(super) fn service(
        &self,
        whose: Whose<'_>,
        sources: Vec<SourceConfig>,
        windows: Windows,
        views: Vec<u8>,
    ) -> io::Result<TokenService<TokenState>> {
        let timer = Arc::clone(&self.timer);
        TokenService::new(sources, windows, &self.surroundings, timer, |names| {
            self.connection.token(whose, names, views)
        })
    }

    /// The file system of a place of a token, and what other pages tell of that.
    pub(super) fn show(
        &self,
        token: &Shown,
        place: Arc<Place>,
        config: FsConfig,
        identity: Identity,
        others: Vec<Other>,
    ) -> (Arc<Fs>, Other) {
        let Shown { store, handle, counters } = token;
        let shown = (identity.clone(), handle.clone(), Arc::clone(counters));
        let pages = Pages::new(identity, Arc::clone(&self.connection)).with_others(others);
        let (at, clock) = ((Arc::clone(store), place), Arc::clone(&self.surroundings.clock));
        (Fs::new(config, at, handle.clone(), clock, Arc::clone(counters), pages), shown)
    }
}

/// What of a configuration does not decide which token comes: how it is asked for, and what a start adds.
const NO_IDENTITY: [&str; 8] = [
    "assumed_life",
    "bearer_user",
    "ca_file",
    "mints_a_minute",
    "proxy",
    "request_timeout",
    "revoke_on_exit",
    "start",
];

/// What tells apart tokens that come from these sources from others of the same name.
///
/// # Errors
/// Where a configuration cannot be written down.
pub fn identity(sources: &[SourceConfig]) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut sources = serde_json::to_value(sources)?;
    let each = sources.as_array_mut().into_iter().flatten();
    for config in each.filter_map(|source| source.as_object_mut()?.values_mut().next()) {
        if let Some(config) = config.as_object_mut() {
            config.retain(|key, _| !NO_IDENTITY.contains(&&**key));
        }
    }
    Ok(Zeroizing::new(serde_json::to_vec(&sources)?))
}
