//! What the documents, scripts and comments say of the project's own files is so: each path that
//! they name is there, and the README lists all that a user can meet.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use molecule_tokenfs::cli::Cli;
use molecule_tokenfs::config::Key;
use molecule_tokenfs::error::ReadErrorKind;
use molecule_tokenfs::view;

/// Folders of the project: a word that starts with one of these is a path in it.
const FOLDERS: &[&str] = &["src/", "tests/", "scripts/", "docs/", ".ci/"];

/// Tests of checkers: the paths in them are examples.
const INVENTIVE: &[&str] = &["documents.rs", "architecture.rs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file of the project that speaks about others. [`INVENTIVE`] ones speak of inventions.
fn texts() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if path == root().join(".ci") || !(name.starts_with('.') || name == "target") {
                    folders.push(path);
                }
            } else if !INVENTIVE.contains(&name.as_str()) && fs::read_to_string(&path).is_ok() {
                found.push(path);
            }
        }
    }
    found
}

/// The paths of the project that a text names. A pattern (`tests/*.rs`) counts up to its star.
fn paths(text: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    text.split(|c| !is_part(c))
        .map(|word| word.trim_start_matches("./").trim_end_matches('.'))
        .filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder)))
        .map(str::to_owned)
        .collect()
}

/// The relative targets of Markdown links.
fn links(markdown: &str) -> Vec<String> {
    markdown
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', '#']).next())
        .filter(|target| !target.is_empty() && !target.contains(':'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn each_path_that_a_text_names_exists() {
    let mut missing = Vec::new();
    for file in texts() {
        let text = fs::read_to_string(&file).unwrap();
        for path in paths(&text) {
            if !root().join(&path).exists() {
                missing.push(format!("{}: {path} does not exist", file.display()));
            }
        }
        if file.extension().is_some_and(|extension| extension == "md") {
            for link in links(&text) {
                if !file.parent().unwrap().join(&link).exists() {
                    missing.push(format!("{}: link to {link} leads nowhere", file.display()));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// The names in the first cells of the README's tables: `a`, `b` of the row "| `a`, `b` | …".
fn in_first_cells(readme: &str) -> Vec<String> {
    readme
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .flat_map(|cell| cell.split(", ").map(|name| name.trim_matches('`').to_owned()))
        .collect()
}

#[test]
fn the_readme_lists_every_command_setting_view_and_errno() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let first_cells = in_first_cells(&readme);
    let mut missing = Vec::new();
    let commands = Cli::command();
    let commands = commands.get_subcommands().filter(|command| !command.is_hide_set());
    for command in commands.map(clap::Command::get_name) {
        let listed = |cell: &String| cell.split(' ').next() == Some(command);
        if !first_cells.iter().any(listed) {
            missing.push(format!("command {command}"));
        }
    }
    for key in Key::ALL {
        if !first_cells.iter().any(|cell| cell == key.name()) {
            missing.push(format!("setting {}", key.name()));
        }
        if !readme.contains(&format!("`{}`", key.variable())) {
            missing.push(format!("variable {}", key.variable()));
        }
    }
    for path in view::ALL.iter().map(|view| view.path()) {
        if !first_cells.iter().any(|cell| cell == path) {
            missing.push(format!("view {path}"));
        }
    }
    for errno in ReadErrorKind::ALL.map(ReadErrorKind::errno_name) {
        if !first_cells.iter().any(|cell| cell == errno) {
            missing.push(format!("errno {errno}"));
        }
    }
    assert!(missing.is_empty(), "not in README.md: {}", missing.join(", "));
}

#[test]
fn paths_and_links_are_found_in_a_text() {
    let text = "See `scripts/attic`, ./docs/old.md and tests/*.rs; not http://x/src/y or a/src/z.";
    assert_eq!(paths(text), ["scripts/attic", "docs/old.md", "tests/"]);
    assert_eq!(links("[a](docs/a.md#part) [b](https://example.com) [c](#here)"), ["docs/a.md"]);
}
