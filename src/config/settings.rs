//! The settings themselves, and what the floors below are built from.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::fmt::friendly::{Spacing, SpanPrinter};

use crate::config::file::{self, ConfigFile};
use crate::config::layers::Layers;
use crate::config::owner::{self, Caller};
use crate::config::parse::{BackendChoice, ServerUrl};
use crate::config::tables::{Tables, TokenTable};
use crate::config::{Environment, Key, Origin, Setting, SettingsArgs, parse, trust};
use crate::connection::demand::OnDemand;
use crate::connection::worker::NamedToken;
use crate::foreign::Request;
use crate::foreign::plain::PlainFile;
use crate::fs::access::Access;
use crate::fs::node::Root;
use crate::observe::LogLevel;
use crate::refresh::policy::Windows;
use crate::secret::Secret;
use crate::source::SourceConfig;
use crate::source::env::{self, EnvConfig};
use crate::source::platform::{self, PlatformConfig};
use crate::status::Layout;
use crate::time::{Clock, SystemClock};
use crate::view::token::TokenView;
use crate::view::{View, ViewContext};

/// The host of tokens, where none is configured.
pub const DEFAULT_HOST: &str = "github.com";

/// The variables that may hold a token, in the order in which they count.
pub const TOKEN_VARIABLES: [&str; 2] = ["GITHUB_TOKEN", "GH_TOKEN"];

/// The file in the configs directory that holds the platform's bearer.
const BEARER_FILE: &str = ".auth_token";

/// Every setting, with the place it came from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file that was read, where there is one.
    pub file: Option<PathBuf>,
    /// The platform's base URL.
    pub platform_url: Setting<ServerUrl>,
    /// The workspace whose tokens are asked for; without it the platform's own.
    pub workspace_id: Setting<Option<String>>,
    /// The directory that holds the bearer.
    pub configs_dir: Setting<PathBuf>,
    /// Whom it belongs to, where root asks and it is there: the bearer is read with that user's rights.
    pub configs_owner: Option<u32>,
    /// The proxy for the platform.
    pub proxy: Setting<Option<ServerUrl>>,
    /// A PEM file with more CA certificates.
    pub ca_file: Setting<Option<PathBuf>>,
    /// The longest a request to the platform may take.
    pub request_timeout: Setting<Duration>,
    /// Between background refreshes.
    pub refresh_interval: Setting<Duration>,
    /// Plus or minus, around the interval.
    pub refresh_jitter: Setting<Duration>,
    /// Before the first fetch, with `prefetch`.
    pub refresh_initial_delay: Setting<Duration>,
    /// Whether a token is fetched before anybody asks.
    pub prefetch: Setting<bool>,
    /// How long after the last open the background refresh pauses.
    pub idle: Setting<Duration>,
    /// The minimum life at open; `None` is the engine's own rule.
    pub min_life: Setting<Option<Duration>>,
    /// The life that a token should have left when git gets it; `None` is the engine's own rule.
    pub git_min_life: Setting<Option<Duration>>,
    /// The deadline of an open.
    pub open_timeout: Setting<Duration>,
    /// How long a token counts whose expiry nobody knows.
    pub assumed_life: Setting<Duration>,
    /// The user that may read the tokens.
    pub owner: Setting<u32>,
    /// The group of the files.
    pub group: Setting<u32>,
    /// The permission bits of the views.
    pub mode: Setting<u16>,
    /// The permission bits of `refresh`.
    pub refresh_mode: Setting<u16>,
    /// The hosts that the tokens are for; never empty.
    pub hosts: Setting<Vec<String>>,
    /// What the mountpoint must be; `None` where what is there decides.
    pub layout: Setting<Option<Layout>>,
    /// The number of the view that a mounted file is.
    pub view: Setting<u8>,
    /// How the tokens are served.
    pub backend: Setting<BackendChoice>,
    /// Whether the files backend may write to a disk.
    pub allow_disk: Setting<bool>,
    /// What to log.
    pub log_level: Setting<LogLevel>,
    /// The file that the log goes to; without it to standard error or the system's logger.
    pub log_file: Setting<Option<PathBuf>>,
    /// The token of the environment.
    pub token: Setting<Option<Secret>>,
    /// The sources that the file describes, and the chain of them.
    pub tables: Tables,
    /// What is odd, though it does not stop anybody: full sentences without a full stop.
    pub warnings: Vec<String>,
}

