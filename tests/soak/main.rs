//! The real daemon on a real mount, a platform that fails in every way, clocks that are set, and
//! readers that never pause: no dead token, no torn one, no refusal without need.
//!
//! The gate plays one short scene; `scripts/evidence soak` all of them until a million opens got a
//! token, and keeps the figures.
//! needs: root, fuse

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod judge;
mod platform;
mod readers;
mod scenes;

use std::path::PathBuf;
use std::time::Duration;

use judge::{Promise, Span, judge};
use platform::Platform;
use readers::{Readers, boot};
use scenes::{Director, SHORT};
use serde_json::json;
use support::daemon::Daemon;
use support::dir::TestDir;
use support::namespace::sandboxed;
use support::wall_clock::WallClock;
use support::{millis, secs};

const PROMISE: Promise = Promise { min_life: millis(300), open_timeout: secs(1) };

const READERS: usize = 8;

/// How long the run of the evidence may take.
const LONGEST: Duration = Duration::from_mins(55);

/// What `scripts/evidence soak` asks for.
struct Evidence {
    file: PathBuf,
    opens: u64,
    seed: u64,
}

#[expect(clippy::disallowed_methods, reason = "how scripts/evidence asks for more")]
fn evidence() -> Option<Evidence> {
    let number = |name| std::env::var(name).ok()?.parse().ok();
    Some(Evidence {
        file: std::env::var_os("MOLECULE_SOAK_JSON")?.into(),
        opens: number("MOLECULE_SOAK_OPENS")?,
        seed: number("MOLECULE_SOAK_SEED")?,
    })
}

#[test]
fn under_every_fault_no_open_gives_a_dead_or_torn_token_and_none_is_refused_without_need() {
    let evidence = evidence();
    let limit = if evidence.is_some() { LONGEST } else { secs(60) };
    sandboxed(limit, move || {
        let dir = TestDir::new();
        let platform = Platform::start(&dir, "4s");
        let clock = WallClock::new(&dir);
        let mut builder = Daemon::at(&dir)
            .log_level("off")
            .env("PLATFORM_URL", &platform.address.url)
            .env("WORKSPACE_ID", &platform.address.workspace_id)
            .args(["--min-life", "300ms", "--open-timeout", "1s", "--request-timeout", "3s"]);
        for (name, value) in clock.environment() {
            builder = builder.env(name, value);
        }
        let daemon = builder.start();
        let names = ["token", "live/token"].iter().cycle().take(READERS);
        let paths: Vec<_> = names.map(|name| daemon.path(name)).collect();
        let began = boot();
        let readers = Readers::start(&paths, PROMISE.open_timeout);
        let mut director = Director::new(&platform, &daemon, &clock);
        match &evidence {
            None => director.play(&SHORT),
            Some(wanted) => director.play_all(wanted.seed, || readers.served() >= wanted.opens),
        }
        let served = readers.served();
        let (seen, control) = readers.finish();
        let (done, scenes) = (director.done, director.scenes);
        let took = Span { start: began, end: boot() }.length();
        let report = platform.report();
        let verdict = judge(&report.tokens, &seen, &done, PROMISE);

        let stopped: Duration = done.stopped.iter().map(|stop| stop.length()).sum();
        let figures = json!({
            "seconds": took.as_secs(),
            "seed": evidence.as_ref().map(|wanted| wanted.seed),
            "readers": seen.len(),
            "token_life_seconds": 4,
            "min_life_ms": u64::try_from(PROMISE.min_life.as_millis()).unwrap(),
            "open_timeout_ms": u64::try_from(PROMISE.open_timeout.as_millis()).unwrap(),
            "opens_with_a_token": served,
            "verdict": verdict,
            "control": control,
            "platform": report.counts.platform,
            "scenes": scenes,
            "stops": done.stopped.len(),
            "stopped_seconds": stopped.as_secs_f64(),
            "wall_clock_sets": done.clock_sets,
        });
        println!("{figures:#}");
        if let Some(wanted) = &evidence {
            std::fs::write(&wanted.file, format!("{figures:#}\n")).expect("the figures are kept");
        }

        let faults = (verdict.dead, verdict.torn, verdict.wrongly_refused, verdict.unnamed);
        assert_eq!(faults, (0, 0, 0, 0), "dead, torn, wrongly refused, unnamed: {verdict:#?}");
        // Of the readers by path, in what docs/SEMANTICS.md says of a token that dies under an open.
        let stops = u64::try_from(done.stopped.len()).unwrap();
        assert!(verdict.other_sizes <= stops * (READERS as u64) / 2, "{verdict:#?}");
        assert!(verdict.late <= control.late, "{} late, {control:?}", verdict.late);
        assert!(verdict.refusals.values().sum::<u64>() > 0, "the faults were felt: {verdict:#?}");
        assert!(verdict.tokens_seen >= 3 && served > 1000, "{verdict:#?}");
        assert!(evidence.is_none_or(|wanted| served >= wanted.opens));
    });
}
