//! The mount, who may read it, the token in it, and the platform behind it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use nix::errno::Errno;

use super::{Finding, Subject};
use crate::cmd::reader::files;
use crate::config::{Settings, default_mountpoint, find_mountpoint};
use crate::error::{FetchErrorKind, ReadErrorKind};
use crate::foreign::{self, Unreadable};
use crate::place::control;
use crate::place::mountinfo::{self, Health};
use crate::place::{self, Unserved};
use crate::source::{env, platform};
use crate::status::{Backend, Layout, State, Status, TokenStatus, words};
use crate::time::{Clock, SystemClock};

/// A difference of clocks that is worth a word, in seconds.
const NOTED: u64 = 30;
/// How long after a rotation it is worth a word that GitHub may not know the token everywhere.
const YOUNG: Duration = Duration::from_mins(1);

/// What serves, as far as the other parts need to know it.
#[derive(Default)]
pub struct Served {
    /// Where, if anything serves.
    pub mountpoint: Option<PathBuf>,
    /// What serves.
    pub backend: Option<Backend>,
    /// The token that is served now.
    pub fingerprint: Option<String>,
}

/// Looks at the mount, and through it at everything behind.
pub fn look(
    named: Option<PathBuf>,
    settings: &Settings,
    subject: &Subject,
) -> (Served, Vec<Finding>) {
    let start = match &named {
        Some(path) => format!("molecule-tokenfs mount --background {}", path.display()),
        None => "molecule-tokenfs mount --background".to_owned(),
    };
    let Ok(mountpoint) = find_mountpoint(named.clone()) else {
        let named = named.map_or_else(default_mountpoint, Ok);
        let shown = named.map_or_else(|_| "no place".to_owned(), |path| path.display().to_string());
        let path = Path::new(&shown);
        let mut findings = vec![match place::Served::at(path) {
            Err(why @ Unserved::Untrusted(flaw)) => {
                Finding::fail("mount", format!("{shown}: {why}"), flaw.remedy(path))
            }
            _ => Finding::fail("mount", format!("nothing is mounted at {shown}"), start),
        }];
        findings.extend(bearer(settings));
        return (Served::default(), findings);
    };
    let shown = mountpoint.display();
    match alive(&mountpoint) {
        Health::Alive => {}
        Health::Dead => {
            let left =
                if files::are_at(&mountpoint) { "files, whose token dies" } else { "a dead mount" };
            let sentence = format!("the daemon that served {shown} is gone, and left {left}");
            let remedy = format!("molecule-tokenfs mount --background {shown}");
            let mut findings = vec![Finding::fail("mount", sentence, remedy)];
            findings.extend(bearer(settings));
            return (Served::default(), findings);
        }
        Health::Stuck => {
            let sentence = format!("the daemon that serves {shown} does not answer");
            let remedy = format!(
                "molecule-tokenfs umount --lazy {shown}; molecule-tokenfs mount --background {shown}"
            );
            return (Served::default(), vec![Finding::fail("mount", sentence, remedy)]);
        }
    }
    let mut findings = Vec::new();
    // Opening is what fetches, and only an open tells whether this user may.
    let opened = subject.act(|| open(&mountpoint));
    let status = match status(&mountpoint) {
        Ok(status) => status,
        Err(why) => {
            let remedy = format!("look at it: molecule-tokenfs status {shown}");
            let sentence = format!("{shown} does not tell how it stands: {why}");
            findings.push(Finding::fail("mount", sentence, remedy));
            return (Served { mountpoint: Some(mountpoint), ..Served::default() }, findings);
        }
    };
    findings.push(served(&status));
    findings.extend(upgrade(&status));
    findings.push(access(&mountpoint, &opened, subject));
    if let Some(one) = status.tokens.first() {
        findings.push(token(one));
        findings.extend(young(one, SystemClock.now().timestamp()));
        findings.extend(source(one));
        findings.extend(clocks(one));
    }
    // How one on demand stands is a matter of whoever opens it.
    for one in status.configured().iter().skip(1) {
        findings.extend(
            [token(one)].into_iter().chain(source(one)).map(|finding| finding.of(&one.name)),
        );
    }
    findings.extend(on_demand(&status, settings));
    findings.extend(bearer(settings));
    let fingerprint = status.tokens.first().and_then(|token| token.fingerprint.clone());
    let backend = Some(status.backend);
    (Served { mountpoint: Some(mountpoint), backend, fingerprint }, findings)
}

