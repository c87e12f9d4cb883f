//! The document behind `status.json`: how things stand, in words and in numbers.
//!
//! It is built from fingerprints, never from a token, so that no secret can be in it. Keys are only
//! ever added; the command line reads documents of older and newer daemons.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub mod counters;
mod fit;
mod judge;
pub mod metrics;
#[cfg(test)]
pub(crate) mod testing;

pub use crate::refresh::State;
pub use fit::{fitted, padded};
pub use judge::{Identity, document, document_for_strangers, token_on_demand, words};

/// The size of `status.json` of one token, in bytes: fixed, so that `stat` is right without rendering
/// it.
pub const SIZE: usize = 8 * 1024;

/// The room that `status.json`, and `metrics.prom`, has for all tokens on demand of a mount, in bytes:
/// 1 KiB for each that can be kept, which is enough for one that is well.
pub const ON_DEMAND_SIZE: usize = 256 * 1024;

/// The size of `status.json` of so many tokens of the configuration, in bytes, in a mount that makes others
/// on demand or does not.
#[must_use]
pub fn size(tokens: usize, makes_on_demand: bool) -> usize {
    SIZE * tokens.max(1) + if makes_on_demand { ON_DEMAND_SIZE } else { 0 }
}

/// Among files, beside `status.json`: the document with all particulars. A mount tells from who opens
/// `status.json` what to show; a file cannot.
pub const FULL: &str = "status.full.json";

/// What serves the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// A FUSE mount.
    Fuse,
    /// Plain files that are replaced.
    Files,
}

impl Backend {
    /// The name, as in the document.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fuse => "fuse",
            Self::Files => "files",
        }
    }
}

/// What is at the mountpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// A directory of views.
    Directory,
    /// One file: the token.
    File,
}

impl Layout {
    /// The name, as in the document.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::File => "file",
        }
    }
}

/// The document. Times are RFC 3339 in UTC, by the local clock as it stands now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The worst state of a token.
    pub state: State,
    /// The same in words.
    #[serde(default)]
    pub summary: String,
    /// Where the files are.
    pub mountpoint: String,
    /// What serves them.
    pub backend: Backend,
    /// Why they are plain files; `null` for a mount.
    #[serde(default)]
    pub backend_reason: Option<String>,
    /// What is at the mountpoint.
    pub layout: Layout,
    /// The view that a mounted file is; `null` for a directory.
    #[serde(default)]
    pub view: Option<String>,
    /// The version of the daemon that serves.
    pub version: String,
    /// The process that holds the mount.
    pub supervisor_pid: u32,
    /// The process that serves it.
    pub worker_pid: u32,
    /// How the last upgrade of the worker went, if there was one.
    #[serde(default)]
    pub last_upgrade: Option<UpgradeStatus>,
    /// Why the mount was made anew last, if it ever was.
    #[serde(default)]
    pub last_remount: Option<RemountStatus>,
    /// Since when the worker serves; its counters start then.
    pub started_at: Option<Timestamp>,
    /// When this document was written.
    pub written_at: Option<Timestamp>,
    /// The tokens on demand, where the mount makes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_demand: Option<OnDemandStatus>,
    /// The tokens: that of the mount, those with a name, and at the end those on demand that are listed.
    pub tokens: Vec<TokenStatus>,
}

impl Status {
    /// The tokens of the configuration.
    #[must_use]
    pub fn configured(&self) -> &[TokenStatus] {
        let listed = self.on_demand.map_or(0, |on_demand| on_demand.listed);
        self.tokens.get(..self.tokens.len().saturating_sub(listed)).unwrap_or_default()
    }

    /// The tokens on demand that are listed, the most lately opened first.
    #[must_use]
    pub fn on_demand(&self) -> &[TokenStatus] {
        self.tokens.get(self.configured().len()..).unwrap_or_default()
    }

    /// Tells that so many tokens on demand are kept, and lists these of them. How they stand says nothing
    /// of the mount: it is a matter of whoever opens them, and a name may be mistyped.
    pub fn add_on_demand(&mut self, kept: usize, listed: Vec<TokenStatus>) {
        self.on_demand = Some(OnDemandStatus { kept, listed: listed.len() });
        self.tokens.extend(listed);
    }

    /// Takes the tokens of another document of the same mount in, before any on demand. The worst of all
    /// says how it stands.
    pub fn add(&mut self, other: Self) {
        self.tokens.extend(other.tokens);
        self.judge();
    }

    /// Takes the worst of the configuration's tokens for how all stands: of several the first.
    pub fn judge(&mut self) {
        let badness = |state: State| match state {
            State::Idle => 0,
            State::Fresh => 1,
            State::Degraded => 2,
            State::None => 3,
        };
        let places = self.configured().iter().enumerate();
        let worst = places.max_by_key(|(place, token)| (badness(token.state), Reverse(*place)));
        let judged = worst.map(|(place, token)| {
            let name = if place == 0 { String::new() } else { format!("{}: ", token.name) };
            (token.state, name + &token.summary)
        });
        if let Some((state, summary)) = judged {
            (self.state, self.summary) = (state, summary);
        }
    }
}

