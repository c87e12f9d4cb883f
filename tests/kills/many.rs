//! The same with seventeen tokens in the mount, and readers of all of them.

use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use molecule_tokenfs::time::{Clock, SystemClock};
use nix::sys::signal::{Signal, kill};
use serde_json::json;

use crate::scenes::told;
use crate::supervisor::is_left;
use crate::support::daemon::{Daemon, tokenfs};
use crate::support::dir::TestDir;
use crate::support::opens::{Opens, boot};
use crate::support::process::run;
use crate::support::{eventually, millis, secs};
use crate::tokens::{Log, Tokens, short_life};
use crate::{Report, Series, at_most, evidence};

/// Places at which the worker kills itself. They are passed more often than those of one token: there are
/// more readers, and nine tokens whose views are renamed.
const PLACES: [(&str, &str); 7] = [
    ("in the middle of a slot write", "kill:slot:/3"),
    ("after the rename of a rotation", "kill:after-rename:/13"),
    ("in the handler of open", "kill:open:/7919"),
    ("before the rename of a rotation", "kill:rename:/13"),
    ("between lookup and open", "kill:after-lookup:/97"),
    ("before an open that is judged is answered", "kill:judged:/7919"),
    ("in the handler of read", "kill:read:/3989"),
];

/// How long GitHub takes in [`while_opens_wait`].
const SLOW: Duration = millis(300);

pub fn play(series: &Series, report: &mut Report) {
    let name = "at random moments, tokens that rotate";
    at_random(series, report, Scene::start(series, name, &[]), 1);
    let name = "at random moments, tokens of an hour";
    let lasting = Scene::with(series, name, &[], Duration::from_hours(1), Duration::ZERO);
    at_random(series, report, lasting, 0);
    // The gate has no time for more.
    let places = if evidence().is_some() { PLACES.len() } else { 3 };
    for (name, fault) in PLACES.into_iter().take(places) {
        let scene = Scene::start(series, name, &["--fault", fault]);
        scene.wait_for_deaths(series.kills);
        scene.end(report, &Ends::default());
    }
    while_opens_wait(series, report);
    stopped_for_a_moment(series, report);
    if !series.without_resend {
        at_starts(series, report);
        upgrades(series, report);
    }
    if evidence().is_some() && !series.without_resend {
        stopped_for_ever(series, report);
    }
}

/// What a scene is judged by, besides its deaths.
struct Ends {
    /// How often each token is renewed at least.
    rotations: usize,
    stops: u64,
    /// When the worker was replaced without a death.
    upgrades: Vec<Range<Duration>>,
}

impl Default for Ends {
    fn default() -> Self {
        // The gate has no time for that in each scene.
        let rotations = if evidence().is_some() { 2 } else { 0 };
        Self { rotations, stops: 0, upgrades: Vec::new() }
    }
}

/// A mount with readers at work.
struct Scene<'a> {
    series: &'a Series,
    name: &'static str,
    readers: Opens,
    number: u64,
    daemon: Daemon,
    tokens: Arc<Tokens>,
    dir: TestDir,
}

impl<'a> Scene<'a> {
    fn start(series: &'a Series, name: &'static str, args: &[&str]) -> Self {
        Self::with(series, name, args, short_life(), Duration::ZERO)
    }

    /// Tokens live for `life`, and GitHub takes `slow`.
    fn with(
        series: &'a Series,
        name: &'static str,
        args: &[&str],
        life: Duration,
        slow: Duration,
    ) -> Self {
        let dir = TestDir::new();
        let tokens = Tokens::new(&dir, life, slow);
        let daemon = tokens.daemon(series, &dir, args).start();
        let readers =
            if slow.is_zero() { tokens.readers(&daemon) } else { tokens.patient_readers(&daemon) };
        let number = readers.len() as u64;
        let readers = Opens::by(readers, series.reader());
        Self { series, name, readers, number, daemon, tokens, dir }
    }

    /// Each token was got.
    fn begin(self) -> Self {
        self.wait_for_rotations(0);
        self
    }

    /// Until each token was renewed so often.
    fn wait_for_rotations(&self, number: usize) {
        if let Err(places) = self.tokens.wait_for_rotations(number) {
            println!("{}", self.daemon.log());
            assert_eq!(places, [""; 0], "{}: not renewed {number} times", self.name);
        }
    }

    /// The worker of now has served: what each reader had in hand may be of the one before. A request that is
    /// in hand when three workers die counts as what they died of, and fails.
    fn wait_for_opens(&self) {
        let opens = self.readers.done() + self.number;
        eventually("served again", secs(20), || (self.readers.done() > opens).then_some(()));
    }

    fn wait_for_deaths(&self, number: u64) {
        eventually(self.name, secs(20 + number * 6), || {
            (told(&self.daemon).0 >= number).then_some(())
        });
    }

    fn end(self, report: &mut Report, ends: &Ends) {
        self.wait_for_rotations(ends.rotations);
        let upgrades = ends.upgrades.len();
        let (seen, verdict) = self.tokens.end(self.readers, || {
            let mut log = told_of_tokens(&self.daemon);
            log.deaths.extend(ends.upgrades.iter().cloned());
            log
        });
        let (died, _, twice) = told(&self.daemon);
        // As with one token: at most one for each reader and stop.
        let is_clean = if ends.stops > 0 {
            seen.has_only_tokens() && seen.wrong_sizes <= self.number * ends.stops
        } else {
            seen.is_clean(self.series.without_resend)
        };
        let holds = is_clean && twice == 0 && verdict.holds() && seen.opens > 10;
        let mut figures = serde_json::to_value(&verdict).expect("figures");
        figures["readers"] = json!(self.number);
        figures["generations_reused"] = json!(twice);
        figures["seen"] = json!(seen);
        if ends.stops > 0 {
            figures["stops"] = json!(ends.stops);
        } else if upgrades > 0 {
            figures["upgrades"] = json!(upgrades);
        } else {
            figures["deaths"] = json!(died);
        }
        if !holds {
            println!("{}", self.daemon.log());
        }
        report.add(self.name, figures, holds);
        drop(self.daemon);
        drop(self.dir);
    }
}

