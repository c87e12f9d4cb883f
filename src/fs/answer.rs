//! A request of the kernel's without a type of FUSE, and what it is answered.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use crate::caller::Caller;
use crate::secret::Rendered;
use crate::source::BoxFuture;

/// One request of a caller.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Its number; the same when it is delivered again.
    pub unique: u64,
    /// It was delivered before: to a worker that is dead.
    pub again: bool,
    /// Who makes it.
    pub caller: Caller,
}

/// What `stat` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// The inode number.
    pub ino: u64,
    /// A directory; else a regular file.
    pub directory: bool,
    /// Exactly the bytes that can be read.
    pub size: u64,
    /// Permission bits.
    pub mode: u16,
    /// Names of the inode: 0 for a generation that its view has moved on from.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When the bytes came to be, since the Unix epoch.
    pub modified: Duration,
}

/// What a name leads to, and for how long that may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The inode's attributes.
    pub attributes: Attributes,
    /// For how long they hold.
    pub attributes_ttl: Duration,
    /// For how long the name leads there.
    pub name_ttl: Duration,
}

/// How the kernel may cache the bytes of a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// In the page cache, for ever: the inode's bytes never change.
    Keep,
    /// Not at all: the inode's bytes depend on the handle.
    Direct,
}

/// An open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// For a view the generation that it reads; else the page's number.
    pub handle: u64,
    /// How to cache it.
    pub cache: Cache,
}

/// The answer to an open.
pub enum Open {
    /// Known at once.
    Now(Result<Opened, Errno>),
    /// It comes when a fetch or the deadline has settled it.
    Wait(BoxFuture<'static, Result<Opened, Errno>>),
}

/// Bytes of a read.
pub enum Chunk {
    /// Part of a view; wiped when dropped.
    View(Rendered, Range<usize>),
    /// Part of a page.
    Page(Arc<[u8]>, Range<usize>),
    /// The end of the file.
    End,
}

impl Chunk {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::View(rendered, range) => rendered.as_bytes().get(range.clone()),
            Self::Page(page, range) => page.get(range.clone()),
            Self::End => None,
        }
        .unwrap_or_default()
    }
}
