//! The doors of a host: each is a directory of views for one group of readers, with an owner and a mode of
//! its own. Tokens that come from the same sources are one token, however many doors show it.
//!
//! Doors come from the configuration, and from whoever adds them while the daemon serves ([`socket`]). The
//! latter are [kept] in a file, so that they outlive the daemon.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use zeroize::Zeroizing;

use crate::connection::tokens::{NamedToken, Shared, Shown, identity};
use crate::fs::access::Access;
use crate::fs::generations::TokenState;
use crate::fs::generations::regions::{Kind, Whose};
use crate::fs::node::Root;
use crate::fs::pages::Other;
use crate::fs::places::Places;
use crate::fs::{Fs, FsConfig};
use crate::refresh::Engine;
use crate::refresh::policy::Windows;
use crate::service::TokenService;
use crate::source::SourceConfig;
use crate::source::platform::PlatformConfig;
use crate::source::unbound::UnboundConfig;
use crate::status::Identity;
use crate::view::ViewContext;

pub mod kept;
pub mod socket;

/// A door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DoorConfig {
    /// Its name, that of the directory.
    pub name: String,
    /// Owner and modes of what is in it.
    pub access: Access,
    /// The token whose views it shows; none while nobody knows whose it is.
    pub token: Option<DoorToken>,
    /// The names of those that have a directory in it.
    pub tokens: Vec<String>,
}

/// Which token a door shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum DoorToken {
    /// One that the configuration describes.
    Named(String),
    /// The platform's of a workspace.
    Workspace {
        /// Its id.
        id: String,
        /// The file that holds its bearer.
        bearer_file: PathBuf,
    },
}

/// What the configuration says of doors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostConfig {
    /// The doors that it describes.
    pub doors: Vec<DoorConfig>,
    /// The tokens that doors can show.
    pub tokens: Vec<NamedToken>,
    /// How the platform is asked, but for workspace and bearer.
    pub platform: PlatformConfig,
    /// What views of a workspace's token are rendered with.
    pub views: ViewContext,
    /// Owner and modes where a door says nothing.
    pub access: Access,
}

/// Why a door cannot be as somebody wants it.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// There is one of this name.
    #[error("there is a door `{0}` already")]
    Exists(String),
    /// There is none of this name.
    #[error("there is no door `{0}`")]
    Missing(String),
    /// It belongs to the configuration.
    #[error("the configuration describes the door `{0}`")]
    Configured(String),
    /// Nobody described the token.
    #[error("the configuration of the daemon describes no token `{0}`")]
    NoToken(String),
    /// It is named twice.
    #[error("the token `{0}` is named twice")]
    Twice(String),
    /// There is no memory for it, or it cannot be kept.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// Prepares a token for being served.
type Begin = Box<dyn Fn(&Arc<TokenState>) + Send>;

/// A token that doors show.
struct Served {
    /// What decides which token comes.
    key: Zeroizing<Vec<u8>>,
    token: Shown,
    /// Until it runs.
    engine: Option<Engine>,
    task: Option<AbortHandle>,
    /// At so many places.
    places: usize,
}

/// A door that is there.
struct Door {
    config: DoorConfig,
    is_configured: bool,
    /// Somebody has said what it shows while the daemon served.
    is_bound: bool,
    /// The paths where tokens are shown, its own last, and the tokens.
    shown: Vec<(String, Arc<Fs>)>,
}

/// The doors of a mount, and the tokens that they show.
pub struct Doors {
    shared: Shared,
    windows: Windows,
    host: HostConfig,
    served: Vec<Served>,
    there: BTreeMap<String, Door>,
    /// Those that were kept and cannot be made.
    unusable: Vec<DoorConfig>,
    /// Prepares a token for being served.
    begin: Begin,
    /// Where engines run, from the moment on at which this process serves.
    runtime: Option<Handle>,
}

impl Doors {
    /// Those of the configuration, which go on where an earlier worker's stopped. `begin` is called with
    /// each token, once.
    ///
    /// # Errors
    /// Where there is no memory for the states.
    pub fn new(
        shared: Shared,
        windows: Windows,
        mut host: HostConfig,
        begin: impl Fn(&Arc<TokenState>) + Send + 'static,
    ) -> Result<Self, DoorError> {
        let configured = std::mem::take(&mut host.doors);
        let (begin, runtime) = (Box::new(begin), None);
        let (served, there) = (Vec::new(), BTreeMap::new());
        let unusable = Vec::new();
        let mut doors = Self { shared, windows, host, served, there, unusable, begin, runtime };
        for config in configured {
            doors.shared.connection.step();
            doors.make(config, true)?;
        }
        Ok(doors)
    }

    /// The file systems by path, each door before what is in it.
    #[must_use]
    pub fn places(&self) -> Vec<(String, Arc<Fs>)> {
        let doors = self.there.values().flat_map(|door| door.shown.iter().rev());
        doors.cloned().collect()
    }

    /// From now on this process serves, and no other.
    pub fn run(&mut self, runtime: &Handle) {
        self.runtime = Some(runtime.clone());
        for served in &mut self.served {
            served.run(runtime);
        }
    }

