//! What can be made to go wrong: one fault for the next request, or for all until further notice.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One way to misbehave. Written as a word, some with a value after a colon: `status:503`,
/// `retry-after:3`, `slow:250` (milliseconds), `date-off:-7200` (seconds).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This status with a short JSON error.
    Status(u16),
    /// 429 with `Retry-After` in seconds.
    RetryAfter(u64),
    /// 429 with `Retry-After` as a date, this many seconds ahead by the service's clock.
    RetryAfterDate(u64),
    /// 403 as GitHub's rate limit gives it, with a reset this many seconds ahead.
    RateLimit(u64),
    /// No answer, ever.
    Hang,
    /// The right answer, this much later.
    Slow(Duration),
    /// The connection is closed without an answer.
    Close,
    /// The connection is reset without an answer (RST).
    Reset,
    /// The connection is closed in the middle of the body.
    Cut,
    /// 200 with a login page.
    Html,
    /// 200 with JSON that stops in the middle.
    Truncated,
    /// 200 with an empty token.
    EmptyToken,
    /// 200 with a token that ends in a newline.
    NewlineToken,
    /// 200 with a NUL in the token.
    NulToken,
    /// 200 with a token whose life is over.
    BornExpired,
    /// 200 with a body of 10 MB.
    Huge,
    /// The same without saying so beforehand.
    HugeStream,
    /// 307 to another origin.
    RedirectElsewhere,
    /// 307 to a path of the same origin that gives the right answer.
    RedirectSame,
    /// 307 to the very path that was asked for; every time, if it sticks.
    RedirectLoop,
    /// The right answer without a `Date` header.
    NoDate,
    /// The right answer with a `Date` header that is this many seconds ahead.
    DateOff(i64),
    /// The right answer with a second `Date` header that is this many seconds ahead.
    TwoDates(i64),
    /// The right answer with a `Date` header that is this many seconds old, and an `Age` of as many, as
    /// an HTTP cache repeats it.
    Age(u64),
    /// The newest token once more, dead or alive.
    Repeat,
    /// The token under the key `access_token` instead of `token`.
    OtherKey,
    /// No `expires_at` in the answer.
    NoExpiry,
}

/// The text is not the name of a fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no fault `{0}`")]
pub struct UnknownFault(String);

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        let (name, value) = text.split_once(':').unwrap_or((text, ""));
        let unknown = || UnknownFault(text.to_owned());
        Ok(match (name, value) {
            ("hang", "") => Self::Hang,
            ("close", "") => Self::Close,
            ("reset", "") => Self::Reset,
            ("cut", "") => Self::Cut,
            ("html", "") => Self::Html,
            ("truncated", "") => Self::Truncated,
            ("empty-token", "") => Self::EmptyToken,
            ("newline-token", "") => Self::NewlineToken,
            ("nul-token", "") => Self::NulToken,
            ("born-expired", "") => Self::BornExpired,
            ("huge", "") => Self::Huge,
            ("huge-stream", "") => Self::HugeStream,
            ("redirect-elsewhere", "") => Self::RedirectElsewhere,
            ("redirect-same", "") => Self::RedirectSame,
            ("redirect-loop", "") => Self::RedirectLoop,
            ("no-date", "") => Self::NoDate,
            ("repeat", "") => Self::Repeat,
            ("other-key", "") => Self::OtherKey,
            ("no-expiry", "") => Self::NoExpiry,
            ("status", code) => match code.parse() {
                Ok(code @ 200..=599) => Self::Status(code),
                _ => return Err(unknown()),
            },
            ("retry-after", seconds) => Self::RetryAfter(seconds.parse().map_err(|_| unknown())?),
            ("retry-after-date", seconds) => {
                Self::RetryAfterDate(seconds.parse().map_err(|_| unknown())?)
            }
            ("rate-limit", seconds) => Self::RateLimit(seconds.parse().map_err(|_| unknown())?),
            ("slow", millis) => {
                Self::Slow(Duration::from_millis(millis.parse().map_err(|_| unknown())?))
            }
            ("date-off", seconds) => Self::DateOff(seconds.parse().map_err(|_| unknown())?),
            ("two-dates", seconds) => Self::TwoDates(seconds.parse().map_err(|_| unknown())?),
            ("age", seconds) => Self::Age(seconds.parse().map_err(|_| unknown())?),
            _ => return Err(unknown()),
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code) => write!(f, "status:{code}"),
            Self::RetryAfter(seconds) => write!(f, "retry-after:{seconds}"),
            Self::RetryAfterDate(seconds) => write!(f, "retry-after-date:{seconds}"),
            Self::RateLimit(seconds) => write!(f, "rate-limit:{seconds}"),
            Self::Hang => f.write_str("hang"),
            Self::Slow(by) => write!(f, "slow:{}", by.as_millis()),
            Self::Close => f.write_str("close"),
            Self::Reset => f.write_str("reset"),
            Self::Cut => f.write_str("cut"),
            Self::Html => f.write_str("html"),
            Self::Truncated => f.write_str("truncated"),
            Self::EmptyToken => f.write_str("empty-token"),
            Self::NewlineToken => f.write_str("newline-token"),
            Self::NulToken => f.write_str("nul-token"),
            Self::BornExpired => f.write_str("born-expired"),
            Self::Huge => f.write_str("huge"),
            Self::HugeStream => f.write_str("huge-stream"),
            Self::RedirectElsewhere => f.write_str("redirect-elsewhere"),
            Self::RedirectSame => f.write_str("redirect-same"),
            Self::RedirectLoop => f.write_str("redirect-loop"),
            Self::NoDate => f.write_str("no-date"),
            Self::DateOff(seconds) => write!(f, "date-off:{seconds}"),
            Self::TwoDates(seconds) => write!(f, "two-dates:{seconds}"),
            Self::Age(seconds) => write!(f, "age:{seconds}"),
            Self::Repeat => f.write_str("repeat"),
            Self::OtherKey => f.write_str("other-key"),
            Self::NoExpiry => f.write_str("no-expiry"),
        }
    }
}

