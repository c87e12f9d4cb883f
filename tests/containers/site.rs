//! What containers live on: a platform, a root file system, and the loop that the agent runs.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use molecule_tokenfs::demo::Demo;
use nix::mount::{MsFlags, mount};

use crate::support::daemon::PROGRAM;
use crate::support::dir::TestDir;
use crate::support::namespace::{old_control_groups, open_fuse_device, own_null};
use crate::support::process::{ORDINARY, User, command, run};
use crate::support::secs;
use crate::support::template::project;
use crate::world::platform;

/// What the agent does, over and over. It counts what fails and goes on, and says so at the end.
pub const LOOP: &str = r#"
    cd "$HOME" || exit
    start=$(date +%s) gh_ok=0 gh_failed=0 git_ok=0 git_failed=0 first=null
    try() {
        kind=$1
        shift
        if "$@" >>said 2>&1; then
            eval "${kind}_ok=\$((${kind}_ok + 1))"
        else
            eval "${kind}_failed=\$((${kind}_failed + 1))"
            [ "$first" != null ] || first=$(($(date +%s) - start))
            return 1
        fi
    }
    while [ $(($(date +%s) - start)) -lt "$RUN_SECONDS" ]; do
        rm -rf clone
        try gh gh api /user
        try git git clone -q "$URL" clone || { sleep 0.2; continue; }
        git -C clone -c user.name=a -c user.email=a@example.com commit -q --allow-empty -m "$(date +%s)"
        try git git -C clone push -q origin HEAD
        try git git -C clone fetch -q
        sleep "$PAUSE"
    done
    [ "$gh_failed$git_failed" = 00 ] || tail -n 5 said >&2
    echo "{\"gh_ok\":$gh_ok,\"gh_failed\":$gh_failed,\"git_ok\":$git_ok,\"git_failed\":$git_failed,\"first_failure_seconds\":$first}"
"#;

/// What a shell beside it does, once.
pub const SHELL: &str = r#"
    export HOME=/home/agent
    cd "$HOME" && gh api /user >/dev/null && git ls-remote "$URL" HEAD"#;

/// How an image is wired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wiring {
    /// By `run`, and a mount.
    Run,
    /// By `run`, where there is no FUSE.
    Files,
    /// As before: the token of the start, in the environment.
    Frozen,
}

impl Wiring {
    pub fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Files => "run, no FUSE",
            Self::Frozen => "frozen",
        }
    }
}

/// See the module. Make it in `sandboxed` only.
pub struct Site {
    pub demo: Demo,
    pub dir: TestDir,
    url: String,
    life: Duration,
}

impl Site {
    pub fn new(life: Duration) -> Self {
        let dir = TestDir::new();
        // Before the network of the test's own, in which no package can be downloaded.
        cached_root("python", &dir);
        // Container engines make directories of theirs there, whatever place they are told.
        mount(None::<&str>, "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
        open_fuse_device(&dir);
        own_null(&dir);
        old_control_groups();
        let demo = platform(&dir, life);
        let url = demo.create_repository("work.git").unwrap();
        Self { demo, dir, url, life }
    }

    /// Gives the agent of a container its bearer; `agent` is its number on this machine.
    pub fn configs(&self, agent: u32) -> PathBuf {
        let configs = self.dir.join("configs");
        for path in [configs.clone(), configs.join(".auth_token")] {
            std::os::unix::fs::chown(path, Some(agent), Some(agent)).unwrap();
        }
        configs
    }

    /// A root file system of its own for a container: Debian's with git and gh, and the program.
    pub fn root(&self, name: &str) -> PathBuf {
        let root = self.bare_root("python", name);
        fs::copy(PROGRAM, root.join("usr/local/bin/molecule-tokenfs")).unwrap();
        root
    }

    /// The same without the program, of this name in `scripts/rootfs`.
    pub fn bare_root(&self, recipe: &str, name: &str) -> PathBuf {
        let lower = cached_root(recipe, &self.dir);
        let [upper, work, root] =
            ["upper", "work", "root"].map(|part| self.dir.folder(&format!("{name}-{part}")));
        let options =
            format!("lowerdir={lower},upperdir={},workdir={}", upper.display(), work.display());
        let none = MsFlags::empty();
        mount(Some("overlay"), &root, Some("overlay"), none, Some(options.as_str())).unwrap();
        fs::copy("/etc/hosts", root.join("etc/hosts")).unwrap();
        root
    }

    /// What the container is started with, as the platform does it.
    pub fn environment(&self, wiring: Wiring, seconds: u64) -> Vec<(String, String)> {
        let token = match wiring {
            Wiring::Frozen => {
                String::from_utf8(self.demo.ledger().issue().secret.expose().to_vec()).unwrap()
            }
            _ => "ghs_of-an-hour-ago".to_owned(),
        };
        let mut variables = vec![
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
            ("PLATFORM_URL", self.demo.url().to_owned()),
            ("WORKSPACE_ID", self.demo.address().workspace_id.clone()),
            ("CONFIGS_DIR", "/configs".to_owned()),
            ("GITHUB_TOKEN", token.clone()),
            ("GH_HOST", "github.localhost".to_owned()),
            ("URL", self.url.clone()),
            ("RUN_SECONDS", seconds.to_string()),
            // What one round takes at most, on a busy machine.
            ("MOLECULE_TOKENFS_MIN_LIFE", format!("{}s", (self.life * 2 / 5).as_secs().min(20))),
            ("PAUSE", (self.life / 60).as_secs_f64().to_string()),
            ("MOLECULE_TOKENFS_HOST", self.demo.host().to_owned()),
        ];
        if wiring == Wiring::Frozen {
            variables.push(("GH_TOKEN", token));
        }
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The first process of the container, and its words.
    pub fn words(wiring: Wiring) -> Vec<String> {
        let run = ["molecule-tokenfs", "run", "--user", "agent", "--", "sh", "-c", LOOP];
        let frozen = format!(
            "export HOME=/home/agent
             git config --global credential.helper \
             '!f() {{ echo username=x-access-token; echo \"password=$GITHUB_TOKEN\"; }}; f'
             {LOOP}"
        );
        match wiring {
            Wiring::Run | Wiring::Files => run.map(str::to_owned).to_vec(),
            Wiring::Frozen => ["gosu", "agent", "sh", "-c", &frozen].map(str::to_owned).to_vec(),
        }
    }
}

/// The directory of a root file system, made by the first test that asks and kept for all others.
fn cached_root(recipe: &str, dir: &TestDir) -> String {
    let mut make = tool(project("scripts/rootfs").to_str().unwrap());
    make.arg(recipe).env("HOME", home());
    run(make, dir, secs(300)).ok().trim().to_owned()
}

#[expect(clippy::disallowed_methods, reason = "where scripts/rootfs keeps what it made")]
fn home() -> std::ffi::OsString {
    std::env::var_os("HOME").unwrap_or("/root".into())
}

/// A command for a runtime, with nothing of this machine's settings.
pub fn tool(name: &str) -> Command {
    command(name, User::Own)
}

/// The number of the agent where numbers are those of the machine.
pub const AGENT: u32 = ORDINARY;
