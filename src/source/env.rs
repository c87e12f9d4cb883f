//! The token that the daemon's environment held when it started.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Explanation, FetchError, FetchErrorKind};
use crate::secret::Secret;
use crate::source::{BoxFuture, Fetched, Source};
use crate::time::{Clock, Now};
use crate::token::Term;

/// Its name.
pub const NAME: &str = "env";

/// How GitHub marks the token of an app's installation, which dies after an hour whatever we do.
/// All other kinds (`ghp_`, `github_pat_`, `gho_`, `ghu_` …) are the user's own.
const INSTALLATION_PREFIX: &[u8] = b"ghs_";

/// What the environment held.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnvConfig {
    /// The token of `GITHUB_TOKEN`, else of `GH_TOKEN`; `None` where neither is set.
    #[serde(with = "handover")]
    pub token: Option<Secret>,
    /// How long a token counts whose expiry nobody knows: an installation token (`ghs_`) once, from
    /// the start of the daemon; any other anew at each fetch.
    pub assumed_life: Duration,
    /// When the daemon started: the earliest moment that is known to lie after the token's birth.
    /// `None` is the moment in which the source is made.
    pub start: Option<Now>,
}

/// A secret on its way to another process of the daemon, in memory that only the two can reach. The
/// one place where a secret is serialized.
pub(super) mod handover {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use crate::secret::Secret;

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub(in crate::source) fn serialize<S: Serializer>(
        token: &Option<Secret>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        token.as_ref().map(Secret::expose_str).serialize(serializer)
    }

    pub(in crate::source) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Secret>, D::Error> {
        let token = Option::<String>::deserialize(deserializer)?;
        token.map(|token| Secret::new(token.into_bytes()).map_err(D::Error::custom)).transpose()
    }
}

/// See the module.
pub struct Env {
    config: EnvConfig,
    clock: Arc<dyn Clock>,
    start: Now,
}

impl Env {
    /// A source over what the environment held at the start.
    pub fn new(config: EnvConfig, clock: Arc<dyn Clock>) -> Self {
        let start = config.start.unwrap_or_else(|| clock.now());
        Self { config, clock, start }
    }

    fn fetched(&self) -> Result<Fetched, FetchError> {
        let Some(secret) = self.config.token.clone() else {
            let kind = FetchErrorKind::NotConfigured;
            let error = FetchError::new(NAME, kind, "neither GITHUB_TOKEN nor GH_TOKEN is set");
            return Err(error.explained(explain(kind)));
        };
        let now = self.clock.now();
        let life = self.config.assumed_life;
        let issued = if self.is_stopgap() {
            if now.elapsed_since(&self.start) >= life {
                let kind = FetchErrorKind::BornExpired;
                let detail = format!(
                    "the environment's token has been here for {} minutes, as long as an \
                     installation token lives; nobody renews it",
                    life.as_secs() / 60
                );
                return Err(FetchError::new(NAME, kind, detail).explained(explain(kind)));
            }
            self.start
        } else {
            now
        };
        Ok(Fetched { secret, issued, term: Term::Assumed(life) })
    }
}

/// What an error means for a token of the environment; `None` where the general words hold.
fn explain(kind: FetchErrorKind) -> Option<Explanation> {
    let (sentence, remedy) = match kind {
        FetchErrorKind::NotConfigured => (
            "no token is in the environment that the daemon was started in",
            "start the daemon with a token in GITHUB_TOKEN, or with a source that renews its tokens",
        ),
        FetchErrorKind::BornExpired => (
            "the environment's token has run out",
            "start the daemon with a new one in GITHUB_TOKEN, or with a source that renews its tokens",
        ),
        FetchErrorKind::Rejected => (
            "the environment's token was refused",
            "start the daemon with another one in GITHUB_TOKEN, or with a source that renews its tokens",
        ),
        _ => return None,
    };
    Some(Explanation { sentence, remedy })
}

impl Source for Env {
    fn name(&self) -> &'static str {
        NAME
    }

    fn can_replace_rejected(&self) -> bool {
        false
    }

    fn explain(&self, kind: FetchErrorKind) -> Option<Explanation> {
        explain(kind)
    }

    fn is_stopgap(&self) -> bool {
        let token = self.config.token.as_ref();
        token.is_some_and(|token| token.expose().starts_with(INSTALLATION_PREFIX))
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        Box::pin(ready(self.fetched()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    struct SetClock(Mutex<Now>);

    impl SetClock {
        fn advance(&self, by: Duration) {
            let mut now = self.0.lock().unwrap();
            *now = now.plus(by);
        }
    }

    impl Clock for SetClock {
        fn now(&self) -> Now {
            *self.0.lock().unwrap()
        }
    }

    fn env(token: Option<&str>) -> (Env, Arc<SetClock>) {
        let clock = Arc::new(SetClock(Mutex::new(Now { boot: MINUTE, wall: MINUTE * 1_000_000 })));
        let token = token.map(|t| Secret::new(t.into()).unwrap());
        (
            Env::new(EnvConfig { token, assumed_life: MINUTE * 60, start: None }, clock.clone()),
            clock,
        )
    }

    #[tokio::test]
    async fn an_installation_token_counts_from_the_start_and_is_never_renewed() {
        let (env, clock) = env(Some("ghs_injected"));
        assert!(env.is_stopgap());
        let start = clock.now();
        clock.advance(MINUTE * 59);
        let fetched = env.fetch().await.unwrap();
        assert_eq!(fetched.issued, start);
        assert_eq!(fetched.term, Term::Assumed(MINUTE * 60));

        clock.advance(MINUTE);
        let error = env.fetch().await.unwrap_err();
        assert_eq!(error.kind, FetchErrorKind::BornExpired);
        assert!(error.detail.contains("60 minutes"), "{error}");
    }

    #[tokio::test]
    async fn a_token_of_the_users_own_is_renewed_at_each_fetch() {
        for own in ["ghp_a", "github_pat_a", "gho_a", "ghu_a", "0123456789abcdef"] {
            let (env, clock) = env(Some(own));
            assert!(!env.is_stopgap(), "{own}");
            clock.advance(MINUTE * 600);
            assert_eq!(env.fetch().await.unwrap().issued, clock.now(), "{own}");
        }
    }

    #[tokio::test]
    async fn no_token_in_the_environment_is_no_failure_of_anything() {
        let (env, _clock) = env(None);
        let error = env.fetch().await.unwrap_err();
        assert_eq!(error.kind, FetchErrorKind::NotConfigured);
        assert!(!env.can_replace_rejected());
    }
}