/// Who misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// The endpoint that gives tokens. It alone knows the faults of a token's shape.
    #[default]
    Platform,
    /// The git server.
    Git,
    /// The large files of the git server (git-lfs).
    Lfs,
    /// The GitHub-like REST answers.
    Rest,
}

impl Service {
    /// Its name in the ledger.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Git => "git",
            Self::Lfs => "lfs",
            Self::Rest => "rest",
        }
    }
}

/// An order of another process, as `POST /demo/fault` takes it: everything of one service is
/// replaced. `{}` heals the platform.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Order {
    /// Who misbehaves.
    pub service: Service,
    /// The fates of the next requests, in order; `ok` is none.
    pub script: Vec<String>,
    /// The fate of all requests after these.
    pub sticky: Option<String>,
    /// Added to every answer; a token is checked before.
    pub latency_ms: u64,
}

/// The faults of every service.
#[derive(Debug, Default)]
pub struct Faults(Mutex<BTreeMap<Service, Plan>>);

#[derive(Debug, Default)]
struct Plan {
    script: VecDeque<Option<Fault>>,
    sticky: Option<Fault>,
    latency: Duration,
}

impl Faults {
    /// The next requests to `service` meet these, one each (`None`: none).
    pub fn script(&self, service: Service, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.plans().entry(service).or_default().script.extend(faults);
    }

    /// The next request to `service` meets this.
    pub fn once(&self, service: Service, fault: Fault) {
        self.script(service, [Some(fault)]);
    }

    /// Every request to `service` after the scripted ones meets this; `None` heals it.
    pub fn stick(&self, service: Service, fault: Option<Fault>) {
        self.plans().entry(service).or_default().sticky = fault;
    }

    /// Every answer of `service` takes this much longer. Those that check tokens do so before.
    pub fn latency(&self, service: Service, latency: Duration) {
        self.plans().entry(service).or_default().latency = latency;
    }

    /// Everything works again.
    pub fn heal(&self) {
        self.plans().clear();
    }

    /// Carries out the order of another process.
    ///
    /// # Errors
    /// A fault in it is unknown; nothing was changed then.
    pub fn obey(&self, order: &Order) -> Result<(), UnknownFault> {
        let fate = |text: &String| match text.as_str() {
            "ok" => Ok(None),
            text => text.parse().map(Some),
        };
        let plan = Plan {
            script: order.script.iter().map(fate).collect::<Result<_, _>>()?,
            sticky: order.sticky.as_ref().map(fate).transpose()?.flatten(),
            latency: Duration::from_millis(order.latency_ms),
        };
        self.plans().insert(order.service, plan);
        Ok(())
    }

    /// The fate of the request that just came: how long to wait, then what to do.
    pub(super) fn next(&self, service: Service) -> (Duration, Option<Fault>) {
        let mut plans = self.plans();
        let Some(plan) = plans.get_mut(&service) else { return (Duration::ZERO, None) };
        (plan.latency, plan.script.pop_front().unwrap_or(plan.sticky))
    }

    fn plans(&self) -> MutexGuard<'_, BTreeMap<Service, Plan>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_read_as_it_is_written() {
        let words = "status:503 retry-after:3 hang slow:250 close reset cut html truncated \
                     empty-token newline-token nul-token born-expired huge redirect-elsewhere \
                     redirect-same no-date date-off:-7200 repeat other-key no-expiry \
                     retry-after-date:60 rate-limit:60 huge-stream redirect-loop \
                     two-dates:-1800 age:30";
        for word in words.split_whitespace() {
            assert_eq!(word.parse::<Fault>().unwrap().to_string(), word);
        }
        for bad in ["", "status", "status:9", "hang:3", "slow:soon", "nonsense"] {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }

    #[test]
    fn scripted_faults_come_first_and_one_each() {
        let faults = Faults::default();
        faults.stick(Service::Platform, Some(Fault::Hang));
        faults.script(Service::Platform, [Some(Fault::Close), None]);
        let next = || faults.next(Service::Platform).1;
        assert_eq!(next(), Some(Fault::Close));
        assert_eq!(next(), None);
        assert_eq!(next(), Some(Fault::Hang));
        assert_eq!(next(), Some(Fault::Hang));
        assert_eq!(faults.next(Service::Git).1, None);
        faults.heal();
        assert_eq!(next(), None);
    }

    #[test]
    fn an_order_with_an_unknown_fault_changes_nothing() {
        let faults = Faults::default();
        let order = |sticky: &str| Order { sticky: Some(sticky.to_owned()), ..Order::default() };
        faults.obey(&order("html")).unwrap();
        assert!(faults.obey(&order("htlm")).is_err());
        assert_eq!(faults.next(Service::Platform).1, Some(Fault::Html));
        faults.obey(&Order::default()).unwrap();
        assert_eq!(faults.next(Service::Platform).1, None);
    }
}
