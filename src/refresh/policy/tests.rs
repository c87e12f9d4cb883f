//! The policy alone: window arithmetic for every life, and walks of chance through all its states.
#![expect(clippy::unchecked_time_subtraction, reason = "an underflow fails the test")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "the numbers of the fleet are small"
)]

use std::collections::HashMap;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::error::{FetchErrorKind, ReadErrorKind};
use crate::refresh::Weight;
use crate::secret::Fingerprint;
use crate::token::Term;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const START: Now = Now { boot: HOUR, wall: Duration::from_secs(1_780_000_000) };

fn rules(windows: Windows, sources: usize) -> Arc<Rules> {
    let source = SourceRules::default();
    Arc::new(Rules { windows, sources: vec![source; sources] })
}

fn answer(number: u32, issued: Now, life: Duration) -> Answer {
    Answer::Token { fingerprint: Fingerprint::from_u32(number), issued, term: Term::For(life) }
}

fn failure(kind: FetchErrorKind) -> Answer {
    Answer::Failed { kind, retry_after: None }
}

/// A policy that got this token at the start.
fn settled(windows: Windows, life: Duration, rng: &mut StdRng) -> Policy {
    let mut policy = Policy::new(rules(windows, 1), &START);
    assert_eq!(policy.step(Event::Opened, &START, rng).fetch, Some(0));
    let answered = Event::Answered { source: 0, answer: answer(1, START, life) };
    assert_eq!(policy.step(answered, &START, rng).publish, Some(Publish::New));
    policy
}

/// Durations of every magnitude alike.
fn magnitude(least: Duration, most: Duration) -> impl Strategy<Value = Duration> {
    (least.as_secs_f64().ln()..most.as_secs_f64().ln())
        .prop_map(|exponent| Duration::from_secs_f64(exponent.exp()))
}

prop_compose! {
    fn any_windows()(
        interval in magnitude(SECOND, 30 * DAY),
        jitter in magnitude(SECOND, 30 * DAY),
        min_life in prop::option::of(magnitude(SECOND, 30 * DAY)),
    ) -> Windows {
        Windows { interval, jitter, min_life, ..Windows::default() }
    }
}

