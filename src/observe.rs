//! The log: on standard error, in a file, or with the system's logger.
//!
//! Whoever logs never waits: a line goes into a bounded queue, from which a thread of its own writes
//! it. A log that is closed, full or read by nobody costs lines, which are counted, and nothing else.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, IsTerminal};
use std::path::PathBuf;

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_log::{AsLog, LogTracer};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;

use crate::time::{Clock, SystemClock};

mod panic;
mod queue;
mod sink;
mod stderr;
mod writer;

pub use panic::tell_panics;
use sink::Sink;

pub use sink::OpenError;
pub use stderr::own_stderr;
pub use writer::{finish, reopen, report, start};

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
    /// That of a program whose standard error is the screen of somebody who works on it.
    #[must_use]
    pub fn on_a_terminal() -> Self {
        Self("warn".to_owned())
    }

    fn filter(&self) -> Targets {
        let directives = match self.0.as_str() {
            level @ ("debug" | "trace") => format!("info,molecule_tokenfs={level}").parse(),
            other => other.parse(),
        };
        directives.unwrap_or_default()
    }
}

/// Where the log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To standard error.
    Stderr,
    /// To this file.
    File(PathBuf),
    /// To the system's logger.
    Syslog,
    /// Nowhere: no place was found for it.
    Nowhere,
}

impl From<OsString> for Target {
    /// A word, or the path of a file, which is absolute.
    fn from(text: OsString) -> Self {
        match text.as_encoded_bytes() {
            b"stderr" => Self::Stderr,
            b"syslog" => Self::Syslog,
            b"nowhere" => Self::Nowhere,
            _ => Self::File(text.into()),
        }
    }
}

impl From<Target> for OsString {
    fn from(target: Target) -> Self {
        match target {
            Target::Stderr => "stderr".into(),
            Target::Syslog => "syslog".into(),
            Target::Nowhere => "nowhere".into(),
            Target::File(path) => path.into(),
        }
    }
}

/// Whether something can be logged there now.
///
/// # Errors
/// When the file cannot be opened, or the system has no logger.
pub fn check(target: &Target) -> Result<(), OpenError> {
    match target {
        Target::Syslog => sink::find_logger(),
        target => Sink::open(target).map(|_| ()),
    }
}

/// Makes the log of this process: lines with the time (RFC 3339, in UTC) and the level, but for the
/// system's logger, which adds them itself. Colours only on a terminal, and where `colours` allows them.
/// Messages of libraries that use `log` (fuser) arrive, too. Called twice, the first call counts.
///
/// Lines wait until [`start`] is called; [`finish`] is for the end of the process.
///
/// # Errors
/// When the file cannot be opened, or is not a regular one.
pub fn init(level: &LogLevel, target: &Target, colours: bool) -> Result<(), OpenError> {
    if !writer::make(target)? {
        return Ok(());
    }
    let filter = level.filter();
    // Each layer is asked for its bound, and the loosest counts.
    let bound = most(&filter);
    let is_bare = *target == Target::Syslog;
    let may_have_colours = *target == Target::Stderr && io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(bound)
        .with_writer(Lines)
        .with_timer(Utc { is_shown: !is_bare })
        .with_level(!is_bare)
        .with_ansi(may_have_colours && colours)
        // It would tell them with `eprintln`.
        .log_internal_errors(false)
        .finish()
        .with(filter);
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        // Keeps fuser's line for each request from costing anything while nobody sees it.
        let _ = LogTracer::builder().with_max_level(bound.as_log()).init();
    }
    Ok(())
}

/// Makes each event a line of the log.
struct Lines;

impl<'a> MakeWriter<'a> for Lines {
    type Writer = OneLine;

    fn make_writer(&'a self) -> OneLine {
        OneLine(Level::INFO)
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> OneLine {
        OneLine(*metadata.level())
    }
}

/// An event on its way into the queue. `tracing_subscriber` writes it whole.
struct OneLine(Level);

impl io::Write for OneLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim();
        // A message from outside must not look like several of ours.
        writer::push(self.0, &(text.replace('\n', " ") + "\n"));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line about the log itself, as the others look.
fn own_line(level: Level, text: &str) -> String {
    let mut line = String::new();
    // A string takes everything.
    let _ = (Utc { is_shown: true }).format_time(&mut Writer::new(&mut line));
    format!("{line} {level:>5} {}: {text}\n", module_path!())
}

/// The level above which no directive asks for anything.
fn most(filter: &Targets) -> LevelFilter {
    let levels = filter.iter().map(|(_, level)| level);
    levels.chain(filter.default_level()).max().unwrap_or(LevelFilter::OFF)
}

/// The wall clock in RFC 3339, to the millisecond.
struct Utc {
    is_shown: bool,
}

impl FormatTime for Utc {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        if !self.is_shown {
            return Ok(());
        }
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
    fn a_target_survives_the_way_to_another_process() {
        let file = Target::File("/var/log/x".into());
        for target in [Target::Stderr, Target::Syslog, Target::Nowhere, file] {
            assert_eq!(Target::from(OsString::from(target.clone())), target);
        }
    }

    #[test]
    fn a_line_about_the_log_looks_like_the_others() {
        let line = own_line(Level::WARN, "3 log lines are lost");
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{line}");
        assert_eq!(rest, " WARN molecule_tokenfs::observe: 3 log lines are lost\n");
    }

    #[test]
    fn timestamps_are_rfc_3339_in_utc() {
        let mut text = String::new();
        Utc { is_shown: true }.format_time(&mut Writer::new(&mut text)).unwrap();
        assert!(text.parse::<jiff::Timestamp>().is_ok() && text.ends_with('Z'), "{text}");
        assert_eq!(text.len(), "2026-04-17T22:50:00.000Z".len(), "{text}");
    }
}
