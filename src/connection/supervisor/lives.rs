//! The lives of workers: each is started, heard, watched, and followed by the next when it has died.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use super::process::{START_LIMIT, Worker, is_crash};
use super::watchdog::Health;
use super::{End, KILL_LIMIT, MOST_FAILURES, MOST_WORKERS, PROBATION};
use super::{Program, Supervisor, SupervisorError, cannot};
use crate::connection::companion::Companion;
use crate::connection::handover::Message;
use crate::connection::mount::MountError;
use crate::connection::resident::forget_the_program;
use crate::connection::{manager, wire};
use crate::error::ReadErrorKind;
use crate::status::Backend;
use crate::time::{Clock, SystemClock};

/// Whether the same will be said each time.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EACCES))
}

impl Supervisor {
    pub(super) fn start_if_due(&mut self) -> Result<(), SupervisorError> {
        let now = SystemClock.now().boot;
        let steps = self.setup.state.steps();
        if let Some(worker) = self.worker.take_if(|worker| worker.hangs_at_start(steps, now)) {
            self.end(worker, now);
            self.failed(format!("it did not go on with its start for {START_LIMIT:?}"))?;
        }
        if self.candidate.as_mut().is_some_and(|worker| worker.hangs_at_start(steps, now)) {
            self.drop_candidate();
            self.upgraded(Err(format!("it did not go on with its start for {START_LIMIT:?}")));
        }
        if self.worker.is_some() || now < self.pace.not_before() {
            return Ok(());
        }
        if self.connection_is_lost
            && let Err(error) = self.remount()
        {
            return self.failed(format!("the mount cannot be made anew: {error}"));
        }
        if self.has_room() {
            match self.start(&self.setup.program, now) {
                Ok(worker) => self.worker = Some(worker),
                Err(error) if !self.has_served && is_refusal(&error) => {
                    return Err(MountError::cannot("start a process that serves", &error).into());
                }
                Err(error) => self.failed(format!("it cannot be started: {error}"))?,
            }
        } else {
            self.stand_in.why("workers that were killed have not ended".to_owned());
        }
        Ok(())
    }

    /// Whether another worker may be started: there are never more than [`MOST_WORKERS`], those
    /// included that were killed and have not ended.
    pub(super) fn has_room(&self) -> bool {
        let alive = self.worker.iter().chain(&self.candidate).count();
        alive + self.dying.number() < MOST_WORKERS
    }

    pub(super) fn start(&self, program: &Program, now: Duration) -> io::Result<Worker> {
        Worker::start(program, &self.device, &self.init, &self.setup, now)
    }

    pub(super) fn hear_worker(
        &mut self,
        companion: &mut dyn Companion,
    ) -> Result<Option<End>, SupervisorError> {
        while let Some(worker) = &self.worker {
            // Its death is told by the end of the channel.
            let Ok(Some((message, _))) = worker.channel.receive(false) else { break };
            match message {
                Message::Ready => {
                    let is_first = !std::mem::replace(&mut self.has_served, true);
                    self.worker_is_ready()?;
                    if is_first {
                        manager::ready(self.setup.mount.target());
                    }
                    if is_first && let Some(end) = self.answer(companion.ready(Backend::Fuse)) {
                        return Ok(Some(end));
                    }
                }
                Message::Rotate => self.setup.helper.rotate(),
                Message::Handover
                | Message::Go
                | Message::Recover
                | Message::Stop
                | Message::Revoking => {}
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
                worker.kill(Duration::ZERO);
                return Ok(());
            }
            Some(_) => {}
        }
        let now = SystemClock.now().boot;
        worker.serving = Some(now);
        worker.go(self.device.as_fd(), &self.setup);
        self.watchdog.worker_started(&self.setup.state, now);
        self.stand_in.dismiss(self.setup.mount.target());
        Ok(())
    }

    pub(super) fn worker_died(&mut self) -> Result<(), SupervisorError> {
        let Some(mut worker) = self.worker.take() else { return Ok(()) };
        let now = SystemClock.now().boot;
        let status = worker.kill(KILL_LIMIT);
        let serving = worker.serving;
        if status.is_none() {
            self.dying.add(worker, now);
        }
        let how = status.map_or_else(|| "killed".to_owned(), |status| status.to_string());
        let is_in_probation = serving.is_some_and(|since| now < since.saturating_add(PROBATION));
        let is_failure = match serving {
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
        self.pace.served();
        self.nobody_serves(now);
        Ok(())
    }

    /// A worker did not come up. It is tried again for ever, unless none ever did.
    pub(super) fn failed(&mut self, how: String) -> Result<(), SupervisorError> {
        let now = SystemClock.now().boot;
        let failures = self.pace.failed(now);
        if !self.has_served && failures >= MOST_FAILURES {
            return Err(SupervisorError::WorkerFails { last: how });
        }
        let pause = self.pace.not_before().saturating_sub(now);
        tracing::error!(failures, how, "the worker failed; the next one is tried in {pause:?}");
        self.nobody_serves(now);
        self.stand_in.why(how);
        Ok(())
    }

    pub(super) fn nobody_serves(&mut self, now: Duration) {
        if self.has_served {
            self.stand_in.nobody_serves(now);
        }
    }

    /// Kills a worker. It gets no more time than a moment: in a system call that no signal interrupts it
    /// would keep everybody waiting.
    pub(super) fn end(&mut self, mut worker: Worker, now: Duration) {
        worker.kill(Duration::ZERO);
        self.answer_overdue(now);
        if worker.wait(KILL_LIMIT).is_none() {
            self.dying.add(worker, now);
        }
    }

    /// Answers the opens that no worker has answered in time. One of them may be the worker's own, which
    /// then ends.
    pub(super) fn answer_overdue(&self, now: Duration) {
        let overdue: Vec<_> = self.setup.state.waited(self.watchdog.overdue(), now).collect();
        for unique in overdue {
            wire::answer(&self.device, unique, Err(ReadErrorKind::TimedOut.errno()));
            self.setup.state.answered(unique);
        }
    }

    pub(super) fn watch(&mut self, device_readable: bool) {
        let now = SystemClock.now().boot;
        if !self.serves() {
            return;
        }
        let was_idle = self.watchdog.is_idle();
        match self.watchdog.look(&self.setup.state, &self.device, device_readable, now) {
            Health::Fine if !was_idle && self.watchdog.is_idle() => forget_the_program(),
            Health::Fine => {}
            Health::Unsure => self.setup.helper.ping(),
            Health::Stuck => {
                tracing::error!("the worker does not answer: it is killed");
                self.setup.state.charge_requests();
                if let Some(worker) = self.worker.take() {
                    self.end(worker, now);
                }
                self.nobody_serves(now);
            }
        }
    }
}
