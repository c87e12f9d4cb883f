//! Everything is driven with every log level at TRACE, ours and the libraries', and then everything
//! that came out is searched for every token, the bearer and the passwords in URLs.
//!
//! needs: root, fuse, fusermount3, git

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;
#[path = "../sources/tls.rs"]
mod tls;

mod commands;
mod echo;
mod faults;
mod files;
mod memory;
mod processes;

use std::fs;
use std::path::PathBuf;

use molecule_tokenfs::demo::{Demo, Setup};
use support::daemon::{Builder, Daemon, tokenfs_run};
use support::dir::TestDir;
use support::leak::Search;

/// Ours, and each library's own.
const LEVEL: &str = "trace,hyper=trace,hyper_util=trace,reqwest=trace,fuser=trace,h2=trace,\
                     rustls=trace,tokio=trace,mio=trace";

/// A user's own token.
const IN_THE_ENVIRONMENT: &str = "ghp_0fTheEnvironment0123456789abcdefghij";
/// In a URL before the `@`.
const PASSWORD: &str = "pass-0fTheUserInTheUrl-0123456789";

/// A daemon at work, and all that came out of it and of the commands around it.
struct Driven {
    daemon: Daemon,
    demo: Demo,
    dir: TestDir,
    bearer: String,
    texts: Vec<(String, Vec<u8>)>,
}

impl Driven {
    /// Over a demo platform that knows the workspace.
    fn start(change: impl for<'a> FnOnce(&Demo, &TestDir, Builder<'a>) -> Builder<'a>) -> Self {
        let dir = TestDir::new();
        let demo = Demo::start(Setup::default().lengths(40..=60)).unwrap();
        let bearer = demo.register(&dir.join("configs")).unwrap();
        let bearer = fs::read_to_string(bearer).unwrap();
        let builder = Daemon::at(&dir)
            .log_level(LEVEL)
            .env("PLATFORM_URL", with_password(demo.url()))
            .env("WORKSPACE_ID", &demo.address().workspace_id)
            .args(["--request-timeout", "1s"]);
        let daemon = change(&demo, &dir, builder).start();
        Self { daemon, demo, dir, bearer, texts: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.daemon.path(name)
    }

    fn mountpoint(&self) -> String {
        self.daemon.mountpoint().to_str().unwrap().to_owned()
    }

    /// Keeps a text to be searched at the end.
    fn keep(&mut self, name: &str, text: impl Into<Vec<u8>>) {
        self.texts.push((name.to_owned(), text.into()));
    }

    /// Keeps what a look from outside shows now.
    fn look(&mut self) {
        for name in ["status.json", "metrics.prom"] {
            let text = fs::read(self.path(name)).unwrap();
            assert!(!text.is_empty());
            self.keep(name, text);
        }
        let status = tokenfs_run(&self.dir, &["status", &self.mountpoint()]);
        assert!(status.stdout.contains("served by"), "{status:?}");
        self.keep("the output of status", status.stdout + &status.stderr);
        let status = fs::read(self.path("status.json")).unwrap();
        for pid in pids(&status) {
            let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
            assert!(!cmdline.is_empty());
            self.keep("the daemon's arguments", cmdline);
        }
    }

    /// Ends the daemon and searches everything. Gives the log.
    fn end(mut self) -> String {
        assert_eq!(self.daemon.stop().code(), Some(0), "{}", self.daemon.log());
        let log = self.daemon.log();
        let output = self.daemon.process().stdout();
        self.keep("the daemon's log", log.clone());
        self.keep("the daemon's output", output);
        let tokens = self.demo.ledger().secrets();
        let tokens = tokens.iter().map(|token| std::str::from_utf8(token).unwrap());
        let search =
            Search::new(tokens.chain([self.bearer.as_str(), IN_THE_ENVIRONMENT, PASSWORD]));
        for (name, text) in &self.texts {
            if let Some((_, form)) = search.first_in(text) {
                let parts = text.split(|byte| *byte == b'\n');
                let line = parts.clone().find(|line| search.first_in(line).is_some());
                // These secrets are made up: the line may be shown.
                let line = String::from_utf8_lossy(line.unwrap_or_default()).into_owned();
                panic!("{name} holds a secret ({form}): {line}");
            }
        }
        log
    }
}

/// The processes that this `status.json` names.
fn pids(status: &[u8]) -> Vec<u64> {
    let status: serde_json::Value = serde_json::from_slice(status).unwrap();
    let pid = |key| status.pointer(key).and_then(serde_json::Value::as_u64).unwrap();
    vec![pid("/supervisor_pid"), pid("/worker_pid")]
}

fn with_password(url: &str) -> String {
    url.replace("://", &format!("://me:{PASSWORD}@"))
}
