//! What goes into the machine and what comes out.

use std::time::Duration;

use nix::errno::Errno;

use super::End;
use super::watchdog::Signs;

/// A worker, by its place in the order in which they were started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(pub(super) u64);

/// What a worker is started as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The one that serves, as soon as it can.
    Worker,
    /// One of the program that is on disk now; it takes over from the worker once it is ready.
    Candidate,
}

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ending {
    /// By its own fault, as far as one can tell: a panic or a fault of memory.
    pub(super) is_crash: bool,
    /// In words.
    pub(super) how: String,
}

/// How a worker that is ready answers the kernel's INIT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Init {
    /// As the first on this connection.
    First,
    /// As the first one did.
    Same,
    /// In another way than the first one, which the kernel has been told.
    Other,
    /// Not at all.
    Missing(String),
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// Time has passed; it comes before each wait, and only then is anything started. `steps` are those
    /// that workers have made of their starts.
    Tick { steps: u64 },
    /// A worker was started.
    Started { worker: Id, steps: u64 },
    /// A worker could not be started. `refused`: the system does not let us, and will say so each time.
    NotStarted { worker: Id, why: String, refused: Option<Errno> },
    /// A worker has everything and can serve.
    Ready { worker: Id, init: Init },
    /// A worker was told to serve.
    Went { worker: Id, signs: Signs },
    /// A worker has nothing open any more. How it ended, unless its exit status is still missing.
    Closed { worker: Id, ending: Option<Ending> },
    /// What was in hand when a worker crashed is to blame; whether anything was.
    Charged { anything: bool },
    /// The worker has a new token, which views do not show yet.
    RenamesDue,
    /// Somebody asks something, after a time when nobody did.
    Requested { taken: u64 },
    /// Somebody asks something that nobody but the supervisor can answer.
    RequestWaits,
    /// The signs of life of the worker that serves; see [`Machine::looks`](super::machine::Machine::looks).
    Looked(Signs),
    /// The program on disk is to take over.
    UpgradeAsked,
    /// The end is asked for.
    StopAsked,
    /// The kernel has ended the connection, or the mount is gone.
    ConnectionEnded,
    /// It was tried to make the mount anew. `is_lost`: the old connection is gone, whatever came of it.
    Renewed { outcome: Result<Renewal, String>, is_lost: bool },
}

/// A mount made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Renewal {
    /// The kernel began as it did before, and is answered: it is visible.
    Visible,
    /// The next worker must answer the kernel before it can become visible.
    AwaitsWorker,
}

/// What to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Start a worker: [`Event::Started`] or [`Event::NotStarted`] follows.
    Start { worker: Id, role: Role },
    /// Kill a worker.
    Kill(Id),
    /// Answer the opens that no worker has answered in time. One may be that of a worker itself, which
    /// was killed and ends then.
    AnswerOverdue,
    /// Wait a moment for the end of a worker: [`Event::Closed`] follows if it ends.
    Await(Id),
    /// Answer the kernel's INIT as this worker does, and make the mount visible.
    Mount(Id),
    /// Tell a worker to serve: [`Event::Went`] follows.
    Go(Id),
    /// Tell the companion and the service manager that the mount is served, for the first time.
    Announce,
    /// Start the next workers as this one, with its configuration.
    Adopt(Id),
    /// Tell the service manager that a newer worker is about to take over.
    Reloading,
    /// Note what came of an upgrade.
    NoteUpgrade(Result<(), String>),
    /// Have the renames made.
    Rotate,
    /// Ask the worker for a sign of life.
    Ping,
    /// Charge the requests in hand with the end of a worker: [`Event::Charged`] follows.
    Charge,
    /// Give back the code that nothing needs while nobody asks anything.
    ForgetProgram,
    /// Abort the connection and make the mount anew: [`Event::Renewed`] follows.
    Remount,
    /// Forget what belonged to the connection that is lost, and note the new one.
    NoteRemount,
    /// Begin to answer with errors, what is left and what comes. Why nobody serves.
    StandIn { why: String },
    /// Answer what has come with errors.
    Refuse,
    /// Tell that a worker serves again.
    ServesAgain,
    /// Log.
    Tell(News),
    /// Tell the service manager that the mount is about to go.
    Stopping,
    /// Ask a worker to answer everybody who waits and to end.
    AskToStop(Id),
    /// End every worker, and with them the mount.
    End(End),
    /// As [`Action::End`], with an error.
    GiveUp(GiveUp),
}

/// Why no worker will ever come up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum GiveUp {
    /// The system does not let us start one.
    Refused(Errno),
    /// They fail, one after the other; how the last one did.
    Fails { last: String },
}

/// What the log is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// The worker did not come up: so often in a row, how, and when the next one is tried.
    Failed { failures: u32, how: String, pause: Duration },
    /// The worker died, and the next one is started at once.
    Died { how: String },
    /// The worker lives, but does not answer.
    Stuck,
    /// One that was killed did not end.
    Late,
    /// The mount cannot be made anew, but is still there.
    MountStays { why: String },
}
