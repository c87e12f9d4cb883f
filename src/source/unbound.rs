//! The token of a door that nobody has bound to one yet.

use std::future::ready;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Explanation, FetchError, FetchErrorKind};
use crate::source::{BoxFuture, Fetched, Source};
use crate::time::Clock;

/// Which door.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UnboundConfig {
    /// Its name.
    pub door: String,
}

/// See the module.
pub struct Unbound(UnboundConfig);

impl Unbound {
    /// The source of a door that has none.
    pub fn new(config: UnboundConfig, _clock: Arc<dyn Clock>) -> Self {
        Self(config)
    }
}

impl Source for Unbound {
    fn name(&self) -> &'static str {
        "unbound"
    }

    fn explain(&self, kind: FetchErrorKind) -> Option<Explanation> {
        (kind == FetchErrorKind::NotRegistered).then_some(Explanation {
            sentence: "nobody has said yet whose tokens this door shows",
            remedy: "on the host, as root: molecule-tokenfs doors bind NAME --token TOKEN, or with a workspace",
        })
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        // Readers wait: it may be bound at any moment.
        let kind = FetchErrorKind::NotRegistered;
        let error =
            FetchError::new(self.name(), kind, format!("the door `{}` is not bound", self.0.door));
        Box::pin(ready(Err(error.explained(self.explain(kind)))))
    }
}
