//! Serves a connection: one thread for the kernel's requests, one runtime for everything that waits.
//!
//! It makes no request to the mount that it serves. Its supervisor hands it everything; it ends when the
//! connection does, when it is told to, or with its supervisor.

#![expect(unsafe_code, reason = "puts the connection in the place of the session's socket")]

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use fuser::{Config, INodeNo, Session, SessionACL};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::RecvFlags;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::connection::demand::{self, OnDemand};
use crate::connection::doors::kept::Kept;
use crate::connection::doors::socket::{self, Changes};
use crate::connection::doors::{Doors, HostConfig};
use crate::connection::handover::{Channel, Handover, Message};
use crate::connection::heal::heal;
use crate::connection::recovery::recover;
use crate::connection::resident::forget_the_program;
use crate::connection::tokens::{NamedToken, Shared, TokenConfig};
use crate::foreign::Launcher;
use crate::fs::FsConfig;
use crate::fs::fault;
use crate::fs::fuse::{Adapter, Waiters, separate_descriptors};
use crate::fs::generations::regions::Kind;
use crate::fs::generations::{State, TokenState};
use crate::fs::node::Root;
use crate::fs::places::Places;
use crate::refresh::Engine;
use crate::refresh::policy::Windows;
use crate::refresh::timer::{SystemTimer, Timer};
use crate::source::{SourceConfig, Surroundings};
use crate::status::Identity;
use crate::time::{Clock, SystemClock};

/// How the threads that answer the kernel are called: this, and fuser's number.
pub const THREAD: &str = "fuser-";
/// How long the runtime may take to end what it still does, for example a request on the wire.
const WIND_DOWN: Duration = Duration::from_millis(100);
/// A generation that nobody made visible within this is flipped without events.
const ROTATION_PATIENCE: Duration = Duration::from_millis(250);
/// After the connection has ended, the supervisor says within this that nothing goes on.
const LAST_WORD: Duration = Duration::from_secs(1);
/// After a start or a fetch everything has ended within this, the watchdog's question to us included.
const BUSY: Duration = Duration::from_secs(5);
/// The thread in which everything waits does so within this after it had something to do.
const FALLS_ASLEEP: Duration = Duration::from_millis(100);

/// What a worker needs besides the connection and the state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerConfig {
    /// Where tokens come from, in order.
    pub sources: Vec<SourceConfig>,
    /// The engine's numbers.
    pub windows: Windows,
    /// What readers see.
    pub fs: FsConfig,
    /// The tokens beside that of the root.
    #[serde(default)]
    pub tokens: Vec<NamedToken>,
    /// The tokens of whose sources narrower ones can be had.
    #[serde(default)]
    pub on_demand: Vec<OnDemand>,
    /// The doors, where the mount shows nothing else.
    #[serde(default)]
    pub host: Option<HostConfig>,
    /// What status says of the mount.
    pub identity: Identity,
    /// What is logged.
    pub log_level: String,
    /// Where to, as an argument says it.
    pub log: OsString,
    /// Where to break.
    #[cfg(feature = "testing")]
    pub fault: Option<fault::Fault>,
}

/// Why a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was told to, or its supervisor is gone.
    Stopped,
    /// The connection ended: somebody unmounted the file system.
    Disconnected,
}

