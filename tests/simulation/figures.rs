//! What the histories were made of.

use std::collections::BTreeMap;
use std::time::Duration;

/// Counts, summed over histories.
#[derive(Debug, Default)]
pub struct Figures {
    pub histories: u64,
    pub time: Duration,
    pub opens: u64,
    pub served: u64,
    /// Served at once, without an await.
    pub at_once: u64,
    pub refused: BTreeMap<&'static str, u64>,
    pub vanished: u64,
    pub requests: u64,
    pub answers: u64,
    pub failures: BTreeMap<&'static str, u64>,
    /// Suspends, clock settings and so on.
    pub events: BTreeMap<&'static str, u64>,
    /// Served tokens held against the ledger, and those outside the promise: of the environment, or
    /// where neither clock was right or the platform's error could not be known yet.
    pub judged: u64,
    pub unjudged: u64,
}

impl Figures {
    pub fn event(&mut self, name: &'static str) {
        *self.events.entry(name).or_default() += 1;
    }

    pub fn add(&mut self, other: Self) {
        self.histories += other.histories;
        self.time += other.time;
        self.opens += other.opens;
        self.served += other.served;
        self.at_once += other.at_once;
        self.vanished += other.vanished;
        self.requests += other.requests;
        self.answers += other.answers;
        self.judged += other.judged;
        self.unjudged += other.unjudged;
        for (mine, other) in [
            (&mut self.refused, other.refused),
            (&mut self.failures, other.failures),
            (&mut self.events, other.events),
        ] {
            for (name, count) in other {
                *mine.entry(name).or_default() += count;
            }
        }
    }

    pub fn json(&self, violations: &[u64]) -> serde_json::Value {
        serde_json::json!({
            "histories": self.histories,
            "violations": violations.len(),
            "failing_seeds": violations,
            "simulated_days": self.time.as_secs() / 86400,
            "opens": self.opens,
            "served": self.served,
            "served_at_once": self.at_once,
            "refused": self.refused,
            "vanished": self.vanished,
            "judged_by_the_issuers_clock": self.judged,
            "not_judged_environment_or_no_right_clock": self.unjudged,
            "requests": self.requests,
            "tokens": self.answers,
            "failed_requests": self.failures,
            "events": self.events,
        })
    }
}
