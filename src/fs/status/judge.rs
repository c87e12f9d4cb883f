//! From what the engine and the counters know to the document.

use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Backend, FailureStatus, HistoryEntry, RejectedStatus, State, Status, TokenStatus};
use serde::{Deserialize, Serialize};

use crate::error::{FetchErrorKind, ReadErrorKind};
use crate::fs::counters::Counters;
use crate::fs::node::Root;
use crate::refresh::{Event, EventKind, Failure, Snapshot};
use crate::time::{self, Now};
use crate::token::{Life, Token};

/// A platform's clock that differs from this machine's by more than this is noted. What a slow answer
/// takes on its way is no difference.
const NOTED_SECONDS: u64 = 30;

/// The longest particulars that the document repeats, in characters.
const MAX_DETAIL: usize = 300;

/// What is the same in every document of a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identity {
    /// The name of the token.
    pub name: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// What serves the files.
    pub backend: Backend,
    /// Why they are plain files, where they are.
    pub why_files: Option<String>,
    /// What is at the mountpoint.
    pub root: Root,
    /// The process that holds the mount.
    pub supervisor_pid: u32,
    /// The process that serves it.
    pub worker_pid: u32,
    /// When the worker started.
    pub started: Now,
    /// `--min-life`, where it was given.
    pub min_life: Option<Duration>,
    /// `--git-min-life`, where it was given.
    #[serde(default)]
    pub git_min_life: Option<Duration>,
}

/// Builds the document as of `now`.
#[must_use]
pub fn document(
    identity: &Identity,
    snapshot: &Snapshot,
    counters: &Counters,
    now: &Now,
) -> Status {
    let token = token_status(identity, snapshot, counters, now);
    Status {
        state: token.state,
        summary: token.summary.clone(),
        mountpoint: identity.mountpoint.to_string_lossy().into_owned(),
        backend: identity.backend,
        layout: identity.root.layout(),
        view: identity.root.view().map(str::to_owned),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        supervisor_pid: identity.supervisor_pid,
        worker_pid: identity.worker_pid,
        last_upgrade: None,
        last_remount: None,
        started_at: Some(wall(identity.started.boot, now)),
        written_at: Some(now.timestamp()),
        tokens: vec![token],
    }
}

/// The same for those who may not read the token: without paths, addresses and what exactly is wrong
/// with them.
#[must_use]
pub fn document_for_strangers(
    identity: &Identity,
    snapshot: &Snapshot,
    counters: &Counters,
    now: &Now,
) -> Status {
    let why_files = identity.why_files.as_ref().map(|_| "their owner is told why".to_owned());
    let identity = Identity { why_files, ..identity.clone() };
    let mut status = document(&identity, &snapshot.without_particulars(), counters, now);
    for token in status.tokens.iter_mut().filter(|token| !token.failures.is_empty()) {
        token.notes.push("what exactly fails is told to those who may read the token".to_owned());
    }
    status
}

fn token_status(
    identity: &Identity,
    snapshot: &Snapshot,
    counters: &Counters,
    now: &Now,
) -> TokenStatus {
    let state = snapshot.state(now);
    let token = snapshot.token.as_ref();
    TokenStatus {
        name: identity.name.clone(),
        state,
        summary: summary(state, snapshot, now),
        generation: token.map(|token| token.generation),
        fingerprint: token.map(|token| token.fingerprint().to_string()),
        source: token.map(|token| token.source.to_owned()),
        fetched_at: token.map(|token| wall(token.issued.boot, now)),
        expires_at: token.and_then(|token| token.expires_at(now)),
        left_seconds: token.map(|token| token.left(now).as_secs()),
        min_life_seconds: snapshot.min_life.as_secs(),
        git_min_life_seconds: snapshot.git_min_life.as_secs(),
        next_refresh_at: snapshot.next.map(|next| wall(next.at.max(now.boot), now)),
        next_refresh_reason: snapshot.next.map(|next| next.reason.to_owned()),
        fetching: snapshot.fetching,
        attempts: snapshot.attempts,
        fetches: snapshot.fetches,
        last_failure: snapshot.telling_failure().map(|failure| failure_status(failure, now)),
        failures: snapshot.failures.iter().map(|failure| failure_status(failure, now)).collect(),
        rejected: snapshot.rejected.map(|rejection| RejectedStatus {
            fingerprint: rejection.fingerprint.to_string(),
            at: wall(rejection.at.boot, now),
            count: rejection.count,
            withheld: rejection.withholds_from(None, now),
        }),
        advice: advice(snapshot, counters),
        notes: notes(identity, snapshot),
        clock_skew_seconds: snapshot.skew.as_secs(),
        platform_clock_ahead_seconds: snapshot.clock_ahead,
        platform_repeats_tokens: snapshot.repeats,
        opens: counters.opens().count,
        refusals: counters
            .refusals()
            .map(|(kind, count)| (kind.errno_name().to_owned(), count))
            .collect(),
        history: snapshot.history.iter().map(|event| history_entry(event, now)).collect(),
    }
}

