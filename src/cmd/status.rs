//! `status`: how things stand, for a person.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use nix::errno::Errno;

use crate::cmd::reader::{Which, nobody_serves};
use crate::cmd::{self, Advise, EXIT_FAILURE, EXIT_NO_TOKEN};
use crate::config::find_mountpoint;
use crate::config::tables::DEFAULT;
use crate::connection::doors::socket;
use crate::error::{FetchErrorKind, ReadErrorKind};
use crate::fs::attribute::REFRESH;
use crate::place::control;
use crate::status::{
    FailureStatus, HistoryEntry, Layout, OnDemandStatus, State, Status, TokenStatus, words,
};
use crate::time::{Clock, SystemClock};

/// Writing into a string cannot fail.
macro_rules! line {
    ($out:expr, $($arguments:tt)*) => {{
        use std::fmt::Write as _;
        let _ = writeln!($out, $($arguments)*);
    }};
}

mod files;
mod several;

/// How far the labels of a token's lines are indented to.
const LABEL: usize = 14;

/// The arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Print the document as the daemon writes it
    #[arg(long)]
    pub json: bool,

    /// Which token [default: all of the mount].
    #[command(flatten)]
    pub which: Which,

    /// The mount [default: the one of this machine or user]
    pub mountpoint: Option<PathBuf>,
}

/// Prints how things stand; the exit code says it too.
///
/// # Errors
/// When nothing of ours is mounted there, the daemon is gone, or this user may not look.
pub fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let mountpoint = find_mountpoint(args.mountpoint.clone())?;
    let token = args.which.directory_in(&mountpoint, &mountpoint)?;
    let directory = if token.as_os_str().is_empty() { mountpoint } else { mountpoint.join(&token) };
    let mut document = read(&directory)?;
    // Beside the views of the mount itself are the words on all.
    if args.which.token.as_deref() == Some(DEFAULT) {
        document = serde_json::to_vec_pretty(&alone(parse(&document)?))?;
    }
    if args.json {
        cmd::print(document.trim_ascii_end())?;
        cmd::print(b"\n")?;
    }
    let mut status = parse(&document)?;
    files::amend(&mut status, &directory, SystemClock.now().timestamp());
    if !args.json {
        cmd::print(text(&status, &token, SystemClock.now().timestamp()).as_bytes())?;
    }
    Ok(ExitCode::from(exit_code(status.state)))
}

/// What of a document is about the first token.
fn alone(mut status: Status) -> Status {
    status.tokens.truncate(1);
    status.on_demand = None;
    if let Some(token) = status.tokens.first() {
        (status.state, status.summary) = (token.state, token.summary.clone());
    }
    status
}

/// 0 while all is well or nobody asked, as for a service that is socket-activated.
fn exit_code(state: State) -> u8 {
    match state {
        State::Fresh | State::Idle => 0,
        State::Degraded => EXIT_FAILURE,
        State::None => EXIT_NO_TOKEN,
    }
}

/// The document, as the daemon writes it.
fn read(mountpoint: &Path) -> anyhow::Result<Vec<u8>> {
    let shown = mountpoint.display();
    control::status(mountpoint).map_err(|error| {
        let errno = error.raw_os_error().map(Errno::from_raw);
        let error = anyhow::Error::new(error).context(format!("cannot read the status of {shown}"));
        match errno {
            Some(Errno::EIO) => {
                let unserved = ReadErrorKind::Unserved.explain();
                error.context(unserved.sentence).hint(unserved.remedy).exit_code(EXIT_NO_TOKEN)
            }
            Some(Errno::EACCES | Errno::EPERM) => error
                .context(format!("this user may not look into {shown}"))
                .hint("ask as its owner, or as the user that mounted it")
                .exit_code(EXIT_FAILURE),
            Some(Errno::ENOENT) if socket::beside(mountpoint).exists() => error
                .context(format!("{shown} is a directory of doors"))
                .hint("list them: molecule-tokenfs doors list")
                .hint(format!("ask for the status of one: molecule-tokenfs status {shown}/NAME"))
                .exit_code(EXIT_FAILURE),
            _ => nobody_serves(error, mountpoint),
        }
    })
}

