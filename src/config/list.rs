//! Every setting. An entry here is all that a new one needs: its flag with the help, its variable, its
//! key of the file, what `check` shows, completions and the README's table are made from it.
//!
//! [`settings!`] says what the parts mean. The order is that of the help, of `check` and of the README.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::declare::{Declared, Default, settings};
use crate::config::found::{self, Found};
use crate::config::kind;
use crate::config::layers::Layers;
use crate::config::parse::{BackendChoice, ServerUrl};
use crate::config::tables::Tables;
use crate::config::{Origin, Setting};
use crate::observe::LogLevel;
use crate::secret::Secret;
use crate::status::Layout;

settings! {
    /// The platform's base URL.
    PlatformUrl {
        name: "platform-url",
        variable: "PLATFORM_URL",
        field: platform_url: ServerUrl,
        kind: kind::URL,
        default: value("http://host.docker.internal:8080"),
        help: "Base URL of the platform",
        more: "see [where tokens come from](#where-tokens-come-from); over plain `http` everybody on the way reads \
               bearer and tokens, so take `https` unless the platform is on this machine",
    }

    /// The workspace whose tokens are asked for; without it the platform's own.
    WorkspaceId {
        name: "workspace-id",
        variable: "WORKSPACE_ID",
        field: workspace_id: String,
        kind: kind::WORKSPACE_ID,
        default: none(),
        help: "Ask for the tokens of this workspace; needed where the platform serves more than one",
    }

    /// The directory that holds the bearer.
    ConfigsDir {
        name: "configs-dir",
        variable: "CONFIGS_DIR",
        field: configs_dir: PathBuf,
        kind: kind::DIRECTORY,
        default: value("/configs"),
        help: "Directory with the platform's bearer, the file .auth_token",
        more: "it is read again at each fetch (by a daemon that runs as root with the rights of the directory's \
               owner)",
    }

    /// The proxy for the platform.
    Proxy {
        name: "proxy",
        variable: "MOLECULE_TOKENFS_PROXY",
        field: proxy: ServerUrl,
        kind: kind::URL,
        default: none(),
        help: "Reach the platform through this proxy; HTTP_PROXY and the like are ignored, so that the bearer \
               never goes to a proxy by accident",
    }

    /// A PEM file with more CA certificates.
    CaFile {
        name: "ca-file",
        variable: "MOLECULE_TOKENFS_CA_FILE",
        field: ca_file: PathBuf,
        kind: kind::FILE,
        default: none(),
        help: "Trust the CA certificates in this PEM file, too",
        more: "it must be writable by nobody but root, the daemon's user and the tokens' owner",
    }

    /// The longest a request to the platform may take.
    RequestTimeout {
        name: "request-timeout",
        variable: "MOLECULE_TOKENFS_REQUEST_TIMEOUT",
        field: request_timeout: Duration,
        kind: kind::POSITIVE_SPAN,
        default: value("10s"),
        help: "Time out requests to the platform after this long; a SPAN is written as 90s, 45m or 1h30m",
    }

    /// Between background refreshes.
    RefreshInterval {
        name: "refresh-interval",
        variable: "TOKEN_REFRESH_INTERVAL_SEC",
        field: refresh_interval: Duration,
        kind: kind::POSITIVE_SPAN,
        default: value("45m"),
        help: "Refresh in the background after this long, or earlier if a token's life requires it",
    }

    /// Plus or minus, around the interval.
    RefreshJitter {
        name: "refresh-jitter",
        variable: "TOKEN_REFRESH_JITTER_SEC",
        field: refresh_jitter: Duration,
        kind: kind::SPAN,
        default: value("2m"),
        help: "Spread the background refresh by plus or minus this much",
    }

    /// Before the first fetch, with `prefetch`.
    RefreshInitialDelay {
        name: "refresh-initial-delay",
        variable: "TOKEN_REFRESH_INITIAL_DELAY_SEC",
        field: refresh_initial_delay: Duration,
        kind: kind::SPAN,
        default: value("1m"),
        help: "Wait this long before the first fetch of --prefetch",
    }

    /// Whether a token is fetched before anybody asks.
    Prefetch {
        name: "prefetch",
        variable: "MOLECULE_TOKENFS_PREFETCH",
        field: prefetch: bool,
        kind: kind::BOOLEAN,
        default: value("false"),
        help: "Fetch a token without waiting for the first open",
    }

    /// How long after the last open the background refresh pauses.
    Idle {
        name: "idle",
        variable: "MOLECULE_TOKENFS_IDLE",
        field: idle: Duration,
        kind: kind::POSITIVE_SPAN,
        default: value("24h"),
        help: "Pause the background refresh when nothing was opened for this long",
    }

    /// The minimum life at open; `None` is the engine's own rule.
    MinLife {
        name: "min-life",
        variable: "MOLECULE_TOKENFS_MIN_LIFE",
        field: min_life: Duration,
        kind: kind::SPAN,
        default: none("1m, or a tenth of a short life"),
        help: "Serve only tokens that live at least this long after the open",
        more: "limited to half of a token's life, and to 2 minutes if the platform repeats tokens",
    }

    /// The life that a token should have left when git gets it; `None` is the engine's own rule.
    GitMinLife {
        name: "git-min-life",
        variable: "MOLECULE_TOKENFS_GIT_MIN_LIFE",
        field: git_min_life: Duration,
        kind: kind::SPAN,
        default: none("a fifth of the life"),
        help: "If the current token has less than this left, make git wait for a fresh one, for at most half \
               of --open-timeout",
        more: "readers of `npmrc` wait, too; limited as `min-life` is",
    }

    /// The deadline of an open.
    OpenTimeout {
        name: "open-timeout",
        variable: "MOLECULE_TOKENFS_OPEN_TIMEOUT",
        field: open_timeout: Duration,
        kind: kind::POSITIVE_SPAN,
        default: value("5s"),
        help: "Fail an open that has no token after this long",
    }

    /// How long a token counts whose expiry nobody knows.
    AssumedLife {
        name: "assumed-life",
        variable: "MOLECULE_TOKENFS_ASSUMED_LIFE",
        field: assumed_life: Duration,
        kind: kind::POSITIVE_SPAN,
        default: value("1h"),
        help: "Serve a token of GITHUB_TOKEN that starts with ghs_, whose expiry nobody knows, for this long \
               from the start",
    }

    /// The user that may read the tokens.
    Owner {
        name: "owner",
        variable: "MOLECULE_TOKENFS_OWNER",
        field: owner: u32,
        kind: kind::USER,
        default: found(
            found::owner[configs_dir],
            "the user of `run --user`; else for root the owner of the configs directory, for others the caller"
        ),
        help: "Who may read the tokens, a name or a number",
    }

    /// The group of the files.
    Group {
        name: "group",
        variable: "MOLECULE_TOKENFS_GROUP",
        field: group: u32,
        kind: kind::GROUP,
        default: found(found::group[owner], "the owner's"),
        help: "The files' group, a name or a number",
    }

    /// The permission bits of the views.
    Mode {
        name: "mode",
        variable: "MOLECULE_TOKENFS_MODE",
        field: mode: u16,
        kind: kind::MODE,
        default: value("0400"),
        help: "The files' mode in octal: 0400, 0440 or 0444",
    }

    /// The permission bits of `refresh`.
    RefreshMode {
        name: "refresh-mode",
        variable: "MOLECULE_TOKENFS_REFRESH_MODE",
        field: refresh_mode: u16,
        kind: kind::REFRESH_MODE,
        default: value("0600"),
        help: "The mode of the file refresh in octal: 0600, 0620 or 0660; whoever may write to it can cause a \
               token to be withheld for a moment",
    }

    /// The hosts that the tokens are for; never empty.
    Host {
        name: "host",
        variable: "MOLECULE_TOKENFS_HOST",
        field: hosts: Vec<String>,
        kind: kind::HOSTS,
        default: found(found::hosts[], "github.com"),
        help: "Host that the tokens are for, with a port where it has one; repeatable; gh talks to the first, \
               unless told otherwise",
    }

    /// What the mountpoint must be; `None` where what is there decides.
    Layout {
        name: "layout",
        variable: "MOLECULE_TOKENFS_LAYOUT",
        field: layout: Layout,
        kind: kind::LAYOUT,
        default: none("what is there, else directory"),
        help: "What to mount: a directory of views, or a file that is one view; an existing mountpoint decides",
    }

    /// The number of the view that a mounted file is.
    View {
        name: "view",
        variable: "MOLECULE_TOKENFS_VIEW",
        field: view: u8,
        kind: kind::VIEW,
        default: value("token"),
        help: "The view that a mounted file is",
    }

    /// How the tokens are served.
    Backend {
        name: "backend",
        variable: "MOLECULE_TOKENFS_BACKEND",
        field: backend: BackendChoice,
        kind: kind::BACKEND,
        default: value("auto"),
        help: "How to serve: fuse, files (plain files on a tmpfs), or auto: files only where FUSE is not \
               available",
    }

    /// Whether the files backend may write to a disk.
    AllowDisk {
        name: "allow-disk",
        variable: "MOLECULE_TOKENFS_ALLOW_DISK",
        field: allow_disk: bool,
        kind: kind::BOOLEAN,
        default: value("false"),
        help: "Write files of the backend `files` to a disk where there is no tmpfs",
    }

    /// What to log.
    LogLevel {
        name: "log-level",
        variable: "MOLECULE_TOKENFS_LOG_LEVEL",
        field: log_level: LogLevel,
        kind: kind::LOG_LEVEL,
        default: value("info", "info; warn for `run` on a terminal"),
        help: "What to log: error, warn, info, debug, trace, off, or directives as target=level,…",
    }

    /// The file that the log goes to; without it to standard error or the system's logger.
    LogFile {
        name: "log-file",
        variable: "MOLECULE_TOKENFS_LOG_FILE",
        field: log_file: PathBuf,
        kind: kind::FILE,
        default: none("none", "standard error; for mount --background the system's logger"),
        help: "Append the log to this file; SIGHUP and upgrade reopen it, for log rotation",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::key::PREFIX;

    /// What workspace images set already.
    const OF_IMAGES: [Key; 6] = [
        Key::PlatformUrl,
        Key::WorkspaceId,
        Key::ConfigsDir,
        Key::RefreshInterval,
        Key::RefreshJitter,
        Key::RefreshInitialDelay,
    ];

    #[test]
    fn the_names_of_a_setting_are_alike_and_its_own() {
        let mut seen = BTreeSet::new();
        for key in Key::ALL {
            let Declared { name, variable, .. } = key.declared();
            assert_eq!(name.replace('-', ""), format!("{key:?}").to_ascii_lowercase());
            let usual = format!("{PREFIX}{}", name.to_ascii_uppercase().replace('-', "_"));
            assert_eq!(OF_IMAGES.contains(&key), *variable != usual, "{variable}");
            assert!(seen.insert(*name) && seen.insert(*variable), "{name} is there twice");
        }
    }

    #[test]
    fn a_text_about_a_setting_is_part_of_a_sentence() {
        for key in Key::ALL {
            let Declared { name, help, more, .. } = key.declared();
            assert!(!help.is_empty(), "{name}");
            for text in [help, more] {
                assert!(!text.ends_with('.') && !text.contains(['\n', '|']), "{name}: {text}");
            }
        }
    }
}
