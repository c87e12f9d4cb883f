//! One history: a seed, a world, a real engine, and readers that come, wait, vanish and reject.

use std::sync::Arc;
use std::time::Duration;

use molecule_tokenfs::caller::Caller;
use molecule_tokenfs::refresh::simulated::SimulatedTime;
use molecule_tokenfs::refresh::store::MemoryStore;
use molecule_tokenfs::refresh::{Engine, Handle, Windows};
use molecule_tokenfs::secret::Fingerprint;
use molecule_tokenfs::source::Source;
use molecule_tokenfs::time::Clock as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::{JoinHandle, JoinSet};

use crate::figures::Figures;
use crate::model::{Model, Open};
use crate::world::{EnvSource, Health, Platform, PlatformSource, World, fault};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// What a token taught about the clocks is forgotten after as many others.
const TOKENS: usize = 8;

/// What became of a history.
pub struct Outcome {
    pub figures: Figures,
    pub violation: Option<String>,
    /// What happened, the same for the same seed.
    pub trace: Vec<String>,
}

/// Lives through the history of this seed.
pub fn run(seed: u64, trace: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let (world, time) = runtime.block_on(async {
        let mut history = History::new(seed, trace);
        history.live().await;
        history.kill().await;
        let time = history.world.truth();
        (history.world, time)
    });
    drop(runtime);
    let mut inner = world.inner();
    let mut figures = std::mem::take(&mut inner.figures);
    figures.histories = 1;
    figures.time = time;
    figures.judged = inner.model.judged;
    figures.unjudged = inner.model.unjudged;
    Outcome {
        figures,
        violation: inner.violation.take(),
        trace: inner.trace.take().unwrap_or_default(),
    }
}

struct History {
    world: Arc<World>,
    chance: StdRng,
    windows: Windows,
    store: Arc<MemoryStore>,
    sources: Vec<Arc<dyn Source>>,
    handle: Handle,
    engine: JoinHandle<()>,
    seed: u64,
    readers: JoinSet<()>,
}

/// The users who read.
const USERS: u32 = 2;

/// What a reader does with what it gets.
#[derive(Clone, Copy)]
enum Manner {
    Reads,
    Rejects,
}

