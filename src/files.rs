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

use crate::connection::companion::{Answer, Companion, Received};
use crate::connection::manager;
use crate::connection::supervisor::End;
use crate::foreign::Launcher;
use crate::fs::access::Access;
use crate::refresh::policy::Windows;
use crate::refresh::store::MemoryStore;
use crate::refresh::timer::{SystemTimer, Timer};
use crate::refresh::{Handle, Snapshot};
use crate::service::TokenService;
use crate::source::{SourceConfig, Surroundings};
use crate::status::counters::Counters;
use crate::status::metrics;
use crate::status::{self, Backend, Identity};
use crate::time::{Clock, Now, SystemClock};
use crate::token::FreshToken;
use crate::view::{self, ViewContext};

mod directory;
mod found;
mod wishes;

pub use directory::{Directory, MARKER};
pub use found::{Found, Holder, clear};

/// How long the runtime may take to end what it still does, for example a request on the wire.
const WIND_DOWN: Duration = Duration::from_millis(100);
/// Between two tries to write or remove files.
const RETRY: Duration = Duration::from_secs(1);
/// A timer that fires in the very moment could find the token usable for another nanosecond.
const A_LITTLE_LATER: Duration = Duration::from_millis(1);

/// What is served, and where.
pub struct Setup {
    /// The directory.
    pub directory: Directory,
    /// Owner and modes of the files.
    pub access: Access,
    /// Where tokens come from, in order.
    pub sources: Vec<SourceConfig>,
    /// The engine's numbers. There is no open to ask for a token: it is fetched ahead, and the
    /// refresh never pauses.
    pub windows: Windows,
    /// What views are rendered with.
    pub views: ViewContext,
    /// What status says of it.
    pub identity: Identity,
    /// Starts this very program.
    pub launcher: Launcher,
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
    let TokenService { handle: token, engine, counters, .. } =
        TokenService::new(setup.sources, windows, &surroundings, Arc::clone(&timer), |_| {
            // Nothing outlives this process.
            Ok(MemoryStore::default())
        })?;
    let mut wishes = wishes::Wishes::new(&setup.directory, token.clone())?;
    let mountpoint = setup.directory.mountpoint().to_owned();
    let keeper = Keeper {
        directory: setup.directory,
        access: setup.access,
        views: setup.views,
        identity: setup.identity,
        counters,
        shown: None,
        fails: false,
    };
    let now = clock.now();
    keeper.write_pages(&token.snapshot(), &now)?;

    let (ended, end) = io::pipe()?;
    let (stop, stopped) = oneshot::channel();
    let keep = move || {
        // Closed with the thread, however that ends.
        let _end = end;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        runtime.block_on(async {
            let engine = tokio::spawn(engine.run());
            if !is_delayed {
                // Somebody always asks: that is what files are there for. It is as patient as an open, so
                // that the first source has its time to answer.
                let (token, deadline) = (token.clone(), now.boot.saturating_add(open_timeout));
                tokio::spawn(async move { drop(token.token(None, deadline).await) });
            }
            keeper.run(&token, &*clock, &*timer, stopped).await;
            engine.abort();
            apps.revoke(&*clock).await;
        });
        runtime.shutdown_timeout(WIND_DOWN);
        Ok::<_, io::Error>(())
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
    keeper.join().map_err(|_| io::Error::other("the thread that keeps the files failed"))??;
    Ok(end)
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

/// Keeps the files as the engine's word has it.
struct Keeper {
    directory: Directory,
    access: Access,
    views: ViewContext,
    identity: Identity,
    counters: Arc<Counters>,
    /// The token whose views are there.
    shown: Option<FreshToken>,
    /// The last attempt to write failed.
    fails: bool,
}

impl Keeper {
    async fn run(
        mut self,
        token: &Handle,
        clock: &dyn Clock,
        timer: &dyn Timer,
        mut stopped: oneshot::Receiver<()>,
    ) {
        let mut changes = token.subscribe();
        let mut wall_set = timer.wall_set();
        loop {
            let snapshot = changes.borrow_and_update().clone();
            let next = self.look(&snapshot, &clock.now());
            let wake = async {
                match next {
                    Some(at) => timer.until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = &mut stopped => return,
                news = changes.changed() => if news.is_err() { return },
                () = &mut wall_set => wall_set = timer.wall_set(),
                () = wake => {}
            }
        }
    }

    /// Brings the files into line, and tells when to look again though nothing changes.
    fn look(&mut self, snapshot: &Snapshot, now: &Now) -> Option<Duration> {
        let fresh = snapshot.usable(None, now);
        let views = match &fresh {
            Some(fresh) if !self.shows(fresh) => self.show(fresh.clone(), now, snapshot.min_life),
            Some(_) => Ok(()),
            None => self.hide(),
        };
        let written = views.and_then(|()| self.write_pages(snapshot, now));
        if let Err(error) = &written
            && !self.fails
        {
            let path = self.directory.path().display();
            tracing::error!(
                "cannot keep the files in {path} up to date: {error}; it is tried again"
            );
        }
        self.fails = written.is_err();
        let retry = self.fails.then(|| now.boot.saturating_add(RETRY));
        let withheld = snapshot.rejected.map(|rejection| rejection.withheld_until);
        let judged_anew = match &fresh {
            Some(fresh) => {
                let left = fresh.token().left(now).saturating_sub(snapshot.min_life);
                Some(now.boot.saturating_add(left).saturating_add(A_LITTLE_LATER))
            }
            None => withheld.filter(|until| *until > now.boot && *until != Duration::MAX),
        };
        retry.into_iter().chain(judged_anew).min()
    }

    fn shows(&self, fresh: &FreshToken) -> bool {
        self.shown.as_ref().is_some_and(|it| it.token().generation == fresh.token().generation)
    }

    /// Replaces every view. Where that fails, those that are there stay while they are good.
    fn show(&mut self, fresh: FreshToken, now: &Now, min_life: Duration) -> io::Result<()> {
        let published = fresh.publish(now);
        let rendered: Vec<_> = view::ALL
            .iter()
            .map(|view| (view.path(), view::render(*view, &published, &self.views)))
            .collect();
        let mode = self.access.view_mode;
        let files: Vec<_> =
            rendered.iter().map(|(path, bytes)| (*path, bytes.as_bytes(), mode)).collect();
        let replaced = self.directory.replace(&files);
        if replaced.is_ok() {
            self.shown = Some(fresh);
        } else if self.shown.as_ref().is_none_or(|it| it.token().usable(now, min_life).is_none()) {
            self.hide()?;
        }
        replaced
    }

    /// Removes every view.
    fn hide(&mut self) -> io::Result<()> {
        if self.shown.is_none() {
            return Ok(());
        }
        for view in view::ALL {
            self.directory.remove(view.path())?;
        }
        self.shown = None;
        tracing::info!("no token may be served: the files are removed until one comes");
        Ok(())
    }

    fn write_pages(&self, snapshot: &Snapshot, now: &Now) -> io::Result<()> {
        let (identity, counters) = (&self.identity, &*self.counters);
        let document = status::document(identity, snapshot, counters, now);
        let reduced = status::document_for_strangers(identity, snapshot, counters, now);
        let [status, metrics, full] = directory::PAGES;
        let mode = Access::STATUS_MODE;
        self.directory.replace(&[
            (status, &status::padded(&reduced), mode),
            (metrics, &metrics::padded(&document, &[counters]), mode),
            (full, &status::padded(&document), self.access.view_mode),
        ])
    }
}
