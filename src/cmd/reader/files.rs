//! What a reader does where tokens are files, since no mount can do it in the open: waits for a token,
//! and takes none that is dead.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use nix::errno::Errno;

use crate::error::{FetchErrorKind, ReadErrorKind};
use crate::files::{Found, Holder, MARKER};
use crate::place::control;
use crate::status::{Status, TokenStatus};
use crate::time::{Clock, SystemClock};

/// The longest that an open waits for a token, as a mount's by default.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Whether the tokens at a mountpoint are files.
#[must_use]
pub fn are_at(mountpoint: &Path) -> bool {
    mountpoint.join(MARKER).exists()
}

/// Opens a view at a mountpoint; of files only one whose token lives.
///
/// # Errors
/// The same as those of a mount, by their numbers.
pub fn open(mountpoint: &Path, path: &Path) -> io::Result<File> {
    open_another(mountpoint, path, |_| Ok(true))
}

/// The same, waiting for a file that is `another` one.
///
/// # Errors
/// As [`open`], and those of `another`.
pub fn open_another(
    mountpoint: &Path,
    path: &Path,
    another: impl Fn(&File) -> io::Result<bool>,
) -> io::Result<File> {
    let deadline = SystemClock.now().boot.saturating_add(OPEN_TIMEOUT);
    loop {
        let opened = File::open(path);
        if !are_at(mountpoint) {
            return opened;
        }
        let is_over = SystemClock.now().boot >= deadline;
        match opened {
            // Where the source insists on its token, it is served again after a while.
            Ok(file) if another(&file)? || is_over => {
                return if is_dead(mountpoint) {
                    Err(refusal(mountpoint, is_over))
                } else {
                    Ok(file)
                };
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) if is_over || !pays_to_wait(mountpoint) => {
                return Err(refusal(mountpoint, is_over));
            }
            Ok(_) | Err(_) => {}
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Whether the token that is there has run out: then its daemon was killed, or is stopped.
fn is_dead(mountpoint: &Path) -> bool {
    let expiry = std::fs::read_to_string(mountpoint.join("expires_at")).unwrap_or_default();
    // Of a token whose expiry nobody knows there is nothing to say.
    expiry.trim().parse::<Timestamp>().is_ok_and(|at| at <= SystemClock.now().timestamp())
}

/// Waits for the next token if it is being fetched and the one at `path` has less life left than git
/// should get; at most half as long as an open may take. Opens of a mount's view `git-credential` do
/// this by themselves.
pub fn await_lasting(mountpoint: &Path, path: &Path) {
    let deadline = SystemClock.now().boot.saturating_add(OPEN_TIMEOUT / 2);
    let ending = || token_status(mountpoint).filter(|token| !lasts(token));
    if ending().is_none() {
        return;
    }
    // The open triggers a refresh, which starts a moment later.
    drop(File::open(path));
    loop {
        std::thread::sleep(LOOK_EVERY);
        let may_come = ending().is_some_and(|token| token.fetching);
        if !may_come || SystemClock.now().boot >= deadline {
            return;
        }
    }
}

/// Whether a token has as much life left as git should get. One without an expiry has.
fn lasts(token: &TokenStatus) -> bool {
    let left = |at: Timestamp| at.duration_since(SystemClock.now().timestamp());
    let least = jiff::SignedDuration::try_from(Duration::from_secs(token.git_min_life_seconds));
    token.expires_at.is_none_or(|at| least.is_ok_and(|least| left(at) >= least))
}

fn token_status(mountpoint: &Path) -> Option<TokenStatus> {
    let status: Status = serde_json::from_slice(&control::status(mountpoint).ok()?).ok()?;
    status.tokens.into_iter().next()
}

/// Whether nobody keeps the files at a mountpoint any more.
#[must_use]
pub fn are_deserted_at(mountpoint: &Path) -> bool {
    Found::at(mountpoint).is_some_and(|found| found.holder() == Holder::Nobody)
}

/// While nothing has failed, a token is on its way.
fn pays_to_wait(mountpoint: &Path) -> bool {
    let fails = |token: TokenStatus| token.last_failure.is_some() && !token.fetching;
    !are_deserted_at(mountpoint) && !token_status(mountpoint).is_some_and(fails)
}

/// The errno that the open of a mount would have had.
fn refusal(mountpoint: &Path, is_late: bool) -> io::Error {
    if are_deserted_at(mountpoint) {
        return Errno::ENOTCONN.into();
    }
    let token = token_status(mountpoint);
    let refuses = |token: &TokenStatus| {
        let kinds = token.failures.iter().map(|failure| failure.kind.as_str());
        let mut known = kinds
            .filter_map(|name| FetchErrorKind::ALL.into_iter().find(|kind| kind.name() == name));
        known.any(FetchErrorKind::is_refusal)
    };
    let kind = match token {
        Some(token) if refuses(&token) => ReadErrorKind::Rejected,
        Some(token) if is_late && token.fetching => ReadErrorKind::TimedOut,
        Some(token) if token.generation.is_none() => ReadErrorKind::NoToken,
        _ => ReadErrorKind::Expired,
    };
    kind.errno().into()
}
