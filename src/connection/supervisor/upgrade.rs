//! The take-over by a newer worker: it starts beside the old one, and serves once it has everything.

use std::os::fd::AsFd;

use super::{KILL_LIMIT, Supervisor};
use crate::connection::handover::Message;
use crate::connection::manager;
use crate::time::{Clock, SystemClock};

impl Supervisor {
    pub(super) fn upgrade(&mut self) {
        manager::reloading();
        self.drop_candidate();
        let started = (self.newer)().and_then(|newer| {
            let candidate = self.start(&newer.candidate, SystemClock.now().boot)?;
            Ok((newer.worker, candidate))
        });
        match started {
            Ok((program, worker)) => {
                tracing::info!("a newer worker starts");
                self.candidate = Some(worker);
                self.candidate_program = Some(program);
            }
            Err(error) => self.upgraded(Err(format!("it cannot be started: {error}"))),
        }
    }

    pub(super) fn hear_candidate(&mut self) {
        let Some(candidate) = &self.candidate else { return };
        let Ok(Some((Message::Ready, config))) = candidate.channel.receive(false) else { return };
        let Some(config) = config.into_iter().next() else { return };
        match candidate.receive_init_answer() {
            Ok(answer) if Some(&answer) == self.init_answer.as_ref() => {}
            Ok(_) => {
                self.drop_candidate();
                let why = "it answers the kernel in another way, so only a restart can bring it";
                return self.upgraded(Err(why.to_owned()));
            }
            Err(error) => {
                self.drop_candidate();
                return self.upgraded(Err(format!("it does not answer INIT: {error}")));
            }
        }
        if let Some(mut old) = self.worker.take() {
            old.kill();
            old.wait_for_end(KILL_LIMIT);
            if !matches!(old.child.try_wait(), Ok(Some(_))) {
                self.dying.push(old.child);
            }
        }
        if let Some(mut new) = self.candidate.take() {
            new.serving = Some(SystemClock.now().boot);
            new.go(self.device.as_fd(), &self.setup);
            self.watchdog.worker_started(SystemClock.now().boot);
            self.worker = Some(new);
        }
        if let Some(program) = self.candidate_program.take() {
            self.setup.program = program;
        }
        self.setup.config = config;
        self.upgraded(Ok(()));
    }

    pub(super) fn candidate_died(&mut self) {
        let status = self.candidate.as_mut().and_then(|worker| worker.child.try_wait().ok()?);
        self.drop_candidate();
        let how = status.map_or_else(|| "killed".to_owned(), |status| status.to_string());
        self.upgraded(Err(format!("it ended before it was ready ({how}); its log says why")));
    }

    pub(super) fn drop_candidate(&mut self) {
        self.candidate_program = None;
        if let Some(candidate) = self.candidate.take() {
            candidate.kill();
            self.dying.push(candidate.child);
        }
    }

    fn upgraded(&self, outcome: Result<(), String>) {
        match &outcome {
            Ok(()) => tracing::info!("the newer worker has taken over"),
            Err(why) => tracing::warn!("the worker stays as it is; the newer one: {why}"),
        }
        self.setup.state.set_last_upgrade(SystemClock.now().wall, outcome);
        manager::ready(self.setup.mount.target());
    }
}
