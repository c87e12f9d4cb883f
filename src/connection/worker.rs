//! Serves a connection: one thread for the kernel's requests, one runtime for everything that waits.
//!
//! It knows no path and no mount; it ends when the connection does, or when it is told to.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fuser::{Config, Session, SessionACL};
use tokio::sync::oneshot;

use crate::fs::counters::Counters;
use crate::fs::fuse::{Adapter, Waiters};
use crate::fs::generations::State;
use crate::fs::pages::Pages;
use crate::fs::status::Identity;
use crate::fs::{Fs, FsConfig};
use crate::refresh::Engine;
use crate::refresh::policy::Windows;
use crate::refresh::timer::SystemTimer;
use crate::source::SourceConfig;
use crate::time::{Clock, SystemClock};
use crate::view;

/// The name of the thread that answers the kernel.
pub const THREAD: &str = "fuse";
/// How long the runtime may take to end what it still does, for example a request on the wire.
const WIND_DOWN: Duration = Duration::from_millis(100);

/// What a worker needs besides the connection and the state.
pub struct WorkerConfig {
    /// Where tokens come from, in order.
    pub sources: Vec<SourceConfig>,
    /// The engine's numbers.
    pub windows: Windows,
    /// What readers see.
    pub fs: FsConfig,
    /// What status says of the mount.
    pub identity: Identity,
}

/// Why a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    Stopped,
    /// The connection ended: somebody unmounted the file system.
    Disconnected,
}

/// Serves until `stop` completes or the connection ends. `ready` is called once INIT was answered and
/// requests are served; its error ends the worker.
///
/// # Errors
/// Where the state, the runtime, the timers or the session cannot be made, or the connection breaks.
pub fn serve<Stop: Future<Output = ()>>(
    device: OwnedFd,
    config: WorkerConfig,
    stop: impl FnOnce() -> io::Result<Stop>,
    ready: impl FnOnce() -> io::Result<()>,
) -> io::Result<End> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let counters = Arc::new(Counters::default());
    let metered = |source: SourceConfig| {
        counters.metered(source.build(Arc::clone(&clock)), Arc::clone(&clock))
    };
    let sources: Vec<_> = config.sources.into_iter().map(metered).collect();
    let names = sources.iter().map(|source| source.name()).collect();
    let views = view::ALL.iter().map(|view| view.id()).collect();
    let state = Arc::new(State::create(names, views)?);

    let entered = runtime.enter();
    let stop = stop()?;
    drop(entered);
    let timer = Arc::new(SystemTimer::new(Arc::clone(&clock)));
    let (token, engine) = Engine::new(
        sources,
        config.windows,
        Arc::clone(&state) as _,
        Arc::clone(&clock),
        timer,
        rand::random(),
    );
    let pages = Pages::new(config.identity);
    let fs = Fs::new(config.fs, state, token, clock, counters, pages);
    let waiters = Waiters::new(runtime.handle().clone());
    let adapter = Adapter::new(fs, waiters.clone());
    // Who may open what is the kernel's decision, by owner and mode.
    let session = Session::from_fd(adapter, device, SessionACL::All, Config::default())?;

    let (ended, end) = oneshot::channel();
    thread::Builder::new().name(THREAD.into()).spawn(move || ended.send(session.run()))?;
    ready()?;
    let end = runtime.block_on(async {
        let engine = tokio::spawn(engine.run());
        let end = tokio::select! {
            () = stop => Ok(End::Stopped),
            end = end => match end {
                Ok(Ok(())) => Ok(End::Disconnected),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(io::Error::other("the thread that answers the kernel failed")),
            },
        };
        waiters.dismiss().await;
        engine.abort();
        end
    });
    runtime.shutdown_timeout(WIND_DOWN);
    end
}
