//! Keeps a mount alive whatever happens to the process that serves it.
//!
//! The supervisor owns the mount, the connection and the shared state, and does little else: it
//! starts the worker, starts the next one when that dies, hands over to a newer one, and ends with
//! the mount. It knows no token, no source and no policy.
//!
//! A worker that starts finds requests that a dead one had read: the kernel delivers them again
//! when asked to (`FUSE_NOTIFY_RESEND`, Linux 6.9). An older one does not; then the worker goes by
//! what the dead one noted in the shared state.
//!
//! There are never more than two workers. One that was killed and does not end costs the connection
//! ([`remount`]); while none can be started, the supervisor answers with an error ([`stand_in`]).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::connection::companion::{Answer, Companion, Received};
use crate::connection::handover::Message;
use crate::connection::manager;
use crate::connection::mount::{Mount, MountError};
use crate::connection::rotation::Helper;
use crate::connection::wire::READ_BUFFER;
use crate::fs::generations::State;
use crate::program::Program;
use crate::time::{Clock, SystemClock};

mod dying;
mod lives;
mod pace;
mod process;
mod remount;
mod stand_in;
mod upgrade;
mod watchdog;

use dying::Dying;
use pace::Pace;
use process::Worker;
use stand_in::StandIn;
use watchdog::Watchdog;

/// Asks for a newer worker, also where SIGHUP means that a window was closed.
pub const UPGRADE: Signal = Signal::SIGUSR2;

/// If the first worker fails so often in a row, none will come up.
const MOST_FAILURES: u32 = 6;
/// The most workers at a time: one that serves, and one that takes over from it or that is dying.
const MOST_WORKERS: usize = 2;
/// A worker that fails this soon after it was ready counts as one that did not come up.
const PROBATION: Duration = Duration::from_secs(1);
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
    /// Whether the kernel may be asked to deliver again what a dead worker had read; if not, or where
    /// it cannot (before 6.9), the next worker goes by the journal.
    pub resend: bool,
}

/// The supervisor at work.
struct Supervisor {
    setup: Setup,
    device: OwnedFd,
    /// The kernel's INIT, and the first worker's answer to it.
    init: Vec<u8>,
    init_answer: Option<Vec<u8>>,
    /// The connection was aborted, and the mount has to be made anew.
    connection_is_lost: bool,
    /// A worker has come up at least once.
    has_served: bool,
    worker: Option<Worker>,
    /// A newer worker that is not ready yet, and its program.
    candidate: Option<Worker>,
    candidate_program: Option<Program>,
    dying: Dying,
    pace: Pace,
    stand_in: StandIn,
    watchdog: Watchdog,
    newer: Box<dyn Fn() -> io::Result<Newer>>,
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
        watchdog: Watchdog::new(setup.open_timeout),
        setup,
        device,
        init,
        init_answer: None,
        connection_is_lost: false,
        has_served: false,
        worker: None,
        candidate: None,
        candidate_program: None,
        dying: Dying::default(),
        pace: Pace::default(),
        stand_in: StandIn::default(),
        newer: Box::new(newer),
    };
    let end = supervisor.run(signals, companion)?;
    if end == End::Unmounted {
        supervisor.stop();
    }
    Ok(end)
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

/// What can happen while the supervisor waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Signal,
    MountsChanged,
    Disconnected,
    DeviceReadable,
    /// A request has come, and nobody but the supervisor is there to answer it.
    RequestWaits,
    WorkerSpeaks,
    WorkerDied,
    CandidateSpeaks,
    CandidateDied,
    /// One that was killed has ended.
    DyingEnded,
}

impl Supervisor {
    fn run(
        &mut self,
        signals: &SignalFd,
        companion: &mut dyn Companion,
    ) -> Result<End, SupervisorError> {
        let mounts =
            File::open("/proc/self/mountinfo").map_err(cannot("open /proc/self/mountinfo"))?;
        loop {
            self.start_if_due()?;
            self.stand_in();
            let events = self.wait(signals, &mounts)?;
            let device_readable = events.contains(&Event::DeviceReadable);
            for event in events {
                match event {
                    Event::Signal => {
                        if let Some(end) = self.signal(signals, companion) {
                            return Ok(end);
                        }
                    }
                    Event::Disconnected => return Ok(End::Unmounted),
                    Event::MountsChanged | Event::WorkerDied if self.is_unmounted() => {
                        return Ok(End::Unmounted);
                    }
                    Event::MountsChanged
                    | Event::DeviceReadable
                    | Event::RequestWaits
                    | Event::DyingEnded => {}
                    Event::WorkerSpeaks => {
                        if let Some(end) = self.hear_worker(companion)? {
                            return Ok(end);
                        }
                    }
                    Event::WorkerDied => self.worker_died()?,
                    Event::CandidateSpeaks => self.hear_candidate(),
                    Event::CandidateDied => self.candidate_died(),
                }
            }
            self.watch(device_readable);
            self.reap()?;
        }
    }

