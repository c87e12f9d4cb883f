//! The Molecule platform's endpoint for installation tokens.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::FetchError;
use crate::source::{BoxFuture, Fetched, Source};
use crate::time::Clock;

/// How to reach the platform.
#[derive(Debug, Clone)]
pub struct PlatformConfig {
    /// `PLATFORM_URL`: base URL, http or https, without a trailing slash.
    pub url: String,
    /// `WORKSPACE_ID`: picks the workspace-scoped path; else the admin path.
    pub workspace_id: Option<String>,
    /// The file that holds the bearer: `${CONFIGS_DIR}/.auth_token`.
    pub bearer_file: PathBuf,
    /// A proxy for the platform, only if configured as such.
    pub proxy: Option<String>,
    /// Additional CA bundle (PEM) for https.
    pub ca_file: Option<PathBuf>,
    /// The longest a request may take.
    pub request_timeout: Duration,
}

/// See the module.
pub struct Platform {
    config: PlatformConfig,
    clock: Arc<dyn Clock>,
}

impl Platform {
    /// A source over the platform; connects at the first fetch.
    pub fn new(config: PlatformConfig, clock: Arc<dyn Clock>) -> Self {
        Self { config, clock }
    }
}

impl Source for Platform {
    fn name(&self) -> &'static str {
        "platform"
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        todo!()
    }
}