impl History {
    fn new(seed: u64, trace: bool) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let time = SimulatedTime::new();
        let hourly = chance.random_bool(0.4);
        let life = if hourly {
            HOUR
        } else {
            SECOND.mul_f64(2.0 * 1800_f64.powf(chance.random_range(0.0..1.0)))
        };
        let keeps =
            chance.random_bool(0.5).then(|| if life > 10 * MINUTE { 5 * MINUTE } else { life / 8 });
        let behind = if chance.random_bool(0.4) { off(&mut chance) } else { 0 };
        let windows = Windows {
            min_life: chance.random_bool(0.2).then(|| life.mul_f64(chance.random_range(0.0..1.0))),
            prefetch: chance.random_bool(0.2),
            idle: if chance.random_bool(0.2) { HOUR } else { Windows::default().idle },
            ..Windows::default()
        };
        let platform = Platform::new(life, keeps, behind);
        let model = Model::new(windows.clone(), &time.now());
        let world = World::new(time, model, platform, seed, trace);
        if chance.random_bool(0.2) {
            // Before anything has happened: wrong from the start.
            let by = Duration::from_secs(off(&mut chance).unsigned_abs());
            let forward = chance.random_bool(0.5);
            world.set_clock(|time| {
                if forward { time.set_wall_forward(by) } else { time.set_wall_back(by) }
            });
        }
        let mut sources: Vec<Arc<dyn Source>> = vec![Arc::new(PlatformSource(world.clone()))];
        let env = *[None, None, Some(None), Some(Some("ghs_env")), Some(Some("ghp_env"))]
            .choose(&mut chance)
            .expect("there are some");
        if let Some(token) = env {
            sources.push(Arc::new(EnvSource::new(world.clone(), token)));
        }
        let store = Arc::new(MemoryStore::default());
        let (handle, engine) = start(&world, &sources, &windows, &store, seed);
        world.note(Ok(()), || {
            format!("life {life:?}, keeps {keeps:?}, behind {behind} s, env {env:?}, {windows:?}")
        });
        let readers = JoinSet::new();
        Self { world, chance, windows, store, sources, handle, engine, seed, readers }
    }

    async fn live(&mut self) {
        let steps = self.chance.random_range(20..100);
        for _ in 0..steps {
            self.happens().await;
            self.pass().await;
            if self.is_broken() {
                return;
            }
        }
        self.heals().await;
    }

    fn is_broken(&mut self) -> bool {
        let now = self.world.now();
        while let Some(ended) = self.readers.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        let verdict = self.world.inner().model.overdue(&now);
        if verdict.is_err() {
            self.world.note(verdict, || "nothing".to_owned());
        }
        if self.engine.is_finished() {
            self.world.note(Err("the engine ended".to_owned()), String::new);
        }
        self.world.inner().violation.is_some()
    }

    /// Time goes by: mostly little, sometimes an outage's worth.
    async fn pass(&mut self) {
        let life = self.world.inner().platform.life;
        let most = match self.chance.random_range(0..20) {
            0..=9 => SECOND,
            10..=14 => 10 * SECOND,
            15..=17 => life / 2,
            18 => life * 2,
            _ => 20 * MINUTE,
        };
        tokio::time::sleep(most.mul_f64(self.chance.random_range(0.0..=1.0))).await;
    }

    async fn happens(&mut self) {
        if self.chance.random_bool(0.5) {
            settle().await;
        }
        let world = Arc::clone(&self.world);
        let life = world.inner().platform.life;
        let chance = &mut self.chance;
        let some =
            |chance: &mut StdRng, most: Duration| most.mul_f64(chance.random_range(0.0..=1.0));
        let event = match chance.random_range(0..100) {
            0..=24 => return self.reads(Manner::Reads),
            25..=27 => {
                for _ in 0..self.chance.random_range(2..30) {
                    self.reads(Manner::Reads);
                }
                return;
            }
            28..=32 => return self.reads(Manner::Rejects),
            33..=54 => {
                let opens = self.chance.random_range(1..8);
                return self.busy(opens).await;
            }
            55..=66 => {
                let health = match chance.random_range(0..10) {
                    0..=4 => Health::Well,
                    5..=6 => Health::Flaky,
                    _ => Health::Down(fault(chance)),
                };
                world.inner().platform.health = health;
                world.note(Ok(()), || format!("the platform is {health:?}"));
                return;
            }
            67..=69 => {
                world.write_bearer();
                "bearer"
            }
            70..=73 => {
                let most =
                    *[10 * SECOND, 2 * life, HOUR, 5 * 24 * HOUR].choose(chance).expect("some");
                world.suspend(some(chance, most));
                "suspend"
            }
            74..=75 => {
                // The boot clock does not count it; the host puts the wall clock right.
                let length = some(chance, 2 * life);
                world.inner().slept += length;
                world.set_clock(|time| time.set_wall_forward(length));
                "freeze"
            }
            76 => {
                // Nothing tells the machine so until the wall clock is put right.
                let length = SECOND * 2 + some(chance, life);
                world.inner().slept += length;
                world.note(Ok(()), || format!("frozen for {length:?}"));
                self.busy(2).await;
                world.set_clock(|time| time.set_wall_forward(length));
                "freeze that is noticed late"
            }
            77..=79 => {
                let by = SECOND * 2 + some(chance, 2 * life);
                world.set_clock(|time| time.set_wall_forward(by));
                "wall clock forward"
            }
            80..=83 => {
                let by = SECOND * 2 + some(chance, 2 * life);
                world.set_clock(|time| time.set_wall_back(by));
                "wall clock back"
            }
            84..=85 => {
                let by = SECOND * 2 + some(chance, 2 * life);
                world.set_clock(|time| time.set_boot_forward(by));
                "boot clock forward"
            }
            86..=90 => {
                let accepted = self.handle.refresh();
                let now = world.now();
                let verdict = accepted.map_or(Ok(()), |()| world.inner().model.forced(&now));
                world.note(verdict, || format!("forced: {accepted:?}"));
                "forced refresh"
            }
            91..=93 => {
                // A token of long ago, or of nobody.
                let unknown = Fingerprint::of(&chance.random_range(0..20_u8).to_le_bytes());
                let known = world.inner().model.ledger.keys().copied().collect::<Vec<_>>();
                let fingerprint = known.choose(chance).copied().unwrap_or(unknown);
                let user = chance.random_range(0..USERS);
                reject(&world, &self.handle, fingerprint, user);
                "stale reject"
            }
            94 => {
                let behind = if self.chance.random_bool(0.5) { off(&mut self.chance) } else { 0 };
                world.inner().platform.behind = behind;
                "platform clock set"
            }
            95 => {
                let silent = self.chance.random_bool(0.5);
                world.inner().platform.silent = silent;
                "platform silent"
            }
            96..=98 => {
                self.restart().await;
                "restart"
            }
            _ => return,
        };
        world.inner().figures.event(event);
        world.note(Ok(()), || format!("{event}; next {:?}", world.inner().model.pace.window));
    }

    /// One reader opens again and again.
    async fn busy(&mut self, opens: u32) {
        for _ in 0..opens {
            let deadline = self.world.now().boot + self.windows.open_timeout;
            let user = self.chance.random_range(0..USERS);
            open(&self.world, &self.handle, user, deadline, Manner::Reads).await;
        }
    }

    /// A reader comes, and may vanish.
    fn reads(&mut self, manner: Manner) {
        let most = *[Duration::ZERO, SECOND / 10, 5 * SECOND, 5 * SECOND, 5 * SECOND, MINUTE]
            .choose(&mut self.chance)
            .expect("some");
        let patience = self
            .chance
            .random_bool(0.2)
            .then(|| Duration::from_millis(self.chance.random_range(0..3000)));
        let user = self.chance.random_range(0..USERS);
        let (world, handle) = (Arc::clone(&self.world), self.handle.clone());
        let deadline = world.now().boot + most;
        self.readers.spawn(async move {
            let read = open(&world, &handle, user, deadline, manner);
            match patience {
                None => read.await,
                Some(patience) => {
                    if tokio::time::timeout(patience, read).await.is_err() {
                        world.inner().figures.vanished += 1;
                    }
                }
            }
        });
    }

    async fn kill(&mut self) {
        settle().await;
        self.readers.shutdown().await;
        self.world.inner().killing = true;
        self.engine.abort();
        let _ = (&mut self.engine).await;
        settle().await;
    }

    async fn restart(&mut self) {
        self.kill().await;
        let now = self.world.now();
        {
            let mut inner = self.world.inner();
            inner.killing = false;
            inner.model.restarted(&now);
        }
        self.seed = self.seed.wrapping_add(1 << 40);
        (self.handle, self.engine) =
            start(&self.world, &self.sources, &self.windows, &self.store, self.seed);
        self.reads(Manner::Reads);
        settle().await;
    }

    /// The platform heals. Within one step of the back-off there is a token, and nobody has to do
    /// anything for it but open.
    async fn heals(&mut self) {
        self.world.inner().platform.heal();
        self.world.put_right();
        self.world.note(Ok(()), || "the platform heals".to_owned());
        let world = Arc::clone(&self.world);
        let open = |handle: Handle| {
            let world = Arc::clone(&world);
            async move {
                let deadline = world.now().boot + 5 * SECOND;
                open(&world, &handle, 0, deadline, Manner::Reads).await;
            }
        };
        open(self.handle.clone()).await;
        // A hang that began before, and the step after it. What tokens proved by a boot clock that
        // jumped since is forgotten as others come.
        for step in 0..2 + TOKENS {
            if step >= 2 && !self.world.inner().model.misled {
                break;
            }
            let now = world.now().boot;
            let (in_flight, due) = {
                let pace = &world.inner().model.pace;
                (pace.in_flight, pace.window.1)
            };
            let until = match in_flight {
                Some(since) => since + self.windows.fetch_timeout,
                None => due,
            };
            tokio::time::sleep(until.saturating_sub(now).min(2 * HOUR) + SECOND / 2).await;
            open(self.handle.clone()).await;
            if self.is_broken() {
                return;
            }
        }
        let usable = self.handle.usable(None).is_some();
        let verdict = if usable { Ok(()) } else { Err("it did not heal".to_owned()) };
        world.note(verdict, || "the end".to_owned());
    }
}

