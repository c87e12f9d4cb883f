//! SEMANTICS says of each kernel what `scripts/evidence kernels` measured on it.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON without a key is null, and a test fails by panicking"
)]

use std::fs;

use serde_json::{Map, Value};

use super::{evidence, grouped, root, word};

/// "2 open ESTALE, 5 read ESTALE".
fn told(errors: &Map<String, Value>) -> String {
    let errors = errors.iter().map(|(error, times)| format!("{} {error}", grouped(times)));
    let errors = errors.collect::<Vec<_>>().join(", ");
    if errors.is_empty() { "none".to_owned() } else { errors }
}

/// A row for each series of deaths: all its scenes together.
fn row_of_deaths(release: &str, series: &str, scenes: &Map<String, Value>) -> String {
    let sum = |key: fn(&Value) -> &Value| {
        grouped(&Value::from(scenes.values().filter_map(|scene| key(scene).as_u64()).sum::<u64>()))
    };
    let mut errors = Map::new();
    for scene in scenes.values() {
        for (error, times) in scene["all"]["errors"].as_object().unwrap() {
            let before = errors.get(error).and_then(Value::as_u64).unwrap_or_default();
            errors.insert(error.clone(), Value::from(before + times.as_u64().unwrap()));
        }
    }
    let cells = [
        release.to_owned(),
        series.to_owned(),
        sum(|scene| &scene["deaths"]),
        sum(|scene| &scene["all"]["opens"]),
        told(&errors),
        sum(|scene| &scene["all"]["wrong_sizes"]),
    ];
    format!("| {} |", cells.join(" | "))
}

/// A row for each kernel: what a watcher was told, and the sentences of this document.
fn row_of_sentences(release: &str, figures: &Value) -> String {
    let (watchers, semantics) = (&figures["watchers"], &figures["semantics"]);
    let untrue = semantics["untrue"].as_array().unwrap().iter();
    let untrue = untrue.map(|untrue| format!("\"{}\"", word(&untrue["sentence"])));
    let untrue = untrue.collect::<Vec<_>>().join(", ");
    let cells = [
        release.to_owned(),
        format!("{} of {}", grouped(&watchers["told"]), grouped(&watchers["rotations"])),
        grouped(&semantics["checked"]),
        if untrue.is_empty() { "all".to_owned() } else { format!("all but {untrue}") },
    ];
    format!("| {} |", cells.join(" | "))
}

#[test]
fn semantics_says_what_was_measured_of_each_kernel() {
    let text = fs::read_to_string(root().join("docs/SEMANTICS.md")).unwrap();
    let figures = evidence("kernels.json");
    let kernels = figures.as_object().unwrap();
    assert!(kernels.len() >= 4);
    let mut rows = Vec::new();
    for figures in kernels.values() {
        let release = word(&figures["release"]);
        for (series, scenes) in figures["scenes"].as_object().unwrap() {
            rows.push(row_of_deaths(release, series, scenes.as_object().unwrap()));
        }
        rows.push(row_of_sentences(release, figures));
    }
    let missing = rows.iter().filter(|row| !text.contains(*row)).cloned().collect::<Vec<_>>();
    assert!(missing.is_empty(), "not in SEMANTICS.md:\n{}", missing.join("\n"));
}
