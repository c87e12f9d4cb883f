//! A token, how much life it has left, and the proof that it may be served.

use std::time::Duration;

use jiff::Timestamp;

use crate::secret::{Fingerprint, Secret};
use crate::time::Now;

/// The life of a token, as far as anybody knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// The issuer said when it ends: this long after the request was sent.
    Known(Duration),
    /// The issuer said nothing; it is taken to be this long. No view shows an expiry then.
    Assumed(Duration),
}

impl Life {
    /// The life, known or assumed.
    #[must_use]
    pub fn duration(self) -> Duration {
        match self {
            Self::Known(life) | Self::Assumed(life) => life,
        }
    }

    /// The same kind of life, cut to at most `limit`.
    #[must_use]
    pub fn at_most(self, limit: Duration) -> Self {
        match self {
            Self::Known(life) => Self::Known(life.min(limit)),
            Self::Assumed(life) => Self::Assumed(life.min(limit)),
        }
    }
}

/// What a source says of the life of a token that it gives, before any clocks are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    /// It ends at a time of the issuer's clock.
    Until {
        /// That time, since the Unix epoch.
        expires_at: Duration,
        /// The clock of whoever answered, since the Unix epoch, at the latest that it can have shown
        /// when it answered; `None` where it did not tell.
        server: Option<Duration>,
    },
    /// It lasts this long, counted from the request.
    For(Duration),
    /// The issuer said nothing; it is taken to be this long.
    Assumed(Duration),
}

/// One token of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its bytes.
    pub secret: Secret,
    /// Its number in the mount: each token (and each republication of one) has its own, from 1.
    pub generation: u64,
    /// The name of the source that gave it, for example `platform`.
    pub source: &'static str,
    /// When the request that brought it was sent: the earliest moment its life can have begun.
    pub issued: Now,
    /// Its life, counted from `issued`.
    pub life: Life,
}

impl Token {
    /// What is left of its life. A jump of either clock can only shorten it.
    #[must_use]
    pub fn left(&self, now: &Now) -> Duration {
        self.life.duration().saturating_sub(now.elapsed_since(&self.issued))
    }

    /// Whether the token may be served: at least `min_life` is left, and it is not dead.
    #[must_use]
    pub fn is_usable(&self, now: &Now, min_life: Duration) -> bool {
        let left = self.left(now);
        left >= min_life && !left.is_zero()
    }

    /// The proof that the token may be served.
    #[must_use]
    pub fn usable(&self, now: &Now, min_life: Duration) -> Option<FreshToken> {
        self.is_usable(now, min_life).then(|| FreshToken(self.clone()))
    }

    /// When it expires, in local wall time: wall now and what is left. `None` when nobody knows.
    #[must_use]
    pub fn expires_at(&self, now: &Now) -> Option<Timestamp> {
        match self.life {
            Life::Known(_) => Some(now.plus(self.left(now)).timestamp()),
            Life::Assumed(_) => None,
        }
    }

    /// The fingerprint of its bytes.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.secret.fingerprint()
    }
}

/// A token that was usable when this value was made. Only [`Token::usable`] makes one; nothing else
/// can be published, and only what was published can be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreshToken(Token);

impl FreshToken {
    /// The token.
    #[must_use]
    pub fn token(&self) -> &Token {
        &self.0
    }

    /// What views are rendered from: the bytes, and the expiry as local wall time of `now`.
    #[must_use]
    pub fn publish(&self, now: &Now) -> Published {
        Published { secret: self.0.secret.clone(), expires_at: self.0.expires_at(now) }
    }
}

/// A token as it was published: what a view may show of it. It never changes within a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Its bytes.
    pub secret: Secret,
    /// When it expires, in local wall time as of its publication; `None` when nobody knows, and
    /// then a view leaves every expiry field out.
    pub expires_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn token(life: Life) -> Token {
        Token {
            secret: Secret::new(b"ghs_test".to_vec()).unwrap(),
            generation: 1,
            source: "test",
            issued: Now { boot: SECOND * 50, wall: SECOND * 1_000_000 },
            life,
        }
    }

    #[test]
    fn a_token_is_usable_until_its_minimum_life_and_never_at_zero() {
        let token = token(Life::Known(SECOND * 60));
        let at = |seconds| token.issued.plus(SECOND * seconds);
        assert!(token.usable(&at(50), SECOND * 10).is_some());
        assert!(token.usable(&at(51), SECOND * 10).is_none());
        assert!(token.usable(&at(59), Duration::ZERO).is_some());
        assert!(token.usable(&at(60), Duration::ZERO).is_none());
        assert_eq!(token.left(&at(1000)), Duration::ZERO);
    }

    #[test]
    fn an_expiry_is_local_wall_time_and_left_out_when_nobody_knows_it() {
        let known = token(Life::Known(SECOND * 60));
        let mut later = known.issued.plus(SECOND * 10);
        assert_eq!(known.expires_at(&later).unwrap().as_second(), 1_000_060);
        // The wall clock was set an hour back: readers compare with it, so the expiry follows.
        later.wall -= SECOND * 3600;
        assert_eq!(known.expires_at(&later).unwrap().as_second(), 1_000_060 - 3600);
        assert_eq!(token(Life::Assumed(SECOND * 60)).expires_at(&later), None);
    }
}
