//! What is done to the platform and to the daemon while readers read.

use std::fs;
use std::thread;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::judge::{Done, LONGEST_WAY, Span};
use crate::platform::Platform;
use crate::readers::boot;
use crate::support::daemon::Daemon;
use crate::support::millis;
use crate::support::wall_clock::WallClock;

/// One step of a scene. Times are in milliseconds.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// The next requests meet these, one each.
    Script(&'static [&'static str]),
    /// Every request meets this.
    Stick(&'static str),
    /// The platform works again.
    Heal,
    Wait(u64),
    /// The daemon stands still for so long.
    Stop(u64),
    /// The daemon's wall clock is set to so many seconds ahead of the right time.
    Wall(i64),
    /// A consumer asks for another token at once.
    Refresh,
    /// The workspace registers anew, which ends the wait after a refused bearer.
    Register,
}

use Step::{Heal, Refresh, Register, Script, Stick, Stop, Wait, Wall};

pub type Scene = &'static [Step];

/// Tokens live for 4 s: what lasts longer outlives any token in hand. What a
/// scene leaves of its faults is taken back after it, and each leaves the clock right.
const SCENES: &[Scene] = &[
    &[Wait(4000)],
    // Answers that are none, a good one after every second.
    &[
        Script(&["status:503", "reset", "ok", "close", "cut", "ok", "html", "truncated", "ok"]),
        Wait(9000),
    ],
    &[
        Script(&["huge", "huge-stream", "ok", "empty-token", "newline-token", "ok", "nul-token"]),
        Wait(8000),
    ],
    &[Script(&["other-key", "no-expiry", "ok", "born-expired", "redirect-loop", "ok"]), Wait(8000)],
    &[
        Script(&["redirect-same", "redirect-elsewhere", "ok", "slow:300", "status:404"]),
        Wait(8000),
        Register,
        Wait(2000),
    ],
    // Platforms that are gone for shorter and for longer than a life.
    &[Stick("status:500"), Wait(100), Refresh, Wait(1400), Heal, Wait(2500)],
    &[Stick("status:502"), Wait(6000), Heal, Refresh, Wait(3000)],
    &[Stick("hang"), Wait(100), Refresh, Wait(6000), Heal, Wait(3000)],
    &[Wait(1100), Refresh, Wait(1100), Refresh, Refresh, Wait(1100)],
    &[Stick("slow:300"), Wait(4000), Heal, Wait(1000)],
    &[Stick("slow:5000"), Wait(5000), Heal, Wait(2000)],
    // Platforms that say no, or wait, or give what they gave before.
    &[Stick("status:401"), Wait(5000), Heal, Register, Wait(2500)],
    &[Stick("status:403"), Wait(5000), Heal, Register, Wait(2500)],
    &[Script(&["retry-after:2"]), Wait(4500), Script(&["rate-limit:2"]), Wait(4500)],
    &[Stick("repeat"), Wait(5000), Heal, Wait(3000)],
    // A process that stands still, and a suspended machine is nothing else.
    &[Stop(500), Wait(1500), Stop(1500), Wait(1500)],
    &[Stop(4500), Wait(2000)],
    &[Stick("status:500"), Stop(4500), Wait(1000), Heal, Wait(2500)],
    &[Stick("hang"), Wait(800), Stop(2500), Heal, Wait(2500)],
    // Clocks that are set by an hour, by seconds, and while other things happen.
    &[Wall(3600), Wait(2500), Wall(0), Wait(4500)],
    &[Wall(-3600), Wait(4500), Wall(0), Wait(2500)],
    &[Wall(2), Wait(1500), Wall(-2), Wait(1500), Wall(0), Wait(2000)],
    &[Wall(3600), Stick("reset"), Wait(1500), Heal, Wall(-3600), Wait(2500), Wall(0), Wait(2000)],
    &[Wall(-3600), Stop(4500), Wait(1000), Wall(3600), Stop(1000), Wait(1000), Wall(0), Wait(2000)],
];

/// A bit of everything, for the gate.
pub static SHORT: [Step; 17] = [
    Wait(500),
    Script(&["status:503", "reset", "html"]),
    Wall(3600),
    Wait(1000),
    Wall(-3600),
    Stop(4200),
    Wait(500),
    Wall(0),
    Wait(500),
    Stick("status:502"),
    Refresh,
    Wait(1000),
    Stick("hang"),
    Wait(3600),
    Heal,
    Register,
    Wait(1000),
];

/// Who does it.
pub struct Director<'a> {
    pub platform: &'a Platform,
    pub daemon: &'a Daemon,
    pub clock: &'a WallClock,
    pub done: Done,
    /// How many scenes were played.
    pub scenes: u64,
    ahead: i64,
    /// Since when what the platform does is [`Done::doubtful`].
    doubt: Option<Duration>,
}

impl<'a> Director<'a> {
    pub fn new(platform: &'a Platform, daemon: &'a Daemon, clock: &'a WallClock) -> Self {
        Self { platform, daemon, clock, done: Done::default(), scenes: 0, ahead: 0, doubt: None }
    }

    pub fn play(&mut self, scene: Scene) {
        for step in scene {
            self.step(*step);
        }
        self.step(Heal);
        self.scenes += 1;
    }

    /// Plays all scenes in an order drawn from `seed`, and again in another, until `enough` says so.
    pub fn play_all(&mut self, seed: u64, mut enough: impl FnMut() -> bool) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut scenes = SCENES.to_vec();
        loop {
            scenes.shuffle(&mut rng);
            for scene in &scenes {
                self.play(scene);
            }
            if enough() {
                return;
            }
        }
    }

    fn fail(&mut self, script: &[&str], sticky: Option<&str>) {
        self.platform.fail(script, sticky);
        if let Some(start) = self.doubt.take() {
            self.done.doubtful.push(Span { start, end: boot() + LONGEST_WAY });
        }
        let is_doubtful = |fault: &str| fault.starts_with("slow") || fault == "repeat";
        if script.iter().copied().chain(sticky).any(is_doubtful) {
            self.doubt = Some(boot());
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Script(faults) => self.fail(faults, None),
            Stick(fault) => self.fail(&[], Some(fault)),
            Heal => self.fail(&[], None),
            Wait(time) => thread::sleep(millis(time)),
            Stop(time) => {
                let start = boot();
                let paused = self.daemon.pause();
                thread::sleep(millis(time));
                drop(paused);
                self.done.stopped.push(Span { start, end: boot() });
            }
            Wall(ahead) => {
                // Noted before and after: an open may meet the clock of either side.
                let before = boot();
                self.clock.set_ahead(ahead);
                if ahead > self.ahead {
                    self.done.set_forward.extend([before, boot()]);
                }
                self.done.clock_sets += 1;
                self.ahead = ahead;
            }
            // EAGAIN, sooner than a second after the last one, is an answer as well.
            Refresh => drop(fs::write(self.daemon.path("refresh"), "now")),
            Register => self.platform.register_anew(),
        }
    }
}
