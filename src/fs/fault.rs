//! The places where tests break a worker. Faults on demand themselves are part of a build for tests only
//! (the Cargo feature `testing`).

#[cfg(feature = "testing")]
mod on_demand;

#[cfg(feature = "testing")]
pub use on_demand::Fault;

/// The places besides the handlers of requests.
pub const START: &str = "start";
/// Each step of a start, and of taking over what a dead worker left.
pub const STEP: &str = "step";
/// In the middle of a slot's write.
pub const SLOT: &str = "slot";
/// In the task of an open that waits, which holds its reply.
pub const TASK: &str = "task";
/// Where an open is judged, and its answer not written.
pub const JUDGED: &str = "judged";
/// Where an answer to what a dead worker left is about to be passed on to the kernel.
pub const PASSED_ON: &str = "passed-on";
