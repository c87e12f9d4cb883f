use super::super::testing::{CANARY, MINUTE, Scene, ago, failing, now, token};
use super::*;
use crate::error::FetchErrorKind as Kind;
use crate::refresh::Rejection;
use crate::secret::Secret;

fn rejection(withheld: bool) -> Rejection {
    let until = if withheld { MINUTE } else { Duration::ZERO };
    Rejection {
        fingerprint: token().fingerprint(),
        at: ago(1),
        withheld_until: now().boot + until,
        count: 3,
        user: Some(1001),
        is_denied: false,
    }
}

fn from_env() -> Token {
    Token { source: "env", life: Life::Assumed(MINUTE * 60), ..token() }
}

/// The state, the sentence, and what to do.
fn says(scene: &Scene) -> String {
    let status = scene.document();
    let token = &status.tokens[0];
    assert_eq!((status.state, &status.summary), (token.state, &token.summary));
    let mut lines = vec![format!("{}: {}", status.state.name(), status.summary)];
    lines.extend(token.advice.iter().map(|advice| format!("do: {advice}")));
    lines.extend(token.notes.iter().map(|note| format!("note: {note}")));
    lines.join("\n")
}

#[test]
fn before_the_first_open_it_is_idle() {
    insta::assert_snapshot!(says(&Scene::idle()), @"idle: nobody has asked for a token yet: the first open fetches one");
}

#[test]
fn a_served_token_without_failures_is_fresh() {
    insta::assert_snapshot!(says(&Scene::fresh()), @"fresh: a token of platform is served");
}

