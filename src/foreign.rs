//! Files that belong to others, read by a short-lived process with their owner's rights.
//!
//! Whoever owns a directory decides what the paths in it lead to: a FIFO, a device, a file that only
//! root may read, a file system that never answers, even the mount that this daemon serves. A thread
//! that opens such a path may wait for ever, and with root's rights it reads what the owner may not.
//! So the daemon makes no system call on these paths. It starts a *file reader*: this program,
//! executed from its descriptor with an empty environment and a pipe for its answer. The file reader
//! takes on the user that the directory belongs to, opens the file beneath the directory, and sends
//! its bytes. One that does not answer in time is killed and left to die.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::program::{Program, Streams};
use crate::time::{Clock, SystemClock};

pub mod answer;
mod ask;
pub mod child;
pub mod plain;
mod watched;

pub use answer::{Answer, Found, Stamp, Unreadable};
pub use ask::ForeignFile;
pub use watched::WatchedFile;

/// The hidden command that a file reader is started with, and a [`Request`] after it.
pub const COMMAND: &str = "read-foreign";

/// The longest that a file reader may take. A local file is read in milliseconds; the rest is for a
/// machine that is busy.
pub const LIMIT: Duration = Duration::from_secs(2);

/// What a file reader is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The directory that the file lies in.
    pub directory: PathBuf,
    /// The file's name in it.
    pub name: PathBuf,
    /// The user to read it as; `None` is the one that the directory belongs to. Only root can become
    /// another user; anybody else reads as themselves.
    pub user: Option<u32>,
    /// Whether links may lead anywhere. Where not, they must stay beneath the directory and on its
    /// mount.
    pub anywhere: bool,
    /// Whether the bytes are wanted, or only what `stat(2)` tells.
    pub content: bool,
    /// The largest file that is read, in bytes.
    pub limit: usize,
    /// Whether standard input is an `inotify(7)` instance that shall watch the file.
    pub watch: bool,
}

impl Request {
    /// The file at `path`, with no more than `limit` bytes, confined to its directory.
    #[must_use]
    pub fn file(path: &Path, limit: usize) -> Self {
        Self {
            directory: path.parent().unwrap_or(Path::new("/")).to_owned(),
            name: path.file_name().map(PathBuf::from).unwrap_or_default(),
            user: None,
            anywhere: false,
            content: true,
            limit,
            watch: false,
        }
    }

    /// The same without the bytes.
    #[must_use]
    pub fn stat(path: &Path) -> Self {
        Self { content: false, ..Self::file(path, usize::MAX) }
    }

    /// A directory itself: its owner is in the answer.
    #[must_use]
    pub fn directory(path: &Path) -> Self {
        Self { directory: path.to_owned(), name: ".".into(), ..Self::stat(path) }
    }

    /// The words after the program's name.
    fn words(&self) -> io::Result<[OsString; 2]> {
        Ok([COMMAND.into(), serde_json::to_string(self)?.into()])
    }

    /// Reads what [`Request::words`] wrote.
    ///
    /// # Errors
    /// `InvalidData` for anything else.
    pub fn parse(word: &OsString) -> io::Result<Self> {
        Ok(serde_json::from_slice(word.as_encoded_bytes())?)
    }
}

/// Starts file readers.
pub struct Launcher(File);

impl Launcher {
    /// Starts them from this executable.
    #[must_use]
    pub fn new(executable: File) -> Self {
        Self(executable)
    }

    /// Starts them from the executable of this process.
    ///
    /// # Errors
    /// Where `/proc` is not mounted.
    pub fn own() -> io::Result<Self> {
        File::open("/proc/self/exe").map(Self)
    }

    /// Asks a file reader, and waits for its answer no longer than `limit`.
    ///
    /// # Errors
    /// [`Unreadable::NotStarted`], [`Unreadable::Late`] or [`Unreadable::Broken`]. Why the file itself
    /// cannot be read is in the answer.
    pub fn ask(&self, request: &Request, limit: Duration) -> Result<Answer, Unreadable> {
        let mut running = self.start(request, None)?;
        let deadline = SystemClock.now().boot.saturating_add(limit);
        let answer = running.read(request, deadline);
        running.kill();
        running.wait_a_little();
        answer
    }

    fn start(&self, request: &Request, watch: Option<OwnedFd>) -> Result<Running, Unreadable> {
        let start = || {
            let request = Request { watch: watch.is_some(), ..request.clone() };
            let (answer, output) = io::pipe()?;
            let streams = Streams {
                input: watch.map_or_else(Stdio::null, Stdio::from),
                output: output.into(),
                errors: Stdio::null(),
            };
            let program = Program::new(self.0.try_clone()?, request.words()?, []);
            let child = program.start(streams)?;
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
            Ok(Running { child, pidfd, answer })
        };
        start().map_err(|error| not_started(&error))
    }
}

/// Asks a file reader from a process of this program that serves nobody, with a limit for people.
///
/// # Errors
/// As [`Launcher::ask`].
pub fn look(request: &Request) -> Result<Answer, Unreadable> {
    /// The longest that a person waits.
    const PATIENCE: Duration = Duration::from_secs(5);
    let launcher = Launcher::own().map_err(|error| not_started(&error))?;
    launcher.ask(request, PATIENCE)
}

fn not_started(error: &io::Error) -> Unreadable {
    // Without a number it is a path that no argument can hold.
    Unreadable::NotStarted { errno: error.raw_os_error().unwrap_or(libc::EINVAL) }
}

/// A file reader at work.
struct Running {
    child: Child,
    /// Names the process even when somebody else has reaped it. Before Linux 5.3 there is none.
    pidfd: Option<OwnedFd>,
    answer: PipeReader,
}

impl Running {
    fn read(&mut self, request: &Request, deadline: Duration) -> Result<Answer, Unreadable> {
        let mut buffer = answer::buffer(request);
        let mut length = 0;
        loop {
            let left = deadline.saturating_sub(SystemClock.now().boot);
            let limit = Timespec::try_from(left).ok();
            let mut events = [PollFd::from_borrowed_fd(self.answer.as_fd(), PollFlags::IN)];
            match poll(&mut events, limit.as_ref()) {
                Ok(0) => return Err(Unreadable::Late),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return Err(Unreadable::Broken),
            }
            let room = buffer.get_mut(length..).filter(|room| !room.is_empty());
            let is_over = match self.answer.read(room.ok_or(Unreadable::Broken)?) {
                Ok(read) => {
                    length += read;
                    read == 0
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => false,
                Err(_) => return Err(Unreadable::Broken),
            };
            let bytes = buffer.get(..length).unwrap_or_default();
            if is_over || Answer::is_whole(bytes) {
                return Answer::parse(bytes, request);
            }
        }
    }

    fn kill(&mut self) {
        match &self.pidfd {
            Some(pidfd) => drop(pidfd_send_signal(pidfd, Signal::KILL)),
            None => drop(self.child.kill()),
        }
    }

    /// Waits for its end, but not for that of one that hangs: it is adopted when this process ends.
    fn wait_a_little(&mut self) {
        /// Longer than a process needs to end.
        const LIMIT: Duration = Duration::from_millis(200);
        let deadline = SystemClock.now().boot.saturating_add(LIMIT);
        while !self.has_ended() && SystemClock.now().boot < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether it has ended; reaps it then. One that somebody else reaped has ended, too.
    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}
