//! The settings themselves, and what the floors below are built from.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::file::{self, ConfigFile};
use crate::config::found::Found;
pub use crate::config::kind::shown_span;
use crate::config::layers::Layers;
use crate::config::owner::{self, Caller};
use crate::config::parse::ServerUrl;
use crate::config::tables::TokenTable;
use crate::config::{Environment, Key, Origin, Setting, Settings, SettingsArgs, kind, trust};
use crate::connection::demand::OnDemand;
use crate::connection::doors::{DoorConfig, HostConfig};
use crate::connection::tokens::NamedToken;
use crate::foreign::Request;
use crate::foreign::plain::PlainFile;
use crate::fs::access::Access;
use crate::fs::node::Root;
use crate::refresh::policy::Windows;
use crate::secret::Secret;
use crate::source::SourceConfig;
use crate::source::env::{self, EnvConfig};
use crate::source::platform::{self, PlatformConfig};
use crate::status::Layout;
use crate::time::{Clock, SystemClock};
use crate::view::ViewContext;

/// The variables that may hold a token, in the order in which they count.
pub const TOKEN_VARIABLES: [&str; 2] = ["GITHUB_TOKEN", "GH_TOKEN"];

/// The file in the configs directory that holds the platform's bearer.
const BEARER_FILE: &str = ".auth_token";

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
        let unknown = |name: String| {
            let instead = Key::instead_of_variable(&name)?;
            Some(format!("the variable {name} is no setting, and ignored: {instead}"))
        };
        let mut warnings: Vec<_> = environment.names().into_iter().filter_map(unknown).collect();
        let token = token(environment, &mut warnings);
        let configs_dir = layers.get_or_default(Key::ConfigsDir, &kind::DIRECTORY)?;
        let configs_owner = owner::of_configs(caller, &configs_dir.value);
        let found = Found { caller, file: path, configs_owner, token, tables, warnings };
        let mut settings = Self::read(&layers, found)?;
        settings.check_ca_file()?;
        Ok(settings)
    }

    /// Refuses a file of certificates that others could change.
    fn check_ca_file(&mut self) -> anyhow::Result<()> {
        let Some(path) = &self.ca_file.value else { return Ok(()) };
        match PlainFile::open(path) {
            // Whom the tokens belong to has the bearer, and gains nothing by it.
            Ok(file) => {
                trust::check("the ca-file", path, file.metadata(), Some(self.owner.value))?;
            }
            Err(error) => {
                let path = path.display();
                self.warnings.push(format!("the ca-file {path} cannot be read: {error}"));
            }
        }
        Ok(())
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
        self.tables.named().map(|(name, token)| self.named_token(name, token)).collect()
    }

    fn named_token(&self, name: &str, token: &TokenTable) -> NamedToken {
        NamedToken {
            name: name.to_owned(),
            sources: self.sources_of(token),
            views: self.views_of(token),
            owners: self.owners_of(token),
        }
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

    /// What doors show, and to whom.
    #[must_use]
    pub fn host(&self) -> HostConfig {
        let base = self.access();
        let its_group = |owner| owner::default_group(Caller::own(), owner).value;
        let doors = self.tables.doors().map(|(name, door)| DoorConfig {
            name: name.to_owned(),
            access: Access {
                uid: door.owner.unwrap_or(base.uid),
                gid: door.group.or(door.owner.map(its_group)).unwrap_or(base.gid),
                view_mode: door.mode.unwrap_or(base.view_mode),
                ..base
            },
            token: door.token.clone(),
            tokens: door.tokens.iter().map(|name| name.value.clone()).collect(),
        });
        HostConfig {
            doors: doors.collect(),
            tokens: self.tables.all().map(|(name, token)| self.named_token(name, token)).collect(),
            platform: self.platform(),
            views: self.view_context(),
            access: base,
        }
    }

    /// Whose repositories the mount's token is for, in lower case, where that is known.
    #[must_use]
    pub fn owners(&self) -> Vec<String> {
        self.tables.default_token().map(|token| self.owners_of(token)).unwrap_or_default()
    }

    /// Those that the file says, else those of its sources, unless one of these can be anybody's.
    fn owners_of(&self, token: &TokenTable) -> Vec<String> {
        if !token.owners().is_empty() {
            return token.owners().to_vec();
        }
        let owners = self.sources_of(token);
        let owners = owners.iter().map(|source| source.owner().map(str::to_ascii_lowercase));
        let mut owners = owners.collect::<Option<Vec<_>>>().unwrap_or_default();
        owners.sort_unstable();
        owners.dedup();
        owners
    }

    fn sources_of(&self, token: &TokenTable) -> Vec<SourceConfig> {
        token.chain().filter_map(|name| self.source(name)).collect()
    }

    fn views_of(&self, token: &TokenTable) -> ViewContext {
        ViewContext { hosts: token.hosts().unwrap_or(&self.hosts.value).to_vec() }
    }

    /// A source by its name; the file was checked to describe each that it names.
    #[must_use]
    pub fn source(&self, name: &str) -> Option<SourceConfig> {
        match name {
            platform::NAME => Some(SourceConfig::Platform(self.platform())),
            env::NAME => Some(SourceConfig::Env(EnvConfig {
                token: self.token.value.clone(),
                assumed_life: self.assumed_life.value,
                start: Some(SystemClock.now()),
            })),
            name => self.tables.source_by_name(name).cloned(),
        }
    }

    fn platform(&self) -> PlatformConfig {
        let whole = |url: &ServerUrl| url.expose().to_owned();
        PlatformConfig {
            url: whole(&self.platform_url.value),
            workspace_id: self.workspace_id.value.clone(),
            bearer_file: self.bearer_file(),
            bearer_user: self.configs_owner,
            proxy: self.proxy.value.as_ref().map(whole),
            ca_file: self.ca_file.value.clone(),
            request_timeout: self.request_timeout.value,
        }
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
}

/// How `check` shows a setting that nothing is set for.
const NONE: &str = "none";

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
