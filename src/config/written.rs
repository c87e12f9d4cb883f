//! A value as somebody wrote it, where that was, and what is said of one that is not taken.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::advice::{Advise, EXIT_USAGE};
use crate::config::Key;

/// Where the value of a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The flag of that setting.
    Flag(Key),
    /// The variable of that setting.
    Variable(Key),
    /// One of the two variables that hold a token.
    TokenVariable(&'static str),
    /// A line of the file, counted from 1.
    File(Arc<Path>, usize),
    /// Nobody said anything.
    Default,
    /// Nobody said anything, and the default follows from something else, told here in words.
    Derived(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(key) => write!(f, "--{}", key.name()),
            Self::Variable(key) => f.write_str(key.variable()),
            Self::TokenVariable(name) => f.write_str(name),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
            Self::Derived(why) => write!(f, "default: {why}"),
        }
    }
}

/// The value of a setting and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub origin: Origin,
}

impl<T> Setting<T> {
    /// A default.
    pub fn default(value: T) -> Self {
        Self { value, origin: Origin::Default }
    }

    /// The same place, another value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Setting<U> {
        Setting { value: f(self.value), origin: self.origin }
    }
}

/// A value as somebody wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// The text. A boolean or a number of the file is here in its usual spelling.
    pub text: OsString,
    /// Where it was written.
    pub origin: Origin,
}

/// Why a value is not taken. Both parts end up in the message, so neither may hold a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// What was expected, as the rest of "expected …".
    pub expected: String,
    /// Whether the value may be shown.
    pub show: bool,
}

impl Invalid {
    /// A value that may be shown.
    pub fn expected(what: impl Into<String>) -> Self {
        Self { expected: what.into(), show: true }
    }

    /// A value that may hold a secret.
    pub fn hidden(what: impl Into<String>) -> Self {
        Self { expected: what.into(), show: false }
    }

    /// The message: where, what, and what was expected.
    #[must_use]
    pub fn at(&self, key: Key, raw: &Raw) -> anyhow::Error {
        let value = if self.show {
            format!("invalid value `{}`", raw.text.to_string_lossy().escape_debug())
        } else {
            "invalid value".to_owned()
        };
        let expected = &self.expected;
        let message = match &raw.origin {
            Origin::File(..) => {
                format!("{}: {value} for `{}`: expected {expected}", raw.origin, key.name())
            }
            origin => format!("{value} for {origin}: expected {expected}"),
        };
        anyhow::Error::msg(message).exit_code(EXIT_USAGE)
    }
}

/// The line of an offset, counted from 1.
pub(super) fn line(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1
}
