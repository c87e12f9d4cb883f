//! The command line. A command is one line in [`Command`], one in [`Command::run`], and a file in
//! `cmd/`.

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};

use crate::cmd::secrecy::Limits;
use crate::cmd::{self, EXIT_CODES, EXIT_CODES_WITHOUT_TOKEN};
use crate::program::hear_all_signals;
use deferred::Deferred;

mod deferred;

/// Those of `status`, as a monitor sees them.
const EXIT_CODES_OF_STATUS: &str = "\
Exit codes:
  0  a fresh token is served, or nobody has asked for one yet
  1  a token is served, but something fails; or the status may not be read
  2  the command line or the configuration is wrong
  3  there is no token, or nothing is mounted";

/// Those of `wait`.
const EXIT_CODES_OF_WAIT: &str = "\
Exit codes:
  0  a fresh token can be read
  2  the command line is wrong
  3  none could be read in time";

/// Those of `refresh`.
const EXIT_CODES_OF_REFRESH: &str = "\
Exit codes:
  0  the source answered, with another token or with the same one
  1  it gave none, and the last token is still served; or it could not be asked
  2  the command line is wrong
  3  there is no token, or nothing is mounted";

/// Those of `doctor`.
const EXIT_CODES_OF_DOCTOR: &str = "\
Exit codes:
  0  all is well, or there are only warnings
  1  something must be fixed
  2  the command line or the configuration is wrong";

/// Those of `git-credential`.
const EXIT_CODES_OF_GIT_CREDENTIAL: &str = "\
Exit codes:
  0  answered, or nothing for it to answer
  1  there is no token (git is told to quit), or the mount cannot be asked
  2  the command line is wrong";

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

impl Cli {
    /// Reads the command line of this process.
    ///
    /// # Errors
    /// What to print, with its exit code: also a help or a version that was asked for.
    pub fn from_process() -> Result<Self, clap::Error> {
        Self::try_parse().map_err(|mut error| {
            if let Some(tip) = missing_dashes(&error) {
                error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
            }
            error
        })
    }
}

/// What is wrong if a command for `run` or `exec` stands where their own words do.
fn missing_dashes(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else { return None };
    let Some(ContextValue::StyledStr(usage)) = error.get(ContextKind::Usage) else { return None };
    let (usage, takes_command) = (usage.to_string(), ["run", "exec"]);
    let named =
        takes_command.into_iter().find(|name| usage.contains(&format!("tokenfs {name} ")))?;
    let is_command = error.kind() == ErrorKind::UnknownArgument && !word.starts_with('-');
    is_command.then(|| {
        format!(
            "the command and its arguments stand after --: molecule-tokenfs {named} -- {word} …"
        )
    })
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount the tokens and serve them until a signal ends it
    #[command(after_help = EXIT_CODES_WITHOUT_TOKEN)]
    Mount(Deferred<cmd::mount::MountArgs>),
    /// Serve doors: a directory of tokens for each container of this host
    #[command(after_help = EXIT_CODES_WITHOUT_TOKEN)]
    Serve(Deferred<cmd::host::HostArgs>),
    /// Show a door in a container before it starts, for OCI runtimes
    #[command(after_help = EXIT_CODES_WITHOUT_TOKEN)]
    OciHook(Deferred<cmd::oci_hook::HookArgs>),
    /// Add, bind, remove and list the doors of `serve` while it runs
    #[command(after_help = EXIT_CODES_WITHOUT_TOKEN)]
    Doors(Deferred<cmd::doors::DoorsArgs>),
    /// Mount, wire git and gh, and run a command: the first process of a container
    #[command(after_help = EXIT_CODES_OF_RUN)]
    Run(Deferred<cmd::run::RunArgs>),
    /// Become the command of `run`
    #[command(hide = true)]
    RunCommand(Deferred<cmd::run::stage::StageArgs>),
    /// Serve a mount for the process that started it
    #[command(hide = true)]
    Worker(Deferred<cmd::worker::WorkerArgs>),
    /// Read a file of somebody else's for the process that started it
    #[command(hide = true)]
    ReadForeign(Deferred<cmd::read_foreign::ReadForeignArgs>),
    /// Hand the mount over to the program now on disk, without unmounting
    #[command(after_help = EXIT_CODES_WITHOUT_TOKEN)]
    Upgrade(Deferred<cmd::upgrade::UpgradeArgs>),
    /// Unmount the tokens; the daemon that serves them then ends
    #[command(after_help = EXIT_CODES_WITHOUT_TOKEN)]
    Umount(Deferred<cmd::umount::UmountArgs>),
    /// Show a mount of this host in a container that runs already
    #[command(after_help = EXIT_CODES_WITHOUT_TOKEN)]
    Attach(Deferred<cmd::attach::AttachArgs>),
    /// Take away what `attach` has shown in a container
    #[command(after_help = EXIT_CODES_WITHOUT_TOKEN)]
    Detach(Deferred<cmd::attach::DetachArgs>),
    /// Print the token, or another view of it
    #[command(after_help = EXIT_CODES)]
    Get(Deferred<cmd::get::GetArgs>),
    /// Show the state of the token, what fails and what to do
    #[command(after_help = EXIT_CODES_OF_STATUS)]
    Status(Deferred<cmd::status::StatusArgs>),
    /// Wait until a fresh token can be read
    #[command(after_help = EXIT_CODES_OF_WAIT)]
    Wait(Deferred<cmd::wait::WaitArgs>),
    /// Fetch a new token now
    #[command(after_help = EXIT_CODES_OF_REFRESH)]
    Refresh(Deferred<cmd::refresh::RefreshArgs>),
    /// Run one command with a fresh token in its environment
    #[command(after_help = EXIT_CODES_OF_EXEC)]
    Exec(Deferred<cmd::exec::ExecArgs>),
    /// Write a configuration, after it was seen to give a token
    Init(Deferred<cmd::init::InitArgs>),
    /// Show every setting, its value and where it comes from
    #[command(after_help = EXIT_CODES)]
    Check(Deferred<cmd::check::CheckArgs>),
    /// Check everything between a tool and its token, and say how to fix it
    #[command(after_help = EXIT_CODES_OF_DOCTOR)]
    Doctor(Deferred<cmd::doctor::DoctorArgs>),
    /// Show it all at work on this machine, with short-lived tokens, real git and real gh
    #[command(after_help = EXIT_CODES_WITHOUT_TOKEN)]
    Demo(Deferred<cmd::demo::DemoArgs>),
    /// Serve the demo's platform, git server and REST interface until standard input closes
    #[command(hide = true)]
    DemoPlatform(Deferred<cmd::demo::platform::PlatformArgs>),
    /// Make git and gh use the mount, or undo that
    #[command(after_help = EXIT_CODES_WITHOUT_TOKEN)]
    Setup(Deferred<cmd::setup::SetupArgs>),
    /// Answer git as its credential helper; `setup git` tells git to run it
    #[command(after_help = EXIT_CODES_OF_GIT_CREDENTIAL)]
    GitCredential(Deferred<cmd::git_credential::GitCredentialArgs>),
    /// Print the completions for a shell
    #[command(after_help = EXIT_CODES_WITHOUT_TOKEN)]
    Completions(Deferred<cmd::completions::CompletionsArgs>),
    /// Write the manual pages into a directory
    #[command(after_help = EXIT_CODES_WITHOUT_TOKEN)]
    Man(Deferred<cmd::completions::ManArgs>),
}

