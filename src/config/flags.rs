//! The settings as flags.

#![expect(clippy::doc_markdown, reason = "the comments at the flags are their help, not Markdown")]

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::config::Key;

/// The settings as flags, unparsed: they go the same way as those of the environment and the file,
/// and fail with the same words.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Settings")]
pub struct SettingsArgs {
    /// Read settings from this TOML file: each flag is a key of the same name [env:
    /// MOLECULE_TOKENFS_CONFIG] [default: /etc/molecule-tokenfs.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Base URL of the platform [env: PLATFORM_URL] [default: http://host.docker.internal:8080]
    #[arg(long, value_name = "URL")]
    pub platform_url: Option<OsString>,

    /// Ask for the tokens of this workspace; needed where the platform serves more than one [env:
    /// WORKSPACE_ID]
    #[arg(long, value_name = "ID")]
    pub workspace_id: Option<OsString>,

    /// Directory with the platform's bearer, the file .auth_token [env: CONFIGS_DIR] [default:
    /// /configs]
    #[arg(long, value_name = "DIR")]
    pub configs_dir: Option<OsString>,

    /// Reach the platform through this proxy; HTTP_PROXY and the like are ignored, so that the bearer
    /// never goes to a proxy by accident [env: MOLECULE_TOKENFS_PROXY]
    #[arg(long, value_name = "URL")]
    pub proxy: Option<OsString>,

    /// Trust the CA certificates in this PEM file, too [env: MOLECULE_TOKENFS_CA_FILE]
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<OsString>,

    /// Time out requests to the platform after this long; a SPAN is written as 90s, 45m or 1h30m
    /// [env: MOLECULE_TOKENFS_REQUEST_TIMEOUT] [default: 10s]
    #[arg(long, value_name = "SPAN")]
    pub request_timeout: Option<OsString>,

    /// Refresh in the background after this long, or earlier if a token's life requires it [env:
    /// TOKEN_REFRESH_INTERVAL_SEC, in seconds] [default: 45m]
    #[arg(long, value_name = "SPAN")]
    pub refresh_interval: Option<OsString>,

    /// Spread the background refresh by plus or minus this much [env: TOKEN_REFRESH_JITTER_SEC, in
    /// seconds] [default: 2m]
    #[arg(long, value_name = "SPAN")]
    pub refresh_jitter: Option<OsString>,

    /// Wait this long before the first fetch of --prefetch [env: TOKEN_REFRESH_INITIAL_DELAY_SEC,
    /// in seconds] [default: 1m]
    #[arg(long, value_name = "SPAN")]
    pub refresh_initial_delay: Option<OsString>,

    /// Fetch a token without waiting for the first open [env: MOLECULE_TOKENFS_PREFETCH]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true")]
    pub prefetch: Option<OsString>,

    /// Pause the background refresh when nothing was opened for this long [env:
    /// MOLECULE_TOKENFS_IDLE] [default: 24h]
    #[arg(long, value_name = "SPAN")]
    pub idle: Option<OsString>,

    /// Serve only tokens that live at least this long after the open [env:
    /// MOLECULE_TOKENFS_MIN_LIFE] [default: 1m, or a tenth of a short life]
    #[arg(long, value_name = "SPAN")]
    pub min_life: Option<OsString>,

    /// If the current token has less than this left, make git wait for a fresh one, for at most half
    /// of --open-timeout [env: MOLECULE_TOKENFS_GIT_MIN_LIFE] [default: a fifth of the life]
    #[arg(long, value_name = "SPAN")]
    pub git_min_life: Option<OsString>,

    /// Fail an open that has no token after this long [env: MOLECULE_TOKENFS_OPEN_TIMEOUT]
    /// [default: 5s]
    #[arg(long, value_name = "SPAN")]
    pub open_timeout: Option<OsString>,

    /// Serve a token of GITHUB_TOKEN that starts with ghs_, whose expiry nobody knows, for this long
    /// from the start [env:
    /// MOLECULE_TOKENFS_ASSUMED_LIFE] [default: 1h]
    #[arg(long, value_name = "SPAN")]
    pub assumed_life: Option<OsString>,

    /// Who may read the tokens, a name or a number [env: MOLECULE_TOKENFS_OWNER] [default: the user of
    /// `run --user`; else for root the owner of the configs directory, for others the caller]
    #[arg(long, value_name = "USER")]
    pub owner: Option<OsString>,

    /// The files' group, a name or a number [env: MOLECULE_TOKENFS_GROUP] [default: the owner's]
    #[arg(long, value_name = "GROUP")]
    pub group: Option<OsString>,

    /// The files' mode in octal: 0400, 0440 or 0444 [env: MOLECULE_TOKENFS_MODE] [default: 0400]
    #[arg(long, value_name = "MODE")]
    pub mode: Option<OsString>,

