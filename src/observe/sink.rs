//! Where log lines go: standard error, a file, or the system's logger.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::Level;

use super::Target;

/// The socket of the system's logger: journald, or a syslogd (`syslog(3)`).
const LOGGER: &str = "/dev/log";
/// The facility of daemons, in the place where RFC 3164 has it.
const DAEMON: u8 = 3 << 3;
/// Between two tries where the kernel says that there is room, and then finds none.
const PAUSE: Duration = Duration::from_millis(50);

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the log {}: {why}", path.display())]
pub struct OpenError {
    path: PathBuf,
    why: String,
}

/// See the module.
#[derive(Debug)]
pub(super) enum Sink {
    Stderr {
        /// A line was begun and could not be ended.
        torn: bool,
    },
    File {
        path: PathBuf,
        file: File,
        torn: bool,
    },
    Syslog(Option<UnixDatagram>),
    Nowhere,
}

impl Sink {
    /// Opens what a target names. The system's logger is looked for with each line.
    pub(super) fn open(target: &Target) -> Result<Self, OpenError> {
        Ok(match target {
            Target::Stderr => Self::Stderr { torn: false },
            Target::File(path) => {
                Self::File { path: path.clone(), file: open_file(path)?, torn: false }
            }
            Target::Syslog => Self::Syslog(None),
            Target::Nowhere => Self::Nowhere,
        })
    }

    /// Opens the file anew, which may have been moved away (`logrotate(8)`).
    pub(super) fn reopen(&mut self) -> Result<(), OpenError> {
        if let Self::File { path, file, torn } = self {
            *file = open_file(path)?;
            *torn = false;
        }
        Ok(())
    }

    /// Writes a line. This waits for as long as nobody takes it.
    pub(super) fn write(&mut self, level: Level, line: &str) -> io::Result<()> {
        match self {
            Self::Stderr { torn } => write_line(io::stderr().as_fd(), line, torn),
            Self::File { file, torn, .. } => write_line(file.as_fd(), line, torn),
            Self::Syslog(socket) => line
                .lines()
                .filter(|line| !line.is_empty())
                .try_for_each(|line| send(socket, &message(level, line))),
            Self::Nowhere => Ok(()),
        }
    }
}

/// Opens a log file to append to it. Never a link or a device: whoever may write to its directory
/// could lead us to another file.
///
/// # Errors
/// When it is not a regular file that this process may write.
fn open_file(path: &Path) -> Result<File, OpenError> {
    let cannot = |why| OpenError { path: path.to_owned(), why };
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened =
        OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path);
    let file = opened.map_err(|error| {
        cannot(match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ELOOP) => "it is a symbolic link".to_owned(),
            Some(Errno::ENXIO) => "it is not a regular file".to_owned(),
            _ => error.to_string(),
        })
    })?;
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(file),
        Ok(_) => Err(cannot("it is not a regular file".to_owned())),
        Err(error) => Err(cannot(error.to_string())),
    }
}

/// Finds the system's logger.
pub(super) fn find_logger() -> Result<(), OpenError> {
    connect().map(|_| ()).map_err(|error| OpenError { path: LOGGER.into(), why: error.to_string() })
}

fn connect() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(LOGGER)?;
    Ok(socket)
}

/// A message as RFC 3164 §4.1 has it. The logger adds the time and the host.
fn message(level: Level, line: &str) -> String {
    let severity = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    };
    let (name, process) = (env!("CARGO_PKG_NAME"), std::process::id());
    format!("<{}>{name}[{process}]: {line}", DAEMON | severity)
}

fn send(socket: &mut Option<UnixDatagram>, message: &str) -> io::Result<()> {
    // A logger that was started anew has another socket.
    let mut may_connect = true;
    loop {
        let connected = match socket.take() {
            Some(connected) => connected,
            None if may_connect => {
                may_connect = false;
                connect()?
            }
            None => return Err(io::ErrorKind::NotConnected.into()),
        };
        match connected.send(message.as_bytes()) {
            Ok(_) => {
                *socket = Some(connected);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for_room(connected.as_fd());
                *socket = Some(connected);
            }
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                *socket = Some(connected);
                return Err(error);
            }
            Err(error) if !may_connect => return Err(error),
            Err(_) => {}
        }
    }
}

/// Writes a line, and ends one first that was torn.
fn write_line(to: BorrowedFd<'_>, line: &str, torn: &mut bool) -> io::Result<()> {
    if *torn {
        write_all(to, b"\n").map_err(|(error, _)| error)?;
        *torn = false;
    }
    write_all(to, line.as_bytes()).map_err(|(error, written)| {
        *torn = written > 0;
        error
    })
}

/// Writes all of it, and waits where there is no room. The error comes with the number of bytes that
/// were written before.
fn write_all(to: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), (io::Error, usize)> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        // Also where a write would wait by itself: whoever shares the description may change that.
        wait_for_room(to);
        match nix::unistd::write(to, rest) {
            Ok(0) => return Err((io::ErrorKind::WriteZero.into(), written)),
            Ok(count) => written += count,
            Err(Errno::EINTR) => {}
            // A terminal can have room for one byte and not for a newline, which becomes two.
            Err(Errno::EAGAIN) => sleep(PAUSE),
            Err(errno) => return Err((errno.into(), written)),
        }
    }
    Ok(())
}

/// Returns when something can be written, or when the write would fail.
fn wait_for_room(to: BorrowedFd<'_>) {
    poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], None).ok();
}

/// Writes to standard error what fits within a moment.
pub(super) fn write_soon(text: &str, limit: Duration) {
    let stderr = io::stderr();
    let limit = Timespec::try_from(limit).ok();
    let ready = poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], limit.as_ref());
    if ready.is_ok_and(|ready| ready > 0) {
        // Nobody is left to tell.
        nix::unistd::write(&stderr, text.as_bytes()).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_for_the_logger_has_its_priority_and_our_name() {
        let process = std::process::id();
        let expected = format!("<28>molecule-tokenfs[{process}]: the worker died");
        assert_eq!(message(Level::WARN, "the worker died"), expected);
        assert!(message(Level::ERROR, "").starts_with("<27>"));
        assert!(message(Level::TRACE, "").starts_with("<31>"));
    }

    #[test]
    fn a_line_after_a_torn_one_begins_anew() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut torn = true;
        write_line(writer.as_fd(), "whole\n", &mut torn).unwrap();
        drop(writer);
        let mut text = String::new();
        io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert_eq!((text.as_str(), torn), ("\nwhole\n", false));
    }

    #[test]
    fn only_a_regular_file_is_a_log_file() {
        let dir = tempfile::tempdir().unwrap();
        let why = |path: &Path| open_file(path).unwrap_err().why;
        let log = dir.path().join("log");
        open_file(&log).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&log.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&log, &link).unwrap();
        assert_eq!(why(&link), "it is a symbolic link");
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(why(&pipe), "it is not a regular file");
        assert_eq!(why(dir.path()), "Is a directory (os error 21)");
        assert_eq!(why(Path::new("/dev/null")), "it is not a regular file");
    }
}
