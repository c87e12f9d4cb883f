//! The extended attributes of a mounted file (`xattr(7)`): a file has no directory beside it for
//! `status.json` and `refresh`. A mounted directory has no attributes.

use std::ffi::OsStr;
use std::sync::Arc;

use nix::errno::Errno;

use super::node::{Node, Root};
use super::{Fs, Request};
use crate::error::ReadErrorKind;

/// The document of `status.json`, without its padding.
pub const STATUS: &str = "user.molecule.status";
/// Takes what `refresh` takes. In `user.`, the kernel would want a write bit for it.
pub const REFRESH: &str = "system.molecule.refresh";
/// What `listxattr` names: what can be read.
const NAMES: &[u8] = b"user.molecule.status\0";

/// The answer to somebody who asks for an attribute, or for their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// How many bytes there are.
    Size(u32),
    /// The bytes.
    Value(Arc<[u8]>),
}

impl Attribute {
    /// For somebody with room for so many bytes; 0 asks for their number.
    fn fit(bytes: Arc<[u8]>, room: u32) -> Result<Self, Errno> {
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        match room {
            0 => Ok(Self::Size(size)),
            _ if room < size => Err(Errno::ERANGE),
            _ => Ok(Self::Value(bytes)),
        }
    }
}

impl Fs {
    /// An attribute's value, for somebody with `room` for it. The kernel has judged by the mode bits
    /// who may read the file.
    ///
    /// # Errors
    /// ENODATA for any other name, ERANGE for too little room, ENOSYS in a mounted directory.
    pub fn attribute(
        &self,
        request: &Request,
        ino: u64,
        name: &OsStr,
        room: u32,
    ) -> Result<Attribute, Errno> {
        self.mounted_file(ino)?;
        if name != STATUS {
            return Err(Errno::ENODATA);
        }
        let (thread, now) = (request.caller.thread, self.clock.now());
        let status = self.pages.attribute(thread, room == 0, &self.token, &self.counters, &now);
        Attribute::fit(status, room)
    }

    /// The names of the attributes, each with a NUL after it.
    ///
    /// # Errors
    /// ERANGE for too little room, ENOSYS in a mounted directory.
    pub fn attribute_names(&self, ino: u64, room: u32) -> Result<Attribute, Errno> {
        self.mounted_file(ino)?;
        Attribute::fit(NAMES.into(), room)
    }

    /// Writes an attribute.
    ///
    /// # Errors
    /// EROFS for any but [`REFRESH`]; EACCES where the mode of `refresh` does not allow it; else as
    /// [`Fs::write`], with EBUSY in the place of EAGAIN.
    pub fn set_attribute(
        &self,
        request: &Request,
        ino: u64,
        name: &OsStr,
        value: &[u8],
    ) -> Result<(), Errno> {
        if self.mounted_file(ino).is_err() || name != REFRESH {
            return Err(self.refuse(ReadErrorKind::ReadOnly));
        }
        // The kernel leaves names in `system.` to us, whatever the mode bits say.
        if !self.config.access.may_refresh(&request.caller) {
            return Err(self.refuse(ReadErrorKind::Denied));
        }
        // The kernel itself uses EAGAIN here, and would tell the caller that there is no such attribute.
        self.control(request, value).map_err(|errno| match errno {
            Errno::EAGAIN => Errno::EBUSY,
            errno => errno,
        })
    }

    /// ENOSYS, which the kernel remembers, unless this is a mounted file.
    fn mounted_file(&self, ino: u64) -> Result<(), Errno> {
        match (self.config.root, self.node(ino)?) {
            (Root::View(_), Node::Live { .. }) => Ok(()),
            _ => Err(Errno::ENOSYS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_nothing_asks_for_the_size_and_too_little_is_said() {
        let bytes: Arc<[u8]> = NAMES.into();
        let size = u32::try_from(bytes.len()).unwrap();
        assert_eq!(Attribute::fit(Arc::clone(&bytes), 0), Ok(Attribute::Size(size)));
        assert_eq!(Attribute::fit(Arc::clone(&bytes), size - 1), Err(Errno::ERANGE));
        assert_eq!(Attribute::fit(Arc::clone(&bytes), size), Ok(Attribute::Value(bytes)));
        assert_eq!(NAMES.strip_suffix(b"\0"), Some(STATUS.as_bytes()));
    }
}
