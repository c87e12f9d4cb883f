//! Scenes for the tests of everything that shows how things stand.

use std::path::PathBuf;
use std::time::Duration;

use super::{Backend, Identity, Layout, Status, TokenStatus, document, token_on_demand};
use crate::error::{FetchError, FetchErrorKind};
use crate::refresh::{Event, EventKind, Failure, Next, Snapshot};
use crate::secret::{Fingerprint, Secret};
use crate::status::counters::Counters;
use crate::time::Now;
use crate::token::{Life, Token};

pub(crate) const CANARY: &str = "ghs_canary";
pub(crate) const MINUTE: Duration = Duration::from_mins(1);

/// The moment at which every scene plays, on a machine that is up for two hours: 22:50:00 UTC on the
/// 17th of April 2026.
pub(crate) fn now() -> Now {
    ago(0)
}

/// So many minutes before it.
pub(crate) fn ago(minutes: u64) -> Now {
    Now {
        boot: Duration::from_mins(120 - minutes),
        wall: Duration::from_mins(29_607_770 - minutes),
    }
}

/// Everything a document is built from.
pub(crate) struct Scene {
    pub(crate) identity: Identity,
    pub(crate) snapshot: Snapshot,
    pub(crate) counters: Counters,
}

impl Scene {
    /// Nobody asked yet.
    pub(crate) fn idle() -> Self {
        let identity = Identity {
            name: "token".to_owned(),
            mountpoint: PathBuf::from("/run/molecule/token"),
            backend: Backend::Fuse,
            why_files: None,
            layout: Layout::Directory,
            view: None,
            supervisor_pid: 41,
            worker_pid: 42,
            started: ago(90),
            min_life: None,
            git_min_life: None,
            owners: Vec::new(),
            hosts: Vec::new(),
        };
        Self { identity, snapshot: Snapshot::default(), counters: Counters::default() }
    }

    /// The platform's second token serves, 17 minutes old.
    pub(crate) fn fresh() -> Self {
        let mut scene = Self::idle();
        let fingerprint = token().fingerprint();
        let first = Fingerprint::of(b"the first one");
        let rotation = |at, generation, fingerprint, reason: &str| Event {
            at,
            kind: EventKind::Rotation,
            token: Some((generation, fingerprint)),
            reason: reason.to_owned(),
            detail: String::new(),
        };
        scene.snapshot = Snapshot {
            token: Some(token()),
            next: Some(Next { at: now().boot + MINUTE * 28, reason: "timer" }),
            attempts: 2,
            fetches: 2,
            min_life: MINUTE,
            git_min_life: MINUTE * 12,
            asked: true,
            history: [
                rotation(ago(62), 1, first, "first open"),
                rotation(ago(17), 2, fingerprint, "timer"),
            ]
            .into(),
            ..Snapshot::default()
        };
        scene.counters.opened(Duration::ZERO);
        scene.counters.opened(Duration::from_millis(30));
        scene
    }

    /// The platform never answered.
    pub(crate) fn failing(kind: FetchErrorKind) -> Self {
        let mut scene = Self::idle();
        scene.snapshot = Snapshot {
            failures: vec![
                failing("platform", kind),
                failing("env", FetchErrorKind::NotConfigured),
            ],
            next: Some(Next { at: now().boot + MINUTE / 3, reason: "back-off" }),
            attempts: 14,
            asked: true,
            ..Snapshot::default()
        };
        scene
    }

    /// The document, with a fixed version: a release changes no snapshot.
    pub(crate) fn document(&self) -> Status {
        let document = document(&self.identity, &self.snapshot, &self.counters, &now());
        Status { version: "0.1.0".to_owned(), ..document }
    }
}

/// So many tokens on demand that stand as in this scene.
pub(crate) fn many_on_demand(count: usize, scene: &Scene) -> Vec<TokenStatus> {
    let token = |number| {
        let name = format!("repos/acme/a-service-{number}");
        let owners = vec!["acme".to_owned()];
        let identity = Identity { name, owners, ..scene.identity.clone() };
        token_on_demand(&identity, scene.snapshot.clone(), &scene.counters, &now())
    };
    (0..count).map(token).collect()
}

/// The platform's token, 17 minutes into an hour.
pub(crate) fn token() -> Token {
    Token {
        secret: Secret::new(CANARY.as_bytes().to_vec()).unwrap(),
        generation: 2,
        source: "platform",
        issued: ago(17),
        life: Life::Known(MINUTE * 60),
    }
}

/// A failure that began 20 minutes ago and came 7 times.
pub(crate) fn failing(source: &'static str, kind: FetchErrorKind) -> Failure {
    let detail = if kind == FetchErrorKind::NotConfigured { "" } else { "what exactly" };
    Failure { error: FetchError::new(source, kind, detail), since: ago(20), at: ago(1), count: 7 }
}
