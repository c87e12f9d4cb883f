//! What became of each open, judged by the platform's ledger. All times are readings of
//! `CLOCK_BOOTTIME`, which every process of the machine shares.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use molecule_tokenfs::demo::ledger::Entry;
use molecule_tokenfs::secret::Fingerprint;
use nix::errno::Errno;

use crate::support::millis;

/// From before a call to after it.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub start: Duration,
    pub end: Duration,
}

impl Span {
    fn overlap(self, other: Self) -> Duration {
        self.end.min(other.end).saturating_sub(self.start.max(other.start))
    }

    pub fn length(self) -> Duration {
        self.end.saturating_sub(self.start)
    }
}

/// An open that was answered with a token.
#[derive(Debug, Clone, Copy)]
pub struct Served {
    pub fingerprint: Fingerprint,
    pub open: Span,
}

/// An open that was refused.
#[derive(Debug, Clone, Copy)]
pub struct Refused {
    pub errno: Errno,
    pub open: Span,
}

/// What one reader saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub served: Vec<Served>,
    pub refused: Vec<Refused>,
    /// Files that could not be read.
    pub unreadable: u64,
    /// Files of which `fstat` told another size than their bytes had.
    pub other_sizes: u64,
}

/// What was done to the daemon.
#[derive(Debug, Default)]
pub struct Done {
    /// While it was stopped.
    pub stopped: Vec<Span>,
    /// When its wall clock was set forward: no token from before may be served after.
    pub set_forward: Vec<Duration>,
    /// While the platform was slow, or gave a token again, which can only shorten its life.
    pub doubtful: Vec<Span>,
    /// How often its wall clock was set, in either direction.
    pub clock_sets: u64,
}

/// What the daemon promises.
#[derive(Debug, Clone, Copy)]
pub struct Promise {
    pub min_life: Duration,
    pub open_timeout: Duration,
}

/// The errnos by which an open may be refused.
const NAMED: [Errno; 4] =
    [Errno::ENOKEY, Errno::EKEYEXPIRED, Errno::EKEYREJECTED, Errno::ETIMEDOUT];

/// What scheduling may take from an open's deadline.
pub const TOLERANCE: Duration = millis(100);

/// `Date` is cut to seconds, so that the daemon takes a token to end up to this much early.
const DATE_RESOLUTION: Duration = Duration::from_secs(1);

/// How long a request may have been on its way before its token was issued, while the platform is
/// slow; else it is [`TOLERANCE`].
pub const LONGEST_WAY: Duration = millis(400);

/// By when the daemon must have seen an open.
const SEEN_WITHIN: Duration = millis(250);

/// A token issued so shortly before a second's end may have been sent with the next second's `Date`.
const BOUNDARY: Duration = millis(50);

/// The counts. All but the first three must be zero (late: no more than the control's).
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    pub opens: u64,
    pub tokens_seen: u64,
    pub refusals: BTreeMap<String, u64>,
    /// The token was dead, or had less than the minimum life left, during the whole open.
    pub dead: u64,
    /// The bytes are none of the issued tokens, or none could be read.
    pub torn: u64,
    /// `fstat` said another number of bytes: of a token that died, or whose time was up, under the open.
    pub other_sizes: u64,
    /// Refused while a usable token was in hand.
    pub wrongly_refused: u64,
    /// Refused by an errno that the documentation does not name.
    pub unnamed: u64,
    /// Answered later than the deadline and [`TOLERANCE`], time stopped not counted.
    pub late: u64,
}

