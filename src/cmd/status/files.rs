//! What to make of a document among files: it was true when it was written, and may have outlived
//! whoever wrote it.

use std::path::Path;

use jiff::Timestamp;

use crate::cmd::reader::files;
use crate::status::{Backend, State, Status};

/// Brings the document of files up to `now`; that of a mount is always written anew.
pub(super) fn amend(status: &mut Status, mountpoint: &Path, now: Timestamp) {
    if status.backend == Backend::Files {
        amend_files(status, files::are_deserted_at(mountpoint), now);
    }
}

fn amend_files(status: &mut Status, is_deserted: bool, now: Timestamp) {
    let age = status.written_at.map_or(0, |at| now.duration_since(at).as_secs());
    let Some(token) = status.tokens.first_mut() else { return };
    let left = token.left_seconds.map(|left| left.saturating_sub(u64::try_from(age).unwrap_or(0)));
    token.left_seconds = left;
    let is_alive = left.is_some_and(|left| left >= token.min_life_seconds && left > 0);
    // One that lives would have removed the files and said so.
    let is_overdue = matches!(token.state, State::Fresh | State::Degraded) && !is_alive;
    if !is_deserted && !is_overdue {
        return;
    }
    let how = if is_deserted { "is gone" } else { "is gone or stopped" };
    let then = if is_alive { "the last token is still good" } else { "the last token ran out" };
    token.state = if is_alive { State::Degraded } else { State::None };
    token.summary =
        format!("the daemon that kept the files (process {}) {how}: {then}", status.worker_pid);
    token.advice.insert(
        0,
        format!("start it again: molecule-tokenfs mount --background {}", status.mountpoint),
    );
    (status.state, status.summary) = (token.state, token.summary.clone());
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
    fn a_daemon_that_is_gone_is_told_at_once() {
        let status = amended(true, 1);
        assert_eq!(status.state, State::Degraded);
        assert!(status.summary.ends_with("is gone: the last token is still good"), "{status:?}");
        assert_eq!(amended(true, 60).state, State::None);
    }
}
