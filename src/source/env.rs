//! The token that the daemon's environment held when it started.

use std::sync::Arc;
use std::time::Duration;

use crate::error::FetchError;
use crate::secret::Secret;
use crate::source::{BoxFuture, Fetched, Source};
use crate::time::Clock;

/// What the environment held.
#[derive(Debug, Clone)]
pub struct EnvConfig {
    /// The token of `GITHUB_TOKEN`, else of `GH_TOKEN`; `None` where neither is set.
    pub token: Option<Secret>,
    /// How long a token counts whose expiry nobody knows.
    pub assumed_life: Duration,
}

/// See the module.
pub struct Env {
    config: EnvConfig,
    clock: Arc<dyn Clock>,
}

impl Env {
    /// A source over what the environment held at the start.
    pub fn new(config: EnvConfig, clock: Arc<dyn Clock>) -> Self {
        Self { config, clock }
    }
}

impl Source for Env {
    fn name(&self) -> &'static str {
        "env"
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        todo!()
    }
}
