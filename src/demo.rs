//! The demo platform: everything that a workspace talks to, on loopback.
//!
//! One server gives tokens like the Molecule platform and checks them like GitHub: a token endpoint
//! ([`platform`]), GitHub's endpoints for Apps ([`github`]), a smart-HTTP git server (`git`) with git-lfs (`lfs`) and a GitHub-like REST interface (`rest`),
//! all behind one [`ledger`], with [`faults`] on demand. The demo, the tests, the soak and the benchmarks use it;
//! there is no other mock.

use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::demo::consumers::Consumers;
use crate::demo::faults::Faults;
use crate::demo::github::Github;
use crate::demo::ledger::{Ledger, Minting};
use crate::demo::platform::{Bearer, Strays};
use crate::demo::server::{Server, Shared};
use crate::time::SystemClock;

pub mod consumers;
pub mod faults;
mod git;
pub mod github;
pub mod ledger;
mod lfs;
pub mod platform;
mod reply;
mod rest;
mod server;

/// How the demo platform is set up. The default issues hour-long tokens at the admin path.
#[derive(Debug, Clone)]
pub struct Setup {
    /// How tokens are minted.
    pub minting: Minting,
    /// The workspace that the platform knows. The admin path answers in any case.
    pub workspace_id: String,
    /// Answer on this Unix socket as well (for `gh`'s `http_unix_socket`).
    pub unix_socket: Option<PathBuf>,
    /// Serve the bare repositories in this directory under `/git/`.
    pub git_root: Option<PathBuf>,
    /// The port of 127.0.0.1; 0 for a free one.
    pub port: u16,
    /// The folder of static files that [`consumers`] serves.
    pub site: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            minting: Minting::default(),
            workspace_id: "demo-workspace".to_owned(),
            unix_socket: None,
            git_root: None,
            port: 0,
            site: None,
        }
    }
}

impl Setup {
    /// The default with tokens that live this long.
    #[must_use]
    pub fn with_life(life: Duration) -> Self {
        Self::default().minting(|minting| minting.life = life)
    }

    /// Changes how tokens are minted.
    #[must_use]
    pub fn minting(mut self, change: impl FnOnce(&mut Minting)) -> Self {
        change(&mut self.minting);
        self
    }

    /// With tokens of these lengths in bytes.
    #[must_use]
    pub fn lengths(self, lengths: RangeInclusive<usize>) -> Self {
        self.minting(|minting| minting.lengths = lengths)
    }
}

/// Where a running demo platform is: what another process needs to use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The base URL, without a trailing slash: `PLATFORM_URL`, and the base of REST and of
    /// `/demo/…`.
    pub url: String,
    /// The workspace that it knows.
    pub workspace_id: String,
    /// The Unix socket that it answers on as well.
    pub unix_socket: Option<PathBuf>,
}

/// A running demo platform. It serves from a thread of its own, so that tests without a runtime can
/// use it, and stops when dropped.
pub struct Demo {
    shared: Arc<Shared>,
    address: Address,
    _server: Server,
}

impl Demo {
    /// Starts it on 127.0.0.1.
    ///
    /// # Errors
    /// A port or the Unix socket cannot be bound, or the thread cannot be started.
    pub fn start(setup: Setup) -> io::Result<Self> {
        let listeners = server::Listeners::bind(setup.port, setup.unix_socket.as_deref())?;
        let url = format!("http://{}", listeners.main.local_addr()?);
        let shared = Arc::new(Shared {
            ledger: Ledger::new(setup.minting, Arc::new(SystemClock)),
            faults: Faults::default(),
            bearer: Bearer::default(),
            strays: Strays::default(),
            consumers: Consumers::new(setup.site),
            github: Github::default(),
            workspace_id: setup.workspace_id.clone(),
            git_root: setup.git_root,
            elsewhere: format!("http://{}", listeners.elsewhere.local_addr()?),
        });
        let address =
            Address { url, workspace_id: setup.workspace_id, unix_socket: setup.unix_socket };
        let server = Server::start(listeners, Arc::clone(&shared))?;
        Ok(Self { shared, address, _server: server })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The base URL, without a trailing slash.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.address.url
    }

    /// `127.0.0.1:port`: the host that its tokens are for.
    #[must_use]
    pub fn host(&self) -> &str {
        self.address.url.trim_start_matches("http://")
    }

    /// What was issued and what came back.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// What goes wrong.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Requests that ended up at the other origin that [`faults::Fault::RedirectElsewhere`] points
    /// to, and whether any of them carried a credential.
    #[must_use]
    pub fn strays(&self) -> &Strays {
        &self.shared.strays
    }

    /// What programs with clients of their own presented.
    #[must_use]
    pub fn consumers(&self) -> &Consumers {
        &self.shared.consumers
    }

    /// The GitHub Apps that it knows.
    #[must_use]
    pub fn github(&self) -> &Github {
        &self.shared.github
    }

    /// Writes the bearer that the platform accepts into `configs_dir`, as a workspace that
    /// registers does; makes the directory where it is missing.
    ///
    /// # Errors
    /// The directory or the file cannot be written.
    pub fn register(&self, configs_dir: &Path) -> io::Result<PathBuf> {
        self.shared.bearer.write(configs_dir)
    }

    /// Makes a repository `name` (for example `work.git`) with one commit on `main`, and gives the
    /// URL to clone it from.
    ///
    /// # Errors
    /// The setup has no `git_root`, or git is missing or fails.
    pub fn create_repository(&self, name: &str) -> io::Result<String> {
        let root = self.shared.git_root.as_deref();
        let root = root.ok_or_else(|| io::Error::other("this demo platform has no git_root"))?;
        git::create_repository(root, name)?;
        Ok(format!("{}{}/{name}", self.url(), git::PREFIX))
    }

    /// Accepts a new bearer only, until then unknown to anybody: [`Demo::register`] writes it.
    pub fn rotate_bearer(&self) {
        self.shared.bearer.rotate();
    }
}
