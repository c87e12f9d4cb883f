//! More than one source.

use super::*;
use crate::secret::Secret;
use crate::source::env::{Env, EnvConfig};

fn chain(platform: Scripted, env: Scripted) -> World {
    World::with(Windows::default(), &[("platform", platform), ("env", env)])
}

fn env_token() -> Scripted {
    Scripted::AssumedToken("ghp_own".to_owned(), HOUR)
}

#[tokio::test(start_paused = true)]
async fn env_serves_whenever_the_platform_gives_no_token_for_whatever_reason() {
    for kind in FetchErrorKind::ALL {
        let world = chain(fail(kind), env_token());
        assert_eq!(world.bytes().await, "ghp_own", "{kind:?}");
        let snapshot = world.handle.snapshot();
        assert!(snapshot.fallback, "{kind:?}");
        if kind != FetchErrorKind::NotConfigured {
            assert_eq!(snapshot.failures[0].error.kind, kind);
        }
        assert_eq!(world.state(), State::Degraded);
    }
}

#[tokio::test(start_paused = true)]
async fn env_is_not_asked_while_the_platform_gives_tokens() {
    let world = chain(Scripted::NewToken(HOUR), env_token());
    world.open_ok().await;
    pass(5 * HOUR).await;
    assert!(world.env().requests().is_empty());
    assert!(!world.handle.snapshot().fallback);
}

#[tokio::test(start_paused = true)]
async fn env_is_not_asked_while_the_platforms_token_lives() {
    let world = chain(Scripted::NewToken(HOUR), env_token());
    let first = world.bytes().await;
    world.platform().always(fail(FetchErrorKind::NotFound));
    pass(58 * MINUTE).await;
    assert_eq!(world.bytes().await, first);
    pass(2 * MINUTE).await;
    assert_eq!(world.bytes().await, "ghp_own");
}

