//! What a service manager is told of the service's state (`sd_notify(3)`): systemd, or whoever set
//! `NOTIFY_SOCKET`. Without that variable nobody is told.

use std::path::Path;

use sd_notify::NotifyState;

/// The mount serves: for the first time, or again after [`reloading`].
pub fn ready(target: &Path) {
    let status = format!("serving at {}", target.display());
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// A newer worker is about to take over.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("the service manager is not told of the reload: {error}"),
    }
}

/// The mount does not serve for the moment, and why.
pub fn trouble(why: &str) {
    tell(&[NotifyState::Status(why)]);
}

/// The mount is about to go.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    // The mount serves all the same; the manager gives up on it by its own time limit.
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("the service manager cannot be told how things stand: {error}");
    }
}
