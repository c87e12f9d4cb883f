//! A time limit for each test, and what is undone when it passes.

use std::cell::RefCell;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

type Undo = Box<dyn FnOnce() + Send>;

/// What a test started and has not undone yet, newest last.
#[derive(Default)]
struct Started(Mutex<Vec<(u64, Undo)>>);

impl Started {
    fn undo_all(&self) {
        let entries = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (_, undo) in entries.into_iter().rev() {
            undo();
        }
    }
}

thread_local! {
    /// Of the test whose body runs on this thread.
    static STARTED: RefCell<Arc<Started>> = RefCell::default();
}

fn started_here() -> Arc<Started> {
    STARTED.with(|started| Arc::clone(&started.borrow()))
}

/// Lets further threads of a test start what its time limit undoes.
#[derive(Clone)]
pub struct Adopt(Arc<Started>);

impl Adopt {
    /// The test whose body runs on this thread.
    pub fn here() -> Self {
        Self(started_here())
    }

    /// Makes this thread one of the test's.
    pub fn enter(self) {
        STARTED.with(|started| started.replace(self.0));
    }
}

/// Undoes something when the test runs out of time, unless dropped before. It must not block for
/// long: the owner's own `Drop` is the orderly way.
pub struct OnTimeout {
    id: u64,
    started: Arc<Started>,
}

impl OnTimeout {
    /// Registers `undo` with the test whose body runs on this thread.
    pub fn new(undo: impl FnOnce() + Send + 'static) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let started = started_here();
        started.0.lock().unwrap_or_else(PoisonError::into_inner).push((id, Box::new(undo)));
        Self { id, started }
    }
}

impl Drop for OnTimeout {
    fn drop(&mut self) {
        let mut entries = self.started.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|(id, _)| *id != self.id);
    }
}

/// How many cases [`each`] runs at a time: mostly they wait.
const SIDE_BY_SIDE: usize = 8;

/// Runs all cases of a test, several at a time, and names those that fail.
pub fn each<T: Copy + Sync>(
    cases: &[T],
    name: impl Fn(T) -> String + Sync,
    run: impl Fn(T) + Sync,
) {
    let left = Mutex::new(cases.iter().copied());
    let failed = Mutex::new(Vec::new());
    let test = Adopt::here();
    thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            let test = test.clone();
            let (left, failed, name, run) = (&left, &failed, &name, &run);
            scope.spawn(move || {
                test.enter();
                while let Some(case) = { left.lock().unwrap().next() } {
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(case))) {
                        let why = panic.downcast_ref::<String>().map_or("see above", |why| why);
                        failed.lock().unwrap().push(format!("{}: {why}", name(case)));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// How long a body may go on after its processes were killed and its mounts detached.
const GRACE: Duration = Duration::from_secs(10);

/// Runs the body of a test on a thread of its own; a panic in it is the test's.
///
/// When the limit passes, the processes that the test started are killed and its mounts are
/// detached. That wakes whatever the body waits for, so that the test fails in good order, by its
/// name. A body that hangs even then ends the test process: a thread cannot be killed.
pub fn within(limit: Duration, body: impl FnOnce() + Send + 'static) {
    let limit = super::patience(limit);
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let (tell_started, started) = mpsc::channel();
    let (tell_done, done) = mpsc::channel();
    let thread = thread::Builder::new()
        .name(name.clone())
        .spawn(move || {
            let _ = tell_started.send(started_here());
            let outcome = catch_unwind(AssertUnwindSafe(body));
            let _ = tell_done.send(());
            outcome
        })
        .expect("a thread");
    let started = started.recv().expect("the thread's list");

    let in_time = done.recv_timeout(limit).is_ok();
    if !in_time {
        started.undo_all();
        if done.recv_timeout(GRACE).is_err() {
            // Not eprintln: what the harness captures is lost in an abort.
            let _ = writeln!(
                std::io::stderr(),
                "{name}: hangs {GRACE:?} after its time limit of {limit:?}, all of it undone"
            );
            std::process::abort();
        }
    }
    let outcome = thread.join().unwrap_or_else(Err);
    assert!(in_time, "took longer than its time limit of {limit:?}");
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}
