//! The house rules that a compiler does not know: which module may use which, and which crates and
//! keywords belong to which files. The floors are read from the map in `src/lib.rs`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Each top module and its floor.
type Floors = BTreeMap<String, u8>;

/// A crate that only some files may name. A path that ends in `/` stands for all below it.
struct Reserved {
    name: &'static str,
    places: &'static [&'static str],
    why: &'static str,
}

const RESERVED: &[Reserved] = &[
    Reserved {
        name: "fuser",
        places: &["src/fs/fuse.rs", "src/fs/fuse/", "src/connection/worker.rs"],
        why: "the rest of the filesystem is tested without a kernel",
    },
    Reserved { name: "reqwest", places: &["src/source/"], why: "only sources talk to a network" },
    Reserved {
        name: "unsafe",
        places: UNSAFE_FILES,
        why: "unsafe code stays in the few files that make system calls",
    },
];

/// The files that may hold `unsafe`: each for the system calls that it wraps, one for the allocator.
const UNSAFE_FILES: &[&str] = &[
    "src/secret/wiping.rs",
    "src/cmd/run/real_time.rs",
    "src/cmd/run/typing.rs",
    "src/refresh/timer.rs",
    "src/foreign/watched.rs",
    "src/fs/generations/mapping.rs",
    "src/connection/resident.rs",
    "src/connection/rotation.rs",
    "src/program.rs",
    "src/connection/worker.rs",
];

/// Crates that belong to some floors only: name, lowest floor, reason.
const LOWEST_FLOOR: &[(&str, u8, &str)] = &[
    ("anyhow", 5, "below floor 5 errors are typed"),
    ("tokio", 1, "the domain does no I/O"),
    ("clap", 5, "only the command line parses arguments"),
];

/// What the domain may not touch.
const INPUT_OUTPUT: &[&str] = &["std::fs", "std::io", "std::net", "std::process", "std::thread"];

/// Reads the map in the module documentation of the crate: a floor's number, its name, its modules.
fn floors(lib: &str) -> Floors {
    let mut floors = Floors::new();
    for line in lib.lines().filter_map(|line| line.strip_prefix("//! ")) {
        let mut words = line.split_whitespace();
        let Some(Ok(floor)) = words.next().map(str::parse) else { continue };
        for module in words.skip(1) {
            floors.insert(module.trim_end_matches('/').to_owned(), floor);
        }
    }
    floors
}

/// The module that a file holds: `src/refresh/store.rs` is `refresh::store`.
fn module_of(file: &str) -> Vec<String> {
    let inner = file.trim_start_matches("src/").trim_end_matches(".rs");
    if inner == "lib" { Vec::new() } else { inner.split('/').map(str::to_owned).collect() }
}

/// Every path and keyword in some source text.
#[derive(Default)]
struct Names {
    /// Absolute paths, those of this crate with `crate` as the first segment.
    paths: Vec<Vec<String>>,
    /// All identifiers and keywords.
    words: Vec<String>,
}

impl Names {
    fn of(file: &str, text: &str) -> Self {
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{file}: {error}"));
        let mut names = Self::default();
        let module = std::iter::once("crate".to_owned()).chain(module_of(file)).collect::<Vec<_>>();
        names.walk(&tokens.into_iter().collect::<Vec<_>>(), &module);
        names
    }

