//! A worker as the supervisor sees it: a process, and what is said to it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Setup;
use crate::connection::handover::{self, Channel, Message};
use crate::program::{Program, Streams};

/// `fuse_out_header` with `error = FUSE_NOTIFY_RESEND`: deliver again what was read and not answered.
const RESEND: [u8; 16] = {
    let mut header = [0; 16];
    header[0] = 16;
    header[4] = 7;
    header
};

/// The longest that a worker may take for a step of its start; one that is stopped meanwhile is replaced,
/// and readers are served again, within 10 s.
pub(super) const START_LIMIT: Duration = Duration::from_secs(8);

/// A worker process.
pub(super) struct Worker {
    pub(super) child: Child,
    pub(super) pidfd: OwnedFd,
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
        // What it writes to standard error goes where ours does.
        let errors = Stdio::inherit();
        let child =
            program.start(Streams { input: theirs.into(), output: Stdio::null(), errors })?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        rustix::io::write(&our_init, init)?;
        let descriptors =
            [their_init.as_fd(), device.as_fd(), setup.state.memory(), setup.config.as_fd()];
        // One that has ended already is heard of by its death.
        channel.send_with(Message::Handover, &descriptors).ok();
        Ok(Self {
            child,
            pidfd,
            channel,
            init: our_init,
            steps: setup.state.steps(),
            went_on: now,
            serving: None,
        })
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

    pub(super) fn kill(&self) {
        let signal = rustix::process::Signal::KILL;
        rustix::process::pidfd_send_signal(&self.pidfd, signal).ok();
    }

    /// Waits until it has ended, for a limited time. What it reads from the connection until then is
    /// lost unless the kernel is asked to deliver again afterwards.
    pub(super) fn wait_for_end(&self, limit: Duration) {
        let limit = Timespec::try_from(limit).ok();
        poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], limit.as_ref()).ok();
    }

    /// Lets the kernel deliver again what an earlier one had read, and this one serve.
    pub(super) fn go(&self, device: BorrowedFd<'_>, setup: &Setup) {
        let again = setup.resend
            && match rustix::io::write(device, &RESEND) {
                Err(rustix::io::Errno::INVAL) => {
                    tracing::debug!("the kernel is older than 6.9 and delivers nothing again");
                    false
                }
                // Or it is unmounted, as will be heard.
                Ok(_) | Err(_) => true,
            };
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

/// A panic or a fault; SIGKILL comes from outside.
pub(super) fn is_crash(status: ExitStatus) -> bool {
    const FAULTS: [i32; 5] =
        [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];
    status.signal().is_some_and(|signal| FAULTS.contains(&signal)) || status.code().is_some()
}
