//! The duties of a container's first process: it starts the command when the tokens can be read,
//! passes signals on, waits for every child that is left to it, and ends what the command leaves.

use std::process::Child;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{WaitOptions, WaitStatus as Status, wait, waitpid};

use super::descendants;
use super::real_time::kill_by_number;
use super::terminal::Terminal;
use crate::connection::companion::{Answer, Companion, Received};
use crate::connection::supervisor::UPGRADE;
use crate::observe;
use crate::status::Backend;
use crate::time::{Clock, SystemClock};

/// How long those may take to end whom the command leaves behind.
const GRACE: Duration = Duration::from_secs(2);
/// Between two looks whether they have.
const PAUSE: Duration = Duration::from_millis(10);

/// Every signal that can be passed on, real-time ones too: not those that are about ourselves, as faults
/// are.
pub fn signals() -> SigSet {
    use Signal::{
        SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGKILL, SIGPIPE, SIGSEGV, SIGSTOP, SIGSYS, SIGTRAP,
        SIGXFSZ,
    };
    let own = [
        SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGKILL, SIGPIPE, SIGSEGV, SIGSTOP, SIGSYS, SIGTRAP,
        SIGXFSZ,
    ];
    let mut signals = SigSet::all();
    for signal in own {
        signals.remove(signal);
    }
    signals
}

/// See the module.
pub struct Init<'a> {
    /// Starts the command; `None` serves only.
    start: Box<dyn FnMut() -> anyhow::Result<Option<Child>> + 'a>,
    terminal: Option<&'a Terminal>,
    /// How the tokens are served, once they are.
    backend: Option<Backend>,
    /// Whether there is one to start.
    expected: bool,
    command: Option<Pid>,
    outcome: Option<Result<u8, anyhow::Error>>,
}

impl<'a> Init<'a> {
    /// `start` is called when the tokens can be read; it gives the command, where one is `expected`.
    pub fn new(
        terminal: Option<&'a Terminal>,
        expected: bool,
        start: impl FnMut() -> anyhow::Result<Option<Child>> + 'a,
    ) -> Self {
        Self {
            start: Box::new(start),
            terminal,
            backend: None,
            expected,
            command: None,
            outcome: None,
        }
    }

    /// Whether the command runs.
    pub fn is_running(&self) -> bool {
        self.command.is_some()
    }

    /// Goes on without tokens, as long as the command does: nothing is left to serve.
    pub fn go_on(&mut self, signals: &SignalFd) {
        while self.command.is_some() {
            poll(&mut [PollFd::new(signals, PollFlags::IN)], None).ok();
            while let Some(signal) = Received::next(signals) {
                self.signal(signal, &mut |_| false);
            }
        }
    }

    /// The exit code of the command: 128 and the number of a signal that ended it. 0 where there was
    /// none to run.
    ///
    /// # Errors
    /// When it could not be started.
    pub fn outcome(self) -> anyhow::Result<u8> {
        self.outcome.unwrap_or(Ok(0))
    }

    fn child_changed(&mut self, settle: &mut dyn FnMut(Pid) -> bool) -> Answer {
        self.reap(settle);
        let Some(command) = self.command else { return Answer::GoOn };
        if self.outcome.is_none() {
            self.look_whether_stopped(command);
            return Answer::GoOn;
        }
        self.command = None;
        if let Some(terminal) = self.terminal {
            terminal.take_back();
        }
        self.end_the_rest(settle);
        Answer::Stop
    }

    /// Takes the exit status of every child that has ended, but of those whose parent is somebody
    /// else in this process.
    fn reap(&mut self, settle: &mut dyn FnMut(Pid) -> bool) {
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        loop {
            let ended = match waitid(Id::All, peek) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(status) => status.pid(),
                // Ended by a real-time signal, for which there is no name. Nobody sends our own one.
                Err(_) => None,
            };
            if ended.is_some_and(&mut *settle) {
                continue;
            }
            let taken = match ended.and_then(|pid| rustix::process::Pid::from_raw(pid.as_raw())) {
                Some(pid) => waitpid(Some(pid), WaitOptions::NOHANG),
                None => wait(WaitOptions::NOHANG),
            };
            match taken {
                Ok(Some((pid, status))) => {
                    if self.command == Some(Pid::from_raw(pid.as_raw_nonzero().get())) {
                        self.outcome = Some(Ok(exit_code(status)));
                    }
                }
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn look_whether_stopped(&self, command: Pid) {
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG;
        let Ok(WaitStatus::Stopped(_, signal)) = waitid(Id::Pid(command), flags) else { return };
        // Whoever sends SIGSTOP means it.
        if let Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU = signal
            && let Some(terminal) = self.terminal
        {
            terminal.stop_with(command);
        }
    }

    /// Ends what the command left behind: it gets SIGTERM, then SIGKILL. The tokens are served until
    /// the last is gone.
    fn end_the_rest(&mut self, settle: &mut dyn FnMut(Pid) -> bool) {
        let deadline = SystemClock.now().boot.saturating_add(GRACE);
        let mut told = Vec::new();
        loop {
            self.reap(settle);
            let left = descendants::of(Pid::this(), settle);
            if left.is_empty() {
                return;
            }
            let late = SystemClock.now().boot >= deadline;
            for process in left {
                if late {
                    kill(process, Signal::SIGKILL).ok();
                } else if !told.contains(&process) {
                    told.push(process);
                    kill(process, Signal::SIGTERM).ok();
                    kill(process, Signal::SIGCONT).ok();
                }
            }
            if SystemClock.now().boot >= deadline.saturating_add(GRACE) {
                tracing::warn!("some processes that the command left behind do not end");
                return;
            }
            thread::sleep(PAUSE);
        }
    }
}

impl Companion for Init<'_> {
    fn ready(&mut self, backend: Backend) -> Answer {
        self.backend = Some(backend);
        match (self.start)() {
            Ok(None) => Answer::GoOn,
            Ok(Some(child)) => {
                // Its status is ours to take.
                self.command = i32::try_from(child.id()).ok().map(Pid::from_raw);
                Answer::GoOn
            }
            Err(error) => {
                self.outcome = Some(Err(error));
                Answer::Stop
            }
        }
    }

    fn signal(&mut self, signal: Received, settle: &mut dyn FnMut(Pid) -> bool) -> Answer {
        let signal = match signal {
            Received::Named(signal) => signal,
            Received::RealTime(number) => {
                if let Some(command) = self.command {
                    kill_by_number(command, number);
                }
                return Answer::GoOn;
            }
        };
        match (signal, self.command) {
            (Signal::SIGCHLD, _) => self.child_changed(settle),
            (UPGRADE, _) => {
                observe::reopen();
                Answer::Upgrade
            }
            (Signal::SIGUSR1, _) if self.backend == Some(Backend::Files) => Answer::Refresh,
            (signal, Some(command)) => {
                kill(command, signal).ok();
                Answer::GoOn
            }
            (Signal::SIGTERM | Signal::SIGINT, None) => {
                if self.expected {
                    // The command was never started; to whoever asks it was ended by the signal.
                    self.outcome = u8::try_from(128 + signal as i32).ok().map(Ok);
                }
                Answer::Stop
            }
            _ => Answer::GoOn,
        }
    }
}

fn exit_code(status: Status) -> u8 {
    let signal = status.terminating_signal().map(|signal| 128 + signal);
    let code = status.exit_status().or(signal);
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