    /// Walks through tokens of `module`, into groups and the bodies of macros too.
    fn walk(&mut self, tokens: &[TokenTree], module: &[String]) {
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            match token {
                TokenTree::Ident(word) if word == "mod" => {
                    // The body of an inline module is one level further down.
                    if let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) =
                        (tokens.get(at + 1), tokens.get(at + 2))
                    {
                        let inner = [module, &[name.to_string()]].concat();
                        self.walk(&body.stream().into_iter().collect::<Vec<_>>(), &inner);
                        at += 2;
                    }
                }
                TokenTree::Ident(_) => at = self.path(tokens, at, &[], module),
                TokenTree::Group(group) => {
                    self.walk(&group.stream().into_iter().collect::<Vec<_>>(), module);
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// Takes the path that starts at `at`, below `prefix`, with all branches of its tree; returns
    /// the place of its last token.
    fn path(
        &mut self,
        tokens: &[TokenTree],
        mut at: usize,
        prefix: &[String],
        module: &[String],
    ) -> usize {
        let mut path = prefix.to_vec();
        while let Some(TokenTree::Ident(word)) = tokens.get(at) {
            let word = word.to_string();
            self.words.push(word.clone());
            match word.as_str() {
                "self" if path.is_empty() => path = module.to_vec(),
                "self" => {}
                "super" => {
                    if path.is_empty() {
                        path = module.to_vec();
                    }
                    path.pop();
                }
                _ => path.push(word),
            }
            if !(is_colon(tokens.get(at + 1)) && is_colon(tokens.get(at + 2))) {
                break;
            }
            match tokens.get(at + 3) {
                Some(TokenTree::Ident(_)) => at += 3,
                Some(TokenTree::Group(tree)) if tree.delimiter() == Delimiter::Brace => {
                    let tree = tree.stream().into_iter().collect::<Vec<_>>();
                    let mut branch = 0;
                    while branch < tree.len() {
                        if matches!(tree.get(branch), Some(TokenTree::Ident(_))) {
                            branch = self.path(&tree, branch, &path, module);
                        }
                        branch += 1;
                    }
                    return at + 3;
                }
                // `path::*`, `path::<T>`
                _ => break,
            }
        }
        self.paths.push(path);
        at
    }
}

fn is_colon(token: Option<&TokenTree>) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == ':')
}

/// What is wrong with a file, as sentences.
fn violations(floors: &Floors, file: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let names = Names::of(file, text);
    let own = module_of(file).first().cloned();
    let floor_of = |module: &str| floors.get(module).copied();
    let Some(floor) = own.as_deref().map_or(Some(5), floor_of) else {
        return vec![format!("{file}: its module is not on the map in src/lib.rs")];
    };

    for path in &names.paths {
        let shown = path.join("::");
        if let [root, module, ..] = path.as_slice()
            && root == "crate"
            && Some(module) != own.as_ref()
        {
            match floor_of(module) {
                Some(other) if other > floor => wrong.push(format!(
                    "{file}: {shown} is on floor {other}, above its own floor {floor}"
                )),
                Some(_) if own.as_deref() == Some("fs") && module == "connection" => wrong.push(
                    format!("{file}: {shown}: connection uses fs, never the other way round"),
                ),
                // Anything else in the crate's root is a macro or a private item of lib.rs.
                _ => {}
            }
        }
        if floor == 0 && INPUT_OUTPUT.iter().any(|name| is_within(&shown, name)) {
            wrong.push(format!("{file}: {shown}: the domain does no I/O"));
        }
    }
    for Reserved { name, places, why } in RESERVED {
        let allowed = places
            .iter()
            .any(|place| file == *place || (place.ends_with('/') && file.starts_with(place)));
        if !allowed && names.words.iter().any(|word| word == name) {
            wrong.push(format!("{file}: {name}: {why}"));
        }
    }
    for (name, lowest, why) in LOWEST_FLOOR {
        if floor < *lowest && names.words.iter().any(|word| word == name) {
            wrong.push(format!("{file}: {name}: {why}"));
        }
    }
    wrong
}