fn parse(document: &[u8]) -> anyhow::Result<Status> {
    // Not with serde's own words: they repeat what they cannot read, whatever that is.
    serde_json::from_slice(document)
        .map_err(|error| anyhow!("line {}, column {}", error.line(), error.column()))
        .context("status.json is not a document that this version knows")
        .hint("compare the versions of the daemon and of this command: molecule-tokenfs --version")
        .hint("or read it as it is: molecule-tokenfs status --json")
}

/// What a person reads: the verdict, what fails, what to do, the token, what happened last. `directory`
/// is that of the token in the mount.
#[must_use]
pub fn text(status: &Status, directory: &Path, now: Timestamp) -> String {
    if status.tokens.len() > 1 {
        return several::text(status, now);
    }
    let mut out = format!("{}: {}\n", status.state.name(), status.summary);
    for token in &status.tokens {
        failures(&mut out, "what fails", token, now);
        list(&mut out, "what to do", token.advice.iter());
        about(&mut out, token, now);
        about_the_mount(&mut out, status, now);
        let unlisted = unlisted(status);
        list(&mut out, "good to know", token.notes.iter().chain(&unlisted));
        history(&mut out, &token.history, now);
        refused_all_the_same(&mut out, status, directory, token);
    }
    out
}

fn failures(out: &mut String, title: &str, token: &TokenStatus, now: Timestamp) {
    if token.failures.is_empty() {
        return;
    }
    line!(out, "\n{title}");
    for FailureStatus { source, kind, message, detail, since, at, count, .. } in &token.failures {
        let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
        line!(out, "  {source}: {message}{detail}");
        if kind == FetchErrorKind::NotConfigured.name() {
            continue;
        }
        let times = if *count == 1 { "once".to_owned() } else { format!("{count} times in a row") };
        line!(out, "    {times} since {}, last {}", moment(*since, now), relative(*at, now));
    }
    line!(out, "  next try: {}", next(token, now));
}

fn next(token: &TokenStatus, now: Timestamp) -> String {
    let reason = token.next_refresh_reason.as_deref();
    match token.next_refresh_at {
        _ if token.fetching => "under way".to_owned(),
        Some(at) => {
            let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            format!("{}{reason}", moment(at, now))
        }
        None => "at the next open".to_owned(),
    }
}

fn list<'a>(out: &mut String, title: &str, sentences: impl Iterator<Item = &'a String>) {
    for (place, sentence) in sentences.enumerate() {
        if place == 0 {
            line!(out, "\n{title}");
        }
        line!(out, "  {sentence}");
    }
}

/// What to say of the tokens on demand that are kept and not listed.
fn unlisted(status: &Status) -> Option<String> {
    let OnDemandStatus { kept, listed } = status.on_demand?;
    let more = kept.saturating_sub(listed);
    let (tokens, are) = if more == 1 { ("token", "is") } else { ("tokens", "are") };
    match (more, listed) {
        (0, _) => None,
        (_, 0) => Some(format!(
            "{more} {tokens} on demand {are} kept; which, is told to those who may read them"
        )),
        _ => Some(format!(
            "{more} more {tokens} on demand {are} kept than there is room for here, opened longer ago: \
             status --repo OWNER/REPO tells of one"
        )),
    }
}

