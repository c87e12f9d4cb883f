//! The doors of a host: each is a directory of views for one group of readers, with an owner and a mode of
//! its own. Tokens that come from the same sources are one token, however many doors show it.

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::connection::tokens::{Shared, identity};
use crate::fs::access::Access;
use crate::fs::generations::TokenState;
use crate::fs::generations::regions::{Kind, Whose};
use crate::fs::node::Root;
use crate::fs::pages::Other;
use crate::fs::{Fs, FsConfig};
use crate::refresh::Engine;
use crate::refresh::policy::Windows;
use crate::service::TokenService;
use crate::source::SourceConfig;
use crate::status::Identity;
use crate::view::ViewContext;

/// A door, as the configuration has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DoorConfig {
    /// Its name, that of the directory.
    pub name: String,
    /// Owner and modes of what is in it.
    pub access: Access,
    /// The token whose views it shows.
    pub token: DoorToken,
    /// Those that have a directory in it, by name.
    pub named: Vec<(String, DoorToken)>,
}

/// A token, as a door shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DoorToken {
    /// Where it comes from, in order.
    pub sources: Vec<SourceConfig>,
    /// What its views are rendered with.
    pub views: ViewContext,
    /// Whose repositories it is for, in lower case, where that is known.
    pub owners: Vec<String>,
}

/// The doors of a mount, and the tokens that they show.
pub struct Doors<'a> {
    shared: &'a Shared,
    windows: &'a Windows,
    /// By what decides which token comes.
    services: Vec<(Zeroizing<Vec<u8>>, TokenService<TokenState>)>,
    /// By path; each door before what is in it.
    places: Vec<(String, Arc<Fs>)>,
}

impl<'a> Doors<'a> {
    /// None as yet.
    #[must_use]
    pub fn new(shared: &'a Shared, windows: &'a Windows) -> Self {
        Self { shared, windows, services: Vec::new(), places: Vec::new() }
    }

    /// Makes a door, which goes on where an earlier worker's stopped.
    ///
    /// # Errors
    /// Where there is no memory for the states.
    pub fn add(&mut self, door: DoorConfig) -> io::Result<()> {
        let DoorConfig { name: door, access, token, named } = door;
        let own = self.shared.identity.name.clone();
        let mut inside = Vec::new();
        let mut others = Vec::new();
        for (name, token) in named {
            let path = format!("{door}/{name}");
            let (fs, shown) = self.show(&door, (&path, name), access, token, Vec::new())?;
            inside.push((path, fs));
            others.push(shown);
        }
        let (fs, _) = self.show(&door, (&door, own), access, token, others)?;
        self.places.push((door, fs));
        self.places.extend(inside);
        Ok(())
    }

    /// Shows a token at a path; for people it has the name that is given with that.
    fn show(
        &mut self,
        door: &str,
        (path, name): (&str, String),
        access: Access,
        token: DoorToken,
        others: Vec<Other>,
    ) -> io::Result<(Arc<Fs>, Other)> {
        let DoorToken { sources, views, owners } = token;
        let (root, shared) = (Root::Directory, self.shared);
        let key = identity(&sources)?;
        let made = self.services.iter().position(|(of, _)| *of == key);
        let made = if let Some(made) = made {
            made
        } else {
            let whose = Whose { kind: Kind::Shared, name: "", configuration: &key };
            let service = shared.service(whose, sources, self.windows.clone(), Vec::new())?;
            self.services.push((key, service));
            self.services.len() - 1
        };
        let nobody = || io::Error::other("a token that nobody made");
        let (_, service) = self.services.get(made).ok_or_else(nobody)?;
        let place = shared.connection.place(path, &service.store, root.views())?;
        let config = FsConfig { root, access, views, ..shared.fs.clone() };
        let mountpoint = shared.identity.mountpoint.join(door);
        let hosts = config.views.hosts.clone();
        let identity = Identity { name, mountpoint, owners, hosts, ..shared.identity.clone() };
        Ok(shared.show(service, place, config, identity, others))
    }

    /// The file systems by path, each door before what is in it; and the engines of the tokens.
    #[must_use]
    pub fn finish(self) -> (Vec<(String, Arc<Fs>)>, Vec<Engine>) {
        let engines = self.services.into_iter().map(|(_, service)| service.engine).collect();
        (self.places, engines)
    }
}
