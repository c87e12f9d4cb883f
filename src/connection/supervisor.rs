//! Keeps a mount alive whatever happens to the process that serves it.
//!
//! The supervisor owns the mount, the connection and the shared state, and does little else: it
//! starts the worker, starts the next one when that dies, hands over to a newer one, and ends with
//! the mount. It knows no token, no source and no policy.
//!
//! What to do is decided by a state machine without I/O ([`machine`]). Here is the loop around it: it
//! waits, tells the machine what happened, and does what that wants done ([`act`]).
//!
//! A worker that starts finds requests that a dead one had read: the kernel delivers them again
//! when asked to (`FUSE_NOTIFY_RESEND`, Linux 6.9). An older one does not; then the worker goes by
//! what the dead one noted in the shared state.
//!
//! There are never more than two workers. One that was killed and does not end costs the connection
//! ([`remount`]); while none can be started, the supervisor answers with an error ([`stand_in`]).

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::connection::companion::{Companion, Received};
use crate::connection::handover::Message;
use crate::connection::mount::Mount;
use crate::connection::rotation::Helper;
use crate::connection::wire::{self, READ_BUFFER};
use crate::fs::generations::State;
use crate::place::MountError;
use crate::program::Program;
use crate::time::{Clock, SystemClock};

mod act;
mod dying;
mod event;
mod machine;
mod pace;
mod process;
mod remount;
mod stand_in;
mod unserved;
mod watchdog;

use event::{Event, Id, Init};
use machine::Machine;
use process::Workers;

/// Asks for a newer worker, also where SIGHUP means that a window was closed.
pub const UPGRADE: Signal = Signal::SIGUSR2;

/// If the first worker fails so often in a row, none will come up.
const MOST_FAILURES: u32 = 6;
/// The longest that a worker may take to end when it is told to,
const STOP_LIMIT: Duration = Duration::from_secs(1);
/// and how much longer it may take to revoke tokens, for which it gives itself two seconds.
const REVOKE_LIMIT: Duration = Duration::from_millis(2500);
/// The longest to wait for the end of a worker that was killed.
const KILL_LIMIT: Duration = Duration::from_secs(1);

/// Why a supervisor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The companion asked for it.
    Stopped,
    /// Somebody unmounted the file system.
    Unmounted,
}

/// Why a supervisor gave up.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// Workers fail, one after the other.
    #[error("the first worker failed {MOST_FAILURES} times in a row, last so: {last}")]
    WorkerFails {
        /// How the last one ended.
        last: String,
    },
    /// The mount cannot be made visible.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The system refuses something that the supervisor cannot do without.
    #[error("cannot {what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Gives an I/O error its context.
fn cannot<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> SupervisorError {
    move |source| SupervisorError::System { what, source: source.into() }
}

/// What the supervisor is given.
pub struct Setup {
    /// The mount, not visible yet.
    pub mount: Mount,
    /// The state that workers share.
    pub state: Arc<State>,
    /// The worker's configuration, in sealed memory.
    pub config: OwnedFd,
    /// The program that is the worker.
    pub program: Program,
    /// How long an open may wait: one that waits longer hangs with its worker.
    pub open_timeout: Duration,
    /// The helper that makes rotations visible.
    pub helper: Helper,
    /// Whether its readers are nobody's to each other.
    pub shows_doors: bool,
    /// Whether the kernel may be asked to deliver again what a dead worker had read; if not, or where
    /// it cannot (before 6.9), the next worker goes by the journal.
    pub resend: bool,
}

/// The supervisor at work.
struct Supervisor<'a> {
    setup: Setup,
    device: OwnedFd,
    /// The kernel's INIT, and the first worker's answer to it, as the kernel gets it.
    init: Vec<u8>,
    init_answer: Option<Vec<u8>>,
    workers: Workers,
    machine: Machine,
    /// What the machine must still hear of.
    events: VecDeque<Event>,
    newer: Box<dyn Fn() -> io::Result<Newer>>,
    companion: &'a mut dyn Companion,
}

