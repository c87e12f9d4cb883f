//! The places that settings come from, one over the other.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;

use crate::cmd::{Advise, EXIT_USAGE};
use crate::config::file::ConfigFile;
use crate::config::key::Shape;
use crate::config::{Environment, Key, SettingsArgs};

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

/// The layers: flags over the environment over the file.
pub struct Layers<'a> {
    /// The flags.
    pub flags: &'a SettingsArgs,
    /// The environment.
    pub environment: &'a Environment,
    /// The file, where there is one.
    pub file: Option<ConfigFile>,
}

impl Layers<'_> {
    /// What the highest layer that says anything says: several values for a repeatable setting, none
    /// when no layer does.
    #[must_use]
    pub fn raw(&self, key: Key) -> Vec<Raw> {
        let flags = self.flags.given(key);
        if !flags.is_empty() {
            let raw = |text: &OsString| Raw { text: text.clone(), origin: Origin::Flag(key) };
            return flags.iter().map(raw).collect();
        }
        if let Some(text) = self.environment.get(key.variable()) {
            let raw = |text| Raw { text, origin: Origin::Variable(key) };
            return match key.shape() {
                Shape::List => split(&text).map(raw).collect(),
                _ => vec![raw(text)],
            };
        }
        self.file.as_ref().map(|file| file.get(key)).unwrap_or_default()
    }

    /// The value of a setting, if any layer has one.
    ///
    /// # Errors
    /// When `parse` does not take it; the message names the place.
    pub fn get<T>(
        &self,
        key: Key,
        parse: impl Fn(&Raw) -> Result<T, Invalid>,
    ) -> anyhow::Result<Option<Setting<T>>> {
        let raw = self.raw(key);
        // The command line takes the flag of a single value only once.
        let Some(raw) = raw.first() else { return Ok(None) };
        let value = parse(raw).map_err(|invalid| invalid.at(key, raw))?;
        Ok(Some(Setting { value, origin: raw.origin.clone() }))
    }

    /// The values of a repeatable setting, if any layer has one; the origin is that of the first.
    ///
    /// # Errors
    /// When `parse` does not take one; the message names the place.
    pub fn list<T>(
        &self,
        key: Key,
        parse: impl Fn(&Raw) -> Result<T, Invalid>,
    ) -> anyhow::Result<Option<Setting<Vec<T>>>> {
        let raw = self.raw(key);
        let Some(first) = raw.first() else { return Ok(None) };
        let value = raw
            .iter()
            .map(|raw| parse(raw).map_err(|invalid| invalid.at(key, raw)))
            .collect::<anyhow::Result<_>>()?;
        Ok(Some(Setting { value, origin: first.origin.clone() }))
    }
}

/// The parts between commas, without blanks around them.
fn split(text: &OsStr) -> impl Iterator<Item = OsString> {
    text.as_bytes()
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .map(|part| OsString::from_vec(part.to_vec()))
}