    /// The mode of the file refresh in octal: 0600, 0620 or 0660; whoever may write to it can cause
    /// a token to be withheld for a moment [env: MOLECULE_TOKENFS_REFRESH_MODE] [default: 0600]
    #[arg(long, value_name = "MODE")]
    pub refresh_mode: Option<OsString>,

    /// Host that the tokens are for, with a port where it has one; repeatable; gh talks to the
    /// first, unless told otherwise [env: MOLECULE_TOKENFS_HOST, separated by commas] [default:
    /// github.com]
    #[arg(long, value_name = "HOST")]
    pub host: Vec<OsString>,

    /// What to mount: a directory of views, or a file that is one view; an existing mountpoint decides
    /// [env: MOLECULE_TOKENFS_LAYOUT] [default: what is there, else directory]
    #[arg(long, value_name = "LAYOUT")]
    pub layout: Option<OsString>,

    /// The view that a mounted file is [env: MOLECULE_TOKENFS_VIEW] [default: token]
    #[arg(long, value_name = "VIEW")]
    pub view: Option<OsString>,

    /// How to serve: fuse, files (plain files on a tmpfs), or auto: files only where FUSE is not
    /// available [env: MOLECULE_TOKENFS_BACKEND] [default: auto]
    #[arg(long, value_name = "BACKEND")]
    pub backend: Option<OsString>,

    /// Write files of the backend `files` to a disk where there is no tmpfs [env:
    /// MOLECULE_TOKENFS_ALLOW_DISK]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true")]
    pub allow_disk: Option<OsString>,

    /// What to log: error, warn, info, debug, trace, off, or directives as target=level,… [env:
    /// MOLECULE_TOKENFS_LOG_LEVEL] [default: info; warn for `run` on a terminal]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<OsString>,

    /// Append the log to this file; SIGHUP and upgrade reopen it, for log rotation [env:
    /// MOLECULE_TOKENFS_LOG_FILE] [default: standard error; for mount --background the system's
    /// logger]
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<OsString>,
}

impl SettingsArgs {
    /// The values that were given for a setting; at most one unless it is repeatable.
    #[must_use]
    pub fn given(&self, key: Key) -> &[OsString] {
        match key {
            Key::PlatformUrl => self.platform_url.as_slice(),
            Key::WorkspaceId => self.workspace_id.as_slice(),
            Key::ConfigsDir => self.configs_dir.as_slice(),
            Key::Proxy => self.proxy.as_slice(),
            Key::CaFile => self.ca_file.as_slice(),
            Key::RequestTimeout => self.request_timeout.as_slice(),
            Key::RefreshInterval => self.refresh_interval.as_slice(),
            Key::RefreshJitter => self.refresh_jitter.as_slice(),
            Key::RefreshInitialDelay => self.refresh_initial_delay.as_slice(),
            Key::Prefetch => self.prefetch.as_slice(),
            Key::Idle => self.idle.as_slice(),
            Key::MinLife => self.min_life.as_slice(),
            Key::GitMinLife => self.git_min_life.as_slice(),
            Key::OpenTimeout => self.open_timeout.as_slice(),
            Key::AssumedLife => self.assumed_life.as_slice(),
            Key::Owner => self.owner.as_slice(),
            Key::Group => self.group.as_slice(),
            Key::Mode => self.mode.as_slice(),
            Key::RefreshMode => self.refresh_mode.as_slice(),
            Key::Host => &self.host,
            Key::Layout => self.layout.as_slice(),
            Key::View => self.view.as_slice(),
            Key::Backend => self.backend.as_slice(),
            Key::AllowDisk => self.allow_disk.as_slice(),
            Key::LogLevel => self.log_level.as_slice(),
            Key::LogFile => self.log_file.as_slice(),
        }
    }

    /// The flags that were given, by name, `--config` too.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, &OsStr)> {
        let file = self.config.iter().map(|file| ("config", file.as_os_str()));
        let settings = Key::ALL.into_iter().flat_map(|key| {
            self.given(key).iter().map(move |value| (key.name(), value.as_os_str()))
        });
        file.chain(settings)
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command};

    use super::*;

    #[test]
    fn every_setting_is_a_flag_of_its_name_that_names_its_variable() {
        let command = SettingsArgs::augment_args(Command::new("test"));
        for key in Key::ALL {
            let flag = command.get_arguments().find(|arg| arg.get_long() == Some(key.name()));
            let help = flag.and_then(|flag| flag.get_help()).unwrap().to_string();
            assert!(help.contains(&format!("[env: {}", key.variable())), "{}", key.name());
            assert_eq!(help.contains("in seconds"), key.variable_in_seconds(), "{}", key.name());
        }
        assert_eq!(command.get_arguments().count(), Key::ALL.len() + 1, "and --config");
    }
}
