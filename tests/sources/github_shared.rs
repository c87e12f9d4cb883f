//! What the sources of one App share in a process: tokens for the same, the budget, GitHub's wishes.

use molecule_tokenfs::demo::github::Installation as Installed;
use molecule_tokenfs::secret::Secret;
use molecule_tokenfs::source::github_app::{GithubAppConfig, Installation};
use molecule_tokenfs::source::{Configured, Scope};

use super::github::App;
use super::*;

fn few(config: &mut GithubAppConfig) {
    (config.mints_a_minute, config.request_timeout) = (2, Duration::from_secs(2));
}

type Change = fn(&mut GithubAppConfig);

/// None.
const WHOLE: Change = |_| ();

/// The sources of one process, each the App's with a change.
fn family(app: &App, changes: &[Change]) -> Vec<Arc<dyn Source>> {
    let shared = surroundings();
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
    let sources = family(
        &app,
        &[
            few,
            |config| {
                few(config);
                config.repositories = vec!["web".to_owned()];
            },
            |config| {
                few(config);
                config.repositories = vec!["api".to_owned()];
            },
        ],
    );
    app.succeeds(&*sources[0]).await;
    app.succeeds(&*sources[1]).await;
    let detail = "`mints-per-minute` of the source, 2, is used up";
    let error = app.fails(&*sources[2], FetchErrorKind::RateLimited, detail).await;
    let wait = error.retry_after.expect("a time").as_secs();
    assert!((50..=60).contains(&wait), "{wait}");
    assert_eq!(app.demo.github().minted(), 2);
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
