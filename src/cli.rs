//! The command line. A command is one line in [`Command`], one in [`Command::run`], and a file in
//! `cmd/`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cmd;
use crate::cmd::secrecy::Limits;

/// The exit codes that the commands share.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed, or working in a degraded way
  2  the command line or the configuration is wrong
  3  there is no token";

/// Those of `run`.
const EXIT_CODES_OF_RUN: &str = "\
Exit codes:
  that of the command, 128+n when signal n ended it, or
  1    the tokens cannot be served
  2    the command line or the configuration is wrong
  126  the command cannot be run
  127  the command is not found";

/// Those of `exec`.
const EXIT_CODES_OF_EXEC: &str = "\
Exit codes:
  that of the command, or
  1    the token may not be read
  2    the command line is wrong
  3    there is no token
  126  the command cannot be run
  127  the command is not found";

/// A filesystem whose files are always-fresh short-lived tokens.
#[derive(Debug, Parser)]
#[command(name = "molecule-tokenfs", version, about, after_help = EXIT_CODES)]
#[command(propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount the tokens and serve them until a signal ends it
    Mount(Box<cmd::mount::MountArgs>),
    /// Mount, wire git and gh, and run a command: the first process of a container
    #[command(after_help = EXIT_CODES_OF_RUN)]
    Run(Box<cmd::run::RunArgs>),
    /// Become the command of `run`
    #[command(hide = true)]
    RunCommand(Box<cmd::run::stage::StageArgs>),
    /// Serve a mount for the process that started it
    #[command(hide = true)]
    Worker(Box<cmd::worker::WorkerArgs>),
    /// Read a file of somebody else's for the process that started it
    #[command(hide = true)]
    ReadForeign(cmd::read_foreign::ReadForeignArgs),
    /// Let the program that is on disk now take the mount over, without an unmount
    Upgrade(cmd::upgrade::UpgradeArgs),
    /// Unmount the tokens; the daemon that serves them then ends
    Umount(cmd::umount::UmountArgs),
    /// Print the token, or another view of it
    #[command(after_help = EXIT_CODES)]
    Get(cmd::get::GetArgs),
    /// Say how the token stands, what fails and what to do
    Status(cmd::status::StatusArgs),
    /// Wait until a fresh token can be read
    #[command(after_help = EXIT_CODES)]
    Wait(cmd::wait::WaitArgs),
    /// Fetch a new token now
    #[command(after_help = EXIT_CODES)]
    Refresh(cmd::refresh::RefreshArgs),
    /// Run one command with a fresh token in its environment
    #[command(after_help = EXIT_CODES_OF_EXEC)]
    Exec(cmd::exec::ExecArgs),
    /// Show every setting, its value and where it comes from
    Check(Box<cmd::check::CheckArgs>),
    /// Look at all that stands between a tool and its token, and say what mends it
    Doctor(cmd::doctor::DoctorArgs),
    /// Show everything at work here, with short-lived tokens, real git and real gh
    Demo(cmd::demo::DemoArgs),
    /// Serve the demo's platform, git server and REST interface until standard input closes
    #[command(hide = true)]
    DemoPlatform(Box<cmd::demo::platform::PlatformArgs>),
    /// Make git and gh use the mount, or take it back
    Setup(cmd::setup::SetupArgs),
    /// Answer git as its credential helper; `setup git` tells git to run it
    GitCredential(cmd::git_credential::GitCredentialArgs),
    /// Print the completions for a shell
    Completions(cmd::completions::CompletionsArgs),
    /// Write the manual pages into a directory
    Man(cmd::completions::ManArgs),
}

impl Command {
    /// Whether it opens a view, as any reader does. Those that serve tokens see to themselves.
    fn reads_tokens(&self) -> bool {
        matches!(
            self,
            Self::Get(_)
                | Self::Wait(_)
                | Self::Refresh(_)
                | Self::Exec(_)
                | Self::GitCredential(_)
        )
    }

    /// Runs the command.
    ///
    /// # Errors
    /// What it could not do; [`cmd::report`] prints it and knows the exit code.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let before = self.reads_tokens().then(Limits::close);
        match self {
            Self::Mount(args) => cmd::mount::run(*args),
            Self::Run(args) => cmd::run::run(*args),
            Self::RunCommand(args) => cmd::run::stage::run(&args),
            Self::Worker(args) => cmd::worker::run(&args),
            Self::ReadForeign(args) => cmd::read_foreign::run(&args),
            Self::Upgrade(args) => cmd::upgrade::run(&args),
            Self::Umount(args) => cmd::umount::run(args),
            Self::Get(args) => cmd::get::run(&args),
            Self::Status(args) => cmd::status::run(&args),
            Self::Wait(args) => cmd::wait::run(&args),
            Self::Refresh(args) => cmd::refresh::run(&args),
            Self::Exec(args) => cmd::exec::run(&args, before),
            Self::Check(args) => cmd::check::run(&args),
            Self::Doctor(args) => cmd::doctor::run(&args),
            Self::Demo(args) => cmd::demo::run(&args),
            Self::DemoPlatform(args) => cmd::demo::platform::run(&args),
            Self::Setup(args) => cmd::setup::run(args),
            Self::GitCredential(args) => cmd::git_credential::run(&args),
            Self::Completions(args) => cmd::completions::run(&args),
            Self::Man(args) => cmd::completions::man(&args),
        }
    }
}
