//! What time it is for the issuer, told from clocks that may all be wrong.
//!
//! A token's life is its expiry minus the issuer's time, which nobody here can read. Three clocks
//! stand in for it, and the latest of them counts, so that a wrong one can shorten a life and never
//! lengthen it:
//!
//! 1. The platform's: `Date`, with what an HTTP cache adds to it.
//! 2. This machine's. A wall clock that is *set* must not cost the service, so an anchor remembers
//!    when wall clock and `Date` last agreed; the boot clock tells the time from there on. Where a
//!    `Date` comes that agrees with neither, each of them counts.
//! 3. The issuer's own, as its tokens prove it: a token that lives for an hour and expires at 12:00
//!    was not minted before 11:00. This bound is independent of the two clocks above, and counts
//!    where both lag. It is judged over the last [`TOKENS`] tokens: a proof by which most of them
//!    would have been dead on arrival is none.

use std::fmt;
use std::time::Duration;

use crate::error::FetchErrorKind;
use crate::refresh::policy::{Held, Policy, windows};
use crate::secret::Fingerprint;
use crate::time::{Now, timestamp};
use crate::token::{Life, Term};

#[cfg(test)]
mod tests;

/// How many tokens are remembered. What one of them taught is forgotten after as many others.
pub const TOKENS: usize = 8;

/// `Date` is cut to seconds and read as the end of its second.
const DATE_RESOLUTION: Duration = Duration::from_secs(1);

/// What is known of the clocks. It is part of what outlives a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clocks {
    /// The last instant at which the wall clock agreed with a `Date`.
    pub anchor: Option<Now>,
    /// The last tokens; a ring.
    pub seen: [Option<Seen>; TOKENS],
    /// The place in the ring that is written next.
    pub next: usize,
    /// How much later than by `Date` it was for the issuer at the last answer, as far as anybody
    /// could tell: what lives are shortened by.
    pub lag: Duration,
}

/// A token that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Which one.
    pub fingerprint: Fingerprint,
    /// Its expiry minus the boot clock when it was first asked for, in nanoseconds. Such differences
    /// are times of the issuer's clock that can be compared with each other.
    pub end: u64,
    /// It had more than the longest life left by both clocks: they lag.
    pub proves_lag: bool,
    /// The clocks did not agree when it came, and its life may have been shortened for nothing.
    pub doubted: bool,
}

/// A request and its answer.
#[derive(Debug, Clone, Copy)]
pub struct Exchange {
    /// When the request was sent.
    pub sent: Now,
    /// When the answer was there.
    pub received: Now,
    /// The clock of whoever answered, at the latest that it can have shown; `None` where it did not
    /// tell.
    pub server: Option<Duration>,
    /// The longest that an exchange takes. What goes beyond it is a suspend.
    pub timeout: Duration,
}

/// What the clocks say of one answer. All times are those at which the request was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// When the token expires, by the issuer's clock.
    pub expires_at: Duration,
    /// The platform's clock, where it was told.
    pub server: Option<Duration>,
    /// This machine's clock.
    pub local: Duration,
    /// The issuer's clock, as proved by its tokens.
    pub proved: Option<Duration>,
    /// The platform's clock and this machine's agree, to [`windows::CLOCK_AGREEMENT`].
    pub agrees: bool,
    /// The token came before while the clocks did not agree, and now they do: what this answer says
    /// replaces what was known of its life.
    pub lifts_doubt: bool,
}

impl Reading {
    /// The issuer's clock: the latest of all.
    #[must_use]
    pub fn time(&self) -> Duration {
        self.local.max(self.server.unwrap_or_default()).max(self.proved.unwrap_or_default())
    }

    /// The token's life from the request on; zero where it was dead.
    #[must_use]
    pub fn life(&self) -> Duration {
        self.expires_at.saturating_sub(self.time())
    }

    /// Whether the platform's clock alone gives the token at least this life.
    #[must_use]
    pub fn lives_by_the_server(&self, least: Duration) -> bool {
        self.server.is_some_and(|server| self.expires_at.saturating_sub(server) > least)
    }
}

/// In words, as the particulars of an error: both clocks, and what they make of the token.
impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expires_at, server, local, proved, .. } = self;
        let at = |time: Duration| timestamp(Duration::from_secs(time.as_secs()));
        write!(f, "it expires at {}; ", at(*expires_at))?;
        match server {
            Some(server) => write!(f, "the source's clock says {}, ", at(*server))?,
            None => write!(f, "the source does not tell the time, ")?,
        }
        write!(f, "this machine's {}", at(*local))?;
        match proved {
            Some(proved) if *proved > *local => {
                write!(f, ", and earlier tokens prove that it is {} or later", at(*proved))
            }
            _ => Ok(()),
        }
    }
}

