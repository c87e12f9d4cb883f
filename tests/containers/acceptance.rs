//! The acceptance: each runtime, wired by `run` and as it was before.
//!
//! The gate runs a few lives of the tokens; `scripts/evidence containers` 90 seconds, all runtimes,
//! and keeps the figures.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::runtime::{Container, Order, Runtime};
use crate::site::{SHELL, Site, Wiring};
use crate::support::namespace::sandboxed;
use crate::support::{millis, secs};

/// The directory that `scripts/evidence containers` and `hour` want the figures in.
pub fn evidence() -> Option<PathBuf> {
    variable("MOLECULE_CONTAINERS_DIR").map(PathBuf::from)
}

#[expect(clippy::disallowed_methods, reason = "how scripts/evidence asks for more")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// How long the agent works, and the tokens live.
#[derive(Debug, Clone, Copy)]
pub struct Length {
    pub seconds: u64,
    pub life: u64,
}

impl Length {
    /// What the gate has time for, unless more is asked for.
    pub fn usual(seconds: u64) -> Self {
        let asked = |name| variable(name).map(|value| value.parse().expect(name));
        Self {
            seconds: asked("MOLECULE_CONTAINERS_SECONDS").unwrap_or(seconds),
            life: asked("MOLECULE_CONTAINERS_LIFE").unwrap_or(10),
        }
    }

    /// The time for building the container comes on top.
    pub fn limit(self) -> std::time::Duration {
        secs(self.seconds + 180)
    }
}

/// A container's whole life, and what came of it.
fn live(runtime: Runtime, wiring: Wiring, length: Length) -> Value {
    let Length { seconds, life } = length;
    let site = Site::new(secs(life));
    let order = Order {
        wiring,
        environment: site.environment(wiring, seconds),
        words: Site::words(wiring),
        root: site.root(runtime.name()),
        configs: site.configs(runtime.agent()),
    };
    let (mut shells, mut failed_shells) = (0_u64, 0_u64);
    let mut result = Value::Null;
    runtime.with(&site, &order, |container| {
        // The shells that are opened before the wiring is there are none of ours.
        std::thread::sleep(secs(2));
        while !container.has_ended() {
            let told = container.shell(SHELL);
            if told.stdout.contains("HEAD") {
                shells += 1;
            } else if !ends_soon(container) {
                failed_shells += 1;
                assert!(wiring == Wiring::Frozen, "a shell beside it failed: {told:?}");
            }
            std::thread::sleep(secs(life) / 30);
        }
        let (code, stdout, stderr) = container.told();
        assert_eq!(code, 0, "{stdout}{stderr}");
        let line = stdout.lines().last().unwrap_or_default();
        result = serde_json::from_str(line).unwrap_or_else(|_| panic!("{stdout}{stderr}"));
        if wiring != Wiring::Frozen {
            assert!(result["first_failure_seconds"].is_null(), "{result}\n{stderr}");
        }
    });
    let ledger = site.demo.ledger();
    let used = ledger.report().tokens.iter().filter(|token| token.accepted > 0).count();
    let refused = |service: &str| {
        let seen = ledger.counts().service(service);
        seen.dead + seen.revoked + seen.unknown
    };
    result["runtime"] = json!(runtime.name());
    result["wiring"] = json!(wiring.name());
    result["seconds"] = json!(seconds);
    result["token_life_seconds"] = json!(life);
    result["shells_ok"] = json!(shells);
    result["shells_failed"] = json!(failed_shells);
    result["tokens_used"] = json!(used);
    result["dead_tokens_at_the_server"] = json!(refused("git") + refused("rest"));
    if let Some(directory) = evidence() {
        let name = format!("{}-{}.json", runtime.name(), wiring.name());
        std::fs::write(directory.join(name), result.to_string()).unwrap();
    }
    result
}

/// Whether the shell failed because its container was at its end.
fn ends_soon(container: &mut dyn Container) -> bool {
    (0..20).any(|_| {
        std::thread::sleep(millis(100));
        container.has_ended()
    })
}

/// Never a failure, in several lives of the tokens.
fn goes_on(runtime: Runtime, wiring: Wiring) {
    let length = Length::usual(12);
    sandboxed(length.limit(), move || {
        let told = live(runtime, wiring, length);
        for (key, expected) in [
            ("gh_failed", 0),
            ("git_failed", 0),
            ("shells_failed", 0),
            ("dead_tokens_at_the_server", 0),
        ] {
            assert_eq!(told[key], expected, "{told}");
        }
        for (key, at_least) in [("gh_ok", 3), ("git_ok", 9), ("shells_ok", 3), ("tokens_used", 2)] {
            assert!(told[key].as_u64().unwrap() >= at_least, "{told}");
        }
    });
}

#[test]
fn docker_with_run_goes_on() {
    goes_on(Runtime::Docker, Wiring::Run);
}

#[test]
fn docker_without_fuse_goes_on() {
    goes_on(Runtime::Docker, Wiring::Files);
}

#[test]
fn runc_with_run_goes_on() {
    goes_on(Runtime::Runc, Wiring::Run);
}

#[test]
fn crun_with_run_goes_on() {
    goes_on(Runtime::Crun, Wiring::Run);
}

#[test]
fn podman_with_run_goes_on() {
    goes_on(Runtime::Podman, Wiring::Run);
}

#[test]
fn podman_of_an_ordinary_user_with_run_goes_on() {
    goes_on(Runtime::PodmanRootless, Wiring::Run);
}

/// The failure that all this is against.
#[test]
fn a_frozen_token_fails_after_its_first_life() {
    let length = Length::usual(16);
    sandboxed(length.limit(), move || {
        let told = live(Runtime::Runc, Wiring::Frozen, length);
        let first = told["first_failure_seconds"].as_u64().unwrap();
        assert!((length.life / 2..=length.life + 4).contains(&first), "{told}");
        for key in ["gh_ok", "git_ok", "gh_failed", "git_failed"] {
            assert!(told[key].as_u64().unwrap() > 0, "{told}");
        }
    });
}
