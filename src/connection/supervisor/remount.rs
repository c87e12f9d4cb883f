//! The last resort against a worker that was killed and does not end: the connection that it has open is
//! aborted, and the mount made anew, with the same state. Whatever waits for an answer on the old
//! connection gets an error, the worker itself too, if it waits for its own mount. One that hangs
//! elsewhere goes on doing so, but has nothing open that anybody still uses.

use super::{Supervisor, SupervisorError, cannot, is_disconnected, read_init};
use crate::connection::wire::{REQUEST_HEADER, RequestHeader};
use crate::time::{Clock, SystemClock};

/// Why, for the log and for status.
const WHY: &str = "a worker that was killed did not end";

impl Supervisor {
    /// Forgets the workers that have ended, and gives the connection up that one keeps which does not.
    pub(super) fn reap(&mut self) -> Result<(), SupervisorError> {
        let now = SystemClock.now().boot;
        self.dying.reap();
        if !self.dying.is_late(now) || self.connection_is_lost {
            return Ok(());
        }
        tracing::warn!(
            "{WHY}: a system call holds it; the connection that it has open is aborted, and the mount \
             made anew"
        );
        match self.remount() {
            Ok(()) => Ok(()),
            Err(error) if self.connection_is_lost => {
                self.failed(format!("the mount cannot be made anew: {error}"))
            }
            Err(error) => {
                tracing::warn!("the mount stays as it is, and so does that worker: {error}");
                Ok(())
            }
        }
    }

    /// Aborts the connection, makes the mount anew, and ends the workers that have the old one open.
    pub(super) fn remount(&mut self) -> Result<(), SupervisorError> {
        let renewed = self.renew();
        self.connection_is_lost |= is_disconnected(&self.device);
        if !self.connection_is_lost {
            return renewed;
        }
        let now = SystemClock.now().boot;
        self.nobody_serves(now);
        if self.candidate.is_some() {
            self.drop_candidate();
            self.upgraded(Err("the mount had to be made anew meanwhile".to_owned()));
        }
        if let Some(worker) = self.worker.take() {
            self.end(worker, now);
        }
        renewed?;
        // Now that none of them writes there any more.
        self.setup.state.forget_connection();
        self.connection_is_lost = false;
        self.stand_in.connection_is_new();
        self.setup.state.set_last_remount(SystemClock.now().wall, WHY);
        tracing::info!("the mount is made anew; what was open, bound or watched before stays dead");
        Ok(())
    }

    fn renew(&mut self) -> Result<(), SupervisorError> {
        self.setup.mount.renew()?;
        self.connection_is_lost = true;
        let (device, init) = read_init(&mut self.setup.mount)?;
        let is_known = is_the_same(&init, &self.init);
        (self.device, self.init) = (device, init);
        match &self.init_answer {
            // The next worker would say the same.
            Some(answer) if is_known => {
                rustix::io::write(&self.device, answer).map_err(cannot("answer INIT"))?;
                self.setup.mount.attach()?;
            }
            _ => self.init_answer = None,
        }
        Ok(())
    }
}

/// Whether two connections begin alike. Which process mounted is no part of it.
fn is_the_same(init: &[u8], other: &[u8]) -> bool {
    let begins = |init| RequestHeader::of(init).map(|header| (header.opcode, header.unique));
    begins(init) == begins(other) && init.get(REQUEST_HEADER..) == other.get(REQUEST_HEADER..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_the_same_whoever_mounted() {
        let mut init = vec![0; REQUEST_HEADER + 64];
        init[8] = 2;
        let mut other = init.clone();
        // fuse_in_header.pid
        other[32] = 7;
        assert!(is_the_same(&init, &other));
        other[REQUEST_HEADER] = 1;
        assert!(!is_the_same(&init, &other));
    }
}