/// Plain files need no daemon to be looked at, and do not live without one.
fn alive(mountpoint: &Path) -> Health {
    match place::Served::at(mountpoint).ok().and_then(place::Served::into_mount) {
        Some(root) => mountinfo::health(root).0,
        None if files::are_deserted_at(mountpoint) => Health::Dead,
        None => Health::Alive,
    }
}

/// Reads the token, or what stands in its place, and forgets it.
fn open(mountpoint: &Path) -> io::Result<()> {
    let directory = fs::metadata(mountpoint).is_ok_and(|metadata| metadata.is_dir());
    let path = if directory { mountpoint.join("token") } else { mountpoint.to_owned() };
    File::open(path).map(drop)
}

fn status(mountpoint: &Path) -> Result<Status, String> {
    let text = control::status(mountpoint).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text)
        .map_err(|error| format!("status.json, line {}, is of another version", error.line()))
}

fn served(status: &Status) -> Finding {
    let Status { mountpoint, version, supervisor_pid, .. } = status;
    let layout = match status.layout {
        Layout::Directory => "a directory",
        Layout::File => "a single file",
    };
    let what = match status.backend {
        Backend::Fuse => "mounted",
        Backend::Files => "plain files in memory",
    };
    let sentence = format!(
        "{mountpoint} is served by molecule-tokenfs {version} (process {supervisor_pid}): {layout}, {what}"
    );
    if version == env!("CARGO_PKG_VERSION") {
        return Finding::ok("mount", sentence);
    }
    let sentence = format!("{sentence}; this program is version {}", env!("CARGO_PKG_VERSION"));
    Finding::warn("mount", sentence, format!("molecule-tokenfs upgrade {mountpoint}"))
}

/// What is configured and cannot be had of files.
fn on_demand(status: &Status, settings: &Settings) -> Option<Finding> {
    let is_wanted = settings.tables.on_demand().next().is_some();
    (is_wanted && status.backend == Backend::Files).then(|| {
        let why = status.backend_reason.as_deref().unwrap_or("status says why");
        Finding::warn(
            "demand",
            format!("tokens on demand need a mount, and these are files ({why})"),
            "configure [tokens.NAME] for each repository or owner",
        )
    })
}

fn upgrade(status: &Status) -> Option<Finding> {
    let upgrade = status.last_upgrade.as_ref().filter(|upgrade| !upgrade.succeeded)?;
    let why = upgrade.reason.as_deref().unwrap_or("nobody knows why");
    let sentence = format!("the last upgrade, at {:.0}, failed: {why}", upgrade.at);
    Some(Finding::warn(
        "upgrade",
        sentence,
        format!("molecule-tokenfs upgrade {}", status.mountpoint),
    ))
}

/// Whether the user may read; whether there is something to read is told by [`token`].
fn access(mountpoint: &Path, opened: &io::Result<()>, subject: &Subject) -> Finding {
    let (name, shown) = (&subject.name, mountpoint.display());
    let errno = opened.as_ref().err().and_then(io::Error::raw_os_error).map(Errno::from_raw);
    if errno != Some(Errno::EACCES) {
        return Finding::ok("access", format!("{name} may read {shown}"));
    }
    let owner = fs::metadata(mountpoint).map(|metadata| (metadata.uid(), metadata.gid()));
    let whose = match owner {
        Ok((uid, gid)) => format!("the files belong to user {uid} and group {gid}"),
        Err(_) => "the mount belongs to another user".to_owned(),
    };
    Finding::fail(
        "access",
        format!("{name} may not read {shown}: {whose}"),
        format!(
            "molecule-tokenfs umount {shown}; molecule-tokenfs mount --background --owner {name} {shown}"
        ),
    )
}

fn token(token: &TokenStatus) -> Finding {
    let left = token
        .left_seconds
        .map(|seconds| format!(", {} left", words(Duration::from_secs(seconds))))
        .unwrap_or_default();
    let name = token.fingerprint.as_deref().unwrap_or("none");
    let sentence = format!("{}: {name}{left}", token.summary);
    let remedy = || match token.advice.first() {
        Some(advice) => advice.clone(),
        None => "see what each source says: molecule-tokenfs status".to_owned(),
    };
    match token.state {
        State::Fresh => Finding::ok("token", sentence),
        State::Idle => Finding::ok("token", token.summary.clone()),
        State::Degraded => Finding::warn("token", sentence, remedy()),
        State::None => {
            let expired = token.generation.is_some();
            let kind = if expired { ReadErrorKind::Expired } else { ReadErrorKind::NoToken };
            Finding::fail("token", kind.explain().sentence, remedy())
        }
    }
}

