//! The settings by name: as a flag, as a key of the file, as a variable.

use crate::config::kind::Shape;
pub use crate::config::list::Key;
use crate::config::{FILE_VARIABLE, MOUNTPOINT_VARIABLE};
use crate::source::table::most_like;

/// What the names of most variables begin with.
pub(super) const PREFIX: &str = "MOLECULE_TOKENFS_";

impl Key {
    /// The name of the flag (without its dashes) and of the key in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.declared().name
    }

    /// The variable. Some are what workspace images set already; the others begin as the program's name.
    #[must_use]
    pub fn variable(self) -> &'static str {
        self.declared().variable
    }

    /// Whether the variable holds a bare number of seconds, not a span.
    #[must_use]
    pub fn variable_in_seconds(self) -> bool {
        self.variable().ends_with("_SEC")
    }

    /// What the file may hold.
    #[must_use]
    pub fn shape(self) -> Shape {
        self.declared().form.shape
    }

    /// The setting with this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.name() == name)
    }

    /// The setting whose name is most like `name`; `None` if none is at all like it.
    #[must_use]
    pub fn nearest(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase().replace('_', "-");
        most_like(&name, Self::ALL.into_iter().map(|key| (key.name(), key)))
    }

    /// What to do instead of setting this variable, whose name begins like those of settings.
    #[must_use]
    pub fn instead_of_variable(name: &str) -> Option<String> {
        let others = [FILE_VARIABLE, MOUNTPOINT_VARIABLE];
        let known = Self::ALL.into_iter().map(Self::variable).chain(others);
        let ours: Vec<_> = known.filter_map(|name| name.strip_prefix(PREFIX)).collect();
        let rest = name.strip_prefix(PREFIX).filter(|rest| !ours.contains(rest))?;
        // A setting whose variable has a name of its own is meant by its own name only.
        let by_name = Self::by_name(&rest.to_ascii_lowercase().replace('_', "-"));
        let like = || most_like(rest, ours.into_iter().map(|name| (name, name)));
        let like = || like().map(|meant| format!("{PREFIX}{meant}"));
        let by_key = || Self::nearest(rest).map(|key| key.variable().to_owned());
        let by_name = by_name.map(|key| key.variable().to_owned());
        Some(match by_name.or_else(like).or_else(by_key) {
            Some(meant) => format!("did you mean {meant}?"),
            None => "molecule-tokenfs check shows all settings".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_finds_the_nearest_one() {
        for (misspelt, meant) in [
            ("min_life", Key::MinLife),
            ("minlife", Key::MinLife),
            ("platform_uri", Key::PlatformUrl),
            ("hosts", Key::Host),
            ("MODE", Key::Mode),
        ] {
            assert_eq!(Key::nearest(misspelt), Some(meant), "{misspelt}");
        }
        assert_eq!(Key::nearest("colour"), None);
    }

    #[test]
    fn a_misspelt_variable_finds_the_one_that_was_meant() {
        let told = |rest: &str| Key::instead_of_variable(&format!("{PREFIX}{rest}"));
        for (misspelt, meant) in [
            ("MINLIFE", "MOLECULE_TOKENFS_MIN_LIFE"),
            ("MOUNT_POINT", "MOLECULE_TOKENFS_MOUNTPOINT"),
            // These have names of their own.
            ("PLATFORM_URL", "PLATFORM_URL"),
            ("REFRESH_INTERVAL", "TOKEN_REFRESH_INTERVAL_SEC"),
        ] {
            assert_eq!(told(misspelt), Some(format!("did you mean {meant}?")), "{misspelt}");
        }
        assert!(told("COLOUR").unwrap().contains("molecule-tokenfs check"));
        assert_eq!(told("MOUNTPOINT"), None);
        assert_eq!(told("CONFIG"), None);
        assert_eq!(Key::instead_of_variable("PLATFORM_URI"), None);
    }
}
