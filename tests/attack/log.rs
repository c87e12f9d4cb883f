//! Who reads the daemon's log: a terminal or a pipe, which may stop being read.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;

use crate::support::millis;

/// See the module. Dropping it ends the reading, and with it the terminal or the pipe.
pub struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    paused: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Log {
    /// The log, and what the daemon writes it to.
    pub fn terminal() -> (Self, OwnedFd) {
        let terminal = openpty(None, None).expect("a terminal");
        (Self::of(terminal.master), terminal.slave)
    }

    pub fn pipe() -> (Self, OwnedFd) {
        let (reader, writer) = io::pipe().expect("a pipe");
        (Self::of(reader.into()), writer.into())
    }

    fn of(source: OwnedFd) -> Self {
        let (text, paused, stop) = (Arc::default(), Arc::default(), Arc::default());
        let reader = Reader {
            source: File::from(source),
            text: Arc::clone(&text),
            paused: Arc::clone(&paused),
            stop: Arc::clone(&stop),
        };
        let thread = std::thread::spawn(move || reader.run());
        Self { text, paused, stop, thread: Some(thread) }
    }

    /// Nobody reads until it is dropped.
    pub fn pause(&self) -> Pause<'_> {
        self.paused.store(true, Ordering::Relaxed);
        Pause(self)
    }

    pub fn text(&self) -> Vec<u8> {
        self.text.lock().unwrap().clone()
    }

    /// The reader goes away, for ever.
    pub fn close(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close();
    }
}

pub struct Pause<'a>(&'a Log);

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        self.0.paused.store(false, Ordering::Relaxed);
    }
}

struct Reader {
    source: File,
    text: Arc<Mutex<Vec<u8>>>,
    paused: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Reader {
    fn run(mut self) {
        let mut bytes = vec![0; 65536];
        while !self.stop.load(Ordering::Relaxed) {
            if self.paused.load(Ordering::Relaxed) {
                std::thread::sleep(millis(20));
                continue;
            }
            let mut ready = [PollFd::new(self.source.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ready, PollTimeout::from(50_u8)) != Ok(1) {
                continue;
            }
            match self.source.read(&mut bytes) {
                Ok(0) | Err(_) => std::thread::sleep(millis(20)),
                Ok(length) => self.keep(&bytes[..length]),
            }
        }
    }

    /// The agent fills the log with `x`.
    fn keep(&self, bytes: &[u8]) {
        let told = bytes.iter().copied().filter(|&byte| byte != b'x');
        self.text.lock().unwrap().extend(told);
    }
}
