//! `metrics.prom`: the same in numbers, as the text format of Prometheus
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>), for a textfile collector or any
//! other reader of files.

use std::fmt::{self, Display, Write};
use std::time::Duration;

use jiff::Timestamp;

use crate::status::counters::{BOUNDS_MS, Counters, HistogramValues};
use crate::status::{ON_DEMAND_SIZE, State, Status, TokenStatus};

/// The size of `metrics.prom` of one token, in bytes: fixed, so that `stat` is right without rendering
/// it.
pub const SIZE: usize = 16 * 1024;

/// The size of `metrics.prom` of so many tokens of the configuration, in bytes, in a mount that makes others
/// on demand or does not.
#[must_use]
pub fn size(tokens: usize, makes_on_demand: bool) -> usize {
    SIZE * tokens.max(1) + if makes_on_demand { ON_DEMAND_SIZE } else { 0 }
}

/// What every name starts with.
const PREFIX: &str = "molecule_tokenfs";

/// The bytes of `metrics.prom`: metrics, spaces, a newline, [`size`] bytes in all. A metric that does
/// not fit is left out as a whole; the less important ones come last. The counters are those of the tokens
/// of the configuration, in the same order. Of the tokens on demand so many are in it as there is room for,
/// each with all that is told of them.
#[must_use]
pub fn padded(status: &Status, counters: &[&Counters]) -> Vec<u8> {
    let size = size(status.configured().len(), status.on_demand.is_some());
    let mut bytes = Vec::with_capacity(size);
    for family in families(status, counters) {
        // Without samples there is nothing to say: a head alone is only noise.
        if !family.samples.is_empty() && bytes.len() + family.len() < size {
            bytes.extend_from_slice(family.head.as_bytes());
            bytes.extend_from_slice(family.samples.as_bytes());
        }
    }
    bytes.resize(size - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// In the order of their importance.
fn families(status: &Status, counters: &[&Counters]) -> Vec<Family> {
    let mut families = Vec::new();
    for (token, counters) in status.configured().iter().zip(counters) {
        add(&mut families, of_a_token(token, counters));
    }
    let (mut room, mut listed) = (ON_DEMAND_SIZE.saturating_sub(HEADS), 0);
    for token in status.on_demand() {
        let its = of_a_token_on_demand(token);
        let length: usize = its.iter().map(|family| family.samples.len()).sum();
        if length > room {
            break;
        }
        room -= length;
        listed += 1;
        add(&mut families, its);
    }
    let mut all = of_the_mount(status, listed);
    all.append(&mut families);
    all
}

/// Room for what is told of the tokens on demand together.
const HEADS: usize = 1024;

/// Adds the samples of a token to those of others: a family is told once, with the samples of all.
fn add(families: &mut Vec<Family>, its: Vec<Family>) {
    for family in its {
        match families.iter_mut().find(|all| all.name == family.name) {
            Some(all) => all.samples.push_str(&family.samples),
            None => families.push(family),
        }
    }
}

fn of_the_mount(status: &Status, listed: usize) -> Vec<Family> {
    let mut info = Family::new("info", Kind::Gauge, "What serves the tokens; always 1.");
    let labels = [
        ("version", &*status.version),
        ("backend", status.backend.name()),
        ("layout", status.layout.name()),
    ];
    info.sample(&labels, 1);
    let mut started =
        Family::new("start_time_seconds", Kind::Gauge, "When the worker started, since the epoch.");
    started.moment(&[], status.started_at);
    let mut kept = Family::new("on_demand_tokens", Kind::Gauge, "Tokens on demand that are kept.");
    let mut told = Family::new(
        "on_demand_tokens_listed",
        Kind::Gauge,
        "Tokens on demand that have series here: those opened last, and only for whoever may read tokens.",
    );
    if let Some(on_demand) = status.on_demand {
        kept.sample(&[], on_demand.kept);
        told.sample(&[], listed);
    }
    vec![info, started, kept, told]
}

/// What is told of a token on demand: few things, since there can be many of them.
fn of_a_token_on_demand(token: &TokenStatus) -> Vec<Family> {
    let streaks = streaks(token, token.failures.iter().map(|failure| &*failure.source));
    vec![
        state(token),
        expiry(token),
        life_left(token),
        generation(token),
        rejected(token),
        attempts(token),
        rotations(token),
        opens(token),
        streaks,
    ]
}

fn of_a_token(token: &TokenStatus, counters: &Counters) -> Vec<Family> {
    let name = name(token);
    let mut refusals = Family::new(
        "refusals_total",
        Kind::Counter,
        "Opens and writes that were refused, by the errno that the caller saw.",
    );
    for (kind, count) in counters.refusals() {
        refusals.sample(&[name, ("errno", kind.errno_name())], count);
    }
    let mut waits = Family::new(
        "open_wait_seconds",
        Kind::Histogram,
        "How long successful opens waited for a token; 0 where it was in hand.",
    );
    waits.histogram(&[name], &counters.opens());
    let mut failures = Family::new(
        "fetch_failures_total",
        Kind::Counter,
        "Fetches that brought no token, by the kind of the failure.",
    );
    let mut durations = Family::new(
        "fetch_duration_seconds",
        Kind::Histogram,
        "How long fetches took, failed ones too.",
    );
    for source in counters.sources() {
        let source_name = ("source", source.name);
        for (kind, count) in source.failures() {
            failures.sample(&[name, source_name, ("kind", kind.name())], count);
        }
        durations.histogram(&[name, source_name], &source.fetches());
    }
    vec![
        state(token),
        expiry(token),
        moment(
            token,
            "token_fetch_time_seconds",
            "When the request was sent that brought the token, since the epoch.",
            token.fetched_at,
        ),
        moment(
            token,
            "next_refresh_time_seconds",
            "When the next attempt is made, since the epoch.",
            token.next_refresh_at,
        ),
        life_left(token),
        generation(token),
        gauge(
            token,
            "min_life_seconds",
            "What a token must have left to be served.",
            Some(token.min_life_seconds),
        ),
        gauge(
            token,
            "clock_skew_seconds",
            "How much the source's clock runs behind the issuer's.",
            Some(token.clock_skew_seconds),
        ),
        rejected(token),
        attempts(token),
        rotations(token),
        opens(token),
        refusals,
        streaks(token, counters.sources().iter().map(|source| source.name)),
        failures,
        waits,
        durations,
    ]
}

// === what is told of every token ===

fn name(token: &TokenStatus) -> (&'static str, &str) {
    ("token", &token.name)
}

fn gauge(token: &TokenStatus, metric: &str, help: &str, value: Option<u64>) -> Family {
    let mut family = Family::new(metric, Kind::Gauge, help);
    if let Some(value) = value {
        family.sample(&[name(token)], value);
    }
    family
}

fn counter(token: &TokenStatus, metric: &str, help: &str, value: u64) -> Family {
    let mut family = Family::new(metric, Kind::Counter, help);
    family.sample(&[name(token)], value);
    family
}

fn moment(token: &TokenStatus, metric: &str, help: &str, value: Option<Timestamp>) -> Family {
    let mut family = Family::new(metric, Kind::Gauge, help);
    family.moment(&[name(token)], value);
    family
}

fn state(token: &TokenStatus) -> Family {
    let help = "How the token stands: 1 for the state it is in.";
    let mut state = Family::new("token_state", Kind::Gauge, help);
    for each in State::ALL {
        state.sample(&[name(token), ("state", each.name())], u64::from(each == token.state));
    }
    state
}

fn expiry(token: &TokenStatus) -> Family {
    let help = "When the token expires, since the epoch; absent where nobody knows.";
    moment(token, "token_expiry_time_seconds", help, token.expires_at)
}

fn life_left(token: &TokenStatus) -> Family {
    let help = "What is left of the token's life.";
    gauge(token, "token_life_left_seconds", help, token.left_seconds)
}

fn generation(token: &TokenStatus) -> Family {
    let help = "The number of the token in this mount.";
    gauge(token, "token_generation", help, token.generation)
}

fn rejected(token: &TokenStatus) -> Family {
    let help = "Whether a consumer said that the newest token was refused.";
    gauge(token, "token_rejected", help, Some(u64::from(is_rejected(token))))
}

fn attempts(token: &TokenStatus) -> Family {
    counter(token, "fetch_attempts_total", "Requests made of any source.", token.attempts)
}

fn rotations(token: &TokenStatus) -> Family {
    counter(token, "rotations_total", "Fetches that brought a new token.", token.fetches)
}

fn opens(token: &TokenStatus) -> Family {
    counter(token, "opens_total", "Opens that were answered with a token.", token.opens)
}

/// The failures in a row of each of these sources.
fn streaks<'a>(token: &TokenStatus, sources: impl Iterator<Item = &'a str>) -> Family {
    let help = "Failures of the source since its last success.";
    let mut streaks = Family::new("source_consecutive_failures", Kind::Gauge, help);
    for source in sources {
        let failing = token.failures.iter().find(|failure| failure.source == source);
        let count = failing.map_or(0, |failure| failure.count);
        streaks.sample(&[name(token), ("source", source)], count);
    }
    streaks
}

fn is_rejected(token: &TokenStatus) -> bool {
    let rejected = token.rejected.as_ref().map(|rejected| &rejected.fingerprint);
    rejected.is_some() && rejected == token.fingerprint.as_ref()
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One metric: its head, and its samples.
struct Family {
    name: String,
    head: String,
    samples: String,
}

impl Family {
    fn new(name: &str, kind: Kind, help: &str) -> Self {
        let name = format!("{PREFIX}_{name}");
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let head = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Self { name, head, samples: String::new() }
    }

    fn len(&self) -> usize {
        self.head.len() + self.samples.len()
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.line("", labels, value);
    }

    fn moment(&mut self, labels: &[(&str, &str)], moment: Option<Timestamp>) {
        if let Some(moment) = moment {
            self.sample(labels, moment.as_second());
        }
    }

    fn histogram(&mut self, labels: &[(&str, &str)], values: &HistogramValues) {
        for (bound, count) in BOUNDS_MS.into_iter().zip(values.cumulative) {
            let bound = Duration::from_millis(bound).as_secs_f64().to_string();
            self.line("_bucket", &[labels, &[("le", &bound)]].concat(), count);
        }
        self.line("_bucket", &[labels, &[("le", "+Inf")]].concat(), values.count);
        self.line("_sum", labels, values.sum.as_secs_f64());
        self.line("_count", labels, values.count);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        // Writing into a string cannot fail.
        let _ = writeln!(self.samples, "{}{suffix}{} {value}", self.name, Labels(labels));
    }
}

/// `{name="value",…}`, or nothing where there are none.
struct Labels<'a>(&'a [(&'a str, &'a str)]);

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (name, value)) in self.0.iter().enumerate() {
            let value = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            write!(f, "{}{name}=\"{value}\"", if n == 0 { '{' } else { ',' })?;
        }
        f.write_str(if self.0.is_empty() { "" } else { "}" })
    }
}

#[cfg(test)]
mod tests;
