//! `mount`: serves the tokens at a mountpoint until a signal ends it, or until it is unmounted.
#![expect(clippy::doc_markdown, reason = "the comments at the flags are their help, not Markdown")]

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, Uid, setsid};

use crate::cmd::{self, Advise, EXIT_FAILURE, worker};
use crate::config::{self, Settings, SettingsArgs};
use crate::connection::mount::{Mount, MountError};
use crate::connection::rotation::Helper;
use crate::connection::supervisor::{self, End, Newer, Program, Setup};
use crate::fs::generations::State;
use crate::observe;
use crate::view;

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
pub fn run(mut args: MountArgs) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(&args.settings)?;
    let target = args.mountpoint.take().map_or_else(config::default_mountpoint, Ok)?;
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
    // Both must be got before the process becomes opaque: an ordinary user's then is so to itself.
    let program = File::open("/proc/self/exe").context("cannot open the program")?;
    let path = std::env::current_exe().context("cannot find my own executable")?;
    let mount = Mount::open(&target, Uid::effective().is_root()).map_err(explained)?;
    keep_out_of_core_dumps();
    let signals = supervisor::take_signals()?;
    args.mountpoint = Some(mount.target().to_owned());
    let views = view::ALL.iter().map(|view| view.id()).collect();
    let state = Arc::new(State::create(Vec::new(), views)?);
    let helper = Helper::start(mount.target(), Arc::clone(&state), settings.access())?;
    let helper_thread = helper.thread_id();
    let config = worker::config(&settings, &args, helper_thread, Pid::this().as_raw());
    let setup = Setup {
        mount,
        state,
        config: worker::write(&config)?,
        program: worker_program(program)?,
        open_timeout: settings.open_timeout.value,
        helper,
    };
    drop(config);
    let tell_parent = args.tell_parent;
    let ready = move || {
        tracing::info!("serving at {}", target.display());
        if tell_parent && let Err(error) = cmd::print(READY.as_bytes()) {
            tracing::warn!("nobody hears that the mount serves: {error}");
        }
    };
    let newer = move || newer(&path, helper_thread);
    match supervisor::supervise(setup, &signals, newer, ready)? {
        End::Stopped => tracing::info!("ended by a signal"),
        End::Unmounted => tracing::info!("ended: somebody unmounted it"),
    }
    Ok(ExitCode::SUCCESS)
}

fn supervisor_argument() -> [Vec<u8>; 2] {
    [b"--supervisor".to_vec(), Pid::this().to_string().into_bytes()]
}

/// The worker in this file. It finds its tokens in the configuration and not in its environment.
fn worker_program(file: File) -> io::Result<Program> {
    let environment = config::variables().filter(|(name, _)| {
        config::TOKEN_VARIABLES.iter().all(|token| name.as_encoded_bytes() != token.as_bytes())
    });
    Program::worker(file, supervisor_argument(), environment.map(joined))
}

/// The worker that is on disk now, which reads the settings again.
fn newer(path: &Path, helper_thread: u32) -> io::Result<Newer> {
    let file = File::open(path)?;
    let anew = [b"--anew".to_vec(), helper_thread.to_string().into_bytes()];
    // What `mount` was given, without the word itself.
    let given = std::env::args_os().skip(1).skip_while(|word| word != "mount").skip(1);
    let arguments = supervisor_argument().into_iter().chain(anew);
    let arguments = arguments.chain(given.map(OsString::into_vec));
    let candidate = Program::worker(file.try_clone()?, arguments, config::variables().map(joined))?;
    Ok(Newer { candidate, worker: worker_program(file)? })
}

fn joined((name, value): (OsString, OsString)) -> Vec<u8> {
    [name.as_bytes(), b"=", value.as_bytes()].concat()
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

pub(super) fn explained(error: MountError) -> anyhow::Error {
    let hint = error.hint();
    anyhow::Error::new(error).hint(hint)
}

/// The daemon's memory holds tokens: no core dumps, no debugger, no `/proc/PID/environ` for others.
pub(super) fn keep_out_of_core_dumps() {
    if let Err(error) =
        prctl::set_dumpable(false).and_then(|()| setrlimit(Resource::RLIMIT_CORE, 0, 0))
    {
        tracing::warn!("cannot turn core dumps off, and they would hold tokens: {error}");
    }
}
