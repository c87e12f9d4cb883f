//! docs/SEMANTICS.md, sentence by sentence: a section is a file, and a mount or a few of its own.
//! needs: root, fuse, python3, setfattr

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod attributes;
mod bound;
mod caching;
mod errors;
mod file;
mod locks;
mod names;
mod opening;
mod reading;
mod refresh;
mod the_end;
mod watching;
mod who;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use molecule_tokenfs::demo::faults::{Fault, Service};
use molecule_tokenfs::demo::{Demo, Setup};
use molecule_tokenfs::secret::Fingerprint;
use molecule_tokenfs::view::{self, View};
use nix::errno::Errno;
use serde_json::json;
use support::daemon::{Builder, Daemon};
use support::dir::TestDir;
use support::namespace::sandboxed;
use support::process::{Finished, User, command, errno, run};
use support::{eventually, secs};

/// The document.
const DOCUMENT: &str = include_str!("../../docs/SEMANTICS.md");

macro_rules! sections {
    ($($name:ident: $title:literal,)*) => {
        const SECTIONS: &[&str] = &[$($title),*];
        $(
            #[test]
            fn $name() {
                sandboxed(secs(90), || Section::check($title, $name::check));
            }
        )*
    };
}

sections! {
    opening: "Opening",
    reading: "Reading",
    attributes: "Attributes",
    names: "Names",
    locks: "Locks and synchronisation",
    caching: "Memory and caching",
    watching: "Waiting for a rotation",
    bound: "Live files and bind mounts",
    file: "A mount that is a file",
    refresh: "Asking for a fetch",
    who: "Who may",
    errors: "Errors of an open",
    the_end: "The end of a worker, and of the mount",
}

#[test]
fn the_document_has_no_section_that_nothing_checks() {
    let written: BTreeSet<_> =
        DOCUMENT.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(written, SECTIONS.iter().copied().collect());
}

/// The items of a section of the document, each as one line.
fn items(title: &str) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    let lines = DOCUMENT.lines().skip_while(|line| *line != format!("## {title}")).skip(1);
    for line in lines.take_while(|line| !line.starts_with("## ")) {
        if let Some(start) = line.strip_prefix("- ") {
            items.push(start.to_owned());
        } else if let (Some(more), Some(item)) = (line.strip_prefix("  "), items.last_mut()) {
            *item += " ";
            *item += more;
        }
    }
    items
}

/// The file for what holds, where `scripts/evidence kernels` asks for all of it and not for the first
/// sentence that does not.
#[expect(clippy::disallowed_methods, reason = "how scripts/evidence asks for it")]
fn evidence() -> Option<PathBuf> {
    Some(std::env::var_os("MOLECULE_SEMANTICS_JSON")?.into())
}

/// A section under test: what has been said of it, in order.
struct Section {
    said: Vec<String>,
    /// Sentences that do not hold, and why.
    untrue: BTreeMap<String, String>,
}

impl Section {
    fn check(title: &str, body: impl FnOnce(&mut Self)) {
        let mut section = Self { said: Vec::new(), untrue: BTreeMap::new() };
        if let Some(file) = evidence() {
            // What a section prepares between its sentences can fail, too.
            if let Err(why) = catch_unwind(AssertUnwindSafe(|| body(&mut section))) {
                section.untrue.insert("(the rest of the section)".to_owned(), words(&*why));
            }
            let found = json!({ "section": title, "checked": section.said.len(), "untrue": section.untrue });
            let file = format!("{}-{}", file.display(), title.replace([' ', ','], "-"));
            return fs::write(file, format!("{found:#}\n")).expect("the findings are kept");
        }
        body(&mut section);
        assert_eq!(section.said, items(title), "the document, and what is checked of it");
    }

    /// Checks one sentence; a panic in `check` means that it is not true.
    #[expect(clippy::print_stderr, reason = "what a panic is about")]
    fn says(&mut self, sentence: &str, check: impl FnOnce()) {
        eprintln!("{sentence}");
        if evidence().is_none() {
            check();
        } else if let Err(why) = catch_unwind(AssertUnwindSafe(check)) {
            self.untrue.insert(sentence.to_owned(), words(&*why));
        }
        self.said.push(sentence.to_owned());
    }
}

