//! An agent with the rights of an ordinary user, who owns the configs directory, and bad servers attack
//! the daemon in each of its forms, while honest readers read.
//!
//! The gate plays every attack once in each form; `scripts/evidence attack` plays them in random order
//! for ten minutes and keeps the figures. `MOLECULE_ATTACK_PROGRAM` names another build to attack,
//! `MOLECULE_ATTACK_ALONE` gives each attack a daemon of its own and counts those that hurt.
//!
//! An attack is one file in `attacks/`, or one entry in the list of its family.
//! needs: root, fuse, git, gh, busybox, python3, cc

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod attacks;
mod judge;
mod log;
mod platform;
mod readers;
mod resources;
mod scene;
mod server;
mod timeline;
mod world;

#[path = "../foreign/hung.rs"]
mod hung;
#[path = "../e2e/recorder.rs"]
mod recorder;
#[path = "../sources/tls.rs"]
#[expect(dead_code, reason = "of the certificates, only those of many names are used here")]
mod tls;

use std::fmt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};

use attacks::Attack;
use scene::{Form, Scene};
use support::daemon::PROGRAM;
use support::limit::each;
use support::namespace::sandboxed;
use support::secs;
use timeline::boot;
use world::World;

/// The order of the short form.
const SEED: u64 = 1;

/// What the environment asks for.
#[derive(Debug, Clone)]
struct Wanted {
    /// Where the figures go.
    file: Option<PathBuf>,
    /// How long the attacks go on in random order; once each where nobody says.
    time: Option<Duration>,
    seed: u64,
    program: PathBuf,
    /// Each attack has a daemon of its own.
    alone: bool,
    /// Only attacks with this in their name.
    only: String,
    /// And none with one of these in it.
    except: Vec<String>,
}

#[expect(clippy::disallowed_methods, reason = "how scripts/evidence asks for more")]
fn wanted() -> Wanted {
    let number = |name| std::env::var(name).ok()?.parse().ok();
    Wanted {
        file: std::env::var_os("MOLECULE_ATTACK_JSON").map(PathBuf::from),
        time: number("MOLECULE_ATTACK_SECONDS").map(secs),
        seed: number("MOLECULE_ATTACK_SEED").unwrap_or(SEED),
        program: std::env::var_os("MOLECULE_ATTACK_PROGRAM")
            .map_or_else(|| PROGRAM.into(), PathBuf::from),
        alone: std::env::var_os("MOLECULE_ATTACK_ALONE").is_some(),
        only: std::env::var("MOLECULE_ATTACK_ONLY").unwrap_or_default(),
        except: std::env::var("MOLECULE_ATTACK_EXCEPT")
            .map(|names| names.split(',').map(str::to_owned).collect())
            .unwrap_or_default(),
    }
}

#[test]
fn no_attack_delays_an_open_serves_a_dead_token_or_ends_the_daemon() {
    let wanted = wanted();
    let limit = match (wanted.time, wanted.alone) {
        (Some(time), _) => time + secs(300),
        (None, true) => secs(3000),
        (None, false) => secs(400),
    };
    sandboxed(limit, move || {
        let world = World::new(wanted.program.clone(), wanted.alone);
        let results = Mutex::new(serde_json::Map::new());
        // In the short form the attacks are shared out among daemons, which mostly wait.
        let parts = Form::ALL.into_iter().flat_map(|form| {
            let of = if wanted.time.is_some() { 1 } else { parts_of(form) };
            (1..=of).map(move |number| Part { form, number, of })
        });
        let parts: Vec<_> = parts.collect();
        each(
            &parts,
            |part| part.to_string(),
            |part| {
                let play = if wanted.alone { play_alone } else { play };
                let figures = play(&world, part, &wanted);
                results.lock().unwrap().insert(part.to_string(), figures);
            },
        );
        let results = results.into_inner().unwrap();
        let evil = world.tokens_at_evil_hosts();
        let figures = json!({
            "seed": wanted.seed,
            "except": wanted.except,
            "seconds": wanted.time.map(|time| time.as_secs()),
            "open_timeout_seconds": scene::DEADLINE.as_secs(),
            "grace_seconds": judge::GRACE.as_secs(),
            "token_life_seconds": scene::LIFE.as_secs(),
            "tokens_at_evil_hosts": evil,
            "forms": results,
        });
        println!("{figures:#}");
        if let Some(file) = &wanted.file {
            std::fs::write(file, format!("{figures:#}\n")).expect("the figures are kept");
        }
        let mut harm: Vec<String> = Vec::new();
        for (form, figures) in figures["forms"].as_object().unwrap() {
            let told = figures["harm"].as_array().unwrap().iter().filter_map(Value::as_str);
            harm.extend(told.map(|sentence| format!("{form}: {sentence}")));
        }
        if evil > 0 {
            harm.push(format!("{evil} requests with a token came to evil hosts"));
        }
        assert!(harm.is_empty(), "seed {}:\n{}", wanted.seed, harm.join("\n"));
    });
}

