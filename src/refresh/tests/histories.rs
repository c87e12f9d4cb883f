//! Histories of chance, checked against what the issuer knows.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::error::FetchError;
use crate::secret::Secret;
use crate::source::{BoxFuture, Fetched};
use crate::token::Life;

/// A platform that caches or mints, fails in every way, and remembers when its tokens really end.
struct Issuer {
    time: SimulatedTime,
    chance: Mutex<StdRng>,
    healthy: Mutex<bool>,
    cached: Mutex<Option<(String, Duration)>>,
    /// Boot time at which each token ends, and its life at first sight.
    ledger: Mutex<HashMap<String, (Duration, Duration)>>,
    in_flight: AtomicU32,
    most_in_flight: AtomicU32,
    life: Duration,
    caches: bool,
}

impl Issuer {
    fn token(&self) -> (String, Duration) {
        let now = self.time.now().boot;
        let mut cached = self.cached.lock().unwrap();
        let keep = self.life / 8;
        if let Some((bytes, end)) = cached.as_ref().filter(|(_, end)| *end > now + keep)
            && self.caches
        {
            return (bytes.clone(), *end);
        }
        let mut ledger = self.ledger.lock().unwrap();
        let fresh = (format!("ghs_{}", ledger.len()), now + self.life);
        ledger.insert(fresh.0.clone(), (fresh.1, self.life));
        cached.insert(fresh).clone()
    }
}

struct InFlight<'a>(&'a AtomicU32);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Source for Issuer {
    fn name(&self) -> &'static str {
        "platform"
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        Box::pin(async move {
            let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
            self.most_in_flight.fetch_max(now, Ordering::Relaxed);
            let _guard = InFlight(&self.in_flight);
            let issued = self.time.now();
            let healthy = *self.healthy.lock().unwrap();
            let (case, latency, kind) = {
                let mut chance = self.chance.lock().unwrap();
                let kind = FetchErrorKind::ALL[chance.random_range(0..FetchErrorKind::ALL.len())];
                (chance.random_range(0..10), chance.random_range(0..1500), kind)
            };
            let latency = if healthy { latency / 10 } else { latency };
            pass(Duration::from_millis(latency)).await;
            let (bytes, end) = match case {
                _ if healthy => self.token(),
                0..=3 => self.token(),
                4..=7 => return Err(FetchError::new("platform", kind, "")),
                8 => std::future::pending().await,
                _ => panic!("by chance"),
            };
            // The request was sent before the token was made, so its life only looks shorter.
            let life = Life::Known(end.saturating_sub(self.time.now().boot));
            Ok(Fetched { secret: Secret::new(bytes.into_bytes()).unwrap(), issued, life })
        })
    }
}

async fn history(seed: u64) -> (u64, u64) {
    let mut chance = StdRng::seed_from_u64(seed);
    let time = SimulatedTime::new();
    let life = Duration::from_secs(*[2, 10, 60, 600, 3600].get(chance.random_range(0..5)).unwrap());
    let caches = chance.random_bool(0.5);
    let issuer = Arc::new(Issuer {
        time: time.clone(),
        chance: Mutex::new(StdRng::seed_from_u64(!seed)),
        healthy: Mutex::new(true),
        cached: Mutex::default(),
        ledger: Mutex::default(),
        in_flight: AtomicU32::new(0),
        most_in_flight: AtomicU32::new(0),
        life,
        caches,
    });
    // A platform that caches cannot keep a larger minimum life than it caches.
    let min_life = (!caches && chance.random_bool(0.5)).then_some(life / 3);
    let windows = Windows { min_life, ..Windows::default() };
    let (handle, engine) = Engine::new(
        vec![issuer.clone()],
        windows.clone(),
        Arc::new(MemoryStore::default()),
        Arc::new(time.clone()),
        Arc::new(time.clone()),
        seed,
    );
    let engine = tokio::spawn(engine.run());
    let (mut served, mut refused) = (0, 0);
    for _ in 0..150 {
        match chance.random_range(0..40) {
            0 => time.suspend(life.mul_f64(chance.random_range(0.0..3.0))),
            1 => time.set_wall_forward(life.mul_f64(chance.random_range(0.0..2.0))),
            2 => time.set_wall_back(life.mul_f64(chance.random_range(0.0..2.0))),
            3..=6 => *issuer.healthy.lock().unwrap() = chance.random_bool(0.5),
            7 => drop(handle.refresh()),
            8 => {
                if let Some(token) = handle.snapshot().token {
                    handle.reject(token.fingerprint());
                }
            }
            9 => {
                let open = tokio::spawn({
                    let (handle, deadline) = (handle.clone(), time.now().boot + 5 * SECOND);
                    async move { handle.token(deadline).await }
                });
                pass(Duration::from_millis(chance.random_range(0..50))).await;
                open.abort();
            }
            _ => {}
        }
        let pause = if chance.random_bool(0.2) { life } else { SECOND / 2 };
        pass(pause.mul_f64(chance.random_range(0.0..=1.0))).await;
        let asked = time.now().boot;
        let usable = handle.usable();
        let answer = handle.token(asked + windows.open_timeout).await;
        let now = time.now();
        let waited = now.boot - asked;
        assert!(waited <= windows.open_timeout + SECOND / 100, "seed {seed}: late, {waited:?}");
        match answer {
            Ok(fresh) => {
                served += 1;
                let (end, _) = issuer.ledger.lock().unwrap()[fresh.token().secret.expose_str()];
                let left = end.saturating_sub(now.boot);
                let least = handle.min_life_of(fresh.token().life);
                assert!(left >= least && !left.is_zero(), "seed {seed}: dead, {left:?} left");
            }
            Err(error) => {
                refused += 1;
                assert!(usable.is_none() && handle.usable().is_none(), "seed {seed}: {error}");
            }
        }
    }
    // It heals by itself: within a permanent failure's retry and the rest of a hang.
    *issuer.healthy.lock().unwrap() = true;
    pass(MINUTE + windows.fetch_timeout + SECOND).await;
    let healed = handle.token(time.now().boot + windows.open_timeout).await;
    assert!(healed.is_ok() || life < 3 * SECOND, "seed {seed}: {healed:?}");
    assert_eq!(issuer.most_in_flight.load(Ordering::Relaxed), 1, "seed {seed}");
    engine.abort();
    (served, refused)
}

#[tokio::test(start_paused = true)]
async fn histories_of_chance_keep_the_promise() {
    let (mut served, mut refused) = (0, 0);
    for seed in 0..200 {
        let (s, r) = history(seed).await;
        (served, refused) = (served + s, refused + r);
    }
    // The world must be neither too kind nor too cruel to say anything.
    assert!(served > 10_000 && refused > 1_000, "{served} served, {refused} refused");
}
