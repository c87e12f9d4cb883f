//! The settings by name: as a flag, as a key of the file, as a variable.

use crate::config::{file, mountpoint};
use crate::source::table::most_like;

/// What the names of most variables begin with.
const PREFIX: &str = "MOLECULE_TOKENFS_";

/// One setting. Its flag is `--name`, its key in the file `name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "a setting is described at its flag, for people")]
pub enum Key {
    PlatformUrl,
    WorkspaceId,
    ConfigsDir,
    Proxy,
    CaFile,
    RequestTimeout,
    RefreshInterval,
    RefreshJitter,
    RefreshInitialDelay,
    Prefetch,
    Idle,
    MinLife,
    GitMinLife,
    OpenTimeout,
    AssumedLife,
    Owner,
    Group,
    Mode,
    RefreshMode,
    Host,
    Layout,
    View,
    Backend,
    AllowDisk,
    LogLevel,
    LogFile,
}

/// What the file may hold for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A string.
    Text,
    /// A boolean.
    Boolean,
    /// A string or a non-negative integer.
    NameOrNumber,
    /// An array of strings.
    List,
}

impl Key {
    /// Every setting, in the order in which `check` shows them.
    pub const ALL: [Self; 26] = [
        Self::PlatformUrl,
        Self::WorkspaceId,
        Self::ConfigsDir,
        Self::Proxy,
        Self::CaFile,
        Self::RequestTimeout,
        Self::RefreshInterval,
        Self::RefreshJitter,
        Self::RefreshInitialDelay,
        Self::Prefetch,
        Self::Idle,
        Self::MinLife,
        Self::GitMinLife,
        Self::OpenTimeout,
        Self::AssumedLife,
        Self::Owner,
        Self::Group,
        Self::Mode,
        Self::RefreshMode,
        Self::Host,
        Self::Layout,
        Self::View,
        Self::Backend,
        Self::AllowDisk,
        Self::LogLevel,
        Self::LogFile,
    ];

    /// The name of the flag (without its dashes) and of the key in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PlatformUrl => "platform-url",
            Self::WorkspaceId => "workspace-id",
            Self::ConfigsDir => "configs-dir",
            Self::Proxy => "proxy",
            Self::CaFile => "ca-file",
            Self::RequestTimeout => "request-timeout",
            Self::RefreshInterval => "refresh-interval",
            Self::RefreshJitter => "refresh-jitter",
            Self::RefreshInitialDelay => "refresh-initial-delay",
            Self::Prefetch => "prefetch",
            Self::Idle => "idle",
            Self::MinLife => "min-life",
            Self::GitMinLife => "git-min-life",
            Self::OpenTimeout => "open-timeout",
            Self::AssumedLife => "assumed-life",
            Self::Owner => "owner",
            Self::Group => "group",
            Self::Mode => "mode",
            Self::RefreshMode => "refresh-mode",
            Self::Host => "host",
            Self::Layout => "layout",
            Self::View => "view",
            Self::Backend => "backend",
            Self::AllowDisk => "allow-disk",
            Self::LogLevel => "log-level",
            Self::LogFile => "log-file",
        }
    }

    /// The variable. The first eight are what workspace images set already.
    #[must_use]
    pub fn variable(self) -> &'static str {
        match self {
            Self::PlatformUrl => "PLATFORM_URL",
            Self::WorkspaceId => "WORKSPACE_ID",
            Self::ConfigsDir => "CONFIGS_DIR",
            Self::RefreshInterval => "TOKEN_REFRESH_INTERVAL_SEC",
            Self::RefreshJitter => "TOKEN_REFRESH_JITTER_SEC",
            Self::RefreshInitialDelay => "TOKEN_REFRESH_INITIAL_DELAY_SEC",
            Self::Proxy => "MOLECULE_TOKENFS_PROXY",
            Self::CaFile => "MOLECULE_TOKENFS_CA_FILE",
            Self::RequestTimeout => "MOLECULE_TOKENFS_REQUEST_TIMEOUT",
            Self::Prefetch => "MOLECULE_TOKENFS_PREFETCH",
            Self::Idle => "MOLECULE_TOKENFS_IDLE",
            Self::MinLife => "MOLECULE_TOKENFS_MIN_LIFE",
            Self::GitMinLife => "MOLECULE_TOKENFS_GIT_MIN_LIFE",
            Self::OpenTimeout => "MOLECULE_TOKENFS_OPEN_TIMEOUT",
            Self::AssumedLife => "MOLECULE_TOKENFS_ASSUMED_LIFE",
            Self::Owner => "MOLECULE_TOKENFS_OWNER",
            Self::Group => "MOLECULE_TOKENFS_GROUP",
            Self::Mode => "MOLECULE_TOKENFS_MODE",
            Self::RefreshMode => "MOLECULE_TOKENFS_REFRESH_MODE",
            Self::Host => "MOLECULE_TOKENFS_HOST",
            Self::Layout => "MOLECULE_TOKENFS_LAYOUT",
            Self::View => "MOLECULE_TOKENFS_VIEW",
            Self::Backend => "MOLECULE_TOKENFS_BACKEND",
            Self::AllowDisk => "MOLECULE_TOKENFS_ALLOW_DISK",
            Self::LogLevel => "MOLECULE_TOKENFS_LOG_LEVEL",
            Self::LogFile => "MOLECULE_TOKENFS_LOG_FILE",
        }
    }

    /// Whether the variable holds a bare number of seconds, not a span.
    #[must_use]
    pub fn variable_in_seconds(self) -> bool {
        self.variable().ends_with("_SEC")
    }

    /// What the file may hold.
    #[must_use]
    pub fn shape(self) -> Shape {
        match self {
            Self::Prefetch | Self::AllowDisk => Shape::Boolean,
            Self::Owner | Self::Group => Shape::NameOrNumber,
            Self::Host => Shape::List,
            Self::PlatformUrl
            | Self::WorkspaceId
            | Self::ConfigsDir
            | Self::Proxy
            | Self::CaFile
            | Self::RequestTimeout
            | Self::RefreshInterval
            | Self::RefreshJitter
            | Self::RefreshInitialDelay
            | Self::Idle
            | Self::MinLife
            | Self::GitMinLife
            | Self::OpenTimeout
            | Self::AssumedLife
            | Self::Mode
            | Self::RefreshMode
            | Self::Layout
            | Self::View
            | Self::Backend
            | Self::LogLevel
            | Self::LogFile => Shape::Text,
        }
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
        let others = [file::VARIABLE, mountpoint::VARIABLE];
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
    fn every_setting_is_listed_once() {
        let mut names: Vec<_> = Key::ALL.iter().map(|key| key.name()).collect();
        let mut variables: Vec<_> = Key::ALL.iter().map(|key| key.variable()).collect();
        for list in [&mut names, &mut variables] {
            list.sort_unstable();
            list.dedup();
            assert_eq!(list.len(), Key::ALL.len());
        }
        // Declared and listed in the same order, and complete: the last one is the last declared.
        assert!(Key::ALL.is_sorted());
        assert_eq!(Key::LogFile as usize, Key::ALL.len() - 1);
    }

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
