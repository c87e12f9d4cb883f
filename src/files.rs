//! The same views without FUSE: files in memory, replaced at each rotation.
//!
//! No open can be judged here, so the files are judged all the time: they are there exactly while
//! their token may be served, by the same word of the engine that decides an open elsewhere. They
//! are removed in the moment in which it may not, never cut: whoever has one open keeps it.
//!
//! One process does it all. What it leaves behind when it is killed is a file whose token dies, which
//! no reader is kept from: the promise is weaker, and the next start cleans up.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::connection::companion::{Answer, Companion, Received};
use crate::connection::manager;
use crate::connection::supervisor::End;
use crate::connection::tokens::NamedToken;
use crate::files::keeper::{Keeper, Kept};
use crate::foreign::Launcher;
use crate::fs::access::Access;
use crate::refresh::Handle;
use crate::refresh::policy::Windows;
use crate::refresh::store::MemoryStore;
use crate::refresh::timer::{SystemTimer, Timer};
use crate::service::TokenService;
use crate::source::{SourceConfig, Surroundings};
use crate::status::counters::Counters;
use crate::status::{Backend, Identity};
use crate::time::{Clock, SystemClock};
use crate::view::ViewContext;

mod contents;
mod directory;
mod found;
mod keeper;
mod wishes;

pub use contents::MARKER;
pub use directory::Directory;
pub use found::{Found, Holder, clear};

/// How long the runtime may take to end what it still does, for example a request on the wire.
const WIND_DOWN: Duration = Duration::from_millis(100);

/// What is served, and where.
pub struct Setup {
    /// The directory.
    pub directory: Directory,
    /// Owner and modes of the files.
    pub access: Access,
    /// Where tokens come from, in order.
    pub sources: Vec<SourceConfig>,
    /// The engines' numbers. There is no open to ask for a token: it is fetched ahead, and the
    /// refresh never pauses.
    pub windows: Windows,
    /// What views are rendered with.
    pub views: ViewContext,
    /// The tokens that have a directory of their own.
    pub tokens: Vec<NamedToken>,
    /// What status says of it.
    pub identity: Identity,
    /// Starts this very program.
    pub launcher: Launcher,
}

/// A token whose views are kept.
#[derive(Clone)]
struct Token {
    /// Its directory in that of the files; empty for the token of the directory itself.
    directory: String,
    identity: Identity,
    views: ViewContext,
    handle: Handle,
    counters: Arc<Counters>,
}

impl Token {
    /// A file of it, in the directory of the files.
    fn path(&self, name: &str) -> String {
        if self.is_of_the_directory() {
            name.to_owned()
        } else {
            format!("{}/{name}", self.directory)
        }
    }

    fn is_of_the_directory(&self) -> bool {
        self.directory.is_empty()
    }
}