/// Judges everything that the readers saw.
pub fn judge(ledger: &[Entry], seen: &[Seen], done: &Done, promise: Promise) -> Verdict {
    let mut issued: HashMap<Fingerprint, Vec<&Entry>> = HashMap::new();
    for entry in ledger {
        issued.entry(entry.fingerprint).or_default().push(entry);
    }
    let mut verdict = Verdict::default();
    // The open that got each token first.
    let mut in_hand: HashMap<Fingerprint, Span> = HashMap::new();
    for served in seen.iter().flat_map(|seen| &seen.served) {
        verdict.opens += 1;
        verdict.late += u64::from(is_late(served.open, done, promise));
        let first = in_hand.entry(served.fingerprint).or_insert(served.open);
        if served.open.end < first.end {
            *first = served.open;
        }
        match issued.get(&served.fingerprint) {
            None => verdict.torn += 1,
            Some(entries) => {
                let fresh = entries.iter().any(|entry| was_fresh(entry, served.open, promise));
                verdict.dead += u64::from(!fresh);
            }
        }
    }
    verdict.tokens_seen = u64::try_from(in_hand.len()).unwrap();
    verdict.torn += seen.iter().map(|seen| seen.unreadable).sum::<u64>();
    verdict.other_sizes = seen.iter().map(|seen| seen.other_sizes).sum();
    // When each token was in hand for certain, and usable.
    let usable: Vec<Span> = in_hand
        .iter()
        .filter_map(|(fingerprint, first)| {
            let entry = issued.get(fingerprint)?.first()?;
            let end = certainly_usable_until(entry, *first, done, promise)?;
            Some(Span { start: first.end, end })
        })
        .collect();
    for refused in seen.iter().flat_map(|seen| &seen.refused) {
        verdict.opens += 1;
        *verdict.refusals.entry(format!("{:?}", refused.errno)).or_default() += 1;
        verdict.unnamed += u64::from(!NAMED.contains(&refused.errno));
        verdict.late += u64::from(is_late(refused.open, done, promise));
        // A token that is usable when the open begins must be served at once.
        let judged = refused.open.end.min(refused.open.start + SEEN_WITHIN);
        let stands = Span { start: refused.open.start, end: judged };
        let stood = done.stopped.iter().any(|stop| !stop.overlap(stands).is_zero());
        let within =
            |usable: &Span| usable.start < refused.open.start && judged < usable.end && !stood;
        verdict.wrongly_refused += u64::from(usable.iter().any(within));
    }
    verdict
}

/// Whether at some instant of the open the token had the minimum life left by the issuer's clock.
fn was_fresh(entry: &Entry, open: Span, promise: Promise) -> bool {
    // Life only runs down, so the first instant of the open at which it existed is the best one.
    let instant = open.start.max(Duration::from_millis(entry.issued_ms));
    instant <= open.end && entry.live_at(instant + promise.min_life)
}

/// Until when a token, once an open got it, was usable by the daemon's own reckoning, at least.
/// `None` where that cannot be told: its request may have been on its way while the daemon stood.
fn certainly_usable_until(
    entry: &Entry,
    first: Span,
    done: &Done,
    promise: Promise,
) -> Option<Duration> {
    let issued = Duration::from_millis(entry.issued_ms);
    let dead = Duration::from_millis(entry.expires_ms);
    let way = Span { start: issued.saturating_sub(LONGEST_WAY), end: issued + LONGEST_WAY };
    if done.stopped.iter().any(|stop| !stop.overlap(way).is_zero()) {
        return None;
    }
    // The daemon counts from when it asked, and takes the answer's `Date` for a second later.
    let life = Span { start: way.start, end: dead };
    let is_doubtful = done.doubtful.iter().any(|doubt| !doubt.overlap(life).is_zero());
    let real = Span { start: issued, end: dead }.length();
    let cut = Duration::from_millis(u64::from(real.subsec_millis()));
    let end = if is_doubtful || cut < BOUNDARY {
        dead.saturating_sub(DATE_RESOLUTION + LONGEST_WAY)
    } else {
        // Issued in the middle of a second, as is seen from what is left of it at the end.
        dead.saturating_sub(cut + TOLERANCE)
    };
    let end = end.saturating_sub(promise.min_life);
    // A clock that was set before that open was known when the token was served.
    let forward = done.set_forward.iter().filter(|at| **at >= first.start).min();
    Some(forward.map_or(end, |&at| end.min(at)))
}

