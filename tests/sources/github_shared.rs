//! What the sources of one App share in a process: tokens for the same, the budget, GitHub's wishes.

use std::sync::Mutex;

use molecule_tokenfs::demo::github::Installation as Installed;
use molecule_tokenfs::refresh::policy::{Answer, Event, Policy, Rules, SourceRules};
use molecule_tokenfs::secret::Secret;
use molecule_tokenfs::source::github_app::{GithubAppConfig, Installation};
use molecule_tokenfs::source::{Configured, Scope};
use molecule_tokenfs::time::{Clock, Now};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::github::App;
use super::*;

fn few(config: &mut GithubAppConfig) {
    (config.mints_a_minute, config.request_timeout) = (2, Duration::from_secs(2));
}

type Change = fn(&mut GithubAppConfig);

/// Two of a minute, and one more: for these things.
const MORE_THAN_THE_BUDGET: [Change; 3] = [
    few,
    |config| {
        few(config);
        config.repositories = vec!["web".to_owned()];
    },
    |config| {
        few(config);
        config.repositories = vec!["api".to_owned()];
    },
];

/// None.
const WHOLE: Change = |_| ();

/// The machine's clock, of which a test can let time pass.
#[derive(Default)]
struct Ahead(Mutex<Duration>);

impl Ahead {
    fn pass(&self, time: Duration) {
        *self.0.lock().expect("no panic") += time;
    }
}

impl Clock for Ahead {
    fn now(&self) -> Now {
        // As in a suspended machine whose wall clock nobody has set yet: claims stay true.
        let (now, ahead) = (SystemClock.now(), *self.0.lock().expect("no panic"));
        Now { boot: now.boot + ahead, ..now }
    }
}

/// The sources of one process, each the App's with a change.
fn family(app: &App, changes: &[Change]) -> Vec<Arc<dyn Source>> {
    family_by(Arc::new(SystemClock), app, changes)
}

fn family_by(clock: Arc<dyn Clock>, app: &App, changes: &[Change]) -> Vec<Arc<dyn Source>> {
    let shared = Surroundings { clock, ..surroundings() };
    let built = changes.iter().map(|change| {
        let mut config = app.config.clone();
        change(&mut config);
        SourceConfig::GithubApp(config).build(&shared)
    });
    built.collect()
}

/// Asks all at once.
async fn all(sources: &[Arc<dyn Source>]) -> Vec<Result<Fetched, FetchError>> {
    let fetches = sources.iter().map(|source| {
        let source = Arc::clone(source);
        tokio::spawn(async move { fetch(&*source).await })
    });
    let mut answers = Vec::new();
    for fetch in fetches.collect::<Vec<_>>() {
        answers.push(fetch.await.expect("no panic"));
    }
    answers
}

fn tokens(answers: Vec<Result<Fetched, FetchError>>) -> Vec<Secret> {
    answers.into_iter().map(|answer| answer.expect("a token").secret).collect()
}

#[tokio::test]
async fn a_token_for_the_same_is_minted_once_however_many_ask() {
    let app = App::new();
    let narrowed: Change = |config| {
        let web = Scope::of_repository("acme", "web").expect("a repository");
        *config = config.narrowed(&web).expect("it serves it");
    };
    let web: Change = |config| config.repositories = vec!["Web".to_owned()];
    let by_number: Change = |config| {
        config.installation = Installation::Id(71);
        config.repositories = vec!["web".to_owned()];
    };
    let sources = family(&app, &[web, narrowed, by_number, web, narrowed]);
    let first = tokens(all(&sources).await);
    assert!(first.iter().all(|token| *token == first[0]));
    assert_eq!(app.demo.github().minted(), 1);
    // Whoever has had the newest gets another, and the others get that.
    let second = tokens(all(&sources).await);
    assert!(second.iter().all(|token| *token == second[0] && *token != first[0]));
    assert_eq!(app.demo.github().minted(), 2);
    let looked = |path: &str| app.demo.github().seen().iter().filter(|it| it.path == path).count();
    assert_eq!(looked("/orgs/acme/installation"), 1, "its number is found once");
}

#[tokio::test]
async fn tokens_for_other_things_are_minted_each() {
    let app = App::new();
    let sources = family(
        &app,
        &[
            |_| (),
            |config| config.repositories = vec!["web".to_owned()],
            |config| config.repositories = vec!["web".to_owned(), "api".to_owned()],
            |config| config.permissions = [("contents".to_owned(), "read".to_owned())].into(),
            |config| config.installation = Installation::Owner("globex".to_owned()),
        ],
    );
    let mut got = tokens(all(&sources).await);
    got.sort_by(|one, other| one.expose().cmp(other.expose()));
    got.dedup();
    assert_eq!((got.len(), app.demo.github().minted()), (5, 5));
}

#[tokio::test]
async fn a_token_of_which_most_is_over_is_not_shared() {
    let app = App::with(Setup::with_life(Duration::from_secs(6)));
    let sources = family(&app, &[WHOLE, WHOLE]);
    let first = app.succeeds(&*sources[0]).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_ne!(app.succeeds(&*sources[1]).await.secret, first.secret);
}

