//! A table of the configuration, as a source reads it: each value knows its line, and each mistake is
//! told with it.
//!
//! It knows nothing of TOML; `config` makes it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// A value and the line that it stands in, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// The line.
    pub line: usize,
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A string.
    Text(String),
    /// An integer.
    Integer(i64),
    /// A boolean.
    Boolean(bool),
    /// An array.
    List(Vec<Located<Value>>),
    /// A table.
    Table(Vec<(String, Located<Value>)>),
    /// What no setting is: its name, with an article.
    Other(&'static str),
}

impl Value {
    fn described(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Boolean(_) => "a boolean",
            Self::List(_) => "an array",
            Self::Table(_) => "a table",
            Self::Other(what) => what,
        }
    }
}

/// Why a table is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TableError {
    /// The line of the mistake.
    pub line: usize,
    /// What is wrong, with the names of key and table.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl TableError {
    /// With something to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A table whose keys are taken out one by one; what is left in the end is a mistake.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its path: `sources.acme-app`.
    pub path: String,
    /// The line of its head.
    pub line: usize,
    entries: BTreeMap<String, Located<Value>>,
    asked: Vec<&'static str>,
    variable: fn(&str) -> Option<OsString>,
}

/// Where a secret is kept: never in the configuration itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretPlace {
    /// In a file.
    File(PathBuf),
    /// In a variable of the environment.
    Variable {
        /// Its name.
        name: String,
        /// What it holds; `None` where it is not set.
        value: Option<Secret>,
    },
}

type Result<T> = std::result::Result<T, TableError>;

impl Table {
    /// A table with these entries.
    #[must_use]
    pub fn new(path: String, line: usize, entries: Vec<(String, Located<Value>)>) -> Self {
        Self {
            path,
            line,
            entries: entries.into_iter().collect(),
            asked: Vec::new(),
            variable: |_| None,
        }
    }

    /// With this environment; without, no variable is set.
    #[must_use]
    pub fn with_environment(mut self, variable: fn(&str) -> Option<OsString>) -> Self {
        self.variable = variable;
        self
    }

