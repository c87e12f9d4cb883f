//! What the tokens of one App share in a process: its budget, the numbers of its installations, and the
//! tokens themselves, where they are for the same.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;

use super::budget::{Awaited, Budget};
use super::config::GithubAppConfig;
use super::revoke::{AllGiven, revoke_all};
use crate::error::FetchError;
use crate::source::Fetched;
use crate::time::{Clock, Now};
use crate::token::Term;

/// The GitHub Apps that a process mints for.
#[derive(Default)]
pub struct Apps(Mutex<HashMap<String, Arc<App>>>);

impl Apps {
    /// The App of a source, which its API and its id tell apart from others.
    pub(super) fn of(&self, config: &GithubAppConfig) -> Arc<App> {
        let name = format!("{} {}", config.api_url, config.app);
        let mut apps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(apps.entry(name).or_default())
    }

    fn all(&self) -> Vec<Arc<App>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Whether there is anything to revoke.
    #[must_use]
    pub fn have_to_revoke(&self) -> bool {
        self.all().iter().any(|app| !app.given.is_empty())
    }

    /// Revokes what was minted by sources with `revoke-on-exit`, and mints nothing any more. It takes no
    /// longer than two seconds.
    pub async fn revoke(&self, clock: &dyn Clock) {
        let mut given = Vec::new();
        for app in self.all() {
            app.budget.leave_alone(Duration::MAX);
            given.append(&mut app.given.take());
        }
        revoke_all(given, clock).await;
    }
}

/// One App.
#[derive(Default)]
pub(super) struct App {
    pub(super) budget: Budget,
    pub(super) given: AllGiven,
    installations: Shelf<String, Number>,
    minted: Shelf<Scope, Minted>,
}

impl App {
    /// The number of the installation of a source.
    pub(super) fn installation(&self, config: &GithubAppConfig) -> Arc<Number> {
        self.installations.get(config.installation.to_string().to_lowercase())
    }

    /// The tokens of an installation for what a source asks for.
    pub(super) fn minted(&self, installation: u64, config: &GithubAppConfig) -> Arc<Minted> {
        let mut repositories: Vec<_> =
            config.repositories.iter().map(|name| name.to_lowercase()).collect();
        repositories.sort_unstable();
        repositories.dedup();
        let permissions = config.permissions.clone();
        self.minted.get(Scope { installation, repositories, permissions })
    }
}

/// What tokens are for.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Scope {
    installation: u64,
    /// In order, none twice. One alone, as tokens on demand have it, takes a tenth of what it takes in a set.
    repositories: Vec<String>,
    permissions: BTreeMap<String, String>,
}

/// Values for as long as somebody has one.
struct Shelf<K, V>(Mutex<HashMap<K, Weak<V>>>);

impl<K, V> Default for Shelf<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V: Default> Shelf<K, V> {
    fn get(&self, key: K) -> Arc<V> {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = values.get(&key).and_then(Weak::upgrade) {
            return value;
        }
        values.retain(|_, value| value.strong_count() > 0);
        let value = Arc::default();
        values.insert(key, Arc::downgrade(&value));
        value
    }
}

/// The number of an installation; 0 while it is not known. Whoever finds it holds the lock.
#[derive(Debug, Default)]
pub(super) struct Number(pub(super) AsyncMutex<u64>);

impl Number {
    /// Forgets a number that GitHub no longer knows.
    pub(super) async fn forget(&self, gone: u64) {
        let mut number = self.0.lock().await;
        if *number == gone {
            *number = 0;
        }
    }
}

/// The tokens for one scope: a new one is minted only for somebody who has had the newest.
#[derive(Debug, Default)]
pub(super) struct Minted {
    /// A reader waits for the one that is being minted.
    pub(super) awaited: Awaited,
    /// Attempts that have ended.
    ended: AtomicU64,
    /// Whoever mints holds the lock.
    pub(super) last: AsyncMutex<Last>,
}

impl Minted {
    /// How many attempts have ended.
    pub(super) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Keeps what came of an attempt.
    pub(super) fn keep(&self, last: &mut Last, outcome: &Result<Fetched, FetchError>) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(fetched) => {
                *last =
                    Last { number: last.number + 1, token: Some(fetched.clone()), failure: None };
            }
            Err(error) => last.failure = Some(error.clone()),
        }
    }
}

/// What the last attempts brought.
#[derive(Debug, Default)]
pub(super) struct Last {
    /// Counts the tokens.
    pub(super) number: u64,
    token: Option<Fetched>,
    /// Why the last attempt brought none.
    pub(super) failure: Option<FetchError>,
}

impl Last {
    /// The newest token for somebody who has had that of number `had`, as if it were asked for now. One with
    /// less than half of its life left is not worth it: a minimum life can be half of the life.
    pub(super) fn newer_than(&self, had: u64, now: &Now) -> Option<Fetched> {
        let token = self.token.as_ref().filter(|_| self.number != had)?;
        let Term::Until { expires_at, server } = token.term else { return None };
        let age = now.elapsed_since(&token.issued);
        let life = expires_at.saturating_sub(server.unwrap_or(token.issued.wall));
        let later = |time: Duration| time.saturating_add(age);
        let term = Term::Until { expires_at, server: server.map(later) };
        (age <= life / 2).then(|| Fetched { secret: token.secret.clone(), issued: *now, term })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    const MINUTE: Duration = Duration::from_mins(1);

    fn token(now: Now) -> Fetched {
        let secret = Secret::new(b"ghs_a".to_vec()).unwrap();
        let server = now.wall + MINUTE * 7;
        let term = Term::Until { expires_at: server + MINUTE * 60, server: Some(server) };
        Fetched { secret, issued: now, term }
    }

    #[test]
    fn a_token_is_given_to_whoever_has_not_had_it_with_the_life_that_is_left() {
        let (minted, start) = (Minted::default(), Now::default().plus(MINUTE * 1000));
        let mut last = Last::default();
        assert_eq!(last.newer_than(0, &start), None);
        minted.keep(&mut last, &Ok(token(start)));
        assert_eq!(last.newer_than(1, &start), None, "it was had");
        let now = start.plus(MINUTE * 20);
        let given = last.newer_than(0, &now).unwrap();
        let Term::Until { expires_at, server: Some(server) } = given.term else { panic!() };
        assert_eq!((given.issued, expires_at), (now, server + MINUTE * 40));
        assert_eq!(last.newer_than(0, &start.plus(MINUTE * 31)), None, "most of it is over");
        minted.keep(&mut last, &Ok(token(now)));
        assert!(last.newer_than(1, &now).is_some());
        assert_eq!(minted.ended(), 2);
    }

    #[test]
    fn what_nobody_has_any_more_is_not_kept() {
        let shelf = Shelf::<u64, Number>::default();
        let kept = shelf.get(0);
        for key in 1..100 {
            drop(shelf.get(key));
        }
        assert!(Arc::ptr_eq(&kept, &shelf.get(0)));
        assert!(shelf.0.lock().unwrap().len() <= 2);
    }
}
