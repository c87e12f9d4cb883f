//! The optional TOML file.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::advice::{Advise, EXIT_USAGE};
use crate::config::FILE_VARIABLE;
use crate::config::kind::Shape;
use crate::config::tables::Tables;
use crate::config::written::{Origin, Raw, line};
use crate::config::{Environment, Key, SettingsArgs, trust};
use crate::foreign::plain::{self, PlainFile};
use crate::source::table::TableError;

/// The file that is read when none is named, if it is there.
pub const DEFAULT: &str = "/etc/molecule-tokenfs.toml";

/// A file whose keys are known and whose values have the right types. What the values mean is
/// judged later, in the same words as for flags.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    /// Where it is.
    pub path: Arc<Path>,
    values: Vec<(Key, Raw)>,
    /// The sources and tokens that it names.
    pub tables: Tables,
}

impl ConfigFile {
    /// Reads the file that the flag or the variable names, else `default` if it is there.
    ///
    /// # Errors
    /// When it cannot be read, can be changed by others (see [`trust::check`]), is not TOML, has a key that is not a setting, or a value of the wrong
    /// type.
    pub fn load(
        flags: &SettingsArgs,
        environment: &Environment,
        default: &Path,
    ) -> anyhow::Result<Option<Self>> {
        let (path, by): (Arc<Path>, _) = match (flags.config(), environment.get(FILE_VARIABLE)) {
            (Some(path), _) => (Arc::from(path.as_path()), "--config"),
            (None, Some(path)) => (Arc::from(Path::new(&path)), FILE_VARIABLE),
            (None, None) if default.exists() => (Arc::from(default), "the default"),
            (None, None) => return Ok(None),
        };
        let cannot = || format!("cannot read the file of {by}, {}", path.display());
        let file = PlainFile::open(&path).with_context(cannot).exit_code(EXIT_USAGE)?;
        trust::check(&format!("the file of {by}"), &path, file.metadata(), None)?;
        let text = file.read(plain::LIMIT).with_context(cannot).exit_code(EXIT_USAGE)?;
        let text = std::str::from_utf8(&text).with_context(cannot).exit_code(EXIT_USAGE)?;
        Self::parse(path, text).exit_code(EXIT_USAGE).map(Some)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// As [`ConfigFile::load`].
    pub fn parse(path: Arc<Path>, text: &str) -> anyhow::Result<Self> {
        let at = |offset: usize| Origin::File(path.clone(), line(text, offset));
        let table = DeTable::parse(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let told = anyhow::anyhow!("{}: this is not TOML: {}", at(start), error.message());
            match unquoted(text, line(text, start)) {
                Some(right) => told.hint(format!("write the value in quotes: {right}")),
                None => told,
            }
        })?;
        let mut values = Vec::new();
        let mut tables = Tables::default();
        for (name, value) in table.get_ref() {
            let place = at(name.span().start);
            let name: &str = name.get_ref();
            if Tables::NAMES.contains(&name) {
                tables.read(text, name, value).map_err(|error| told(&path, error))?;
                continue;
            }
            let key = Key::by_name(name).ok_or_else(|| unknown(&place, name))?;
            let texts = texts(key, value).map_err(|expected| {
                let told = anyhow::anyhow!(
                    "{place}: wrong type for `{name}`: expected {expected}, found {}",
                    described(value.get_ref())
                );
                match unquoted(text, line(text, value.span().start)) {
                    Some(right) => told.hint(format!("write the value in quotes: {right}")),
                    None => told,
                }
            })?;
            values.extend(
                texts
                    .into_iter()
                    .map(|(offset, text)| (key, Raw { text: text.into(), origin: at(offset) })),
            );
        }
        tables.check().map_err(|error| told(&path, error))?;
        Ok(Self { path, values, tables })
    }

    /// The values of a setting.
    #[must_use]
    pub fn get(&self, key: Key) -> Vec<Raw> {
        self.values.iter().filter(|(of, _)| *of == key).map(|(_, raw)| raw.clone()).collect()
    }
}

/// A mistake in a table, with its place.
fn told(path: &Arc<Path>, error: TableError) -> anyhow::Error {
    let place = Origin::File(Arc::clone(path), error.line);
    let told = anyhow::anyhow!("{place}: {error}");
    match error.hint {
        Some(hint) => told.hint(hint),
        None => told,
    }
}

fn unknown(place: &Origin, name: &str) -> anyhow::Error {
    let error = anyhow::anyhow!("{place}: unknown key `{name}`");
    match Key::nearest(name) {
        Some(key) => error.hint(format!("did you mean `{}`?", key.name())),
        None => error.hint(format!("the keys are {}", Key::ALL.map(Key::name).join(", "))),
    }
}

/// How the line with this number should read, if it sets a text without quotes: `mode = 0440`.
fn unquoted(text: &str, number: usize) -> Option<String> {
    let (name, value) = text.lines().nth(number.checked_sub(1)?)?.split_once('=')?;
    let value = value.split('#').next()?.trim();
    let key = Key::by_name(name.trim())?;
    let is_plain =
        value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/:".contains(&byte));
    let is_text = matches!(key.shape(), Shape::Text | Shape::Octal | Shape::NameOrNumber);
    // TOML's own octal numbers are not what people write elsewhere.
    let is_octal = key.shape() == Shape::Octal;
    let value = if is_octal { value.replacen("0o", "0", 1) } else { value.to_owned() };
    (is_text && is_plain && !value.is_empty()).then(|| format!("{} = \"{value}\"", key.name()))
}

