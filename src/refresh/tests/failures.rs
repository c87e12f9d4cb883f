//! Failures, and what they do not do.

use super::*;

const TRANSIENT: [FetchErrorKind; 6] = [
    FetchErrorKind::NotRegistered,
    FetchErrorKind::Unreachable,
    FetchErrorKind::TimedOut,
    FetchErrorKind::ServerError,
    FetchErrorKind::RateLimited,
    FetchErrorKind::BadAnswer,
];
const REFUSALS: [FetchErrorKind; 6] = [
    FetchErrorKind::BearerUnusable,
    FetchErrorKind::Unauthorized,
    FetchErrorKind::Forbidden,
    FetchErrorKind::NotFound,
    FetchErrorKind::Redirected,
    FetchErrorKind::NoCertificates,
];

#[tokio::test(start_paused = true)]
async fn refresh_transient_failure_preserves_valid_token() {
    for kind in TRANSIENT {
        let world = World::of(Scripted::NewToken(HOUR));
        let first = world.bytes().await;
        world.platform().always(fail(kind));
        pass(58 * MINUTE).await;
        assert_eq!(bytes(&world.handle.usable(READER).expect("alive")), first, "{kind:?}");
        assert_eq!((world.state(), world.failure()), (State::Degraded, Some(kind)));
        pass(90 * SECOND).await;
        assert!(world.handle.usable(READER).is_none(), "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_preserves_a_valid_token_too() {
    for kind in REFUSALS {
        let world = World::of(Scripted::NewToken(HOUR));
        let first = world.bytes().await;
        world.platform().always(fail(kind));
        pass(58 * MINUTE).await;
        assert_eq!(bytes(&world.handle.usable(READER).expect("alive")), first, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_token_ever_a_transient_failure_is_enokey() {
    for kind in TRANSIENT {
        let world = World::of(fail(kind));
        assert_eq!(world.open_err().await, ReadErrorKind::NoToken, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_token_ran_out_a_transient_failure_is_ekeyexpired() {
    let world = World::of(Scripted::NewToken(HOUR));
    world.open_ok().await;
    world.platform().always(fail(FetchErrorKind::ServerError));
    pass(2 * HOUR).await;
    let error = world.open().await.unwrap_err();
    assert_eq!(error.kind, ReadErrorKind::Expired);
    assert_eq!(error.cause.unwrap().kind, FetchErrorKind::ServerError);
    assert_eq!(world.state(), State::None);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_ekeyrejected_at_once_before_and_after_there_was_a_token() {
    for kind in REFUSALS {
        let world = World::of(fail(kind));
        let before = world.now();
        assert_eq!(world.open_err().await, ReadErrorKind::Rejected, "{kind:?}");
        assert_eq!(world.now(), before);
        let patient = world.now().boot + HOUR;
        assert_eq!(
            world.handle.token(READER, patient).await.unwrap_err().kind,
            ReadErrorKind::Rejected
        );
        assert_eq!(world.requests(), 1);

        let world = World::of(Scripted::NewToken(HOUR));
        world.open_ok().await;
        world.platform().always(fail(kind));
        pass(2 * HOUR).await;
        assert_eq!(world.open_err().await, ReadErrorKind::Rejected, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_source_at_all_is_enokey_at_once() {
    let world = World::with(Windows::default(), &[]);
    let before = world.now();
    assert_eq!(world.open_err().await, ReadErrorKind::NoToken);
    assert_eq!(world.now(), before);
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_is_tried_again_every_45_to_60_seconds_until_it_heals() {
    let world = World::of(fail(FetchErrorKind::Unauthorized));
    world.open().await.unwrap_err();
    pass(10 * MINUTE).await;
    let requests = world.platform().requests();
    assert!(requests.len() > 10, "{}", requests.len());
    for pair in requests.windows(2) {
        let gap = pair[1].boot - pair[0].boot;
        assert!((45 * SECOND..=60 * SECOND + SECOND / 100).contains(&gap), "{gap:?}");
    }
    world.platform().always(Scripted::NewToken(HOUR));
    pass(61 * SECOND).await;
    assert_eq!(world.state(), State::Fresh);
}

#[tokio::test(start_paused = true)]
async fn a_changed_source_is_tried_at_once_after_a_permanent_failure_or_a_missing_bearer() {
    for kind in REFUSALS.into_iter().chain([FetchErrorKind::NotRegistered]) {
        let world = World::of(fail(kind));
        world.open().await.unwrap_err();
        pass(5 * MINUTE).await;
        while world.next_in() < 1.0 {
            pass(SECOND).await;
        }
        world.platform().always(Scripted::NewToken(HOUR));
        world.platform().change();
        pass(Duration::from_millis(1)).await;
        assert_eq!(world.state(), State::Fresh, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_while_the_old_bearer_is_being_refused_is_not_lost() {
    let world = World::of(Scripted::NewToken(HOUR));
    world.platform().then(fail(FetchErrorKind::Unauthorized).after(SECOND));
    let open = tokio::spawn({
        let (handle, deadline) = (world.handle.clone(), world.now().boot + 5 * SECOND);
        async move { handle.token(READER, deadline).await }
    });
    pass(SECOND / 2).await;
    world.platform().change();
    open.await.unwrap().expect("tried again at once");
    assert_eq!(world.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_changed_source_that_works_or_fails_transiently_is_left_alone() {
    let world = World::of(Scripted::NewToken(HOUR));
    world.open_ok().await;
    world.platform().change();
    pass(SECOND).await;
    assert_eq!(world.requests(), 1);
    world.platform().always(Scripted::FailFor(FetchErrorKind::RateLimited, MINUTE));
    world.handle.refresh().unwrap();
    pass(SECOND).await;
    world.platform().change();
    pass(SECOND).await;
    assert_eq!(world.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn back_off_doubles_under_full_jitter_up_to_thirty_seconds() {
    let world = World::of(fail(FetchErrorKind::Unreachable));
    world.open().await.unwrap_err();
    pass(HOUR).await;
    let requests = world.platform().requests();
    let gaps: Vec<_> = requests.windows(2).map(|pair| pair[1].boot - pair[0].boot).collect();
    for (strikes, gap) in gaps.iter().enumerate() {
        let most = (Duration::from_millis(250) * (1 << strikes.min(10))).min(30 * SECOND);
        assert!(*gap <= most + Duration::from_millis(2), "{strikes}: {gap:?}");
    }
    let mean = gaps[8..].iter().sum::<Duration>() / u32::try_from(gaps.len() - 8).unwrap();
    assert!((13 * SECOND..17 * SECOND).contains(&mean), "{mean:?}");
}

#[tokio::test(start_paused = true)]
async fn with_a_live_token_in_hand_failures_are_retried_patiently_but_thrice_before_its_end() {
    let world = World::of(Scripted::NewToken(HOUR));
    world.open_ok().await;
    world.platform().always(fail(FetchErrorKind::Unreachable));
    world.handle.refresh().unwrap();
    pass(59 * MINUTE).await;
    let tries = world.requests() - 1;
    assert!((12..80).contains(&tries), "{tries}");

    let world = World::of(Scripted::NewToken(10 * SECOND));
    world.open_ok().await;
    world.platform().always(fail(FetchErrorKind::Unreachable));
    pass(9 * SECOND).await;
    assert!(world.requests() > 3, "{}", world.requests());
}

#[tokio::test(start_paused = true)]
async fn a_wish_to_be_left_alone_is_honoured_even_by_a_forced_refresh() {
    let world = World::of(Scripted::NewToken(HOUR));
    world.platform().then(Scripted::FailFor(FetchErrorKind::RateLimited, 2 * MINUTE));
    assert_eq!(world.open_err().await, ReadErrorKind::NoToken);
    for _ in 0..119 {
        assert_eq!(world.handle.refresh(), Err(TooSoon));
        let _ = world.handle.token(READER, world.now().boot).await;
        pass(SECOND).await;
    }
    assert_eq!(world.requests(), 1);
    pass(14 * SECOND).await;
    assert_eq!(world.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_absurd_wish_is_cut_to_an_hour() {
    let world = World::of(Scripted::NewToken(HOUR));
    world.platform().then(Scripted::FailFor(FetchErrorKind::ServerError, Duration::MAX));
    world.open().await.unwrap_err();
    pass(67 * MINUTE).await;
    assert_eq!(world.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure_and_the_engine_goes_on() {
    let world = World::of(Scripted::NewToken(HOUR));
    world.platform().then(Scripted::Panic);
    world.open_ok().await;
    let world = World::of(Scripted::Panic);
    let error = world.open().await.unwrap_err();
    assert_eq!(error.cause.unwrap().kind, FetchErrorKind::Panicked);
}

#[tokio::test(start_paused = true)]
async fn a_hang_is_a_time_out_and_the_engine_goes_on() {
    let world = World::of(Scripted::NewToken(HOUR));
    world.platform().then(Scripted::Hang);
    assert_eq!(world.open_err().await, ReadErrorKind::TimedOut);
    pass(8 * SECOND).await;
    assert_eq!(world.state(), State::Fresh);
    let requests = world.platform().requests();
    let given_up = requests[1].boot - requests[0].boot;
    assert!(given_up >= world.windows.fetch_timeout, "{given_up:?}");
    assert!(world.handle.snapshot().history[0].detail.contains("given up after 12 s"));
}

#[tokio::test(start_paused = true)]
async fn a_token_born_expired_is_a_transient_failure() {
    for life in [Duration::ZERO, SECOND] {
        let world = World::of(Scripted::NewToken(HOUR));
        world.platform().then(token("dead", life).after(2 * SECOND));
        assert_eq!(world.bytes().await, "ghs_platform_0");
        assert_eq!(world.handle.snapshot().fetches, 1);
        let world = World::of(token("dead", life).after(2 * SECOND));
        assert!(world.open().await.is_err());
        assert_eq!(world.failure(), Some(FetchErrorKind::BornExpired));
    }
}

#[tokio::test(start_paused = true)]
async fn a_success_ends_the_streak_and_spreads_the_next_refresh() {
    let world = World::of(Scripted::NewToken(HOUR));
    world.open_ok().await;
    pass(80 * MINUTE).await;
    world.platform().always(fail(FetchErrorKind::Unreachable));
    pass(90 * MINUTE).await;
    world.platform().always(Scripted::NewToken(HOUR));
    pass(31 * SECOND).await;
    let snapshot = world.handle.snapshot();
    assert!(snapshot.failures.is_empty());
    let next = snapshot.next.unwrap();
    assert!(next.reason.contains("spread"), "{}", next.reason);
    let rest = next.at - world.now().boot;
    assert!((11 * MINUTE..=48 * MINUTE).contains(&rest), "{rest:?}");
}

#[tokio::test(start_paused = true)]
async fn the_history_tells_each_streak_once_and_keeps_twenty_events() {
    let world = World::of(fail(FetchErrorKind::Unreachable));
    world.open().await.unwrap_err();
    pass(10 * MINUTE).await;
    let snapshot = world.handle.snapshot();
    assert_eq!(snapshot.history.len(), 1);
    assert_eq!(snapshot.history[0].kind, EventKind::Failure);
    assert_eq!(snapshot.failures[0].count, world.requests() as u64);
    world.platform().always(Scripted::NewToken(10 * SECOND));
    pass(20 * MINUTE).await;
    let history = world.handle.snapshot().history;
    assert_eq!(history.len(), 20);
    assert!(history.iter().all(|event| event.kind == EventKind::Rotation));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_engine_goes_on_with_token_back_off_and_generation() {
    let mut world = World::of(Scripted::NewToken(HOUR));
    let first = world.bytes().await;
    world.restart().await;
    assert_eq!(bytes(&world.handle.usable(READER).expect("kept")), first);
    assert_eq!(world.requests(), 1);
    assert!(world.handle.snapshot().asked);
    world.handle.refresh().unwrap();
    pass(SECOND).await;
    assert_eq!(world.open_ok().await.token().generation, 2);

    world.platform().always(Scripted::FailFor(FetchErrorKind::RateLimited, 10 * MINUTE));
    pass(65 * MINUTE).await;
    let requests = world.requests();
    world.restart().await;
    assert_eq!(world.open_err().await, ReadErrorKind::Expired);
    pass(MINUTE).await;
    assert_eq!(world.requests(), requests);
}
