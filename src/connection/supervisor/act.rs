//! Carries out what the machine decides.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;

use super::event::{Action, Ending, Event, GiveUp, Id, News, Role};
use super::process::Worker;
use super::remount::WHY;
use super::watchdog::Signs;
use super::{
    KILL_LIMIT, Over, REVOKE_LIMIT, STOP_LIMIT, Supervisor, SupervisorError, cannot, is_readable,
};
use crate::connection::companion::Answer;
use crate::connection::handover::Message;
use crate::connection::resident::forget_the_program;
use crate::connection::{manager, wire};
use crate::error::ReadErrorKind;
use crate::place::MountError;
use crate::program::Program;
use crate::status::Backend;
use crate::time::{Clock, SystemClock};

impl Supervisor<'_> {
    /// Tells the machine what happened, and does what it wants, with all that follows from that.
    pub(super) fn tell(&mut self, event: Event) -> Result<(), Over> {
        self.events.push_back(event);
        while let Some(event) = self.events.pop_front() {
            for action in self.machine.step(event, SystemClock.now().boot) {
                self.act(action)?;
            }
        }
        Ok(())
    }

    fn act(&mut self, action: Action) -> Result<(), Over> {
        match action {
            Action::Start { worker, role } => self.start(worker, role),
            Action::Kill(id) => self.kill(id),
            Action::AnswerOverdue => self.answer_overdue(),
            Action::Await(id) => {
                if let Some(ending) = self.wait_for(id) {
                    self.events.push_back(Event::Closed { worker: id, ending: Some(ending) });
                }
            }
            Action::Mount(id) => self.mount_as(id)?,
            Action::Go(id) => self.go(id),
            Action::Announce => {
                manager::ready(self.setup.mount.target());
                let answer = self.companion.ready(Backend::Fuse);
                self.events.extend(wish(answer));
            }
            Action::Adopt(id) => self.adopt(id),
            Action::Reloading => manager::reloading(),
            Action::NoteUpgrade(outcome) => self.note_upgrade(outcome),
            Action::Rotate => self.setup.helper.rotate(),
            Action::Ping => self.setup.helper.ping(),
            Action::Charge => {
                let anything = self.setup.state.charge_requests();
                self.events.push_back(Event::Charged { anything });
            }
            Action::ForgetProgram => forget_the_program(),
            Action::Remount => {
                let renewed = self.remount();
                self.events.push_back(renewed);
            }
            Action::NoteRemount => self.note_remount(),
            Action::StandIn { why } => self.stand_in(&why),
            Action::Refuse => self.refuse(),
            Action::ServesAgain => {
                tracing::info!("a worker serves again");
                manager::ready(self.setup.mount.target());
            }
            Action::Tell(news) => log(&news),
            Action::Stopping => manager::stopping(),
            Action::AskToStop(id) => {
                if let Some(worker) = self.workers.get(id)
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
            Action::End(end) => return Err(Over::Ended(end)),
            Action::GiveUp(why) => return Err(given_up(why).into()),
        }
        Ok(())
    }

    // === workers ===

    fn start(&mut self, id: Id, role: Role) {
        let started = match role {
            Role::Worker => self.start_program(None),
            Role::Candidate => (self.newer)().and_then(|newer| {
                let mut worker = self.start_program(Some(&newer.candidate))?;
                worker.successor = Some(newer.worker);
                tracing::info!("a newer worker starts");
                Ok(worker)
            }),
        };
        self.events.push_back(match started {
            Ok(worker) => {
                self.workers.add(id, worker);
                Event::Started { worker: id, steps: self.setup.state.steps() }
            }
            Err(error) => {
                let (why, refused) = (error.to_string(), refusal(&error));
                Event::NotStarted { worker: id, why, refused }
            }
        });
    }

    /// Starts a worker, of this program or of that of all workers.
    fn start_program(&self, program: Option<&Program>) -> io::Result<Worker> {
        let program = program.unwrap_or(&self.setup.program);
        Worker::start(program, &self.device, &self.init, &self.setup)
    }

    pub(super) fn kill(&mut self, id: Id) {
        if let Some(worker) = self.workers.get(id) {
            worker.kill();
        }
    }

    /// Answers the opens that no worker has answered in time. One of them may be the worker's own, which
    /// then ends.
    pub(super) fn answer_overdue(&self) {
        let now = SystemClock.now().boot;
        let overdue: Vec<_> = self.setup.state.waited(self.machine.overdue(), now).collect();
        for unique in overdue {
            wire::answer(&self.device, unique, Err(ReadErrorKind::TimedOut.errno()));
            self.setup.state.answered(unique);
        }
    }

    /// Waits for the end of a worker that was killed; how it ended, if it did.
    pub(super) fn wait_for(&mut self, id: Id) -> Option<Ending> {
        let ending = self.workers.get(id)?.wait(KILL_LIMIT)?;
        self.workers.remove(id);
        Some(ending)
    }

    /// Answers INIT as this worker does, and makes the mount visible.
    fn mount_as(&mut self, id: Id) -> Result<(), SupervisorError> {
        let answer = self.workers.get(id).and_then(|worker| worker.answer.take());
        let Some(answer) = answer else { return Ok(()) };
        rustix::io::write(&self.device, &answer).map_err(cannot("answer INIT"))?;
        self.init_answer = Some(answer);
        Ok(self.setup.mount.attach()?)
    }

    fn go(&mut self, id: Id) {
        if let Some(worker) = self.workers.get(id) {
            worker.go(self.device.as_fd(), &self.setup);
        }
        self.events.push_back(Event::Went { worker: id, signs: self.signs() });
    }

    fn adopt(&mut self, id: Id) {
        let Some(worker) = self.workers.get(id) else { return };
        if let Some(program) = worker.successor.take() {
            self.setup.program = program;
        }
        if let Some(config) = worker.config.take() {
            self.setup.config = config;
        }
    }

    /// What the worker that serves has done, and what waits for it.
    pub(super) fn signs(&self) -> Signs {
        let state = &self.setup.state;
        let (taken, pending) = state.requests();
        let now = SystemClock.now().boot;
        Signs {
            taken,
            pending,
            steps: state.steps(),
            looks: state.looks(),
            is_overdue: state.waited(self.machine.overdue(), now).next().is_some(),
            is_readable: is_readable(&self.device),
        }
    }

    fn note_upgrade(&self, outcome: Result<(), String>) {
        match &outcome {
            Ok(()) => tracing::info!("the newer worker has taken over"),
            Err(why) => tracing::warn!("the worker stays as it is; the newer one: {why}"),
        }
        self.setup.state.set_last_upgrade(SystemClock.now().wall, outcome);
        manager::ready(self.setup.mount.target());
    }
}