    fn wait(&self, signals: &SignalFd, mounts: &File) -> Result<Vec<Event>, SupervisorError> {
        use Event::{
            CandidateDied, CandidateSpeaks, DeviceReadable, Disconnected, DyingEnded,
            MountsChanged, RequestWaits, Signal, WorkerDied, WorkerSpeaks,
        };
        // What to wait for, and what it means; a worker is heard before its death is.
        let mut events = vec![
            (Signal, signals.as_fd(), PollFlags::IN),
            (MountsChanged, mounts.as_fd(), PollFlags::PRI),
        ];
        // The kernel wakes whoever polls the device at each request, whatever it polls for. So it is
        // polled only while nobody asks anything; else the looks of the watchdog come by.
        let listens = self.watchdog.is_idle() && self.serves();
        if listens {
            events.push((Disconnected, self.device.as_fd(), PollFlags::ERR));
            events.push((DeviceReadable, self.device.as_fd(), PollFlags::IN));
        }
        if self.stands_in() {
            events.push((RequestWaits, self.device.as_fd(), PollFlags::IN));
        }
        let workers = [
            (&self.worker, WorkerSpeaks, WorkerDied),
            (&self.candidate, CandidateSpeaks, CandidateDied),
        ];
        for (worker, speaks, died) in workers {
            if let Some(worker) = worker {
                events.push((speaks, worker.channel.as_fd(), PollFlags::IN));
                events.push((died, worker.channel.as_fd(), PollFlags::HUP));
            }
        }
        let dying = self.dying.channels().map(|channel| (DyingEnded, channel, PollFlags::HUP));
        events.extend(dying);
        let mut descriptors: Vec<_> =
            events.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let timeout = self.time_to_wake();
        match poll(&mut descriptors, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(cannot("wait")(error)),
        }
        let happened = |((event, _, flags), descriptor): (&(Event, _, PollFlags), &PollFd<'_>)| {
            descriptor.revents().intersects(*flags).then_some(*event)
        };
        let broken = !listens && !self.connection_is_lost && is_disconnected(&self.device);
        let happened = events.iter().zip(&descriptors).filter_map(happened);
        Ok(broken.then_some(Disconnected).into_iter().chain(happened).collect())
    }

    fn serves(&self) -> bool {
        self.worker.as_ref().is_some_and(|worker| worker.serving.is_some())
    }

    fn time_to_wake(&self) -> Option<Timespec> {
        let now = SystemClock.now().boot;
        let starting = self.candidate.iter().chain(&self.worker);
        let can_start = self.worker.is_none() && (self.has_room() || self.connection_is_lost);
        let wake = [
            can_start.then(|| self.pace.not_before()),
            starting.filter_map(Worker::start_ends).min(),
            self.serves().then(|| self.watchdog.next_look()).flatten(),
            self.dying.next_look(now),
            self.next_look_for_readers(now),
        ];
        let at = wake.into_iter().flatten().min()?;
        let left = at.saturating_sub(now) + Duration::from_millis(1);
        Timespec::try_from(left).ok()
    }

    fn is_unmounted(&self) -> bool {
        // Before the first worker is ready it is not mounted yet.
        !self.connection_is_lost && self.init_answer.is_some() && !self.setup.mount.is_attached()
    }

    // === signals ===

    fn signal(&mut self, signals: &SignalFd, companion: &mut dyn Companion) -> Option<End> {
        while let Some(signal) = Received::next(signals) {
            let answer = companion.signal(signal, &mut |process| self.settle(process));
            if let Some(end) = self.answer(answer) {
                return Some(end);
            }
        }
        None
    }

    fn answer(&mut self, answer: Answer) -> Option<End> {
        match answer {
            Answer::GoOn | Answer::Refresh => None,
            Answer::Upgrade => {
                self.upgrade();
                None
            }
            Answer::Stop => {
                self.stop();
                Some(End::Stopped)
            }
        }
    }

    /// Whether a process is a child of ours; takes its exit status if it has ended.
    fn settle(&mut self, process: nix::unistd::Pid) -> bool {
        let workers = [&mut self.worker, &mut self.candidate].into_iter().flatten();
        let ours = workers.map(|worker| &mut worker.child).chain(self.dying.children());
        let mut ours = ours.filter(|child| i64::from(child.id()) == i64::from(process.as_raw()));
        // It keeps the status for whoever asks next.
        ours.next().is_some_and(|child| child.try_wait().is_ok())
    }

    /// Lets the worker answer everybody who waits, and ends it.
    fn stop(&mut self) {
        manager::stopping();
        if let Some(worker) = &mut self.worker
            && worker.channel.send(Message::Stop).is_ok()
            && worker.says(Message::Revoking, STOP_LIMIT)
        {
            // Nobody new is handed a token that is about to die.
            if let Err(error) = self.setup.mount.detach() {
                tracing::debug!("it is unmounted when the worker has ended: {error}");
            }
            worker.wait(REVOKE_LIMIT);
        }
    }

    /// Ends every worker. One that hangs is left behind, but not the connection that it has open: readers
    /// would wait for it for ever.
    fn end_all(&mut self, now: Duration) {
        self.drop_candidate();
        if let Some(worker) = self.worker.take() {
            self.end(worker, now);
        }
        if self.dying.wait(Duration::ZERO) {
            return;
        }
        if let Err(error) = self.setup.mount.abort() {
            tracing::warn!("readers may wait for a worker that hangs: {error}");
        }
        self.dying.wait(KILL_LIMIT);
    }
}

/// Whether the kernel has ended the connection.
fn is_disconnected(device: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(device, PollFlags::ERR)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.end_all(SystemClock.now().boot);
    }
}