/// How far a clock is off, in seconds: mostly by little.
fn off(chance: &mut StdRng) -> i64 {
    let most = *[30, 600, 600, 4 * 3600].choose(chance).expect("some");
    chance.random_range(-most..=most)
}

fn start(
    world: &Arc<World>,
    sources: &[Arc<dyn Source>],
    windows: &Windows,
    store: &Arc<MemoryStore>,
    seed: u64,
) -> (Handle, JoinHandle<()>) {
    let time = Arc::new(world.time.clone());
    let (handle, engine) =
        Engine::new(sources.to_vec(), windows.clone(), store.clone(), time.clone(), time, seed);
    (handle, tokio::spawn(engine.run()))
}

/// Opens as a reader does and has the model judge what comes of it.
async fn open(world: &World, handle: &Handle, user: u32, deadline: Duration, manner: Manner) {
    let asked = world.now();
    {
        let mut inner = world.inner();
        inner.figures.opens += 1;
        inner.model.opened(&asked);
    }
    let answer = handle.token(Some(Caller::of_user(user)), deadline).await;
    let (now, truth) = (world.now(), world.truth());
    let verdict = {
        let mut inner = world.inner();
        match &answer {
            Ok(_) if now == asked => inner.figures.at_once += 1,
            _ => {}
        }
        match &answer {
            Ok(_) => inner.figures.served += 1,
            Err(error) => *inner.figures.refused.entry(error.kind.errno_name()).or_default() += 1,
        }
        inner.model.judge(&Open { user, asked: asked.boot, deadline, answer: &answer }, &now, truth)
    };
    let brief = answer.as_ref().map(|fresh| fresh.token().fingerprint().to_string());
    world.note(verdict, || format!("an open of user {user} from {:?}: {brief:?}", asked.boot));
    if let (Manner::Rejects, Ok(fresh)) = (manner, &answer) {
        reject(world, handle, fresh.token().fingerprint(), user);
        world.inner().figures.event("reject");
    }
}

fn reject(world: &World, handle: &Handle, fingerprint: Fingerprint, user: u32) {
    handle.reject(fingerprint, Some(Caller::of_user(user)));
    let now = world.now();
    world.inner().model.rejected(fingerprint, user, &now);
    world.note(Ok(()), || format!("user {user} rejects {fingerprint}"));
}

/// Lets everything that can run now run.
async fn settle() {
    for _ in 0..12 {
        tokio::task::yield_now().await;
    }
}
