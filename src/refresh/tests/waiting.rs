//! Opens that wait.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_thousand_waiting_opens_make_one_fetch_and_get_the_same_token() {
    let world = World::of(Scripted::NewToken(HOUR).after(SECOND));
    let opens: Vec<_> = (0..1000)
        .map(|_| {
            let handle = world.handle.clone();
            let deadline = world.now().boot + 5 * SECOND;
            tokio::spawn(async move { handle.token(READER, deadline).await })
        })
        .collect();
    for open in opens {
        assert_eq!(bytes(&open.await.unwrap().unwrap()), "ghs_platform_0");
    }
    assert_eq!(world.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn opens_that_vanish_take_neither_the_fetch_nor_the_others_with_them() {
    let world = World::of(Scripted::NewToken(HOUR).after(SECOND));
    let deadline = world.now().boot + 5 * SECOND;
    let opens: Vec<_> = (0..100)
        .map(|_| {
            let handle = world.handle.clone();
            tokio::spawn(async move { handle.token(READER, deadline).await })
        })
        .collect();
    for (number, open) in opens.iter().enumerate().filter(|(number, _)| number % 10 != 3) {
        pass(Duration::from_millis(number as u64 % 7)).await;
        open.abort();
    }
    let mut served = 0;
    for open in opens {
        if let Ok(answer) = open.await {
            served += usize::from(answer.is_ok());
        }
    }
    assert_eq!((served, world.requests()), (10, 1));
}

#[tokio::test(start_paused = true)]
async fn a_fetch_goes_on_when_all_who_waited_are_gone() {
    let world = World::of(Scripted::NewToken(HOUR).after(SECOND));
    let short = world.now().boot + SECOND / 2;
    assert_eq!(world.handle.token(READER, short).await.unwrap_err().kind, ReadErrorKind::TimedOut);
    pass(SECOND).await;
    assert!(world.handle.usable(READER).is_some());
    assert_eq!(world.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_with_a_fetch_in_flight_is_a_time_out_to_the_millisecond() {
    let world = World::of(Scripted::Hang);
    let before = world.now();
    assert_eq!(world.open_err().await, ReadErrorKind::TimedOut);
    let waited = world.now().elapsed_since(&before);
    assert!((5 * SECOND..=5 * SECOND + Duration::from_millis(2)).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_in_the_past_is_answered_at_once() {
    let world = World::of(Scripted::Hang);
    let before = world.now();
    assert!(world.handle.token(READER, before.boot).await.is_err());
    assert!(world.handle.token(READER, Duration::ZERO).await.is_err());
    assert_eq!(world.now(), before);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_counts_the_suspend() {
    let world = World::of(Scripted::Hang);
    let open = tokio::spawn({
        let (handle, deadline) = (world.handle.clone(), world.now().boot + 5 * SECOND);
        async move { handle.token(READER, deadline).await }
    });
    pass(SECOND).await;
    world.time.suspend(HOUR);
    let resumed = world.now();
    assert_eq!(open.await.unwrap().unwrap_err().kind, ReadErrorKind::TimedOut);
    assert!(world.now().elapsed_since(&resumed) < SECOND / 10);
}

#[tokio::test(start_paused = true)]
async fn an_open_beyond_whose_deadline_the_next_try_lies_is_told_at_once() {
    let world = World::of(fail(FetchErrorKind::ServerError));
    world.open().await.unwrap_err();
    while world.next_in() < 6.0 {
        pass(Duration::from_secs_f64(world.next_in() + 0.01)).await;
    }
    let (before, requests) = (world.now(), world.requests());
    let error = world.open().await.unwrap_err();
    assert_eq!(error.kind, ReadErrorKind::NoToken);
    assert_eq!(error.cause.unwrap().kind, FetchErrorKind::ServerError);
    assert_eq!((world.now(), world.requests()), (before, requests));
}

#[tokio::test(start_paused = true)]
async fn an_open_waits_for_a_try_that_lies_before_its_deadline() {
    let world = World::of(Scripted::NewToken(HOUR));
    world.platform().then(fail(FetchErrorKind::Unreachable));
    world.platform().then(fail(FetchErrorKind::Unreachable));
    world.open_ok().await;
    assert_eq!(world.requests(), 3);
}

#[tokio::test(start_paused = true)]
async fn opens_never_shorten_a_back_off() {
    let world = World::of(fail(FetchErrorKind::ServerError));
    for _ in 0..3000 {
        let _ = world.handle.token(READER, world.now().boot).await;
        pass(Duration::from_millis(100)).await;
    }
    // Full jitter up to 30 s: one request in 15 s on average, and the ramp before it.
    assert!(world.requests() < 45, "{} requests in 300 s", world.requests());
}

#[tokio::test(start_paused = true)]
async fn an_ended_engine_is_an_error_and_no_hang() {
    let world = World::of(Scripted::Hang);
    let open = tokio::spawn({
        let (handle, deadline) = (world.handle.clone(), world.now().boot + 5 * SECOND);
        async move { handle.token(READER, deadline).await }
    });
    pass(SECOND).await;
    world.engine.abort();
    assert_eq!(open.await.unwrap().unwrap_err().kind, ReadErrorKind::NoToken);
    assert_eq!(world.open_err().await, ReadErrorKind::NoToken);
}

#[tokio::test(start_paused = true)]
async fn the_engine_ends_with_its_last_handle() {
    let World { handle, engine, .. } = World::of(Scripted::Hang);
    let other = handle.clone();
    drop(handle);
    pass(SECOND).await;
    assert!(!engine.is_finished());
    drop(other);
    engine.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_waiting_open_finds_its_generation_in_the_store() {
    use crate::refresh::store::Store;
    let world = World::of(Scripted::NewToken(HOUR).after(SECOND));
    let fresh = world.open_ok().await;
    assert_eq!(world.store.load().token.as_ref(), Some(fresh.token()));
    assert_eq!(fresh.token().generation, 1);
}

/// Readers on real threads and in real time: no wake-up is lost and no fetch doubled.
#[test]
fn opens_rejects_and_refreshes_from_many_threads_lose_no_wake_up() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let answer = Scripted::NewToken(SECOND / 2).after(Duration::from_millis(3));
        let world = Arc::new(World::of(answer));
        let readers: Vec<_> = (0..16)
            .map(|reader| {
                let world = Arc::clone(&world);
                tokio::spawn(async move {
                    for turn in 0..200 {
                        let fresh = world.open().await.expect("a token within the deadline");
                        match (reader, turn) {
                            (0, 70 | 140) => {
                                world.handle.reject(fresh.token().fingerprint(), READER);
                            }
                            (1, 100) => drop(world.handle.refresh()),
                            _ => {}
                        }
                        pass(Duration::from_millis(5)).await;
                    }
                })
            })
            .collect();
        let all = all_of(readers);
        tokio::time::timeout(MINUTE, all).await.expect("a wake-up was lost");
        let snapshot = world.handle.snapshot();
        let in_flight = u64::from(snapshot.fetching);
        assert_eq!(world.requests() as u64, snapshot.attempts);
        assert_eq!(snapshot.attempts, snapshot.fetches + in_flight);
    });
}

async fn all_of(readers: Vec<JoinHandle<()>>) {
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_is_told_that_a_reader_waits_and_not_of_its_timer() {
    let world = World::of(Scripted::NewToken(HOUR).after(SECOND));
    world.open_ok().await;
    assert_eq!(world.platform().hurried(), 1, "the open began the fetch");
    pass(49 * MINUTE).await;
    assert_eq!((world.requests(), world.platform().hurried()), (2, 1), "the timer did");
    world.handle.refresh().unwrap();
    pass(SECOND / 2).await;
    world.handle.reject(Fingerprint::of(b"ghs_platform_1"), READER);
    assert_eq!((world.bytes().await.as_str(), world.requests()), ("ghs_platform_2", 3));
    assert_eq!(world.platform().hurried(), 2, "one came while it was under way");
}