impl Command {
    /// Whether it opens a view, as any reader does, or asks a source. Those that serve tokens see to
    /// themselves.
    fn reads_tokens(&self) -> bool {
        matches!(
            self,
            Self::Get(_)
                | Self::Wait(_)
                | Self::Refresh(_)
                | Self::Exec(_)
                | Self::GitCredential(_)
                | Self::Init(_)
        ) || matches!(self, Self::Check(args) if args.live)
    }

    /// Whether another process of this program starts it, which may block signals.
    fn is_a_program(&self) -> bool {
        matches!(self, Self::Worker(_) | Self::ReadForeign(_) | Self::RunCommand(_))
    }

    /// Runs the command.
    ///
    /// # Errors
    /// What it could not do; [`cmd::report`] prints it and knows the exit code.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if self.is_a_program() {
            hear_all_signals()?;
        }
        let before = self.reads_tokens().then(Limits::close);
        match self {
            Self::Mount(args) => cmd::mount::run(&args),
            Self::Serve(args) => cmd::host::run(args.into_inner()),
            Self::Doors(args) => cmd::doors::run(args.into_inner()),
            Self::OciHook(args) => cmd::oci_hook::run(&args),
            Self::Run(args) => cmd::run::run(args.into_inner()),
            Self::RunCommand(args) => cmd::run::stage::run(&args),
            Self::Worker(args) => cmd::worker::run(&args),
            Self::ReadForeign(args) => cmd::read_foreign::run(&args),
            Self::Upgrade(args) => cmd::upgrade::run(&args),
            Self::Umount(args) => cmd::umount::run(args.into_inner()),
            Self::Attach(args) => cmd::attach::run(&args),
            Self::Detach(args) => cmd::attach::detach(&args),
            Self::Get(args) => cmd::get::run(&args),
            Self::Status(args) => cmd::status::run(&args),
            Self::Wait(args) => cmd::wait::run(&args),
            Self::Refresh(args) => cmd::refresh::run(&args),
            Self::Exec(args) => cmd::exec::run(&args, before),
            Self::Init(args) => cmd::init::run(args.into_inner()),
            Self::Check(args) => cmd::check::run(&args),
            Self::Doctor(args) => cmd::doctor::run(&args),
            Self::Demo(args) => cmd::demo::run(&args),
            Self::DemoPlatform(args) => cmd::demo::platform::run(&args),
            Self::Setup(args) => cmd::setup::run(args.into_inner()),
            Self::GitCredential(args) => cmd::git_credential::run(&args),
            Self::Completions(args) => cmd::completions::run(&args, Cli::command()),
            Self::Man(args) => cmd::completions::man(&args, Cli::command()),
        }
    }
}
