//! What time it is for the issuer, as far as anybody can know: the rule of the design, written down
//! a second time. All is counted in nanoseconds.

use std::time::Duration;

use molecule_tokenfs::secret::Fingerprint;
use molecule_tokenfs::time::Now;

use crate::model::LONGEST_LIFE;

const SECOND: i128 = 1_000_000_000;

/// What an answer says, and when.
pub struct Word {
    pub fingerprint: Fingerprint,
    pub expires_at: Duration,
    pub server: Option<Duration>,
    pub issued: Now,
    pub now: Now,
    /// A request takes no longer, unless the machine slept.
    pub limit: Duration,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Clocks {
    /// Wall clock minus boot clock, as of the last answer whose `Date` agreed with it.
    remembered: Option<i128>,
    tokens: Vec<Token>,
}

#[derive(Debug)]
struct Token {
    fingerprint: Fingerprint,
    /// Its end, by a clock that runs as the boot clock does.
    end: i128,
    lagged: bool,
    doubtful: bool,
}

impl Clocks {
    /// The issuer's time when the request was sent, and whether the word replaces a doubtful one.
    pub fn hear(&mut self, word: &Word) -> (Duration, bool) {
        let sent = nanos(word.issued.boot);
        let took = nanos(word.now.boot) - sent;
        let wall = nanos(word.now.wall) - nanos(word.now.boot);
        let remembered = self.remembered.unwrap_or(wall);
        let mut here = sent + wall.max(remembered);
        let mut agrees = false;
        if let Some(server) = word.server.map(nanos) {
            // How far it is from what it can be between request and answer.
            let off = |offset: i128| {
                let least = sent + offset;
                (least - server).max(server - least - took - SECOND).max(0)
            };
            let nearest = off(wall).min(off(remembered));
            agrees = nearest <= 300 * SECOND;
            if agrees && off(wall) == nearest {
                self.remembered = Some(wall);
                here = sent + wall;
            } else if agrees {
                here = sent + remembered;
            }
            here = here.max(server);
        }
        let (end, longest) = (nanos(word.expires_at), nanos(LONGEST_LIFE));
        let excess = end - here - longest;
        let lagged = 0 < excess && excess <= 86400 * SECOND;
        let known = self.tokens.iter_mut().find(|token| token.fingerprint == word.fingerprint);
        let mut replaces = false;
        if let Some(token) = known {
            token.lagged |= lagged;
            replaces = agrees && token.doubtful;
            token.doubtful &= !agrees;
        } else {
            let began = sent.max(nanos(word.now.boot) - nanos(word.limit));
            let token = Token {
                fingerprint: word.fingerprint,
                end: end - began,
                lagged,
                doubtful: !agrees,
            };
            self.tokens.insert(0, token);
            self.tokens.truncate(8);
        }
        let time = self.proofs(longest).map(|start| start + sent).max().unwrap_or(0).max(here);
        (Duration::from_nanos(u64::try_from(time).expect("after 1970")), replaces)
    }

    /// Times of the issuer's clock, minus the boot clock, before which a token was not minted. What
    /// would have killed most tokens is no proof.
    fn proofs(&self, longest: i128) -> impl Iterator<Item = i128> {
        let starts = self.tokens.iter().filter(|token| token.lagged);
        starts.map(move |token| token.end - longest + SECOND).filter(|start| {
            let killed = self.tokens.iter().filter(|token| token.end <= *start).count();
            killed <= self.tokens.len() - killed
        })
    }
}

fn nanos(time: Duration) -> i128 {
    i128::try_from(time.as_nanos()).expect("it fits")
}
