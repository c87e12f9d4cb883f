//! The settings: where they come from, what they mean, and what is built from them.
//!
//! A flag beats the environment, which beats the file, which beats the default. This is the one file
//! that reads the environment.

use std::ffi::OsString;

pub mod flags;
pub mod mountpoint;

pub use flags::SettingsArgs;
pub use mountpoint::{default_mountpoint, find_mountpoint};

/// A variable of this process's environment; an empty one counts as unset.
#[must_use]
pub fn env(name: &str) -> Option<OsString> {
    Environment::process().get(name)
}

/// Where variables are looked up: this process's environment, or a test's.
pub struct Environment(Box<dyn Fn(&str) -> Option<OsString>>);

impl Environment {
    /// The environment of this process.
    #[must_use]
    pub fn process() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the place that reads it")]
        Self(Box::new(|name| std::env::var_os(name)))
    }

    /// The value of a variable; an empty one counts as unset.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<OsString> {
        (self.0)(name).filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        let map: std::collections::HashMap<String, OsString> =
            variables.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        Self(Box::new(move |name| map.get(name).cloned()))
    }
}