/// Some of the attacks on a form.
#[derive(Debug, Clone, Copy)]
struct Part {
    form: Form,
    number: usize,
    of: usize,
}

/// How many daemons of a form the short form attacks: as many in all as [`each`] has side by side.
fn parts_of(form: Form) -> usize {
    if form == Form::Files { 2 } else { 3 }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { form, number, of } = self;
        if *of == 1 { write!(f, "{form}") } else { write!(f, "{form} ({number} of {of})") }
    }
}

impl Part {
    /// The attacks that were asked for.
    fn attacks(self, wanted: &Wanted) -> Vec<Box<dyn Attack>> {
        let attacks = attacks::all().into_iter().filter(|attack| {
            let name = attack.name();
            attack.forms().contains(&self.form)
                && name.contains(wanted.only.as_str())
                && !wanted.except.iter().any(|word| name.contains(word))
        });
        attacks.skip(self.number - 1).step_by(self.of).collect()
    }

    /// A daemon to attack.
    fn start(self, world: &World, long: bool) -> Scene<'_> {
        Scene::start(world, self.form, self.number, long)
    }
}

/// All attacks on one daemon: once each, or in random order until the time is up.
fn play(world: &World, part: Part, wanted: &Wanted) -> Value {
    let mut random = StdRng::seed_from_u64(wanted.seed ^ (part.form as u64) << 32);
    let mut attacks = part.attacks(wanted);
    let mut scene = part.start(world, wanted.time.is_some());
    let end = wanted.time.map(|time| boot() + time);
    loop {
        attacks.shuffle(&mut random);
        for attack in &attacks {
            if end.is_some_and(|end| boot() >= end) {
                break;
            }
            scene.suffer(&**attack, &mut random);
            if scene.is_over() {
                return scene.end_without_log();
            }
        }
        if end.is_none_or(|end| boot() >= end) {
            return scene.end_without_log();
        }
    }
}

/// Each attack on a daemon of its own: which of them hurt.
fn play_alone(world: &World, part: Part, wanted: &Wanted) -> Value {
    let (mut hurt, mut harm, mut made) = (Vec::new(), Vec::new(), 0);
    let mut judge = |name: &str, figures: &Value| {
        let told = figures["harm"].as_array().unwrap();
        if !told.is_empty() {
            hurt.push(name.to_owned());
        }
        harm.extend(told.iter().cloned());
        made += 1;
    };
    for attack in &part.attacks(wanted) {
        let mut random = StdRng::seed_from_u64(wanted.seed);
        let mut scene = part.start(world, true);
        scene.suffer(&**attack, &mut random);
        judge(attack.name(), &scene.end());
    }
    if part.number == 1 {
        judge("the start, the end, and no log between", &part.start(world, true).end_without_log());
    }
    json!({ "attacks": made, "hurt": hurt, "harm": harm })
}
