//! The policy in made-up worlds whose clocks are wrong: what is served, and which outage is accepted.

use std::collections::HashMap;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::refresh::Windows;
use crate::refresh::policy::{Answer, Decision, Event, Rules, Settled, SourceRules};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: i64 = 60;
const HOUR: i64 = 3600;
/// The issuer's time at the start, in seconds.
const START: i64 = 1_780_000_000;
/// The boot clock's at the same moment.
const BOOT: i64 = 5000;
/// How long a world is lived through.
const LIVED: i64 = 6 * HOUR;

/// What a platform says of its time.
#[derive(Debug, Clone, Copy)]
enum Date {
    /// The right time and so many seconds.
    Off(i64),
    /// Always this second.
    At(i64),
    None,
}

/// What is wrong with a world. `t` counts seconds from the start, `n` answers.
struct World {
    /// How long tokens live.
    life: i64,
    /// The platform gives a token again until so much is left of it by its own clock.
    keeps: Option<i64>,
    /// A cache in between repeats answers for so long; whether it says `Age`.
    cache: Option<(i64, bool)>,
    /// `Date` of the n-th answer.
    date: fn(i64) -> Date,
    /// How far the wall clock is off.
    wall: fn(i64) -> i64,
    /// What is added to the n-th expiry, by a mistake of the platform's.
    mistake: fn(i64) -> i64,
}

impl Default for World {
    fn default() -> Self {
        Self {
            life: HOUR,
            keeps: None,
            cache: None,
            date: |_| Date::Off(0),
            wall: |_| 0,
            mistake: |_| 0,
        }
    }
}

/// What became of the opens, one each second.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    live: i64,
    dead: i64,
    refused: i64,
    /// What the policy said of the last answer that was no success.
    failure: Option<FetchErrorKind>,
}

/// A token that came, as the platform says it.
#[derive(Debug, Clone, Copy)]
struct Issued {
    number: u32,
    /// When it expires, by the platform's word.
    said: i64,
}

struct Life {
    world: World,
    policy: Policy,
    rng: StdRng,
    ends: HashMap<Fingerprint, i64>,
    answers: i64,
    newest: Option<Issued>,
    /// What the cache holds: the answer, its `Date`, and since when.
    cached: Option<(Issued, Option<i64>, i64)>,
    figures: Figures,
}

fn time(seconds: i64) -> Duration {
    Duration::from_secs(seconds.unsigned_abs())
}

impl Life {
    fn new(world: World) -> Self {
        let source = SourceRules { max_life: Some(time(HOUR)), ..SourceRules::default() };
        let rules = Rules { windows: Windows::default(), sources: vec![source] };
        Self {
            policy: Policy::new(rules.into(), &Now { boot: time(BOOT), wall: time(START) }),
            rng: StdRng::seed_from_u64(7),
            ends: HashMap::new(),
            answers: 0,
            newest: None,
            cached: None,
            figures: Figures::default(),
            world,
        }
    }

    fn now(&self, t: i64) -> Now {
        Now { boot: time(BOOT + t), wall: time(START + t + (self.world.wall)(t)) }
    }

    /// An answer of the platform itself: a token and its `Date`.
    fn platform(&mut self, t: i64) -> (Issued, Option<i64>) {
        let date = match (self.world.date)(self.answers) {
            Date::Off(by) => Some(START + t + by),
            Date::At(second) => Some(second),
            Date::None => None,
        };
        let its_clock = date.unwrap_or(START + t);
        let kept = self
            .newest
            .filter(|newest| self.world.keeps.is_some_and(|keeps| newest.said - its_clock > keeps));
        let issued = kept.unwrap_or_else(|| {
            let end = START + t + self.world.life;
            let number = u32::try_from(self.ends.len()).unwrap() + 1;
            self.ends.insert(Fingerprint::from_u32(number), end);
            Issued { number, said: end + (self.world.mistake)(self.answers) }
        });
        self.newest = Some(issued);
        (issued, date)
    }

