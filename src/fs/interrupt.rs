//! Lets a reader that waits in open(2) be interrupted.
//!
//! Once a request was read, the kernel waits for its answer deaf to every signal, SIGKILL included,
//! and fuser does not hear of the interrupt either. So while opens wait, their threads' pending
//! signals are looked at, and the open is answered EINTR when there is one that would end the wait.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::read;
use tokio_util::sync::CancellationToken;

/// Between two portions of looks.
const INTERVAL: Duration = Duration::from_millis(20);
/// How many threads are looked at in one: 2,500 looks a second at most, and a thousand waiting threads
/// have their turn every 400 ms.
const PORTION: usize = 50;
/// More than a status takes up to its masks of signals. The kernel gives a short file like this whole: one
/// read, and no look at its size, make a look a third cheaper.
const STATUS: usize = 4096;
/// Signals that are no reason to give up: the kernel or a runtime sends them all the time, or they
/// stop a process that may go on later.
const HARMLESS: [Signal; 8] = [
    Signal::SIGCHLD,
    Signal::SIGURG,
    Signal::SIGWINCH,
    Signal::SIGCONT,
    Signal::SIGSTOP,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// The threads that wait.
#[derive(Debug, Clone, Default)]
pub(super) struct Interrupts(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    /// Who is looked at next stands first.
    threads: VecDeque<(u32, CancellationToken)>,
    is_watched: bool,
}

impl Waiting {
    /// Looks at the next portion; whether anybody in it was interrupted.
    fn look(&mut self) -> bool {
        let mut found = false;
        for _ in 0..PORTION.min(self.threads.len()) {
            let Some((thread, interrupted)) = self.threads.pop_front() else { break };
            if is_interrupted(thread) {
                interrupted.cancel();
                found = true;
            } else {
                self.threads.push_back((thread, interrupted));
            }
        }
        found
    }
}

/// Stands for one waiting thread; dropping it ends the looks.
pub(super) struct Watch {
    interrupts: Interrupts,
    thread: u32,
    interrupted: CancellationToken,
}

impl Interrupts {
    /// Watches a thread from now on. To be called within a runtime. Thread 0 lives where we cannot
    /// look, and is never interrupted.
    pub(super) fn watch(&self, thread: u32) -> Watch {
        let interrupted = CancellationToken::new();
        if thread != 0 {
            let mut waiting = self.lock();
            waiting.threads.push_back((thread, interrupted.clone()));
            if !std::mem::replace(&mut waiting.is_watched, true) {
                tokio::spawn(self.clone().look());
            }
        }
        Watch { interrupts: self.clone(), thread, interrupted }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks until nobody waits any more.
    async fn look(self) {
        loop {
            let found = {
                let mut waiting = self.lock();
                waiting.is_watched = !waiting.threads.is_empty();
                if !waiting.is_watched {
                    return;
                }
                waiting.look()
            };
            if found {
                // Who is killed is rarely killed alone. The answers go out in between.
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(INTERVAL).await;
            }
        }
    }
}

impl Watch {
    /// Completes when the thread has a signal that would end its wait.
    pub(super) async fn interrupted(&self) {
        self.interrupted.cancelled().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.interrupted.is_cancelled() {
            return; // It is not in the list any more.
        }
        // A thread waits in one open at a time.
        let mut waiting = self.interrupts.lock();
        if let Some(place) = waiting.threads.iter().position(|(thread, _)| *thread == self.thread) {
            waiting.threads.remove(place);
        }
    }
}

/// Whether a thread has a pending signal that it neither blocks nor ignores
/// (`proc_pid_status(5)`). A thread that is gone waits for nothing.
fn is_interrupted(thread: u32) -> bool {
    let mut buffer = [0; STATUS];
    let path = format!("/proc/{thread}/status");
    let status = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| read(file, &mut buffer));
    let text = status.ok().and_then(|length| buffer.get(..length));
    // A program may have any bytes for a name.
    text.is_some_and(|text| wants_out(&String::from_utf8_lossy(text)))
}

fn wants_out(status: &str) -> bool {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0)
    };
    let harmless = HARMLESS.iter().fold(0, |mask, signal| mask | 1 << (*signal as i32 - 1));
    let pending = mask("SigPnd") | mask("ShdPnd");
    pending & !(mask("SigBlk") | mask("SigIgn") | harmless) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pending: u64, shared: u64, blocked: u64, ignored: u64) -> String {
        format!(
            "Name:\tcat\nSigQ:\t0/1\nSigPnd:\t{pending:016x}\nShdPnd:\t{shared:016x}\n\
             SigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t0000000000000000\n"
        )
    }

    fn bit(signal: Signal) -> u64 {
        1 << (signal as i32 - 1)
    }

    #[test]
    fn a_signal_ends_the_wait_unless_it_is_blocked_ignored_or_harmless() {
        let (int, kill) = (bit(Signal::SIGINT), bit(Signal::SIGKILL));
        assert!(wants_out(&status(int, 0, 0, 0)));
        assert!(wants_out(&status(0, kill, 0, 0)));
        assert!(!wants_out(&status(0, 0, 0, 0)));
        assert!(!wants_out(&status(int, 0, int, 0)));
        assert!(!wants_out(&status(0, int, 0, int)));
        let harmless = [Signal::SIGCHLD, Signal::SIGURG, Signal::SIGTSTP];
        assert!(!wants_out(&status(harmless.map(bit).iter().sum(), 0, 0, 0)));
        assert!(!wants_out("no such lines"));
    }

    #[test]
    fn everybody_has_a_turn() {
        // Threads that cannot exist.
        let threads = u32::MAX - u32::try_from(PORTION).unwrap() * 2..u32::MAX;
        let new = |thread| (thread, CancellationToken::new());
        let mut waiting = Waiting { threads: threads.clone().map(new).collect(), is_watched: true };
        let order = |waiting: &Waiting| -> Vec<_> {
            waiting.threads.iter().map(|(thread, _)| *thread).collect()
        };
        assert!(!waiting.look());
        waiting.threads.push_back(new(1));
        let mut second = threads.clone().skip(PORTION).collect::<Vec<_>>();
        assert_eq!(order(&waiting)[..PORTION], second);
        assert!(!waiting.look());
        second.insert(0, 1);
        assert_eq!(order(&waiting)[PORTION..], second);
    }

    #[tokio::test]
    async fn who_no_longer_waits_is_no_longer_looked_at() {
        let interrupts = Interrupts::default();
        // A thread that certainly has no signal pending: this one.
        let thread = u32::try_from(nix::unistd::gettid().as_raw()).unwrap();
        let (one, two, nobody) =
            (interrupts.watch(thread), interrupts.watch(thread), interrupts.watch(0));
        assert_eq!(interrupts.lock().threads.len(), 2);
        drop((one, nobody));
        assert_eq!(interrupts.lock().threads.len(), 1);
        drop(two);
        while interrupts.lock().is_watched {
            tokio::time::sleep(INTERVAL).await;
        }
    }
}
