//! `worker` (hidden): the process that serves a mount. The supervisor starts it; nobody types it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::getppid;
use zeroize::Zeroizing;

use crate::cmd::allows_colours;
use crate::cmd::served::{ServeArgs, become_opaque, forbid_core_dumps, name_this_process};
use crate::config::{Settings, tables};
use crate::connection::handover::Channel;
use crate::connection::resident::{keep_the_heap_small, lock_all_memory};
use crate::connection::supervisor::survive_large_files;
use crate::connection::worker::{self, End, WorkerConfig};
use crate::foreign::Launcher;
use crate::fs::FsConfig;
use crate::fs::fuse::before_abort;
use crate::fs::memory;
use crate::fs::node::Root;
use crate::observe::{self, Target};
use crate::status::{Backend, Identity, Layout};
use crate::time::{Clock, SystemClock};

/// The arguments of `worker`.
#[derive(Debug, clap::Args)]
pub struct WorkerArgs {
    /// The supervisor's process
    #[arg(long)]
    pub supervisor: i32,

    /// The supervisor's thread that makes rotations visible: read the settings again and serve with
    /// them, instead of those that were handed over
    #[arg(long, value_name = "THREAD")]
    pub anew: Option<u32>,

    /// The view that is served as a file; with `--anew`
    #[arg(long)]
    pub file: Option<String>,

    /// Where it is served; with `--anew`
    pub mountpoint: Option<PathBuf>,

    /// What is served; with `--anew`.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// Serves what the supervisor hands over on standard input.
///
/// # Errors
/// What keeps it from serving; the supervisor hears of its end.
pub fn run(args: &WorkerArgs) -> anyhow::Result<ExitCode> {
    // Whatever ends the supervisor ends us, so that no reader waits for a process that is left over.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid().as_raw() != args.supervisor {
        anyhow::bail!("the supervisor is gone");
    }
    name_this_process();
    survive_large_files()?;
    let launcher = Launcher::own().context("cannot open the program")?;
    become_opaque();
    forbid_core_dumps();
    observe::tell_panics(abort_where_readers_would_hang);
    before_abort(observe::finish);
    let channel = Channel::new(io::stdin().as_fd().try_clone_to_owned()?);
    let mut handover = channel.receive_handover().context("the supervisor hands nothing over")?;
    let mut config = match args.anew {
        Some(helper) => {
            let settings = args.serve.load()?;
            let target = args.mountpoint.as_deref().context("no mountpoint is given")?;
            let root = as_served(&args.serve, &settings, args.file.as_deref())?;
            let config = config(&settings, &args.serve, target, root, helper, args.supervisor);
            handover.config = write(&config)?;
            config
        }
        None => read(&handover.config).context("the configuration cannot be read")?,
    };
    config.identity.worker_pid = std::process::id();
    config.identity.started = SystemClock.now();
    keep_the_heap_small();
    lock_all_memory();
    start_log(&config);
    let memory = handover.config.try_clone()?;
    match worker::serve(channel, handover, config, &memory, launcher)? {
        End::Stopped => tracing::debug!("the worker was told to end"),
        End::Disconnected => tracing::debug!("the connection has ended"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts the log. A file that cannot be opened any more is no reason not to serve.
fn start_log(config: &WorkerConfig) {
    let level = config.log_level.parse().unwrap_or_default();
    let opened = observe::init(&level, &config.log.clone().into(), allows_colours());
    if let Err(error) = opened
        && observe::init(&level, &Target::Stderr, allows_colours()).is_ok()
    {
        tracing::warn!("{error}; the worker logs to standard error");
    }
    observe::start();
}

/// What is served goes on: the kernel knows the root of a mount as what it was at first.
fn as_served(args: &ServeArgs, settings: &Settings, file: Option<&str>) -> anyhow::Result<Root> {
    let layout = if file.is_some() { Layout::File } else { Layout::Directory };
    let root = args.root(settings, layout);
    let is_other = settings.layout.value.is_some_and(|wanted| wanted != layout);
    if is_other || root.view() != file {
        let what =
            file.map_or_else(|| "a directory".to_owned(), |view| format!("the file `{view}`"));
        anyhow::bail!("{what} is mounted, and layout and view cannot change without an unmount");
    }
    Ok(root)
}

/// What a worker is configured with.
pub(super) fn config(
    settings: &Settings,
    args: &ServeArgs,
    mountpoint: &Path,
    root: Root,
    helper: u32,
    supervisor: i32,
) -> WorkerConfig {
    let supervisor_pid = u32::try_from(supervisor).unwrap_or_default();
    WorkerConfig {
        sources: args.testing.sources().unwrap_or_else(|| settings.sources()),
        windows: settings.windows(),
        fs: FsConfig {
            root,
            access: args.access(settings),
            views: settings.view_context(),
            open_timeout: settings.open_timeout.value,
            helper: Some(helper),
        },
        // A mounted file has no room for others.
        tokens: if root == Root::Directory { settings.named_tokens() } else { Vec::new() },
        on_demand: if root == Root::Directory { settings.on_demand() } else { Vec::new() },
        host: (root == Root::Doors).then(|| settings.host()),
        identity: Identity {
            name: tables::DEFAULT.to_owned(),
            mountpoint: mountpoint.to_owned(),
            backend: Backend::Fuse,
            why_files: None,
            layout: root.layout(),
            view: root.view().map(str::to_owned),
            supervisor_pid,
            worker_pid: supervisor_pid,
            started: SystemClock.now(),
            min_life: settings.min_life.value,
            git_min_life: settings.git_min_life.value,
            owners: settings.owners(),
            hosts: settings.hosts.value.clone(),
        },
        log_level: settings.log_level.value.to_string(),
        log: args.log(settings).into(),
        #[cfg(feature = "testing")]
        fault: args.testing.fault.clone(),
    }
}

/// The configuration in memory that nobody can change, for a worker to inherit.
///
/// # Errors
/// What the system says.
pub(super) fn write(config: &WorkerConfig) -> io::Result<OwnedFd> {
    let text = Zeroizing::new(serde_json::to_vec(config)?);
    let memory = memory::anonymous(c"molecule-tokenfs-config")?;
    let mut rest = text.as_slice();
    while !rest.is_empty() {
        let written = nix::unistd::write(&memory, rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(seals | SealFlag::F_SEAL_SEAL))?;
    Ok(memory)
}

fn read(memory: &OwnedFd) -> anyhow::Result<WorkerConfig> {
    let length = usize::try_from(nix::sys::stat::fstat(memory)?.st_size)?;
    let mut text = Zeroizing::new(vec![0; length]);
    let mut done = 0;
    // The position belongs to all who hold the memory.
    while let Some(rest) = text.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match nix::sys::uio::pread(memory, rest, i64::try_from(done)?)? {
            0 => anyhow::bail!("it is cut"),
            read => done += read,
        }
    }
    Ok(serde_json::from_slice(&text)?)
}

/// A panic on a thread that answers the kernel would leave readers hanging. A dead process does not:
/// the next one gets their requests again.
fn abort_where_readers_would_hang() {
    if std::thread::current().name().is_some_and(|name| name.starts_with(worker::THREAD)) {
        std::process::abort();
    }
}
