//! docs/SECURITY.md: no row without a word in each cell, and none without a test that is there.

use std::fs;

use crate::root;

/// What a row of docs/SECURITY.md says, cell by cell.
const COLUMNS: [&str; 6] =
    ["who", "wants", "by which way", "what stops it", "test", "what remains"];

/// The cells of each row of the tables in a text; headings and their rules are none.
fn rows(markdown: &str) -> Vec<Vec<&str>> {
    let rows = markdown.lines().filter(|line| line.starts_with('|') && !line.starts_with("|--"));
    let rows = rows.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect());
    rows.filter(|row: &Vec<_>| row != &COLUMNS).collect()
}

/// Whether a file of Rust holds a test of this name that is not left out: a function with the attribute,
/// or a section of tests/semantics.
fn has_test(rust: &str, name: &str) -> bool {
    let lines: Vec<_> = rust.lines().map(str::trim).collect();
    let is_test = |(number, line): (usize, &&str)| {
        let line = line.trim_start_matches("async ");
        let ends = |line: &str| line.is_empty() || line.ends_with(['{', '}', ';']);
        let above = lines.iter().take(number).rev().take_while(|line| !ends(line));
        let above: Vec<_> = above.collect();
        let has = |start: &str| above.iter().any(|line| line.starts_with(start));
        line.starts_with(&format!("fn {name}("))
            && (has("#[test]") || has("#[tokio::test"))
            && !has("#[ignore")
    };
    let sections = lines.iter().skip_while(|line| **line != "sections! {").skip(1);
    let mut sections = sections.take_while(|line| **line != "}");
    lines.iter().enumerate().any(is_test)
        || sections.any(|line| line.starts_with(&format!("{name}: \"")))
}

/// What is wrong with a row: a cell that is missing or empty, or a test that is not there.
fn faults(row: &[&str]) -> Vec<String> {
    let [_, _, _, _, tests, _] = row else { return vec![format!("{} cells", row.len())] };
    let empty = COLUMNS.iter().zip(row).filter(|(_, cell)| cell.is_empty());
    let empty = empty.map(|(column, _)| format!("nothing under `{column}`"));
    let missing = tests.split(", ").filter_map(|cell| {
        let named = cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`'));
        let (file, name) = named.and_then(|named| named.split_once(": ")).unwrap_or_default();
        let rust = fs::read_to_string(root().join(file)).unwrap_or_default();
        (!has_test(&rust, name)).then(|| format!("there is no test {cell}"))
    });
    empty.chain(missing).collect()
}

#[test]
fn each_row_of_security_is_full_and_names_tests_that_are_there() {
    let text = fs::read_to_string(root().join("docs/SECURITY.md")).unwrap();
    let rows = rows(&text);
    let told = |row: &Vec<&str>| {
        let faults = faults(row);
        (!faults.is_empty()).then(|| format!("{}: {}", row.join(" | "), faults.join(", ")))
    };
    let wrong: Vec<_> = rows.iter().filter_map(told).collect();
    assert!(rows.len() > 50 && wrong.is_empty(), "in SECURITY.md: {wrong:#?}");
}

#[test]
fn a_row_without_a_test_or_a_word_is_found() {
    let [test, section] =
        ["tests/gate.rs: strict_allows_nothing_to_be_left_out", "tests/semantics/main.rs: who"];
    let row = format!("| a | b | c | d | `{test}`, `{section}` | e |");
    let table = format!("| {} |\n|---|---|\n{row}\n", COLUMNS.join(" | "));
    assert_eq!(rows(&table).len(), 1);
    let faults_of = |row: &str| rows(row).iter().flat_map(|row| faults(row)).collect::<Vec<_>>();
    assert_eq!(faults_of(&table), [""; 0]);
    assert_eq!(faults_of(&row.replace(" b ", "  ")), ["nothing under `wants`"]);
    assert_eq!(faults_of("| a | b |"), ["2 cells"]);
    for other in [
        "",
        "tests/gate.rs",
        "`tests/gate.rs: strict`",
        "`gone.rs: strict_allows_nothing_to_be_left_out`",
        "`tests/support/namespace.rs: sandboxed`",
        "`tests/outside/bound.rs: a_file_bound_into_a_container_without_capabilities_stays_fresh`",
        "`tests/semantics/main.rs: whoever`",
    ] {
        let faults = faults_of(&format!("| a | b | c | d | {other} | e |"));
        assert!(faults.contains(&format!("there is no test {other}")), "{other}: {faults:?}");
    }
}
