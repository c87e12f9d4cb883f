//! How many tokens an App mints: GitHub limits it for all of them together, so they share what is left.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the budget counts over.
const WINDOW: Duration = Duration::from_mins(1);

/// The budgets of a process, one for each App.
#[derive(Debug, Default)]
pub struct Budgets(Mutex<HashMap<String, Arc<Budget>>>);

impl Budgets {
    /// That of the App, which its API and its id tell apart from others.
    #[must_use]
    pub fn of(&self, app: &str) -> Arc<Budget> {
        let mut budgets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(budgets.entry(app.to_owned()).or_default())
    }
}

/// What one App may still ask for.
#[derive(Debug, Default)]
pub struct Budget(Mutex<Spent>);

#[derive(Debug, Default)]
struct Spent {
    /// When tokens were minted in the last minute (boot clock).
    mints: VecDeque<Duration>,
    /// GitHub wants to be left alone until then (boot clock).
    not_before: Duration,
}

impl Budget {
    fn spent(&self) -> MutexGuard<'_, Spent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave to mint one more, of `most` a minute; else how long to wait for it.
    pub(super) fn take(&self, most: usize, now: Duration) -> Result<(), Duration> {
        let mut spent = self.spent();
        if now < spent.not_before {
            return Err(spent.not_before.saturating_sub(now));
        }
        while spent.mints.front().is_some_and(|at| now.saturating_sub(*at) >= WINDOW) {
            spent.mints.pop_front();
        }
        if spent.mints.len() >= most.max(1) {
            let oldest = spent.mints.front().copied().unwrap_or(now);
            return Err(oldest.saturating_add(WINDOW).saturating_sub(now));
        }
        spent.mints.push_back(now);
        Ok(())
    }

    /// GitHub asked one of the App's tokens to wait; that holds for all.
    pub(super) fn leave_alone(&self, until: Duration) {
        let mut spent = self.spent();
        spent.not_before = spent.not_before.max(until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_app_mints_no_more_than_its_budget_in_any_minute() {
        let budgets = Budgets::default();
        let (one, same, other) = (budgets.of("a"), budgets.of("a"), budgets.of("b"));
        assert_eq!(one.take(2, SECOND * 100), Ok(()));
        assert_eq!(same.take(2, SECOND * 110), Ok(()));
        assert_eq!(one.take(2, SECOND * 120), Err(SECOND * 40), "until the first is a minute old");
        assert_eq!(other.take(2, SECOND * 120), Ok(()));
        assert_eq!(one.take(2, SECOND * 160), Ok(()));
        assert_eq!(one.take(2, SECOND * 161), Err(SECOND * 9));
    }

    #[test]
    fn a_wish_of_githubs_holds_for_all_tokens_of_the_app() {
        let budgets = Budgets::default();
        budgets.of("a").leave_alone(SECOND * 50);
        budgets.of("a").leave_alone(SECOND * 40);
        assert_eq!(budgets.of("a").take(10, SECOND * 30), Err(SECOND * 20));
        assert_eq!(budgets.of("a").take(10, SECOND * 50), Ok(()));
        assert_eq!(budgets.of("b").take(10, SECOND * 30), Ok(()));
    }
}
