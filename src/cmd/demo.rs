//! `demo`: everything once through on this machine, with nothing of the user's and nobody else's.
//!
//! A platform on loopback issues tokens that live for seconds. Real git and real gh run against it
//! in lanes, side by side: one reads its token from a mount, another got it in its environment at the
//! start, as workspaces do today. The third opens a token for one repository alone, which the daemon mints
//! as a GitHub App, and uses it on another repository too. Without FUSE there are no such tokens.

use std::cell::Cell;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::cmd::demo::daemon::Daemon;
use crate::cmd::demo::frame::{Failure, Progress, Summary};
use crate::cmd::demo::fuse::Way;
use crate::cmd::demo::lane::{Kind, Lane};
use crate::cmd::demo::place::Place;
use crate::cmd::demo::screen::Output;
use crate::cmd::demo::tools::Tools;
use crate::cmd::{EXIT_FAILURE, print};
use crate::config::parse::span_argument;
use crate::demo::{Demo, Setup};
use crate::time::{Clock, SystemClock};

mod app;
mod daemon;
mod frame;
mod fuse;
mod lane;
mod paste;
mod place;
pub mod platform;
mod process;
mod screen;
mod tools;

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Run over this many token lifetimes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    lifetimes: u32,
    /// Let tokens live this long
    #[arg(long, value_name = "SPAN", default_value = "20s", value_parser = life)]
    life: Duration,
    /// Leave the mount up at the end and print lines to paste, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Print lines instead of drawing a screen
    #[arg(long)]
    plain: bool,
}

/// The life of a demo token: shorter ones are over before git has done its work.
fn life(text: &str) -> Result<Duration, String> {
    let life = span_argument(text)?;
    if (Duration::from_secs(4)..=Duration::from_hours(1)).contains(&life) {
        Ok(life)
    } else {
        Err("tokens of the demo live from 4s to 1h".to_owned())
    }
}

/// Runs `demo`.
///
/// # Errors
/// A tool is missing (the hint says what to do), or the mount does not come up.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let tools = Tools::find()?;
    // Enters a namespace where it must: as long as there is only one thread.
    let (way, obstacle) = match fuse::prepare() {
        Ok(way) => (way, None),
        Err(obstacle) => (Way::Files, Some(format!("{obstacle:#}"))),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(demonstrate(args, &tools, way, obstacle))
}