proptest! {
    #[test]
    fn a_refresh_is_due_in_time_for_every_life_and_jitter(
        windows in any_windows(),
        life in magnitude(SECOND, 30 * DAY),
        spread: bool,
        seed: u64,
    ) {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut policy = settled(windows.clone(), life, rng);
        if !spread {
            // A second token, which is no longer the first after a start.
            let _ = policy.step(Event::Refresh, &START, rng);
            let again = Event::Answered { source: 0, answer: answer(2, START, life) };
            let _ = policy.step(again, &START, rng);
        }
        let min_life = policy.min_life();
        prop_assert!(min_life <= life / 2);
        let age = policy.next(&START).unwrap().at - START.boot;
        prop_assert!(age <= life.mul_f64(0.8), "{age:?} of {life:?}");
        prop_assert!(age <= life - min_life - life / 10, "{age:?} of {life:?}");
        prop_assert!(age > Duration::ZERO);
        let latest_timer = windows.interval + windows.jitter;
        prop_assert!(age <= latest_timer.max(SECOND * 5), "{age:?}");
    }

    #[test]
    fn back_off_leaves_three_tries_before_expiry(
        life in magnitude(SECOND, 30 * DAY),
        part in 0.0..0.6,
        seed: u64,
    ) {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut policy = settled(Windows::default(), life, rng);
        let mut now = START.plus(life.mul_f64(part));
        let _ = policy.step(Event::Refresh, &now, rng);
        for _ in 0..4 {
            prop_assert!(policy.held().unwrap().left(&now) > Duration::ZERO);
            let failed = Event::Answered { source: 0, answer: failure(FetchErrorKind::Unreachable) };
            let decision = policy.step(failed, &now, rng);
            prop_assert_eq!(decision.settled, Some(Settled::Failed(FetchErrorKind::Unreachable)));
            let next = policy.next(&now).unwrap().at;
            now = now.plus(next - now.boot);
            if decision.fetch.is_none() {
                prop_assert_eq!(policy.step(Event::Tick, &now, rng).fetch, Some(0));
            }
        }
    }

    #[test]
    fn a_repeated_token_is_asked_for_inside_its_life(
        min_life in prop::option::of(magnitude(SECOND, DAY)),
        life in magnitude(SECOND, 30 * DAY),
        part in 0.0..0.95,
        seed: u64,
    ) {
        let rng = &mut StdRng::seed_from_u64(seed);
        let windows = Windows { min_life, ..Windows::default() };
        let mut policy = settled(windows, life, rng);
        let now = START.plus(life.mul_f64(part));
        let _ = policy.step(Event::Refresh, &now, rng);
        let again = Event::Answered { source: 0, answer: answer(1, START, life) };
        prop_assert_eq!(policy.step(again, &now, rng).settled, Some(Settled::Same));
        let left = policy.held().unwrap().left(&now);
        let wait = policy.next(&now).unwrap().at - now.boot;
        prop_assert!(wait < left, "{wait:?} of {left:?}");
        // An open is not refused before the source was asked.
        let servable = left.saturating_sub(policy.min_life());
        prop_assert!(wait <= servable || servable.is_zero(), "{wait:?} of {servable:?}");
        if left > windows::PLATFORM_CACHE {
            let cached = left - windows::PLATFORM_CACHE;
            prop_assert!(wait >= cached.min(servable) && wait <= cached + windows::REPEAT_SPREAD);
        } else if servable.is_zero() {
            prop_assert!(wait >= left / 4);
        } else {
            prop_assert!(wait >= (left / 4).min(servable));
        }
    }

    #[test]
    fn nothing_overflows_at_any_number(
        interval: u64, jitter: u64, min_life: u64, idle: u64, life: u64, boot: u64, wish: u64,
        seed: u64,
    ) {
        let rng = &mut StdRng::seed_from_u64(seed);
        let windows = Windows {
            interval: Duration::from_secs(interval),
            jitter: Duration::from_secs(jitter),
            min_life: Some(Duration::from_secs(min_life)),
            idle: Duration::from_secs(idle),
            ..Windows::default()
        };
        let now = Now { boot: Duration::from_secs(boot), wall: Duration::from_secs(boot / 2) };
        let mut policy = Policy::new(rules(windows, 2), &now);
        let retry_after = Some(Duration::from_secs(wish));
        let token = answer(1, now, Duration::from_secs(life));
        for answer in [token, token, Answer::Failed { kind: FetchErrorKind::RateLimited, retry_after }] {
            let _ = policy.step(Event::Refresh, &now, rng);
            let _ = policy.step(Event::Answered { source: 0, answer }, &now, rng);
            let far = Now { boot: Duration::MAX, wall: Duration::MAX };
            for now in [now, far] {
                let _ = (policy.next(&now), policy.wake(&now), policy.verdict(None, &now, Duration::MAX));
            }
        }
        let _ = policy.step(Event::Tick, &Now { boot: Duration::MAX, wall: Duration::ZERO }, rng);
        let _ = windows::hold(Duration::from_secs(boot), Duration::MAX);
    }

    /// A walk of chance through events and answers. Whatever happens: one request of a source at a
    /// time; a wake-up in the past always leads to a fetch (the engine would spin otherwise); a
    /// token that may be served is alive and not withheld; an open that waits has something to wait
    /// for.
    #[test]
    fn no_walk_leads_to_two_requests_a_spin_a_dead_token_or_a_wait_for_nothing(
        seed: u64,
        windows in any_windows(),
        sources in 1_usize..=3,
    ) {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut world = StdRng::seed_from_u64(!seed);
        let mut now = START;
        let mut policy = Policy::new(rules(windows, sources), &now);
        let mut in_flight: HashMap<usize, Now> = HashMap::new();
        for _ in 0..400 {
            let event = chance(&mut world, &mut in_flight, &policy, &now);
            let hold = world.random_bool(0.5).then_some(now.boot + SECOND);
            policy.set_hold(hold);
            let mut event = Some(event);
            let mut turns = 0;
            loop {
                let decision = policy.step(event.take().unwrap_or(Event::Tick), &now, rng);
                if let Some(source) = decision.fetch {
                    prop_assert!(in_flight.insert(source, now).is_none(), "two requests");
                }
                if policy.wake(&now).is_none_or(|at| at > now.boot) {
                    break;
                }
                turns += 1;
                prop_assert!(turns <= sources, "it spins");
            }
            prop_assert_eq!(policy.fetching(), !in_flight.is_empty());
            let held = policy.held().copied();
            if policy.usable(&now) {
                let left = held.unwrap().left(&now);
                prop_assert!(left >= policy.min_life() && !left.is_zero());
                prop_assert!(policy.rejection().is_none_or(|r| r.withheld_until <= now.boot));
            }
            let deadline = now.boot + 5 * SECOND;
            if policy.verdict(None, &now, deadline) == Verdict::Wait {
                let wakes = policy.wake(&now).is_some_and(|at| at <= deadline);
                prop_assert!(policy.fetching() || wakes, "it waits for nothing");
            }
            let pause = Duration::from_millis(world.random_range(0..20_000));
            let pause = if world.random_bool(0.02) { DAY } else { pause };
            now = Now { boot: now.boot + pause, wall: now.wall + pause };
            if world.random_bool(0.05) {
                let set = Duration::from_secs(world.random_range(0..7200));
                now.wall = if world.random_bool(0.5) { now.wall + set } else { now.wall - set };
            }
        }
    }
}

