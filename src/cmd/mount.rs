//! `mount`: serves the tokens at a mountpoint until a signal ends it, or until it is unmounted.
#![expect(clippy::doc_markdown, reason = "the comments at the flags are their help, not Markdown")]

use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, setsid};
use tokio::signal::unix::{SignalKind, signal};

use crate::cmd::{self, Advise, EXIT_FAILURE};
use crate::config::{self, Settings, SettingsArgs};
use crate::connection::mount::{Mount, MountError};
use crate::connection::worker::{self, End, WorkerConfig};
use crate::fs::FsConfig;
use crate::fs::status::{Backend, Identity, Layout};
use crate::observe;
use crate::source::SourceConfig;
use crate::source::made_up::MadeUpConfig;
use crate::time::{Clock, SystemClock};

/// What the daemon tells the parent that waits for it.
const READY: &str = "ready\n";

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

    /// Serve made-up tokens that live this long, for tests and benchmarks of the mount
    #[arg(long, hide = true, value_name = "LIFE", value_parser = config::parse::span_argument)]
    pub made_up: Option<Duration>,

    /// Unmount and end when the process that started it ends, however it does: for the demo.
    #[arg(long, hide = true, conflicts_with = "background")]
    pub with_parent: bool,

    /// The settings.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// Mounts and serves.
///
/// # Errors
/// When the mount cannot be made; the error says what stands in the way and what to do.
pub fn run(args: MountArgs) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(&args.settings)?;
    let target = args.mountpoint.map_or_else(config::default_mountpoint, Ok)?;
    if args.background {
        return in_background();
    }
    observe::init(&settings.log_level.value);
    if args.with_parent {
        prctl::set_pdeathsig(Signal::SIGTERM)?;
    }
    if args.tell_parent {
        // Away from the terminal's signals. It fails only for a leader of a group, which we are not.
        setsid().ok();
    }
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    abort_on_a_panic_that_would_hang_readers();
    let mut mount = Mount::open(&target, Uid::effective().is_root()).map_err(explained)?;
    keep_out_of_core_dumps();
    let device = mount.take_device().context("the mount has no device")?;
    let mut config = worker_config(&settings, mount.target());
    if let Some(life) = args.made_up {
        config.sources = vec![SourceConfig::MadeUp(MadeUpConfig { life })];
    }
    let ready = || {
        mount.attach().map_err(io::Error::other)?;
        tracing::info!("serving at {}", mount.target().display());
        if args.tell_parent {
            cmd::print(READY.as_bytes()).map_err(io::Error::other)?;
        }
        Ok(())
    };
    match worker::serve(device, config, signals, ready)? {
        End::Stopped => tracing::info!("ended by a signal"),
        End::Disconnected => tracing::info!("ended: somebody unmounted it"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts the daemon and returns when it serves. What stands in its way it says itself: the standard
/// error is shared.
fn in_background() -> anyhow::Result<ExitCode> {
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--background");
    // Not by path: the file may have been replaced since we started.
    let mut daemon = Command::new("/proc/self/exe")
        .arg0(env!("CARGO_PKG_NAME"))
        .args(arguments)
        .arg("--tell-parent")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the daemon")?;
    let mut line = String::new();
    if let Some(output) = daemon.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    if line == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let status = daemon.wait()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
    Ok(ExitCode::from(code.unwrap_or(EXIT_FAILURE)))
}

fn worker_config(settings: &Settings, target: &Path) -> WorkerConfig {
    let own = std::process::id();
    WorkerConfig {
        sources: settings.sources(),
        windows: settings.windows(),
        fs: FsConfig {
            access: settings.access(),
            views: settings.view_context(),
            open_timeout: settings.open_timeout.value,
            helper: None,
        },
        identity: Identity {
            name: "default".to_owned(),
            mountpoint: target.to_owned(),
            backend: Backend::Fuse,
            layout: Layout::Directory,
            supervisor_pid: own,
            worker_pid: own,
            started: SystemClock.now(),
            min_life: settings.min_life.value,
        },
    }
}

/// Completes when a signal asks for the end. SIGHUP does not: it means that a window was closed.
fn signals() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
                _ = hangup.recv() => tracing::debug!("SIGHUP is ignored"),
            }
        }
    })
}

pub(super) fn explained(error: MountError) -> anyhow::Error {
    let hint = error.hint();
    anyhow::Error::new(error).hint(hint)
}

/// The daemon's memory holds tokens: no core dumps, no debugger, no `/proc/PID/environ` for others.
fn keep_out_of_core_dumps() {
    if let Err(error) =
        prctl::set_dumpable(false).and_then(|()| setrlimit(Resource::RLIMIT_CORE, 0, 0))
    {
        tracing::warn!("cannot turn core dumps off, and they would hold tokens: {error}");
    }
}

/// A panic on the thread that answers the kernel would leave every reader hanging. A dead process
/// gives them an error, and the next start cleans up.
fn abort_on_a_panic_that_would_hang_readers() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        let name = std::thread::current().name().map(str::to_owned);
        if name.is_some_and(|name| name.starts_with(worker::THREAD)) {
            std::process::abort();
        }
    }));
}
