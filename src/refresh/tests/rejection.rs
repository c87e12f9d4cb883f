//! Consumers that say that a token was refused.

use super::*;
use crate::refresh::policy::Progress;
use crate::refresh::store::{Saved, Store};

fn fingerprint(bytes: &str) -> Fingerprint {
    Fingerprint::of(bytes.as_bytes())
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_withheld_at_once_and_many_rejects_make_one_fetch() {
    let world = World::of(Scripted::NewToken(HOUR).after(SECOND / 10));
    let first = world.bytes().await;
    for _ in 0..1000 {
        world.handle.reject(fingerprint(&first), READER);
        assert!(world.handle.usable(READER).is_none());
    }
    assert_eq!(world.bytes().await, "ghs_platform_1");
    assert_eq!(world.requests(), 2);
    assert_eq!((world.handle.snapshot().rejected, world.state()), (None, State::Fresh));
}

#[tokio::test(start_paused = true)]
async fn rejecting_an_unknown_or_an_older_token_changes_nothing() {
    let world = World::of(Scripted::NewToken(HOUR));
    let first = world.bytes().await;
    world.handle.refresh().unwrap();
    pass(SECOND).await;
    world.handle.reject(fingerprint("unknown"), READER);
    world.handle.reject(fingerprint(&first), READER);
    assert!(world.handle.usable(READER).is_some());
    pass(SECOND).await;
    assert_eq!(world.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_that_the_source_insists_on_is_withheld_15_seconds_then_served() {
    let world = World::of(token("same", HOUR));
    world.open_ok().await;
    let rejected = world.now().boot;
    world.handle.reject(fingerprint("same"), READER);
    pass(14 * SECOND).await;
    assert!(world.handle.usable(READER).is_none());
    assert_eq!(world.failure(), Some(FetchErrorKind::Rejected));
    assert_eq!(world.bytes().await, "same");
    let waited = world.now().boot - rejected;
    assert!((15 * SECOND..=15 * SECOND + SECOND / 100).contains(&waited), "{waited:?}");
    assert_eq!((world.state(), world.failure()), (State::Degraded, Some(FetchErrorKind::Rejected)));
    // Not as a new token, either.
    assert_eq!(world.handle.snapshot().token.unwrap().generation, 1);
    // Another token ends it.
    world.platform().always(Scripted::NewToken(HOUR));
    pass(10 * MINUTE).await;
    assert_eq!(world.state(), State::Fresh);
}

#[tokio::test(start_paused = true)]
async fn a_rejecting_user_holds_up_others_only_until_the_source_has_answered() {
    let world = World::of(token("same", HOUR).after(SECOND / 5));
    world.open_ok().await;
    // Once a second, for as long as the platform caches: the last 125 s of it.
    let (mut held_up, step) = (Duration::ZERO, SECOND / 10);
    for round in 0..1250 {
        if round % 10 == 0 {
            world.handle.reject(fingerprint("same"), READER);
        }
        if world.handle.usable(OTHER).is_none() {
            held_up += step;
        }
        pass(step).await;
    }
    // For one request: from then on the source's word counts.
    assert!(held_up <= SECOND / 5 + step, "{held_up:?}");
    assert_eq!(world.handle.snapshot().rejected.unwrap().count, 125);
}

#[tokio::test(start_paused = true)]
async fn the_user_who_rejected_waits_for_another_token_though_others_are_served() {
    let world = World::of(token("same", HOUR).after(SECOND / 5));
    world.open_ok().await;
    world.handle.reject(fingerprint("same"), READER);
    let waits = tokio::spawn({
        let (handle, deadline) = (world.handle.clone(), world.now().boot + 5 * SECOND);
        async move { handle.token(OTHER, deadline).await }
    });
    assert!(world.handle.usable(OTHER).is_none(), "the source has not been asked");
    pass(SECOND).await;
    assert_eq!(bytes(&waits.await.unwrap().unwrap()), "same");
    assert!(world.handle.usable(None).is_some(), "somebody who is not known");
    let dead = world.handle.usable(OTHER).unwrap();
    assert!(world.handle.accepts(dead.token(), OTHER));
    assert!(!world.handle.accepts(dead.token(), READER));
    pass(13 * SECOND).await;
    assert!(world.handle.usable(READER).is_none());
    // A rejection by the other one changes nothing for a minute.
    world.handle.reject(fingerprint("same"), OTHER);
    assert!(world.handle.usable(OTHER).is_some());
    assert_eq!(world.bytes().await, "same");
    assert_eq!(world.handle.snapshot().rejected.unwrap().count, 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_sent_before_the_rejection_says_nothing_about_it() {
    let world = World::of(token("same", HOUR));
    world.open_ok().await;
    world.platform().always(fail(FetchErrorKind::ServerError));
    world.platform().then(token("same", HOUR).after(SECOND));
    world.handle.refresh().unwrap();
    pass(SECOND / 2).await;
    world.handle.reject(fingerprint("same"), READER);
    pass(SECOND).await;
    assert!(world.requests() > 2, "it came again, and was asked for once more");
    assert!(world.handle.usable(OTHER).is_none());
}

#[tokio::test(start_paused = true)]
async fn the_sources_word_outlives_the_engine() {
    let mut world = World::of(token("same", HOUR));
    world.open_ok().await;
    world.handle.reject(fingerprint("same"), READER);
    pass(SECOND).await;
    world.platform().always(fail(FetchErrorKind::ServerError));
    world.restart().await;
    assert!(world.handle.usable(OTHER).is_some() && world.handle.usable(READER).is_none());
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_told_from_the_user_who_rejected_it_waits_too() {
    for rejecter in [READER, UNKNOWN, None] {
        let world = World::of(token("same", HOUR));
        world.open_ok().await;
        world.handle.reject(fingerprint("same"), rejecter);
        pass(SECOND).await;
        let rejected = world.handle.snapshot().rejected.unwrap();
        assert!(rejected.is_denied);
        assert_eq!(rejected.user, rejecter.and_then(|caller| caller.uid()));
        assert!(world.handle.usable(UNKNOWN).is_none(), "{rejecter:?}");
        for other in [OTHER, None] {
            assert!(world.handle.usable(other).is_some(), "{rejecter:?} {other:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn further_rejects_are_only_counted_for_a_minute() {
    let world = World::of(token("same", HOUR));
    world.open_ok().await;
    world.handle.reject(fingerprint("same"), READER);
    pass(20 * SECOND).await;
    world.handle.reject(fingerprint("same"), READER);
    assert!(world.handle.usable(READER).is_some());
    assert_eq!(world.handle.snapshot().rejected.unwrap().count, 2);
    pass(41 * SECOND).await;
    world.handle.reject(fingerprint("same"), READER);
    assert!(world.handle.usable(READER).is_none());
    assert_eq!(world.handle.snapshot().rejected.unwrap().count, 3);
}

#[tokio::test(start_paused = true)]
async fn a_reject_wakes_no_source_that_is_backing_off() {
    let world = World::of(token("same", HOUR));
    world.open_ok().await;
    world.platform().always(Scripted::FailFor(FetchErrorKind::RateLimited, MINUTE));
    world.handle.refresh().unwrap();
    pass(SECOND).await;
    world.handle.reject(fingerprint("same"), READER);
    pass(14 * SECOND).await;
    assert_eq!(world.requests(), 2);
    assert_eq!(world.bytes().await, "same");
}

#[tokio::test(start_paused = true)]
async fn tokens_that_are_all_rejected_cost_at_most_one_fetch_a_second() {
    let world = World::of(Scripted::NewToken(HOUR));
    for _ in 0..200 {
        let bytes = world.bytes().await;
        world.handle.reject(fingerprint(&bytes), READER);
        pass(SECOND / 20).await;
    }
    let (requests, boot) = (world.platform().requests(), world.now().boot);
    let seconds = (boot - requests[0].boot).as_secs();
    assert!(requests.len() as u64 <= seconds + 2, "{} in {seconds} s", requests.len());
}

#[tokio::test(start_paused = true)]
async fn a_rejected_environment_token_is_final() {
    let env = Scripted::AssumedToken("ghp_dead".to_owned(), HOUR);
    let world = World::with(Windows::default(), &[("env", env)]);
    world.open_ok().await;
    world.handle.reject(fingerprint("ghp_dead"), READER);
    let before = world.now();
    assert_eq!(world.open_err().await, ReadErrorKind::Rejected);
    assert_eq!(world.now(), before);
    pass(2 * HOUR).await;
    assert_eq!(world.open_err().await, ReadErrorKind::Rejected);
    assert_eq!(world.state(), State::None);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_environment_token_stays_rejected_after_the_platform_served_and_failed_again() {
    let env = Scripted::AssumedToken("ghp_dead".to_owned(), HOUR);
    let world = World::with(
        Windows::default(),
        &[("platform", fail(FetchErrorKind::ServerError)), ("env", env)],
    );
    assert_eq!(world.bytes().await, "ghp_dead");
    world.handle.reject(fingerprint("ghp_dead"), READER);
    world.platform().always(token("ghs_good", 10 * MINUTE));
    pass(31 * SECOND).await;
    assert_eq!(world.bytes().await, "ghs_good");
    world.platform().always(fail(FetchErrorKind::ServerError));
    pass(20 * MINUTE).await;
    assert_eq!(world.open_err().await, ReadErrorKind::Rejected);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_platform_token_lets_the_environment_serve_and_does_not_come_back_for_it() {
    let env = Scripted::AssumedToken("ghp_own".to_owned(), HOUR);
    let world =
        World::with(Windows::default(), &[("platform", token("ghs_dead", HOUR)), ("env", env)]);
    world.open_ok().await;
    let dead = world.open_ok().await;
    world.handle.reject(fingerprint("ghs_dead"), READER);
    assert_eq!(world.bytes().await, "ghp_own");
    assert!(!world.handle.accepts(dead.token(), READER), "an earlier generation");
    pass(MINUTE).await;
    assert_eq!(world.bytes().await, "ghp_own");
    assert_eq!(world.failure(), Some(FetchErrorKind::Rejected));
    world.platform().always(Scripted::NewToken(HOUR));
    pass(31 * SECOND).await;
    assert_eq!(world.bytes().await, "ghs_platform_0");
}

#[tokio::test(start_paused = true)]
async fn a_rejection_outlives_the_engine() {
    let mut world = World::of(token("same", HOUR));
    world.open_ok().await;
    world.platform().always(fail(FetchErrorKind::ServerError));
    world.handle.reject(fingerprint("same"), READER);
    pass(SECOND).await;
    world.restart().await;
    assert!(world.handle.usable(READER).is_none());
    pass(15 * SECOND).await;
    assert!(world.handle.usable(READER).is_some());
    assert_eq!(world.state(), State::Degraded);
}

/// A store whose readers are quick: the token that it publishes is rejected from another thread
/// before the engine has done anything else.
#[derive(Default)]
struct RejectedAtOnce {
    store: MemoryStore,
    handle: std::sync::OnceLock<Handle>,
}

impl Store for RejectedAtOnce {
    fn reserve(&self) -> u64 {
        self.store.reserve()
    }

    fn publish(&self, token: &FreshToken, now: &Now) {
        self.store.publish(token, now);
        if token.token().generation == 1 {
            let (handle, fingerprint) =
                (self.handle.get().unwrap().clone(), token.token().fingerprint());
            std::thread::spawn(move || handle.reject(fingerprint, READER));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn load(&self) -> Saved {
        self.store.load()
    }

    fn save(&self, progress: &Progress) {
        self.store.save(progress);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_rejected_the_moment_it_is_published_is_rejected() {
    let time = SimulatedTime::new();
    let clock: Arc<dyn Clock> = Arc::new(time.clone());
    let source = ScriptedSource::new("platform", clock.clone(), Scripted::NewToken(HOUR));
    let store = Arc::new(RejectedAtOnce::default());
    let sources = vec![Arc::new(source.clone()) as Arc<dyn Source>];
    let timer = Arc::new(time.clone());
    let (handle, engine) = Engine::new(sources, Windows::default(), store.clone(), clock, timer, 7);
    store.handle.set(handle.clone()).ok();
    tokio::spawn(engine.run());
    let _ = handle.token(READER, time.now().boot + SECOND).await;
    // The thread's reject may still be on its way: real time, and then the engine's.
    std::thread::sleep(Duration::from_millis(50));
    pass(2 * SECOND).await;
    assert_eq!(source.requests().len(), 2, "another token was fetched");
    let snapshot = handle.snapshot();
    assert_eq!(snapshot.token.unwrap().generation, 2);
    assert!(snapshot.history.iter().any(|event| event.kind == EventKind::Reject));
}

#[tokio::test(start_paused = true)]
async fn a_rejection_outlives_the_engine_while_another_sources_token_is_at_hand() {
    let env = Scripted::AssumedToken("ghp_own".to_owned(), HOUR);
    let chain = [("platform", token("ghs_dead", HOUR)), ("env", env)];
    let mut world = World::with(Windows::default(), &chain);
    world.open_ok().await;
    world.handle.reject(fingerprint("ghs_dead"), READER);
    assert_eq!(world.bytes().await, "ghp_own");
    world.restart().await;
    pass(MINUTE).await;
    // The platform insists on it, which is no success.
    assert_eq!(world.bytes().await, "ghp_own");
    assert_eq!(world.failure(), Some(FetchErrorKind::Rejected));
}

#[tokio::test(start_paused = true)]
async fn an_open_that_was_answered_in_the_instant_of_a_reject_waits_for_another_token() {
    let world = World::of(Scripted::NewToken(HOUR).after(SECOND));
    let deadline = world.now().boot + 5 * SECOND;
    let handles = [world.handle.clone(), world.handle.clone()];
    let readers = handles.map(|handle| {
        tokio::spawn(async move {
            let fresh = handle.token(READER, deadline).await.expect("a token");
            // The first one to run rejects what the other was answered with, too.
            if bytes(&fresh) == "ghs_platform_0" {
                handle.reject(fresh.token().fingerprint(), READER);
            }
            bytes(&fresh)
        })
    });
    let mut got = Vec::new();
    for reader in readers {
        got.push(reader.await.unwrap());
    }
    assert_eq!(got, ["ghs_platform_0", "ghs_platform_1"]);
}
