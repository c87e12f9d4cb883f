//! From what the engine and the counters know to the document.

use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{
    Backend, FailureStatus, HistoryEntry, Layout, RejectedStatus, State, Status, TokenStatus,
};
use serde::{Deserialize, Serialize};

use crate::caller::Caller;
use crate::error::{FetchErrorKind, ReadErrorKind};
use crate::refresh::{Event, EventKind, Failure, Snapshot};
use crate::status::counters::Counters;
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
    pub layout: Layout,
    /// The view that a mounted file is.
    pub view: Option<String>,
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
    /// Whose repositories the token is for, in lower case, where that is known.
    #[serde(default)]
    pub owners: Vec<String>,
    /// The hosts that the token is for, where they need not be those of the mount.
    #[serde(default)]
    pub hosts: Vec<String>,
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
        backend_reason: identity.why_files.clone(),
        layout: identity.layout,
        view: identity.view.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        supervisor_pid: identity.supervisor_pid,
        worker_pid: identity.worker_pid,
        last_upgrade: None,
        last_remount: None,
        started_at: Some(wall(identity.started.boot, now)),
        written_at: Some(now.timestamp()),
        on_demand: None,
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

/// What the document of a mount tells of a token on demand: all but what happened last, which is in the
/// document beside its views.
#[must_use]
pub fn token_on_demand(
    identity: &Identity,
    mut snapshot: Snapshot,
    counters: &Counters,
    now: &Now,
) -> TokenStatus {
    snapshot.history.clear();
    token_status(identity, &snapshot, counters, now)
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
        owners: identity.owners.clone(),
        hosts: identity.hosts.clone(),
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
        let waits = |user: &u32| snapshot.usable(Some(Caller::of_user(*user)), now).is_none();
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
    let (source, sentence) = (error.source_name, error.explain().sentence);
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
        format!("{}: {}", error.source_name, error.explain().remedy)
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
            "the source gives the same token until little of its life is left"
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
            "the source's clock runs {} behind the issuer's: lives are shortened by that",
            words(snapshot.skew)
        ));
    }
    let ahead = snapshot.clock_ahead.filter(|ahead| ahead.unsigned_abs() > NOTED_SECONDS);
    let effect = if snapshot.skew > noted {
        format!("lives are shortened by {}", words(snapshot.skew))
    } else {
        "lives are reckoned by the source's".to_owned()
    };
    match ahead {
        Some(ahead) => {
            let by = words(Duration::from_secs(ahead.unsigned_abs()));
            let side = if ahead > 0 { "ahead of" } else { "behind" };
            Some(format!(
                "the source's clock is {by} {side} this machine's: one of them is wrong, and {effect}"
            ))
        }
        // The wall clock was set since, or another process saw the answer.
        None if snapshot.skew > noted => Some(format!(
            "the source's clock and this machine's did not agree at the last answer: {effect}"
        )),
        None => None,
    }
}

fn failure_status(failure: &Failure, now: &Now) -> FailureStatus {
    let kind = failure.error.kind;
    let explanation = failure.error.explain();
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
mod tests;