fn about(out: &mut String, token: &TokenStatus, now: Timestamp) {
    line!(out, "\n{}", token.name);
    let mut field = |label: &str, value: &str| {
        line!(out, "  {label:<LABEL$}{value}");
    };
    if let (Some(generation), Some(fingerprint), Some(source)) =
        (token.generation, &token.fingerprint, &token.source)
    {
        field("token", &format!("{fingerprint}, generation {generation}, of {source}"));
    } else {
        field("token", "none yet");
    }
    if let Some(at) = token.fetched_at {
        field("fetched", &moment(at, now));
    }
    match (token.expires_at, token.left_seconds) {
        (Some(at), _) => field("expires", &moment(at, now)),
        (None, Some(left)) => {
            let left = words(Duration::from_secs(left));
            field("expires", &format!("nobody knows when; it is served for another {left}"));
        }
        (None, None) => {}
    }
    if let Some(rejected) = &token.rejected {
        let (fingerprint, said) = (&rejected.fingerprint, moment(rejected.at, now));
        let then = if rejected.withheld { "withheld" } else { "served again" };
        field("refused", &format!("{fingerprint}, a consumer said at {said}; {then}"));
    }
    field("next refresh", &next(token, now));
    field("requests", &format!("{}, new tokens {}", token.attempts, token.fetches));
    let refusals: Vec<_> = token
        .refusals
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(errno, count)| format!("{errno} {count}"))
        .collect();
    let refusals = if refusals.is_empty() { "none".to_owned() } else { refusals.join(", ") };
    field("opens", &format!("{}, refusals {refusals}", token.opens));
}

fn about_the_mount(out: &mut String, status: &Status, now: Timestamp) {
    let Status { mountpoint, version, supervisor_pid, worker_pid, .. } = status;
    let pids = if supervisor_pid == worker_pid {
        format!("pid {worker_pid}")
    } else {
        format!("pids {supervisor_pid} and {worker_pid}")
    };
    let since =
        status.started_at.map(|at| format!(", since {}", moment(at, now))).unwrap_or_default();
    let file = status.view.as_ref().map(|view| format!(", a file: the view {view}"));
    line!(out, "  {:<LABEL$}{mountpoint}{}", "mounted at", file.unwrap_or_default());
    line!(out, "  {:<LABEL$}version {version}, {pids}{since}", "served by");
    if let Some(remount) = &status.last_remount {
        let at = moment(remount.at, now);
        line!(out, "  {:<LABEL$}{at}: {}", "mounted anew", remount.reason);
    }
}

fn history(out: &mut String, history: &[HistoryEntry], now: Timestamp) {
    if history.is_empty() {
        return;
    }
    line!(out, "\nwhat happened last");
    for HistoryEntry { at, kind, generation, fingerprint, reason } in history {
        let token = match (generation, fingerprint) {
            (Some(generation), Some(fingerprint)) => {
                format!(" {fingerprint}, generation {generation}")
            }
            _ => String::new(),
        };
        line!(out, "  {at}  {:>12}  {kind}{token}: {reason}", relative(*at, now));
    }
}

/// The answer to a 401 with a token that is, to all we know, good.
fn refused_all_the_same(out: &mut String, status: &Status, directory: &Path, token: &TokenStatus) {
    let Some(fingerprint) = &token.fingerprint else { return };
    if !matches!(token.state, State::Fresh | State::Degraded) {
        return;
    }
    line!(out, "\na tool that gets 401 all the same");
    line!(out, "  uses another token: from GH_TOKEN or GITHUB_TOKEN in its environment, from a");
    line!(out, "  credential helper or file of its own, or one that it read long ago.");
    if token.expires_at.is_some() {
        line!(out, "  If it is this one, say so, and another is fetched:");
        let mountpoint = &status.mountpoint;
        match status.layout {
            Layout::Directory => {
                let refresh = Path::new(mountpoint).join(directory).join("refresh");
                line!(out, "    echo {fingerprint} > {}", refresh.display());
            }
            // Nothing lies beside a file; its attribute takes the same words.
            Layout::File => line!(out, "    setfattr -n {REFRESH} -v {fingerprint} {mountpoint}"),
        }
    } else {
        // A source that cannot renew its token would have no other to give.
        line!(
            out,
            "  If it is this one, it is dead: give the daemon a new one and start it again,"
        );
        line!(out, "  or fix the sources before it.");
    }
}

/// A moment, and how far it is from now.
fn moment(at: Timestamp, now: Timestamp) -> String {
    format!("{at:.0}, {}", relative(at, now))
}

