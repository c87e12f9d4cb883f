//! `run`: a container's first process. It mounts the tokens, wires git and gh to them, and runs the
//! command of the container as its user.
#![expect(clippy::doc_markdown, reason = "the comments at the flags are their help, not Markdown")]

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio};

use anyhow::Context;
use nix::sys::prctl;
use nix::unistd::Uid;

use crate::cmd::serve::{self, Executable, serve};
use crate::cmd::served::ServeArgs;
use crate::cmd::setup::git::{self, Asked};
use crate::config::{self, Settings};
use crate::connection::supervisor::{End, take_signals};
use crate::observe::LogLevel;
use crate::program::Streams;

mod descendants;
mod environment;
mod init;
mod real_time;
mod shim;
pub mod stage;
mod system_wide;
mod terminal;
mod typing;
mod user;

use environment::Variables;
use init::Init;
use shim::Shim;
use system_wide::SystemWide;
use terminal::Terminal;
use user::Identity;

/// The arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Run the command as this user, and let it read the tokens: NAME or UID; add :GROUP to use that
    /// group alone instead of the user's own groups
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,

    /// Where to mount; missing directories are made, and removed at the end [default:
    /// /run/molecule/token for root, else $XDG_RUNTIME_DIR/molecule/token, else
    /// ~/.molecule-tokenfs/token]
    #[arg(long, value_name = "PATH")]
    pub mountpoint: Option<PathBuf>,

    /// Do not wire git and gh for all users: in shells of `docker exec` they then have no token
    #[arg(long)]
    pub no_system_wide: bool,

    /// Leave the command every capability that it would have without `run`, including the one to
    /// unmount the tokens
    #[arg(long)]
    pub keep_capabilities: bool,

    /// Do not let the command gain rights through setuid programs: sudo and the like then do not work
    #[arg(long)]
    pub no_new_privileges: bool,

    /// The command and its arguments; without a command, the tokens are served until a signal arrives
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,

    /// What is served.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// Serves and runs the command; its exit code is that of the command.
///
/// # Errors
/// When the tokens cannot be served; the command is not started then.
pub fn run(mut args: RunArgs) -> anyhow::Result<ExitCode> {
    let user = args.user.as_deref().map(Identity::parse).transpose()?;
    args.serve.default_owner = args.serve.default_owner.or(user.as_ref().map(|user| user.uid));
    args.serve.default_log_level = io::stderr().is_terminal().then(LogLevel::on_a_terminal);
    let settings = args.serve.load()?;
    let target = args.mountpoint.clone().map_or_else(default_mountpoint, Ok)?;
    let target = std::path::absolute(target).context("cannot tell the current directory")?;
    let stderr = serve::begin(&args.serve, &settings)?;
    let executable = Executable::own()?;
    let git = git_settings(&settings, &target)?;
    // Orphans are ours also where we are not the first process.
    prctl::set_child_subreaper(true).context("cannot wait for orphans")?;
    let signals = take_signals(init::signals())?;
    let terminal = Terminal::own();
    let mut wiring = Wiring::default();
    let expected = !args.command.is_empty();
    let mut init = Init::new(terminal.as_ref(), expected, || {
        tracing::info!("serving at {}", target.display());
        wiring.system_wide =
            (Uid::effective().is_root() && !args.no_system_wide).then(|| SystemWide::wire(&git));
        if !expected {
            return Ok(None);
        }
        let hosts = &settings.hosts.value;
        let mut variables = variables(user.as_ref(), &git, &target, hosts, &mut wiring);
        settings.tables.secret_variables().for_each(|name| variables.remove(name));
        let identity = user.clone().unwrap_or_else(Identity::own);
        let errors = stderr.try_clone().context("cannot start the command")?.into();
        start(&args, &executable, &identity, terminal.is_some(), &variables, errors).map(Some)
    });
    let served = serve(&args.serve, &settings, &target, &executable, &signals, &mut init);
    if !matches!(served, Ok(End::Stopped)) && init.is_running() {
        let why =
            served.map_or_else(|error| format!("{error:#}"), |_| "they were unmounted".into());
        tracing::error!("the command goes on without tokens: {why}");
        init.go_on(&signals);
    } else {
        served?;
    }
    init.outcome().map(ExitCode::from)
}

/// Where nobody says where. The ordinary user of an image rarely has an `XDG_RUNTIME_DIR`; the command is
/// told where the tokens are, so that any place will do.
fn default_mountpoint() -> anyhow::Result<PathBuf> {
    config::default_mountpoint().or_else(|error| match config::env("HOME") {
        Some(home) => Ok(Path::new(&home).join(".molecule-tokenfs/token")),
        None => Err(error),
    })
}

/// What is taken back when the command has ended.
#[derive(Default)]
struct Wiring {
    system_wide: Option<SystemWide>,
    shim: Option<Shim>,
}

/// The settings that make git ask the mount at `target`.
fn git_settings(settings: &Settings, target: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let program = git::binary_program().context("this binary is no longer at its place")?;
    let by_repository = settings.tables.has_choice();
    Ok(git::settings(&Asked::of(&program, &settings.hosts.value, Some(target))?, by_repository))
}

/// The environment of the command. What cannot be wired is told and left out.
fn variables(
    user: Option<&Identity>,
    git: &[(String, String)],
    target: &Path,
    hosts: &[String],
    wiring: &mut Wiring,
) -> Variables {
    let mut variables = Variables::new(config::variables());
    match user {
        Some(user) => {
            user.variables().into_iter().for_each(|(name, value)| variables.set(name, value));
        }
        // A container's engine sets it; where nobody did, few programs can do without.
        None => variables.set_default("HOME", Identity::own().home),
    }
    variables.remove_frozen_tokens();
    variables.name_the_mount(target, hosts);
    if let Err(why) = variables.add_git_settings(git) {
        tracing::warn!("git is not wired through the environment: {why}");
    }
    match Shim::install() {
        Ok(shim) => {
            variables.put_first_in_path(shim.path());
            wiring.shim = Some(shim);
        }
        Err(error) => tracing::warn!("gh is not wired through PATH: {error:#}"),
    }
    variables
}

fn start(
    args: &RunArgs,
    executable: &Executable,
    identity: &Identity,
    foreground: bool,
    variables: &Variables,
    errors: Stdio,
) -> anyhow::Result<Child> {
    let words = stage::words(identity, foreground, args);
    let program = executable.command(words, variables.all()).context("cannot start the command")?;
    let streams = Streams { input: Stdio::inherit(), output: Stdio::inherit(), errors };
    program.start(streams).context("cannot start the command")
}