    /// The doors, and whether the configuration describes them.
    pub fn all(&self) -> impl Iterator<Item = (&DoorConfig, bool)> {
        self.there.values().map(|door| (&door.config, door.is_configured))
    }

    /// Whether some view has not told watchers of the newest generation.
    #[must_use]
    pub fn want_rotation(&self) -> bool {
        self.served.iter().any(|served| served.token.store.wants_rotation())
    }

    /// Owner and modes where a door says nothing.
    #[must_use]
    pub fn access(&self) -> Access {
        self.host.access
    }

    /// Adds a door that the configuration does not describe.
    ///
    /// # Errors
    /// [`DoorError`]; nothing is changed then.
    pub fn add(&mut self, config: DoorConfig, places: &Places) -> Result<(), DoorError> {
        if self.there.contains_key(&config.name) {
            return Err(DoorError::Exists(config.name));
        }
        let name = config.name.clone();
        self.make(config, false)?;
        let made = self.there.get(&name).into_iter().flat_map(|door| door.shown.iter().rev());
        made.for_each(|(path, fs)| places.show(path, Arc::clone(fs)));
        Ok(())
    }

    /// Removes a door that was added. What it showed is gone for everybody who has not opened it.
    ///
    /// # Errors
    /// [`DoorError::Missing`], [`DoorError::Configured`].
    pub fn remove(&mut self, name: &str, places: &Places) -> Result<(), DoorError> {
        self.added(name)?;
        places.remove(name);
        if let Some(door) = self.there.remove(name) {
            door.shown.into_iter().for_each(|(_, fs)| self.leave(&fs, true));
        }
        Ok(())
    }

    /// Lets a door show a token, in the place of the one that it has, if any. Opens that wait for that are
    /// served with this. The other one is opened by nobody at this door when this returns.
    ///
    /// # Errors
    /// [`DoorError`]; nothing is changed then, unless the system fails ([`DoorError::System`]).
    pub fn bind(&mut self, name: &str, token: DoorToken, places: &Places) -> Result<(), DoorError> {
        let missing = || DoorError::Missing(name.to_owned());
        let door = self.there.get(name).ok_or_else(missing)?;
        if door.is_configured && !door.is_bound && door.config.token.is_some() {
            return Err(DoorError::Configured(name.to_owned()));
        }
        let config = DoorConfig { token: Some(token), ..door.config.clone() };
        self.resolve(&config)?;
        let mut before = self.there.remove(name).ok_or_else(missing)?;
        let others = before.shown.iter().take(before.shown.len().saturating_sub(1));
        let others = others.map(|(_, fs)| fs.told()).collect();
        let token = self.own(&config)?;
        let shown = self.take(token.sources.clone())?;
        if let Some((_, fs)) = before.shown.pop() {
            self.leave(&fs, false);
        }
        let at = (name, self.shared.identity.name.clone());
        let (fs, _) = self.show(name, at, config.access, (token, shown), others)?;
        places.show(name, Arc::clone(&fs));
        if fs.state().wants_rotation() {
            fs.state().rotate();
        }
        before.shown.push((name.to_owned(), fs));
        self.there.insert(name.to_owned(), Door { config, is_bound: true, ..before });
        Ok(())
    }

    /// Makes the doors that an earlier worker or daemon kept, as far as the configuration does not say
    /// something else.
    pub fn take_over(&mut self, kept: Vec<DoorConfig>, places: &Places) {
        for config in kept {
            self.shared.connection.step();
            let name = config.name.clone();
            let made = match (self.there.get(&name), &config.token) {
                (None, _) => self.add(config.clone(), places),
                // The configuration has a door that waits for this.
                (Some(_), Some(token)) => self.bind(&name, token.clone(), places),
                (Some(_), None) => Ok(()),
            };
            match made {
                Ok(()) | Err(DoorError::Configured(_)) => {}
                Err(error) => {
                    tracing::warn!("the door `{name}` is not there: {error}");
                    self.unusable.push(config);
                }
            }
        }
    }

    /// What has to be kept for the next daemon: that of which the configuration knows nothing.
    #[must_use]
    pub fn to_keep(&self) -> Vec<DoorConfig> {
        let is_new = |door: &&Door| !door.is_configured || door.is_bound;
        let doors = self.there.values().filter(is_new).map(|door| &door.config);
        let is_there = |door: &&DoorConfig| self.there.contains_key(&door.name);
        let unusable = self.unusable.iter().filter(|door| !is_there(door));
        doors.chain(unusable).cloned().collect()
    }

    fn added(&self, name: &str) -> Result<(), DoorError> {
        match self.there.get(name) {
            Some(door) if door.is_configured => Err(DoorError::Configured(name.to_owned())),
            Some(_) => Ok(()),
            None => Err(DoorError::Missing(name.to_owned())),
        }
    }