    /// The same through the cache, with the server's clock as HTTP tells it.
    fn answer(&mut self, t: i64) -> (Issued, Option<Duration>) {
        let fresh = |since: i64, kept: i64| t - since < kept;
        let (issued, date, age) = match (self.world.cache, self.cached) {
            (Some((kept, says_age)), Some((issued, date, since))) if fresh(since, kept) => {
                (issued, date, if says_age { t - since } else { 0 })
            }
            (cache, _) => {
                let (issued, date) = self.platform(t);
                self.cached = cache.map(|_| (issued, date, t));
                (issued, date, 0)
            }
        };
        self.answers += 1;
        (issued, date.map(|date| time(date + age) + SECOND))
    }

    fn settle(&mut self, mut decision: Decision, t: i64) {
        let now = self.now(t);
        while decision.fetch.is_some() {
            let (issued, server) = self.answer(t);
            let term = Term::Until { expires_at: time(issued.said), server };
            let fingerprint = Fingerprint::from_u32(issued.number);
            let answer = Answer::Token { fingerprint, issued: now, term };
            decision = self.policy.step(Event::Answered { source: 0, answer }, &now, &mut self.rng);
            if let Some(Settled::Failed(kind)) = decision.settled {
                self.figures.failure = Some(kind);
            }
        }
    }

    fn second(&mut self, t: i64) {
        let now = self.now(t);
        for event in [Event::Tick, Event::Opened] {
            let decision = self.policy.step(event, &now, &mut self.rng);
            self.settle(decision, t);
        }
        let held = self.policy.held().filter(|_| self.policy.usable(&now));
        match held.map(|held| self.ends[&held.fingerprint] > START + t) {
            Some(true) => self.figures.live += 1,
            Some(false) => self.figures.dead += 1,
            None => self.figures.refused += 1,
        }
    }
}

/// Lives through a world, an open each second.
fn live(world: World) -> Figures {
    let mut life = Life::new(world);
    for t in 0..LIVED {
        life.second(t);
    }
    life.figures
}

/// No dead token, and at most so many refusals.
#[track_caller]
fn serves(world: World, most_refused: i64) -> Figures {
    let figures = live(world);
    assert_eq!(figures.dead, 0, "{figures:?}");
    assert!(figures.refused <= most_refused, "{figures:?}");
    figures
}

/// No dead token, and none at all, for this reason.
#[track_caller]
fn refuses(world: World, failure: FetchErrorKind) {
    let all = Figures { refused: LIVED, failure: Some(failure), ..Figures::default() };
    assert_eq!(live(world), all);
}

#[test]
fn with_right_clocks_every_open_is_served() {
    for life in [20, HOUR] {
        for keeps in [None, Some(life.min(20 * MINUTE) / 4)] {
            serves(World { life, keeps, ..World::default() }, 0);
        }
    }
}

#[test]
fn a_date_that_is_behind_costs_nothing_where_this_machines_clock_is_right() {
    let dates: [fn(i64) -> Date; 10] = [
        |_| Date::Off(-30),
        |_| Date::Off(-4 * MINUTE),
        |_| Date::Off(-10 * MINUTE),
        |_| Date::Off(-30 * MINUTE),
        |_| Date::Off(-HOUR),
        |_| Date::Off(-3 * HOUR),
        |_| Date::At(0),
        |_| Date::None,
        // The first wrong, the later right; the other way round; in turn.
        |n| Date::Off(if n == 0 { -2 * HOUR } else { 0 }),
        |n| Date::Off(if n % 2 == 0 { -2 * HOUR } else { 0 }),
    ];
    for date in dates {
        for life in [20, HOUR] {
            serves(World { life, date, ..World::default() }, 0);
        }
    }
}

#[test]
fn a_date_that_is_behind_of_a_platform_that_repeats_costs_what_it_gives_too_late() {
    // By its own clock five minutes are left when it gives another; by the issuer's it gave the old
    // one for the rest of these ten minutes.
    let date: fn(i64) -> Date = |_| Date::Off(-10 * MINUTE);
    let figures = serves(World { keeps: Some(5 * MINUTE), date, ..World::default() }, LIVED / 8);
    assert!(figures.live > LIVED * 7 / 8, "{figures:?}");
}

