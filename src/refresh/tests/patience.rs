//! Opens for git, which wait briefly instead of taking a token that is about to expire.

use super::*;

/// Half of the open's deadline, which is what the file system allows.
const PATIENCE: Duration = Duration::from_millis(2500);

/// A world that stops refreshing after a minute without an open, so that tokens grow old.
fn idle(chain: &[(&'static str, Scripted)]) -> World {
    World::with(Windows { idle: MINUTE, ..Windows::default() }, chain)
}

/// The token that an open for git gets, and how long it waited.
async fn git(world: &World) -> (String, Duration) {
    let before = world.now();
    let (until, deadline) = (before.boot + PATIENCE, before.boot + world.windows.open_timeout);
    world.handle.await_lasting(READER, until, deadline).await;
    let fresh = world.handle.token(READER, deadline).await.expect("a token");
    (bytes(&fresh), world.now().elapsed_since(&before))
}

fn assert_about(waited: Duration, expected: Duration) {
    let most = expected + Duration::from_millis(5);
    assert!((expected..=most).contains(&waited), "{waited:?} is not {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn in_the_last_fifth_git_waits_for_the_fresh_token_and_nobody_else_does() {
    let world = idle(&[("platform", Scripted::NewToken(HOUR).after(SECOND))]);
    assert_eq!(git(&world).await.0, "ghs_platform_0");
    pass(49 * MINUTE).await;
    assert!(world.handle.usable_and_lasting(READER).is_none());
    assert_eq!(world.bytes().await, "ghs_platform_0");
    let (token, waited) = git(&world).await;
    assert_eq!(token, "ghs_platform_1");
    assert_about(waited, SECOND);
    assert!(world.handle.usable_and_lasting(READER).is_some());

    // Before its last fifth, git does not wait either.
    let world = idle(&[("platform", Scripted::NewToken(HOUR).after(SECOND))]);
    world.open_ok().await;
    pass(47 * MINUTE).await;
    assert_eq!(git(&world).await, ("ghs_platform_0".to_owned(), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_fresh_token_that_does_not_come_is_not_waited_for_beyond_half_the_deadline() {
    let world = idle(&[("platform", Scripted::NewToken(HOUR))]);
    world.open_ok().await;
    pass(50 * MINUTE).await;
    world.platform().always(Scripted::Hang);
    let (token, waited) = git(&world).await;
    assert_eq!(token, "ghs_platform_0");
    assert_about(waited, PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_is_waited_for_while_it_is_tried_again() {
    let world = idle(&[("platform", Scripted::NewToken(HOUR))]);
    world.open_ok().await;
    pass(50 * MINUTE).await;
    world.platform().always(fail(FetchErrorKind::Unreachable));
    let (token, waited) = git(&world).await;
    assert_eq!(token, "ghs_platform_0");
    assert!(waited <= PATIENCE, "{waited:?}");
    // A source that refuses us will not give another token.
    world.platform().always(fail(FetchErrorKind::Forbidden));
    pass(MINUTE / 2).await;
    world.open_ok().await;
    pass(MINUTE / 2).await;
    assert_eq!(git(&world).await, ("ghs_platform_0".to_owned(), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_repeats_its_token_is_asked_once_and_not_waited_for() {
    let world = idle(&[("platform", Scripted::NewToken(HOUR).after(SECOND))]);
    world.open_ok().await;
    pass(50 * MINUTE).await;
    world.platform().always(token("ghs_platform_0", 10 * MINUTE).after(SECOND));
    let (same, waited) = git(&world).await;
    assert_eq!(same, "ghs_platform_0");
    assert_about(waited, SECOND);
    let requests = world.requests();
    for _ in 0..10 {
        assert_eq!(git(&world).await, ("ghs_platform_0".to_owned(), Duration::ZERO));
    }
    assert_eq!(world.requests(), requests);
}

#[tokio::test(start_paused = true)]
async fn patience_never_costs_the_token_that_could_be_had() {
    let world = idle(&[("platform", Scripted::NewToken(HOUR))]);
    world.open_ok().await;
    // Two seconds above the minimum life.
    pass(59 * MINUTE - 2 * SECOND).await;
    world.platform().always(Scripted::Hang);
    let (token, waited) = git(&world).await;
    assert_eq!(token, "ghs_platform_0");
    assert!(waited < 2 * SECOND, "{waited:?}");
    // Below the minimum life git waits like everybody else.
    pass(2 * SECOND).await;
    let before = world.now();
    world.handle.await_lasting(READER, before.boot + PATIENCE, before.boot + 5 * SECOND).await;
    assert_eq!(world.now(), before);
    assert_eq!(world.open_err().await, ReadErrorKind::TimedOut);
    assert_about(world.now().elapsed_since(&before), 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn without_an_engine_the_token_at_hand_is_served() {
    let world = idle(&[("platform", Scripted::NewToken(HOUR))]);
    world.open_ok().await;
    pass(50 * MINUTE).await;
    world.engine.abort();
    assert_eq!(git(&world).await, ("ghs_platform_0".to_owned(), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_refused_meanwhile_is_not_fallen_back_to() {
    let world = idle(&[("platform", Scripted::NewToken(HOUR))]);
    let first = world.open_ok().await;
    pass(50 * MINUTE).await;
    world.platform().always(Scripted::NewToken(HOUR).after(3 * SECOND));
    let handle = world.handle.clone();
    let now = world.now().boot;
    let open = tokio::spawn(async move {
        handle.await_lasting(READER, now + PATIENCE, now + 5 * SECOND).await;
        handle.token(READER, now + 5 * SECOND).await
    });
    pass(SECOND).await;
    world.handle.reject(first.token().fingerprint(), READER);
    assert_eq!(bytes(&open.await.unwrap().expect("the next")), "ghs_platform_1");
}

#[tokio::test(start_paused = true)]
async fn what_git_should_have_left_can_be_said_and_tokens_are_renewed_before() {
    let windows = Windows { git_min_life: Some(25 * MINUTE), ..Windows::default() };
    let world = World::with(windows.clone(), &[("platform", Scripted::NewToken(HOUR))]);
    world.open_ok().await;
    assert!(world.next_in() <= 35.0 * 60.0, "{}", world.next_in());

    let windows = Windows { idle: MINUTE, ..windows };
    let world = World::with(windows, &[("platform", Scripted::NewToken(HOUR).after(SECOND))]);
    world.open_ok().await;
    pass(36 * MINUTE).await;
    let (token, waited) = git(&world).await;
    assert_eq!(token, "ghs_platform_1");
    assert_about(waited, SECOND);
}
