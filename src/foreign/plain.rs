//! Opening a regular file and nothing else: not waiting for the writer of a FIFO, not waking a device,
//! and not reading for ever.
//!
//! This is for files that are read with this process's own rights. A file system that hangs holds up
//! whoever reads it so.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::answer::Kind;

/// The largest file of settings that is read, in bytes.
pub const LIMIT: usize = 1024 * 1024;

/// Why a file is not opened or read.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The system refuses.
    #[error("{0}")]
    System(io::Error),
    /// It is something else than a file.
    #[error("it is not a regular file but {}", .0.name())]
    NotRegular(Kind),
    /// It is too large.
    #[error("it is larger than {} KiB", .0 / 1024)]
    TooLarge(usize),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::System(error) => error,
            refusal => Self::other(refusal),
        }
    }
}

/// A regular file that is open for reading.
pub struct PlainFile {
    file: File,
    metadata: Metadata,
}

impl PlainFile {
    /// Opens the file at `path`, links followed.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn open(path: &Path) -> Result<Self, Refusal> {
        Self::of(&openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Opens what a descriptor without rights (`O_PATH` in `open(2)`) leads to: the open of a device can
    /// do something, and that of a FIFO waits.
    pub(super) fn of(pinned: &OwnedFd) -> Result<Self, Refusal> {
        let kind = FileType::from_raw_mode(fstat(pinned)?.st_mode);
        if kind != FileType::RegularFile {
            return Err(Refusal::NotRegular(match kind {
                FileType::Directory => Kind::Directory,
                FileType::Fifo => Kind::Fifo,
                FileType::CharacterDevice | FileType::BlockDevice => Kind::Device,
                FileType::Socket => Kind::Socket,
                _ => Kind::Other,
            }));
        }
        // Not even for somebody who holds a lease on it (`F_SETLEASE` in `fcntl(2)`).
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = openat(CWD, own_path(pinned), flags, Mode::empty());
        let file = File::from(opened.map_err(|errno| match errno {
            // The file is there.
            Errno::NOENT => Refusal::System(io::Error::other("/proc is not mounted")),
            errno => errno.into(),
        })?);
        let metadata = file.metadata()?;
        Ok(Self { file, metadata })
    }

    /// What `fstat(2)` tells.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Its first bytes.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(self, length: usize) -> io::Result<Vec<u8>> {
        let mut start = Vec::new();
        self.file.take(length as u64).read_to_end(&mut start)?;
        Ok(start)
    }

    /// Its bytes, `limit` at most.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn read(self, limit: usize) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        if self.metadata.len() > limit as u64 {
            return Err(Refusal::TooLarge(limit));
        }
        // With all the room at once, so that growing leaves no copy behind.
        let mut content = Zeroizing::new(Vec::with_capacity(limit.saturating_add(1)));
        self.file.take(limit as u64 + 1).read_to_end(&mut content)?;
        if content.len() > limit {
            return Err(Refusal::TooLarge(limit));
        }
        Ok(content)
    }
}

/// Reads a file of no more than [`LIMIT`] bytes.
///
/// # Errors
/// [`Refusal`], as an error of I/O.
pub fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    Ok(PlainFile::open(path)?.read(LIMIT)?)
}

/// The path of a descriptor of this process (`proc_pid_fd(5)`): it leads to that very file.
pub(super) fn own_path(file: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_a_regular_file_is_read_and_a_link_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::write(at("file"), "text").unwrap();
        fs::write(at("large"), vec![b'#'; LIMIT + 1]).unwrap();
        symlink("file", at("link")).unwrap();
        symlink("/dev/zero", at("zero")).unwrap();
        let told = |name: &str| read(&at(name)).unwrap_err().to_string();
        assert_eq!(read(&at("link")).unwrap().as_slice(), b"text");
        assert_eq!(told("fifo"), "it is not a regular file but a FIFO");
        assert_eq!(told("zero"), "it is not a regular file but a device");
        assert_eq!(told(""), "it is not a regular file but a directory");
        assert_eq!(told("large"), "it is larger than 1024 KiB");
        assert_eq!(read(&at("missing")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
