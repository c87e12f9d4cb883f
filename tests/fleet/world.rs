//! The fleet: each workspace lives its own life of events under one rule, beside one platform.
//!
//! Nothing that a workspace does changes what another meets, so they are simulated one after the
//! other, on all processors, each with its own seed: a million needs no more memory than one.

use std::ops::Range;
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::rules::{Minted, PLATFORM_CACHE, Read, Rule, uniform};

pub const LIFE: Duration = Duration::from_hours(1);

/// All containers start within this time.
const TOGETHER: Duration = Duration::from_secs(1);

/// A reader opens after this time on average; the pauses are exponentially distributed.
pub const READ_EVERY: Duration = Duration::from_mins(5);

/// What the platform answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Minting {
    /// A new token each time.
    Each,
    /// The workspace's token, until less than [`PLATFORM_CACHE`] is left of it.
    CachePerWorkspace,
    /// The same for all: one installation, whose token is minted as soon as the cache lets it go.
    CacheForAll,
}

/// What happens to the fleet.
#[derive(Debug, Clone)]
pub struct Plan {
    pub workspaces: u32,
    pub length: Duration,
    pub minting: Minting,
    /// Every request is refused.
    pub outage: Range<Duration>,
    /// Every container is started again then, and has forgotten everything.
    pub restart: Option<Duration>,
    /// Nobody reads any more from then on.
    pub last_read: Duration,
}

impl Plan {
    /// From when on the fleet has what it needs again.
    pub fn recovery(&self) -> Duration {
        self.restart.unwrap_or(self.outage.end)
    }

    fn is_up(&self, at: Duration) -> bool {
        !self.outage.contains(&at)
    }
}

/// What came of it, second by second. A second belongs to the time before its end.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Requests sent in each second.
    pub requests: Vec<u32>,
    /// Of these, the ones of workspaces that had no token to serve.
    pub needy: Vec<u32>,
    /// Workspaces without a token at the beginning of each second.
    pub without: Vec<u32>,
    /// The most answered requests of one workspace in the first minute after the recovery.
    pub most_answered: u32,
    /// Reads of a live token, of a dead one, refused ones; from the outage or restart on.
    pub reads: [u64; 3],
    /// The most requests of one workspace.
    pub most_requests: u32,
}

impl Record {
    fn new(plan: &Plan) -> Self {
        let seconds = seconds(plan.length) + 1;
        Self {
            requests: vec![0; seconds],
            needy: vec![0; seconds],
            without: vec![0; seconds],
            ..Self::default()
        }
    }

    fn add(&mut self, other: &Self) {
        let add = |to: &mut [u32], from: &[u32]| {
            for (to, from) in to.iter_mut().zip(from) {
                *to += from;
            }
        };
        add(&mut self.requests, &other.requests);
        add(&mut self.needy, &other.needy);
        add(&mut self.without, &other.without);
        for (to, from) in self.reads.iter_mut().zip(other.reads) {
            *to += from;
        }
        self.most_answered = self.most_answered.max(other.most_answered);
        self.most_requests = self.most_requests.max(other.most_requests);
    }
}

/// Lets the fleet live by a rule.
pub fn live<R: Rule>(plan: &Plan) -> Record {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let share = (plan.workspaces as usize).div_ceil(threads).max(1);
    let mut record = Record::new(plan);
    thread::scope(|scope| {
        let shares = (0..plan.workspaces).step_by(share).map(|first| {
            let last = plan.workspaces.min(first + u32::try_from(share).expect("a small number"));
            scope.spawn(move || {
                let shared = epochs(plan);
                let mut record = Record::new(plan);
                for workspace in first..last {
                    Seat::<R>::new(plan, &shared, workspace).live(&mut record);
                }
                record
            })
        });
        for share in shares.collect::<Vec<_>>() {
            record.add(&share.join().expect("a share of the fleet"));
        }
    });
    record
}

/// When the token of [`Minting::CacheForAll`] is minted.
fn epochs(plan: &Plan) -> Vec<Duration> {
    let mut at = Duration::ZERO;
    let mut epochs = Vec::new();
    while at <= plan.length {
        if !plan.is_up(at) {
            at = plan.outage.end;
        }
        epochs.push(at);
        at += LIFE.saturating_sub(PLATFORM_CACHE);
    }
    epochs
}

/// A workspace, its readers, and what the platform knows of it.
struct Seat<'a, R> {
    plan: &'a Plan,
    epochs: &'a [Duration],
    rng: StdRng,
    rule: R,
    next_read: Option<Duration>,
    /// When the request was sent, when it is answered, and with what.
    in_flight: Option<(Duration, Duration, Option<Minted>)>,
    cached: Option<Minted>,
    restart: Option<Duration>,
    /// It has a token until then.
    good_until: Duration,
    requests: u32,
    answered: u32,
}

impl<'a, R: Rule> Seat<'a, R> {
    fn new(plan: &'a Plan, epochs: &'a [Duration], number: u32) -> Self {
        let mut rng = StdRng::seed_from_u64(u64::from(number));
        let start = uniform(&mut rng, TOGETHER);
        Self {
            plan,
            epochs,
            rule: R::start(start),
            next_read: Some(first_read::<R>(start, &mut rng)),
            rng,
            in_flight: None,
            cached: None,
            restart: plan.restart,
            good_until: start,
            requests: 0,
            answered: 0,
        }
    }