#[test]
fn a_date_that_is_ahead_shortens_lives_and_one_beyond_them_is_an_outage() {
    for date in [(|_| Date::Off(30)) as fn(i64) -> Date, |_| Date::Off(50 * MINUTE)] {
        serves(World { date, ..World::default() }, 0);
    }
    for date in [(|_| Date::Off(3 * HOUR)) as fn(i64) -> Date, |_| Date::At(4_102_444_800)] {
        refuses(World { date, ..World::default() }, FetchErrorKind::BornExpired);
    }
    let date: fn(i64) -> Date = |_| Date::Off(30);
    refuses(World { life: 20, date, ..World::default() }, FetchErrorKind::BornExpired);
}

#[test]
fn a_date_that_is_ahead_once_costs_a_back_off() {
    for date in [(|n| Date::Off(if n == 0 { 2 * HOUR } else { 0 })) as fn(i64) -> Date, |n| {
        Date::Off(if n % 2 == 0 { 2 * HOUR } else { 0 })
    }] {
        serves(World { date, ..World::default() }, 2);
    }
}

#[test]
fn a_token_that_was_given_too_short_a_life_is_given_a_longer_one_by_clocks_that_agree() {
    // The platform repeats its token, so that no other brings the service back.
    let date: fn(i64) -> Date = |n| Date::Off(if n == 0 { 50 * MINUTE } else { 0 });
    serves(World { keeps: Some(5 * MINUTE), date, ..World::default() }, 0);
}

#[test]
fn a_cache_that_says_its_age_or_not_serves_no_dead_token() {
    for says_age in [true, false] {
        for life in [90, HOUR] {
            // The cache repeats an answer for longer than the token lives.
            let cache = Some((life * 2, says_age));
            let figures = serves(World { life, cache, ..World::default() }, LIVED * 3 / 5);
            assert!(figures.live > LIVED * 2 / 5, "{figures:?}");
        }
    }
    // Where the clock here lags, only Age can tell.
    let world = World { cache: Some((2 * HOUR, true)), wall: |_| -2 * HOUR, ..World::default() };
    serves(world, LIVED * 11 / 20);
}

#[test]
fn a_wrong_wall_clock_costs_nothing_behind_and_its_difference_ahead() {
    for wall in [(|_| -2 * HOUR) as fn(i64) -> i64, |_| -START, |_| -30, |_| 30, |_| 30 * MINUTE] {
        serves(World { wall, ..World::default() }, 0);
    }
    let world = World { wall: |_| 2 * HOUR, ..World::default() };
    refuses(world, FetchErrorKind::ClocksDisagree);
    // Put right, it is forgotten.
    let world = World { wall: |t| if t < HOUR { 2 * HOUR } else { 0 }, ..World::default() };
    let figures = serves(world, HOUR + 30);
    assert!(figures.live >= LIVED - HOUR - 30, "{figures:?}");
}

#[test]
fn a_wall_clock_that_is_set_while_the_daemon_runs_costs_nothing() {
    let walls: [fn(i64) -> i64; 4] = [
        |t| if t < HOUR { 0 } else { HOUR },
        |t| if t < HOUR { 0 } else { -HOUR },
        |t| if t < HOUR { 0 } else { t % (2 * HOUR) },
        |t| if t / 600 % 2 == 0 { 0 } else { 24 * HOUR },
    ];
    for wall in walls {
        for life in [20, HOUR] {
            serves(World { life, wall, ..World::default() }, 0);
        }
    }
}

#[test]
fn a_set_wall_clock_and_a_date_that_is_behind_serve_no_dead_token() {
    let wall: fn(i64) -> i64 = |t| if t < HOUR { 0 } else { -3 * HOUR };
    let date: fn(i64) -> Date = |n| Date::Off(if n < 2 { 0 } else { -2 * HOUR });
    for life in [20, HOUR] {
        serves(World { life, date, wall, ..World::default() }, 0);
    }
}

