//! The opens that wait for a token.

use std::future::poll_fn;
use std::sync::Arc;

use fuser::ReplyOpen;
use tokio::runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::reply::{OpenResult, Reply, answer_open};
use crate::fs::interrupt::Interrupts;
use crate::fs::{Fs, fault};

/// The opens that wait, on a runtime.
#[derive(Debug, Clone)]
pub struct Waiters {
    runtime: runtime::Handle,
    tasks: TaskTracker,
    dismissed: CancellationToken,
    interrupts: Interrupts,
}

impl Waiters {
    /// None yet.
    #[must_use]
    pub fn new(runtime: runtime::Handle) -> Self {
        Self {
            runtime,
            tasks: TaskTracker::new(),
            dismissed: CancellationToken::new(),
            interrupts: Interrupts::default(),
        }
    }

    /// Answers everybody who waits as an unmounted file system does (ENOTCONN), and comes back when
    /// they are answered.
    pub async fn dismiss(&self) {
        self.dismissed.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(super) fn wait(
        &self,
        thread: u32,
        opened: impl Future<Output = OpenResult> + Send + 'static,
        reply: Reply<ReplyOpen, Arc<Fs>>,
    ) {
        let (dismissed, interrupts) = (self.dismissed.clone(), self.interrupts.clone());
        let (fs, unique) = (Arc::clone(&reply.fs), reply.unique);
        let task = async move {
            reply.fs.pass(fault::TASK);
            let watch = interrupts.watch(thread);
            let opened = tokio::select! {
                biased;
                opened = opened => opened,
                () = dismissed.cancelled() => Err(nix::errno::Errno::ENOTCONN),
                () = watch.interrupted() => Err(nix::errno::Errno::EINTR),
            };
            answer_open(reply, opened);
        };
        let mut task = Box::pin(task);
        let task = poll_fn(move |context| fs.work(unique, || task.as_mut().poll(context)));
        self.tasks.spawn_on(task, &self.runtime);
    }
}
