//! Tokens that are revoked when the daemon ends in order (`revoke-on-exit`):
//! `DELETE /installation/token` (<https://docs.github.com/en/rest/apps/installations>).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{HEADERS, MEDIA_TYPE, READS};
use crate::secret::Secret;
use crate::source::http::{Http, Method, Question, StatusCode, Turns, Url};
use crate::time::Clock;

/// The longest that it takes for all of them.
const LIMIT: Duration = Duration::from_secs(2);
/// How many are revoked at a time.
const AT_ONCE: usize = 16;

/// A token that somebody may still have.
pub(super) struct Given {
    pub(super) secret: Secret,
    /// When it is dead at the latest (boot clock).
    pub(super) dies: Duration,
    pub(super) http: Http,
    pub(super) url: Url,
}

/// The tokens of an App that are to be revoked.
#[derive(Default)]
pub(super) struct AllGiven(Mutex<Vec<Given>>);

impl AllGiven {
    /// Adds one that is not there yet, and forgets those that have died.
    pub(super) fn add(&self, given: Given) {
        let now = given.http.clock.now().boot;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.dies > now && known.secret != given.secret);
        all.push(given);
    }

    pub(super) fn take(&self) -> Vec<Given> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// Revokes these, in no longer than two seconds; a token that is not revoked then, or cannot be, is told in
/// the log, and lives until it expires.
pub(super) async fn revoke_all(mut given: Vec<Given>, clock: &dyn Clock) {
    let now = clock.now().boot;
    given.retain(|given| given.dies > now);
    if given.is_empty() {
        return;
    }
    let (number, turns) = (given.len(), Arc::new(Semaphore::new(AT_ONCE)));
    let mut tasks = JoinSet::new();
    for given in given {
        let turns = Arc::clone(&turns);
        tasks.spawn(async move {
            let _turn = turns.acquire().await;
            revoke(given).await
        });
    }
    let mut revoked = 0;
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            revoked += usize::from(ended.unwrap_or_default());
        }
    };
    let is_late = tokio::time::timeout(LIMIT, all).await.is_err();
    if revoked == number {
        tracing::info!(revoked, "the tokens were revoked");
    } else {
        let left = number - revoked;
        tracing::warn!(revoked, left, is_late, "not all tokens were revoked: they live on");
    }
}

/// Whether the token is dead now.
async fn revoke(given: Given) -> bool {
    let Given { secret, http, url, .. } = given;
    let source = http.source;
    // Those of the source are for one request at a time.
    let http = Http { turns: Turns::default(), timeout: http.timeout.min(LIMIT), ..http };
    let fingerprint = secret.fingerprint();
    let question = Question {
        method: Method::DELETE,
        url: url.clone(),
        bearer: secret,
        accept: MEDIA_TYPE,
        headers: HEADERS,
        body: None,
        reads: READS,
    };
    let error = match http.ask(question).await {
        // The second: it had died before.
        Ok(answer)
            if matches!(answer.status, StatusCode::NO_CONTENT | StatusCode::UNAUTHORIZED) =>
        {
            return true;
        }
        Ok(answer) => http.refused(&url, &answer),
        Err(error) => error,
    };
    tracing::warn!(source, %fingerprint, detail = error.detail, "a token was not revoked");
    false
}
