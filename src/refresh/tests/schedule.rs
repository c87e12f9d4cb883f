//! When it fetches.

use super::*;

#[tokio::test(start_paused = true)]
async fn nothing_is_fetched_before_the_first_open() {
    let world = World::of(Scripted::NewToken(HOUR));
    pass(3 * HOUR).await;
    assert_eq!((world.requests(), world.state()), (0, State::Idle));
    assert!(world.handle.usable(READER).is_none() && world.handle.snapshot().next.is_none());
    world.open_ok().await;
    assert_eq!((world.requests(), world.state()), (1, State::Fresh));
}

#[tokio::test(start_paused = true)]
async fn prefetch_fetches_after_its_initial_delay() {
    let windows = Windows { prefetch: true, ..Windows::default() };
    let world = World::with(windows, &[("platform", Scripted::NewToken(HOUR))]);
    pass(59 * SECOND).await;
    assert_eq!(world.requests(), 0);
    assert!((world.next_in() - 1.0).abs() < 0.01);
    pass(2 * SECOND).await;
    assert_eq!(world.requests(), 1);
    assert!(world.handle.usable(READER).is_some());
}

#[tokio::test(start_paused = true)]
async fn an_open_does_not_wait_for_the_initial_delay_of_prefetch() {
    let windows = Windows { prefetch: true, ..Windows::default() };
    let world = World::with(windows, &[("platform", Scripted::NewToken(HOUR))]);
    let before = world.now();
    world.open_ok().await;
    assert!(world.now().elapsed_since(&before) < SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_refreshed_in_the_background_at_45_minutes_give_or_take_two() {
    let world = World::of(Scripted::NewToken(HOUR));
    world.open_ok().await;
    pass(12 * HOUR).await;
    let requests = world.platform().requests();
    let gaps: Vec<_> = requests.windows(2).map(|pair| pair[1].boot - pair[0].boot).collect();
    // The first one is spread over 20–80 % of the life.
    assert!((12 * MINUTE..=48 * MINUTE).contains(&gaps[0]), "{gaps:?}");
    assert!(gaps.len() > 14, "{gaps:?}");
    for gap in &gaps[1..] {
        assert!((43 * MINUTE..=47 * MINUTE + SECOND).contains(gap), "{gaps:?}");
    }
    assert!(gaps[1..].iter().any(|gap| gap != &gaps[1]), "no jitter: {gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_short_lived_token_is_never_below_its_minimum_life_while_the_source_works() {
    for (life, min_life) in [(10, Some(4)), (20, None), (1, None), (300, Some(3600))] {
        let windows = Windows { min_life: min_life.map(Duration::from_secs), ..Windows::default() };
        let answer = Scripted::NewToken(life * SECOND);
        let world = World::with(windows, &[("platform", answer)]);
        world.open_ok().await;
        for _ in 0..2000 {
            pass(Duration::from_millis(17)).await;
            let fresh = world.handle.usable(READER).expect("fetched ahead");
            let least = world.windows.min_life_of(life * SECOND, false);
            assert!(fresh.token().left(&world.now()) >= least);
        }
        let most = 34 / life * 5 + 2;
        assert!(world.requests() <= most as usize, "{life}: {}", world.requests());
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_day_without_an_open_nothing_is_fetched_until_the_next() {
    let world = World::of(Scripted::NewToken(HOUR));
    world.open_ok().await;
    pass(25 * HOUR).await;
    let requests = world.requests();
    pass(48 * HOUR).await;
    assert_eq!((world.requests(), world.state()), (requests, State::Idle));
    assert_eq!(world.handle.snapshot().next, None);
    world.open_ok().await;
    assert_eq!((world.requests(), world.state()), (requests + 1, State::Fresh));
}

#[tokio::test(start_paused = true)]
async fn opens_keep_the_timer_from_pausing_even_when_they_are_served_at_once() {
    let windows = Windows { idle: 2 * HOUR, ..Windows::default() };
    let world = World::with(windows, &[("platform", Scripted::NewToken(HOUR))]);
    world.open_ok().await;
    for _ in 0..20 {
        pass(HOUR / 2).await;
        assert!(world.handle.usable(READER).is_some());
    }
    assert_eq!(world.state(), State::Fresh);
}

#[tokio::test(start_paused = true)]
async fn the_first_open_after_an_idle_pause_refreshes_in_the_background_if_it_can_be_served() {
    let windows = Windows { idle: 10 * MINUTE, ..Windows::default() };
    let world = World::with(windows, &[("platform", Scripted::NewToken(HOUR))]);
    let first = world.bytes().await;
    pass(50 * MINUTE).await;
    assert_eq!(world.state(), State::Idle);
    assert_eq!(bytes(&world.handle.usable(READER).expect("still alive")), first);
    pass(SECOND).await;
    assert_ne!(world.bytes().await, first);
}

#[tokio::test(start_paused = true)]
async fn an_advisory_open_is_served_at_once_and_refreshes_in_the_background() {
    let windows = Windows { idle: HOUR, ..Windows::default() };
    let world = World::with(windows, &[("platform", Scripted::NewToken(HOUR))]);
    let first = world.bytes().await;
    // The source fails at the refresh, so that the token gets into its last fifth.
    world.platform().always(Scripted::Hang);
    pass(50 * MINUTE).await;
    assert_eq!(bytes(&world.handle.usable(READER).expect("alive")), first);
    world.platform().always(Scripted::NewToken(HOUR));
    // Back-off with a live token in hand is patient: an eighth of its rest.
    pass(2 * MINUTE).await;
    assert_ne!(bytes(&world.handle.usable(READER).expect("alive")), first);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_token_is_no_failure_and_is_asked_for_when_the_platforms_cache_let_go_of_it() {
    let world = World::of(token("same", HOUR));
    world.open_ok().await;
    let expiry = world.now().boot + HOUR;
    world.handle.refresh().unwrap();
    pass(Duration::from_millis(1)).await;
    let snapshot = world.handle.snapshot();
    assert!(snapshot.repeats && snapshot.failures.is_empty());
    assert_eq!((snapshot.fetches, world.state()), (1, State::Fresh));
    let next = snapshot.next.expect("a plan").at;
    assert!(
        next >= expiry - 5 * MINUTE && next <= expiry - 3 * MINUTE,
        "{:?} before its end",
        expiry - next
    );
}

#[tokio::test(start_paused = true)]
async fn a_repeated_token_past_the_platforms_cache_time_is_asked_for_after_a_quarter_of_its_rest() {
    let world = World::of(token("same", 4 * MINUTE));
    world.open_ok().await;
    world.handle.refresh().unwrap();
    pass(Duration::from_millis(1)).await;
    assert!((world.next_in() - 60.0).abs() < 1.0, "{}", world.next_in());
}

#[tokio::test(start_paused = true)]
async fn a_repeated_token_is_asked_for_again_before_it_is_refused() {
    let windows = Windows { min_life: Some(2 * MINUTE), ..Windows::default() };
    let world = World::with(windows, &[("platform", token("same", 4 * MINUTE))]);
    world.open_ok().await;
    pass(MINUTE).await;
    let left = |world: &World| {
        world.handle.snapshot().token.expect("one").left(&world.now()).as_secs_f64()
    };
    world.platform().always(token("same", 3 * MINUTE));
    world.handle.refresh().unwrap();
    pass(Duration::from_millis(1)).await;
    // A quarter of what is left would be 45 s, too.
    assert!((world.next_in() - 45.0).abs() < 0.1, "{}", world.next_in());
    world.platform().always(token("same", 135 * SECOND));
    pass(45 * SECOND).await;
    // Here it would be 34 s, and for 19 of them there was nothing to serve.
    assert!((world.next_in() - (left(&world) - 120.0)).abs() < 0.1, "{}", world.next_in());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_repeats_too_short_a_token_is_left_alone_while_another_stands_in() {
    let windows = Windows { min_life: Some(2 * MINUTE), ..Windows::default() };
    let env = Scripted::AssumedToken("ghp_own".to_owned(), HOUR);
    let world = World::with(windows, &[("platform", token("same", 4 * MINUTE)), ("env", env)]);
    world.open_ok().await;
    pass(125 * SECOND).await;
    let requests = world.requests();
    assert_eq!(world.bytes().await, "ghp_own");
    pass(20 * SECOND).await;
    assert_eq!(world.requests(), requests);
}

#[tokio::test(start_paused = true)]
async fn an_advisory_open_never_brings_the_refresh_of_a_repeated_token_forward() {
    let world = World::of(token("same", HOUR));
    world.open_ok().await;
    world.platform().always(token("same", HOUR));
    pass(49 * MINUTE).await;
    let requests = world.requests();
    assert!(world.handle.snapshot().repeats);
    for _ in 0..100 {
        assert!(world.handle.usable(READER).is_some());
        pass(SECOND).await;
    }
    assert_eq!(world.requests(), requests);
}

#[tokio::test(start_paused = true)]
async fn a_platform_that_caches_costs_few_requests_and_never_an_open() {
    let world = World::of(Scripted::Hang);
    let (mut minted, start) = (world.now().boot, world.now().boot);
    let mut number = 0;
    let set = |world: &World, number: u64, minted: Duration| {
        let left = (minted + HOUR).saturating_sub(world.now().boot);
        world.platform().always(token(&format!("ghs_{number}"), left));
    };
    set(&world, number, minted);
    world.open_ok().await;
    while world.now().boot < start + 24 * HOUR {
        if minted + 55 * MINUTE <= world.now().boot {
            (number, minted) = (number + 1, world.now().boot);
        }
        set(&world, number, minted);
        pass(10 * SECOND).await;
        assert!(world.handle.usable(READER).is_some());
    }
    assert!(world.requests() <= 54, "{} requests", world.requests());
}

#[tokio::test(start_paused = true)]
async fn a_forced_refresh_fetches_at_most_once_a_second() {
    let world = World::of(Scripted::NewToken(HOUR));
    world.open_ok().await;
    world.handle.refresh().unwrap();
    assert_eq!(world.handle.refresh(), Err(TooSoon));
    pass(Duration::from_millis(990)).await;
    assert_eq!(world.handle.refresh(), Err(TooSoon));
    pass(Duration::from_millis(10)).await;
    world.handle.refresh().unwrap();
    pass(Duration::from_millis(10)).await;
    assert_eq!(world.requests(), 3);
    assert_eq!(world.handle.snapshot().fetches, 3);
}

#[tokio::test(start_paused = true)]
async fn an_explicit_minimum_life_is_cut_to_half_the_life_and_to_two_minutes_under_repeats() {
    let windows = Windows { min_life: Some(50 * MINUTE), ..Windows::default() };
    let world = World::with(windows, &[("platform", token("same", HOUR))]);
    world.open_ok().await;
    assert_eq!(world.handle.snapshot().min_life, 30 * MINUTE);
    world.handle.refresh().unwrap();
    pass(Duration::from_millis(1)).await;
    assert_eq!(world.handle.snapshot().min_life, 2 * MINUTE);
}
