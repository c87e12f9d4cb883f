//! Logs, on standard error.

use std::fmt;
use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_log::{AsLog, LogTracer};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;

use crate::config;
use crate::time::{Clock, SystemClock};

/// The levels, from silence to everything.
pub const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What is logged: a level, or directives like `info,hyper=debug` (`tracing_subscriber`'s `Targets`: its
/// `EnvFilter` would bring regular expressions, a thirtieth of the program).
///
/// A level is that of this program's own messages. What its libraries say is cut at `info`, which
/// directives can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLevel(String);

impl Default for LogLevel {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for LogLevel {
    type Err = ();

    /// A word without `=` must be a level: a filter would take a misspelt one for a target.
    fn from_str(text: &str) -> Result<Self, ()> {
        let level = text.to_ascii_lowercase();
        if LEVELS.contains(&level.as_str()) {
            return Ok(Self(level));
        }
        let directives = text.split(',').all(|one| {
            one.contains('=') || LEVELS.contains(&one.trim().to_ascii_lowercase().as_str())
        });
        if directives && text.parse::<Targets>().is_ok() {
            Ok(Self(text.to_owned()))
        } else {
            Err(())
        }
    }
}

impl LogLevel {
    fn filter(&self) -> Targets {
        let directives = match self.0.as_str() {
            level @ ("debug" | "trace") => format!("info,molecule_tokenfs={level}").parse(),
            other => other.parse(),
        };
        directives.unwrap_or_default()
    }
}

/// Sends logs to standard error: RFC 3339 in UTC, colours only on a terminal and without `NO_COLOR`.
/// Messages of libraries that use `log` (fuser) arrive, too. Called twice, the first call counts.
pub fn init(level: &LogLevel) {
    let filter = level.filter();
    // Each layer is asked for its bound, and the loosest counts.
    let bound = most(&filter);
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(bound)
        .with_writer(io::stderr)
        .with_timer(Utc)
        .with_ansi(io::stderr().is_terminal() && config::env("NO_COLOR").is_none())
        .finish()
        .with(filter);
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        // Keeps fuser's line for each request from costing anything while nobody sees it.
        let _ = LogTracer::builder().with_max_level(bound.as_log()).init();
    }
}

/// The level above which no directive asks for anything.
fn most(filter: &Targets) -> LevelFilter {
    let levels = filter.iter().map(|(_, level)| level);
    levels.chain(filter.default_level()).max().unwrap_or(LevelFilter::OFF)
}

/// The wall clock in RFC 3339, to the millisecond.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let wall = SystemClock.now().wall;
        let timestamp = i64::try_from(wall.as_millis())
            .ok()
            .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok())
            .unwrap_or_default();
        write!(writer, "{timestamp:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_or_directives_are_taken_and_a_misspelt_level_is_not() {
        for good in ["warn", "TRACE", "off", "info,fuser=debug", "molecule_tokenfs::fs=trace"] {
            assert!(good.parse::<LogLevel>().is_ok(), "{good}");
        }
        for bad in ["", "inof", "5", "fuser=loud", "info,trac", "verbose"] {
            assert!(bad.parse::<LogLevel>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_level_is_that_of_our_own_messages() {
        let filter = |text: &str| text.parse::<LogLevel>().unwrap().filter().to_string();
        assert_eq!(filter("warn"), "warn");
        assert_eq!(filter("trace"), "molecule_tokenfs=trace,info");
        assert_eq!(filter("hyper=trace"), "hyper=trace");
        let most = |text: &str| most(&text.parse::<LogLevel>().unwrap().filter());
        assert_eq!(most("off"), LevelFilter::OFF);
        assert_eq!(most("info"), LevelFilter::INFO);
        assert_eq!(most("debug"), LevelFilter::DEBUG);
        assert_eq!(most("warn,fuser=trace"), LevelFilter::TRACE);
    }

    #[test]
    fn timestamps_are_rfc_3339_in_utc() {
        let mut text = String::new();
        Utc.format_time(&mut Writer::new(&mut text)).unwrap();
        assert!(text.parse::<jiff::Timestamp>().is_ok() && text.ends_with('Z'), "{text}");
        assert_eq!(text.len(), "2026-04-17T22:50:00.000Z".len(), "{text}");
    }
}
