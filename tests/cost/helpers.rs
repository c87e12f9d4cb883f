//! What git waits for its credential helper, and what a start of ours takes.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use molecule_tokenfs::demo::{Demo, Setup};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::stat;
use nix::time::ClockId;
use nix::unistd::Pid;

use crate::readers::now;
use crate::support::daemon::{Daemon, PROGRAM, tokenfs_run};
use crate::support::dir::TestDir;
use crate::support::process::{User, command};

const REQUEST: &[u8] = b"protocol=https\nhost=github.com\n\n";

/// A helper, as git is configured with it.
pub struct Helper {
    pub name: &'static str,
    config: PathBuf,
    password: Password,
}

/// What a helper must answer.
#[derive(Clone, Copy)]
enum Password {
    AnyToken,
    Constant,
}

/// A platform, a mount of its tokens, and git with one helper or another.
pub struct Git {
    pub helpers: Vec<Helper>,
    dir: TestDir,
    demo: Demo,
    _daemon: Daemon,
}

pub const OURS: &str = "molecule-tokenfs git-credential";
pub const IN_THE_SHELL: &str = "git-credential-molecule (sh)";
pub const CAT: &str = "cat of the mount";
pub const OLD: &str = "the old helper (bash), its cache warm";
pub const NONE: &str = "a helper that prints a constant";

impl Git {
    pub fn new() -> Self {
        let dir = TestDir::new();
        let demo = Demo::start(Setup::default()).expect("the demo platform starts");
        demo.register(&dir.join("configs")).expect("the workspace registers");
        let daemon = Daemon::at(&dir)
            .log_level("warn")
            .env("PLATFORM_URL", demo.url())
            .env("WORKSPACE_ID", &demo.address().workspace_id)
            .start();
        let mut git = Self { helpers: Vec::new(), dir, demo, _daemon: daemon };
        let mountpoint = git.dir.join("token");
        let mountpoint = mountpoint.to_str().unwrap();
        let place = |name: &str| git.dir.join(name).to_str().unwrap().to_owned();
        let (ours, shell, script) = (place("ours"), place("shell"), place("helper"));
        tokenfs_run(&git.dir, &["setup", "git", "--file", &ours, "--mountpoint", mountpoint]).ok();
        let setup = ["setup", "git", "--mountpoint", mountpoint];
        let in_the_shell = ["--file", &shell, "--shell-helper", &script];
        tokenfs_run(&git.dir, &[&setup[..], &in_the_shell[..]].concat()).ok();
        let old =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cost/molecule-git-token-helper.sh");
        let line =
            |helper: &str| format!("[credential \"https://github.com\"]\n\thelper = {helper}\n");
        let cat = line(&format!("\"!cat {mountpoint}/git-credential #\""));
        let none = line("\"!echo password=constant; echo username=x #\"");
        let file = |name, text: String| git.dir.file(name, text);
        let helper = |name, config, password| Helper { name, config, password };
        git.helpers = vec![
            helper(OURS, ours.into(), Password::AnyToken),
            helper(OLD, file("old", line(old.to_str().unwrap())), Password::AnyToken),
            helper(IN_THE_SHELL, shell.into(), Password::AnyToken),
            helper(CAT, file("cat", cat), Password::AnyToken),
            helper(NONE, file("none", none), Password::Constant),
        ];
        // The first call of each fetches, or fills its cache.
        for helper in &git.helpers {
            git.fill(helper);
        }
        git
    }

    /// How long `git credential fill` takes with this helper.
    pub fn fill(&self, helper: &Helper) -> Duration {
        let mut git = Command::new("git");
        git.args(["credential", "fill"]);
        let own = command("git", User::Own);
        git.env_clear().envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
        git.env("HOME", self.dir.path())
            .env("GIT_CONFIG_GLOBAL", &helper.config)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("CONFIGS_DIR", self.dir.join("configs"))
            .env("PLATFORM_URL", self.demo.url())
            .env("WORKSPACE_ID", &self.demo.address().workspace_id)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .current_dir(self.dir.path());
        let start = now(ClockId::CLOCK_MONOTONIC);
        let mut running = git.spawn().expect("git starts");
        running.stdin.take().unwrap().write_all(REQUEST).expect("git listens");
        let output = running.wait_with_output().expect("git ends");
        let took = now(ClockId::CLOCK_MONOTONIC).saturating_sub(start);
        let said = String::from_utf8_lossy(&output.stdout);
        let password = match helper.password {
            Password::AnyToken => "password=ghs_",
            Password::Constant => "password=constant",
        };
        assert!(output.status.success() && said.contains(password), "{}: {said}", helper.name);
        took
    }
}

/// From the start of `mount` to the first answered `stat` of a file in it.
pub fn start_to_first_stat(dir: &TestDir) -> Duration {
    dir.folder("configs");
    let mountpoint = dir.join("started");
    let file = mountpoint.join("token");
    let start = now(ClockId::CLOCK_MONOTONIC);
    // Not through setpriv, which would be measured, too: it ends with us by its own means.
    let mut daemon = Command::new(PROGRAM)
        .args(["mount", "--with-parent", "--made-up", "1h", "--log-level", "warn"])
        .arg(&mountpoint)
        .env_clear()
        .env("CONFIGS_DIR", dir.join("configs"))
        .stdin(Stdio::null())
        .spawn()
        .expect("mount starts");
    let pause = Duration::from_micros(50);
    let answered = loop {
        if stat(&file).is_ok() {
            break Some(now(ClockId::CLOCK_MONOTONIC).saturating_sub(start));
        }
        if daemon.try_wait().expect("a child").is_some() {
            break None;
        }
        std::thread::sleep(pause);
    };
    let _ = kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGTERM);
    let ended = daemon.wait().expect("mount ends");
    assert!(ended.success() && fs::metadata(&file).is_err(), "{ended}");
    answered.expect("mount served")
}
