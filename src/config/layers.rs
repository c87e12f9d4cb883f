//! The places that settings come from, one over the other.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::config::file::ConfigFile;
use crate::config::kind::{Kind, Shape};
use crate::config::written::{Origin, Raw, Setting};
use crate::config::{Environment, Key, SettingsArgs};

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