/// Not every server of GitHub's knows a token from the first moment on.
fn young(token: &TokenStatus, now: Timestamp) -> Option<Finding> {
    let age = now.duration_since(token.fetched_at?).unsigned_abs();
    (age < YOUNG).then(|| {
        Finding::ok(
            "token",
            format!(
                "it came {} ago: a 404 or 401 from GitHub right after a rotation can mean that the server \
                 asked does not know the token yet: try again in some seconds",
                words(age)
            ),
        )
    })
}

/// What the source says that fails, in its own words.
fn source(token: &TokenStatus) -> Vec<Finding> {
    let not_configured = FetchErrorKind::NotConfigured.name();
    let failures = token.failures.iter().filter(|failure| {
        // An environment without a token is nobody's fault.
        failure.source != env::NAME || failure.kind != not_configured
    });
    let findings: Vec<_> = failures
        .map(|failure| {
            let detail = if failure.detail.is_empty() {
                String::new()
            } else {
                format!(" ({})", failure.detail)
            };
            let sentence = format!("{}: {}{detail}", failure.source, failure.message);
            if token.state == State::None {
                Finding::fail("source", sentence, failure.remedy.clone())
            } else {
                Finding::warn("source", sentence, failure.remedy.clone())
            }
        })
        .collect();
    if findings.is_empty() && token.generation.is_some() {
        let source = token.source.as_deref().unwrap_or("the source");
        return vec![Finding::ok("source", format!("{source} gives tokens"))];
    }
    findings
}

fn clocks(token: &TokenStatus) -> Vec<Finding> {
    let mut findings = Vec::new();
    let span = |seconds| words(Duration::from_secs(seconds));
    if let Some(ahead) = token.platform_clock_ahead_seconds {
        let by = span(ahead.unsigned_abs());
        let side = if ahead > 0 { "behind" } else { "ahead of" };
        findings.push(if ahead.unsigned_abs() > NOTED {
            Finding::warn(
                "clock",
                format!(
                    "this machine's clock is {by} {side} the source's: tokens are judged by the \
                     later of the two, certificates and other tools by this machine's"
                ),
                "find out which of the two is wrong, and set it: timedatectl set-ntp true",
            )
        } else {
            Finding::ok("clock", "this machine's clock agrees with the source's")
        });
    }
    if token.clock_skew_seconds > NOTED {
        findings.push(Finding::warn(
            "clock",
            format!(
                "the source's clock lags, by this machine's or by what its tokens prove: lives are \
                 shortened by {}",
                span(token.clock_skew_seconds)
            ),
            "compare `date -u` here and on the source's machine, and set the wrong clock: \
             timedatectl set-ntp true",
        ));
    }
    findings
}

/// What the platform is asked with, where it is asked at all.
fn bearer(settings: &Settings) -> Option<Finding> {
    if !settings.tables.chain().contains(&platform::NAME) {
        return None;
    }
    let path = settings.bearer_file();
    let shown = path.display();
    let answer = foreign::look(&settings.bearer_read());
    let owner = answer.as_ref().ok().and_then(|answer| answer.owner);
    match answer.and_then(|answer| answer.found) {
        Ok(found) if found.stamp.size == 0 => Some(unregistered(&format!("{shown} is empty"))),
        Ok(found) if found.mode & 0o077 != 0 => Some(Finding::warn(
            "bearer",
            format!(
                "{shown} holds the key to all tokens, and others may read it (mode {:04o})",
                found.mode
            ),
            format!("chmod 0600 {shown}"),
        )),
        Ok(_) => Some(Finding::ok("bearer", format!("{shown} is there"))),
        Err(Unreadable::Missing) => Some(unregistered(&format!("there is no {shown}"))),
        // It is read as the owner of its directory.
        Err(Unreadable::System { errno: libc::EACCES, user }) if owner == Some(user) => {
            Some(Finding::fail(
                "bearer",
                format!("{shown} cannot be read by user {user}, as whom the daemon reads it"),
                format!("chown {user} {shown}; chmod 0600 {shown}"),
            ))
        }
        // Another user's business: the daemon says whether it can read it.
        Err(Unreadable::System { errno: libc::EACCES, .. }) => None,
        Err(why) => Some(Finding::fail(
            "bearer",
            format!("{shown} cannot be used: {why}"),
            FetchErrorKind::BearerUnusable.explain().remedy,
        )),
    }
}

fn unregistered(why: &str) -> Finding {
    let explanation = FetchErrorKind::NotRegistered.explain();
    Finding::warn("bearer", format!("{} ({why})", explanation.sentence), explanation.remedy)
}
