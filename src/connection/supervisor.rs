//! Keeps a mount alive whatever happens to the process that serves it.
//!
//! The supervisor owns the mount, the connection and the shared state, and does little else: it
//! starts the worker, starts the next one when that dies, hands over to a newer one, and ends with
//! the mount. It knows no token, no source and no policy.
//!
//! A worker that starts finds requests that a dead one had read: the kernel delivers them again
//! when asked to (`FUSE_NOTIFY_RESEND`, Linux 6.9). An older one does not; then the worker goes by
//! what the dead one noted in the shared state.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::connection::companion::{Answer, Companion, Received};
use crate::connection::handover::Message;
use crate::connection::manager;
use crate::connection::mount::{Mount, MountError};
use crate::connection::resident::forget_the_program;
use crate::connection::rotation::Helper;
use crate::fs::generations::State;
use crate::fs::status::Backend;
use crate::program::Program;
use crate::time::{Clock, SystemClock};

mod process;
mod upgrade;
mod watchdog;

use process::{START_LIMIT, Worker, is_crash};
use watchdog::{Health, Watchdog};

/// Asks for a newer worker, also where SIGHUP means that a window was closed.
pub const UPGRADE: Signal = Signal::SIGUSR2;

/// A worker that fails so often in a row will not come up.
const MOST_FAILURES: u32 = 6;
/// The pause after the first failure; doubled with each.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// A worker that fails this soon after it was ready counts as one that did not come up.
const PROBATION: Duration = Duration::from_secs(1);
/// The longest that a worker may take to end when it is told to.
const STOP_LIMIT: Duration = Duration::from_secs(1);
/// The longest to wait for the end of a worker that was killed.
const KILL_LIMIT: Duration = Duration::from_secs(1);
/// The kernel reads nothing shorter from us (`FUSE_MIN_READ_BUFFER`).
const INIT_BUFFER: usize = 64 * 1024;

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
    #[error("the worker failed {MOST_FAILURES} times in a row, last so: {last}")]
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
    worker: Option<Worker>,
    /// A newer worker that is not ready yet, and its program.
    candidate: Option<Worker>,
    candidate_program: Option<Program>,
    /// Killed, and not reaped yet.
    dying: Vec<Child>,
    failures: u32,
    last_failure: String,
    /// When the next worker may be started (boot clock).
    restart_at: Duration,
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
    let no_device = || io::Error::from(io::ErrorKind::NotFound);
    let device =
        setup.mount.take_device().ok_or_else(no_device).map_err(cannot("take the device"))?;
    let mut init = vec![0; INIT_BUFFER];
    let length = rustix::io::read(&device, init.as_mut_slice()).map_err(cannot("read INIT"))?;
    init.truncate(length);
    let mut supervisor = Supervisor {
        watchdog: Watchdog::new(setup.open_timeout),
        setup,
        device,
        init,
        init_answer: None,
        worker: None,
        candidate: None,
        candidate_program: None,
        dying: Vec::new(),
        failures: 0,
        last_failure: String::new(),
        restart_at: Duration::ZERO,
        newer: Box::new(newer),
    };
    supervisor.run(signals, companion)
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
    WorkerSpeaks,
    WorkerDied,
    CandidateSpeaks,
    CandidateDied,
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
                    Event::MountsChanged | Event::DeviceReadable => {}
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
            self.dying.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
        }
    }

    fn wait(&self, signals: &SignalFd, mounts: &File) -> Result<Vec<Event>, SupervisorError> {
        use Event::{
            CandidateDied, CandidateSpeaks, DeviceReadable, Disconnected, MountsChanged, Signal,
            WorkerDied, WorkerSpeaks,
        };
        let readable = PollFlags::IN | PollFlags::HUP;
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
        let workers = [
            (&self.worker, WorkerSpeaks, WorkerDied),
            (&self.candidate, CandidateSpeaks, CandidateDied),
        ];
        for (worker, speaks, died) in workers {
            if let Some(worker) = worker {
                events.push((speaks, worker.channel.as_fd(), readable));
                events.push((died, worker.pidfd.as_fd(), PollFlags::IN));
            }
        }
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
        let broken = !listens && is_disconnected(&self.device);
        let happened = events.iter().zip(&descriptors).filter_map(happened);
        Ok(broken.then_some(Disconnected).into_iter().chain(happened).collect())
    }

    fn serves(&self) -> bool {
        self.worker.as_ref().is_some_and(|worker| worker.serving.is_some())
    }

    fn time_to_wake(&self) -> Option<Timespec> {
        let starting = self.candidate.iter().chain(&self.worker);
        let wake = [
            self.worker.is_none().then_some(self.restart_at),
            starting.filter_map(Worker::start_ends).min(),
            self.watchdog.next_look(),
        ];
        let at = wake.into_iter().flatten().min()?;
        let left = at.saturating_sub(SystemClock.now().boot) + Duration::from_millis(1);
        Timespec::try_from(left).ok()
    }

    fn is_unmounted(&self) -> bool {
        // Before the first worker is ready it is not mounted yet.
        self.init_answer.is_some() && !self.setup.mount.is_attached()
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
        let ours = workers.map(|worker| &mut worker.child).chain(&mut self.dying);
        let mut ours = ours.filter(|child| i64::from(child.id()) == i64::from(process.as_raw()));
        // It keeps the status for whoever asks next.
        ours.next().is_some_and(|child| child.try_wait().is_ok())
    }

    /// Lets the worker answer everybody who waits, and ends it.
    fn stop(&mut self) {
        manager::stopping();
        self.drop_candidate();
        let Some(mut worker) = self.worker.take() else { return };
        if worker.channel.send(Message::Stop).is_ok() {
            worker.wait_for_end(STOP_LIMIT);
        }
        worker.kill();
        worker.child.wait().ok();
    }

    // === the worker ===

    fn start_if_due(&mut self) -> Result<(), SupervisorError> {
        let now = SystemClock.now().boot;
        if self.worker.is_none() && now >= self.restart_at {
            match self.start(&self.setup.program, now) {
                Ok(worker) => self.worker = Some(worker),
                Err(error) => self.failed(format!("it cannot be started: {error}"))?,
            }
        }
        let steps = self.setup.state.steps();
        for worker in self.worker.iter_mut().chain(&mut self.candidate) {
            if worker.hangs_at_start(steps, now) {
                tracing::warn!("the worker has not gone on with its start for {START_LIMIT:?}");
                worker.kill();
            }
        }
        Ok(())
    }

    fn start(&self, program: &Program, now: Duration) -> io::Result<Worker> {
        Worker::start(program, &self.device, &self.init, &self.setup, now)
    }

    fn hear_worker(
        &mut self,
        companion: &mut dyn Companion,
    ) -> Result<Option<End>, SupervisorError> {
        while let Some(worker) = &self.worker {
            // Its death is told by its pidfd.
            let Ok(Some((message, _))) = worker.channel.receive(false) else { break };
            match message {
                Message::Ready => {
                    let is_first = self.init_answer.is_none();
                    self.worker_is_ready()?;
                    if is_first {
                        manager::ready(self.setup.mount.target());
                    }
                    if is_first && let Some(end) = self.answer(companion.ready(Backend::Fuse)) {
                        return Ok(Some(end));
                    }
                }
                Message::Rotate => self.setup.helper.rotate(),
                Message::Handover | Message::Go | Message::Recover | Message::Stop => {}
            }
        }
        Ok(None)
    }

    fn worker_is_ready(&mut self) -> Result<(), SupervisorError> {
        let Some(worker) = &mut self.worker else { return Ok(()) };
        let answer = worker.receive_init_answer().map_err(cannot("hear the answer to INIT"))?;
        match &self.init_answer {
            None => {
                rustix::io::write(&self.device, &answer).map_err(cannot("answer INIT"))?;
                self.init_answer = Some(answer);
                self.setup.mount.attach()?;
            }
            Some(first) if *first != answer => {
                // The same program cannot answer otherwise.
                worker.kill();
                return Ok(());
            }
            Some(_) => {}
        }
        worker.serving = Some(SystemClock.now().boot);
        worker.go(self.device.as_fd(), &self.setup);
        self.watchdog.worker_started(SystemClock.now().boot);
        Ok(())
    }

    fn worker_died(&mut self) -> Result<(), SupervisorError> {
        let Some(mut worker) = self.worker.take() else { return Ok(()) };
        let now = SystemClock.now().boot;
        let status = worker.child.try_wait().ok().flatten();
        let how = status.map_or_else(|| "killed".to_owned(), |status| status.to_string());
        if status.is_none() {
            self.dying.push(worker.child);
        }
        let is_in_probation =
            worker.serving.is_some_and(|since| now < since.saturating_add(PROBATION));
        let is_failure = match worker.serving {
            None => true,
            // One that dies of a request has come up; that request will not kill many more.
            Some(_) if status.is_some_and(is_crash) => {
                !self.setup.state.charge_requests() && is_in_probation
            }
            Some(_) => false,
        };
        if is_failure {
            return self.failed(how);
        }
        tracing::warn!(how, "the worker died; the next one takes over");
        self.failures = 0;
        self.restart_at = now;
        Ok(())
    }

    fn failed(&mut self, how: String) -> Result<(), SupervisorError> {
        self.failures += 1;
        self.last_failure = how;
        tracing::error!(failures = self.failures, how = self.last_failure, "the worker failed");
        if self.failures >= MOST_FAILURES {
            return Err(SupervisorError::WorkerFails {
                last: std::mem::take(&mut self.last_failure),
            });
        }
        let pause = FIRST_PAUSE * 2_u32.saturating_pow(self.failures - 1);
        self.restart_at = SystemClock.now().boot.saturating_add(pause);
        Ok(())
    }

    fn watch(&mut self, device_readable: bool) {
        let now = SystemClock.now().boot;
        let Some(worker) = self.worker.as_ref().filter(|worker| worker.serving.is_some()) else {
            return;
        };
        let was_idle = self.watchdog.is_idle();
        match self.watchdog.look(&self.setup.state, &self.device, device_readable, now) {
            Health::Fine if !was_idle && self.watchdog.is_idle() => forget_the_program(),
            Health::Fine => {}
            Health::Unsure => self.setup.helper.ping(),
            Health::Stuck => {
                tracing::error!("the worker does not answer: it is killed");
                self.setup.state.charge_requests();
                worker.kill();
                // No longer: in an uninterruptible sleep it would keep everybody waiting.
                worker.wait_for_end(KILL_LIMIT);
                if let Some(worker) = self.worker.take() {
                    self.dying.push(worker.child);
                    self.restart_at = now;
                }
            }
        }
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
        for worker in [self.worker.take(), self.candidate.take()].into_iter().flatten() {
            worker.kill();
            self.dying.push(worker.child);
        }
        for child in &mut self.dying {
            child.wait().ok();
        }
    }
}
