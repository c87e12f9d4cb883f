//! What the demo platform issued, and what came back to it.
//!
//! The ledger is the judge of every run: each service asks it about each credential, so that after
//! a test or a soak its counts say whether anybody ever presented a dead token.

mod counts;

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rand::Rng;
use rand::distr::Alphanumeric;
use serde::{Deserialize, Serialize};

pub use counts::{Counts, PlatformCounts, Verdicts};

use crate::secret::{Fingerprint, Secret};
use crate::time::{Clock, timestamp};

/// What the ledger says of a credential at the moment of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Issued here, not revoked, not expired.
    Live,
    /// Issued here; its life is over.
    Dead,
    /// Issued here and taken back before its end.
    Revoked,
    /// Never issued here.
    Unknown,
    /// Live, and for other repositories than the one that it was presented for.
    OutOfScope,
}

/// The repositories that a token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// Their owner.
    pub owner: String,
    /// Their names, in lower case; `None` is all that the owner has.
    pub repositories: Option<Vec<String>>,
}

impl Scope {
    /// Whether it holds a repository. GitHub's names ignore case.
    #[must_use]
    pub fn holds(&self, owner: &str, name: &str) -> bool {
        let is_there = |names: &Vec<String>| names.iter().any(|it| it.eq_ignore_ascii_case(name));
        self.owner.eq_ignore_ascii_case(owner) && self.repositories.as_ref().is_none_or(is_there)
    }
}

/// How the ledger mints tokens.
#[derive(Debug, Clone)]
pub struct Minting {
    /// The life of a token. It ends at a whole second of the issuer's clock, as GitHub's do, so the
    /// real life is up to a second shorter.
    pub life: Duration,
    /// The length of a token in bytes, prefix included, drawn anew for each.
    pub lengths: RangeInclusive<usize>,
    /// The same token is given again while more than this is left of it, as the real platform does
    /// with 5 minutes. `None`: every request mints.
    pub cache_until: Option<Duration>,
    /// How far the issuer's clock, by which a token dies, is ahead of this machine's, in seconds.
    pub clock_offset: i64,
    /// How far the platform's clock, which stamps `Date`, is ahead of the issuer's, in seconds.
    pub platform_offset: i64,
}

impl Default for Minting {
    fn default() -> Self {
        Self {
            life: Duration::from_hours(1),
            lengths: 40..=600,
            cache_until: None,
            clock_offset: 0,
            platform_offset: 0,
        }
    }
}

/// A token as the platform hands it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// Its bytes.
    pub secret: Secret,
    /// When it expires, by the issuer's clock.
    pub expires_at: Timestamp,
    /// It had been given before.
    pub repeated: bool,
}

/// One line of the ledger. Times are readings of `CLOCK_BOOTTIME` in milliseconds, which every
/// process of the machine shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The token's fingerprint.
    #[serde(with = "fingerprint_text")]
    pub fingerprint: Fingerprint,
    /// Issued at.
    pub issued_ms: u64,
    /// Dead from here on.
    pub expires_ms: u64,
    /// Revoked at.
    pub revoked_ms: Option<u64>,
    /// How often it was presented while it was live.
    pub accepted: u64,
    /// How often it was presented after its end.
    pub refused: u64,
}

impl Entry {
    /// Whether the token was live at this reading of the boot clock.
    #[must_use]
    pub fn live_at(&self, boot: Duration) -> bool {
        let at = millis(boot);
        self.issued_ms <= at
            && at < self.expires_ms
            && self.revoked_ms.is_none_or(|revoked| at < revoked)
    }
}

/// The counts and every token so far, without any token: what another process may see.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Everything counted so far.
    pub counts: Counts,
    /// Every token, in the order of issue.
    pub tokens: Vec<Entry>,
}

/// See the module. Cheap to share behind an [`Arc`].
pub struct Ledger {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    minting: Minting,
    /// By the whole token: fingerprints of a long soak would collide.
    by_token: HashMap<Vec<u8>, usize>,
    entries: Vec<Entry>,
    /// Of the tokens that are not for everything.
    scopes: HashMap<Vec<u8>, Scope>,
    newest: Option<Issued>,
    counts: Counts,
}

impl Ledger {
    /// An empty ledger.
    pub fn new(minting: Minting, clock: Arc<dyn Clock>) -> Self {
        let state = State {
            minting,
            by_token: HashMap::new(),
            entries: Vec::new(),
            scopes: HashMap::new(),
            newest: None,
            counts: Counts::default(),
        };
        Self { clock, state: Mutex::new(state) }
    }

    /// Changes how tokens are minted from now on.
    pub fn set_minting(&self, change: impl FnOnce(&mut Minting)) {
        change(&mut self.state().minting);
    }

