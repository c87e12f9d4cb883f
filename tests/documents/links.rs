//! Links of Markdown files lead to files and headings that are there, also in packages.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::root;

/// The relative targets of Markdown links: the path, empty for the text itself, and the heading.
fn links(markdown: &str) -> Vec<(String, String)> {
    let targets = markdown.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let targets = targets.filter(|target| !target.is_empty() && !target.contains(':'));
    let split = |target: &str| {
        let (path, heading) = target.split_once('#').unwrap_or((target, ""));
        (path.to_owned(), heading.to_owned())
    };
    targets.map(split).collect()
}

/// What links call the headings of a text, as GitHub makes it of their words.
fn headings(markdown: &str) -> Vec<String> {
    let mut is_code = false;
    let lines = markdown.lines().filter(|line| {
        is_code ^= line.starts_with("```");
        !is_code && line.starts_with('#')
    });
    let word = |c: char| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        c => c.is_alphanumeric().then(|| c.to_ascii_lowercase()),
    };
    lines
        .map(|line| line.trim_start_matches('#').trim().chars().filter_map(word).collect())
        .collect()
}

/// The links of a Markdown file that lead nowhere.
pub(crate) fn broken(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let leads = |(path, heading): &(String, String)| {
        let target =
            if path.is_empty() { file.to_owned() } else { file.parent().unwrap().join(path) };
        let has_heading = |text: String| headings(&text).contains(heading);
        target.exists()
            && (heading.is_empty() || fs::read_to_string(&target).is_ok_and(has_heading))
    };
    let broken = links(&text).into_iter().filter(|link| !leads(link));
    broken.map(|(path, heading)| format!("{}: link to {path}#{heading}", file.display())).collect()
}

#[test]
fn links_work_in_packages_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut script = Command::new(root().join("scripts/package"));
    assert!(script.arg("documents").arg(folder.path()).status().unwrap().success());
    let readme = folder.path().join("README.md");
    let mut wrong = broken(&readme);
    let mut pages = links(&fs::read_to_string(&readme).unwrap());
    pages.retain(|(path, _)| Path::new(path).extension().is_some_and(|kind| kind == "md"));
    assert!(pages.len() > 5, "{pages:?}");
    for (path, _) in pages {
        wrong.extend(broken(&folder.path().join(path)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn links_and_headings_are_found_in_a_text() {
    let found = links("[a](docs/a.md#part) [b](https://example.com) [c](#here)");
    let pair = |path: &str, heading: &str| (path.to_owned(), heading.to_owned());
    assert_eq!(found, [pair("docs/a.md", "part"), pair("", "here")]);
    assert_eq!(headings("# A\n## `b_c`: d, e\n```\n# no\n```\n"), ["a", "b_c-d-e"]);
}