/// Serves until the companion says stop, or somebody takes the files away. Nothing is left then.
///
/// # Errors
/// Where the first files cannot be written, or the system has no threads or descriptors left.
pub fn serve(setup: Setup, signals: &SignalFd, companion: &mut dyn Companion) -> io::Result<End> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let surroundings = Surroundings::new(Arc::clone(&clock), setup.launcher);
    let apps = Arc::clone(&surroundings.apps);
    let timer: Arc<dyn Timer> = Arc::new(SystemTimer::new(Arc::clone(&clock)));
    let is_delayed = !setup.windows.initial_delay.is_zero();
    let open_timeout = setup.windows.open_timeout;
    let windows = Windows { prefetch: true, idle: Duration::MAX, ..setup.windows };
    let directory = setup.directory;
    let mountpoint = directory.mountpoint().to_owned();
    let make = |directory: String, identity, sources, views| {
        let (windows, timer) = (windows.clone(), Arc::clone(&timer));
        let TokenService { handle, engine, counters, .. } =
            TokenService::new(sources, windows, &surroundings, timer, |_| {
                // Nothing outlives this process.
                Ok(MemoryStore::default())
            })?;
        Ok::<_, io::Error>((Token { directory, identity, views, handle, counters }, engine))
    };
    let (first, engine) = make(String::new(), setup.identity.clone(), setup.sources, setup.views)?;
    let mut engines = vec![engine];
    let mut named = Vec::new();
    for NamedToken { name, sources, owners, views } in setup.tokens {
        directory.add(&name).map_err(io::Error::other)?;
        let hosts = views.hosts.clone();
        let identity = Identity { name: name.clone(), owners, hosts, ..setup.identity.clone() };
        let (token, engine) = make(name, identity, sources, views)?;
        named.push(token);
        engines.push(engine);
    }
    let kept = Arc::new(Kept { directory, access: setup.access, first, named });
    let mut wishes = wishes::Wishes::new(&kept.directory, kept.tokens())?;
    let now = clock.now();
    for token in kept.tokens() {
        kept.write_pages(token, &now)?;
    }

    let (ended, end) = io::pipe()?;
    let (stop, stopped) = oneshot::channel();
    let keep = move || {
        // Closed with the thread, however that ends.
        let _end = end;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let end = runtime.block_on(async move {
            let mut tasks = JoinSet::new();
            for (token, engine) in kept.tokens().zip(engines) {
                tasks.spawn(engine.run());
                let keeper = Keeper::new(Arc::clone(&kept), token.clone());
                tasks.spawn(keeper.run(Arc::clone(&clock), Arc::clone(&timer)));
                if !is_delayed {
                    // Somebody always asks: that is what files are there for. It is as patient as an
                    // open, so that the first source has its time to answer.
                    let deadline = now.boot.saturating_add(open_timeout);
                    let token = token.handle.clone();
                    tokio::spawn(async move { drop(token.token(None, deadline).await) });
                }
            }
            let end = tokio::select! {
                biased;
                _ = stopped => Ok(()),
                // None ends by itself.
                _ = tasks.join_next() => Err(failed()),
            };
            tasks.shutdown().await;
            // With the files, so that nobody reads a token that is about to be revoked.
            drop(kept);
            apps.revoke(&*clock).await;
            end
        });
        runtime.shutdown_timeout(WIND_DOWN);
        end
    };
    let keeper = thread::Builder::new().name("files".into()).spawn(keep)?;
    manager::ready(&mountpoint);
    let end = match companion.ready(Backend::Files) {
        Answer::Stop => End::Stopped,
        _ => listen(signals, companion, &mut wishes, &ended)?,
    };
    manager::stopping();
    // It may have ended.
    stop.send(()).ok();
    keeper.join().map_err(|_| failed())??;
    Ok(end)
}

fn failed() -> io::Error {
    io::Error::other("the thread that keeps the files failed")
}

/// Hears signals and wishes until the companion says stop, or the keeper has ended.
fn listen(
    signals: &SignalFd,
    companion: &mut dyn Companion,
    wishes: &mut wishes::Wishes,
    ended: &io::PipeReader,
) -> io::Result<End> {
    loop {
        let mut events = [
            PollFd::new(signals, PollFlags::IN),
            PollFd::from_borrowed_fd(wishes.as_fd(), PollFlags::IN),
            PollFd::new(ended, PollFlags::HUP),
        ];
        let limit = wishes.time_to_wake().and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut events, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [_, _, end] = events.map(|event| !event.revents().is_empty());
        if end {
            return Ok(End::Stopped);
        }
        while let Some(signal) = Received::next(signals) {
            match companion.signal(signal, &mut |_| false) {
                Answer::Stop => return Ok(End::Stopped),
                Answer::Refresh => wishes.fetch(),
                Answer::Upgrade => {
                    tracing::warn!("files cannot be handed over: end this and start it again");
                }
                Answer::GoOn => {}
            }
        }
        if !wishes.hear() {
            return Ok(End::Unmounted);
        }
    }
}