    fn live(mut self, record: &mut Record) {
        let mut now = Duration::ZERO;
        let mut turns = 0;
        loop {
            let answer = self.in_flight.map(|(_, at, _)| at);
            let times = [answer, self.next_read, self.rule.wake(now), self.restart];
            let Some(next) = times.into_iter().flatten().min() else { break };
            if next >= self.plan.length {
                break;
            }
            turns = if next > now { 0 } else { turns + 1 };
            assert!(turns < 10, "it spins at {now:?}");
            now = now.max(next);
            self.happen(now, record);
        }
        // What it has not got by now is missing until the end.
        self.note_token(self.plan.length, Some(self.plan.length), record);
        record.most_answered = record.most_answered.max(self.answered);
        record.most_requests = record.most_requests.max(self.requests);
    }

    fn happen(&mut self, now: Duration, record: &mut Record) {
        let sends = if self.restart.is_some_and(|at| at <= now) {
            self.start_again(now);
            false
        } else if let Some((sent, at, token)) = self.in_flight
            && at <= now
        {
            self.in_flight = None;
            self.count_answer(token.is_some(), now);
            self.rule.answered(sent, token, now, &mut self.rng)
        } else if self.next_read.is_some_and(|at| at <= now) {
            let (read, sends) = self.rule.open(now, self.plan.is_up(now), &mut self.rng);
            let kind = match read {
                Read::Live => 0,
                Read::Dead => 1,
                Read::Refused => 2,
            };
            if now >= self.plan.outage.start {
                record.reads[kind] += 1;
            }
            self.next_read =
                Some(now + pause(&mut self.rng)).filter(|&at| at < self.plan.last_read);
            sends
        } else {
            self.rule.tick(now, &mut self.rng)
        };
        if sends {
            self.send(now, record);
        }
        let good_until = self.rule.good_until(now);
        self.note_token(now, good_until, record);
    }

    fn start_again(&mut self, now: Duration) {
        self.good_until = self.good_until.min(now);
        self.restart = None;
        let start = now + uniform(&mut self.rng, TOGETHER);
        self.rule = R::start(start);
        self.in_flight = None;
        self.next_read = Some(first_read::<R>(start, &mut self.rng));
    }

    fn send(&mut self, now: Duration, record: &mut Record) {
        let second = seconds(now);
        self.requests += 1;
        record.requests[second] += 1;
        if self.rule.good_until(now).is_none() {
            record.needy[second] += 1;
        }
        // A refused connection is the answer that comes fastest, so that it asks for most attempts.
        let (token, latency) = if self.plan.is_up(now) {
            let most = Duration::from_millis(180);
            (Some(self.mint(now)), Duration::from_millis(20) + uniform(&mut self.rng, most))
        } else {
            (None, Duration::from_millis(1))
        };
        self.in_flight = Some((now, now + latency, token));
    }

    fn mint(&mut self, now: Duration) -> Minted {
        let minted = |at: Duration| Minted {
            number: u32::try_from(at.as_millis()).expect("weeks fit"),
            expires: at + LIFE,
        };
        match self.plan.minting {
            Minting::Each => minted(now),
            Minting::CachePerWorkspace => {
                let cached = self.cached.filter(|token| now + PLATFORM_CACHE <= token.expires);
                *self.cached.insert(cached.unwrap_or_else(|| minted(now)))
            }
            Minting::CacheForAll => {
                let newest = self.epochs.partition_point(|&at| at <= now).saturating_sub(1);
                minted(self.epochs[newest])
            }
        }
    }

    fn count_answer(&mut self, is_token: bool, now: Duration) {
        let recovery = self.plan.recovery();
        if is_token && (recovery..recovery + Duration::from_mins(1)).contains(&now) {
            self.answered += 1;
        }
    }

    /// Writes down since when it had no token, if it has one again.
    fn note_token(&mut self, now: Duration, good_until: Option<Duration>, record: &mut Record) {
        let Some(good_until) = good_until else {
            self.good_until = self.good_until.min(now);
            return;
        };
        if self.good_until < now {
            let (from, to) = (seconds_up(self.good_until), seconds_up(now));
            for second in &mut record.without[from..to] {
                *second += 1;
            }
        }
        self.good_until = good_until;
    }
}

/// The time to the next read: the inverse of the exponential distribution; `random` is below one.
pub fn pause(rng: &mut StdRng) -> Duration {
    READ_EVERY.mul_f64(-(1.0 - rng.random::<f64>()).ln())
}

/// Where the first read is what makes it fetch, it comes at once.
fn first_read<R: Rule>(start: Duration, rng: &mut StdRng) -> Duration {
    if R::IS_LAZY { start } else { start + pause(rng) }
}

pub fn seconds(time: Duration) -> usize {
    usize::try_from(time.as_secs()).expect("a simulation of days")
}

fn seconds_up(time: Duration) -> usize {
    seconds(time) + usize::from(time.subsec_nanos() > 0)
}
