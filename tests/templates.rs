//! The eight workspace templates: two wired lines each, which the program understands and the documents
//! show as they are.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/template.rs"]
mod template;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::Parser as _;
use molecule_tokenfs::cli::{Cli, Command};
use template::{Wired, project, templates, words};

#[test]
fn there_are_eight_and_each_is_told_how_it_starts() {
    let names: BTreeSet<_> = templates().into_iter().map(|(name, _)| name).collect();
    let expected = [
        "autogen",
        "claude-code",
        "crewai",
        "deepagents",
        "gemini-cli",
        "hermes",
        "langgraph",
        "openclaw",
    ];
    assert_eq!(names, expected.map(str::to_owned).into());
    let rootfs = fs::read_to_string(project("scripts/rootfs")).unwrap();
    for (name, template) in templates() {
        let recipe = format!("        {})\n", template.rootfs);
        let packages = rootfs.split(&recipe).nth(1).unwrap().split(')').next().unwrap();
        let packages: Vec<_> = packages.split(['(', ' ']).collect();
        for package in &template.packages {
            assert!(packages.contains(&package.as_str()), "{name}: {package} is not in the rootfs");
        }
        let stand_in = Path::new("scripts/templates/shared").join(&template.program);
        assert!(project(stand_in.to_str().unwrap()).is_file(), "{name}");
    }
}

#[test]
fn the_wired_line_starts_what_the_image_started_as_its_user() {
    for (name, template) in templates() {
        assert_eq!(template.wired.install, "RUN pip install molecule-tokenfs", "{name}");
        let before = words(&template.before);
        let before =
            before.strip_prefix(&["gosu".to_owned(), "agent".to_owned()]).unwrap_or(&before);
        let wired = words(&template.wired.start);
        assert!(wired.ends_with(before), "{name}: {wired:?} does not start {before:?}");
        assert!(wired.join(" ").contains(" run --user agent -- "), "{name}");
        let parsed = Cli::try_parse_from(&wired).unwrap();
        assert!(matches!(parsed.command, Command::Run(_)), "{name}");
        if let Some(script) = template.entrypoint {
            let script = project("scripts/templates").join(&name).join(script);
            let script = fs::read_to_string(script).unwrap();
            let lines = script.lines().map(str::trim);
            assert_eq!(lines.filter(|line| *line == template.wired.start).count(), 1, "{name}");
        }
    }
}

#[test]
fn the_documents_show_the_lines_that_are_in_the_files() {
    let document = fs::read_to_string(project("docs/CONTAINERS.md")).unwrap();
    for (name, template) in templates() {
        let row = document.lines().find(|line| {
            line.strip_prefix("| ")
                .and_then(|row| row.split(" | ").next())
                .is_some_and(|cell| cell.split(", ").any(|shown| shown.trim_matches('`') == name))
        });
        let row = row.unwrap_or_else(|| panic!("docs/CONTAINERS.md has no row for {name}"));
        let Wired { install, start } = template.wired;
        for line in [install, start] {
            assert!(row.contains(&format!("`{line}`")), "docs/CONTAINERS.md, {name}: {line}");
        }
    }
}
