//! The thread that writes the log. Nobody else waits for whoever reads it.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::SigSet;
use tracing::Level;

use super::queue::{Line, Queue};
use super::sink::{self, OpenError, Sink};
use super::{Target, own_line};

/// How the thread is called.
const THREAD: &str = "log";
/// Enough for a few system calls.
const STACK: usize = 64 * 1024;
/// How long the end of a process waits for its last lines to be written.
const LAST_LINES: Duration = Duration::from_millis(300);

/// The log of this process, once it has one.
static LOG: OnceLock<Log> = OnceLock::new();

/// See the module.
#[derive(Debug)]
pub(super) struct Log {
    state: Mutex<State>,
    /// Told when there is something to do for the thread.
    work: Condvar,
    /// Told when everything is written.
    done: Condvar,
    /// Whether lines go to standard error.
    is_stderr: bool,
    /// Whether the reader of the log adds time and level by itself.
    is_bare: bool,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    /// Before the thread is started.
    sink: Option<Sink>,
    writing: bool,
    reopen: bool,
}

impl State {
    fn is_done(&self) -> bool {
        self.queue.is_empty() && !self.writing && !self.reopen
    }
}

/// Makes the log of this process. `false` where it has one already.
pub(super) fn make(target: &Target) -> Result<bool, OpenError> {
    let state = State {
        queue: Queue::default(),
        sink: Some(Sink::open(target)?),
        writing: false,
        reopen: false,
    };
    let log = Log {
        state: Mutex::new(state),
        work: Condvar::new(),
        done: Condvar::new(),
        is_stderr: *target == Target::Stderr,
        is_bare: *target == Target::Syslog,
    };
    Ok(LOG.set(log).is_ok())
}

/// Starts to write the log, in a thread of its own. Lines that come earlier wait for it.
///
/// A process that has to be alone for something (a user namespace, the lock of its memory) does that
/// first. So does one that gives up descriptors of a thread: this one's share them with its starter.
pub fn start() {
    if let Some(log) = LOG.get() {
        log.start();
    }
}

/// Takes a line. It never waits.
pub(super) fn push(level: Level, line: &str) {
    if let Some(log) = LOG.get() {
        log.lock().queue.push(level, line);
        log.work.notify_one();
    }
}

/// Opens the log file anew: somebody has moved it away.
pub fn reopen() {
    if let Some(log) = LOG.get() {
        log.lock().reopen = true;
        log.work.notify_one();
    }
}

/// Waits a moment until everything is written.
pub fn finish() {
    if let Some(log) = LOG.get() {
        log.start();
        log.wait(LAST_LINES);
    }
}

/// Says something to whoever started this process, and in the log. `false` where there is no log; then
/// nothing was said.
#[must_use]
pub fn report(text: &str) -> bool {
    let Some(log) = LOG.get() else { return false };
    if !log.is_stderr {
        sink::write_soon(text, LAST_LINES);
    }
    push(Level::ERROR, text);
    true
}

/// Says that something broke, at once.
pub(super) fn last_words(text: &str) {
    match LOG.get() {
        Some(log) => {
            if !log.is_stderr {
                sink::write_soon(&format!("{text}\n"), LAST_LINES);
            }
            push(Level::ERROR, &log.own_line(Level::ERROR, text));
            // It cannot wait for itself.
            if thread::current().name() != Some(THREAD) {
                finish();
            }
        }
        None => sink::write_soon(&format!("{text}\n"), LAST_LINES),
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&'static self) {
        let Some(sink) = self.lock().sink.take() else { return };
        let thread = thread::Builder::new().name(THREAD.into()).stack_size(STACK);
        if let Err(error) = thread.spawn(|| Writer { sink, failed: None }.run(self)) {
            // The log is lost; what it would tell is served all the same.
            let text = format!("cannot start the thread that writes the log: {error}");
            sink::write_soon(&self.own_line(Level::ERROR, &text), LAST_LINES);
        }
    }

    fn wait(&self, limit: Duration) {
        drop(self.done.wait_timeout_while(self.lock(), limit, |state| !state.is_done()));
    }

    /// Waits for something to do.
    fn next(&self) -> Task {
        let mut state = self.lock();
        state.writing = false;
        loop {
            if std::mem::take(&mut state.reopen) {
                state.writing = true;
                return Task::Reopen;
            }
            if let Some(line) = state.queue.pop() {
                state.writing = true;
                return Task::Write(line);
            }
            self.done.notify_all();
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn own_line(&self, level: Level, text: &str) -> String {
        if self.is_bare { format!("{text}\n") } else { own_line(level, text) }
    }
}

enum Task {
    Write(Line),
    Reopen,
}

/// The thread.
struct Writer {
    sink: Sink,
    /// How many lines could not be written since the last one that could, and why.
    failed: Option<(u64, io::Error)>,
}

impl Writer {
    fn run(mut self, log: &Log) {
        // Signals are for the threads that know them. And a terminal stops a background process that
        // writes to it (`tostop`, `termios(3)`), but not where SIGTTOU is blocked.
        SigSet::all().thread_block().ok();
        loop {
            match log.next() {
                Task::Write(line) => self.write(log, &line),
                Task::Reopen => {
                    if let Err(error) = self.sink.reopen() {
                        let text = format!("{error}; the log goes on in the old one");
                        self.write_own(log, Level::ERROR, &text).ok();
                    }
                }
            }
        }
    }

    fn write(&mut self, log: &Log, line: &Line) {
        let (failed, why) = match &self.failed {
            Some((count, error)) => (*count, error.to_string()),
            None => (0, "nobody read the log fast enough".to_owned()),
        };
        let lost = failed + line.lost;
        let told = match lost {
            0 => Ok(()),
            _ => self.write_own(log, Level::WARN, &format!("{lost} log lines are lost: {why}")),
        };
        let written = told.and_then(|()| self.sink.write(line.level, &line.text));
        self.failed = match written {
            Ok(()) => None,
            Err(error) => Some((lost + u64::from(!line.text.is_empty()), error)),
        };
    }

    fn write_own(&mut self, log: &Log, level: Level, text: &str) -> io::Result<()> {
        self.sink.write(level, &log.own_line(level, text))
    }
}