/// Serves until the supervisor says so, or the connection ends. `config_memory` goes back to the
/// supervisor with the word that the worker is ready. `launcher` starts this very program.
///
/// # Errors
/// Where the state is not one of ours, the runtime or the session cannot be made, or the connection
/// breaks.
pub fn serve(
    channel: Channel,
    handover: Handover,
    config: WorkerConfig,
    config_memory: &OwnedFd,
    launcher: Launcher,
) -> io::Result<End> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let surroundings = Surroundings::new(Arc::clone(&clock), launcher);
    let apps = Arc::clone(&surroundings.apps);
    let timer: Arc<dyn Timer> = Arc::new(SystemTimer::new(Arc::clone(&clock)));
    let state = Arc::new(State::adopt(handover.state)?);
    #[cfg(feature = "testing")]
    if let Some(fault) = config.fault {
        state.break_at(fault);
    }
    state.pass(fault::START);
    state.step();
    let shared = Shared {
        surroundings,
        timer,
        fs: config.fs.clone(),
        identity: config.identity.clone(),
        connection: Arc::clone(&state),
    };
    let mut engines = Vec::new();
    let mut named = Vec::new();
    let mut shown = Vec::new();
    for NamedToken { name, sources, views, owners } in config.tokens {
        let token = shared.token(TokenConfig {
            kind: Kind::Named,
            name: &name,
            sources,
            windows: config.windows.clone(),
            root: Root::Directory,
            views,
            owners,
            others: Vec::new(),
        })?;
        named.push((name, token.fs));
        engines.push(token.engine);
        shown.push(token.shown);
        state.step();
    }
    // A directory of doors has no token of its own.
    let has_token = config.fs.root != Root::Doors;
    let root = shared.token(TokenConfig {
        kind: if has_token { Kind::Root } else { Kind::Passing },
        name: &config.identity.name,
        sources: if has_token { config.sources } else { Vec::new() },
        windows: config.windows.clone(),
        root: config.fs.root,
        views: config.fs.views,
        owners: config.identity.owners,
        others: shown,
    })?;
    state.step();
    if has_token {
        engines.push(root.engine);
    }
    let mut rotating: Vec<_> = named.iter().map(|(_, fs)| Arc::clone(fs.state())).collect();
    if has_token {
        rotating.push(Arc::clone(root.fs.state()));
    }
    let rotations = Arc::new(channel.try_clone()?);
    let has_tokens = state.has_tokens();
    let tell_rotations = move |token: &Arc<TokenState>| {
        let rotations = Arc::clone(&rotations);
        if has_tokens {
            // Where it cannot be said, the patience below makes the generation visible.
            token.rotate_with(move || rotations.send_if_room(Message::Rotate));
        }
    };
    rotating.iter().for_each(&tell_rotations);
    // The tokens of doors come and go.
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    for token in &rotating {
        arrived.send(Arc::clone(token)).ok();
    }
    let mountpoint = config.identity.mountpoint.clone();
    let (doors, demand) = match config.host {
        Some(host) => {
            let directory = config.identity.mountpoint.clone();
            let begin = move |token: &Arc<TokenState>| {
                tell_rotations(token);
                arrived.send(Arc::clone(token)).ok();
            };
            let doors = Doors::new(shared, config.windows.clone(), host, begin);
            (Some((doors.map_err(io::Error::other)?, directory)), None)
        }
        None if config.on_demand.is_empty() => (None, None),
        None => {
            let (windows, runtime) = (&config.windows, runtime.handle().clone());
            (None, Some(demand::demand(config.on_demand, windows, shared, runtime)?))
        }
    };
    if let Some((doors, _)) = &doors {
        named.extend(doors.places());
    }
    let places = Places::new(root.fs, named, demand);
    let waiters = Waiters::new(runtime.handle().clone());
    let adapter = Adapter::new(Arc::clone(&places), waiters.clone());
    let again = Adapter::new(Arc::clone(&places), waiters.clone()).passed_on();
    let init = first_packet(&handover.init)?;
    let session = open_session(adapter, handover.init, &handover.device)?;
    state.step();
    channel.send_with(Message::Ready, &[config_memory.as_fd()])?;
    let must_recover = match channel.receive(true)? {
        Some((Message::Go, _)) => false,
        Some((Message::Recover, _)) => true,
        _ => return Ok(End::Stopped),
    };
    // Another worker may have gone on until this moment. From now on this one alone makes and frees states.
    engines.iter_mut().for_each(Engine::resume);
    places.take_over();
    let host = doors.map(|(mut doors, directory)| {
        let kept = Kept::beside(&directory);
        let loaded = kept.load().unwrap_or_else(|error| {
            tracing::error!("the doors that were added are not there: {error}");
            Vec::new()
        });
        doors.run(runtime.handle());
        doors.take_over(loaded, &places);
        let places = Arc::clone(&places);
        (Arc::new(Changes { doors: Mutex::new(doors), places, kept }), socket::beside(&directory))
    });
    state.free_what_is_left();
    if must_recover {
        recover(&state, handover.device.as_fd(), &init, move |socket| {
            let session = Session::from_fd(again, socket, SessionACL::All, Config::default())?;
            Ok(Box::new(move || session.run()))
        })?;
    }
    state.step();
    // A rename would have had the kernel do so.
    let (notifier, shown) = (session.notifier(), Arc::clone(&places));
    let forget_times = Arc::new(move || {
        for directory in shown.directories_of_views() {
            // Attributes alone: that waits for nobody. It fails where the kernel does not know it yet.
            notifier.inval_inode(INodeNo(directory), -1, 0).ok();
        }
    });
    let (ended, end) = oneshot::channel();
    let (apart, is_apart) = std::sync::mpsc::channel();
    thread::Builder::new().name("session".into()).spawn(move || {
        // The thread that answers copies these descriptors. If it copied ours, it could do so while an
        // engine starts a file reader, and hold the pipe open whose end is the end of the answer.
        separate_descriptors();
        apart.send(()).ok();
        ended.send(session.run())
    })?;
    is_apart.recv().ok();
    let wants_rotation = rotating.iter().any(|token| token.wants_rotation())
        || host.as_ref().is_some_and(|(changes, _)| changes.want_rotation());
    if wants_rotation {
        channel.send(Message::Rotate)?;
    }
    let last_word = channel.try_clone()?;
    let (mut stop, sleep) = listen(channel)?;
    let end = runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let mut is_told = false;
        for engine in engines {
            tasks.spawn(engine.run());
        }
        tasks.spawn(async move {
            let mut flipping = JoinSet::new();
            loop {
                tokio::select! {
                    Some(token) = arrivals.recv() => {
                        let forget_times = Arc::clone(&forget_times);
                        flipping.spawn(async move {
                            token.flip_what_stays(ROTATION_PATIENCE, move || forget_times()).await;
                        });
                    }
                    Some(ended) = flipping.join_next() => {
                        if let Err(error) = ended && error.is_panic() {
                            std::panic::resume_unwind(error.into_panic());
                        }
                    }
                    else => std::future::pending().await,
                }
            }
        });
        if rustix::process::geteuid().is_root() {
            tasks.spawn(async move {
                heal(&mountpoint).await;
                std::future::pending::<()>().await;
            });
        }
        if let Some((changes, socket)) = host {
            tasks.spawn(async move {
                if let Err(error) = socket::listen(&socket, changes).await {
                    tracing::error!("doors cannot be changed, {}: {error}", socket.display());
                }
                std::future::pending::<()>().await;
            });
        }
        let end = tokio::select! {
            told = &mut stop => {
                is_told = told == Ok(true);
                Ok(End::Stopped)
            }
            end = end => match end {
                Ok(Ok(())) => Ok(End::Disconnected),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(io::Error::other("the thread that answers the kernel failed")),
            },
            () = stay_small(&state, &sleep) => Ok(End::Stopped),
            // Without it no open would ever be answered with a new token.
            () = panicked(&mut tasks) => std::process::abort(),
        };
        waiters.dismiss().await;
        tasks.abort_all();
        if apps.have_to_revoke() {
            if matches!(end, Ok(End::Disconnected)) {
                // Only the supervisor knows whether somebody unmounted, or another worker goes on.
                is_told = tokio::time::timeout(LAST_WORD, stop).await == Ok(Ok(true));
            }
            if is_told {
                last_word.send_if_room(Message::Revoking);
                apps.revoke(&SystemClock).await;
            }
        }
        end
    });
    runtime.shutdown_timeout(WIND_DOWN);
    end
}

