//! Serving the tokens: what `mount`, `serve` and `run` have in common.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use nix::sys::signalfd::SignalFd;
use nix::unistd::{Pid, Uid};

use crate::cmd::served::{ServeArgs, become_opaque, flag, name_this_process};
use crate::cmd::{Advise, allows_colours, worker};
use crate::config::parse::BackendChoice;
use crate::config::{self, Origin, Settings};
use crate::connection::companion::Companion;
use crate::connection::mount::Mount;
use crate::connection::resident::{keep_the_heap_small, lock_all_memory};
use crate::connection::rotation::Helper;
use crate::connection::supervisor::{self, End, Newer, Setup, SupervisorError};
use crate::files::{self, Directory};
use crate::foreign::Launcher;
use crate::fs::generations::State;
use crate::fs::node::Root;
use crate::observe;
use crate::place::MountError;
use crate::program::Program;
use crate::status::{Backend, Identity, Layout};

/// This program, as it was when we started.
pub struct Executable {
    file: File,
    path: PathBuf,
}

impl Executable {
    /// To be called before the process becomes opaque: an ordinary user's then is so to itself, too.
    ///
    /// # Errors
    /// Where `/proc` is not mounted.
    pub fn own() -> anyhow::Result<Self> {
        Ok(Self {
            file: File::open("/proc/self/exe").context("cannot open the program")?,
            path: std::env::current_exe().context("cannot find my own executable")?,
        })
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, path: self.path.clone() })
    }

    fn launcher(&self) -> io::Result<Launcher> {
        self.file.try_clone().map(Launcher::new)
    }

    /// A hidden command of it, with all of `environment` and nothing else.
    ///
    /// # Errors
    /// Where no descriptors are left.
    pub fn command(
        &self,
        words: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> io::Result<Program> {
        Ok(Program::new(self.file.try_clone()?, words, environment))
    }

    /// The worker. It finds tokens and keys in the configuration and not in its environment.
    fn worker(&self) -> io::Result<Program> {
        // Those of sources may be called anything, and another one in the next configuration.
        let is_key = |value: &OsString| {
            let mark = b"PRIVATE KEY-----";
            value.as_bytes().windows(mark.len()).any(|part| part == mark)
        };
        let environment = config::variables().filter(|(name, value)| {
            config::TOKEN_VARIABLES.iter().all(|token| name != token) && !is_key(value)
        });
        self.command(worker_words(), environment)
    }

    /// The worker that is on disk now, which reads the settings again.
    fn newer(
        &self,
        helper_thread: u32,
        args: &ServeArgs,
        (root, target): (Root, &Path),
    ) -> io::Result<Newer> {
        let now = Self { file: File::open(&self.path)?, path: self.path.clone() };
        let anew = [OsString::from("--anew"), helper_thread.to_string().into()];
        let file = root.view().map(|view| flag("file", view.as_ref()));
        let words = worker_words().into_iter().chain(anew).chain(file).chain(args.arguments());
        let words = words.chain(["--".into(), target.into()]);
        Ok(Newer { candidate: now.command(words, config::variables())?, worker: now.worker()? })
    }
}

fn worker_words() -> [OsString; 3] {
    ["worker".into(), "--supervisor".into(), Pid::this().to_string().into()]
}

/// What a process that serves does first: from now on it has a log, and a standard error of its own.
/// Returns the one that it was started with.
///
/// # Errors
/// When the log file cannot be opened.
pub(super) fn begin(args: &ServeArgs, settings: &Settings) -> anyhow::Result<OwnedFd> {
    observe::tell_panics(|| {});
    name_this_process();
    keep_the_heap_small();
    let callers_stderr = observe::own_stderr().context("cannot keep standard error")?;
    observe::init(&settings.log_level.value, &args.log(settings), allows_colours())
        .hint("name another file: --log-file FILE")?;
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    Ok(callers_stderr)
}

/// Serves at `target` until the companion or an unmount ends it. The `signals` must have been taken
/// before any thread was started.
///
/// # Errors
/// When it cannot be served; the error says what stands in the way and what to do.
pub fn serve(
    args: &ServeArgs,
    settings: &Settings,
    target: &Path,
    executable: &Executable,
    signals: &SignalFd,
    companion: &mut dyn Companion,
) -> anyhow::Result<End> {
    files::clear(target).map_err(explained)?;
    if args.doors {
        return serve_mount(args, settings, target, executable, signals, companion)
            .or_else(|error| Err(explained(error.downcast::<MountError>()?)));
    }
    let choice = settings.backend.value;
    let why = if choice == BackendChoice::Files {
        "it was asked for".to_owned()
    } else {
        match serve_mount(args, settings, target, executable, signals, companion) {
            Ok(end) => return Ok(end),
            Err(error) => match error.downcast::<MountError>()? {
                error if choice == BackendChoice::Auto && error.is_want_of_fuse() => {
                    error.to_string()
                }
                error => return Err(explained(error)),
            },
        }
    };
    serve_files(args, settings, target, executable, why, signals, companion)
}

