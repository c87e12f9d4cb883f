//! Tokens so young that whoever refuses them may not know them yet.

use super::*;
use crate::refresh::Event;

/// An engine over a source whose tokens are known late.
fn app(standing: Scripted) -> World {
    World::with(Windows::default(), &[("app", standing)])
}

impl World {
    fn reject(&self, bytes: &str) {
        self.handle.reject(Fingerprint::of(bytes.as_bytes()), READER);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_refused_at_once_is_offered_again_after_a_second_and_no_other_is_minted() {
    let world = app(Scripted::NewToken(HOUR));
    let first = world.bytes().await;
    pass(3 * SECOND).await;
    let before = world.now().boot;
    world.reject(&first);
    for user in [READER, OTHER, None] {
        assert!(world.handle.usable(user).is_none(), "{user:?}");
    }
    assert_eq!(world.state(), State::None);
    assert_eq!(world.bytes().await, first);
    let waited = world.now().boot - before;
    assert!((SECOND..=SECOND + SECOND / 100).contains(&waited), "{waited:?}");
    assert_eq!((world.requests(), world.state()), (1, State::Fresh));
    let snapshot = world.handle.snapshot();
    assert_eq!((snapshot.rejected, snapshot.token.unwrap().generation), (None, 1));
    let is_told = |event: &Event| event.reason.ends_with("so young that it is offered again");
    assert_eq!(snapshot.history.iter().filter(|event| is_told(event)).count(), 1);
    // The timer goes on as it was.
    assert!(world.next_in() > 60.0, "{}", world.next_in());
}

#[tokio::test(start_paused = true)]
async fn a_young_token_that_is_refused_again_is_followed_by_another_at_once() {
    let world = app(Scripted::NewToken(HOUR));
    let first = world.bytes().await;
    world.reject(&first);
    pass(SECOND / 2).await;
    // Others had been given it before.
    world.reject(&first);
    pass(SECOND).await;
    assert_eq!((world.bytes().await, world.requests()), (first.clone(), 1));
    world.reject(&first);
    let before = world.now().boot;
    assert_eq!(world.bytes().await, "ghs_app_1");
    assert!(world.now().boot - before < SECOND / 10);
    assert_eq!(world.requests(), 2);
    // The next one is young as well, and has its second.
    world.reject("ghs_app_1");
    assert_eq!((world.bytes().await, world.requests()), ("ghs_app_1".to_owned(), 2));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_refused_ten_seconds_after_its_minting_is_replaced_at_once() {
    let world = app(Scripted::NewToken(HOUR));
    let first = world.bytes().await;
    pass(10 * SECOND).await;
    world.reject(&first);
    let before = world.now().boot;
    assert_eq!((world.bytes().await, world.requests()), ("ghs_app_1".to_owned(), 2));
    assert!(world.now().boot - before < SECOND / 10);
}

#[tokio::test(start_paused = true)]
async fn the_second_of_a_young_token_is_up_even_if_its_refusal_is_told_again_much_later() {
    let world = app(Scripted::NewToken(HOUR));
    let first = world.bytes().await;
    world.reject(&first);
    pass(20 * SECOND).await;
    world.reject(&first);
    assert_eq!((world.bytes().await, world.requests()), ("ghs_app_1".to_owned(), 2));
}

#[tokio::test(start_paused = true)]
async fn no_other_source_stands_in_for_a_young_token() {
    let env = Scripted::AssumedToken("ghp_own".to_owned(), HOUR);
    let chain = [("app", Scripted::NewToken(HOUR)), ("env", env)];
    let world = World::with(Windows::default(), &chain);
    let first = world.bytes().await;
    world.reject(&first);
    assert_eq!(world.bytes().await, first);
    assert_eq!((world.requests(), world.env().requests().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn the_second_of_a_young_token_outlives_the_engine() {
    let mut world = app(Scripted::NewToken(HOUR));
    let first = world.bytes().await;
    world.reject(&first);
    pass(SECOND / 4).await;
    world.restart().await;
    assert!(world.handle.usable(READER).is_none());
    assert_eq!((world.bytes().await, world.requests()), (first, 1));
}