/// What the log tells of tokens and deaths.
fn told_of_tokens(daemon: &Daemon) -> Log {
    const DEATHS: [&str; 3] =
        ["the worker died", "the worker failed", "the worker does not answer"];
    let now = SystemClock.now();
    let text = daemon.log();
    let told = text.lines().filter_map(|line| {
        let token = line.contains("a new token").then(|| line.split("fingerprint=").nth(1));
        if token.is_none() && !DEATHS.iter().any(|death| line.contains(death)) {
            return None;
        }
        let token = token.flatten().and_then(|rest| rest.split(' ').next());
        let time = line.split(' ').next().and_then(|time| time.parse::<jiff::Timestamp>().ok());
        // A worker that is killed can leave half a line, on which the next one goes on.
        let time = time?.as_millisecond();
        let time = Duration::from_millis(time.try_into().expect("a time"));
        Some((now.boot.saturating_sub(now.wall.saturating_sub(time)), token))
    });
    let mut told: Vec<_> = told.collect();
    // Each process writes its log by itself.
    told.sort_by_key(|(time, _)| *time);
    let mut log = Log::default();
    for (number, (time, token)) in told.iter().enumerate() {
        match (token, told.get(number + 1)) {
            (None, _) => log.deaths.push(*time..*time),
            // A worker writes a token down before it logs the next one.
            (Some(token), Some((_, Some(_)))) => drop(log.written.insert((*token).to_owned())),
            (Some(_), _) => {}
        }
    }
    log
}

fn at_random(series: &Series, report: &mut Report, scene: Scene<'_>, rotations: usize) {
    let scene = scene.begin();
    for n in 0..series.kills {
        scene.wait_for_opens();
        // Long enough for a fetch.
        thread::sleep(millis(80 + n * 13 % 120));
        scene.daemon.kill_worker(Signal::SIGKILL);
    }
    scene.end(report, &Ends { rotations, ..Ends::default() });
}

/// Opens wait for a slow GitHub, and the worker dies with them.
fn while_opens_wait(series: &Series, report: &mut Report) {
    // More than there are readers: else it would die again and again before the first token comes.
    let fault = ["--fault", "kill:task:/23"];
    let scene = Scene::with(series, "while opens wait", &fault, short_life(), SLOW);
    scene.wait_for_deaths(series.kills.div_ceil(4));
    scene.end(report, &Ends::default());
}

/// The next worker dies, too, while it takes the tokens over. A start has about twenty steps.
fn at_starts(series: &Series, report: &mut Report) {
    let name = "while the tokens are taken over";
    let scene = Scene::start(series, name, &["--fault", "kill:step:/27"]).begin();
    while told(&scene.daemon).0 < series.kills {
        scene.wait_for_opens();
        thread::sleep(millis(40));
        scene.daemon.kill_worker(Signal::SIGKILL);
    }
    scene.end(report, &Ends::default());
}

/// The worker stops, and is replaced.
fn stopped_for_ever(series: &Series, report: &mut Report) {
    let scene = Scene::start(series, "the worker is stopped for ever", &[]).begin();
    let (mut longest, stops) = (Duration::ZERO, series.kills.div_ceil(20));
    for _ in 0..stops {
        let worker = eventually("a worker", secs(5), || scene.daemon.worker());
        kill(worker, Signal::SIGSTOP).expect("the worker");
        let start = boot();
        eventually("it is killed", secs(20), || (!is_left(worker)).then_some(()));
        scene.wait_for_opens();
        longest = longest.max(boot().saturating_sub(start));
        thread::sleep(millis(500));
    }
    assert!(longest < at_most(secs(10)), "{longest:?}");
    scene.end(report, &Ends { stops, ..Ends::default() });
}

/// The worker stops and goes on, before anybody misses it.
fn stopped_for_a_moment(series: &Series, report: &mut Report) {
    let scene = Scene::start(series, "the worker is stopped for a moment", &[]).begin();
    let stops = series.kills.min(20);
    for n in 0..stops {
        scene.wait_for_opens();
        thread::sleep(millis(100 + n * 13 % 60));
        scene.daemon.kill_worker(Signal::SIGSTOP);
        thread::sleep(millis(100 + n * 70 % 1000));
        scene.daemon.kill_worker(Signal::SIGCONT);
    }
    scene.end(report, &Ends { stops, ..Ends::default() });
}

fn upgrades(series: &Series, report: &mut Report) {
    let scene = Scene::start(series, "upgrades", &[]).begin();
    let mut upgrades = Vec::new();
    for _ in 0..series.kills.min(20) {
        scene.wait_for_opens();
        let start = boot();
        let mut upgrade = tokenfs(&scene.dir, series.user);
        upgrade.arg("upgrade").arg(scene.daemon.mountpoint());
        run(upgrade, &scene.dir, secs(20)).ok();
        upgrades.push(start..boot());
    }
    scene.end(report, &Ends { upgrades, ..Ends::default() });
}