/// A setting as people see it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Its value; never a secret.
    pub value: String,
    /// Where it came from.
    pub from: String,
}

impl Settings {
    /// Reads all settings: flags, environment and file.
    ///
    /// # Errors
    /// When a value is not valid, or the file is not; it says where. The exit code is that of usage
    /// errors.
    pub fn load(flags: &SettingsArgs) -> anyhow::Result<Self> {
        Self::load_for(flags, None)
    }

    /// The same; `default_owner` may read the tokens where no setting says who.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn load_for(flags: &SettingsArgs, default_owner: Option<u32>) -> anyhow::Result<Self> {
        let caller = Caller { serves: default_owner, ..Caller::own() };
        Self::resolve(flags, &Environment::Process, Path::new(file::DEFAULT), caller)
    }

    fn resolve(
        flags: &SettingsArgs,
        environment: &Environment,
        default_file: &Path,
        caller: Caller,
    ) -> anyhow::Result<Self> {
        let file = ConfigFile::load(flags, environment, default_file)?;
        let path = file.as_ref().map(|file| file.path.to_path_buf());
        let tables = file.as_ref().map(|file| file.tables.clone()).unwrap_or_default();
        let layers = Layers { flags, environment, file };
        let span = |key, default| -> anyhow::Result<_> {
            let given = layers.get(key, parse::positive_span)?;
            Ok(given.unwrap_or_else(|| Setting::default(default)))
        };
        let margin = |key, default| -> anyhow::Result<_> {
            Ok(layers.get(key, parse::span)?.unwrap_or_else(|| Setting::default(default)))
        };
        let unknown = |name: String| {
            let instead = Key::instead_of_variable(&name)?;
            Some(format!("the variable {name} is no setting, and ignored: {instead}"))
        };
        let mut warnings: Vec<_> = environment.names().into_iter().filter_map(unknown).collect();
        let configs_dir = layers
            .get(Key::ConfigsDir, parse::path)?
            .unwrap_or_else(|| Setting::default(PathBuf::from("/configs")));
        let configs_owner = owner::of_configs(caller, &configs_dir.value);
        let owner = layers.get(Key::Owner, parse::user)?.unwrap_or_else(|| {
            let owner = configs_owner.as_ref();
            owner::default_owner(caller, &configs_dir.value, owner, &mut warnings)
        });
        let group = layers
            .get(Key::Group, parse::group)?
            .unwrap_or_else(|| owner::default_group(caller, owner.value));
        let ca_file = optional(layers.get(Key::CaFile, parse::path)?);
        if let Some(path) = &ca_file.value {
            match PlainFile::open(path) {
                // Whom the tokens belong to has the bearer, and gains nothing by it.
                Ok(file) => {
                    trust::check("the ca-file", path, file.metadata(), Some(owner.value))?;
                }
                Err(error) => {
                    let path = path.display();
                    warnings.push(format!("the ca-file {path} cannot be read: {error}"));
                }
            }
        }
        Ok(Self {
            file: path,
            platform_url: layers
                .get(Key::PlatformUrl, parse::server_url)?
                .unwrap_or_else(|| Setting::default(ServerUrl::default())),
            workspace_id: optional(layers.get(Key::WorkspaceId, parse::workspace_id)?),
            configs_dir,
            configs_owner: configs_owner.and_then(Result::ok),
            proxy: optional(layers.get(Key::Proxy, parse::server_url)?),
            ca_file,
            request_timeout: span(Key::RequestTimeout, Duration::from_secs(10))?,
            refresh_interval: span(Key::RefreshInterval, Duration::from_mins(45))?,
            refresh_jitter: margin(Key::RefreshJitter, Duration::from_mins(2))?,
            refresh_initial_delay: margin(Key::RefreshInitialDelay, Duration::from_mins(1))?,
            prefetch: layers
                .get(Key::Prefetch, parse::boolean)?
                .unwrap_or_else(|| Setting::default(false)),
            idle: span(Key::Idle, Duration::from_hours(24))?,
            min_life: optional(layers.get(Key::MinLife, parse::span)?),
            git_min_life: optional(layers.get(Key::GitMinLife, parse::span)?),
            open_timeout: span(Key::OpenTimeout, Duration::from_secs(5))?,
            assumed_life: span(Key::AssumedLife, Duration::from_hours(1))?,
            owner,
            group,
            mode: layers.get(Key::Mode, parse::mode)?.unwrap_or_else(|| Setting::default(0o400)),
            refresh_mode: layers
                .get(Key::RefreshMode, parse::refresh_mode)?
                .unwrap_or_else(|| Setting::default(0o600)),
            hosts: layers.list(Key::Host, parse::host)?.unwrap_or_else(|| {
                let hosts = tables.hosts().map(<[String]>::to_vec);
                Setting::default(hosts.unwrap_or_else(|| vec![DEFAULT_HOST.to_owned()]))
            }),
            layout: optional(layers.get(Key::Layout, parse::layout)?),
            view: layers
                .get(Key::View, parse::view)?
                .unwrap_or_else(|| Setting::default(TokenView.id())),
            backend: layers
                .get(Key::Backend, parse::backend)?
                .unwrap_or_else(|| Setting::default(BackendChoice::Auto)),
            allow_disk: layers
                .get(Key::AllowDisk, parse::boolean)?
                .unwrap_or_else(|| Setting::default(false)),
            log_level: layers
                .get(Key::LogLevel, parse::log_level)?
                .unwrap_or_else(|| Setting::default(LogLevel::default())),
            log_file: optional(layers.get(Key::LogFile, parse::path)?),
            token: token(environment, &mut warnings),
            tables,
            warnings,
        })
    }

    /// The file that holds the platform's bearer.
    #[must_use]
    pub fn bearer_file(&self) -> PathBuf {
        self.configs_dir.value.join(BEARER_FILE)
    }

    /// What is asked to find out how the bearer's file stands.
    #[must_use]
    pub fn bearer_request(&self) -> Request {
        Request { user: self.configs_owner, ..Request::stat(&self.bearer_file()) }
    }

    /// What is asked to find out whether the daemon can read it: as the daemon does.
    #[must_use]
    pub fn bearer_read(&self) -> Request {
        let request = Request::file(&self.bearer_file(), platform::MAX_BEARER_BYTES);
        Request { user: self.configs_owner, ..request }
    }

    /// The chain of sources, best first: those of the file, else the platform and then the environment.
    #[must_use]
    pub fn sources(&self) -> Vec<SourceConfig> {
        self.tables.chain().into_iter().filter_map(|name| self.source(name)).collect()
    }

    /// The tokens that have a directory of their own.
    #[must_use]
    pub fn named_tokens(&self) -> Vec<NamedToken> {
        let named = self.tables.named().map(|(name, token)| NamedToken {
            name: name.to_owned(),
            sources: self.sources_of(token),
            views: self.views_of(token),
        });
        named.collect()
    }

    /// The tokens of whose sources narrower ones can be had.
    #[must_use]
    pub fn on_demand(&self) -> Vec<OnDemand> {
        let tokens = self.tables.on_demand().map(|token| OnDemand {
            owners: token.owners().to_vec(),
            sources: self.sources_of(token),
            views: self.views_of(token),
        });
        tokens.collect()
    }

    fn sources_of(&self, token: &TokenTable) -> Vec<SourceConfig> {
        token.chain().filter_map(|name| self.source(name)).collect()
    }

    fn views_of(&self, token: &TokenTable) -> ViewContext {
        ViewContext { hosts: token.hosts().unwrap_or(&self.hosts.value).to_vec() }
    }

    /// A source by its name; the file was checked to describe each that it names.
    fn source(&self, name: &str) -> Option<SourceConfig> {
        match name {
            platform::NAME => Some(self.platform()),
            env::NAME => Some(SourceConfig::Env(EnvConfig {
                token: self.token.value.clone(),
                assumed_life: self.assumed_life.value,
                start: Some(SystemClock.now()),
            })),
            name => self.tables.source_by_name(name).cloned(),
        }
    }

    fn platform(&self) -> SourceConfig {
        let whole = |url: &ServerUrl| url.expose().to_owned();
        SourceConfig::Platform(PlatformConfig {
            url: whole(&self.platform_url.value),
            workspace_id: self.workspace_id.value.clone(),
            bearer_file: self.bearer_file(),
            bearer_user: self.configs_owner,
            proxy: self.proxy.value.as_ref().map(whole),
            ca_file: self.ca_file.value.clone(),
            request_timeout: self.request_timeout.value,
        })
    }

    /// When tokens are fetched and how long opens wait.
    #[must_use]
    pub fn windows(&self) -> Windows {
        Windows {
            interval: self.refresh_interval.value,
            jitter: self.refresh_jitter.value,
            prefetch: self.prefetch.value,
            initial_delay: self.refresh_initial_delay.value,
            min_life: self.min_life.value,
            git_min_life: self.git_min_life.value,
            open_timeout: self.open_timeout.value,
            idle: self.idle.value,
            // A request that the source gives up itself fails with a better error.
            fetch_timeout: self.request_timeout.value.saturating_add(Duration::from_secs(2)),
        }
    }

    /// The same where tokens are files. There is no open for which a fetch could wait, so the first
    /// one comes at once, unless somebody says otherwise.
    #[must_use]
    pub fn windows_of_files(&self) -> Windows {
        let delay = &self.refresh_initial_delay;
        let is_said = delay.origin != Origin::Default;
        let initial_delay = if is_said { delay.value } else { Duration::ZERO };
        Windows { initial_delay, ..self.windows() }
    }

    /// Directories that usually lie in memory, for files whose mountpoint does not. That of a user
    /// lets nobody else pass.
    #[must_use]
    pub fn memory(&self) -> Vec<PathBuf> {
        let is_for_us_alone = self.access().is_for_nobody_but(nix::unistd::geteuid().as_raw());
        let of_user = super::env("XDG_RUNTIME_DIR").map(PathBuf::from);
        let of_user = of_user.filter(|path| is_for_us_alone && path.is_absolute());
        // In a directory that others can enter, files would not be safe.
        let of_user =
            of_user.filter(|path| super::mountpoint::flaw_of_runtime_directory(path).is_none());
        of_user.into_iter().chain([PathBuf::from("/dev/shm")]).collect()
    }

    /// What is at a mountpoint with this layout.
    #[must_use]
    pub fn root(&self, layout: Layout) -> Root {
        match layout {
            Layout::Directory => Root::Directory,
            Layout::File => Root::View(self.view.value),
        }
    }

    /// Owner and modes of the files.
    #[must_use]
    pub fn access(&self) -> Access {
        Access {
            uid: self.owner.value,
            gid: self.group.value,
            view_mode: self.mode.value,
            refresh_mode: self.refresh_mode.value,
        }
    }

    /// What views are rendered with.
    #[must_use]
    pub fn view_context(&self) -> ViewContext {
        ViewContext { hosts: self.hosts.value.clone() }
    }

    /// Each setting as `check` shows it.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<_> = Key::ALL
            .into_iter()
            .map(|key| {
                let (value, from) = self.shown(key);
                Row { name: key.name(), value, from: from.to_string() }
            })
            .collect();
        let token = self.token.value.as_ref();
        rows.push(Row {
            name: "token",
            value: token.map_or_else(
                || NONE.to_owned(),
                |token| format!("fingerprint {}", token.fingerprint()),
            ),
            from: self.token.origin.to_string(),
        });
        rows
    }

    fn shown(&self, key: Key) -> (String, &Origin) {
        fn show<T>(setting: &Setting<T>, text: impl Fn(&T) -> String) -> (String, &Origin) {
            (text(&setting.value), &setting.origin)
        }
        fn maybe<T>(value: Option<&T>, text: impl Fn(&T) -> String) -> String {
            value.map_or_else(|| NONE.to_owned(), text)
        }
        let path = |path: &PathBuf| path.display().to_string();
        let span = |setting| show(setting, |&value| shown_span(value));
        match key {
            Key::PlatformUrl => show(&self.platform_url, ServerUrl::to_string),
            Key::WorkspaceId => show(&self.workspace_id, |id| maybe(id.as_ref(), String::clone)),
            Key::ConfigsDir => show(&self.configs_dir, path),
            Key::Proxy => show(&self.proxy, |url| maybe(url.as_ref(), ServerUrl::to_string)),
            Key::CaFile => show(&self.ca_file, |file| maybe(file.as_ref(), path)),
            Key::RequestTimeout => span(&self.request_timeout),
            Key::RefreshInterval => span(&self.refresh_interval),
            Key::RefreshJitter => span(&self.refresh_jitter),
            Key::RefreshInitialDelay => span(&self.refresh_initial_delay),
            Key::Prefetch => show(&self.prefetch, bool::to_string),
            Key::Idle => span(&self.idle),
            Key::MinLife => show(&self.min_life, |life| {
                life.map_or_else(|| "1m, or a tenth of a short life".to_owned(), shown_span)
            }),
            Key::GitMinLife => show(&self.git_min_life, |life| {
                life.map_or_else(|| "a fifth of the life".to_owned(), shown_span)
            }),
            Key::OpenTimeout => span(&self.open_timeout),
            Key::AssumedLife => span(&self.assumed_life),
            Key::Owner => show(&self.owner, u32::to_string),
            Key::Group => show(&self.group, u32::to_string),
            Key::Mode => show(&self.mode, |mode| format!("{mode:04o}")),
            Key::RefreshMode => show(&self.refresh_mode, |mode| format!("{mode:04o}")),
            Key::Host => show(&self.hosts, |hosts| hosts.join(", ")),
            Key::Layout => show(&self.layout, |layout| {
                layout.map_or("what is there, else directory", Layout::name).to_owned()
            }),
            Key::View => {
                show(&self.view, |&view| Root::View(view).view().unwrap_or_default().to_owned())
            }
            Key::Backend => show(&self.backend, BackendChoice::to_string),
            Key::AllowDisk => show(&self.allow_disk, bool::to_string),
            Key::LogLevel => show(&self.log_level, LogLevel::to_string),
            Key::LogFile => show(&self.log_file, |file| maybe(file.as_ref(), path)),
        }
    }
}

/// How `check` shows a setting that nothing is set for.
const NONE: &str = "none";

/// A span as people write it, and as settings take it: `45m`, `1h30m`.
#[must_use]
pub fn shown_span(span: Duration) -> String {
    SpanPrinter::new().spacing(Spacing::None).unsigned_duration_to_string(&span)
}

fn optional<T>(setting: Option<Setting<T>>) -> Setting<Option<T>> {
    setting.map_or_else(|| Setting::default(None), |setting| setting.map(Some))
}

/// The first of the variables that holds a token. A value that can be none is told and passed over:
/// an image whose build left rubbish there must still work.
fn token(environment: &Environment, warnings: &mut Vec<String>) -> Setting<Option<Secret>> {
    use std::os::unix::ffi::OsStringExt;
    for name in TOKEN_VARIABLES {
        let Some(value) = environment.get(name) else { continue };
        match Secret::new(value.into_vec()) {
            Ok(secret) => {
                return Setting { value: Some(secret), origin: Origin::TokenVariable(name) };
            }
            Err(error) => warnings.push(format!("the value of {name} is ignored: {error}")),
        }
    }
    Setting::default(None)
}

#[cfg(test)]
mod tests;
