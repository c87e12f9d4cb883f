//! Makes tokens on demand for a mount: which sources can give one, and the engine behind it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::connection::worker::unused;
use crate::fs::demand::{Demand, Made, Maker};
use crate::fs::generations::State;
use crate::fs::node::Root;
use crate::fs::pages::Pages;
use crate::fs::{Fs, FsConfig};
use crate::refresh::policy::Windows;
use crate::refresh::timer::Timer;
use crate::service::TokenService;
use crate::source::{Scope, SourceConfig, Surroundings};
use crate::status::Identity;
use crate::view::ViewContext;

/// A token that nobody opened for this long is not refreshed any more.
const IDLE: Duration = Duration::from_hours(1);

/// A token of whose sources narrower ones can be had.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OnDemand {
    /// The owners, in lower case; none is everybody whom the sources serve.
    pub owners: Vec<String>,
    /// The sources, best first.
    pub sources: Vec<SourceConfig>,
    /// What views are rendered with.
    pub views: ViewContext,
}

impl OnDemand {
    /// The sources of a narrower token, best first; none where it is not served.
    fn narrowed(&self, scope: &Scope) -> Vec<SourceConfig> {
        if !self.owners.is_empty() && !self.owners.contains(&scope.owner) {
            return Vec::new();
        }
        self.sources.iter().filter_map(|source| source.narrowed(scope)).collect()
    }
}

/// What a mount has for its tokens.
pub struct Around {
    /// The engine's numbers.
    pub windows: Windows,
    /// What sources need.
    pub surroundings: Surroundings,
    /// Wakes engines.
    pub timer: Arc<dyn Timer>,
    /// Runs engines.
    pub runtime: tokio::runtime::Handle,
    /// What readers see.
    pub fs: FsConfig,
    /// What status says of the mount.
    pub identity: Identity,
    /// The state that requests are kept in.
    pub connection: Arc<State>,
}

/// The tokens on demand of a mount.
///
/// # Errors
/// Where there is no memory for their states.
pub fn demand(tokens: Vec<OnDemand>, around: Around) -> io::Result<Demand> {
    let makes = Makes { tokens, around };
    // Nobody runs its engine: it is never opened.
    let template = makes.service(Vec::new(), &ViewContext { hosts: Vec::new() }, "")?.0;
    Ok(Demand::new(template, Box::new(makes)))
}

struct Makes {
    tokens: Vec<OnDemand>,
    around: Around,
}

impl Makes {
    /// A token over these sources, and its engine.
    fn service(
        &self,
        sources: Vec<SourceConfig>,
        views: &ViewContext,
        name: &str,
    ) -> io::Result<(Arc<Fs>, crate::refresh::Engine)> {
        let Around { windows, surroundings, timer, fs, identity, connection, .. } = &self.around;
        let windows = Windows { prefetch: false, idle: windows.idle.min(IDLE), ..windows.clone() };
        let clock = &surroundings.clock;
        let service =
            TokenService::new(sources, windows, surroundings, Arc::clone(timer), |names| {
                State::create_after(unused(&**clock), names, Root::Live.views())
            })?;
        let identity = Identity { name: name.to_owned(), ..identity.clone() };
        let pages = Pages::new(identity, Arc::clone(connection));
        let config =
            FsConfig { root: Root::Live, views: views.clone(), helper: None, ..fs.clone() };
        let fs = Fs::new(
            config,
            Arc::clone(connection),
            service.store,
            service.handle,
            Arc::clone(clock),
            service.counters,
            pages,
        );
        Ok((fs, service.engine))
    }
}

impl Maker for Makes {
    fn serves(&self, scope: &Scope) -> bool {
        self.tokens.iter().any(|token| !token.narrowed(scope).is_empty())
    }

    fn make(&self, scope: &Scope) -> io::Result<Made> {
        let mut narrowed = self.tokens.iter().map(|token| (token.narrowed(scope), &token.views));
        let (sources, views) = narrowed
            .find(|(sources, _)| !sources.is_empty())
            .ok_or_else(|| io::Error::other("no source can give it"))?;
        let (fs, engine) = self.service(sources, views, &scope.to_string())?;
        tracing::debug!(%scope, "a token on demand");
        let task = self.around.runtime.spawn(engine.run());
        Ok(Made { fs, end: Box::new(move || task.abort()) })
    }
}
