//! What evidence must show.

use serde::Serialize;

/// Something that must hold.
#[derive(Debug, Clone, Serialize)]
pub struct Claim {
    pub what: String,
    pub measured: f64,
    pub at_most: f64,
    pub holds: bool,
}

impl Claim {
    pub fn new(what: impl Into<String>, measured: f64, at_most: f64) -> Self {
        Self { what: what.into(), measured, at_most, holds: measured <= at_most }
    }
}

/// Fails with those that do not hold.
pub fn assert_all(claims: &[Claim]) {
    let broken = claims.iter().filter(|claim| !claim.holds).collect::<Vec<_>>();
    assert!(broken.is_empty(), "{broken:#?}");
}
