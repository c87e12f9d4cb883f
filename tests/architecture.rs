//! The house rules that a compiler does not know: which module may use which, and which crates and
//! keywords belong to which files. The floors and their steps are read from the map in `src/lib.rs`.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Each top module and where it stands.
type Floors = BTreeMap<String, Height>;

/// A floor, and a step on it: modules of a lower step know nothing of those of a higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Height {
    floor: u8,
    step: usize,
}

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
    "src/attach/apart.rs",
    "src/attach/attributes.rs",
    "src/cmd/run/real_time.rs",
    "src/cmd/run/typing.rs",
    "src/refresh/timer.rs",
    "src/foreign/watched.rs",
    "src/fs/generations/mapping.rs",
    "src/connection/resident.rs",
    "src/connection/rotation.rs",
    "src/connection/worker.rs",
];

/// Crates that belong to some floors only: name, lowest floor, reason.
const LOWEST_FLOOR: &[(&str, u8, &str)] = &[
    ("anyhow", 5, "below floor 5 errors are typed"),
    ("tokio", 1, "the domain does no I/O"),
    ("clap", 5, "only the command line parses arguments"),
    ("thread_local", 5, "a second mount or token would share it"),
];

/// What the domain may not touch.
const INPUT_OUTPUT: &[&str] = &["std::fs", "std::io", "std::net", "std::process", "std::thread"];

/// The statics below floor 5, by file and name. One that changes would be shared by all tokens and mounts of
/// a process, so each has its reason.
const STATICS: &[(&str, &str, &str)] = &[
    ("src/view.rs", "ALL", "the list of views, which never changes"),
    ("src/fs/node.rs", "ALL", "the tree of names of all other tokens, which never changes"),
    ("src/fs/node.rs", "LIVE", "the tree of names of all tokens on demand, which never changes"),
    ("src/fs/fuse/reply.rs", "BEFORE_ABORT", "the process aborts as a whole, and its log with it"),
];