/// What the companion wants, for the machine.
pub(super) fn wish(answer: Answer) -> Option<Event> {
    match answer {
        Answer::GoOn | Answer::Refresh => None,
        Answer::Upgrade => Some(Event::UpgradeAsked),
        Answer::Stop => Some(Event::StopAsked),
    }
}

/// Why the system does not start a process, if it will say the same each time.
fn refusal(error: &io::Error) -> Option<Errno> {
    let errno = error.raw_os_error().map(Errno::from_raw);
    errno.filter(|errno| matches!(errno, Errno::ENOSYS | Errno::EPERM | Errno::EACCES))
}

fn given_up(why: GiveUp) -> SupervisorError {
    match why {
        GiveUp::Refused(errno) => {
            MountError::cannot("start a process that serves", &errno.into()).into()
        }
        GiveUp::Fails { last } => SupervisorError::WorkerFails { last },
    }
}

fn log(news: &News) {
    match news {
        News::Failed { failures, how, pause } => {
            tracing::error!(failures, how, "the worker failed; the next one is tried in {pause:?}");
        }
        News::Died { how } => tracing::warn!(how, "the worker died; the next one takes over"),
        News::Stuck => tracing::error!("the worker does not answer: it is killed"),
        News::Late => tracing::warn!(
            "{WHY}: a system call holds it; the connection that it has open is aborted, and the mount \
             made anew"
        ),
        News::MountStays { why } => {
            tracing::warn!("the mount stays as it is, and so does that worker: {why}");
        }
    }
}