fn chance(
    world: &mut StdRng,
    in_flight: &mut HashMap<usize, Now>,
    policy: &Policy,
    now: &Now,
) -> Event {
    match world.random_range(0..10) {
        0..=3 if !in_flight.is_empty() => {
            let mut places: Vec<_> = in_flight.keys().copied().collect();
            places.sort_unstable();
            let source = places[world.random_range(0..places.len())];
            let issued = in_flight.remove(&source).unwrap();
            let answer = if world.random_bool(0.5) {
                let life = Duration::from_millis(1 << world.random_range(0..23));
                answer(world.random_range(0..20), issued, life)
            } else {
                let kinds = FetchErrorKind::ALL;
                let kind = kinds[world.random_range(0..kinds.len())];
                let asked = Duration::from_secs(world.random_range(0..100));
                Answer::Failed { kind, retry_after: world.random_bool(0.2).then_some(asked) }
            };
            Event::Answered { source, answer }
        }
        4 | 5 => Event::Opened,
        6 => Event::Refresh,
        7 => Event::Changed { source: world.random_range(0..3) },
        8 => match policy.held() {
            Some(held) => {
                let (earlier, is_final) = (policy.rejection().copied(), world.random_bool(0.1));
                let weight = match world.random_range(0..10) {
                    _ if is_final => Weight::Final,
                    0..3 => Weight::Early,
                    _ => Weight::Usual,
                };
                let (rejection, is_news) =
                    Rejection::of(earlier, held.fingerprint, None, weight, now);
                if is_news { Event::Rejected(rejection) } else { Event::Tick }
            }
            None => Event::Tick,
        },
        _ => Event::Tick,
    }
}

#[test]
fn the_defaults_are_the_numbers_of_the_table() {
    let windows = Windows::default();
    assert_eq!((windows.interval, windows.jitter), (45 * MINUTE, 2 * MINUTE));
    assert_eq!((windows.open_timeout, windows.idle), (5 * SECOND, DAY));
    assert_eq!(windows.initial_delay, MINUTE);
    assert_eq!(windows.min_life_of(HOUR, false), MINUTE);
    assert_eq!(windows.min_life_of(5 * MINUTE, true), 30 * SECOND);
    assert_eq!(windows.latest_refresh(HOUR, false), 48 * MINUTE);
    assert_eq!(windows::hold(10 * SECOND, 15 * SECOND), 12 * SECOND);
}

