//! The places that settings come from, one over the other.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;

use crate::cmd::{Advise, EXIT_USAGE};
use crate::config::file::ConfigFile;
use crate::config::kind::{Kind, Shape};
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
        let raw = |text: &OsStr| Raw { text: text.to_owned(), origin: Origin::Flag(key) };
        let flags: Vec<_> = self.flags.given(key).map(raw).collect();
        if !flags.is_empty() {
            return flags;
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

    /// The value of a setting, if any layer has one; the origin of several is that of the first.
    ///
    /// # Errors
    /// When it is not of its kind; the message names the place.
    pub fn get<T>(&self, key: Key, kind: &Kind<T>) -> anyhow::Result<Option<Setting<T>>> {
        read(key, kind, &self.raw(key))
    }

    /// The value of a setting, else its declared one.
    ///
    /// # Errors
    /// As [`Layers::get`].
    pub fn get_or_default<T>(&self, key: Key, kind: &Kind<T>) -> anyhow::Result<Setting<T>> {
        if let Some(given) = self.get(key, kind)? {
            return Ok(given);
        }
        let text = key.declared().default.value.unwrap_or_default();
        let raw = Raw { text: text.into(), origin: Origin::Default };
        let value = (kind.parse)(&raw).map_err(|invalid| invalid.at(key, &raw))?;
        Ok(Setting::default(value))
    }
}

fn read<T>(key: Key, kind: &Kind<T>, raw: &[Raw]) -> anyhow::Result<Option<Setting<T>>> {
    let parse = |raw: &Raw| (kind.parse)(raw).map_err(|invalid| invalid.at(key, raw));
    let Some((first, further)) = raw.split_first() else { return Ok(None) };
    let mut value = parse(first)?;
    for raw in further {
        (kind.join)(&mut value, parse(raw)?);
    }
    Ok(Some(Setting { value, origin: first.origin.clone() }))
}

/// The parts between commas, without blanks around them.
fn split(text: &OsStr) -> impl Iterator<Item = OsString> {
    text.as_bytes()
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .map(|part| OsString::from_vec(part.to_vec()))
}
