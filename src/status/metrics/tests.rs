//! What `metrics.prom` says, and what of it fits.

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