#[test]
fn the_same_seed_makes_the_same_decisions() {
    let run = |seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        settled(Windows::default(), HOUR, rng).next(&START)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_slow_answer_that_brought_little_life_is_not_followed_by_another_request_at_once() {
    let rng = &mut StdRng::seed_from_u64(1);
    let mut policy = Policy::new(rules(Windows::default(), 1), &START);
    let _ = policy.step(Event::Opened, &START, rng);
    let later = START.plus(8 * SECOND);
    let slow = Event::Answered { source: 0, answer: answer(1, START, 10 * SECOND) };
    assert_eq!(policy.step(slow, &later, rng).fetch, None);
    assert_eq!(policy.next(&later).unwrap().at - later.boot, SECOND / 2);
    // Nor when the two clocks are read a little apart.
    let apart = Now { wall: later.wall + Duration::from_millis(3), ..later };
    assert_eq!(policy.step(Event::Tick, &apart, rng).fetch, None);
}

#[test]
fn a_success_of_the_first_source_forgets_the_failures_of_the_later_ones() {
    let rng = &mut StdRng::seed_from_u64(1);
    let mut policy = Policy::new(rules(Windows::default(), 2), &START);
    assert_eq!(policy.step(Event::Opened, &START, rng).fetch, Some(0));
    let failed = |source| Event::Answered { source, answer: failure(FetchErrorKind::NotFound) };
    assert_eq!(policy.step(failed(0), &START, rng).fetch, Some(1));
    let _ = policy.step(failed(1), &START, rng);
    assert_eq!(policy.verdict(None, &START, HOUR * 2), Verdict::Fail(ReadErrorKind::Rejected));
    assert_eq!(policy.step(Event::Refresh, &START, rng).fetch, Some(0));
    let good = Event::Answered { source: 0, answer: answer(1, START, 10 * SECOND) };
    let _ = policy.step(good, &START, rng);
    let late = START.plus(20 * SECOND);
    assert_eq!(policy.step(Event::Tick, &late, rng).fetch, Some(0));
    let down = Event::Answered { source: 0, answer: failure(FetchErrorKind::Unreachable) };
    assert_eq!(policy.step(down, &late, rng).fetch, Some(1), "asked anew, not in 45 s");
}

#[test]
fn the_first_token_after_a_start_is_spread_whichever_source_gives_it() {
    let mut rng = StdRng::seed_from_u64(5);
    let mut policy = Policy::new(rules(Windows::default(), 2), &START);
    let mut plans = Vec::new();
    assert_eq!(policy.step(Event::Opened, &START, &mut rng).fetch, Some(0));
    let failed = Event::Answered { source: 0, answer: failure(FetchErrorKind::NotFound) };
    assert_eq!(policy.step(failed, &START, &mut rng).fetch, Some(1));
    for (source, number) in [(1, 1), (1, 2), (0, 3), (0, 4)] {
        let answered = Event::Answered { source, answer: answer(number, START, HOUR) };
        let _ = policy.step(answered, &START, &mut rng);
        assert_eq!(policy.held().map(|held| held.source), Some(source));
        plans.push(policy.plan);
    }
    assert_eq!(plans, [Plan::Spread, Plan::Timer, Plan::Spread, Plan::Timer]);
}

#[test]
fn a_death_between_a_token_and_its_plan_costs_no_request() {
    let mut rng = StdRng::seed_from_u64(6);
    let mut policy = settled(Windows::default(), HOUR, &mut rng);
    let before = policy.progress();
    let due = policy.next(&START).unwrap().at;
    let then = Now { boot: due, wall: START.wall + (due - START.boot) };
    assert_eq!(policy.step(Event::Tick, &then, &mut rng).fetch, Some(0));
    let answered = Event::Answered { source: 0, answer: answer(2, then, HOUR) };
    let _ = policy.step(answered, &then, &mut rng);
    let held = policy.held().copied();
    // Of the first token there is no plan at all.
    let none = Progress { next_refresh: None, ..before };
    for (saved, is_stale) in [(before, true), (none, true), (policy.progress(), false)] {
        let rules = Arc::clone(&policy.rules);
        let resumed = Policy::resume(rules, held, &saved, &then, &mut rng);
        let next = resumed.next(&then).unwrap().at - then.boot;
        assert!(next > 40 * MINUTE && next < 50 * MINUTE, "{is_stale}: {next:?}");
    }
}

#[test]
fn a_source_with_one_token_is_forced_where_no_better_one_has_another() {
    let forced = |finals: &[bool]| -> Vec<usize> {
        let source = |rejection_is_final: &bool| SourceRules {
            rejection_is_final: *rejection_is_final,
            ..SourceRules::default()
        };
        let sources = finals.iter().map(source).collect();
        let rules = Arc::new(Rules { windows: Windows::default(), sources });
        let policy = Policy::new(rules, &START);
        (0..finals.len()).filter(|source| policy.can_be_forced(*source)).collect()
    };
    assert_eq!(forced(&[true]), [0]);
    assert_eq!(forced(&[true, true]), [0, 1]);
    assert_eq!(forced(&[false, true]), [0]);
    assert_eq!(forced(&[true, false, true]), [0, 1]);
}

/// Attempts and workspaces without a token, minute by minute, of a fleet that starts within one
/// second and lives through an outage of its platform, which mints at each request.
fn fleet(size: usize, minutes: u64, outage: std::ops::Range<u64>) -> (Vec<usize>, Vec<usize>) {
    let rng = &mut StdRng::seed_from_u64(3);
    let rules = rules(Windows::default(), 1);
    let mut policies = vec![Policy::new(rules, &START); size];
    let (mut attempts, mut without) = (vec![0; minutes as usize], vec![0; minutes as usize]);
    let mut minted = 0;
    for policy in &mut policies {
        let mut now = START.plus(Duration::from_micros(rng.random_range(0..1_000_000)));
        let mut event = Event::Opened;
        loop {
            let minute = (now.boot - START.boot).as_secs() / 60;
            policy.note_open(now.boot);
            if policy.step(event, &now, rng).fetch.is_some() {
                attempts[minute as usize] += 1;
                let answer = if outage.contains(&minute) {
                    failure(FetchErrorKind::Unreachable)
                } else {
                    minted += 1;
                    answer(minted, now, HOUR)
                };
                event = Event::Answered { source: 0, answer };
                continue;
            }
            event = Event::Tick;
            let next = policy.wake(&now).expect("somebody reads every day");
            let end = START.boot + minutes as u32 * MINUTE;
            // At the end of each minute that passes until then: does it have a token?
            for minute in minute..(next.min(end) - START.boot).as_secs() / 60 {
                let at = START.plus((minute as u32 + 1) * MINUTE);
                without[minute as usize] += usize::from(!policy.usable(&at));
            }
            if next >= end {
                break;
            }
            now = now.plus(next - now.boot);
        }
    }
    (attempts, without)
}

#[test]
fn a_fleet_that_lost_its_platform_comes_back_without_a_rush_and_without_an_echo() {
    let size = 5000;
    let uniform = size as f64 / 45.0;
    // The second half hour finds the fleet where the recovered and the spared meet again.
    for (start, length) in [(200, 5), (200, 30), (235, 30)] {
        let end = start + length;
        let (attempts, without) = fleet(size, 340, start as u64..end as u64);
        assert_eq!(without[end], 0, "{length}: no token after the first minute of recovery");
        let most = *attempts[end + 1..].iter().max().unwrap() as f64 / uniform;
        assert!(
            most <= 2.5,
            "{start}, {length}: {most} times the uniform rate, {:?}",
            &attempts[start - 5..]
        );
        for minute in start + 1..end {
            let needy = without[minute].max(without[minute - 1]);
            let calm = size - without[minute].min(without[minute - 1]);
            let allowed = needy as f64 * 5.0 + calm as f64 * 2.0;
            assert!((attempts[minute] as f64) <= allowed, "{length}, {minute}: {attempts:?}");
        }
        let quiet = attempts[100..start].iter().max().unwrap();
        assert!((*quiet as f64) < 2.0 * uniform, "{length}: {quiet}");
    }
}

#[test]
fn a_million_policies_fit_into_the_memory_of_a_laptop() {
    let bytes = size_of::<Policy>() + 2 * size_of::<SourceState>();
    assert!(bytes <= 512, "{bytes}");
}
