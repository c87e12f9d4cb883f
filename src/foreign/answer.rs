//! What a file reader answers: one line of JSON, then the bytes of the file.
//!
//! The file reader runs with the rights of somebody else, so its answer is not trusted: it is bounded,
//! parsed strictly, and holds no text that would be shown.

use std::io;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Request;

/// The longest line before the bytes.
const HEADER_LIMIT: usize = 4096;
/// More watches than this are not reported: the ancestors of a path are fewer.
pub(super) const MOST_WATCHES: usize = 128;

/// What was found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The user that the directory belongs to, where there is one.
    pub owner: Option<u32>,
    /// The file.
    pub found: Result<Found, Unreadable>,
    /// The watches that were set (`inotify_add_watch(2)`).
    pub watches: Vec<i32>,
    /// Why one could not be set: an errno.
    pub unwatched: Option<i32>,
}

/// A file.
#[derive(Clone, PartialEq, Eq)]
pub struct Found {
    /// Its state.
    pub stamp: Stamp,
    /// Its permission bits.
    pub mode: u32,
    /// Its bytes; empty where they were not asked for.
    pub content: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Found").field("stamp", &self.stamp).finish_non_exhaustive()
    }
}

/// What tells one state of a file from another. `ctime` changes with contents, mode and owner, and
/// nobody can set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    /// The number of its file system.
    pub device: u64,
    /// Its inode number.
    pub inode: u64,
    /// Its size in bytes.
    pub size: u64,
    /// When it last changed: seconds and nanoseconds.
    pub ctime: (i64, i64),
}

impl Stamp {
    pub(super) fn of(file: &std::fs::Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            ctime: (file.ctime(), file.ctime_nsec()),
        }
    }
}

/// What something is that is not a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A FIFO.
    Fifo,
    /// A character or block device.
    Device,
    /// A socket.
    Socket,
    /// Something else.
    Other,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Directory => "a directory",
            Self::Fifo => "a FIFO",
            Self::Device => "a device",
            Self::Socket => "a socket",
            Self::Other => "something else",
        }
    }
}

/// Why a file was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Unreadable {
    /// It is not there, or its directory is not.
    #[error("it does not exist")]
    Missing,
    /// The system refuses.
    #[error("{} (it is read as user {user})", io::Error::from_raw_os_error(*errno))]
    System {
        /// Why.
        errno: i32,
        /// The user that was refused.
        user: u32,
    },
    /// It is something else than a file.
    #[error("it is not a regular file but {}", .0.name())]
    NotRegular(Kind),
    /// It has more bytes than were asked for.
    #[error("it is larger than {} KiB", .limit / 1024)]
    TooLarge {
        /// The most, in bytes.
        limit: usize,
    },
    /// A link leads out of the directory or into another mount.
    #[error("it is a link that leads out of its directory or into another mount")]
    Outside,
    /// A link, and a kernel or a sandbox without `openat2(2)`.
    #[error("it is a link, and openat2, which follows links safely, is not available (Linux 5.6)")]
    Link,
    /// The file reader did not answer in time.
    #[error("it could not be read in time: its file system does not answer")]
    Late,
    /// Earlier file readers still hang.
    #[error("the processes that were started to read it hang in its file system")]
    Hung,
    /// The file reader could not be started.
    #[error("no process can be started to read it: {}", io::Error::from_raw_os_error(*errno))]
    NotStarted {
        /// Why.
        errno: i32,
    },
    /// The file reader was killed, or sent what is no answer.
    #[error("the process that was started to read it gave no answer")]
    Broken,
}

impl Unreadable {
    /// An error of a system call, as the user that made it.
    pub(super) fn system(errno: rustix::io::Errno, user: u32) -> Self {
        match errno {
            rustix::io::Errno::NOENT => Self::Missing,
            errno => Self::System { errno: errno.raw_os_error(), user },
        }
    }

    /// Whether it heals without a human: it is not the file that is wrong.
    #[must_use]
    pub fn is_transient(self) -> bool {
        match self {
            Self::Late | Self::Hung | Self::NotStarted { .. } | Self::Broken => true,
            Self::System { errno, .. } => {
                [libc::EAGAIN, libc::EINTR, libc::ENOMEM, libc::EMFILE, libc::ENFILE]
                    .contains(&errno)
            }
            Self::Missing
            | Self::NotRegular(_)
            | Self::TooLarge { .. }
            | Self::Outside
            | Self::Link => false,
        }
    }
}

/// The line before the bytes.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    owner: Option<u32>,
    found: Result<FoundHeader, Unreadable>,
    watches: Vec<i32>,
    unwatched: Option<i32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FoundHeader {
    stamp: Stamp,
    mode: u32,
    length: usize,
}

/// Room for the longest answer to a request and one byte more.
pub(super) fn buffer(request: &Request) -> Zeroizing<Vec<u8>> {
    let content = if request.content { request.limit } else { 0 };
    Zeroizing::new(vec![0; content.saturating_add(HEADER_LIMIT + 1)])
}

