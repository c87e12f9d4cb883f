//! The workspace templates in `scripts/templates`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A `template.toml`; its own comments say what the keys mean.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    pub rootfs: String,
    pub packages: Vec<String>,
    pub program: String,
    pub before: String,
    pub entrypoint: Option<String>,
    pub wired: Wired,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wired {
    pub install: String,
    pub start: String,
}

/// A path in the project.
pub fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// All of them, by name.
pub fn templates() -> Vec<(String, Template)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(project("scripts/templates")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name != "shared" {
            let text = fs::read_to_string(path.join("template.toml")).unwrap();
            found.push((name, toml::from_str(&text).unwrap()));
        }
    }
    found
}

/// The words of a line of a Dockerfile in its exec form, or of a shell's `exec`.
pub fn words(line: &str) -> Vec<String> {
    if let Some(list) = line.strip_prefix("ENTRYPOINT ") {
        return serde_json::from_str(list).unwrap();
    }
    let words = line.strip_prefix("exec ").unwrap().split(' ');
    words.map(|word| word.trim_matches('"').to_owned()).collect()
}