/// The texts of a value, each with its place; or what the value should have been.
fn texts(key: Key, value: &Spanned<DeValue<'_>>) -> Result<Vec<(usize, String)>, &'static str> {
    let one = |text: String| Ok(vec![(value.span().start, text)]);
    match (key.shape(), value.get_ref()) {
        (Shape::Text | Shape::Octal | Shape::NameOrNumber, DeValue::String(text)) => {
            one(text.to_string())
        }
        (Shape::NameOrNumber, DeValue::Integer(number)) if number.radix() == 10 => {
            one(number.as_str().to_owned())
        }
        (Shape::Boolean, DeValue::Boolean(boolean)) => one(boolean.to_string()),
        (Shape::List, DeValue::Array(items)) if !items.is_empty() => items
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::String(text) => Ok((item.span().start, text.to_string())),
                _ => Err("an array of strings"),
            })
            .collect(),
        (Shape::Text | Shape::Octal, _) => Err("a string in quotes"),
        (Shape::NameOrNumber, _) => Err("a string in quotes or a decimal number"),
        (Shape::Boolean, _) => Err("true or false"),
        (Shape::List, _) => Err("an array of strings"),
    }
}

fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(items) if items.is_empty() => "an empty array",
        DeValue::Array(_) => "an array of something else",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<ConfigFile> {
        ConfigFile::parse(Path::new("t.toml").into(), text)
    }

    fn told(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_value_knows_its_line() {
        let file = parse("# ours\nmin-life = '4s'\nhost = [\n  'a.example',\n  'b.example',\n]\n")
            .unwrap();
        let lines = |key| {
            file.get(key)
                .iter()
                .map(|raw| format!("{} {}", raw.origin, raw.text.to_string_lossy()))
                .collect::<Vec<_>>()
        };
        assert_eq!(lines(Key::MinLife), ["t.toml:2 4s"]);
        assert_eq!(lines(Key::Host), ["t.toml:4 a.example", "t.toml:5 b.example"]);
        assert_eq!(lines(Key::Mode), [""; 0]);
    }

    #[test]
    fn numbers_and_booleans_are_taken_where_they_mean_something() {
        let file = parse("owner = 1000\nprefetch = true\ngroup = 'agent'").unwrap();
        assert_eq!(file.get(Key::Owner)[0].text, "1000");
        assert_eq!(file.get(Key::Prefetch)[0].text, "true");
        assert_eq!(file.get(Key::Group)[0].text, "agent");
    }

    #[test]
    fn an_unknown_key_is_told_with_its_line_and_the_nearest_one() {
        assert_eq!(told("\nmin_life = '4s'"), "t.toml:2: unknown key `min_life`");
        assert_eq!(told("[platform]\nurl = 'x'"), "t.toml:1: unknown key `platform`");
    }

    #[test]
    fn a_wrong_type_is_told_with_what_is_right() {
        for (text, expected) in [
            (
                "mode = 0o400",
                "t.toml:1: wrong type for `mode`: expected a string in quotes, found an integer",
            ),
            (
                "\nidle = 86400",
                "t.toml:2: wrong type for `idle`: expected a string in quotes, found an integer",
            ),
            (
                "host = 'a'",
                "t.toml:1: wrong type for `host`: expected an array of strings, found a string",
            ),
            (
                "host = []",
                "t.toml:1: wrong type for `host`: expected an array of strings, found an empty array",
            ),
            (
                "host = ['a', 1]",
                "t.toml:1: wrong type for `host`: expected an array of strings, found an array of something else",
            ),
            (
                "prefetch = 'yes'",
                "t.toml:1: wrong type for `prefetch`: expected true or false, found a string",
            ),
            (
                "owner = 0x10",
                "t.toml:1: wrong type for `owner`: expected a string in quotes or a decimal number, found an integer",
            ),
        ] {
            assert_eq!(told(text), expected);
        }
    }

    #[test]
    fn a_value_that_wants_quotes_is_shown_with_them() {
        for (text, right) in [
            ("mode = 0440", "mode = \"0440\""),
            ("mode = 0o440", "mode = \"0440\""),
            ("\nidle = 24h # a day", "idle = \"24h\""),
            ("idle = 86400", "idle = \"86400\""),
            ("backend = files", "backend = \"files\""),
        ] {
            let (told, _) = crate::advice::describe(&parse(text).unwrap_err());
            let hint = format!("\nhint: write the value in quotes: {right}\n");
            assert!(told.ends_with(&hint), "{told}");
        }
        for text in ["mode = ", "mode = '04", "prefetch = yes", "host = a.example", "x = 0440"] {
            let (told, _) = crate::advice::describe(&parse(text).unwrap_err());
            assert!(!told.contains("quotes:"), "{told}");
        }
    }

    #[test]
    fn what_is_not_toml_is_told_with_its_line() {
        assert!(told("idle = '1h'\nmode = \n").starts_with("t.toml:2: this is not TOML: "));
        assert!(told("idle = '1h'\nidle = '2h'\n").starts_with("t.toml:2: this is not TOML: "));
    }
}