impl Answer {
    /// The bytes that a file reader sends.
    ///
    /// # Errors
    /// None that could occur: numbers and lists have a form in JSON.
    pub(super) fn to_bytes(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        let (found, content) = match &self.found {
            Ok(Found { stamp, mode, content }) => {
                (Ok(FoundHeader { stamp: *stamp, mode: *mode, length: content.len() }), &**content)
            }
            Err(why) => (Err(*why), &Vec::new()),
        };
        let watches = self.watches.iter().copied().take(MOST_WATCHES).collect();
        let header = Header { owner: self.owner, found, watches, unwatched: self.unwatched };
        let header = serde_json::to_vec(&header)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(header.len() + 1 + content.len()));
        bytes.extend_from_slice(&header);
        bytes.push(b'\n');
        bytes.extend_from_slice(content);
        Ok(bytes)
    }

    /// Whether the bytes so far are an answer with all of its content. The end of the pipe does not tell:
    /// the thread that answers the kernel gets a descriptor table of its own by copying ours, and may do
    /// so while we hold the other end. It would then keep that open.
    pub(super) fn is_whole(bytes: &[u8]) -> bool {
        let whole = || {
            let end = bytes.iter().take(HEADER_LIMIT).position(|&byte| byte == b'\n')?;
            let (header, content) = bytes.split_at_checked(end)?;
            let Header { found, .. } = serde_json::from_slice(header).ok()?;
            Some(content.len() > found.map_or(0, |found| found.length))
        };
        whole().unwrap_or(false)
    }

    /// Reads an answer to this request.
    ///
    /// # Errors
    /// [`Unreadable::Broken`] for anything else.
    pub(super) fn parse(bytes: &[u8], request: &Request) -> Result<Self, Unreadable> {
        let parse = || {
            let end = bytes.iter().take(HEADER_LIMIT).position(|&byte| byte == b'\n')?;
            let (header, content) = bytes.split_at_checked(end)?;
            let content = content.get(1..)?;
            let Header { owner, found, watches, unwatched } =
                serde_json::from_slice(header).ok()?;
            let length = found.as_ref().map_or(0, |found| found.length);
            let most = if request.content { request.limit } else { 0 };
            if content.len() != length || length > most || watches.len() > MOST_WATCHES {
                return None;
            }
            let found = found.map(|FoundHeader { stamp, mode, .. }| Found {
                stamp,
                mode,
                content: Zeroizing::new(content.to_vec()),
            });
            Some(Self { owner, found, watches, unwatched })
        };
        parse().ok_or(Unreadable::Broken)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn request() -> Request {
        Request::file(Path::new("/configs/.auth_token"), 16)
    }

    fn answer(content: &[u8]) -> Answer {
        let stamp = Stamp { device: 1, inode: 2, size: 3, ctime: (-4, 5) };
        let content = Zeroizing::new(content.to_vec());
        let found = Ok(Found { stamp, mode: 0o600, content });
        Answer { owner: Some(1000), found, watches: vec![1, 2], unwatched: Some(28) }
    }

    #[test]
    fn an_answer_is_read_back_as_it_was() {
        let errors = [
            Unreadable::Missing,
            Unreadable::System { errno: 13, user: 7 },
            Unreadable::NotRegular(Kind::Fifo),
            Unreadable::TooLarge { limit: 16 },
        ];
        let failed = errors.map(|why| Answer { found: Err(why), ..answer(b"") });
        for answer in [answer(b""), answer(b"two\nlines\n\xff\0")].into_iter().chain(failed) {
            let bytes = answer.to_bytes().unwrap();
            assert_eq!(Answer::parse(&bytes, &request()), Ok(answer));
        }
    }

    #[test]
    fn an_answer_is_whole_with_its_last_byte_and_not_before() {
        let failed = Answer { found: Err(Unreadable::Missing), ..answer(b"") };
        for answer in [answer(b""), answer(b"two\nlines\n"), failed] {
            let bytes = answer.to_bytes().unwrap();
            let (last, before) = bytes.split_last().unwrap();
            assert!(Answer::is_whole(&bytes), "{last}");
            for end in 0..before.len() {
                assert!(!Answer::is_whole(&before[..end]), "{end}");
            }
            assert!(!Answer::is_whole(before));
        }
    }

    #[test]
    fn what_is_no_answer_is_broken() {
        let good = answer(b"0123456789").to_bytes().unwrap();
        let text = String::from_utf8(good.to_vec()).unwrap();
        let without_content = Request { content: false, ..request() };
        assert!(Answer::parse(&good, &without_content).is_err(), "bytes that nobody asked for");
        for bad in [
            String::new(),
            "\n".to_owned(),
            text.replace('\n', " "),
            format!("{text}x"),
            text.trim_end_matches('9').to_owned(),
            text.replace("\"length\":10", "\"length\":9"),
            text.replace("\"length\":10", "\"length\":17") + "0123456",
            text.replace("\"mode\"", "\"more\":1,\"mode\""),
            text.replace("[1,2]", &format!("{:?}", vec![1; MOST_WATCHES + 1])),
            text.replace("28", "\"\\u001b[2J\""),
            format!("{}{text}", " ".repeat(HEADER_LIMIT)),
        ] {
            let parsed = Answer::parse(bad.as_bytes(), &request());
            assert_eq!(parsed, Err(Unreadable::Broken), "{bad}");
        }
    }

    #[test]
    fn the_bytes_do_not_show() {
        assert!(!format!("{:?}", answer(b"canary")).contains("canary"));
        assert!(!format!("{:?}", answer(b"canary")).contains("[99, 97"));
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_makes_the_parser_panic(bytes: Vec<u8>, content: bool) {
            let _ = Answer::parse(&bytes, &Request { content, ..request() });
        }
    }
}
