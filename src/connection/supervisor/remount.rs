//! The last resort against a worker that was killed and does not end: the connection that it has open is
//! aborted, and the mount made anew, with the same state. Whatever waits for an answer on the old
//! connection gets an error, the worker itself too, if it waits for its own mount. One that hangs
//! elsewhere goes on doing so, but has nothing open that anybody still uses.

use super::event::{Event, Renewal};
use super::{Supervisor, SupervisorError, cannot, is_disconnected, read_init};
use crate::connection::wire::{REQUEST_HEADER, RequestHeader};
use crate::time::{Clock, SystemClock};

/// Why, for the log and for status.
pub(super) const WHY: &str = "a worker that was killed did not end";

impl Supervisor<'_> {
    /// Aborts the connection and makes the mount anew.
    pub(super) fn remount(&mut self) -> Event {
        let renewed = match self.setup.mount.renew() {
            Ok(()) => self.take_connection(),
            Err(error) => {
                let (outcome, is_lost) = (Err(error.to_string()), is_disconnected(&self.device));
                return Event::Renewed { outcome, is_lost };
            }
        };
        Event::Renewed { outcome: renewed.map_err(|error| error.to_string()), is_lost: true }
    }

    fn take_connection(&mut self) -> Result<Renewal, SupervisorError> {
        let (device, init) = read_init(&mut self.setup.mount)?;
        let is_known = is_the_same(&init, &self.init);
        (self.device, self.init) = (device, init);
        match &self.init_answer {
            // The next worker would say the same.
            Some(answer) if is_known => {
                rustix::io::write(&self.device, answer).map_err(cannot("answer INIT"))?;
                self.setup.mount.attach()?;
                Ok(Renewal::Visible)
            }
            _ => {
                self.init_answer = None;
                Ok(Renewal::AwaitsWorker)
            }
        }
    }

    /// Forgets what belonged to the old connection. No worker may serve.
    pub(super) fn note_remount(&self) {
        self.setup.state.forget_connection();
        self.setup.state.set_last_remount(SystemClock.now().wall, WHY);
        tracing::info!("the mount is made anew; what was open, bound or watched before stays dead");
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
