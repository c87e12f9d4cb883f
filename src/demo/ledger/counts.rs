//! What the services of the demo platform counted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What one service saw, request by request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdicts {
    /// Requests with a live token.
    pub live: u64,
    /// Requests with an expired token.
    pub dead: u64,
    /// Requests with a revoked token.
    pub revoked: u64,
    /// Requests with something that was never issued here.
    pub unknown: u64,
    /// Requests without a credential: git's first one always is.
    pub missing: u64,
    /// Requests with a live token for other repositories.
    #[serde(default)]
    pub out_of_scope: u64,
}

impl Verdicts {
    /// Requests that presented something which was refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.dead + self.revoked + self.unknown + self.out_of_scope
    }
}

/// What the platform's own endpoint saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformCounts {
    /// Requests for a token, whatever became of them.
    pub requests: u64,
    /// Of these, how many came with a wrong bearer or none.
    pub unauthorized: u64,
    /// Of these, how many met a fault.
    pub faults: u64,
    /// Tokens minted.
    pub issued: u64,
    /// Answers with a token that had been given before.
    pub repeated: u64,
}

/// Everything counted so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// The token endpoint.
    pub platform: PlatformCounts,
    /// The services that check tokens, by name (`git`, `lfs`, `rest`).
    pub services: BTreeMap<String, Verdicts>,
}

impl Counts {
    /// What one service saw.
    #[must_use]
    pub fn service(&self, name: &str) -> Verdicts {
        self.services.get(name).copied().unwrap_or_default()
    }

    /// Refused credentials over all services: 0 is what this project is for.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.services.values().map(Verdicts::refused).sum()
    }
}