/// Whether a path is this module or something in it.
fn is_within(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_file_keeps_to_its_floor_and_its_crates() {
    let floors = floors(&fs::read_to_string(root().join("src/lib.rs")).unwrap());
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    let mut wrong = Vec::new();
    for path in files {
        let file = path.strip_prefix(root()).unwrap().to_str().expect("a UTF-8 path");
        wrong.extend(violations(&floors, file, &fs::read_to_string(&path).unwrap()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_map_names_every_module_of_the_crate_and_no_other() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let mut mapped = floors(&lib).into_keys().collect::<Vec<_>>();
    let mut declared = lib
        .lines()
        .filter_map(|line| line.trim_end_matches(';').split("mod ").nth(1))
        .map(str::to_owned)
        .chain(["main".to_owned()])
        .collect::<Vec<_>>();
    mapped.sort();
    declared.sort();
    assert_eq!(mapped, declared);
}

#[test]
fn files_that_may_hold_unsafe_code_exist() {
    for file in UNSAFE_FILES {
        assert!(root().join(file).exists(), "{file} is gone: take it off the list");
    }
}

// The checks themselves can fail: one violation of each kind.

fn house() -> Floors {
    floors(
        "//! ```text\n//! 5 process   main cmd/\n//! 4 serve     connection/  fs/\n\
         //! 2 refresh   refresh/\n//! 1 sources   source/\n//! 0 domain    secret\n//! ```\n",
    )
}

fn first_violation(file: &str, text: &str) -> String {
    violations(&house(), file, text).first().cloned().unwrap_or_default()
}

#[test]
fn an_upward_path_is_found_wherever_it_hides() {
    for text in [
        "use crate::cmd::Mount;",
        "use crate::{secret::Secret, cmd};",
        "use crate::{secret::{self, Secret}, cmd::{self, Mount}};",
        "fn f() { crate::cmd::run(); }",
        "fn f() -> impl Fn(crate::cmd::Mount) { |_| () }",
        "fn f() { println!(\"{}\", crate::cmd::NAME); }",
        "macro_rules! m { () => { $crate::cmd::run() } }",
        "use super::cmd;",
        "mod inner { fn f() { super::super::cmd::run(); } }",
        "mod inner { use super::super::{secret, cmd}; }",
    ] {
        assert!(first_violation("src/source.rs", text).contains("above its own floor 1"), "{text}");
    }
    assert!(first_violation("src/source/env.rs", "use super::super::cmd;").contains("floor 5"));
}

#[test]
fn paths_down_and_sideways_comments_and_strings_are_no_violation() {
    for text in [
        "use crate::secret::Secret;",
        "use crate::{secret, source::http};",
        "// crate::cmd is above\n/// crate::cmd\nfn f() {}",
        "const TEXT: &str = \"crate::cmd unsafe fuser\";",
        "pub(crate) fn cmd() {}",
        "mod tests { use super::*; use super::cmd; }",
        "#![expect(unsafe_code, reason = \"…\")]",
    ] {
        assert_eq!(first_violation("src/source.rs", text), "", "{text}");
    }
    assert_eq!(first_violation("src/connection.rs", "use crate::fs::Tree;"), "");
    assert_eq!(first_violation("src/main.rs", "use anyhow::Result; use crate::cmd;"), "");
}

#[test]
fn each_other_rule_finds_its_violation() {
    for (file, text, complaint) in [
        ("src/fs.rs", "use crate::connection::mount;", "never the other way round"),
        ("src/secret.rs", "use std::{fmt, fs::File};", "no I/O"),
        ("src/secret.rs", "fn f() { std::net::TcpStream::connect(()); }", "no I/O"),
        ("src/secret.rs", "async fn f() { tokio::time::sleep(()).await }", "no I/O"),
        ("src/refresh.rs", "fn f() -> anyhow::Result<()> {}", "errors are typed"),
        ("src/fs.rs", "use fuser::FileAttr;", "without a kernel"),
        ("src/cmd.rs", "use reqwest::Client;", "only sources"),
        ("src/fs.rs", "fn f() { unsafe { g() } }", "system calls"),
        ("src/attic.rs", "", "not on the map"),
    ] {
        assert!(first_violation(file, text).contains(complaint), "{file}: {text}");
    }
    assert_eq!(first_violation("src/source/http.rs", "use reqwest::Client;"), "");
}

#[test]
fn what_is_shipped_is_stripped() {
    let manifest: toml::Table = fs::read_to_string("Cargo.toml").unwrap().parse().unwrap();
    for name in ["release", "dist"] {
        let profile = &manifest["profile"][name];
        // A table of its own takes the profile's word away from the package.
        let own = profile["package"].get("molecule-tokenfs").unwrap_or(profile);
        assert_eq!(own.get("strip").and_then(toml::Value::as_bool), Some(true), "{name}");
    }
}