impl Clocks {
    /// Judges an answer, and learns from it. `longest` is the longest life that the issuer gives.
    pub fn judge(
        &mut self,
        fingerprint: Fingerprint,
        expires_at: Duration,
        exchange: &Exchange,
        longest: Option<Duration>,
    ) -> Reading {
        let (local, agrees) = self.local(exchange);
        let server = exchange.server;
        let mut reading =
            Reading { expires_at, server, local, proved: None, agrees, lifts_doubt: false };
        let excess = longest.map(|longest| reading.life().saturating_sub(longest));
        // More than that is no clock that lags, but an expiry beyond what is documented.
        let proves_lag = excess.is_some_and(|e| !e.is_zero() && e <= windows::LONGEST_CLOCK_LAG);
        reading.lifts_doubt = self.remember(fingerprint, expires_at, exchange, proves_lag, agrees);
        reading.proved = longest
            .and_then(|longest| self.proved(longest))
            .map(|offset| offset.saturating_add(exchange.sent.boot));
        if let Some(server) = server {
            self.lag = reading.time().saturating_sub(server);
        }
        reading
    }

    /// Whether tokens of the last time prove that both clocks lag.
    #[must_use]
    pub fn proves_lag(&self, longest: Duration) -> bool {
        self.proved(longest).is_some()
    }

    /// This machine's clock when the request was sent, and whether it agrees with the platform's.
    fn local(&mut self, exchange: &Exchange) -> (Duration, bool) {
        let Exchange { sent, received, server, .. } = exchange;
        let took = received.boot.saturating_sub(sent.boot);
        let wall = received.wall.saturating_sub(took);
        let anchored =
            self.anchor.map_or(wall, |anchor| anchor.wall + sent.boot.saturating_sub(anchor.boot));
        let Some(server) = *server else { return (wall.max(anchored), false) };
        // The server read its clock somewhere between request and answer.
        let distance = |clock: Duration| {
            let late = server.saturating_sub(clock).saturating_sub(took + DATE_RESOLUTION);
            late.max(clock.saturating_sub(server))
        };
        let (by_wall, by_anchor) = (distance(wall), distance(anchored));
        if by_wall.min(by_anchor) > windows::CLOCK_AGREEMENT {
            (wall.max(anchored), false)
        } else if by_wall <= by_anchor {
            self.anchor = Some(*received);
            (wall, true)
        } else {
            (anchored, true)
        }
    }

    /// Enters a token, and says whether this answer lifts the doubt about an earlier one with it.
    fn remember(
        &mut self,
        fingerprint: Fingerprint,
        expires_at: Duration,
        exchange: &Exchange,
        proves_lag: bool,
        agrees: bool,
    ) -> bool {
        let earlier = self.seen.iter_mut().flatten().find(|seen| seen.fingerprint == fingerprint);
        if let Some(seen) = earlier {
            seen.proves_lag |= proves_lag;
            let lifts_doubt = seen.doubted && agrees;
            seen.doubted &= !agrees;
            return lifts_doubt;
        }
        let sent = exchange.sent.boot.max(exchange.received.boot.saturating_sub(exchange.timeout));
        let end = nanos(expires_at.saturating_sub(sent));
        if let Some(place) = self.seen.get_mut(self.next) {
            *place = Some(Seen { fingerprint, end, proves_lag, doubted: !agrees });
        }
        self.next = (self.next + 1) % TOKENS;
        false
    }

    /// The issuer's clock minus the boot clock, as the tokens prove it. One that came straight from
    /// the issuer was minted after its request was sent, and its expiry is cut to a second.
    fn proved(&self, longest: Duration) -> Option<Duration> {
        let all = || self.seen.iter().flatten();
        let start = |seen: &Seen| {
            seen.end
                .saturating_sub(nanos(longest))
                .saturating_add(nanos(windows::EXPIRY_RESOLUTION))
        };
        all()
            .filter(|seen| seen.proves_lag)
            .map(start)
            .filter(|start| 2 * all().filter(|seen| seen.end <= *start).count() <= all().count())
            .max()
            .map(Duration::from_nanos)
    }
}

impl Policy {
    /// What a source says of a life, by the clocks, and cut to what the issuer can have given.
    pub(super) fn judge_term(
        &mut self,
        source: usize,
        fingerprint: Fingerprint,
        term: Term,
        issued: &Now,
        now: &Now,
    ) -> Life {
        let longest = self.rules.sources.get(source).and_then(|rules| rules.max_life);
        let life = match term {
            Term::Until { expires_at, server } => {
                let exchange = Exchange {
                    sent: *issued,
                    received: *now,
                    server,
                    timeout: self.rules.windows.fetch_timeout,
                };
                let reading = self.clocks.judge(fingerprint, expires_at, &exchange, longest);
                self.reading = Some(Box::new(reading));
                Life::Known(reading.life())
            }
            Term::For(life) => {
                self.reading = None;
                Life::Known(life)
            }
            Term::Assumed(life) => Life::Assumed(life),
        };
        longest.map_or(life, |longest| life.at_most(longest))
    }

    /// Why a token that just came cannot be served for its age.
    pub(super) fn too_old(&self, offer: &Held) -> FetchErrorKind {
        let least = self.min_life_of(offer.life);
        match &self.reading {
            // A life that is assumed has nothing to do with the last reading.
            Some(reading)
                if matches!(offer.life, Life::Known(_)) && reading.lives_by_the_server(least) =>
            {
                FetchErrorKind::ClocksDisagree
            }
            _ => FetchErrorKind::BornExpired,
        }
    }
}

/// Enough for five centuries; what lies beyond them is no time.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