    /// Checks that all tokens of a door are there.
    fn resolve(&self, config: &DoorConfig) -> Result<(), DoorError> {
        self.own(config)?;
        for (place, name) in config.tokens.iter().enumerate() {
            self.named(name)?;
            if config.tokens.iter().take(place).any(|earlier| earlier == name) {
                return Err(DoorError::Twice(name.clone()));
            }
        }
        Ok(())
    }

    /// The token of a door itself.
    fn own(&self, config: &DoorConfig) -> Result<NamedToken, DoorError> {
        let source = match &config.token {
            Some(DoorToken::Named(token)) => return self.named(token),
            Some(DoorToken::Workspace { id, bearer_file }) => {
                SourceConfig::Platform(PlatformConfig {
                    workspace_id: Some(id.clone()),
                    bearer_file: bearer_file.clone(),
                    // Whoever its directory belongs to.
                    bearer_user: None,
                    ..self.host.platform.clone()
                })
            }
            None => SourceConfig::Unbound(UnboundConfig { door: config.name.clone() }),
        };
        let (name, views) = (config.name.clone(), self.host.views.clone());
        Ok(NamedToken { name, sources: vec![source], views, owners: Vec::new() })
    }

    fn named(&self, name: &str) -> Result<NamedToken, DoorError> {
        let token = self.host.tokens.iter().find(|token| token.name == name);
        token.cloned().ok_or_else(|| DoorError::NoToken(name.to_owned()))
    }

    fn make(&mut self, config: DoorConfig, is_configured: bool) -> Result<(), DoorError> {
        self.resolve(&config)?;
        let (door, access) = (config.name.clone(), config.access);
        let mut shown = Vec::new();
        let mut others = Vec::new();
        for name in &config.tokens {
            let (path, token) = (format!("{door}/{name}"), self.named(name)?);
            let behind = self.take(token.sources.clone())?;
            let (at, token) = ((&*path, name.clone()), (token, behind));
            let (fs, other) = self.show(&door, at, access, token, Vec::new())?;
            shown.push((path, fs));
            others.push(other);
        }
        let token = self.own(&config)?;
        let behind = self.take(token.sources.clone())?;
        let at = (&*door, self.shared.identity.name.clone());
        let (fs, _) = self.show(&door, at, access, (token, behind), others)?;
        shown.push((door.clone(), fs));
        self.there.insert(door, Door { config, is_configured, is_bound: false, shown });
        Ok(())
    }

    /// Shows a token that was taken at a path; for people it has the name that is given with that.
    fn show(
        &self,
        door: &str,
        (path, name): (&str, String),
        access: Access,
        (token, behind): (NamedToken, Shown),
        others: Vec<Other>,
    ) -> io::Result<(Arc<Fs>, Other)> {
        let NamedToken { views, owners, .. } = token;
        let (root, shared) = (Root::Directory, &self.shared);
        let place = shared.connection.place(path, &behind.store, root.views())?;
        let config = FsConfig { root, access, views, ..shared.fs.clone() };
        let mountpoint = shared.identity.mountpoint.join(door);
        let hosts = config.views.hosts.clone();
        let identity = Identity { name, mountpoint, owners, hosts, ..shared.identity.clone() };
        Ok(shared.show(&behind, place, config, identity, others))
    }

    /// The token that comes from these sources, for one place more.
    fn take(&mut self, sources: Vec<SourceConfig>) -> io::Result<Shown> {
        let key = identity(&sources)?;
        if let Some(served) = self.served.iter_mut().find(|served| served.key == key) {
            served.places += 1;
            return Ok(served.token.clone());
        }
        let whose = Whose { kind: Kind::Shared, name: "", configuration: &key };
        let service = self.shared.service(whose, sources, self.windows.clone(), Vec::new())?;
        let TokenService { store, handle, engine, counters } = service;
        (self.begin)(&store);
        let token = Shown { store, handle, counters };
        let engine = Some(engine);
        let mut served = Served { key, token: token.clone(), engine, task: None, places: 1 };
        if let Some(runtime) = &self.runtime {
            served.run(runtime);
        }
        self.served.push(served);
        Ok(token)
    }

    /// A token is no longer shown at a place, where nothing is from now on if `for_ever`. One that is shown
    /// nowhere is forgotten.
    fn leave(&mut self, fs: &Arc<Fs>, for_ever: bool) {
        fs.state().leave(fs.place(), for_ever);
        let is_its = |served: &&mut Served| Arc::ptr_eq(&served.token.store, fs.state());
        if let Some(served) = self.served.iter_mut().find(is_its) {
            served.places -= 1;
        }
        self.served.retain(|served| {
            if served.places == 0 {
                if let Some(task) = &served.task {
                    task.abort();
                }
                served.token.store.forget();
            }
            served.places > 0
        });
    }
}

impl Served {
    fn run(&mut self, runtime: &Handle) {
        let Some(mut engine) = self.engine.take() else { return };
        engine.resume();
        let task = runtime.spawn(engine.run());
        self.task = Some(task.abort_handle());
        runtime.spawn(async move {
            // Without it no open would ever be answered with a new token.
            if task.await.is_err_and(|error| error.is_panic()) {
                std::process::abort();
            }
        });
    }
}