/// The program of an upgrade.
pub struct Newer {
    /// As it takes over: it makes its configuration itself.
    pub candidate: Program,
    /// As it is started from then on.
    pub worker: Program,
}

/// Serves until the companion or an unmount ends it. `newer` gives the program of an upgrade; the
/// companion hears when the mount is visible and served, and each of the `signals`.
///
/// # Errors
/// [`SupervisorError`]; the mount is gone then, so that readers get an error.
pub fn supervise(
    mut setup: Setup,
    signals: &SignalFd,
    newer: impl Fn() -> io::Result<Newer> + 'static,
    companion: &mut dyn Companion,
) -> Result<End, SupervisorError> {
    let (device, init) = read_init(&mut setup.mount)?;
    let mut supervisor = Supervisor {
        machine: Machine::new(setup.open_timeout),
        setup,
        device,
        init,
        init_answer: None,
        workers: Workers::default(),
        events: VecDeque::new(),
        newer: Box::new(newer),
        companion,
    };
    match supervisor.run(signals) {
        Over::Ended(end) => Ok(end),
        Over::Failed(error) => Err(error),
    }
}

/// Why the loop is left.
enum Over {
    Ended(End),
    Failed(SupervisorError),
}

impl From<SupervisorError> for Over {
    fn from(error: SupervisorError) -> Self {
        Self::Failed(error)
    }
}

/// Takes the connection of a mount, and the kernel's first request on it.
fn read_init(mount: &mut Mount) -> Result<(OwnedFd, Vec<u8>), SupervisorError> {
    let no_device = || io::Error::from(io::ErrorKind::NotFound);
    let device = mount.take_device().ok_or_else(no_device).map_err(cannot("take the device"))?;
    let mut init = vec![0; READ_BUFFER];
    let length = rustix::io::read(&device, init.as_mut_slice()).map_err(cannot("read INIT"))?;
    init.truncate(length);
    Ok((device, init))
}

/// From now on these signals are read from a descriptor. To be called before any thread is started: each
/// inherits the mask.
///
/// # Errors
/// Where the system has no descriptors left.
pub fn take_signals(mut signals: SigSet) -> nix::Result<SignalFd> {
    survive_large_files()?;
    signals.remove(Signal::SIGXFSZ);
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Lets a write beyond the limit on the size of files fail (EFBIG, `setrlimit(2)`) instead of ending
/// the process. The signal is blocked and not ignored: what we start would inherit the latter.
///
/// # Errors
/// None that the system knows.
pub fn survive_large_files() -> nix::Result<()> {
    SigSet::from(Signal::SIGXFSZ).thread_block()
}

/// What the supervisor is woken by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    Signal,
    MountsChanged,
    Disconnected,
    DeviceReadable,
    /// A request has come, and nobody but the supervisor is there to answer it.
    RequestWaits,
    Speaks(Id),
    Died(Id),
    /// One that was killed has ended.
    DyingEnded,
}