async fn demonstrate(
    args: &DemoArgs,
    tools: &Tools,
    way: Way,
    obstacle: Option<String>,
) -> anyhow::Result<ExitCode> {
    // From here on a signal ends the demo in order: whatever was made is removed by its owner's drop,
    // the last one first.
    let mut signals = Signals::new()?;
    let place = Place::create()?;
    let demo = Demo::start(Setup {
        unix_socket: Some(place.socket()),
        git_root: Some(place.directory("repositories")?),
        ..Setup::with_life(args.life)
    })
    .context("cannot start the demo platform")?;
    demo.register(&place.configs()).context("cannot write the bearer file")?;
    let (mounted, frozen) = (Lane::new(Kind::Mounted), Lane::new(Kind::Frozen));
    for lane in [&mounted, &frozen] {
        demo.create_repository(&lane.repository())?;
    }
    app::create(&place, &demo)?;
    let mut daemon = Daemon::start(&place, &demo, tools, args.life, way)?;
    tokio::select! {
        served = daemon.wait_until_it_serves(&place) => served?,
        () = signals.next() => return Ok(interrupted()),
    }
    let repository = (!daemon.keeps_files()).then(|| Lane::new(Kind::Repository));
    let lanes: Vec<&Lane> = [&mounted, &frozen].into_iter().chain(&repository).collect();

    let begin = SystemClock.now();
    let end = args.life * args.lifetimes + Duration::from_millis(500);
    // How long the demo stood still.
    let stopped = Cell::new(Duration::ZERO);
    let look = || {
        let now = SystemClock.now();
        Progress {
            life: args.life,
            elapsed: now.elapsed_since(&begin).saturating_sub(stopped.get()),
            end,
            lanes: frame::views(&lanes, &demo, tools.asker, &now),
        }
    };
    let plain = args.plain || !screen::can_be_drawn();
    let mut notes = tools.notes();
    notes.insert(
        0,
        if daemon.keeps_files() {
            let why = obstacle.unwrap_or_else(|| "FUSE cannot be used".to_owned());
            format!(
                "{why}: the tokens are files, replaced at each rotation, and there is none for one \
                 repository alone, which only a mount makes when it is opened"
            )
        } else {
            format!("FUSE serves the mounted token{}, at {}", way.words(), place.mount().display())
        },
    );
    let mut stops = Stops::new(!plain)?;
    // Each lane takes a turn for each of its commands.
    let turns = Semaphore::new(lanes.len());
    let all_lanes = u32::try_from(lanes.len()).unwrap_or(u32::MAX);
    let mut output = Output::open(plain, notes, &look())?;
    let stop = CancellationToken::new();
    let signalled = {
        let run = async |lane: Option<&Lane>| match lane {
            Some(lane) => lane.run(&place, &demo, tools, &turns, &stop).await,
            None => Ok(()),
        };
        let work = async {
            tokio::try_join!(run(Some(&mounted)), run(Some(&frozen)), run(repository.as_ref()))
        };
        tokio::pin!(work);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = SystemClock.now();
        let mut all_turns = None;
        loop {
            tokio::select! {
                done = &mut work => {
                    done?;
                    break false;
                }
                () = signals.next() => break true,
                () = stops.next(), if all_turns.is_none() => {
                    // The platform is in this process: a command that waited for it would come with a
                    // token that died meanwhile. So what runs is done first.
                    all_turns = Some(Box::pin(turns.acquire_many(all_lanes)));
                }
                none_runs = wait_for(&mut all_turns) => {
                    all_turns = None;
                    if output.stop()? {
                        daemon.recover(&lanes, &place).await;
                    }
                    drop(none_runs);
                }
                _ = tick.tick() => {
                    let now = SystemClock.now();
                    let passed = now.elapsed_since(&last);
                    // It was stopped, or the machine slept: none of that was shown to anybody.
                    if passed > STOOD_STILL {
                        stopped.set(stopped.get() + passed);
                    }
                    last = now;
                    let progress = look();
                    output.draw(&progress)?;
                    if progress.elapsed >= end {
                        stop.cancel();
                    }
                }
            }
        }
        // Leaving drops the lanes, and kills what they still run.
    };
    let progress = look();
    output.draw(&progress)?;
    drop(output);
    let summary = Summary::of(&progress, demo.ledger().counts().platform.issued);
    if args.keep && !signalled {
        print(summary.to_string().as_bytes())?;
        print(paste::lines(&place, &demo, tools, way).as_bytes())?;
        signals.next().await;
    }
    drop(daemon);
    let code = match summary.verdict(args.lifetimes) {
        // A demo that was cut short proves nothing about rotations, but a failure stays one.
        Err(Failure::Rotations { .. } | Failure::Untried) | Ok(()) if signalled => interrupted(),
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            print(format!("the demo failed: {failure}\n").as_bytes())?;
            ExitCode::from(EXIT_FAILURE)
        }
    };
    if !args.keep || signalled {
        print(summary.to_string().as_bytes())?;
    }
    Ok(code)
}

/// Waits for what there is to wait for.
async fn wait_for<F: Future + Unpin>(what: &mut Option<F>) -> F::Output {
    match what {
        Some(what) => what.await,
        None => std::future::pending().await,
    }
}

/// Between two looks at how things stand.
const TICK: Duration = Duration::from_millis(200);
/// Nothing but a stop keeps the demo from looking for so long.
const STOOD_STILL: Duration = Duration::from_secs(2);

/// What a shell reports for a process that SIGINT ended.
fn interrupted() -> ExitCode {
    ExitCode::from(130)
}

/// Ctrl-Z, where there is a screen to leave before the process stops.
struct Stops(Option<Signal>);

impl Stops {
    fn new(has_screen: bool) -> anyhow::Result<Self> {
        let listen = || signal(SignalKind::from_raw(libc::SIGTSTP));
        Ok(Self(has_screen.then(listen).transpose().context("cannot listen for signals")?))
    }

    async fn next(&mut self) {
        match &mut self.0 {
            Some(stop) => drop(stop.recv().await),
            None => std::future::pending().await,
        }
    }
}

/// The signals that end the demo.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