    /// The last part of its path.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit_once('.').map_or(&*self.path, |(_, name)| name)
    }

    /// An error about the table as a whole.
    pub fn error(&self, message: impl std::fmt::Display) -> TableError {
        TableError { line: self.line, message: format!("[{}] {message}", self.path), hint: None }
    }

    /// An error about the value of a key: "expected …".
    pub fn invalid(
        &self,
        key: &str,
        line: usize,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> TableError {
        let message = format!(
            "wrong value for `{key}` in [{}]: expected {expected}, found {found}",
            self.path
        );
        TableError { line, message, hint: None }
    }

    fn take(&mut self, key: &'static str) -> Option<Located<Value>> {
        self.asked.push(key);
        self.entries.remove(key)
    }

    /// A string that is not empty.
    ///
    /// # Errors
    /// For any other value.
    pub fn text(&mut self, key: &'static str) -> Result<Option<Located<String>>> {
        let Some(Located { value, line }) = self.take(key) else { return Ok(None) };
        match value {
            Value::Text(text) if !text.is_empty() => Ok(Some(Located { value: text, line })),
            Value::Text(_) => Err(self.invalid(key, line, "a string", "an empty one")),
            other => Err(self.invalid(key, line, "a string in quotes", other.described())),
        }
    }

    /// A positive whole number, also in quotes.
    ///
    /// # Errors
    /// For any other value.
    pub fn number(&mut self, key: &'static str) -> Result<Option<u64>> {
        let Some(Located { value, line }) = self.take(key) else { return Ok(None) };
        let number = match &value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::Text(text) => text.parse().ok(),
            _ => None,
        };
        match number.filter(|number| *number > 0) {
            Some(number) => Ok(Some(number)),
            None => Err(self.invalid(key, line, "a positive number", value.described())),
        }
    }

    /// A boolean.
    ///
    /// # Errors
    /// For any other value.
    pub fn boolean(&mut self, key: &'static str) -> Result<Option<bool>> {
        match self.take(key) {
            None => Ok(None),
            Some(Located { value: Value::Boolean(value), .. }) => Ok(Some(value)),
            Some(Located { value, line }) => {
                Err(self.invalid(key, line, "true or false", value.described()))
            }
        }
    }

    /// An array of strings, none of them empty.
    ///
    /// # Errors
    /// For any other value.
    pub fn texts(&mut self, key: &'static str) -> Result<Option<Vec<Located<String>>>> {
        let Some(Located { value, line }) = self.take(key) else { return Ok(None) };
        let Value::List(items) = value else {
            return Err(self.invalid(key, line, "an array of strings", value.described()));
        };
        items
            .into_iter()
            .map(|Located { value, line }| match value {
                Value::Text(value) if !value.is_empty() => Ok(Located { value, line }),
                other => Err(self.invalid(key, line, "an array of strings", other.described())),
            })
            .collect::<Result<_>>()
            .map(Some)
    }

    /// A table of strings: `{ contents = "write" }`.
    ///
    /// # Errors
    /// For any other value.
    pub fn map(&mut self, key: &'static str) -> Result<BTreeMap<String, String>> {
        let Some(Located { value, line }) = self.take(key) else { return Ok(BTreeMap::new()) };
        let Value::Table(entries) = value else {
            return Err(self.invalid(key, line, "a table of strings", value.described()));
        };
        entries
            .into_iter()
            .map(|(name, Located { value, line })| match value {
                Value::Text(text) => Ok((name, text)),
                other => {
                    let key = format!("{key}.{name}");
                    Err(self.invalid(&key, line, "a string in quotes", other.described()))
                }
            })
            .collect()
    }

    /// A secret of any bytes, which lies in a file or in a variable: `{ file = "/etc/…" }`,
    /// `{ env = "NAME" }`. It never stands in the configuration itself. That of a variable is taken at once,
    /// in base64, since a [`Secret`] has no line ends.
    ///
    /// # Errors
    /// Where it does, and for any other value.
    pub fn secret(&mut self, key: &'static str) -> Result<Option<SecretPlace>> {
        const EXPECTED: &str = "{ file = \"/path\" } or { env = \"NAME\" }";
        let Some(Located { value, line }) = self.take(key) else { return Ok(None) };
        let entries = match value {
            Value::Table(entries) => entries,
            Value::Text(_) => {
                let hint = "a secret does not belong into the configuration: write it to a file of its own, and \
                            the path of that here; or name the variable that holds it";
                return Err(self.invalid(key, line, EXPECTED, "a string").hint(hint));
            }
            other => return Err(self.invalid(key, line, EXPECTED, other.described())),
        };
        let [(kind, Located { value: Value::Text(text), line: at })] = entries.as_slice() else {
            return Err(self.invalid(key, line, EXPECTED, "another table"));
        };
        match kind.as_str() {
            "file" if PathBuf::from(text).is_absolute() => Ok(Some(SecretPlace::File(text.into()))),
            "file" => Err(self.invalid(key, *at, "an absolute path", "a relative one")),
            "env" if is_variable(text) => {
                let value = (self.variable)(text).map(|value| {
                    let value = Zeroizing::new(value.into_encoded_bytes());
                    Secret::new(STANDARD.encode(&*value).into_bytes())
                });
                let value = value.transpose().map_err(|_| {
                    self.invalid(key, *at, "a variable with a secret", "one that is too long")
                })?;
                Ok(Some(SecretPlace::Variable { name: text.clone(), value }))
            }
            // It may be the secret itself.
            "env" => Err(self.invalid(key, *at, "the name of a variable", "another text")),
            _ => Err(self.invalid(key, line, EXPECTED, "another table")),
        }
    }

    /// A span of time: `10s`.
    ///
    /// # Errors
    /// For any other value.
    pub fn span(&mut self, key: &'static str) -> Result<Option<Duration>> {
        let Some(Located { value, line }) = self.text(key)? else { return Ok(None) };
        let span = value.parse::<jiff::SignedDuration>().ok();
        match span.and_then(|span| Duration::try_from(span).ok()).filter(|span| !span.is_zero()) {
            Some(span) => Ok(Some(span)),
            None => {
                Err(self.invalid(key, line, "a span of time like 30s or 1h30m", "another text"))
            }
        }
    }

    /// Ends the reading: no key may be left.
    ///
    /// # Errors
    /// Names the first that is, and the nearest one that is known.
    pub fn finish(self) -> Result<()> {
        let Some((key, located)) = self.entries.iter().min_by_key(|(_, located)| located.line)
        else {
            return Ok(());
        };
        let message = format!("unknown key `{key}` in [{}]", self.path);
        let error = TableError { line: located.line, message, hint: None };
        Err(match most_like(key, self.asked.iter().map(|known| (*known, known))) {
            Some(known) => error.hint(format!("did you mean `{known}`?")),
            None => error.hint(format!("the keys are {}", self.asked.join(", "))),
        })
    }
}

/// Whether a text can be the name of a variable (POSIX: letters, digits and underscores).
fn is_variable(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=255).contains(&text.len())
        && text.chars().all(is_part)
        && !text.starts_with(|c: char| c.is_ascii_digit())
}

/// What is wrong with the name of a source, a token or a door. Names become parts of paths and of metrics.
#[must_use]
pub fn flaw_of_name(name: &str) -> Option<&'static str> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_name = name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(is_part);
    if name.len() > 39 {
        Some("has too long a name: 39 characters are the most")
    } else if is_name {
        None
    } else {
        Some("has a wrong name: a name begins with a letter and has only a–z, 0–9 and -")
    }
}

/// The value whose name is most like `name`; `None` if none is at all like it.
pub fn most_like<'a, T>(name: &str, named: impl Iterator<Item = (&'a str, T)>) -> Option<T> {
    named
        .map(|(candidate, value)| (strsim::jaro_winkler(name, candidate), value))
        .filter(|&(likeness, _)| likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, value)| value)
}
