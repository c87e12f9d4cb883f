//! The numbers: when to refresh, what to serve, how long to back off. All are cut to the life of
//! the token at hand.

use std::time::Duration;

use rand::Rng;
use serde::{Deserialize, Serialize};

/// First back-off after a transient failure; doubled with every further one.
pub const BACK_OFF_FIRST: Duration = Duration::from_millis(250);
/// The longest back-off while no live token is in hand.
pub const BACK_OFF_LONGEST: Duration = Duration::from_secs(30);
/// A permanent failure is tried again after this long at the earliest …
pub const PERMANENT_RETRY: Duration = Duration::from_secs(45);
/// … and this much later at the latest.
pub const PERMANENT_SPREAD: Duration = Duration::from_secs(15);
/// The longest `Retry-After` that is believed: a rate limit resets within the hour.
pub const LONGEST_WISH: Duration = Duration::from_hours(1);
/// How long a rejected token is withheld if its source insists on it.
pub const WITHHELD: Duration = Duration::from_secs(15);
/// A token that is refused within this after it was asked for may be one that a replica of the issuer does
/// not know yet ([`Source::is_known_late`](crate::source::Source::is_known_late)) …
pub const KNOWN_LATE: Duration = Duration::from_secs(10);
/// … and is offered again after this, once.
pub const KNOWN_LATE_PAUSE: Duration = Duration::from_secs(1);
/// For this long further rejections of the same token are only counted.
pub const REJECT_QUIET: Duration = Duration::from_mins(1);
/// The least time between two forced fetches.
pub const FORCED_SPACING: Duration = Duration::from_secs(1);
/// The platform gives the same token until less than this is left.
pub const PLATFORM_CACHE: Duration = Duration::from_mins(5);
/// A repeated token is asked for anew within this long after the platform's cache let go of it.
pub const REPEAT_SPREAD: Duration = Duration::from_mins(2);
/// The least wait after a repeated token whose cache time has passed.
pub const REPEAT_LEAST: Duration = Duration::from_secs(5);
/// The largest minimum life where the platform repeats tokens: it cannot give fresher ones.
pub const REPEAT_MIN_LIFE: Duration = Duration::from_mins(2);
/// The wall clock and a `Date` that differ by at most this agree: what they then show is remembered,
/// so that a wall clock which is set later costs nothing.
pub const CLOCK_AGREEMENT: Duration = Duration::from_mins(5);
/// A token that seems to live longer than any by more than this does not prove that the clocks lag:
/// its life is cut, and nothing is learnt from it.
pub const LONGEST_CLOCK_LAG: Duration = Duration::from_hours(24);
/// Issuers cut an expiry to whole seconds.
pub const EXPIRY_RESOLUTION: Duration = Duration::from_secs(1);
/// The default minimum life of a long-lived token.
pub const MIN_LIFE: Duration = Duration::from_mins(1);
/// A wall clock set by more than this makes a new generation, because views show local time.
pub const WALL_JUMP: Duration = Duration::from_secs(5);

/// What can be configured. The defaults are those of the existing workspaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// `TOKEN_REFRESH_INTERVAL_SEC`: time from a fetch to the next in the background. Tokens that
    /// live shorter are refreshed within their life.
    pub interval: Duration,
    /// `TOKEN_REFRESH_JITTER_SEC`: random time around the interval, to both sides.
    pub jitter: Duration,
    /// Fetch without waiting for the first open.
    pub prefetch: bool,
    /// `TOKEN_REFRESH_INITIAL_DELAY_SEC`: when the first fetch happens with `prefetch`.
    pub initial_delay: Duration,
    /// `--min-life`: the least life at open. `None`: a tenth of the life, at most a minute.
    pub min_life: Option<Duration>,
    /// `--git-min-life`: the life that a token should have left when git gets it, if a short wait can
    /// bring such a token. `None`: a fifth of the life.
    #[serde(default)]
    pub git_min_life: Option<Duration>,
    /// `--open-timeout`: how long an open waits.
    pub open_timeout: Duration,
    /// `--idle`: after this long without an open nothing is fetched until the next.
    pub idle: Duration,
    /// After this long a fetch counts as hung. It lies above the source's own time-out, whose
    /// errors say more.
    pub fetch_timeout: Duration,
}

impl Default for Windows {
    fn default() -> Self {
        Self {
            interval: Duration::from_mins(45),
            jitter: Duration::from_mins(2),
            prefetch: false,
            initial_delay: Duration::from_mins(1),
            min_life: None,
            git_min_life: None,
            open_timeout: Duration::from_secs(5),
            idle: Duration::from_hours(24),
            fetch_timeout: Duration::from_secs(12),
        }
    }
}

