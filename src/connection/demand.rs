//! Makes tokens on demand for a mount: which sources can give one, and the engine behind it.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::connection::tokens::{Shared, Token, TokenConfig, identity};
use crate::fs::demand::{Demand, Made, Maker};
use crate::fs::generations::regions::{Kind, Whose};
use crate::fs::node::Root;
use crate::refresh::policy::Windows;
use crate::source::{Scope, SourceConfig};
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

/// The tokens on demand of a mount, whose engines run on this runtime.
///
/// # Errors
/// Where there is no memory for their states.
pub fn demand(
    tokens: Vec<OnDemand>,
    windows: &Windows,
    shared: Shared,
    runtime: tokio::runtime::Handle,
) -> io::Result<Demand> {
    let windows = Windows { prefetch: false, idle: windows.idle.min(IDLE), ..windows.clone() };
    let makes = Makes { tokens, windows, shared, runtime };
    // Nobody runs its engine: it is never opened.
    let views = ViewContext { hosts: Vec::new() };
    let template = makes.token(None, Vec::new(), views)?.fs;
    Ok(Demand::new(template, Box::new(makes)))
}

struct Makes {
    tokens: Vec<OnDemand>,
    windows: Windows,
    shared: Shared,
    runtime: tokio::runtime::Handle,
}

impl Makes {
    fn token(
        &self,
        scope: Option<&Scope>,
        sources: Vec<SourceConfig>,
        views: ViewContext,
    ) -> io::Result<Token> {
        let windows = self.windows.clone();
        let (root, others) = (Root::Live, Vec::new());
        let kind = if scope.is_some() { Kind::OnDemand } else { Kind::Passing };
        let name = &scope.map(Scope::to_string).unwrap_or_default();
        let owners = scope.map(|scope| scope.owner.clone()).into_iter().collect();
        let config = TokenConfig { kind, name, sources, windows, root, views, owners, others };
        self.shared.token(config)
    }

    /// The sources of a token, best first, and what its views are rendered with.
    fn narrowed(&self, scope: &Scope) -> Option<(Vec<SourceConfig>, &ViewContext)> {
        let mut narrowed = self.tokens.iter().map(|token| (token.narrowed(scope), &token.views));
        narrowed.find(|(sources, _)| !sources.is_empty())
    }

    /// Whether an earlier worker kept the token of this scope, as it is configured now.
    fn keeps(&self, scope: &Scope) -> bool {
        let Some((sources, _)) = self.narrowed(scope) else { return false };
        let (name, kind) = (scope.to_string(), Kind::OnDemand);
        identity(&sources).is_ok_and(|configuration| {
            let whose = Whose { kind, name: &name, configuration: &configuration };
            self.shared.connection.keeps_token(whose)
        })
    }
}

impl Maker for Makes {
    fn serves(&self, scope: &Scope) -> bool {
        self.narrowed(scope).is_some()
    }

    fn make(&self, scope: &Scope) -> io::Result<Made> {
        let (sources, views) =
            self.narrowed(scope).ok_or_else(|| io::Error::other("no source can give it"))?;
        let Token { fs, engine, .. } = self.token(Some(scope), sources, views.clone())?;
        tracing::debug!(%scope, "a token on demand");
        let task = self.runtime.spawn(engine.run());
        Ok(Made { fs, end: Box::new(move || task.abort()) })
    }

    fn kept(&self) -> Vec<(Scope, Made)> {
        let names = self.shared.connection.on_demand().unwrap_or_else(|error| {
            tracing::warn!("the tokens on demand begin anew: {error}");
            Vec::new()
        });
        let scopes = names.iter().filter_map(|name| match name.split_once('/') {
            Some((owner, repository)) => Scope::of_repository(owner, repository),
            None => Scope::of_owner(name),
        });
        let kept = scopes.filter(|scope| self.keeps(scope)).filter_map(|scope| {
            self.shared.connection.step();
            match self.make(&scope) {
                Ok(made) => Some((scope, made)),
                Err(error) => {
                    tracing::warn!("the token of {scope} begins anew: {error}");
                    None
                }
            }
        });
        kept.collect()
    }
}