fn relative(at: Timestamp, now: Timestamp) -> String {
    let distance = at.duration_since(now);
    let shown = words(distance.unsigned_abs());
    match distance.as_secs() {
        0 => "now".to_owned(),
        1.. => format!("in {shown}"),
        _ => format!("{shown} ago"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ReadErrorKind;
    use crate::refresh::{Event, EventKind, Rejection};
    use crate::status::padded;
    use crate::status::testing::{Scene, ago, failing, now, token};
    use crate::token::{Life, Token};

    fn said(scene: &Scene) -> String {
        text(&scene.document(), Path::new(""), now().timestamp())
    }

    fn event(minutes: u64, kind: EventKind, reason: &str) -> Event {
        let token = (kind != EventKind::Failure).then(|| (2, token().fingerprint()));
        Event { at: ago(minutes), kind, token, reason: reason.to_owned(), detail: String::new() }
    }

    #[test]
    fn fresh() {
        insta::assert_snapshot!(said(&Scene::fresh()), @r"
        fresh: a token of platform is served

        token
          token         df683ed0, generation 2, of platform
          fetched       2026-04-17T22:33:00Z, 17m ago
          expires       2026-04-17T23:33:00Z, in 43m
          next refresh  2026-04-17T23:18:00Z, in 28m (timer)
          requests      2, new tokens 2
          opens         2, refusals none
          mounted at    /run/molecule/token
          served by     version 0.1.0, pids 41 and 42, since 2026-04-17T21:20:00Z, 1h 30m ago

        what happened last
          2026-04-17T21:48:00Z     1h 2m ago  rotation 4df652a2, generation 1: first open
          2026-04-17T22:33:00Z       17m ago  rotation df683ed0, generation 2: timer

        a tool that gets 401 all the same
          uses another token: from GH_TOKEN or GITHUB_TOKEN in its environment, from a
          credential helper or file of its own, or one that it read long ago.
          If it is this one, say so, and another is fetched:
            echo df683ed0 > /run/molecule/token/refresh
        ");
    }

    #[test]
    fn of_a_mounted_file_what_works_there_is_named() {
        let mut status = Scene::fresh().document();
        (status.layout, status.view) = (Layout::File, Some("token".to_owned()));
        let said = text(&status, Path::new(""), now().timestamp());
        let line = "    setfattr -n system.molecule.refresh -v df683ed0 /run/molecule/token\n";
        assert!(said.ends_with(line), "{said}");
        assert!(!said.contains("/refresh"), "{said}");
    }

    #[test]
    fn idle() {
        insta::assert_snapshot!(said(&Scene::idle()), @r"
        idle: nobody has asked for a token yet: the first open fetches one

        token
          token         none yet
          next refresh  at the next open
          requests      0, new tokens 0
          opens         0, refusals none
          mounted at    /run/molecule/token
          served by     version 0.1.0, pids 41 and 42, since 2026-04-17T21:20:00Z, 1h 30m ago
        ");
    }

    #[test]
    fn degraded_since_the_platform_fails_while_its_token_lives() {
        let mut scene = Scene::fresh();
        scene.snapshot.failures = vec![failing("platform", FetchErrorKind::ServerError)];
        scene.snapshot.history.push_back(event(1, EventKind::Failure, "HTTP 500"));
        insta::assert_snapshot!(said(&scene), @r"
        degraded: the token at hand is served, but platform gives no new one: the platform failed to mint a token (what exactly)

        what fails
          platform: the platform failed to mint a token (what exactly)
            7 times in a row since 2026-04-17T22:30:00Z, 20m ago, last 1m ago
          next try: 2026-04-17T23:18:00Z, in 28m (timer)

        what to do
          platform: look at the platform's log; it is tried again by itself

        token
          token         df683ed0, generation 2, of platform
          fetched       2026-04-17T22:33:00Z, 17m ago
          expires       2026-04-17T23:33:00Z, in 43m
          next refresh  2026-04-17T23:18:00Z, in 28m (timer)
          requests      2, new tokens 2
          opens         2, refusals none
          mounted at    /run/molecule/token
          served by     version 0.1.0, pids 41 and 42, since 2026-04-17T21:20:00Z, 1h 30m ago

        what happened last
          2026-04-17T21:48:00Z     1h 2m ago  rotation 4df652a2, generation 1: first open
          2026-04-17T22:33:00Z       17m ago  rotation df683ed0, generation 2: timer
          2026-04-17T22:49:00Z        1m ago  failure: HTTP 500

        a tool that gets 401 all the same
          uses another token: from GH_TOKEN or GITHUB_TOKEN in its environment, from a
          credential helper or file of its own, or one that it read long ago.
          If it is this one, say so, and another is fetched:
            echo df683ed0 > /run/molecule/token/refresh
        ");
    }

    #[test]
    fn degraded_since_the_environment_serves() {
        let mut scene = Scene::fresh();
        scene.snapshot.token =
            Some(Token { source: "env", life: Life::Assumed(token().life.duration()), ..token() });
        scene.snapshot.fallback = true;
        scene.snapshot.failures = vec![failing("platform", FetchErrorKind::NotFound)];
        insta::assert_snapshot!(said(&scene), @r"
        degraded: the token of env is served, since platform gives none: the platform has no GitHub App configured, or does not know this workspace (what exactly)

        what fails
          platform: the platform has no GitHub App configured, or does not know this workspace (what exactly)
            7 times in a row since 2026-04-17T22:30:00Z, 20m ago, last 1m ago
          next try: 2026-04-17T23:18:00Z, in 28m (timer)

        what to do
          platform: configure the GitHub App on the platform and check WORKSPACE_ID; or set GITHUB_TOKEN to a token of your own

        token
          token         df683ed0, generation 2, of env
          fetched       2026-04-17T22:33:00Z, 17m ago
          expires       nobody knows when; it is served for another 43m
          next refresh  2026-04-17T23:18:00Z, in 28m (timer)
          requests      2, new tokens 2
          opens         2, refusals none
          mounted at    /run/molecule/token
          served by     version 0.1.0, pids 41 and 42, since 2026-04-17T21:20:00Z, 1h 30m ago

        good to know
          nobody can know when the token of env expires: it is taken to live 1h, and is outside the promise that no dead token is served

        what happened last
          2026-04-17T21:48:00Z     1h 2m ago  rotation 4df652a2, generation 1: first open
          2026-04-17T22:33:00Z       17m ago  rotation df683ed0, generation 2: timer

        a tool that gets 401 all the same
          uses another token: from GH_TOKEN or GITHUB_TOKEN in its environment, from a
          credential helper or file of its own, or one that it read long ago.
          If it is this one, it is dead: give the daemon a new one and start it again,
          or fix the sources before it.
        ");
    }

    #[test]
    fn degraded_since_a_consumer_says_that_the_token_is_refused() {
        let mut scene = Scene::fresh();
        scene.snapshot.rejected = Some(Rejection {
            fingerprint: token().fingerprint(),
            at: ago(2),
            withheld_until: ago(1).boot,
            count: 4,
            user: None,
            is_denied: true,
        });
        scene.snapshot.failures = vec![failing("platform", FetchErrorKind::Rejected)];
        scene.snapshot.history.push_back(event(2, EventKind::Reject, "a consumer was refused"));
        insta::assert_snapshot!(said(&scene), @r"
        degraded: a consumer said that the token was refused, and platform gives no other: it is served

        what fails
          platform: the source keeps giving a token that was refused (what exactly)
            7 times in a row since 2026-04-17T22:30:00Z, 20m ago, last 1m ago
          next try: 2026-04-17T23:18:00Z, in 28m (timer)

        what to do
          platform: check that the GitHub App is still installed and not suspended

        token
          token         df683ed0, generation 2, of platform
          fetched       2026-04-17T22:33:00Z, 17m ago
          expires       2026-04-17T23:33:00Z, in 43m
          refused       df683ed0, a consumer said at 2026-04-17T22:48:00Z, 2m ago; served again
          next refresh  2026-04-17T23:18:00Z, in 28m (timer)
          requests      2, new tokens 2
          opens         2, refusals none
          mounted at    /run/molecule/token
          served by     version 0.1.0, pids 41 and 42, since 2026-04-17T21:20:00Z, 1h 30m ago

        what happened last
          2026-04-17T21:48:00Z     1h 2m ago  rotation 4df652a2, generation 1: first open
          2026-04-17T22:33:00Z       17m ago  rotation df683ed0, generation 2: timer
          2026-04-17T22:48:00Z        2m ago  reject df683ed0, generation 2: a consumer was refused

        a tool that gets 401 all the same
          uses another token: from GH_TOKEN or GITHUB_TOKEN in its environment, from a
          credential helper or file of its own, or one that it read long ago.
          If it is this one, say so, and another is fetched:
            echo df683ed0 > /run/molecule/token/refresh
        ");
    }

    #[test]
    fn none_since_every_source_fails() {
        let scene = Scene::failing(FetchErrorKind::Unauthorized);
        scene.counters.refused(ReadErrorKind::Rejected);
        scene.counters.refused(ReadErrorKind::ReadOnly);
        insta::assert_snapshot!(said(&scene), @r"
        none: there is no token yet, and platform gives none: the source says that our bearer is wrong (what exactly)

        what fails
          platform: the source says that our bearer is wrong (what exactly)
            7 times in a row since 2026-04-17T22:30:00Z, 20m ago, last 1m ago
          env: no token is configured here
          next try: 2026-04-17T22:50:20Z, in 20s (back-off)

        what to do
          platform: register the workspace anew, so that the bearer file is written again; the file is watched

        token
          token         none yet
          next refresh  2026-04-17T22:50:20Z, in 20s (back-off)
          requests      14, new tokens 0
          opens         0, refusals EKEYREJECTED 1, EROFS 1
          mounted at    /run/molecule/token
          served by     version 0.1.0, pids 41 and 42, since 2026-04-17T21:20:00Z, 1h 30m ago
        ");
    }

    #[test]
    fn none_while_the_first_fetch_is_under_way() {
        let mut scene = Scene::idle();
        scene.snapshot.asked = true;
        scene.snapshot.fetching = true;
        scene.snapshot.attempts = 1;
        insta::assert_snapshot!(said(&scene), @r"
        none: there is no token yet; a fetch is under way

        token
          token         none yet
          next refresh  under way
          requests      1, new tokens 0
          opens         0, refusals none
          mounted at    /run/molecule/token
          served by     version 0.1.0, pids 41 and 42, since 2026-04-17T21:20:00Z, 1h 30m ago
        ");
    }

    #[test]
    fn the_exit_code_says_it_too() {
        assert_eq!(State::ALL.map(exit_code), [0, 1, 3, 0]);
    }

    #[test]
    fn the_document_is_read_from_the_mount() {
        let dir = tempfile::tempdir().unwrap();
        let status = Scene::fresh().document();
        std::fs::write(dir.path().join("status.json"), padded(&status)).unwrap();
        assert_eq!(parse(&read(dir.path()).unwrap()).unwrap(), status);
    }

    #[test]
    fn what_is_no_mount_of_ours_is_told_from_a_strange_document() {
        let dir = tempfile::tempdir().unwrap();
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("no tokens are mounted"), "{error}");
        let file = tempfile::NamedTempFile::new_in(&dir).unwrap();
        let error = read(file.path()).unwrap_err().to_string();
        assert!(error.contains("no tokens are mounted"), "{error}");
        let error = parse(br#"{"state": "ghs_canary"}"#).unwrap_err();
        assert!(error.to_string().contains("not a document that this version knows"), "{error}");
        assert!(!format!("{error:?}").contains("canary"));
    }
}