impl Windows {
    /// The minimum life at open of a token that lives this long. A configured one is cut to half
    /// the life, and to [`REPEAT_MIN_LIFE`] where the platform was seen to repeat tokens.
    #[must_use]
    pub fn min_life_of(&self, life: Duration, repeats: bool) -> Duration {
        self.min_life.map_or(MIN_LIFE.min(life / 10), |least| cut(least, life, repeats))
    }

    /// The life that a token of this life should have left when git gets it. A configured span is cut
    /// like the minimum life.
    #[must_use]
    pub fn git_min_life_of(&self, life: Duration, repeats: bool) -> Duration {
        self.git_min_life.map_or(life / 5, |least| cut(least, life, repeats))
    }

    /// The age at which a token is refreshed at the latest: 80 % of its life, a tenth of it before it
    /// falls under the minimum life, and before git would wait for a fresher one.
    #[must_use]
    pub fn latest_refresh(&self, life: Duration, repeats: bool) -> Duration {
        let least = self.min_life_of(life, repeats).saturating_add(life / 10);
        let for_git = self.git_min_life_of(life, repeats);
        (life / 5 * 4).min(life.saturating_sub(least)).min(life.saturating_sub(for_git))
    }

    /// The time from a fetch to the next by the timer alone.
    pub fn timer(&self, rng: &mut impl Rng) -> Duration {
        let earliest = self.interval.saturating_sub(self.jitter);
        let latest = self.interval.saturating_add(self.jitter);
        earliest.saturating_add(uniform(rng, latest.saturating_sub(earliest)))
    }

    /// The age at which a token is refreshed that came after a start or a streak of failures:
    /// anywhere between a quarter of `latest` and `latest` (20–80 % of its life), so that a fleet that
    /// starts or recovers together does not come back together. The wider the range, the flatter the
    /// wave that the interval then repeats for ever: from a half on it would be half as high again,
    /// and higher where it meets those that the outage spared. The interval cuts what it may not
    /// exceed off the range, and not each draw to it: that would make an echo of its own.
    pub fn spread(&self, latest: Duration, rng: &mut impl Rng) -> Duration {
        let most = latest.min(self.interval.saturating_add(self.jitter));
        let least = if most >= latest / 10 * 9 { latest / 4 } else { most / 4 };
        least.saturating_add(uniform(rng, most.saturating_sub(least)))
    }
}

/// Cuts a configured minimum life to what tokens of this life can have left.
fn cut(least: Duration, life: Duration, repeats: bool) -> Duration {
    let most = if repeats { (life / 2).min(REPEAT_MIN_LIFE) } else { life / 2 };
    least.min(most)
}

/// The time to the next fetch after the same token came again with `left` of its life: when the
/// platform's cache has let go of it, else soon, always inside its life, and at the latest when it
/// falls under its minimum life: an open must not be refused before the source was asked.
pub fn after_repeat(left: Duration, min_life: Duration, rng: &mut impl Rng) -> Duration {
    let delay = match left.checked_sub(PLATFORM_CACHE) {
        Some(cached) if !cached.is_zero() => cached + uniform(rng, REPEAT_SPREAD),
        _ => (left / 4).max(REPEAT_LEAST).min(left / 2),
    };
    match left.saturating_sub(min_life) {
        Duration::ZERO => delay,
        servable => delay.min(servable),
    }
}

/// The wait after the `strikes`-th transient failure in a row: full jitter, doubling. `live` is
/// what is left of a token from the same source or a better one; with it there is time, but at
/// least three tries fit into it.
pub fn back_off(strikes: u32, live: Option<Duration>, rng: &mut impl Rng) -> Duration {
    let longest =
        live.map_or(BACK_OFF_LONGEST, |left| (left / 8).max(BACK_OFF_LONGEST.min(left / 4)));
    let doubled = BACK_OFF_FIRST.saturating_mul(1 << strikes.saturating_sub(1).min(20));
    uniform(rng, doubled.min(longest))
}

/// The wait after a permanent failure.
pub fn permanent_retry(rng: &mut impl Rng) -> Duration {
    PERMANENT_RETRY + uniform(rng, PERMANENT_SPREAD)
}

/// The wait that a source asked for, believed up to [`LONGEST_WISH`], plus up to a tenth: whoever
/// was told the same does not come back in the same instant.
pub fn wish(asked: Duration, rng: &mut impl Rng) -> Duration {
    let asked = asked.min(LONGEST_WISH);
    asked + uniform(rng, asked / 10)
}

/// Until when an earlier source may hold up an open that waits from `asked` to `deadline` (boot
/// clock): 40 % of that.
#[must_use]
pub fn hold(asked: Duration, deadline: Duration) -> Duration {
    asked.saturating_add(deadline.saturating_sub(asked) / 5 * 2)
}

/// A duration between zero and `most`, both included.
fn uniform(rng: &mut impl Rng, most: Duration) -> Duration {
    let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng.random_range(0..=nanos))
}