#[test]
fn where_both_clocks_lag_the_tokens_prove_it() {
    for lag in [(|_| -10 * MINUTE) as fn(i64) -> i64, |_| -3 * HOUR] {
        for keeps in [None, Some(5 * MINUTE)] {
            let date: fn(i64) -> Date = if lag(0) == -3 * HOUR {
                |_| Date::Off(-3 * HOUR)
            } else {
                |_| Date::Off(-10 * MINUTE)
            };
            // A platform that repeats its tokens by a clock that lags gives dead ones for a while.
            let most = if keeps.is_some() { LIVED * 4 / 5 } else { 0 };
            serves(World { keeps, wall: lag, date, ..World::default() }, most);
        }
    }
}

#[test]
fn a_lag_that_is_proved_is_known_for_shorter_tokens_and_survives_the_process() {
    let world =
        World { wall: |_| -10 * MINUTE, date: |_| Date::Off(-10 * MINUTE), ..World::default() };
    let mut life = Life::new(world);
    life.second(0);
    life.world.life = 4 * MINUTE;
    let saved = life.policy.progress();
    let held = life.policy.held().copied();
    let rules = std::sync::Arc::clone(&life.policy.rules);
    life.policy = Policy::resume(rules, held, &saved, &life.now(0), &mut life.rng);
    assert!(life.policy.skew_is_proved());
    let decision = life.policy.step(Event::Refresh, &life.now(2), &mut life.rng);
    life.settle(decision, 2);
    assert_eq!(life.policy.held().unwrap().life.duration(), time(4 * MINUTE - 1));
    assert_eq!(life.policy.skew().as_secs(), 600);
}

#[test]
fn a_wrong_expiry_teaches_nothing_that_the_other_tokens_contradict() {
    type Mistake = fn(i64) -> i64;
    let mistakes: [(Mistake, i64); 5] = [
        // Not the first: those before it contradict it at once.
        (|n| if n == 3 { 5 * HOUR } else { 0 }, 0),
        // The first: the second and the third token contradict it.
        (|n| if n == 0 { 5 * HOUR } else { 0 }, 4),
        (|n| if n == 0 { 253_402_207_200 - START } else { 0 }, 0),
        (|_| 253_402_207_200 - START - LIVED, 0),
        (|_| 7 * HOUR, 0),
    ];
    for (mistake, refused) in mistakes {
        let figures = live(World { mistake, ..World::default() });
        // A token lives for an hour at most, whatever is said of it.
        assert!(figures.dead == 0 && figures.refused <= refused, "{figures:?}");
    }
}

#[test]
fn clocks_that_disagree_are_both_named() {
    let mut life = Life::new(World { wall: |_| 2 * HOUR, ..World::default() });
    life.second(0);
    assert_eq!(
        life.policy.reading().unwrap().to_string(),
        "it expires at 2026-05-28T21:26:40Z; the source's clock says 2026-05-28T20:26:41Z, this \
         machine's 2026-05-28T22:26:40Z"
    );
}

#[test]
fn no_reading_of_any_clock_overflows() {
    let extremes = [
        Duration::ZERO,
        SECOND,
        Duration::from_secs(1_780_000_000),
        Duration::from_secs(1 << 40),
        Duration::MAX,
    ];
    for boot in [Duration::ZERO, Duration::from_secs(1 << 40)] {
        for wall in extremes.into_iter().take(4) {
            for expires_at in extremes {
                for server in extremes.into_iter().map(Some).chain([None]) {
                    let mut clocks = Clocks::default();
                    let now = Now { boot, wall };
                    for number in 0..20 {
                        let exchange =
                            Exchange { sent: now, received: now, server, timeout: SECOND };
                        let fingerprint = Fingerprint::from_u32(number);
                        let reading =
                            clocks.judge(fingerprint, expires_at, &exchange, Some(SECOND));
                        let _ = (reading.to_string(), reading.life());
                    }
                }
            }
        }
    }
}
