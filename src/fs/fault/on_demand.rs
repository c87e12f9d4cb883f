//! Faults on demand: a worker that dies, stops or hangs at a certain place, for tests of what readers
//! then see. Without one each place costs a load.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;

use nix::sys::signal::{Signal, raise};
use serde::{Deserialize, Serialize};

use super::{JUDGED, PASSED_ON, SLOT, START, STEP, TASK};

/// The handlers that can be named, each also as `after-NAME`: when its answer is written.
const HANDLERS: [&str; 20] = [
    "lookup",
    "getattr",
    "setattr",
    "open",
    "read",
    "write",
    "flush",
    "release",
    "readdir",
    "statfs",
    "ioctl",
    "access",
    "getxattr",
    "listxattr",
    "setxattr",
    "rename",
    "mkdir",
    "fsync",
    "lseek",
    "poll",
];

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Action {
    Panic,
    Kill,
    Stop,
    /// Takes memory until something ends it.
    Hoard,
    /// Takes its time.
    Sleep(Duration),
    /// Opens a file, which may never come back.
    Open(PathBuf),
}

/// At which passes of the place, counted from 1 and over all workers of the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum When {
    At(u64),
    From(u64),
    Between(u64, u64),
    Each(u64),
}

/// `ACTION:PLACE[:WHEN[:ARGUMENT]]`: `panic`, `kill`, `stop` or `hoard`, or with an argument `sleep` (how
/// long) or `open` (a path); a place; `N` for the Nth pass (1 if not given), `N-` for the Nth and all later
/// ones, `N-M` for those from the Nth to the Mth, `/N` for each Nth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    action: Action,
    place: String,
    when: When,
}

impl Fault {
    /// Whether it is at this place.
    pub(in crate::fs) fn is_at(&self, place: &str, after: bool) -> bool {
        let own = self.place.strip_prefix("after-").filter(|_| after);
        own.unwrap_or(&self.place) == place && after == own.is_some()
    }

    /// The place is passed for this time.
    pub(in crate::fs) fn pass(&self, number: u64) {
        let happens = match self.when {
            When::At(n) => number == n,
            When::From(n) => number >= n,
            When::Between(from, to) => (from..=to).contains(&number),
            When::Each(n) => number.is_multiple_of(n),
        };
        if happens {
            self.happen();
        }
    }

    #[expect(clippy::panic, reason = "that is what was asked for")]
    fn happen(&self) {
        let signal = match &self.action {
            Action::Panic => panic!("a fault on demand: {}", self.place),
            Action::Kill => Signal::SIGKILL,
            Action::Stop => Signal::SIGSTOP,
            Action::Hoard => loop {
                // Touched, so that it counts.
                std::mem::forget(vec![1_u8; 1 << 20]);
            },
            Action::Sleep(length) => return std::thread::sleep(*length),
            Action::Open(path) => return drop(std::fs::File::open(path)),
        };
        raise(signal).ok();
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(4, ':');
        let [action, place] = [(); 2].map(|()| parts.next().unwrap_or_default());
        let (when, argument) = (parts.next(), parts.next());
        let length = argument.and_then(|span| span.parse::<SignedDuration>().ok());
        let length = length.and_then(|span| Duration::try_from(span).ok());
        let action = match (action, length, argument) {
            ("panic", _, None) => Action::Panic,
            ("kill", _, None) => Action::Kill,
            ("stop", _, None) => Action::Stop,
            ("hoard", _, None) => Action::Hoard,
            ("sleep", Some(length), _) => Action::Sleep(length),
            ("open", _, Some(path)) => Action::Open(path.into()),
            _ => return Err(format!("{text} is no fault on demand")),
        };
        let handler = place.strip_prefix("after-").unwrap_or(place);
        if ![START, STEP, SLOT, TASK, JUDGED, PASSED_ON].contains(&place)
            && !HANDLERS.contains(&handler)
        {
            return Err(format!("there is no place {place}"));
        }
        let number = |text: &str| match text.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(format!("{text} is no number of a pass")),
        };
        let when = match when.map(|when| (when, when.split_once('-'))) {
            None => When::At(1),
            Some((_, Some((from, "")))) => When::From(number(from)?),
            Some((_, Some((from, to)))) => When::Between(number(from)?, number(to)?),
            Some((when, None)) => match when.strip_prefix('/') {
                Some(each) => When::Each(number(each)?),
                None => When::At(number(when)?),
            },
        };
        Ok(Self { action, place: place.to_owned(), when })
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let action = match self.action {
            Action::Panic => "panic",
            Action::Kill => "kill",
            Action::Stop => "stop",
            Action::Hoard => "hoard",
            Action::Sleep(_) => "sleep",
            Action::Open(_) => "open",
        };
        write!(f, "{action}:{}:", self.place)?;
        match self.when {
            When::At(n) => write!(f, "{n}"),
            When::From(n) => write!(f, "{n}-"),
            When::Between(from, to) => write!(f, "{from}-{to}"),
            When::Each(n) => write!(f, "/{n}"),
        }?;
        match &self.action {
            Action::Sleep(length) => write!(f, ":{}ms", length.as_millis()),
            Action::Open(path) => write!(f, ":{}", path.display()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_said_in_words_and_back() {
        for text in [
            "panic:lookup:1",
            "kill:after-rename:/7",
            "stop:slot:3-",
            "sleep:step:2-9:20ms",
            "open:task:1:/a/b:c",
        ] {
            assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
        }
        assert_eq!("kill:open".parse::<Fault>().unwrap().to_string(), "kill:open:1");
        for text in [
            "",
            "panic",
            "panic:nowhere",
            "after:open",
            "kill:open:0",
            "kill:after-slot",
            "kill:open:1:x",
            "sleep:open:1",
            "sleep:open:1:long",
            "open:open:1",
        ] {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }

    #[test]
    fn before_and_after_a_handler_are_two_places() {
        let after: Fault = "kill:after-lookup".parse().unwrap();
        assert!(after.is_at("lookup", true) && !after.is_at("lookup", false));
        let before: Fault = "kill:lookup".parse().unwrap();
        assert!(before.is_at("lookup", false) && !before.is_at("lookup", true));
    }
}