    /// How tokens are minted.
    #[must_use]
    pub fn minting(&self) -> Minting {
        self.state().minting.clone()
    }

    /// Gives a token: the newest one again where the cache says so, else a new one.
    pub fn issue(&self) -> Issued {
        let mut state = self.state();
        let boot = self.clock.now().boot;
        if let (Some(until), Some(newest)) = (state.minting.cache_until, state.newest.clone())
            && state.entry(newest.secret.expose()).is_some_and(|entry| entry.live_at(boot + until))
        {
            state.counts.platform.repeated += 1;
            return Issued { repeated: true, ..newest };
        }
        let life = state.minting.life;
        self.mint(&mut state, life)
    }

    /// Gives a new token for these repositories alone.
    pub fn issue_for(&self, scope: Scope) -> Issued {
        let mut state = self.state();
        let life = state.minting.life;
        let newest = state.newest.clone();
        let issued = self.mint(&mut state, life);
        state.scopes.insert(issued.secret.expose().to_vec(), scope);
        state.newest = newest;
        issued
    }

    /// Gives the newest token again, dead or alive; a new one where there is none yet.
    pub fn repeat(&self) -> Issued {
        let mut state = self.state();
        if let Some(newest) = state.newest.clone() {
            state.counts.platform.repeated += 1;
            return Issued { repeated: true, ..newest };
        }
        let life = state.minting.life;
        self.mint(&mut state, life)
    }

    /// Gives a token whose life is over already.
    pub fn issue_dead(&self) -> Issued {
        self.mint(&mut self.state(), Duration::ZERO)
    }

    /// Every token so far, the bytes themselves: what a search for leaks looks for.
    #[must_use]
    pub fn secrets(&self) -> Vec<Vec<u8>> {
        self.state().by_token.keys().cloned().collect()
    }

    /// What the ledger says of these bytes now, without counting it.
    #[must_use]
    pub fn verdict(&self, token: &[u8]) -> Verdict {
        self.state().verdict(token, self.clock.now().boot)
    }

    /// What the ledger says of the credential that a request to `service` presented, counted.
    /// `None`: the request had none.
    pub fn check(&self, service: &str, token: Option<&[u8]>) -> Option<Verdict> {
        self.check_for(service, token, None)
    }

    /// The same for a request that concerns a repository, by owner and name.
    pub fn check_for(
        &self,
        service: &str,
        token: Option<&[u8]>,
        repository: Option<(&str, &str)>,
    ) -> Option<Verdict> {
        let mut state = self.state();
        let mut verdict = token.map(|token| state.verdict(token, self.clock.now().boot));
        let scope = token.and_then(|token| state.scopes.get(token));
        if let (Some(Verdict::Live), Some(scope), Some((owner, name))) =
            (verdict, scope, repository)
            && !scope.holds(owner, name)
        {
            verdict = Some(Verdict::OutOfScope);
        }
        if let Some(entry) = token.and_then(|token| state.entry_mut(token)) {
            if verdict == Some(Verdict::Live) {
                entry.accepted += 1;
            } else {
                entry.refused += 1;
            }
        }
        let seen = state.counts.services.entry(service.to_owned()).or_default();
        *match verdict {
            Some(Verdict::Live) => &mut seen.live,
            Some(Verdict::Dead) => &mut seen.dead,
            Some(Verdict::Revoked) => &mut seen.revoked,
            Some(Verdict::Unknown) => &mut seen.unknown,
            Some(Verdict::OutOfScope) => &mut seen.out_of_scope,
            None => &mut seen.missing,
        } += 1;
        verdict
    }

    /// What is left of the life of these bytes; zero for anything that is not live.
    #[must_use]
    pub fn left(&self, token: &[u8]) -> Duration {
        let (state, boot) = (self.state(), self.clock.now().boot);
        match state.entry(token) {
            Some(entry) if entry.live_at(boot) => {
                Duration::from_millis(entry.expires_ms).saturating_sub(boot)
            }
            _ => Duration::ZERO,
        }
    }

    /// The ledger's line on these bytes.
    #[must_use]
    pub fn entry(&self, token: &[u8]) -> Option<Entry> {
        self.state().entry(token).copied()
    }

    /// What these bytes are for, where they are not for everything.
    #[must_use]
    pub fn scope(&self, token: &[u8]) -> Option<Scope> {
        self.state().scopes.get(token).cloned()
    }

    /// The lines on the tokens that are not for everything.
    #[must_use]
    pub fn entries_of_scoped(&self) -> Vec<Entry> {
        let state = self.state();
        state.scopes.keys().filter_map(|token| state.entry(token)).copied().collect()
    }

