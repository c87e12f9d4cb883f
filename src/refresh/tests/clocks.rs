//! Suspend, set clocks, and platforms whose clock is wrong.

use super::*;

#[tokio::test(start_paused = true)]
async fn after_a_suspend_the_first_open_gets_a_live_token() {
    for length in [30 * MINUTE, HOUR, 48 * HOUR] {
        let world = World::of(Scripted::NewToken(HOUR).after(SECOND));
        let first = world.bytes().await;
        world.time.suspend(length);
        let fresh = world.open_ok().await;
        assert!(fresh.token().left(&world.now()) >= MINUTE);
        if length >= HOUR {
            assert_ne!(bytes(&fresh), first);
        }
        pass(2 * SECOND).await;
        assert_eq!(world.requests(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_suspend_wakes_the_timer_without_an_open() {
    let world = World::of(Scripted::NewToken(HOUR));
    world.open_ok().await;
    world.time.suspend(2 * HOUR);
    pass(SECOND).await;
    assert_eq!(world.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_set_forward_ages_the_token_and_moves_the_refresh() {
    let world = World::of(Scripted::NewToken(HOUR));
    world.open_ok().await;
    world.time.set_wall_forward(50 * MINUTE);
    pass(SECOND).await;
    assert_eq!(world.requests(), 2);
    assert!(world.handle.usable(READER).is_some());
    // The new token counts from the new time.
    pass(20 * MINUTE).await;
    assert!(world.handle.usable(READER).expect("alive").token().left(&world.now()) > 39 * MINUTE);
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_set_beyond_its_life_makes_an_open_wait_for_a_new_token() {
    let world = World::of(Scripted::NewToken(HOUR).after(SECOND));
    let first = world.bytes().await;
    world.time.set_wall_forward(3 * HOUR);
    assert!(world.handle.usable(READER).is_none());
    assert_ne!(world.bytes().await, first);
}

#[tokio::test(start_paused = true)]
async fn a_forward_jump_is_forgiven_when_the_source_confirms_the_token_but_no_further() {
    let world = World::of(token("same", HOUR));
    world.open_ok().await;
    pass(10 * MINUTE).await;
    world.time.set_wall_forward(3 * HOUR);
    // It says an hour again, but by the boot clock only 50 minutes can be left.
    let fresh = world.open_ok().await;
    let left = fresh.token().left(&world.now());
    assert!((50 * MINUTE - SECOND..=50 * MINUTE).contains(&left), "{left:?}");
    assert_eq!((bytes(&fresh).as_str(), world.requests()), ("same", 2));
    assert_eq!(fresh.token().generation, 2, "its expiry in local time moved");
    world.platform().always(Scripted::Hang);
    pass(51 * MINUTE).await;
    assert!(world.handle.usable(READER).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_forward_jump_under_the_minimum_life_of_a_repeated_token_asks_the_source_at_once() {
    let world = World::of(token("same", HOUR));
    world.open_ok().await;
    world.handle.refresh().unwrap();
    pass(SECOND).await;
    assert!(world.handle.snapshot().repeats);
    world.platform().always(Scripted::NewToken(HOUR).after(SECOND));
    world.time.set_wall_forward(59 * MINUTE + 30 * SECOND);
    assert_eq!(world.bytes().await, "ghs_platform_0");
}

#[tokio::test(start_paused = true)]
async fn a_confirmed_token_keeps_the_minimum_life_of_its_whole_life() {
    let world = World::of(token("same", 10 * MINUTE));
    world.open_ok().await;
    pass(4 * MINUTE).await;
    world.platform().always(token("same", 6 * MINUTE));
    world.time.set_wall_forward(9 * MINUTE);
    pass(SECOND).await;
    let snapshot = world.handle.snapshot();
    let left = snapshot.token.expect("the confirmed one").left(&world.now());
    assert!(left > 5 * MINUTE, "{left:?}");
    assert_eq!(snapshot.min_life, MINUTE);
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_set_back_never_lengthens_a_life() {
    let world = World::of(Scripted::NewToken(HOUR));
    world.open_ok().await;
    world.platform().always(fail(FetchErrorKind::Unreachable));
    world.time.set_wall_back(5 * HOUR);
    pass(61 * MINUTE).await;
    assert_eq!(world.open_err().await, ReadErrorKind::Expired);
}

#[tokio::test(start_paused = true)]
async fn a_wall_jump_of_more_than_five_seconds_publishes_the_same_token_again_without_a_fetch() {
    for forward in [true, false] {
        let world = World::of(Scripted::NewToken(HOUR));
        let before = world.open_ok().await;
        let set = |by: Duration| {
            if forward { world.time.set_wall_forward(by) } else { world.time.set_wall_back(by) }
        };
        set(4 * SECOND);
        pass(SECOND / 2).await;
        assert_eq!(world.open_ok().await.token().generation, 1);
        set(10 * MINUTE);
        pass(SECOND / 2).await;
        let after = world.open_ok().await;
        assert_eq!((bytes(&after), after.token().generation), (bytes(&before), 2));
        assert_eq!(world.requests(), 1);
        let snapshot = world.handle.snapshot();
        assert_eq!(snapshot.fetches, 1);
        assert_eq!(snapshot.history.back().unwrap().kind, EventKind::Republication);
    }
}

/// A token with a `Date` that differs from this machine's clock by so many seconds.
fn dated(bytes: &str, life: Duration, ahead: i64) -> Scripted {
    Scripted::Dated(bytes.to_owned(), life, ahead)
}

#[tokio::test(start_paused = true)]
async fn a_life_above_the_issuers_maximum_proves_a_lag_that_later_lives_are_shortened_by() {
    let mut world = World::of(dated("first", 70 * MINUTE, 0).after(3 * SECOND));
    let first = world.open_ok().await;
    let longest = HOUR - SECOND;
    assert_eq!(first.token().life.duration(), longest);
    assert_eq!(world.handle.snapshot().skew, 10 * MINUTE);
    assert!(world.handle.snapshot().skew_is_proved);
    // The token was minted up to three seconds before the answer came.
    let lag = 10 * MINUTE + 4 * SECOND;
    world.platform().always(dated("second", 50 * MINUTE, 0));
    world.restart().await;
    world.handle.refresh().unwrap();
    pass(SECOND).await;
    let second = world.open_ok().await;
    assert_eq!(second.token().life.duration(), 50 * MINUTE - lag);
    world.platform().always(dated("third", 70 * MINUTE, 0));
    world.handle.refresh().unwrap();
    pass(SECOND).await;
    let third = world.open_ok().await.token().life.duration();
    assert!((longest - 4 * SECOND..=longest).contains(&third), "{third:?}");
}

#[tokio::test(start_paused = true)]
async fn clocks_that_disagree_beyond_a_life_are_an_error_that_names_both() {
    let world = World::of(dated("early", HOUR, -2 * 3600));
    assert_eq!(world.open_err().await, ReadErrorKind::NoToken);
    assert_eq!(world.failure(), Some(FetchErrorKind::ClocksDisagree));
    let snapshot = world.handle.snapshot();
    let detail = &snapshot.failures.first().unwrap().error.detail;
    assert!(detail.contains("the source's clock says 2026-05-28T18:26:4"), "{detail}");
    assert!(detail.contains("this machine's 2026-05-28T20:26:4"), "{detail}");
    // An answer that agrees heals it.
    world.platform().always(dated("right", HOUR, 0));
    pass(30 * SECOND).await;
    assert_eq!(world.bytes().await, "right");
    assert_eq!((world.failure(), world.handle.snapshot().skew), (None, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn one_wrong_date_is_forgotten_also_by_the_next_process() {
    let mut world = World::of(dated("first", 3 * HOUR, -2 * 3600));
    assert_eq!(world.bytes().await, "first");
    world.platform().always(dated("right", HOUR, 0));
    for _ in 0..3 {
        world.restart().await;
        world.handle.refresh().unwrap();
        pass(2 * SECOND).await;
        let fresh = world.open_ok().await;
        assert_eq!(bytes(&fresh), "right");
        assert!(fresh.token().left(&world.now()) > 59 * MINUTE);
    }
    assert_eq!(world.handle.snapshot().skew, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_same_token_keeps_its_first_life_which_can_only_be_shortened() {
    let world = World::of(token("same", HOUR));
    world.open_ok().await;
    let start = world.now();
    pass(10 * MINUTE).await;
    world.handle.refresh().unwrap();
    pass(SECOND).await;
    let longer = world.open_ok().await;
    assert_eq!((longer.token().life.duration(), longer.token().issued), (HOUR, start));
    world.platform().always(token("same", 20 * MINUTE));
    world.handle.refresh().unwrap();
    pass(SECOND).await;
    let shorter = world.open_ok().await;
    let left = shorter.token().left(&world.now());
    assert!((19 * MINUTE..=20 * MINUTE).contains(&left), "{left:?}");
    // Views show another expiry now.
    assert_eq!(shorter.token().generation, 2);
}

#[tokio::test(start_paused = true)]
async fn lives_of_any_length_overflow_nothing() {
    for life in [30 * 24 * HOUR, Duration::from_secs(u64::MAX), Duration::MAX] {
        let env = Scripted::Token("long".to_owned(), life);
        let windows = Windows { idle: Duration::MAX, ..Windows::default() };
        let world = World::with(windows, &[("exec", env)]);
        world.open_ok().await;
        world.handle.refresh().unwrap();
        pass(SECOND).await;
        world.time.set_wall_forward(100 * HOUR);
        pass(SECOND).await;
        assert!(world.handle.usable(READER).is_some());
        assert!(world.handle.snapshot().next.is_some());
    }
}