#[tokio::test]
async fn a_refusal_is_told_to_all_who_waited_for_it() {
    let app = App::new();
    let sources = family(&app, &[WHOLE; 8]);
    app.succeeds(&*sources[0]).await;
    app.demo.github().install(Installed { is_suspended: true, ..Installed::of(71, "acme", &[]) });
    let before = app.demo.github().seen().len();
    // Those who have not had the newest get it.
    let answers = all(&sources).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 7);
    let answers = all(&sources).await;
    let suspended = |answer: &Result<Fetched, FetchError>| matches!(answer, Err(error) if error.kind == FetchErrorKind::Suspended);
    assert!(answers.iter().all(suspended), "{answers:?}");
    let asked = app.demo.github().seen().len() - before;
    assert!((2..=4).contains(&asked), "asked {asked} times for nine");
}

#[tokio::test]
async fn a_budget_that_is_used_up_is_named_with_the_time_until_there_is_more() {
    let app = App::new();
    let sources = family(&app, &MORE_THAN_THE_BUDGET);
    app.succeeds(&*sources[0]).await;
    app.succeeds(&*sources[1]).await;
    let detail = "`mints-per-minute` of the source, 2, is used up";
    let error = app.fails(&*sources[2], FetchErrorKind::RateLimited, detail).await;
    let wait = error.retry_after.expect("a time").as_secs();
    assert!((50..=60).contains(&wait), "{wait}");
    assert_eq!(app.demo.github().minted(), 2);
}

#[tokio::test]
async fn who_was_refused_by_the_budget_asks_again_when_there_is_room() {
    for has_a_token in [false, true] {
        let (app, clock) = (App::new(), Arc::new(Ahead::default()));
        let sources = family_by(Arc::<Ahead>::clone(&clock), &app, &MORE_THAN_THE_BUDGET);
        let rules = Rules { sources: vec![SourceRules::default()], ..Rules::default() };
        let mut rng = StdRng::seed_from_u64(1);
        let mut policy = Policy::new(Arc::new(rules), &clock.now());
        let mut asks = policy.step(Event::Opened, &clock.now(), &mut rng).fetch;
        if has_a_token {
            let Fetched { secret, issued, term } = app.succeeds(&*sources[2]).await;
            let answer = Answer::Token { fingerprint: secret.fingerprint(), issued, term };
            let event = Event::Answered { source: 0, answer };
            assert_eq!(policy.step(event, &clock.now(), &mut rng).fetch, None, "it lives");
            clock.pass(Duration::from_mins(2));
            asks = policy.step(Event::Refresh, &clock.now(), &mut rng).fetch;
        }
        // Others use it up, again and again: it is no failure that grows.
        for _ in 0..6 {
            app.succeeds(&*sources[0]).await;
            app.succeeds(&*sources[1]).await;
            assert_eq!(asks, Some(0));
            let detail = "`mints-per-minute` of the source, 2, is used up";
            let error = app.fails(&*sources[2], FetchErrorKind::RateLimited, detail).await;
            assert!(error.to_string().contains("the App may mint no more"), "{error}");
            let room = error.retry_after.expect("a time");
            assert!(room <= Duration::from_mins(1), "{room:?}");
            let FetchError { kind, retry_after, .. } = error;
            let answer = Answer::Failed { kind, retry_after };
            let (event, now) = (Event::Answered { source: 0, answer }, clock.now());
            assert_eq!(policy.step(event, &now, &mut rng).fetch, None);
            let next = policy.wake(&now).expect("a time").saturating_sub(now.boot);
            // A little later, for whoever else was told the same.
            assert!(next >= room && next <= room / 10 * 11, "{next:?} of {room:?}");
            clock.pass(next);
            asks = policy.step(Event::Tick, &clock.now(), &mut rng).fetch;
        }
        assert_eq!(asks, Some(0));
        app.succeeds(&*sources[2]).await;
    }
}

#[tokio::test]
async fn what_github_asks_of_one_token_all_tokens_of_the_app_heed() {
    let app = App::new();
    let reset = app.demo.ledger().issuer_time().as_second() + 2;
    let sources = family(
        &app,
        &[|_| (), |config| config.installation = Installation::Owner("globex".to_owned())],
    );
    app.succeeds(&*sources[0]).await;
    app.demo.github().limit_next(reset + 1);
    let limited = app.fails(&*sources[0], FetchErrorKind::RateLimited, "API rate limit").await;
    let wish = limited.retry_after.expect("a time");
    let before = app.demo.github().seen().len();
    // Not even its installation is looked for.
    app.fails(&*sources[1], FetchErrorKind::RateLimited, "GitHub asked it to wait").await;
    assert_eq!(app.demo.github().seen().len(), before);
    tokio::time::sleep(wish).await;
    app.succeeds(&*sources[1]).await;
}
