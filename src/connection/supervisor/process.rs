//! A worker as the supervisor sees it: a process, and what is said to it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Setup;
use crate::connection::handover::{self, Channel, Message};
use crate::connection::wire;
use crate::program::{Program, Streams};
use crate::time::{Clock, SystemClock};

/// The longest that a worker may take for a step of its start; one that is stopped meanwhile is replaced,
/// and readers are served again, within 10 s.
pub(super) const START_LIMIT: Duration = Duration::from_secs(8);
/// A process closes what it has open some moments before its exit status can be had.
const LAST_MOMENTS: u32 = 20;
const MOMENT: Duration = Duration::from_millis(1);

/// A worker process.
pub(super) struct Worker {
    pub(super) child: Child,
    /// Its other end is closed when every thread of the worker has ended, and not before. It is how a
    /// death is heard of on every kernel; a pidfd needs Linux 5.3.
    pub(super) channel: Channel,
    /// Yields the worker's answer to INIT.
    init: OwnedFd,
    /// The steps of starts when it was last seen to go on, and when that was.
    steps: u64,
    went_on: Duration,
    /// Since when it serves.
    pub(super) serving: Option<Duration>,
}

impl Worker {
    /// Starts one and hands it what it needs, the kernel's INIT first.
    pub(super) fn start(
        program: &Program,
        device: &OwnedFd,
        init: &[u8],
        setup: &Setup,
        now: Duration,
    ) -> io::Result<Self> {
        let (channel, theirs) = Channel::pair()?;
        let (our_init, their_init) = handover::packets()?;
        rustix::io::write(&our_init, init)?;
        // What it writes to standard error goes where ours does.
        let errors = Stdio::inherit();
        let child =
            program.start(Streams { input: theirs.into(), output: Stdio::null(), errors })?;
        let state = setup.state.memory();
        let descriptors = [their_init.as_fd(), device.as_fd(), state, setup.config.as_fd()];
        // One that has ended already is heard of by its death.
        channel.send_with(Message::Handover, &descriptors).ok();
        let steps = setup.state.steps();
        Ok(Self { child, channel, init: our_init, steps, went_on: now, serving: None })
    }

    /// When it has taken too long for its start unless it goes on until then; nothing once it serves.
    pub(super) fn start_ends(&self) -> Option<Duration> {
        self.serving.is_none().then(|| self.went_on.saturating_add(START_LIMIT))
    }

    /// Whether it takes too long for a step of its start.
    pub(super) fn hangs_at_start(&mut self, steps: u64, now: Duration) -> bool {
        if std::mem::replace(&mut self.steps, steps) != steps {
            self.went_on = now;
        }
        self.start_ends().is_some_and(|end| now >= end)
    }

    /// Kills it, and waits for its end for a limited time; how it ended. What it reads from the
    /// connection until then is lost unless the kernel is asked to deliver again afterwards.
    pub(super) fn kill(&mut self, limit: Duration) -> Option<ExitStatus> {
        // It fails for none that is not reaped.
        self.child.kill().ok();
        self.wait(limit)
    }

    /// Waits for its end for a limited time; how it ended.
    pub(super) fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let limit = Timespec::try_from(limit).ok();
        poll(&mut [PollFd::new(&self.channel, PollFlags::empty())], limit.as_ref()).ok();
        self.ended()
    }

    /// Whether it says this before it ends, within a limited time; what else it says is dropped.
    pub(super) fn says(&self, wanted: Message, limit: Duration) -> bool {
        let deadline = SystemClock.now().boot.saturating_add(limit);
        loop {
            let left = deadline.saturating_sub(SystemClock.now().boot);
            let left = Timespec::try_from(left).ok();
            let mut fds = [PollFd::new(&self.channel, PollFlags::IN)];
            if !poll(&mut fds, left.as_ref()).is_ok_and(|ready| ready > 0) {
                return false;
            }
            match self.channel.receive(false) {
                Ok(Some((message, _))) if message == wanted => return true,
                Ok(Some(_)) => {}
                _ => return false,
            }
        }
    }

    /// Whether it has closed all that it had open; it cannot hang any more.
    pub(super) fn has_closed(&self) -> bool {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.channel, PollFlags::empty())];
        poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        let moments = if self.has_closed() { LAST_MOMENTS } else { 0 };
        for _ in 0..moments {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            sleep(MOMENT);
        }
        self.child.try_wait().ok().flatten()
    }

    /// Lets the kernel deliver again what an earlier one had read, and this one serve.
    pub(super) fn go(&self, device: BorrowedFd<'_>, setup: &Setup) {
        let again = setup.delivers_again(device);
        setup.state.forget_requests(again);
        // Where nobody hears it any more, its death will be heard.
        self.channel.send(if again { Message::Go } else { Message::Recover }).ok();
    }

    pub(super) fn receive_init_answer(&self) -> io::Result<Vec<u8>> {
        let mut answer = vec![0; 4096];
        let flags = rustix::net::RecvFlags::DONTWAIT;
        let (_, length) = rustix::net::recv(&self.init, &mut answer, flags)?;
        answer.truncate(length);
        Ok(answer)
    }
}

impl Setup {
    /// Whether the kernel delivers again what a dead worker had read; it is asked to.
    pub(super) fn delivers_again(&self, device: BorrowedFd<'_>) -> bool {
        let again = self.resend && wire::deliver_again(device);
        if !again {
            tracing::debug!("nothing is delivered again: the kernel is older than 6.9");
        }
        again
    }
}

/// A panic or a fault; SIGKILL comes from outside.
pub(super) fn is_crash(status: ExitStatus) -> bool {
    const FAULTS: [i32; 5] =
        [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];
    status.signal().is_some_and(|signal| FAULTS.contains(&signal)) || status.code().is_some()
}