/// Reads the map in the module documentation of the crate: a floor's number, its name, its modules from
/// the highest step to the lowest, with `>` between the steps.
fn floors(lib: &str) -> Floors {
    let mut floors = Floors::new();
    for line in lib.lines().filter_map(|line| line.strip_prefix("//! ")) {
        let mut words = line.split_whitespace();
        let Some(Ok(floor)) = words.next().map(str::parse) else { continue };
        let mut step = words.clone().filter(|word| *word == ">").count();
        for word in words.skip(1) {
            if word == ">" {
                step -= 1;
            } else {
                floors.insert(word.trim_end_matches('/').to_owned(), Height { floor, step });
            }
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
    /// The names of statics.
    statics: Vec<String>,
    /// All literals, as they are written.
    literals: Vec<String>,
    /// Modules called `tests` are left out.
    skips_tests: bool,
}

impl Names {
    fn of(file: &str, text: &str) -> Self {
        let mut names = Self::default();
        names.read(file, text);
        names
    }

    fn read(&mut self, file: &str, text: &str) {
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{file}: {error}"));
        let module = std::iter::once("crate".to_owned()).chain(module_of(file)).collect::<Vec<_>>();
        self.walk(&tokens.into_iter().collect::<Vec<_>>(), &module);
    }

    /// Those of what is no test: tests may use whatever they like.
    fn outside_tests(file: &str, text: &str) -> Self {
        let is_test = |module: &[String]| module.iter().any(|name| name == "tests");
        let mut names = Self { skips_tests: true, ..Self::default() };
        if !is_test(&module_of(file)) {
            names.read(file, text);
        }
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
                        if !(self.skips_tests && name == "tests") {
                            self.walk(&body.stream().into_iter().collect::<Vec<_>>(), &inner);
                        }
                        at += 2;
                    }
                }
                TokenTree::Ident(word) if word == "static" && !is_lifetime(tokens, at) => {
                    self.statics.extend(tokens.get(at + 1).map(ToString::to_string));
                }
                TokenTree::Ident(_) => at = self.path(tokens, at, &[], module),
                TokenTree::Literal(literal) => self.literals.push(literal.to_string()),
                TokenTree::Group(group) => {
                    self.walk(&group.stream().into_iter().collect::<Vec<_>>(), module);
                }
                TokenTree::Punct(_) => {}
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

/// Whether the word at this place is the name of a lifetime.
fn is_lifetime(tokens: &[TokenTree], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|before| tokens.get(before));
    matches!(before, Some(TokenTree::Punct(punct)) if punct.as_char() == '\'')
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
    let roof = Height { floor: 5, step: usize::MAX };
    let Some(height) = own.as_deref().map_or(Some(roof), floor_of) else {
        return vec![format!("{file}: its module is not on the map in src/lib.rs")];
    };
    let floor = height.floor;

    for path in &names.paths {
        let shown = path.join("::");
        if let [root, module, ..] = path.as_slice()
            && root == "crate"
            && Some(module) != own.as_ref()
        {
            match floor_of(module) {
                Some(Height { floor: other, .. }) if other > floor => wrong.push(format!(
                    "{file}: {shown} is on floor {other}, above its own floor {floor}"
                )),
                Some(other) if other > height => wrong.push(format!(
                    "{file}: {shown}: {module} uses {}, never the other way round (floor {floor})",
                    own.as_deref().unwrap_or("lib"),
                )),
                // Anything else in the crate's root is a macro or a private item of lib.rs.
                _ => {}
            }
        }
        if floor == 0 && INPUT_OUTPUT.iter().any(|name| is_within(&shown, name)) {
            wrong.push(format!("{file}: {shown}: the domain does no I/O"));
        }
    }
    let names_outside_tests = Names::outside_tests(file, text);
    if own.as_deref() != Some("config")
        && names_outside_tests.literals.iter().any(|literal| literal == "\"default\"")
    {
        wrong.push(format!(
            "{file}: \"default\": only the configuration knows a token by that name"
        ));
    }
    for name in &names_outside_tests.statics {
        if floor < 5 && !STATICS.iter().any(|(of, known, _)| *of == file && known == name) {
            wrong.push(format!("{file}: static {name}: a second mount or token would share it"));
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

// === circles ===

/// A circle that there still is, and why.
struct Known {
    /// The module that its members are in; the crate itself is `crate`.
    parent: &'static str,
    members: &'static [&'static str],
    why: &'static str,
}

/// No new ones: whoever adds a module to this list adds a reason, too.
const KNOWN_CIRCLES: &[Known] = &[];

/// Which module uses which, below one parent: each pair with the places that make it so.
type Uses = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// What the files of the crate use of each other, by the module in which their ways part: of two files
/// `a::b::c` and `a::d`, `b` uses `d` below `a`. A module and what is inside it are one.
fn uses(files: &[(String, String)]) -> BTreeMap<String, Uses> {
    let modules: BTreeSet<_> = files.iter().map(|(file, _)| module_of(file)).collect();
    let mut all = BTreeMap::<String, Uses>::new();
    for (file, text) in files {
        let own = module_of(file);
        for path in Names::outside_tests(file, text).paths {
            let ["crate", ..] = path.iter().map(String::as_str).collect::<Vec<_>>()[..] else {
                continue;
            };
            let shown = path.join("::");
            let path = &path[1..];
            // What follows the module is an item in it.
            let Some(used) = (1..=path.len())
                .rev()
                .map(|n| path[..n].to_vec())
                .find(|path| modules.contains(path))
            else {
                continue;
            };
            let parted = own.iter().zip(&used).take_while(|(own, used)| own == used).count();
            if let (Some(from), Some(to)) = (own.get(parted), used.get(parted)) {
                let parent = [&["crate".to_owned()], &own[..parted]].concat().join("::");
                let by_file = all.entry(parent).or_default().entry(from.clone()).or_default();
                by_file.entry(to.clone()).or_default().insert(format!("{file}: {shown}"));
            }
        }
    }
    all
}

/// The modules that can be reached from one, in the order of their distance.
fn reached(uses: &Uses, from: &str) -> Vec<String> {
    let mut reached = Vec::new();
    let mut next = VecDeque::from([from.to_owned()]);
    while let Some(module) = next.pop_front() {
        for used in uses.get(&module).into_iter().flat_map(BTreeMap::keys) {
            if !reached.contains(used) {
                reached.push(used.clone());
                next.push_back(used.clone());
            }
        }
    }
    reached
}

/// The groups of modules that use each other, directly or not.
fn circles(uses: &Uses) -> Vec<BTreeSet<String>> {
    let of = |module: &String| {
        let both = |other: &String| reached(uses, other).contains(module);
        reached(uses, module).into_iter().filter(both).collect::<BTreeSet<_>>()
    };
    let all: BTreeSet<_> = uses.keys().map(of).filter(|circle| !circle.is_empty()).collect();
    all.into_iter().collect()
}

/// The circles that are not known, and the known ones that are gone, as sentences.
fn wrong_circles(files: &[(String, String)], known: &[Known]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut found = BTreeSet::new();
    for (parent, uses) in uses(files) {
        for circle in circles(&uses) {
            let names = circle.iter().map(String::as_str).collect::<Vec<_>>();
            if known.iter().any(|known| known.parent == parent && known.members == names) {
                found.insert((parent.clone(), names.join(" ")));
                continue;
            }
            wrong.push(format!("{parent}: these use each other in a circle: {}", names.join(", ")));
            let inside = |to: &&String| circle.contains(*to);
            for (from, used) in uses.iter().filter(|(from, _)| circle.contains(*from)) {
                for to in used.keys().filter(inside) {
                    wrong.extend(used[to].iter().map(|place| format!("  {from} > {to}: {place}")));
                }
            }
        }
    }
    for Known { parent, members, why } in known {
        if !found.contains(&((*parent).to_owned(), members.join(" "))) {
            let members = members.join(", ");
            wrong.push(format!(
                "{parent}: {members}: no such circle (any more): take it off the list ({why})"
            ));
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

/// Each file of the crate and its text.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    files.sort();
    let source = |path: PathBuf| {
        let file = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        (file, fs::read_to_string(&path).unwrap())
    };
    files.into_iter().map(source).collect()
}

#[test]
fn every_file_keeps_to_its_floor_and_its_crates() {
    let floors = floors(&fs::read_to_string(root().join("src/lib.rs")).unwrap());
    let wrong: Vec<_> =
        sources().iter().flat_map(|(file, text)| violations(&floors, file, text)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_modules_use_each_other_in_a_circle() {
    let wrong = wrong_circles(&sources(), KNOWN_CIRCLES);
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
        "//! ```text\n//! 5 process   main > cmd/ > config observe\n//! 4 serve     connection/ > fs/\n\
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

fn files(files: &[(&str, &str)]) -> Vec<(String, String)> {
    files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn a_circle_is_found_however_long_and_deep_it_is() {
    for (circle, complaint) in [
        (
            vec![("src/a.rs", "use crate::b::B;"), ("src/b.rs", "fn f() { crate::a::f() }")],
            "crate: these use each other in a circle: a, b",
        ),
        // Below a common parent, by way of a third, in the bodies of functions.
        (
            vec![
                ("src/x.rs", "mod a; mod b; mod c;"),
                ("src/x/a.rs", "use super::b;"),
                ("src/x/b.rs", "fn f() { super::c::f() }"),
                ("src/x/c.rs", "use crate::x::{a::{A, B}, c};"),
            ],
            "crate::x: these use each other in a circle: a, b, c",
        ),
        // No two files use each other, but their parents do.
        (
            vec![
                ("src/a.rs", ""),
                ("src/a/one.rs", "use crate::b::one;"),
                ("src/b.rs", ""),
                ("src/b/one.rs", ""),
                ("src/b/two.rs", "use crate::a;"),
            ],
            "crate: these use each other in a circle: a, b",
        ),
    ] {
        let wrong = wrong_circles(&files(&circle), &[]);
        assert_eq!(wrong.first().map(String::as_str), Some(complaint), "{circle:?}");
        assert!(wrong.len() > 2, "each use is told: {wrong:?}");
    }
}

#[test]
fn a_module_and_its_inside_are_no_circle_and_known_circles_are_let_be_while_they_last() {
    let inside = [
        ("src/a.rs", "mod b; use b::B; use crate::c;"),
        ("src/a/b.rs", "use super::A; use crate::c;"),
        ("src/c.rs", "mod tests { use crate::a; }"),
        ("src/a/tests.rs", "use super::b;"),
    ];
    assert_eq!(wrong_circles(&files(&inside), &[]), [""; 0]);
    let known = || [Known { parent: "crate", members: &["a", "b"], why: "…" }];
    let circle = [("src/a.rs", "use crate::b;"), ("src/b.rs", "use crate::a;")];
    assert_eq!(wrong_circles(&files(&circle), &known()), [""; 0]);
    let [gone] = wrong_circles(&files(&circle[..1]), &known()).try_into().unwrap();
    assert!(gone.contains("take it off the list"), "{gone}");
}

#[test]
fn on_a_floor_a_lower_step_knows_nothing_of_a_higher_one() {
    for (file, text, complaint) in [
        ("src/config.rs", "use crate::cmd;", "cmd uses config, never the other way round"),
        ("src/config/file.rs", "use crate::cmd::Advise;", "floor 5"),
        ("src/cmd.rs", "fn f() { crate::main::run() }", "main uses cmd"),
    ] {
        assert!(first_violation(file, text).contains(complaint), "{file}: {text}");
    }
    for (file, text) in [
        ("src/cmd.rs", "use crate::config; use crate::fs;"),
        ("src/config.rs", "use crate::observe;"),
    ] {
        assert_eq!(first_violation(file, text), "", "{file}: {text}");
    }
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
        ("src/fs.rs", "fn f() { g(\"default\") }", "only the configuration"),
        ("src/fs.rs", "fn f() { static COUNT: AtomicU64 = AtomicU64::new(0); }", "static COUNT"),
        (
            "src/fs.rs",
            "macro_rules! m { () => { pub static LIST: Vec<u8> = vec![]; } }",
            "static LIST",
        ),
        ("src/fs.rs", "thread_local! { static A: u8 = 0; }", "a second mount"),
    ] {
        assert!(first_violation(file, text).contains(complaint), "{file}: {text}");
    }
    for (file, text) in [
        ("src/source/http.rs", "use reqwest::Client;"),
        ("src/fs.rs", "fn f(_: &'static str) -> impl Fn() + 'static {}"),
        ("src/fs.rs", "mod tests { fn f() { g(\"default\") } }"),
        ("src/config.rs", "const NAME: &str = \"default\";"),
        ("src/observe.rs", "static LOG: OnceLock<Log> = OnceLock::new();"),
    ] {
        assert_eq!(first_violation(file, text), "", "{file}: {text}");
    }
}

#[test]
fn each_static_that_is_let_be_is_there() {
    let sources: BTreeMap<_, _> = sources().into_iter().collect();
    for (file, name, why) in STATICS {
        let statics = Names::of(file, &sources[*file]).statics;
        assert!(statics.iter().any(|there| there == name), "{file}: {name} is gone ({why})");
    }
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