/// One sentence for the state.
fn summary(state: State, snapshot: &Snapshot, now: &Now) -> String {
    match (state, &snapshot.token) {
        (State::Idle, _) if snapshot.asked => {
            "nobody has asked for a token for a long time: it is refreshed at the next open".into()
        }
        (State::Idle, _) => "nobody has asked for a token yet: the first open fetches one".into(),
        (State::Fresh | State::Degraded, Some(token)) => of_a_served_token(snapshot, token, now),
        (_, token) => of_a_missing_token(snapshot, token.as_ref(), now),
    }
}

fn of_a_served_token(snapshot: &Snapshot, token: &Token, now: &Now) -> String {
    let source = token.source;
    let failure = snapshot.telling_failure();
    if snapshot.fallback {
        let why =
            failure.map_or_else(|| "no earlier source gives one".into(), |f| gives(f, "none"));
        format!("the token of {source} is served, since {why}")
    } else if is_rejected(snapshot, token) {
        let rejecter = snapshot.rejected.and_then(|rejection| rejection.user);
        let waits = |user: &u32| snapshot.usable(Some(*user), now).is_none();
        let but =
            rejecter.filter(waits).map(|user| format!(", but not to user {user}, who said so"));
        format!(
            "a consumer said that the token was refused, and {source} gives no other: it is served{}",
            but.unwrap_or_default()
        )
    } else if let Some(failure) = failure {
        format!("the token at hand is served, but {}", gives(failure, "no new one"))
    } else {
        format!("a token of {source} is served")
    }
}

fn of_a_missing_token(snapshot: &Snapshot, token: Option<&Token>, now: &Now) -> String {
    let alive = token.filter(|token| !token.left(now).is_zero());
    let what = match (token, alive) {
        (None, _) => "there is no token yet",
        (Some(_), None) => "the last token ran out",
        (Some(_), Some(token)) if is_rejected(snapshot, token) => {
            "a consumer said that the token was refused: it is withheld"
        }
        (Some(_), Some(_)) => "the last token has less than the minimum life left",
    };
    let other = if token.is_some() { "no other" } else { "none" };
    match snapshot.telling_failure() {
        Some(failure) => format!("{what}, and {}", gives(failure, other)),
        None if snapshot.fetching => format!("{what}; a fetch is under way"),
        None => format!("{what}; the next open fetches one"),
    }
}

/// "SOURCE gives none: why".
fn gives(failure: &Failure, what: &str) -> String {
    let error = &failure.error;
    let (source, sentence) = (error.source_name, error.kind.explain().sentence);
    with_detail(&format!("{source} gives {what}: {sentence}"), &clip(&error.detail))
}

fn with_detail(sentence: &str, detail: &str) -> String {
    if detail.is_empty() { sentence.to_owned() } else { format!("{sentence} ({detail})") }
}

fn is_rejected(snapshot: &Snapshot, token: &Token) -> bool {
    snapshot.rejected.is_some_and(|rejection| rejection.fingerprint == token.fingerprint())
}

/// A source that nobody configured has not failed.
fn is_configured(failure: &Failure) -> bool {
    failure.error.kind != FetchErrorKind::NotConfigured
}

fn advice(snapshot: &Snapshot, counters: &Counters) -> Vec<String> {
    let (configured, others): (Vec<_>, Vec<_>) =
        snapshot.failures.iter().partition(|failure| is_configured(failure));
    let failures = if configured.is_empty() { others } else { configured };
    let remedy = |Failure { error, .. }: &Failure| {
        format!("{}: {}", error.source_name, error.kind.explain().remedy)
    };
    let mut advice: Vec<_> = failures.into_iter().map(remedy).collect();
    let rejected = snapshot.token.as_ref().is_some_and(|token| is_rejected(snapshot, token));
    if rejected && !snapshot.failures.iter().any(|f| f.error.kind == FetchErrorKind::Rejected) {
        advice.push(FetchErrorKind::Rejected.explain().remedy.to_owned());
    }
    let denied = counters.refusals().any(|(kind, n)| kind == ReadErrorKind::Denied && n > 0);
    if denied {
        let explanation = ReadErrorKind::Denied.explain();
        advice.push(format!("opens were refused with EACCES: {}", explanation.remedy));
    }
    advice
}

