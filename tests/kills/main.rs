//! Whatever dies or stops, readers notice nothing; and where nobody is left to serve them, they get an
//! error and do not hang.
//!
//! The gate plays nearly each scene with a few deaths; `scripts/evidence kills` plays all with a hundred, and
//! keeps the figures.
//! needs: root, fuse, setpriv

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a test shows its figures")]

#[path = "../support/mod.rs"]
mod support;

mod many;
mod scenes;
mod supervisor;
mod tokens;
mod watchdog;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};
use support::daemon::{Builder, Daemon};
use support::dir::TestDir;
use support::namespace::{open_fuse_device, sandboxed};
use support::opens::become_user;
use support::process::{ORDINARY, User};
use support::secs;

/// The file for the figures, where `scripts/evidence` asks for the long form.
#[expect(clippy::disallowed_methods, reason = "how scripts/evidence asks for more")]
fn evidence() -> Option<PathBuf> {
    Some(std::env::var_os("MOLECULE_KILLS_JSON")?.into())
}

/// A way to mount, and how much of each scene is played.
#[derive(Clone, Copy)]
struct Series {
    user: User,
    /// Deaths in each scene.
    kills: u64,
    /// As on kernels before 6.9.
    without_resend: bool,
}

impl Series {
    /// A daemon; `args` say how its tokens live.
    fn daemon<'a>(&self, dir: &'a TestDir, args: &[&str]) -> Builder<'a> {
        if let User::Number(id) = self.user {
            dir.give_to(id);
        }
        let builder = Daemon::of(dir, self.user).log_level("info").args(args);
        if self.without_resend { builder.args(["--without-resend"]) } else { builder }
    }

    fn reader(&self) -> Option<u32> {
        if let User::Number(id) = self.user { Some(id) } else { None }
    }

    /// A thread that reads as the user of this series.
    fn read<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let user = self.reader();
        thread::spawn(move || {
            if let Some(id) = user {
                become_user(id);
            }
            read()
        })
    }
}

/// Plays scenes, keeps their figures and what they broke.
#[derive(Default)]
struct Report {
    scenes: BTreeMap<&'static str, Value>,
    broken: Vec<String>,
}

impl Report {
    fn add(&mut self, name: &'static str, figures: Value, holds: bool) {
        println!("{name}: {figures}");
        if !holds {
            self.broken.push(format!("{name}: {figures}"));
        }
        self.scenes.insert(name, figures);
    }

    fn end(self, series: &str) {
        if let Some(file) = evidence() {
            let figures = json!({ "series": series, "scenes": self.scenes });
            let name = format!("{}-{}", file.display(), series.replace(' ', "-"));
            std::fs::write(name, format!("{figures:#}\n")).expect("the figures are kept");
        }
        assert!(self.broken.is_empty(), "{}", self.broken.join("\n"));
    }
}

/// What the evidence allows; the gate, on a machine that does other things, only that it ends.
fn at_most(time: Duration) -> Duration {
    if evidence().is_some() { time } else { secs(20) }
}

/// So many in the evidence, so few in the gate.
fn kills(long: u64, short: u64) -> u64 {
    if evidence().is_some() { long } else { short }
}

fn play(name: &'static str, user: User, kills: u64, without_resend: bool) {
    play_scenes(name, Series { user, kills, without_resend }, |series, report| {
        scenes::play(series, report);
        if !series.without_resend {
            watchdog::play(series, report);
            supervisor::play(series, report);
        }
    });
}

fn play_scenes(name: &'static str, series: Series, play: fn(&Series, &mut Report)) {
    sandboxed(secs(60 + series.kills * 20), move || {
        let devices = TestDir::new();
        if matches!(series.user, User::Number(_)) {
            open_fuse_device(&devices);
        }
        let mut report = Report::default();
        play(&series, &mut report);
        report.end(name);
    });
}

#[test]
fn readers_notice_no_death_of_a_worker() {
    play("root", User::Own, kills(100, 2), false);
}

#[test]
fn readers_notice_no_death_of_a_worker_on_an_older_kernel() {
    play("without RESEND", User::Own, kills(100, 2), true);
}

#[test]
#[ignore = "scripts/evidence kills runs it"]
fn readers_notice_no_death_of_a_worker_without_capabilities() {
    play("root without capabilities", User::Bounded, 10, false);
}

#[test]
#[ignore = "scripts/evidence kills runs it"]
fn readers_notice_no_death_of_a_worker_by_an_ordinary_user() {
    play("ordinary user", User::Number(ORDINARY), 10, false);
}

#[test]
#[ignore = "scripts/evidence kills runs it as the root of a user namespace"]
fn readers_notice_no_death_of_a_worker_in_a_user_namespace() {
    play("user namespace", User::Own, 10, false);
}

#[test]
fn readers_of_seventeen_tokens_notice_no_death_of_a_worker() {
    let series = Series { user: User::Own, kills: kills(100, 2), without_resend: false };
    play_scenes("17 tokens", series, many::play);
}

#[test]
#[ignore = "scripts/evidence kills runs it"]
fn readers_of_seventeen_tokens_notice_no_death_of_a_worker_on_an_older_kernel() {
    let series = Series { user: User::Own, kills: 30, without_resend: true };
    play_scenes("17 tokens without RESEND", series, many::play);
}

#[test]
#[ignore = "scripts/evidence kills runs it"]
fn readers_of_seventeen_tokens_notice_no_death_of_a_worker_by_an_ordinary_user() {
    let series = Series { user: User::Number(ORDINARY), kills: 10, without_resend: false };
    play_scenes("17 tokens, ordinary user", series, many::play);
}
