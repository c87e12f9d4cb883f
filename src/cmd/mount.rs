//! `mount`: serves the tokens at a mountpoint until a signal ends it, or until it is unmounted.
#![expect(clippy::doc_markdown, reason = "the comments at the flags are their help, not Markdown")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, setsid};

use crate::cmd::background;
use crate::cmd::serve::{self, Executable, serve};
use crate::cmd::served::{ServeArgs, forbid_core_dumps};
use crate::config::{self, Settings};
use crate::connection::companion::{Answer, Companion, Received};
use crate::connection::supervisor::{UPGRADE, take_signals};
use crate::observe;
use crate::status::Backend;

/// What it listens to.
const SIGNALS: [Signal; 5] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, UPGRADE];

/// The arguments of `mount`.
#[derive(Debug, clap::Args)]
pub struct MountArgs {
    /// Where to mount; missing directories are made, and removed at the end [default:
    /// /run/molecule/token for root, else $XDG_RUNTIME_DIR/molecule/token]
    pub mountpoint: Option<PathBuf>,

    /// Return as soon as the mount serves, and go on in the background
    #[arg(long)]
    pub background: bool,

    /// Say on standard output when the mount serves: for the parent of `--background`
    #[arg(long, hide = true, conflicts_with = "background")]
    pub tell_parent: bool,

    /// Unmount and end when the process that started it ends, however it does: for the demo.
    #[arg(long, hide = true, conflicts_with = "background")]
    pub with_parent: bool,

    /// What is served.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// Mounts and serves.
///
/// # Errors
/// When the mount cannot be made; the error says what stands in the way and what to do.
pub fn run(args: &MountArgs) -> anyhow::Result<ExitCode> {
    let mut settings = args.serve.load()?;
    let target = args.mountpoint.clone().map_or_else(config::default_mountpoint, Ok)?;
    let doors = settings.tables.doors().count();
    if doors > 0 {
        let told = format!(
            "the {doors} [doors] of the configuration are served by: molecule-tokenfs serve"
        );
        settings.warnings.push(told);
    }
    serve_as_daemon(args, &settings, &target)
}

/// Serves at `target`, in the background where that is asked for.
///
/// # Errors
/// As [`run`].
pub(super) fn serve_as_daemon(
    args: &MountArgs,
    settings: &Settings,
    target: &Path,
) -> anyhow::Result<ExitCode> {
    if args.background {
        return background::start(settings);
    }
    serve::begin(&args.serve, settings)?;
    if args.with_parent {
        prctl::set_pdeathsig(Signal::SIGTERM)?;
    }
    if args.tell_parent {
        // Away from the terminal's signals. It fails only for a leader of a group, which we are not.
        setsid().ok();
    }
    let executable = Executable::own()?;
    forbid_core_dumps();
    let signals = take_signals(SIGNALS.into_iter().collect())?;
    let mut daemon = Daemon { target: target.to_owned(), tell_parent: args.tell_parent };
    serve(&args.serve, settings, target, &executable, &signals, &mut daemon)?;
    Ok(ExitCode::SUCCESS)
}

/// A daemon has nothing to do but to serve.
struct Daemon {
    target: PathBuf,
    tell_parent: bool,
}

impl Companion for Daemon {
    fn ready(&mut self, _: Backend) -> Answer {
        tracing::info!("serving at {}", self.target.display());
        if self.tell_parent
            && let Err(error) = background::tell_parent()
        {
            tracing::warn!("nobody hears that the mount serves: {error}");
        }
        Answer::GoOn
    }

    fn signal(&mut self, signal: Received, _: &mut dyn FnMut(Pid) -> bool) -> Answer {
        let Received::Named(signal) = signal else { return Answer::GoOn };
        match signal {
            Signal::SIGTERM | Signal::SIGINT => Answer::Stop,
            // The window was closed; the daemon stays.
            Signal::SIGHUP if has_terminal() => Answer::GoOn,
            Signal::SIGHUP | UPGRADE => {
                observe::reopen();
                Answer::Upgrade
            }
            Signal::SIGUSR1 => Answer::Refresh,
            _ => Answer::GoOn,
        }
    }
}

fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}