fn is_late(open: Span, done: &Done, promise: Promise) -> bool {
    let limit = promise.open_timeout + TOLERANCE;
    if open.length() <= limit {
        return false;
    }
    let stopped: Duration = done.stopped.iter().map(|stop| open.overlap(*stop)).sum();
    open.length() > limit + stopped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::secs;

    const PROMISE: Promise = Promise { min_life: millis(300), open_timeout: secs(1) };

    fn token() -> Fingerprint {
        Fingerprint::of(b"ghs_token")
    }

    /// Issued at 100.1 s, dead at 104 s.
    fn entry() -> Entry {
        Entry {
            fingerprint: token(),
            issued_ms: 100_100,
            expires_ms: 104_000,
            revoked_ms: None,
            accepted: 0,
            refused: 0,
        }
    }

    fn span(start: u64, end: u64) -> Span {
        Span { start: millis(start), end: millis(end) }
    }

    fn served(start: u64, end: u64) -> Seen {
        let served = Served { fingerprint: token(), open: span(start, end) };
        Seen { served: vec![served], ..Seen::default() }
    }

    fn refused(errno: Errno, start: u64, end: u64) -> Seen {
        Seen { refused: vec![Refused { errno, open: span(start, end) }], ..Seen::default() }
    }

    fn judged(seen: &[Seen], done: &Done) -> Verdict {
        judge(&[entry()], seen, done, PROMISE)
    }

    #[test]
    fn an_open_that_began_with_less_than_the_minimum_life_left_got_a_dead_token() {
        let dead = |start, end| judged(&[served(start, end)], &Done::default()).dead;
        assert_eq!((dead(103_699, 103_900), dead(103_700, 103_900)), (0, 1));
        // It was issued while the open waited for it; or only after its end.
        assert_eq!((dead(99_500, 100_100), dead(99_500, 100_099)), (0, 1));
    }

    #[test]
    fn bytes_that_nobody_issued_are_torn_and_sizes_of_others_are_counted() {
        let mut seen = served(101_000, 101_001);
        seen.served[0].fingerprint = Fingerprint::of(b"ghs_tok");
        (seen.unreadable, seen.other_sizes) = (1, 3);
        let verdict = judged(&[seen], &Done::default());
        assert_eq!((verdict.torn, verdict.other_sizes), (2, 3));
    }

    #[test]
    fn a_refusal_is_wrong_while_a_token_that_was_served_before_is_usable() {
        let wrong = |start, end, done: &Done| {
            let seen = [served(100_500, 100_501), refused(Errno::EKEYEXPIRED, start, end)];
            judged(&seen, done).wrongly_refused
        };
        let calm = Done::default();
        assert_eq!((wrong(101_000, 101_001, &calm), wrong(100_400, 100_600, &calm)), (1, 0));
        // The daemon may count it as over: a second cut off, the way, the minimum life. Here three
        // seconds from 100.1 s on, less 100 ms and 300 ms.
        assert_eq!((wrong(102_600, 102_699, &calm), wrong(102_600, 102_700, &calm)), (1, 0));
        let doubtful = Done { doubtful: vec![span(100_600, 100_700)], ..Done::default() };
        assert_eq!(wrong(102_290, 102_299, &doubtful), 1);
        assert_eq!(wrong(102_290, 102_300, &doubtful), 0);
        // An open that waits all its time although a token was there when it began.
        assert_eq!((wrong(102_400, 103_400, &calm), wrong(102_450, 103_450, &calm)), (1, 0));
        for (at, wrongs) in [(100_499, 1), (100_700, 0)] {
            let forward = Done { set_forward: vec![millis(at)], ..Done::default() };
            assert_eq!(wrong(101_000, 101_001, &forward), wrongs);
        }
        for stop in [span(99_000, 99_900), span(100_900, 102_900)] {
            let stopped = Done { stopped: vec![stop], ..Done::default() };
            assert_eq!(wrong(101_000, 103_001, &stopped), 0);
        }
    }

    #[test]
    fn an_answer_after_the_deadline_is_late_unless_the_daemon_stood_still() {
        let late = |end, done: &Done| judged(&[refused(Errno::ETIMEDOUT, 0, end)], done).late;
        let calm = Done::default();
        assert_eq!((late(1_100, &calm), late(1_101, &calm)), (0, 1));
        let stopped = Done { stopped: vec![span(500, 2_500)], ..Done::default() };
        assert_eq!((late(3_100, &stopped), late(3_101, &stopped)), (0, 1));
    }

    #[test]
    fn an_errno_that_the_documentation_does_not_name_is_told_apart() {
        let seen = [refused(Errno::ESTALE, 0, 1), refused(Errno::ENOKEY, 0, 1)];
        let verdict = judged(&seen, &Done::default());
        assert_eq!((verdict.unnamed, verdict.opens), (1, 2));
        assert_eq!(verdict.refusals.get("ESTALE"), Some(&1));
    }
}
