//! The settings: where they come from, what they mean, and what is built from them.
//!
//! A flag beats the environment, which beats the file, which beats the default. This is the one file
//! that reads the environment.

use std::ffi::OsString;

pub mod declare;
pub mod doors;
pub mod file;
pub mod flags;
pub mod found;
pub mod key;
pub mod kind;
pub mod layers;
pub mod list;
pub mod mountpoint;
pub mod owner;
pub mod parse;
pub mod settings;
pub mod tables;
pub mod trust;
pub mod written;

pub use flags::SettingsArgs;
pub use found::DEFAULT_HOST;
pub use key::Key;
pub use list::Settings;
pub use mountpoint::{default_mountpoint, find_mountpoint, find_served};
pub use settings::TOKEN_VARIABLES;
pub use written::{Origin, Setting};

/// The variable that names the configuration file where no flag does.
pub const FILE_VARIABLE: &str = "MOLECULE_TOKENFS_CONFIG";

/// The variable that names the mountpoint where no argument does.
pub const MOUNTPOINT_VARIABLE: &str = "MOLECULE_TOKENFS_MOUNTPOINT";

/// A variable of this process's environment; an empty one counts as unset.
#[must_use]
pub fn env(name: &str) -> Option<OsString> {
    Environment::Process.get(name)
}

/// All variables of this process's environment, for a child.
#[expect(clippy::disallowed_methods, reason = "this is the place that reads it")]
pub fn variables() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os()
}

/// Where variables are looked up.
pub enum Environment {
    /// In this process.
    Process,
    /// In what a test says.
    #[cfg(test)]
    Fake(std::collections::HashMap<String, OsString>),
}

impl Environment {
    /// The names of all variables that are set to something, as far as they are text.
    pub(crate) fn names(&self) -> Vec<String> {
        let all: Vec<_> = match self {
            Self::Process => variables().map(|(name, value)| (name.into_string(), value)).collect(),
            #[cfg(test)]
            Self::Fake(variables) => {
                variables.iter().map(|(name, value)| (Ok(name.clone()), value.clone())).collect()
            }
        };
        let set = all.into_iter().filter(|(_, value)| !value.is_empty());
        let mut names: Vec<_> = set.filter_map(|(name, _)| name.ok()).collect();
        names.sort_unstable();
        names
    }

    /// The value of a variable; an empty one counts as unset.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the place that reads it")]
    pub fn get(&self, name: &str) -> Option<OsString> {
        let value = match self {
            Self::Process => std::env::var_os(name),
            #[cfg(test)]
            Self::Fake(variables) => variables.get(name).cloned(),
        };
        value.filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        Self::Fake(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}
