//! What became of each open, judged by the issuer's ledger.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use molecule_tokenfs::demo::ledger::Entry;
use molecule_tokenfs::secret::Fingerprint;

use crate::readers::Open;
use crate::scene::{DEADLINE, Form, MIN_LIFE};
use crate::support::secs;
use crate::timeline::Timeline;

/// What a loaded machine, and a worker that must be replaced first, may add to an open's deadline.
pub const GRACE: Duration = secs(4);

/// How many sentences name the same kind of harm.
const SENTENCES: u64 = 3;

#[derive(Debug, Default)]
pub struct Verdict {
    pub opens: u64,
    pub refusals: BTreeMap<String, u64>,
    /// The token had less than the minimum life left during the whole open; of a file, it was over.
    pub dead: u64,
    /// The bytes are none of the issued tokens.
    pub foreign: u64,
    /// Answered later than the deadline and [`GRACE`].
    pub late: u64,
    pub longest_open_ms: u64,
    pub harm: Vec<String>,
}

impl Verdict {
    fn tell(&mut self, count: u64, attack: &str, sentence: &str) {
        if count <= SENTENCES {
            self.harm.push(format!("{attack}: {sentence}"));
        }
    }
}

/// Judges all opens of one daemon.
pub fn judge(ledger: &[Entry], opens: &[Open], form: Form, timeline: &Timeline) -> Verdict {
    let mut issued: HashMap<Fingerprint, Vec<&Entry>> = HashMap::new();
    for entry in ledger {
        issued.entry(entry.fingerprint).or_default().push(entry);
    }
    let min_life = if form == Form::Files { Duration::ZERO } else { MIN_LIFE };
    let mut verdict = Verdict::default();
    for open in opens {
        verdict.opens += 1;
        let took = open.end.saturating_sub(open.start);
        let milliseconds = u64::try_from(took.as_millis()).unwrap();
        verdict.longest_open_ms = verdict.longest_open_ms.max(milliseconds);
        let attack = timeline.at(open.start);
        if took > DEADLINE + GRACE || open.what == "hangs" {
            verdict.late += 1;
            let count = verdict.late;
            verdict.tell(count, attack, &format!("an open took {took:?} ({})", open.what));
        }
        let Some(fingerprint) = Fingerprint::parse(&open.what) else {
            *verdict.refusals.entry(open.what.clone()).or_default() += 1;
            continue;
        };
        match issued.get(&fingerprint) {
            None => {
                verdict.foreign += 1;
                let count = verdict.foreign;
                verdict.tell(count, attack, "an open gave bytes that are no token");
            }
            Some(entries) if entries.iter().any(|entry| was_fresh(entry, open, min_life)) => {}
            Some(entries) => {
                verdict.dead += 1;
                let count = verdict.dead;
                let started = u64::try_from(open.start.as_millis()).unwrap();
                let left =
                    entries.iter().map(|entry| entry.expires_ms.saturating_sub(started)).max();
                let left = left.unwrap_or_default();
                let sentence =
                    format!("an open gave a dead token: {left} ms were left at its start");
                verdict.tell(count, attack, &sentence);
            }
        }
    }
    verdict
}

/// Whether at some instant of the open the token had the minimum life left by the issuer's clock.
fn was_fresh(entry: &Entry, open: &Open, min_life: Duration) -> bool {
    // Life only runs down, so the first instant of the open at which it existed is the best one.
    let instant = open.start.max(Duration::from_millis(entry.issued_ms));
    // Milliseconds of the ledger are cut: an expiry is up to one later than it says.
    let cut = Duration::from_millis(1);
    instant <= open.end + cut && entry.live_at(instant + min_life.saturating_sub(cut))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::millis;

    fn judged(what: &str, start: u64, end: u64, form: Form) -> Verdict {
        let entry = Entry {
            fingerprint: Fingerprint::of(b"ghs_token"),
            issued_ms: 100_000,
            expires_ms: 104_000,
            revoked_ms: None,
            accepted: 0,
            refused: 0,
        };
        let open = Open { start: millis(start), end: millis(end), what: what.to_owned() };
        judge(&[entry], &[open], form, &Timeline::default())
    }

    #[test]
    fn an_open_is_judged_by_the_life_that_its_token_had_then() {
        let token = Fingerprint::of(b"ghs_token").to_string();
        let dead = |start, form| judged(&token, start, start + 5, form).dead;
        assert_eq!((dead(103_700, Form::Mounted), dead(103_701, Form::Mounted)), (0, 1));
        assert_eq!((dead(103_999, Form::Files), dead(104_000, Form::Files)), (0, 1));
        let other = Fingerprint::of(b"ghs_other").to_string();
        assert_eq!(judged(&other, 101_000, 101_001, Form::Mounted).foreign, 1);
    }

    #[test]
    fn an_open_is_late_after_the_deadline_and_the_grace_whatever_it_gave() {
        let late = |end| judged("ETIMEDOUT", 0, end, Form::Mounted).late;
        let limit = u64::try_from((DEADLINE + GRACE).as_millis()).unwrap();
        assert_eq!((late(limit), late(limit + 1)), (0, 1));
        assert_eq!(judged("hangs", 0, 1, Form::Mounted).late, 1);
        assert_eq!(judged("EIO", 0, 1, Form::Mounted).refusals["EIO"], 1);
    }
}
