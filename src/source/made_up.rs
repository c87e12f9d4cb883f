//! Tokens made up on the spot, each of which proves by itself that it is whole: for tests and
//! benchmarks of the mount, which then need no server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{FetchError, FetchErrorKind};
use crate::secret::Secret;
use crate::source::{BoxFuture, Fetched, Source};
use crate::time::Clock;
use crate::token::Term;

/// The lengths of the tail go through all values below this one, so that the size changes with every
/// token.
const LENGTHS: u64 = 500;
/// Prime to [`LENGTHS`].
const STRIDE: u64 = 37;

/// How tokens are made up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MadeUpConfig {
    /// How long each lives.
    pub life: Duration,
}

/// See the module. The token numbered n is `ghs_`, n in 8 digits, `_`, and a letter and a number of
/// repetitions that follow from n.
pub struct MadeUp {
    config: MadeUpConfig,
    clock: Arc<dyn Clock>,
    made: AtomicU64,
}

impl MadeUp {
    /// A source that has made none yet.
    pub fn new(config: MadeUpConfig, clock: Arc<dyn Clock>) -> Self {
        Self { config, clock, made: AtomicU64::new(0) }
    }

    /// The bytes of the token with this number.
    #[must_use]
    pub fn token(number: u64) -> String {
        let letter = char::from(b'a' + u8::try_from(number % 26).unwrap_or_default());
        let length = usize::try_from(number * STRIDE % LENGTHS).unwrap_or_default();
        format!("ghs_{number:08}_{}", letter.to_string().repeat(length))
    }

    /// The number of a token, if the bytes are one of ours and whole.
    #[must_use]
    pub fn number(token: &[u8]) -> Option<u64> {
        let number = std::str::from_utf8(token.get(4..12)?).ok()?.parse().ok()?;
        (Self::token(number).as_bytes() == token).then_some(number)
    }
}

impl Source for MadeUp {
    fn name(&self) -> &'static str {
        "made-up"
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        Box::pin(async {
            let issued = self.clock.now();
            let number = self.made.fetch_add(1, Ordering::Relaxed) + 1;
            let secret = Secret::new(Self::token(number).into_bytes()).map_err(|error| {
                FetchError::new(self.name(), FetchErrorKind::BadAnswer, error.to_string())
            })?;
            Ok(Fetched { secret, issued, term: Term::For(self.config.life) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_proves_that_it_is_whole() {
        for number in [1, 2, 499, 500, 12_345_678] {
            let token = MadeUp::token(number);
            assert_eq!(MadeUp::number(token.as_bytes()), Some(number));
            assert_eq!(MadeUp::number(&token.as_bytes()[..token.len() - 1]), None, "{token}");
            assert_eq!(MadeUp::number(format!("{token}x").as_bytes()), None);
        }
        assert_ne!(MadeUp::token(1).len(), MadeUp::token(2).len());
    }
}