/// The tokens on demand of a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OnDemandStatus {
    /// How many are kept.
    pub kept: usize,
    /// How many of them the document tells of, as the last of its tokens: the most lately opened first, as
    /// many as there is room for. None to those who may not read the tokens: names say what is worked on.
    pub listed: usize,
}

/// How an upgrade went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeStatus {
    /// When.
    pub at: Timestamp,
    /// Whether the newer worker took over.
    pub succeeded: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// That a mount was made anew: a worker that was killed did not end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemountStatus {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

/// One token. Keys that an older daemon does not write have their default values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenStatus {
    /// Its name.
    pub name: String,
    /// Whose repositories it is for, in lower case, where that is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<String>,
    /// The hosts that it is for, where they need not be those of the mount.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// How it stands.
    pub state: State,
    /// The same in words.
    pub summary: String,
    /// The number of the newest token in this mount.
    pub generation: Option<u64>,
    /// The first 8 hexadecimal digits of its SHA-256.
    pub fingerprint: Option<String>,
    /// The source that gave it.
    pub source: Option<String>,
    /// When the request that brought it was sent.
    pub fetched_at: Option<Timestamp>,
    /// When it expires; `null` also where nobody knows.
    pub expires_at: Option<Timestamp>,
    /// What is left of the life that it is taken to have.
    pub left_seconds: Option<u64>,
    /// An open is served only a token that has at least this left.
    pub min_life_seconds: u64,
    /// If less than this is left, git waits briefly for a fresh token.
    pub git_min_life_seconds: u64,
    /// When the next attempt is made; `null` while there is none to make, or it is under way.
    pub next_refresh_at: Option<Timestamp>,
    /// Why then.
    pub next_refresh_reason: Option<String>,
    /// A request is under way.
    pub fetching: bool,
    /// Requests made.
    pub attempts: u64,
    /// Fetches that brought a new token.
    pub fetches: u64,
    /// The failure that matters most among `failures`.
    pub last_failure: Option<FailureStatus>,
    /// The last failure of each source that failed since its last success, in chain order.
    pub failures: Vec<FailureStatus>,
    /// The token that a consumer said was refused, while no other has come.
    pub rejected: Option<RejectedStatus>,
    /// What to do now.
    pub advice: Vec<String>,
    /// What is good to know.
    pub notes: Vec<String>,
    /// How much later it was for the issuer than by the platform's clock at its last answer, as far
    /// as this machine's clock or the tokens tell: what lives are shortened by.
    pub clock_skew_seconds: u64,
    /// How far the platform's clock was ahead of this machine's at its last answer; negative where
    /// it was behind, `null` while it has not told its time.
    pub platform_clock_ahead_seconds: Option<i64>,
    /// The platform was seen to give the same token twice.
    pub platform_repeats_tokens: bool,
    /// Successful opens.
    pub opens: u64,
    /// Refusals, by the name of the errno.
    pub refusals: BTreeMap<String, u64>,
    /// The last rotations, rejects and failures, oldest first.
    pub history: Vec<HistoryEntry>,
}

impl TokenStatus {
    /// What is left of the token's life; nothing where there is no token.
    #[must_use]
    pub fn left(&self) -> Duration {
        Duration::from_secs(self.left_seconds.unwrap_or(0))
    }

    /// Whether a refresh that was asked for at the time of `before` has ended. It may have joined a
    /// request that was under way.
    #[must_use]
    pub fn has_answered(&self, before: &Self) -> bool {
        !self.fetching && (self.attempts > before.attempts || before.fetching)
    }
}

/// A source's failure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailureStatus {
    /// The source.
    pub source: String,
    /// A stable name, for example `unreachable`.
    pub kind: String,
    /// What failed, in words.
    pub message: String,
    /// The particulars; may be empty.
    pub detail: String,
    /// What to do.
    pub remedy: String,
    /// Whether it heals without a human.
    pub transient: bool,
    /// When the streak began.
    pub since: Timestamp,
    /// When it failed last.
    pub at: Timestamp,
    /// How often in a row.
    pub count: u64,
}