fn serve_files(
    args: &ServeArgs,
    settings: &Settings,
    target: &Path,
    executable: &Executable,
    why: String,
    signals: &SignalFd,
    companion: &mut dyn Companion,
) -> anyhow::Result<End> {
    if settings.layout.value == Some(Layout::File) || target.is_file() {
        let target = target.display();
        return Err(anyhow!("{target} cannot be a single file without FUSE ({why})")
            .hint("name a directory, or see what FUSE lacks: molecule-tokenfs doctor"));
    }
    let access = settings.access();
    let allow_disk = settings.allow_disk.value;
    let directory = Directory::open(target, access, &settings.memory(), allow_disk)
        .map_err(|error| explained(error).context(format!("files instead of a mount: {why}")))?;
    become_opaque();
    lock_all_memory();
    observe::start();
    let path = directory.path().display();
    tracing::info!("FUSE is not used ({why}): the tokens are files in {path}");
    if settings.tables.on_demand().next().is_some() {
        tracing::warn!("{}", without_a_mount(&why));
    }
    let config = worker::config(
        settings,
        args,
        directory.mountpoint(),
        Root::Directory,
        0,
        Pid::this().as_raw(),
    );
    let setup = files::Setup {
        directory,
        access,
        sources: config.sources,
        windows: settings.windows_of_files(),
        views: config.fs.views,
        tokens: config.tokens,
        identity: Identity { backend: Backend::Files, why_files: Some(why), ..config.identity },
        launcher: executable.launcher()?,
    };
    let end = files::serve(setup, signals, companion)
        .with_context(|| format!("cannot serve files at {}", target.display()))?;
    Ok(ended(end))
}

/// That tokens on demand need a mount, and what stands in its way.
pub(super) fn without_a_mount(why: &str) -> String {
    format!(
        "tokens on demand (repos/…, orgs/…) need a mount, and the tokens are kept as files ({why}): \
         configure [tokens.NAME] for each repository or owner"
    )
}

fn serve_mount(
    args: &ServeArgs,
    settings: &Settings,
    target: &Path,
    executable: &Executable,
    signals: &SignalFd,
    companion: &mut dyn Companion,
) -> anyhow::Result<End> {
    let mount = Mount::open(target, settings.layout.value, Uid::effective().is_root())?;
    become_opaque();
    let root = args.root(settings, mount.layout());
    if root == Root::Directory && settings.view.origin != Origin::Default {
        tracing::warn!("a directory is mounted, and shows every view, whatever `view` says");
    }
    if let Root::View(_) = root {
        for (name, _) in settings.tables.named() {
            tracing::warn!("the token `{name}` is not served: a mounted file has room for one");
        }
    }
    let state = State::create().map_err(|error| cannot_share(&error))?;
    let state = Arc::new(state);
    observe::start();
    let access = args.access(settings);
    let helper = Helper::start(mount.target(), root, Arc::clone(&state), access)
        .map_err(|error| MountError::cannot("give up the descriptors of a thread", &error))?;
    let helper_thread = helper.thread_id();
    let target = mount.target().to_owned();
    let config = worker::config(settings, args, &target, root, helper_thread, Pid::this().as_raw());
    let setup = Setup {
        mount,
        state,
        config: worker::write(&config).map_err(|error| cannot_share(&error))?,
        program: executable.worker()?,
        open_timeout: settings.open_timeout.value,
        helper,
        shows_doors: root == Root::Doors,
        resend: args.testing.resends(),
    };
    drop(config);
    let (args, executable) = (args.clone(), executable.try_clone()?);
    let newer = move || executable.newer(helper_thread, &args, (root, &target));
    let end =
        supervisor::supervise(setup, signals, newer, companion).map_err(|error| match error {
            SupervisorError::Mount(error) => anyhow::Error::new(error),
            error => error.into(),
        })?;
    Ok(ended(end))
}

/// Why there is no memory for supervisor and worker to share.
fn cannot_share(error: &io::Error) -> MountError {
    MountError::cannot("share memory between its processes (memfd_create)", error)
}

fn ended(end: End) -> End {
    match end {
        End::Stopped => tracing::info!("ended: it was told to"),
        End::Unmounted => tracing::info!("ended: somebody unmounted it"),
    }
    end
}

/// Adds to an error of mounting what to do about it.
pub(super) fn explained(error: MountError) -> anyhow::Error {
    let hint = error.hint();
    anyhow::Error::new(error).hint(hint)
}