    /// Takes one token back, or all of them (`None`). Says how many live ones there were.
    pub fn revoke(&self, which: Option<Fingerprint>) -> usize {
        let (mut state, boot) = (self.state(), self.clock.now().boot);
        let mut revoked = 0;
        for entry in &mut state.entries {
            if which.is_none_or(|one| one == entry.fingerprint) && entry.live_at(boot) {
                entry.revoked_ms = Some(millis(boot));
                revoked += 1;
            }
        }
        revoked
    }

    /// Everything counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.state().counts.clone()
    }

    /// The counts and every token so far.
    #[must_use]
    pub fn report(&self) -> Report {
        let state = self.state();
        Report { counts: state.counts.clone(), tokens: state.entries.clone() }
    }

    /// Counts on the token endpoint.
    pub(super) fn count(&self, change: impl FnOnce(&mut PlatformCounts)) {
        change(&mut self.state().counts.platform);
    }

    /// The issuer's clock.
    #[must_use]
    pub fn issuer_time(&self) -> Timestamp {
        let offset = self.state().minting.clock_offset;
        timestamp(shift(self.clock.now().wall, offset))
    }

    /// The platform's clock.
    #[must_use]
    pub fn platform_time(&self) -> Timestamp {
        let minting = self.minting();
        let offset = minting.clock_offset.saturating_add(minting.platform_offset);
        timestamp(shift(self.clock.now().wall, offset))
    }

    fn mint(&self, state: &mut State, life: Duration) -> Issued {
        let now = self.clock.now();
        let length = rand::rng().random_range(state.minting.lengths.clone()).max(24);
        let secret = loop {
            if let Ok(secret) = Secret::new(random_token(length)) {
                break secret;
            }
        };
        // The whole second in which the issuer's clock ends this life, and the same instant on the
        // boot clock.
        let ends = Duration::from_secs((now.wall + life).as_secs());
        let real_life = ends.saturating_sub(now.wall);
        let entry = Entry {
            fingerprint: secret.fingerprint(),
            issued_ms: millis(now.boot),
            expires_ms: millis(now.boot + real_life),
            revoked_ms: None,
            accepted: 0,
            refused: 0,
        };
        let expires_at = timestamp(shift(ends, state.minting.clock_offset));
        let issued = Issued { secret, expires_at, repeated: false };
        state.by_token.insert(issued.secret.expose().to_vec(), state.entries.len());
        state.entries.push(entry);
        state.newest = Some(issued.clone());
        state.counts.platform.issued += 1;
        issued
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn entry(&self, token: &[u8]) -> Option<&Entry> {
        self.entries.get(*self.by_token.get(token)?)
    }

    fn entry_mut(&mut self, token: &[u8]) -> Option<&mut Entry> {
        self.entries.get_mut(*self.by_token.get(token)?)
    }

    fn verdict(&self, token: &[u8], boot: Duration) -> Verdict {
        match self.entry(token) {
            None => Verdict::Unknown,
            Some(entry) if entry.live_at(boot) => Verdict::Live,
            Some(Entry { revoked_ms: Some(_), .. }) => Verdict::Revoked,
            Some(_) => Verdict::Dead,
        }
    }
}

