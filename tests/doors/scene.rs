//! A host with an App that is installed for two organisations, and its doors.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use molecule_tokenfs::demo::github::Installation;
use molecule_tokenfs::demo::{Demo, Setup};

use crate::support::daemon::{Builder, Daemon};
use crate::support::dir::TestDir;
use crate::support::process::{Finished, User, command, run};
use crate::support::secs;

/// The owners of the doors of [`Host::DOORS`].
pub const FIRST: u32 = 1000;
pub const SECOND: u32 = 2000;

pub struct Host {
    pub dir: TestDir,
    pub demo: Demo,
    config: PathBuf,
}

impl Host {
    /// Two users with a token each, of whom the first has that of the second, too; and another door with
    /// the first token.
    pub const DOORS: &str = "[doors.agent-1]\ntoken = 'acme'\ntokens = ['globex']\nowner = '1000'\n\
                             [doors.agent-2]\ntoken = 'globex'\nowner = '2000'\n\
                             [doors.agent-3]\ntoken = 'acme'\nowner = '1000'\n";

    pub fn new(setup: Setup) -> Self {
        let dir = TestDir::new();
        let demo = Demo::start(setup).unwrap();
        let key = dir.join("app.pem");
        let client_id = demo.github().create_app(&key).unwrap();
        let mut config = String::new();
        for (number, owner) in [(1, "acme"), (2, "globex")] {
            demo.github().install(Installation::of(number, owner, &["web"]));
            writeln!(
                config,
                "[tokens.{owner}]\nsources = ['{owner}-app']\n\
                 [sources.{owner}-app]\ntype = 'github-app'\nclient-id = '{client_id}'\n\
                 private-key = {{ file = '{}' }}\napi-url = '{}'\nowner = '{owner}'",
                key.display(),
                demo.url()
            )
            .unwrap();
        }
        let host = Self { config: dir.join("tokens.toml"), dir, demo };
        fs::write(&host.config, config).unwrap();
        host
    }

    /// Writes the configuration with these doors.
    pub fn describe(&self, doors: &str) -> PathBuf {
        let path = self.dir.join("host.toml");
        let tokens = fs::read_to_string(&self.config).unwrap();
        fs::write(&path, format!("{tokens}{doors}")).unwrap();
        path
    }

    /// A daemon that serves these doors.
    pub fn serve(&self, doors: &str) -> Builder<'_> {
        Daemon::of_host(&self.dir).arg_pair("--config", self.describe(doors))
    }

    /// A line of shell by a user, with the directory of the doors as `$1`.
    pub fn shell(&self, daemon: &Daemon, user: u32, line: &str) -> Finished {
        let mut sh = command("sh", User::Number(user));
        sh.args(["-c", line, "sh"]).arg(daemon.mountpoint());
        run(sh, &self.dir, secs(10))
    }

    /// What a user reads there.
    pub fn read(&self, daemon: &Daemon, user: u32, path: &str) -> String {
        self.shell(daemon, user, &format!("cat \"$1/{path}\"")).ok()
    }

    /// Whose the token is, by what the platform knows.
    pub fn owner_of(&self, token: &str) -> String {
        self.demo.ledger().scope(token.as_bytes()).unwrap().owner
    }
}