/// A consumer said that a token was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedStatus {
    /// Which token.
    pub fingerprint: String,
    /// When it was first said.
    pub at: Timestamp,
    /// How often.
    pub count: u64,
    /// Whether all opens wait for another one now. Those of the user who said it may wait for longer.
    pub withheld: bool,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When.
    pub at: Timestamp,
    /// `rotation`, `republication`, `reject` or `failure`.
    pub kind: String,
    /// The token concerned, where there is one.
    pub generation: Option<u64>,
    /// Its fingerprint.
    pub fingerprint: Option<String>,
    /// Why.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::testing::{Scene, failing};
    use super::*;
    use crate::error::FetchErrorKind;

    #[test]
    fn the_document_has_exactly_these_keys() {
        let mut scene = Scene::fresh();
        scene.snapshot.failures = vec![failing("platform", FetchErrorKind::ServerError)];
        insta::assert_snapshot!(serde_json::to_string_pretty(&scene.document()).unwrap(), @r#"
        {
          "state": "degraded",
          "summary": "the token at hand is served, but platform gives no new one: the platform failed to mint a token (what exactly)",
          "mountpoint": "/run/molecule/token",
          "backend": "fuse",
          "backend_reason": null,
          "layout": "directory",
          "view": null,
          "version": "0.1.0",
          "supervisor_pid": 41,
          "worker_pid": 42,
          "last_upgrade": null,
          "last_remount": null,
          "started_at": "2026-04-17T21:20:00Z",
          "written_at": "2026-04-17T22:50:00Z",
          "tokens": [
            {
              "name": "token",
              "state": "degraded",
              "summary": "the token at hand is served, but platform gives no new one: the platform failed to mint a token (what exactly)",
              "generation": 2,
              "fingerprint": "df683ed0",
              "source": "platform",
              "fetched_at": "2026-04-17T22:33:00Z",
              "expires_at": "2026-04-17T23:33:00Z",
              "left_seconds": 2580,
              "min_life_seconds": 60,
              "git_min_life_seconds": 720,
              "next_refresh_at": "2026-04-17T23:18:00Z",
              "next_refresh_reason": "timer",
              "fetching": false,
              "attempts": 2,
              "fetches": 2,
              "last_failure": {
                "source": "platform",
                "kind": "server_error",
                "message": "the platform failed to mint a token",
                "detail": "what exactly",
                "remedy": "look at the platform's log; it is tried again by itself",
                "transient": true,
                "since": "2026-04-17T22:30:00Z",
                "at": "2026-04-17T22:49:00Z",
                "count": 7
              },
              "failures": [
                {
                  "source": "platform",
                  "kind": "server_error",
                  "message": "the platform failed to mint a token",
                  "detail": "what exactly",
                  "remedy": "look at the platform's log; it is tried again by itself",
                  "transient": true,
                  "since": "2026-04-17T22:30:00Z",
                  "at": "2026-04-17T22:49:00Z",
                  "count": 7
                }
              ],
              "rejected": null,
              "advice": [
                "platform: look at the platform's log; it is tried again by itself"
              ],
              "notes": [],
              "clock_skew_seconds": 0,
              "platform_clock_ahead_seconds": null,
              "platform_repeats_tokens": false,
              "opens": 2,
              "refusals": {
                "EACCES": 0,
                "EAGAIN": 0,
                "EIO": 0,
                "EKEYEXPIRED": 0,
                "EKEYREJECTED": 0,
                "ENOKEY": 0,
                "EROFS": 0,
                "ETIMEDOUT": 0
              },
              "history": [
                {
                  "at": "2026-04-17T21:48:00Z",
                  "kind": "rotation",
                  "generation": 1,
                  "fingerprint": "4df652a2",
                  "reason": "first open"
                },
                {
                  "at": "2026-04-17T22:33:00Z",
                  "kind": "rotation",
                  "generation": 2,
                  "fingerprint": "df683ed0",
                  "reason": "timer"
                }
              ]
            }
          ]
        }
        "#);
    }

    #[test]
    fn the_worst_token_says_how_all_stands_and_of_several_the_first() {
        let with = |scenes: [(&str, Scene); 3]| {
            let documents = scenes.map(|(name, mut scene)| {
                scene.identity.name = name.to_owned();
                scene.document()
            });
            let all = documents.into_iter().reduce(|mut all, other| {
                all.add(other);
                all
            });
            let all = all.unwrap();
            (all.state, all.summary)
        };
        let fails = || Scene::failing(FetchErrorKind::Unauthorized);
        let (state, summary) = with([("a", Scene::fresh()), ("b", fails()), ("c", fails())]);
        assert_eq!(state, State::None);
        assert!(summary.starts_with("b: there is no token"), "{summary}");
        let (state, summary) =
            with([("a", Scene::idle()), ("b", Scene::fresh()), ("c", Scene::idle())]);
        assert_eq!((state, &*summary), (State::Fresh, "b: a token of platform is served"));
        let (state, summary) = with([("a", fails()), ("b", Scene::fresh()), ("c", fails())]);
        assert_eq!(state, State::None);
        assert!(summary.starts_with("there is no token"), "{summary}");
    }

    #[test]
    fn a_document_of_another_version_can_be_read() {
        let mut value = serde_json::to_value(Scene::fresh().document()).unwrap();
        value["of_a_later_version"] = serde_json::json!({"to": "9.9.9"});
        assert!(serde_json::from_value::<Status>(value.clone()).is_ok());
        // Version 1 of the document had these alone; the rest came later.
        for key in [
            "summary",
            "backend_reason",
            "view",
            "started_at",
            "written_at",
            "last_upgrade",
            "last_remount",
        ] {
            value.as_object_mut().unwrap().remove(key);
        }
        let token = value["tokens"][0].as_object_mut().unwrap();
        for key in [
            "summary",
            "min_life_seconds",
            "git_min_life_seconds",
            "fetching",
            "attempts",
            "failures",
            "rejected",
            "advice",
            "notes",
            "clock_skew_seconds",
            "platform_clock_ahead_seconds",
            "platform_repeats_tokens",
        ] {
            token.remove(key);
        }
        assert!(serde_json::from_value::<Status>(value).is_ok());
    }
}