/// `ghs_` and random letters and digits, `length` bytes in all.
fn random_token(length: usize) -> Vec<u8> {
    let mut token = b"ghs_".to_vec();
    token.extend(rand::rng().sample_iter(Alphanumeric).take(length.saturating_sub(4)));
    token
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn shift(wall: Duration, seconds: i64) -> Duration {
    let by = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { wall.saturating_sub(by) } else { wall.saturating_add(by) }
}

/// A fingerprint as its eight digits.
mod fingerprint_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::secret::Fingerprint;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(it: &Fingerprint, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(it)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Fingerprint, D::Error> {
        let text = String::deserialize(from)?;
        Fingerprint::parse(&text).ok_or_else(|| D::Error::custom("not a fingerprint"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Now;

    /// A clock that stands until it is moved.
    #[derive(Default)]
    struct Standing(Mutex<Now>);

    impl Standing {
        fn advance(&self, millis: u64) {
            let mut now = self.0.lock().unwrap();
            *now = now.plus(Duration::from_millis(millis));
        }
    }

    impl Clock for Standing {
        fn now(&self) -> Now {
            *self.0.lock().unwrap()
        }
    }

    fn ledger(minting: Minting) -> (Ledger, Arc<Standing>) {
        let start = Now { boot: Duration::from_secs(77), wall: Duration::from_hours(500_000) };
        let clock = Arc::new(Standing(Mutex::new(start)));
        (Ledger::new(minting, clock.clone()), clock)
    }

    fn four_seconds() -> Minting {
        Minting { life: Duration::from_secs(4), ..Minting::default() }
    }

    #[test]
    fn a_token_lives_until_the_whole_second_that_it_names() {
        let (ledger, clock) = ledger(four_seconds());
        clock.advance(300);
        let issued = ledger.issue();
        assert_eq!(issued.expires_at.as_second(), 1_800_000_004);
        clock.advance(3_699);
        assert_eq!(ledger.verdict(issued.secret.expose()), Verdict::Live);
        clock.advance(1);
        assert_eq!(ledger.verdict(issued.secret.expose()), Verdict::Dead);
        let entry = ledger.entry(issued.secret.expose()).unwrap();
        assert!(entry.live_at(Duration::from_millis(77_300)));
        assert!(!entry.live_at(Duration::from_millis(77_299)));
        assert!(!entry.live_at(Duration::from_secs(81)));
    }

    #[test]
    fn every_check_is_counted_under_its_service_and_verdict() {
        let (ledger, clock) = ledger(four_seconds());
        let first = ledger.issue().secret;
        assert_eq!(ledger.check("rest", Some(first.expose())), Some(Verdict::Live));
        let second = ledger.issue().secret;
        assert_eq!(ledger.revoke(Some(second.fingerprint())), 1);
        assert_eq!(ledger.check("rest", Some(second.expose())), Some(Verdict::Revoked));
        assert_eq!(ledger.check("rest", Some(b"ghs_forged")), Some(Verdict::Unknown));
        clock.advance(4_000);
        assert_eq!(ledger.check("rest", Some(first.expose())), Some(Verdict::Dead));
        assert_eq!(ledger.check("git", None), None);
        let counts = ledger.counts();
        let rest = Verdicts { live: 1, dead: 1, revoked: 1, unknown: 1, ..Verdicts::default() };
        assert_eq!(counts.service("rest"), rest);
        assert_eq!(counts.service("git"), Verdicts { missing: 1, ..Verdicts::default() });
        assert_eq!((counts.refused(), counts.platform.issued), (3, 2));
        let entry = ledger.entry(first.expose()).unwrap();
        assert_eq!((entry.accepted, entry.refused), (1, 1));
    }

    #[test]
    fn a_caching_platform_repeats_a_token_until_little_is_left() {
        let cache_until = Some(Duration::from_secs(3));
        let (ledger, clock) = ledger(Minting { cache_until, ..four_seconds() });
        let first = ledger.issue();
        clock.advance(999);
        assert_eq!(ledger.issue(), Issued { repeated: true, ..first.clone() });
        clock.advance(1);
        assert_ne!(ledger.issue().secret, first.secret);
        let platform = ledger.counts().platform;
        assert_eq!((platform.issued, platform.repeated), (2, 1));
    }

    #[test]
    fn tokens_have_the_lengths_that_were_asked_for_and_a_report_shows_none_of_them() {
        let (ledger, _) = ledger(Minting { lengths: 90..=95, ..four_seconds() });
        let tokens: Vec<_> = (0..50).map(|_| ledger.issue().secret).collect();
        assert!(tokens.iter().all(|token| (90..=95).contains(&token.expose().len())));
        let report = serde_json::to_string(&ledger.report()).unwrap();
        assert!(tokens.iter().all(|token| !report.contains(token.expose_str())));
        let read: Report = serde_json::from_str(&report).unwrap();
        assert_eq!(read.tokens, ledger.report().tokens);
    }

    #[test]
    fn the_issuers_clock_can_be_off_without_changing_a_life() {
        let (ledger, clock) = ledger(Minting { clock_offset: -600, ..four_seconds() });
        let issued = ledger.issue();
        assert_eq!(issued.expires_at.as_second(), 1_799_999_404);
        assert_eq!(ledger.issuer_time().as_second(), 1_799_999_400);
        clock.advance(3_999);
        assert_eq!(ledger.verdict(issued.secret.expose()), Verdict::Live);
        assert_eq!(ledger.left(issued.secret.expose()), Duration::from_millis(1));
    }

    #[test]
    fn the_platforms_clock_can_be_off_the_issuers_which_alone_ends_a_life() {
        let minting = Minting { clock_offset: 100, platform_offset: -600, ..four_seconds() };
        let (ledger, clock) = ledger(minting);
        let issued = ledger.issue();
        assert_eq!(issued.expires_at.as_second(), 1_800_000_104);
        assert_eq!(ledger.platform_time().as_second(), 1_799_999_500);
        clock.advance(3_999);
        assert_eq!(ledger.verdict(issued.secret.expose()), Verdict::Live);
        clock.advance(1);
        assert_eq!(ledger.verdict(issued.secret.expose()), Verdict::Dead);
    }
}
