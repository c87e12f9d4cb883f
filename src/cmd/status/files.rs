//! What to make of a document among files: it was true when it was written, and may have outlived
//! whoever wrote it.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use crate::cmd::reader::files;
use crate::status::{Backend, State, Status, TokenStatus};

/// Brings the document of files up to `now`; that of a mount is always written anew.
pub(super) fn amend(status: &mut Status, mountpoint: &Path, now: Timestamp) {
    if status.backend == Backend::Files {
        amend_files(status, files::are_deserted_at(mountpoint), now);
    }
}

fn amend_files(status: &mut Status, is_deserted: bool, now: Timestamp) {
    let age = status.written_at.map_or(0, |at| now.duration_since(at).as_secs());
    let age = u64::try_from(age).unwrap_or(0);
    for token in &mut status.tokens {
        let left = token.left_seconds.map(|left| left.saturating_sub(age));
        token.left_seconds = left;
        let is_alive = match token.expires_at {
            // To the fraction of a second: a short life has few seconds.
            Some(at) => {
                let left = Duration::try_from(at.duration_since(now)).unwrap_or_default();
                !left.is_zero() && left.as_secs() >= token.min_life_seconds
            }
            None => left.is_some_and(|left| left >= token.min_life_seconds && left > 0),
        };
        amend_token(token, is_deserted, is_alive, (status.worker_pid, &status.mountpoint));
    }
    status.judge();
}

fn amend_token(
    token: &mut TokenStatus,
    is_deserted: bool,
    is_alive: bool,
    (process, mountpoint): (u32, &str),
) {
    // One that lives would have removed the files and said so.
    let is_overdue = matches!(token.state, State::Fresh | State::Degraded) && !is_alive;
    if !is_deserted && !is_overdue {
        return;
    }
    let how = if is_deserted { "is gone" } else { "is gone or stopped" };
    let then = if is_alive { "the last token is still good" } else { "the last token ran out" };
    token.state = if is_alive { State::Degraded } else { State::None };
    token.summary = format!("the daemon that kept the files (process {process}) {how}: {then}");
    token
        .advice
        .insert(0, format!("start it again: molecule-tokenfs mount --background {mountpoint}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::testing::{Scene, now};

    fn amended(is_deserted: bool, minutes: i64) -> Status {
        let mut status = Scene::fresh().document();
        let later = now().timestamp() + jiff::SignedDuration::from_mins(minutes);
        amend_files(&mut status, is_deserted, later);
        status
    }

    #[test]
    fn a_document_ages_until_its_token_is_no_longer_served() {
        for (minutes, left) in [(0, 43 * 60), (42, 60)] {
            let status = amended(false, minutes);
            assert_eq!(status.state, State::Fresh);
            assert_eq!(status.tokens[0].left_seconds, Some(left));
        }
        let status = amended(false, 44);
        assert_eq!(status.state, State::None);
        assert_eq!(
            status.summary,
            "the daemon that kept the files (process 42) is gone or stopped: the last token ran out"
        );
        assert!(status.tokens[0].advice[0].contains("mount --background /run/molecule/token"));
    }

    #[test]
    fn of_a_short_life_the_fraction_of_a_second_counts() {
        let mut status = Scene::fresh().document();
        status.tokens[0].min_life_seconds = 0;
        status.tokens[0].left_seconds = Some(1);
        let expiry = status.tokens[0].expires_at.unwrap();
        let before = |milliseconds| {
            let mut status = status.clone();
            status.written_at = Some(expiry - jiff::SignedDuration::from_millis(1900));
            let now = expiry - jiff::SignedDuration::from_millis(milliseconds);
            amend_files(&mut status, false, now);
            status.state
        };
        assert_eq!((before(800), before(0)), (State::Fresh, State::None));
    }

    #[test]
    fn what_is_said_of_one_token_is_not_said_of_another() {
        let mut status = Scene::fresh().document();
        let mut other = Scene::fresh();
        other.identity.name = "other".to_owned();
        status.add(other.document());
        status.tokens[0].expires_at = Some(now().timestamp() + jiff::SignedDuration::from_hours(9));
        status.tokens[0].left_seconds = Some(9 * 3600);
        amend_files(&mut status, false, now().timestamp() + jiff::SignedDuration::from_mins(44));
        let each: Vec<_> = status.tokens.iter().map(|token| token.state).collect();
        assert_eq!(each, [State::Fresh, State::None]);
        assert!(status.summary.starts_with("other: the daemon that kept the files"), "{status:?}");
    }

    #[test]
    fn a_daemon_that_is_gone_is_told_at_once() {
        let status = amended(true, 1);
        assert_eq!(status.state, State::Degraded);
        assert!(status.summary.ends_with("is gone: the last token is still good"), "{status:?}");
        assert_eq!(amended(true, 60).state, State::None);
    }
}