impl Supervisor<'_> {
    /// Serves until that is over.
    fn run(&mut self, signals: &SignalFd) -> Over {
        let mounts =
            File::open("/proc/self/mountinfo").map_err(cannot("open /proc/self/mountinfo"));
        let mounts = match mounts {
            Ok(mounts) => mounts,
            Err(error) => return error.into(),
        };
        loop {
            if let Err(over) = self.turn(signals, &mounts) {
                return over;
            }
        }
    }

    fn turn(&mut self, signals: &SignalFd, mounts: &File) -> Result<(), Over> {
        self.tell(Event::Tick { steps: self.setup.state.steps() })?;
        for woken in self.wait(signals, mounts)? {
            self.wake(woken, signals)?;
        }
        if self.machine.looks(SystemClock.now().boot) {
            self.tell(Event::Looked(self.signs()))?;
        }
        self.reap()
    }

    fn wait(&self, signals: &SignalFd, mounts: &File) -> Result<Vec<Woken>, SupervisorError> {
        // What to wait for, and what it means; a worker is heard before its death is.
        let mut events = vec![
            (Woken::Signal, signals.as_fd(), PollFlags::IN),
            (Woken::MountsChanged, mounts.as_fd(), PollFlags::PRI),
        ];
        // The kernel wakes whoever polls the device at each request, whatever it polls for. So it is
        // polled only while nobody asks anything; else the looks of the watchdog come by.
        let listens = self.machine.listens();
        if listens {
            events.push((Woken::Disconnected, self.device.as_fd(), PollFlags::ERR));
            events.push((Woken::DeviceReadable, self.device.as_fd(), PollFlags::IN));
        }
        if self.machine.stands_in() {
            events.push((Woken::RequestWaits, self.device.as_fd(), PollFlags::IN));
        }
        for id in [self.machine.worker(), self.machine.candidate()].into_iter().flatten() {
            if let Some(channel) = self.workers.channel(id) {
                events.push((Woken::Speaks(id), channel.as_fd(), PollFlags::IN));
                events.push((Woken::Died(id), channel.as_fd(), PollFlags::HUP));
            }
        }
        let dying = self.machine.dying().open().filter_map(|id| self.workers.channel(id));
        events.extend(dying.map(|channel| (Woken::DyingEnded, channel.as_fd(), PollFlags::HUP)));
        let mut descriptors: Vec<_> =
            events.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let timeout = self.time_to_wake();
        match poll(&mut descriptors, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(cannot("wait")(error)),
        }
        let happened = |((woken, _, flags), descriptor): (&(Woken, _, PollFlags), &PollFd<'_>)| {
            descriptor.revents().intersects(*flags).then_some(*woken)
        };
        let broken =
            !listens && !self.machine.connection_is_lost() && is_disconnected(&self.device);
        let happened = events.iter().zip(&descriptors).filter_map(happened);
        Ok(broken.then_some(Woken::Disconnected).into_iter().chain(happened).collect())
    }

    fn time_to_wake(&self) -> Option<Timespec> {
        let now = SystemClock.now().boot;
        let left = self.machine.wake(now)?.saturating_sub(now);
        // What is due already needs no time at all.
        let left = if left.is_zero() { left } else { left + Duration::from_millis(1) };
        Timespec::try_from(left).ok()
    }

    fn wake(&mut self, woken: Woken, signals: &SignalFd) -> Result<(), Over> {
        match woken {
            Woken::Signal => self.take_signals(signals),
            Woken::Disconnected => self.tell(Event::ConnectionEnded),
            Woken::MountsChanged if self.is_unmounted() => self.tell(Event::ConnectionEnded),
            Woken::MountsChanged | Woken::DyingEnded => Ok(()),
            Woken::DeviceReadable => {
                self.tell(Event::Requested { taken: self.setup.state.requests().0 })
            }
            Woken::RequestWaits => self.tell(Event::RequestWaits),
            Woken::Speaks(id) => self.hear(id),
            Woken::Died(id) => self.collect(id),
        }
    }

    fn is_unmounted(&self) -> bool {
        // Before the first worker is ready it is not mounted yet.
        self.machine.is_mounted() && !self.setup.mount.is_attached()
    }

    fn take_signals(&mut self, signals: &SignalFd) -> Result<(), Over> {
        while let Some(signal) = Received::next(signals) {
            let workers = &mut self.workers;
            let answer = self.companion.signal(signal, &mut |process| workers.settle(process));
            if let Some(event) = act::wish(answer) {
                self.tell(event)?;
            }
        }
        Ok(())
    }

    /// Hears what a worker says.
    fn hear(&mut self, id: Id) -> Result<(), Over> {
        while self.is_alive(id)
            && let Some(worker) = self.workers.get(id)
        {
            // Its death is told by the end of the channel.
            let Ok(Some((message, descriptors))) = worker.channel.receive(false) else { break };
            match message {
                Message::Ready => {
                    worker.config = descriptors.into_iter().next();
                    let init = self.receive_init_answer(id)?;
                    self.tell(Event::Ready { worker: id, init })?;
                }
                Message::Rotate if self.machine.worker() == Some(id) => {
                    self.tell(Event::RenamesDue)?;
                }
                Message::Rotate
                | Message::Handover
                | Message::Go
                | Message::Recover
                | Message::Stop
                | Message::Revoking => {}
            }
        }
        Ok(())
    }

    /// How a worker that is ready answers the kernel.
    fn receive_init_answer(&mut self, id: Id) -> Result<Init, SupervisorError> {
        let Some(worker) = self.workers.get(id) else { return Ok(Init::Other) };
        let answer = match worker.receive_init_answer() {
            Ok(mut answer) => {
                wire::allow_idmap(&self.init, &mut answer);
                if self.setup.shows_doors {
                    wire::forbid_handles(&self.init, &mut answer);
                }
                answer
            }
            // It is the only one there is.
            Err(error) if self.machine.worker() == Some(id) => {
                return Err(cannot("hear the answer to INIT")(error));
            }
            Err(error) => return Ok(Init::Missing(error.to_string())),
        };
        Ok(match &self.init_answer {
            None => {
                worker.answer = Some(answer);
                Init::First
            }
            Some(first) if *first == answer => Init::Same,
            Some(_) => Init::Other,
        })
    }

    fn is_alive(&self, id: Id) -> bool {
        [self.machine.worker(), self.machine.candidate()].contains(&Some(id))
    }

    /// Takes the exit status of a worker that died.
    fn collect(&mut self, id: Id) -> Result<(), Over> {
        if !self.is_alive(id) {
            return Ok(());
        }
        if self.machine.worker() == Some(id) && self.is_unmounted() {
            return self.tell(Event::ConnectionEnded);
        }
        self.kill(id);
        let ending = self.wait_for(id);
        self.tell(Event::Closed { worker: id, ending })
    }

    /// Looks whether workers that were killed have ended.
    fn reap(&mut self) -> Result<(), Over> {
        for id in self.machine.dying().all().collect::<Vec<_>>() {
            let Some(worker) = self.workers.get(id) else { continue };
            let ending = worker.ended();
            if ending.is_some() {
                self.workers.remove(id);
                self.tell(Event::Closed { worker: id, ending })?;
            } else if worker.has_closed() {
                self.tell(Event::Closed { worker: id, ending })?;
            }
        }
        Ok(())
    }

    /// Ends every worker. One that hangs is left behind, but not the connection that it has open: readers
    /// would wait for it for ever.
    fn end_all(&mut self) {
        for id in [self.machine.candidate(), self.machine.worker()].into_iter().flatten() {
            self.kill(id);
            self.answer_overdue();
            self.wait_for(id);
        }
        if self.workers.wait(Duration::ZERO) {
            return;
        }
        if let Err(error) = self.setup.mount.abort() {
            tracing::warn!("readers may wait for a worker that hangs: {error}");
        }
        self.workers.wait(KILL_LIMIT);
    }
}

/// Whether the kernel has ended the connection.
fn is_disconnected(device: &OwnedFd) -> bool {
    happens(device, PollFlags::ERR)
}

/// Whether a request has come that nobody has taken.
fn is_readable(device: &OwnedFd) -> bool {
    happens(device, PollFlags::IN)
}

fn happens(device: &OwnedFd, what: PollFlags) -> bool {
    let mut fds = [PollFd::new(device, what)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
}

impl Drop for Supervisor<'_> {
    fn drop(&mut self) {
        self.end_all();
    }
}