/// Has the memory given back that only the start or a fetch needed, when that has ended.
async fn stay_small(state: &State, sleep: &OwnedFd) {
    let mut publications = state.publications();
    loop {
        tokio::time::sleep(BUSY).await;
        if let Err(error) = rustix::io::write(sleep, &1_u64.to_ne_bytes()) {
            tracing::debug!(%error, "memory that nobody needs is kept");
        }
        if publications.changed().await.is_err() {
            return;
        }
    }
}

/// Completes when a task has panicked, and never otherwise.
async fn panicked(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if ended.is_err_and(|error| error.is_panic()) {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// The first packet in a socket, which stays there.
fn first_packet(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; 4096];
    let (_, length) = rustix::net::recv(socket, packet.as_mut_slice(), RecvFlags::PEEK)?;
    packet.truncate(length);
    Ok(packet)
}

/// Answers INIT from the stand-in socket, then puts the connection in its place: fuser cannot take a
/// connection over that has had its INIT.
fn open_session(adapter: Adapter, init: OwnedFd, device: &OwnedFd) -> io::Result<Session<Adapter>> {
    // Who may open what is the kernel's decision, by owner and mode.
    let session = Session::from_fd(adapter, init, SessionACL::All, Config::default())?;
    let place = session.as_fd().as_raw_fd();
    // SAFETY: both are open descriptors of this process, and no other thread uses the session's yet.
    if unsafe { libc::dup3(device.as_raw_fd(), place, libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(session)
}

/// Hears the supervisor, in a thread: the receiver completes when that says stop, with `true`, or is gone.
/// The same thread gives memory back a moment after its event descriptor was written to, when the one that
/// everything waits in sleeps: on its way there that would bring most of the code back.
fn listen(channel: Channel) -> io::Result<(oneshot::Receiver<bool>, OwnedFd)> {
    let (tell, told) = oneshot::channel();
    let sleep = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let sleeps = sleep.try_clone()?;
    let listen = move || {
        let is_told = loop {
            if !speaks(&channel, &sleeps) {
                forget_the_program();
                continue;
            }
            match channel.receive(true) {
                Ok(Some((Message::Stop, _))) => break true,
                Ok(Some(_)) => {}
                _ => break false,
            }
        };
        tell.send(is_told).ok();
    };
    thread::Builder::new().name("supervisor".into()).stack_size(64 * 1024).spawn(listen)?;
    Ok((told, sleep))
}

/// Waits until the supervisor speaks, or is gone; `false` where everything sleeps before that.
fn speaks(channel: &Channel, sleeps: &OwnedFd) -> bool {
    let mut timeout = None;
    loop {
        let (channel, event) = (channel.as_fd(), sleeps.as_fd());
        let mut descriptors =
            [channel, event].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut descriptors, timeout.as_ref()) {
            Ok(0) => return false,
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) if descriptors[0].revents().is_empty() => {
                rustix::io::read(sleeps, &mut [0_u8; 8]).ok();
                timeout = Timespec::try_from(FALLS_ASLEEP).ok();
            }
            // What is wrong, the receiver says.
            Ok(_) | Err(_) => return true,
        }
    }
}
