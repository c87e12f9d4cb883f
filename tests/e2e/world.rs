//! A platform with short-lived tokens, a mount of them, and a network where both are at home.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use molecule_tokenfs::demo::github::Installation;
use molecule_tokenfs::demo::{Demo, Setup};

use crate::support::daemon::Daemon;
use crate::support::dir::TestDir;
use crate::support::process::{Finished, User, command, run};
use crate::support::{namespace, secs};

/// How long the tokens live.
pub const LIFE: Duration = secs(10);

/// Where gh looks for a mock: plain http, port 80 (its name for the API is that of the second line).
const HOSTS: &str = "127.0.0.1 localhost github.localhost api.github.localhost\n";

/// A workspace: everything in it ends with it. Its network is its own, so that the platform can have
/// port 80, where gh expects it.
pub struct World {
    pub daemon: Daemon,
    pub demo: Demo,
    pub dir: TestDir,
}

impl World {
    /// Call it in `sandboxed` only.
    pub fn new() -> Self {
        Self::of_life(LIFE, "4s")
    }

    /// The same with tokens of another life. The daemon serves none with less than `min_life` left.
    pub fn of_life(life: Duration, min_life: &str) -> Self {
        Self::with(life, &["--min-life", min_life])
    }

    /// The same with these flags of the daemon.
    pub fn with(life: Duration, flags: &[&str]) -> Self {
        let dir = TestDir::new();
        let demo = platform(&dir, life);
        let daemon = Daemon::at(&dir)
            .env("PLATFORM_URL", demo.url())
            .env("WORKSPACE_ID", &demo.address().workspace_id)
            .args(flags)
            .args(["--host", demo.host()])
            .start();
        Self { daemon, demo, dir }
    }

    /// A mount of the tokens of [`two_owners`].
    pub fn of_two_owners(life: Duration, min_life: &str) -> Self {
        let dir = TestDir::new();
        let demo = platform(&dir, life);
        let config = two_owners(&dir, &demo);
        let daemon = Daemon::at(&dir)
            .arg_pair("--config", config)
            .log_level("info")
            .args(["--min-life", min_life])
            .start();
        Self { daemon, demo, dir }
    }

    /// A command with a home of its own, and nothing of this machine's configuration.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = command(program, User::Own);
        command.env("HOME", self.dir.folder("home")).current_dir(self.dir.path());
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0");
        command
    }

    /// The name and version of git or gh: `git 2.39.5`.
    pub fn version(&self, program: &Path) -> String {
        let mut command = self.command(program);
        command.arg("--version");
        let said = self.run(command).ok();
        let words = said.split_whitespace().take(3).collect::<Vec<_>>();
        let [name, "version", version] = words[..] else {
            panic!("{} says {said}", program.display())
        };
        format!("{name} {version}")
    }

    pub fn run(&self, command: Command) -> Finished {
        run(command, &self.dir, secs(30))
    }
}

/// A platform on port 80 of a network of this thread's own, and a workspace that registered with it, in
/// `configs` of the directory.
pub fn platform(dir: &TestDir, life: Duration) -> Demo {
    namespace::replace_file(Path::new("/etc/hosts"), HOSTS, dir);
    namespace::private_network(dir);
    let setup =
        Setup { git_root: Some(dir.folder("repositories")), port: 80, ..Setup::with_life(life) };
    let demo = Demo::start(setup).unwrap();
    demo.register(&dir.join("configs")).unwrap();
    demo
}

/// The repositories of [`two_owners`].
pub const REPOSITORIES: [&str; 3] = ["acme/web", "acme/api", "globex/docs"];

/// Where a repository of the demo is.
pub fn url(demo: &Demo, repository: &str) -> String {
    format!("{}/git/{repository}.git", demo.url())
}

/// Makes the [`REPOSITORIES`], and an App that both owners have installed. The configuration has a token
/// for each owner, which is also made on demand; that of the mount itself is acme's.
pub fn two_owners(dir: &TestDir, demo: &Demo) -> PathBuf {
    for repository in REPOSITORIES {
        demo.create_repository(&format!("{repository}.git")).unwrap();
    }
    let key = dir.join("app.pem");
    let client_id = demo.github().create_app(&key).unwrap();
    demo.github().install(Installation::of(71, "acme", &["web", "api"]));
    demo.github().install(Installation::of(72, "globex", &["docs"]));
    let mut text = format!(
        "host = ['{}', 'github.localhost']\n[tokens.default]\nsources = ['acme-app']\n",
        demo.host()
    );
    for owner in ["acme", "globex"] {
        write!(
            text,
            "[tokens.{owner}]\nsources = ['{owner}-app']\non-demand = true\n\
             [sources.{owner}-app]\ntype = 'github-app'\nclient-id = '{client_id}'\n\
             private-key = {{ file = '{}' }}\napi-url = '{}'\nowner = '{owner}'\n",
            key.display(),
            demo.url()
        )
        .unwrap();
    }
    let config = dir.join("tokenfs.toml");
    fs::write(&config, text).unwrap();
    config
}

/// Every program of this name in PATH.
pub fn programs(name: &str) -> Vec<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "tests run what their caller has in PATH")]
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut programs: Vec<PathBuf> = std::env::split_paths(&path)
        .filter_map(|directory| directory.join(name).canonicalize().ok())
        .collect();
    programs.sort();
    programs.dedup();
    assert!(!programs.is_empty(), "there is no {name}: apt-get install {name}");
    programs
}

/// A script of the project.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}