#[tokio::test(start_paused = true)]
async fn a_hanging_platform_holds_up_an_open_for_two_fifths_of_its_deadline() {
    let world = chain(Scripted::Hang, env_token());
    let before = world.now();
    assert_eq!(world.bytes().await, "ghp_own");
    let waited = world.now().elapsed_since(&before);
    assert!((2 * SECOND..=2 * SECOND + SECOND / 100).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hanging_platform_is_what_is_wrong_and_not_a_later_source_that_nobody_configured() {
    let world = chain(Scripted::Hang, fail(FetchErrorKind::NotConfigured));
    assert_eq!(world.open_err().await, ReadErrorKind::TimedOut);
    let snapshot = world.handle.snapshot();
    assert!(snapshot.fetching && snapshot.failures.is_empty(), "{:?}", snapshot.failures);
    assert!(snapshot.history.is_empty(), "{:?}", snapshot.history);
    pass(world.windows.fetch_timeout).await;
    let failures = world.handle.snapshot().failures;
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].error.kind, FetchErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn the_platforms_late_answer_replaces_the_one_that_stood_in() {
    let world = chain(Scripted::NewToken(HOUR).after(4 * SECOND), env_token());
    assert_eq!(world.bytes().await, "ghp_own");
    pass(3 * SECOND).await;
    assert_eq!(world.bytes().await, "ghs_platform_0");
    assert_eq!((world.requests(), world.state()), (1, State::Fresh));
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_of_env_does_not_displace_the_platforms_token() {
    let env = env_token().after(2 * SECOND);
    let world = chain(Scripted::NewToken(HOUR).after(5 * SECOND / 2), env);
    assert_eq!(world.bytes().await, "ghs_platform_0");
    pass(5 * SECOND).await;
    assert_eq!(world.env().requests().len(), 1);
    assert_eq!((world.bytes().await.as_str(), world.state()), ("ghs_platform_0", State::Fresh));
}

#[tokio::test(start_paused = true)]
async fn a_later_sources_token_is_no_success_for_the_schedule() {
    let world = chain(fail(FetchErrorKind::ServerError), env_token());
    world.open_ok().await;
    pass(10 * MINUTE).await;
    // As patient as without any token: what stands in may be dead without anybody knowing.
    assert!((30..60).contains(&world.requests()), "{}", world.requests());
    world.platform().always(Scripted::NewToken(HOUR));
    pass(31 * SECOND).await;
    assert_eq!((world.bytes().await.as_str(), world.state()), ("ghs_platform_0", State::Fresh));
}

#[tokio::test(start_paused = true)]
async fn a_platform_without_github_app_is_tried_slowly_beside_the_users_own_token() {
    let world = chain(fail(FetchErrorKind::NotFound), env_token());
    world.open_ok().await;
    pass(5 * HOUR).await;
    assert_eq!((world.bytes().await.as_str(), world.state()), ("ghp_own", State::Degraded));
    assert!((300..=405).contains(&world.requests()), "{}", world.requests());
    // Its assumed life is renewed at each fetch, and that is no new generation.
    assert!(world.env().requests().len() > 5);
    assert_eq!(world.handle.snapshot().token.unwrap().generation, 1);
}

#[tokio::test(start_paused = true)]
async fn ekeyrejected_only_if_the_later_sources_have_no_token_either() {
    let world = chain(fail(FetchErrorKind::Unauthorized), fail(FetchErrorKind::NotConfigured));
    let error = world.open().await.unwrap_err();
    assert_eq!(error.kind, ReadErrorKind::Rejected);
    assert_eq!(error.cause.unwrap().kind, FetchErrorKind::Unauthorized);
}

#[tokio::test(start_paused = true)]
async fn that_a_later_source_is_not_configured_is_no_news_beside_a_real_failure() {
    let world = chain(fail(FetchErrorKind::Unreachable), fail(FetchErrorKind::NotConfigured));
    let error = world.open().await.unwrap_err();
    assert_eq!(error.kind, ReadErrorKind::NoToken);
    assert_eq!(error.cause.unwrap().kind, FetchErrorKind::Unreachable);
    let failures = world.handle.snapshot().failures;
    assert_eq!(failures.len(), 1, "{failures:?}");

    let nothing = World::with(Windows::default(), &[("env", fail(FetchErrorKind::NotConfigured))]);
    assert_eq!(nothing.open_err().await, ReadErrorKind::NoToken);
    assert_eq!(nothing.failure(), Some(FetchErrorKind::NotConfigured));
}

#[tokio::test(start_paused = true)]
async fn a_hang_with_nothing_to_stand_in_is_a_time_out() {
    let world = chain(Scripted::Hang, fail(FetchErrorKind::NotConfigured));
    assert_eq!(world.open_err().await, ReadErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn the_platforms_word_about_the_token_in_the_environment_counts() {
    // Provisioning put the platform's cached token into the environment.
    let world = chain(
        fail(FetchErrorKind::NotRegistered),
        Scripted::AssumedToken("ghs_same".to_owned(), HOUR),
    );
    assert!(world.open_ok().await.token().expires_at(&world.now()).is_none());
    world.platform().always(token("ghs_same", 20 * MINUTE));
    pass(31 * SECOND).await;
    let fresh = world.open_ok().await;
    assert_eq!(fresh.token().source, "platform");
    assert!(fresh.token().expires_at(&world.now()).is_some());
    assert_eq!((fresh.token().generation, world.state()), (2, State::Fresh));
}

/// A platform that gives tokens which live for ten minutes, and the real environment with this token.
/// Says what an open gets before an outage, during it, and after the engine was restarted in it.
async fn through_an_outage(token: &str) -> [Result<String, ReadErrorKind>; 3] {
    let time = SimulatedTime::new();
    let clock: Arc<dyn Clock> = Arc::new(time.clone());
    let platform = ScriptedSource::new("platform", clock.clone(), Scripted::NewToken(10 * MINUTE));
    let config = EnvConfig {
        token: Some(Secret::new(token.into()).unwrap()),
        assumed_life: HOUR,
        start: Some(time.now()),
    };
    let sources: [Arc<dyn Source>; 2] =
        [Arc::new(platform.clone()), Arc::new(Env::new(config, clock.clone()))];
    let store = Arc::new(MemoryStore::default());
    let engine = || {
        let timer = Arc::new(time.clone());
        Engine::new(sources.to_vec(), Windows::default(), store.clone(), clock.clone(), timer, 1)
    };
    let open = async |handle: &Handle| {
        let opened = handle.token(None, time.now().boot + 5 * SECOND).await;
        opened.map(|token| bytes(&token)).map_err(|error| error.kind)
    };
    let (handle, first) = engine();
    let first = tokio::spawn(first.run());
    let before = open(&handle).await;
    platform.always(fail(FetchErrorKind::Unreachable));
    pass(11 * MINUTE).await;
    let during = open(&handle).await;
    first.abort();
    let (handle, second) = engine();
    let second = tokio::spawn(second.run());
    let after_a_restart = open(&handle).await;
    second.abort();
    [before, during, after_a_restart]
}

#[tokio::test(start_paused = true)]
async fn once_the_platform_gave_a_token_an_older_one_of_the_environment_is_not_served() {
    let expired = || Err(ReadErrorKind::Expired);
    let got = through_an_outage("ghs_fromBeforeTheStart").await;
    assert_eq!(got, [Ok("ghs_platform_0".to_owned()), expired(), expired()]);
}

#[tokio::test(start_paused = true)]
async fn a_token_of_the_users_own_is_served_in_an_outage_whatever_came_before() {
    let own = || Ok("ghp_own".to_owned());
    let got = through_an_outage("ghp_own").await;
    assert_eq!(got, [Ok("ghs_platform_0".to_owned()), own(), own()]);
}

#[tokio::test(start_paused = true)]
async fn an_injected_token_is_never_renewed() {
    // The source counts it from the start of the daemon.
    let time = SimulatedTime::new();
    let fixed = Arc::new(Injected { issued: time.now() });
    let (handle, engine) = Engine::new(
        vec![fixed],
        Windows::default(),
        Arc::new(MemoryStore::default()),
        Arc::new(time.clone()),
        Arc::new(time.clone()),
        1,
    );
    let engine = tokio::spawn(engine.run());
    let open = || handle.token(READER, time.now().boot + 5 * SECOND);
    open().await.unwrap();
    pass(58 * MINUTE).await;
    open().await.unwrap();
    pass(3 * MINUTE).await;
    assert_eq!(open().await.unwrap_err().kind, ReadErrorKind::Expired);
    engine.abort();
}

struct Injected {
    issued: Now,
}

impl Source for Injected {
    fn name(&self) -> &'static str {
        "env"
    }

    fn fetch(
        &self,
    ) -> crate::source::BoxFuture<'_, Result<crate::source::Fetched, crate::error::FetchError>>
    {
        Box::pin(async {
            Ok(crate::source::Fetched {
                secret: crate::secret::Secret::new(b"ghs_injected".to_vec()).unwrap(),
                issued: self.issued,
                term: crate::token::Term::Assumed(HOUR),
            })
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_forced_fetch_asks_every_source_that_has_another_token_up_to_the_one_at_hand() {
    let chain = [
        ("first", Scripted::FailFor(FetchErrorKind::RateLimited, 10 * MINUTE)),
        ("second", Scripted::NewToken(HOUR)),
        ("third", Scripted::NewToken(HOUR)),
    ];
    let world = World::with(Windows::default(), &chain);
    assert_eq!(world.bytes().await, "ghs_second_0");
    pass(2 * SECOND).await;
    world.handle.refresh().expect("only the first wants to be left alone");
    pass(SECOND).await;
    assert_eq!(world.bytes().await, "ghs_second_1");
    let requests = [0, 1, 2].map(|source| world.sources[source].requests().len());
    assert_eq!(requests, [1, 2, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_the_engine_sees_is_told_in_the_words_of_its_source() {
    let world = World::with(Windows::default(), &[("app", token("same", HOUR))]);
    world.open_ok().await;
    pass(MINUTE).await;
    world.handle.reject(Fingerprint::of(b"same"), READER);
    pass(SECOND).await;
    let failure = world.handle.snapshot().failures[0].clone();
    assert_eq!(failure.error.kind, FetchErrorKind::Rejected);
    assert_eq!(failure.error.explain().sentence, "the script's word for it");
}

#[tokio::test(start_paused = true)]
async fn the_back_off_of_every_source_outlives_the_engine() {
    let mut world = chain(
        Scripted::FailFor(FetchErrorKind::Unreachable, 5 * MINUTE),
        Scripted::FailFor(FetchErrorKind::RateLimited, 10 * MINUTE),
    );
    world.open_err().await;
    let asked = world.env().requests().len();
    world.restart().await;
    world.open_err().await;
    world.handle.refresh().ok();
    pass(9 * MINUTE).await;
    assert_eq!(world.env().requests().len(), asked, "it asked to be left alone");
    assert_eq!(world.platform().requests().len(), 2);
    pass(3 * MINUTE).await;
    world.open().await.ok();
    assert!(world.env().requests().len() > asked);
}
