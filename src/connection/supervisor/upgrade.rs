//! The take-over by a newer worker: it starts beside the old one, and serves once it has everything.

use std::os::fd::AsFd;

use super::Supervisor;
use super::process::Worker;
use crate::connection::handover::Message;
use crate::connection::manager;
use crate::time::{Clock, SystemClock};

impl Supervisor {
    pub(super) fn upgrade(&mut self) {
        manager::reloading();
        self.drop_candidate();
        if !self.has_room() {
            let why =
                "an earlier worker was killed and has not ended; there are never more than two";
            return self.upgraded(Err(why.to_owned()));
        }
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
        if let Some(old) = self.worker.take() {
            self.end(old, SystemClock.now().boot);
        }
        if let Some(mut new) = self.candidate.take() {
            new.serving = Some(SystemClock.now().boot);
            new.go(self.device.as_fd(), &self.setup);
            self.watchdog.worker_started(&self.setup.state, SystemClock.now().boot);
            self.stand_in.dismiss(self.setup.mount.target());
            self.worker = Some(new);
        }
        if let Some(program) = self.candidate_program.take() {
            self.setup.program = program;
        }
        self.setup.config = config;
        self.upgraded(Ok(()));
    }

    pub(super) fn candidate_died(&mut self) {
        let status = self.candidate.as_mut().and_then(Worker::ended);
        self.drop_candidate();
        let how = status.map_or_else(|| "killed".to_owned(), |status| status.to_string());
        self.upgraded(Err(format!("it ended before it was ready ({how}); its log says why")));
    }

    pub(super) fn drop_candidate(&mut self) {
        self.candidate_program = None;
        if let Some(candidate) = self.candidate.take() {
            self.end(candidate, SystemClock.now().boot);
        }
    }

    pub(super) fn upgraded(&self, outcome: Result<(), String>) {
        match &outcome {
            Ok(()) => tracing::info!("the newer worker has taken over"),
            Err(why) => tracing::warn!("the worker stays as it is; the newer one: {why}"),
        }
        self.setup.state.set_last_upgrade(SystemClock.now().wall, outcome);
        manager::ready(self.setup.mount.target());
    }
}