/// What a panic says.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

/// A mount over made-up tokens that live for an hour: it rotates when it is told to.
struct Mount {
    daemon: Daemon,
    dir: TestDir,
}

impl Mount {
    fn new() -> Self {
        Self::living("1h", |builder| builder)
    }

    /// With tokens of this life.
    fn living(life: &str, change: impl FnOnce(Builder<'_>) -> Builder<'_>) -> Self {
        let dir = TestDir::new();
        let daemon = change(Daemon::at(&dir).args(["--made-up", life])).start();
        Self { daemon, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.daemon.path(name)
    }

    /// Has another token fetched, as a consumer that got 401 does, and waits for it.
    fn rotate(&self) {
        let token = fs::read(self.path("token")).unwrap();
        let number = |view: &&dyn View| fs::metadata(self.path(view.path())).unwrap().ino();
        let before: Vec<_> = view::ALL.iter().map(number).collect();
        fs::write(self.path("refresh"), Fingerprint::of(&token).to_string()).unwrap();
        eventually("another token has come", secs(5), || {
            (fs::read(self.path("live/token")).ok()? != token).then_some(())
        });
        eventually("every view shows it", secs(5), || {
            let mut views = view::ALL.iter().map(number).zip(&before);
            views.all(|(now, before)| now != *before).then_some(())
        });
    }

    fn status(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.path("status.json")).unwrap()).unwrap()
    }

    /// Requests that were made to the source.
    fn attempts(&self) -> u64 {
        self.status()["tokens"][0]["attempts"].as_u64().unwrap()
    }

    /// Runs a script of Python with the mountpoint as its argument; it must succeed.
    fn python(&self, script: &str) -> String {
        self.python_with(script, &[])
    }

    /// Runs one that takes its time.
    fn python_for(&self, limit: Duration, script: &str) {
        let mut python = command("python3", User::Own);
        python.args(["-c", script]).arg(self.daemon.mountpoint());
        run(python, &self.dir, limit).ok();
    }

    /// With more arguments.
    fn python_with(&self, script: &str, arguments: &[&str]) -> String {
        let mut python = command("python3", User::Own);
        python.args(["-c", script]).arg(self.daemon.mountpoint()).args(arguments);
        run(python, &self.dir, secs(20)).ok()
    }

    /// Runs a line of the shell with the mountpoint as its first argument.
    fn shell(&self, user: User, line: &str) -> Finished {
        let mut shell = command("sh", user);
        shell.args(["-c", line, "sh"]).arg(self.daemon.mountpoint());
        run(shell, &self.dir, secs(20))
    }
}

/// A mount over a platform that can be made to fail.
struct Workspace {
    demo: Demo,
    mount: Mount,
}

impl Workspace {
    fn new(setup: Setup, change: impl FnOnce(Builder<'_>) -> Builder<'_>) -> Self {
        let dir = TestDir::new();
        let demo = Demo::start(setup).expect("the demo platform starts");
        demo.register(&dir.join("configs")).expect("the workspace registers");
        let daemon = change(Daemon::at(&dir).env("PLATFORM_URL", demo.url())).start();
        Self { demo, mount: Mount { daemon, dir } }
    }

    fn stick(&self, fault: Fault) {
        self.demo.faults().stick(Service::Platform, Some(fault));
    }
}

/// The number of the error that a call ends with.
#[track_caller]
fn fails<T>(result: io::Result<T>) -> Errno {
    match result {
        Ok(_) => panic!("it succeeds"),
        Err(error) => errno(&error).expect("an error of the system"),
    }
}

/// Whether the bytes are one whole made-up token.
#[track_caller]
fn is_token(bytes: &[u8]) -> u64 {
    molecule_tokenfs::source::made_up::MadeUp::number(bytes).expect("a whole token")
}

/// Everything that a listing shows: nothing may have changed.
fn listing(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
