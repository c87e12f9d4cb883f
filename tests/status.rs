//! What a real mount says of itself: `metrics.prom` to Prometheus, `status` to a person.
//! needs: root, fuse, fusermount3, promtool

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use molecule_tokenfs::demo::faults::{Fault, Service};
use molecule_tokenfs::demo::{Demo, Setup};
use nix::errno::Errno;
use serde_json::Value;
use support::daemon::{Daemon, tokenfs_run};
use support::dir::TestDir;
use support::namespace::sandboxed;
use support::process::{errno, registry_tool, run};
use support::{eventually, secs};

/// A mount to which everything has happened that there is something to say about: two tokens, a
/// reject, a refused write, a failing platform.
fn eventful(dir: &TestDir) -> (Demo, Daemon) {
    let demo = Demo::start(Setup::default()).expect("the demo platform");
    demo.register(&dir.join("configs")).expect("the workspace registers");
    let daemon = Daemon::at(dir)
        .env("PLATFORM_URL", demo.url())
        .env("WORKSPACE_ID", &demo.address().workspace_id)
        .start();
    fs::read(daemon.path("token")).unwrap();
    let first = status(&daemon)["fingerprint"].as_str().unwrap().to_owned();
    fs::write(daemon.path("refresh"), &first).unwrap();
    fs::read(daemon.path("token")).unwrap();
    let refused = fs::write(daemon.path("token"), "x").unwrap_err();
    assert_eq!(errno(&refused), Some(Errno::EROFS));
    demo.faults().stick(Service::Platform, Some(Fault::Status(500)));
    // A forced fetch is granted once a second.
    eventually("a forced fetch", secs(5), || fs::write(daemon.path("refresh"), "now").ok());
    eventually("the failure", secs(5), || {
        (!status(&daemon)["last_failure"].is_null()).then_some(())
    });
    (demo, daemon)
}

fn status(daemon: &Daemon) -> Value {
    let document = fs::read(daemon.path("status.json")).expect("status.json is read");
    let document: Value = serde_json::from_slice(&document).expect("status.json is JSON");
    document["tokens"][0].clone()
}

/// promtool's verdict on a file of metrics: its complaints, empty where it has none.
fn complaints(metrics: &Path, dir: &TestDir) -> String {
    let mut promtool = Command::new(registry_tool("promtool"));
    promtool.args(["check", "metrics"]).stdin(Stdio::from(File::open(metrics).unwrap()));
    let finished = run(promtool, dir, secs(20));
    let said = format!("{}{}", finished.stdout, finished.stderr);
    assert_eq!(finished.status.success(), said.is_empty(), "{said}");
    said
}

#[test]
fn promtool_has_nothing_to_say_against_the_metrics() {
    sandboxed(secs(40), || {
        let dir = TestDir::new();
        let (_demo, daemon) = eventful(&dir);
        let metrics = daemon.path("metrics.prom");
        assert_eq!(complaints(&metrics, &dir), "");
        let text = fs::read_to_string(&metrics).unwrap();
        for happened in ["opens_total", "refusals_total", "fetch_failures_total", "rotations_total"]
        {
            let samples = text.lines().filter(|line| {
                line.starts_with(&format!("molecule_tokenfs_{happened}{{")) && !line.ends_with(" 0")
            });
            assert!(samples.count() > 0, "{happened} counts nothing:\n{text}");
        }
        // It does complain where there is cause.
        let bad = dir.file("bad.prom", "# HELP opens Opens.\n# TYPE opens counter\nopens 1\n");
        assert!(complaints(&bad, &dir).contains("_total"));
    });
}

#[test]
fn status_tells_a_person_all_there_is_to_tell() {
    sandboxed(secs(40), || {
        let dir = TestDir::new();
        let (_demo, daemon) = eventful(&dir);
        // The two are not read at one instant, and back-off goes on: until both say the same.
        let (token, text) = eventually("status and status.json agree", secs(10), || {
            let before = status(&daemon);
            let finished = tokenfs_run(&dir, &["status", daemon.mountpoint().to_str().unwrap()]);
            assert_eq!(finished.status.code(), Some(1), "degraded: {finished:?}");
            let same = |key: &str| before[key] == status(&daemon)[key];
            (same("attempts") && same("next_refresh_at")).then_some((before, finished.stdout))
        });
        let said = |key: &str| {
            let value = &token[key];
            value.as_str().map_or_else(|| value.to_string(), str::to_owned)
        };
        let failure = &token["last_failure"];
        let (message, detail) = (&failure["message"], &failure["detail"]);
        let history = token["history"].as_array().unwrap();
        let mut lines = vec![
            format!("{}: {}", said("state"), said("summary")),
            format!(
                "{}, generation {}, of {}",
                said("fingerprint"),
                said("generation"),
                said("source")
            ),
            format!("fetched       {}, ", said("fetched_at")),
            // What is left of it stands there, too.
            format!("expires       {}, in ", said("expires_at")),
            format!("{}: {} ({})", "platform", message.as_str().unwrap(), detail.as_str().unwrap()),
            format!(" since {}, ", failure["since"].as_str().unwrap()),
            format!("opens         {}, refusals EROFS 1", said("opens")),
            format!("requests      {}, new tokens {}", said("attempts"), said("fetches")),
        ];
        if token["next_refresh_at"].is_null() {
            lines.push("next refresh  under way".to_owned());
        } else {
            lines.push(format!("next refresh  {}, ", said("next_refresh_at")));
            lines.push(format!("({})", said("next_refresh_reason")));
        }
        for event in history {
            lines.push(format!("  {}  ", event["at"].as_str().unwrap()));
            lines.push(format!(": {}", event["reason"].as_str().unwrap()));
        }
        assert_eq!(history.len(), 4, "two rotations, a reject, a failure: {history:#?}");
        let missing = lines.iter().filter(|line| !text.contains(*line)).collect::<Vec<_>>();
        assert!(missing.is_empty(), "{missing:#?} in\n{text}\n{token:#}");
        assert!(text.contains("times in a row since") || text.contains("once since"), "{text}");
    });
}
