//! A worker as the supervisor sees it: a process, and what is said to it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Setup;
use super::event::{Ending, Id};
use crate::connection::handover::{self, Channel, Message};
use crate::connection::wire;
use crate::program::{Program, Streams};
use crate::time::{Clock, SystemClock};

/// A process closes what it has open some moments before its exit status can be had.
const LAST_MOMENTS: u32 = 20;
const MOMENT: Duration = Duration::from_millis(1);

/// A worker process.
pub(super) struct Worker {
    child: Child,
    /// Its other end is closed when every thread of the worker has ended, and not before. It is how a
    /// death is heard of on every kernel; a pidfd needs Linux 5.3.
    pub(super) channel: Channel,
    /// Yields the worker's answer to INIT.
    init: OwnedFd,
    /// That answer, once it is ready.
    pub(super) answer: Option<Vec<u8>>,
    /// The configuration that it made, once it is ready: what the next workers are given if it takes over.
    pub(super) config: Option<OwnedFd>,
    /// The program that the next workers are then.
    pub(super) successor: Option<Program>,
}

impl Worker {
    /// Starts one and hands it what it needs, the kernel's INIT first.
    pub(super) fn start(
        program: &Program,
        device: &OwnedFd,
        init: &[u8],
        setup: &Setup,
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
        Ok(Self { child, channel, init: our_init, answer: None, config: None, successor: None })
    }

    /// Kills it. What it reads from the connection until it has ended is lost unless the kernel is asked
    /// to deliver again afterwards.
    pub(super) fn kill(&mut self) {
        // It fails for none that is not reaped.
        self.child.kill().ok();
    }

    /// Waits for its end for a limited time; how it ended.
    pub(super) fn wait(&mut self, limit: Duration) -> Option<Ending> {
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
    pub(super) fn ended(&mut self) -> Option<Ending> {
        let moments = if self.has_closed() { LAST_MOMENTS } else { 0 };
        for _ in 0..moments {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status.into());
            }
            sleep(MOMENT);
        }
        self.child.try_wait().ok().flatten().map(Ending::from)
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

/// The workers of which no exit status has been seen.
#[derive(Default)]
pub(super) struct Workers(Vec<(Id, Worker)>);

impl Workers {
    pub(super) fn add(&mut self, id: Id, worker: Worker) {
        self.0.push((id, worker));
    }

    pub(super) fn get(&mut self, id: Id) -> Option<&mut Worker> {
        self.0.iter_mut().find(|(other, _)| *other == id).map(|(_, worker)| worker)
    }

    /// What is closed by the end of one, and what it says is read from.
    pub(super) fn channel(&self, id: Id) -> Option<&Channel> {
        self.0.iter().find(|(other, _)| *other == id).map(|(_, worker)| &worker.channel)
    }

    pub(super) fn remove(&mut self, id: Id) {
        self.0.retain(|(other, _)| *other != id);
    }

    /// Whether a process is one of them; takes its exit status if it has ended.
    pub(super) fn settle(&mut self, process: Pid) -> bool {
        let mut children = self.0.iter_mut().map(|(_, worker)| &mut worker.child);
        let ours = children.find(|child| i64::from(child.id()) == i64::from(process.as_raw()));
        // It keeps the status for whoever asks next.
        ours.is_some_and(|child| child.try_wait().is_ok())
    }

    /// Waits for the end of each for a limited time. Whether all have closed what they had open.
    pub(super) fn wait(&mut self, limit: Duration) -> bool {
        self.0.retain_mut(|(_, worker)| worker.wait(limit).is_none());
        self.0.iter().all(|(_, worker)| worker.has_closed())
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

impl From<ExitStatus> for Ending {
    fn from(status: ExitStatus) -> Self {
        const FAULTS: [i32; 5] =
            [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];
        // SIGKILL comes from outside.
        let is_fault = status.signal().is_some_and(|signal| FAULTS.contains(&signal));
        Self { is_crash: is_fault || status.code().is_some(), how: status.to_string() }
    }
}