#[test]
fn a_failing_source_makes_a_served_token_degraded() {
    let mut scene = Scene::fresh();
    scene.snapshot.failures = vec![failing("platform", Kind::ServerError)];
    insta::assert_snapshot!(says(&scene), @r"
    degraded: the token at hand is served, but platform gives no new one: the platform failed to mint a token (what exactly)
    do: platform: look at the platform's log; it is tried again by itself
    ");
}

#[test]
fn a_token_of_a_later_source_is_degraded_and_outside_the_promise() {
    let mut scene = Scene::fresh();
    scene.snapshot.token = Some(from_env());
    scene.snapshot.fallback = true;
    scene.snapshot.failures = vec![failing("platform", Kind::NotFound)];
    insta::assert_snapshot!(says(&scene), @r"
    degraded: the token of env is served, since platform gives none: the platform has no GitHub App configured, or does not know this workspace (what exactly)
    do: platform: configure the GitHub App on the platform and check WORKSPACE_ID; or set GITHUB_TOKEN to a token of your own
    note: nobody can know when the token of env expires: it is taken to live 1h, and is outside the promise that no dead token is served
    ");
    let token = scene.document().tokens.remove(0);
    assert_eq!((token.expires_at, token.left_seconds), (None, Some(43 * 60)));
}

#[test]
fn a_rejected_token_is_withheld_and_then_served_again() {
    let mut scene = Scene::fresh();
    scene.snapshot.rejected = Some(rejection(true));
    insta::assert_snapshot!(says(&scene), @r"
    none: a consumer said that the token was refused: it is withheld; the next open fetches one
    do: check that the GitHub App is still installed and not suspended
    ");
    assert!(scene.document().tokens[0].rejected.as_ref().unwrap().withheld);
    scene.snapshot.rejected.as_mut().unwrap().is_denied = true;
    scene.snapshot.failures = vec![failing("platform", Kind::Rejected)];
    insta::assert_snapshot!(says(&scene), @r"
    degraded: a consumer said that the token was refused, and platform gives no other: it is served, but not to user 1001, who said so
    do: platform: check that the GitHub App is still installed and not suspended
    ");
    assert!(!scene.document().tokens[0].rejected.as_ref().unwrap().withheld);
    scene.snapshot.rejected = Some(rejection(false));
    scene.snapshot.failures = vec![failing("platform", Kind::Rejected)];
    insta::assert_snapshot!(says(&scene), @r"
    degraded: a consumer said that the token was refused, and platform gives no other: it is served
    do: platform: check that the GitHub App is still installed and not suspended
    ");
}

#[test]
fn without_a_token_it_says_what_the_source_says() {
    for kind in Kind::ALL {
        let scene = Scene::failing(kind);
        let status = scene.document();
        let token = &status.tokens[0];
        assert_eq!(status.state, State::None, "{kind:?}");
        let explanation = kind.explain();
        assert!(status.summary.contains(explanation.sentence), "{}", status.summary);
        assert!(token.advice[0].contains(explanation.remedy), "{:?}", token.advice);
        assert_eq!(token.last_failure.as_ref().unwrap().kind, kind.name());
    }
    insta::assert_snapshot!(says(&Scene::failing(Kind::Unauthorized)), @r"
    none: there is no token yet, and platform gives none: the source says that our bearer is wrong (what exactly)
    do: platform: register the workspace anew, so that the bearer file is written again; the file is watched
    ");
}

#[test]
fn a_token_that_ran_out_is_none_while_somebody_asks_and_idle_when_nobody_does() {
    let mut scene = Scene::fresh();
    scene.snapshot.token = Some(Token { issued: ago(61), ..token() });
    insta::assert_snapshot!(says(&scene), @"none: the last token ran out; the next open fetches one");
    scene.snapshot.fetching = true;
    insta::assert_snapshot!(says(&scene), @"none: the last token ran out; a fetch is under way");
    scene.snapshot.fetching = false;
    scene.snapshot.idle = true;
    insta::assert_snapshot!(says(&scene), @"idle: nobody has asked for a token for a long time: it is refreshed at the next open");
}

#[test]
fn below_the_minimum_life_a_token_is_not_served() {
    let mut scene = Scene::fresh();
    scene.snapshot.min_life = MINUTE * 43;
    assert_eq!(scene.document().state, State::Fresh);
    scene.snapshot.min_life = MINUTE * 43 + Duration::from_secs(1);
    assert_eq!(scene.document().state, State::None);
}

#[test]
fn what_was_cut_and_what_runs_behind_is_noted() {
    let mut scene = Scene::fresh();
    scene.identity.min_life = Some(MINUTE * 45);
    scene.snapshot.min_life = MINUTE * 2;
    scene.snapshot.repeats = true;
    scene.snapshot.skew = Duration::from_secs(312);
    scene.snapshot.skew_is_proved = true;
    scene.counters.refused(ReadErrorKind::Denied);
    insta::assert_snapshot!(says(&scene), @r"
    fresh: a token of platform is served
    do: opens were refused with EACCES: read it as its owner, or mount with --owner or --mode for this user
    note: --min-life 45m is cut to 2m: the source gives the same token until little of its life is left
    note: the source's clock runs 5m 12s behind the issuer's: lives are shortened by that
    ");
    scene.snapshot.repeats = false;
    assert!(says(&scene).contains("half of its life"));
    scene.identity.git_min_life = Some(MINUTE * 45);
    scene.snapshot.git_min_life = MINUTE * 30;
    assert!(says(&scene).contains("--git-min-life 45m is cut to 30m: "), "{}", says(&scene));
    scene.identity.git_min_life = None;
    scene.snapshot.skew_is_proved = false;
    for (ahead, skew, note) in [
        (
            Some(600),
            0,
            "the source's clock is 10m ahead of this machine's: one of them is wrong, and lives \
             are reckoned by the source's",
        ),
        (
            Some(-600),
            600,
            "the source's clock is 10m behind this machine's: one of them is wrong, and lives \
             are shortened by 10m",
        ),
        (
            None,
            600,
            "the source's clock and this machine's did not agree at the last answer: lives are \
             shortened by 10m",
        ),
    ] {
        scene.snapshot.clock_ahead = ahead;
        scene.snapshot.skew = Duration::from_secs(skew);
        assert!(says(&scene).contains(note), "{}", says(&scene));
    }
    (scene.snapshot.clock_ahead, scene.snapshot.skew) = (Some(-30), Duration::from_secs(30));
    assert!(!says(&scene).contains("this machine's"));
    scene.identity.min_life = Some(MINUTE);
    assert!(!says(&scene).contains("--min-life"));
}

#[test]
fn times_follow_a_wall_clock_that_was_set() {
    let scene = Scene::fresh();
    let mut set_back = now();
    set_back.wall -= MINUTE * 600;
    let status = document(&scene.identity, &scene.snapshot, &scene.counters, &set_back);
    let token = &status.tokens[0];
    let minutes = |t: Option<Timestamp>| (t.unwrap() - set_back.timestamp()).get_seconds() / 60;
    assert_eq!(minutes(token.fetched_at), -17);
    assert_eq!(minutes(token.expires_at), 43);
    assert_eq!(minutes(token.next_refresh_at), 28);
    assert_eq!(minutes(Some(token.history[0].at)), -62);
}

#[test]
fn a_refresh_that_is_overdue_is_now() {
    let mut scene = Scene::fresh();
    scene.snapshot.next.as_mut().unwrap().at = ago(5).boot;
    assert_eq!(scene.document().tokens[0].next_refresh_at, Some(now().timestamp()));
}

#[test]
fn particulars_are_cut_and_cannot_drive_a_terminal() {
    let mut scene = Scene::failing(Kind::BadAnswer);
    scene.snapshot.failures[0].error.detail = format!("\x1b[2J\n{}", "ä".repeat(1000));
    let status = scene.document();
    let text = serde_json::to_string(&status).unwrap();
    assert!(!text.contains("\\u001b") && !text.contains("\\n"), "{text}");
    let detail = &status.tokens[0].failures[0].detail;
    assert_eq!((detail.chars().count(), detail.ends_with('…')), (MAX_DETAIL + 1, true));
}

#[test]
fn strangers_are_told_what_kind_of_thing_fails_and_nothing_more() {
    const PARTICULAR: &str = "/home/agent/configs/.auth_token: byte 7";
    let mut scene = Scene::failing(Kind::BearerUnusable);
    scene.identity.why_files = Some(PARTICULAR.to_owned());
    scene.snapshot.failures[0].error.detail = PARTICULAR.to_owned();
    scene.snapshot.history.push_back(Event {
        at: ago(3),
        kind: EventKind::Failure,
        token: None,
        reason: "platform: the bearer file cannot be used".to_owned(),
        detail: PARTICULAR.to_owned(),
    });
    let Scene { identity, snapshot, counters } = &scene;
    let full = document(identity, snapshot, counters, &now());
    let reduced = document_for_strangers(identity, snapshot, counters, &now());
    let text = |status: &Status| serde_json::to_string(status).unwrap();
    // In the summary, the failure, the last failure, the history, the reason for files and the note on it.
    assert_eq!(text(&full).matches(PARTICULAR).count(), 7);
    assert_eq!(text(&reduced).matches(PARTICULAR).count(), 0);
    let keys = |status: &Status| {
        let value = serde_json::to_value(status).unwrap();
        let keys = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        (keys(&value), keys(&value["tokens"][0]), keys(&value["tokens"][0]["last_failure"]))
    };
    assert_eq!(keys(&full), keys(&reduced));
    let (full, reduced) = (&full.tokens[0], &reduced.tokens[0]);
    assert_eq!((full.state, &full.advice), (reduced.state, &reduced.advice));
    assert_eq!(reduced.last_failure.as_ref().unwrap().kind, "bearer_unusable");
    assert_eq!(
        reduced.summary,
        "there is no token yet, and platform gives none: the bearer file cannot be used"
    );
    assert_eq!(reduced.history[0].reason, "platform: the bearer file cannot be used");
}

#[test]
fn no_token_is_in_it() {
    let mut scene = Scene::fresh();
    scene.snapshot.rejected = Some(rejection(true));
    scene.snapshot.failures = vec![failing("platform", Kind::Rejected)];
    let secret = Secret::new(CANARY.as_bytes().to_vec()).unwrap();
    let status = scene.document();
    let text = format!("{status:?}{}", serde_json::to_string(&status).unwrap());
    assert!(!text.contains("canary") && text.contains(&secret.fingerprint().to_string()));
}
