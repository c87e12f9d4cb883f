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
mod tests {
    use std::collections::{BTreeMap, HashMap, HashSet};
    use std::sync::Arc;

    use super::*;
    use crate::error::{FetchError, FetchErrorKind, ReadErrorKind};
    use crate::source::{BoxFuture, Fetched, Source};
    use crate::status::testing::{CANARY, Scene, failing, many_on_demand};
    use crate::time::SystemClock;

    struct Down;

    impl Source for Down {
        fn name(&self) -> &'static str {
            "platform"
        }

        fn fetch(&self) -> BoxFuture<'_, Result<Fetched, FetchError>> {
            Box::pin(async { Err(FetchError::new("platform", FetchErrorKind::ServerError, "")) })
        }
    }

    /// A token at hand, a source that fails, a refusal.
    async fn busy() -> Scene {
        let mut scene = Scene::fresh();
        scene.snapshot.failures = vec![failing("platform", FetchErrorKind::ServerError)];
        scene.counters.refused(ReadErrorKind::TimedOut);
        let source = scene.counters.metered(Arc::new(Down), Arc::new(SystemClock));
        source.fetch().await.unwrap_err();
        scene
    }

    fn text(scene: &Scene) -> String {
        let bytes = padded(&scene.document(), &[&scene.counters]);
        assert_eq!(bytes.len(), SIZE);
        assert_eq!(bytes.last(), Some(&b'\n'));
        String::from_utf8(bytes).unwrap()
    }

    type Labelled = BTreeMap<String, String>;

    #[derive(Debug, Default)]
    struct Read {
        kind: String,
        samples: Vec<(String, Labelled, String)>,
    }

    /// A strict reader of the format: every sample belongs to the head before it, heads come in
    /// pairs and once, and counters are named as such.
    fn read(text: &str) -> HashMap<String, Read> {
        let mut families: HashMap<String, Read> = HashMap::new();
        let mut current = String::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, sentence) = help.split_once(' ').unwrap();
                assert!(sentence.ends_with('.'), "{line}");
                assert!(families.insert(name.to_owned(), Read::default()).is_none(), "{line}");
                name.clone_into(&mut current);
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!((name, name.ends_with("_total")), (&*current, kind == "counter"));
                kind.clone_into(&mut families.get_mut(name).unwrap().kind);
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                let labels = read_labels(labels.strip_suffix('}').unwrap());
                let family = families.get_mut(&current).unwrap();
                let suffix = name.strip_prefix(&*current).unwrap();
                let suffixes: &[&str] =
                    if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                assert!(suffixes.contains(&suffix), "{line}");
                value.parse::<f64>().unwrap();
                family.samples.push((suffix.to_owned(), labels, value.to_owned()));
            }
        }
        families
    }

    fn read_labels(text: &str) -> Labelled {
        let mut labels = Labelled::new();
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap();
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{pair}");
            let value = value.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
            assert!(labels.insert(name.to_owned(), value.to_owned()).is_none(), "{pair}");
        }
        labels
    }

    #[tokio::test]
    async fn every_metric_can_be_parsed_and_no_series_comes_twice() {
        let families = read(&text(&busy().await));
        assert!(families.len() > 15);
        for (name, family) in &families {
            assert!(name.starts_with(PREFIX) && !family.samples.is_empty(), "{name}");
            let series: HashSet<_> =
                family.samples.iter().map(|(suffix, labels, _)| (suffix, labels)).collect();
            assert_eq!(series.len(), family.samples.len(), "{name}");
        }
    }

    #[tokio::test]
    async fn histograms_are_cumulative_and_end_with_their_count() {
        let families = read(&text(&busy().await));
        let histograms: Vec<_> = families.values().filter(|f| f.kind == "histogram").collect();
        assert_eq!(histograms.len(), 2);
        for family in histograms {
            let mut buckets = family.samples.iter().filter(|(suffix, ..)| suffix == "_bucket");
            let mut last = (f64::NEG_INFINITY, 0);
            for (_, labels, count) in buckets.by_ref() {
                let (bound, count) = (labels["le"].parse().unwrap(), count.parse().unwrap());
                assert!(bound > last.0 && count >= last.1, "{family:?}");
                last = (bound, count);
            }
            let count = family.samples.iter().find(|(suffix, ..)| suffix == "_count").unwrap();
            assert_eq!((last.0.is_infinite(), last.1.to_string()), (true, count.2.clone()));
            assert!(last.1 > 0);
        }
    }

    #[tokio::test]
    async fn the_numbers_are_those_of_the_document() {
        let scene = busy().await;
        let families = read(&text(&scene));
        let value = |name: &str, label: Option<(&str, &str)>| {
            let family = &families[&format!("{PREFIX}_{name}")];
            let matches = |labels: &Labelled| label.is_none_or(|(key, of)| labels[key] == of);
            family.samples.iter().find(|(_, labels, _)| matches(labels)).unwrap().2.clone()
        };
        assert_eq!(value("token_state", Some(("state", "degraded"))), "1");
        assert_eq!(value("token_state", Some(("state", "fresh"))), "0");
        assert_eq!(value("token_life_left_seconds", None), "2580");
        assert_eq!(value("opens_total", None), "2");
        assert_eq!(value("refusals_total", Some(("errno", "ETIMEDOUT"))), "1");
        assert_eq!(value("refusals_total", Some(("errno", "EROFS"))), "0");
        assert_eq!(value("source_consecutive_failures", Some(("source", "platform"))), "7");
        assert_eq!(value("fetch_failures_total", Some(("kind", "server_error"))), "1");
    }

    #[tokio::test]
    async fn however_many_tokens_there_are_no_family_is_left_out() {
        let scene = busy().await;
        let heads = |text: &str| text.matches("# HELP ").count();
        let mut status = scene.document();
        let one = String::from_utf8(padded(&status, &[&scene.counters])).unwrap();
        for _ in 1..40 {
            status.add(scene.document());
        }
        let all = String::from_utf8(padded(&status, &[&scene.counters; 40])).unwrap();
        assert_eq!((all.len(), heads(&all)), (40 * SIZE, heads(&one)));
    }

    #[tokio::test]
    async fn tokens_on_demand_are_counted_and_as_many_listed_as_there_is_room_for() {
        let scene = busy().await;
        let mut status = scene.document();
        let alone = String::from_utf8(padded(&status, &[&scene.counters])).unwrap();
        assert!(!alone.contains("on_demand"), "none where the mount makes none");
        let named = alone.trim_end().lines().filter(|line| !line.starts_with('#'));
        for (kept, least) in [(0, 0), (200, 200), (256, 200)] {
            let mut tokens = many_on_demand(kept, &Scene::failing(FetchErrorKind::NotInstalled));
            if let Some(token) = tokens.first_mut() {
                token.name = "orgs/acme".to_owned();
            }
            status.on_demand = None;
            status.tokens.truncate(1);
            status.add_on_demand(kept, tokens);
            let bytes = padded(&status, &[&scene.counters]);
            assert_eq!(bytes.len(), SIZE + ON_DEMAND_SIZE);
            let text = String::from_utf8(bytes).unwrap();
            for line in named.clone() {
                assert!(text.contains(line), "they take no room from the others: {line}");
            }
            let families = read(&text);
            let value = |name: &str| {
                let samples = &families[&format!("{PREFIX}_{name}")].samples;
                samples[0].2.parse::<usize>().unwrap()
            };
            let listed = value("on_demand_tokens_listed");
            assert_eq!(value("on_demand_tokens"), kept);
            assert!((least..=kept).contains(&listed), "{listed}");
            let of = |family: &str, token: &str| {
                let samples = &families[&format!("{PREFIX}_{family}")].samples;
                samples.iter().filter(|(_, labels, _)| labels["token"].starts_with(token)).count()
            };
            assert_eq!(of("token_state", "repos/") + of("token_state", "orgs/"), 4 * listed);
            assert_eq!(of("source_consecutive_failures", "orgs/acme"), usize::from(kept > 0) * 2);
            assert_eq!(of("refusals_total", "repos/"), 0, "few things of each");
        }
    }

    #[test]
    fn what_nobody_knows_is_absent() {
        let text = text(&Scene::idle());
        for name in ["expiry_time", "life_left", "generation", "next_refresh", "fetch_failures"] {
            assert!(!text.contains(name), "{name}");
        }
    }

    #[test]
    fn a_metric_that_does_not_fit_is_left_out_whole() {
        let mut scene = Scene::fresh();
        scene.identity.name = "n".repeat(500);
        let families = read(&text(&scene));
        assert!(families.contains_key("molecule_tokenfs_token_state"));
        assert!(families.values().all(|family| !family.samples.is_empty()));
        assert!(!families.contains_key("molecule_tokenfs_open_wait_seconds"));
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(Labels(&[("a", "\"\\\n"), ("b", "")]).to_string(), r#"{a="\"\\\n",b=""}"#);
        assert_eq!(Labels(&[]).to_string(), "");
    }

    #[tokio::test]
    async fn no_token_is_in_it() {
        assert!(!text(&busy().await).contains(CANARY));
    }
}