fn notes(identity: &Identity, snapshot: &Snapshot) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(why) = &identity.why_files {
        notes.push(format!(
            "the tokens are plain files, without FUSE ({why}): where the daemon is killed or stopped, \
             a file can outlive its token; expires_at tells"
        ));
    }
    let assumed = snapshot.token.as_ref().and_then(|token| match token.life {
        Life::Assumed(life) => Some((token.source, life)),
        Life::Known(_) => None,
    });
    if let Some((source, life)) = assumed {
        notes.push(format!(
            "nobody can know when the token of {source} expires: it is taken to live {}, and is \
             outside the promise that no dead token is served",
            words(life)
        ));
    }
    let given = [
        ("--min-life", identity.min_life, snapshot.min_life),
        ("--git-min-life", identity.git_min_life, snapshot.git_min_life),
    ];
    for (flag, wanted, in_force) in given {
        let Some(wanted) = wanted.filter(|wanted| *wanted > in_force) else { continue };
        if snapshot.token.is_none() {
            continue;
        }
        let why = if snapshot.repeats {
            "the platform gives the same token until little of its life is left"
        } else {
            "a token may be asked for half of its life at most"
        };
        let (wanted, cut) = (words(wanted), words(in_force));
        notes.push(format!("{flag} {wanted} is cut to {cut}: {why}"));
    }
    notes.extend(note_on_the_clocks(snapshot));
    notes
}

/// What people should know of clocks that disagree.
fn note_on_the_clocks(snapshot: &Snapshot) -> Option<String> {
    let noted = Duration::from_secs(NOTED_SECONDS);
    if snapshot.skew_is_proved && !snapshot.skew.is_zero() {
        return Some(format!(
            "the platform's clock runs {} behind the issuer's: lives are shortened by that",
            words(snapshot.skew)
        ));
    }
    let ahead = snapshot.clock_ahead.filter(|ahead| ahead.unsigned_abs() > NOTED_SECONDS);
    let effect = if snapshot.skew > noted {
        format!("lives are shortened by {}", words(snapshot.skew))
    } else {
        "lives are reckoned by the platform's".to_owned()
    };
    match ahead {
        Some(ahead) => {
            let by = words(Duration::from_secs(ahead.unsigned_abs()));
            let side = if ahead > 0 { "ahead of" } else { "behind" };
            Some(format!(
                "the platform's clock is {by} {side} this machine's: one of them is wrong, and {effect}"
            ))
        }
        // The wall clock was set since, or another process saw the answer.
        None if snapshot.skew > noted => Some(format!(
            "the platform's clock and this machine's did not agree at the last answer: {effect}"
        )),
        None => None,
    }
}

fn failure_status(failure: &Failure, now: &Now) -> FailureStatus {
    let kind = failure.error.kind;
    let explanation = kind.explain();
    FailureStatus {
        source: failure.error.source_name.to_owned(),
        kind: kind.name().to_owned(),
        message: explanation.sentence.to_owned(),
        detail: clip(&failure.error.detail),
        remedy: explanation.remedy.to_owned(),
        transient: kind.is_transient(),
        since: wall(failure.since.boot, now),
        at: wall(failure.at.boot, now),
        count: failure.count,
    }
}

fn history_entry(event: &Event, now: &Now) -> HistoryEntry {
    let kind = match event.kind {
        EventKind::Rotation => "rotation",
        EventKind::Republication => "republication",
        EventKind::Reject => "reject",
        EventKind::Failure => "failure",
    };
    HistoryEntry {
        at: wall(event.at.boot, now),
        kind: kind.to_owned(),
        generation: event.token.map(|(generation, _)| generation),
        fingerprint: event.token.map(|(_, fingerprint)| fingerprint.to_string()),
        reason: clip(&with_detail(&event.reason, &event.detail)),
    }
}

/// A moment of the boot clock in the local time of now: the wall clock may have been set since, and
/// "50 minutes ago" must stay right.
fn wall(boot: Duration, now: &Now) -> Timestamp {
    let ahead = boot.saturating_sub(now.boot);
    let behind = now.boot.saturating_sub(boot);
    time::timestamp(now.wall.saturating_add(ahead).saturating_sub(behind))
}

/// Bounds the length, and keeps a terminal safe from what a source wrote.
fn clip(text: &str) -> String {
    let mut clipped: String =
        text.chars().take(MAX_DETAIL).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MAX_DETAIL).is_some() {
        clipped.push('…');
    }
    clipped
}

/// A duration for people, in whole seconds: `1h 5m`, `45s`.
#[must_use]
pub fn words(duration: Duration) -> String {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    format!("{:#}", SignedDuration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
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
        note: --min-life 45m is cut to 2m: the platform gives the same token until little of its life is left
        note: the platform's clock runs 5m 12s behind the issuer's: lives are shortened by that
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
                "the platform's clock is 10m ahead of this machine's: one of them is wrong, and lives \
                 are reckoned by the platform's",
            ),
            (
                Some(-600),
                600,
                "the platform's clock is 10m behind this machine's: one of them is wrong, and lives \
                 are shortened by 10m",
            ),
            (
                None,
                600,
                "the platform's clock and this machine's did not agree at the last answer: lives are \
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
        // In the summary, the failure, the last failure, the history and the note on files.
        assert_eq!(text(&full).matches(PARTICULAR).count(), 6);
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
}
