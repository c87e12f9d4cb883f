//! What a reader asks and tells whoever serves, in either layout: through `status.json` and
//! `refresh` in a directory, through the extended attributes of a mounted file.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use rustix::io::Errno;

use crate::fs::attribute;
use crate::status;

/// The status document, with all particulars where this process may know them.
///
/// # Errors
/// As the kernel says them; ENOTDIR for a file that is none of ours.
pub fn status(mountpoint: &Path) -> io::Result<Vec<u8>> {
    // Among files; a mount has none.
    if let Ok(document) = std::fs::read(mountpoint.join(status::FULL)) {
        return Ok(document);
    }
    match std::fs::read(mountpoint.join("status.json")) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            let mut document = vec![0; status::SIZE];
            let length =
                rustix::fs::getxattr(mountpoint, attribute::STATUS, document.as_mut_slice())
                    .map_err(of_a_file)?;
            document.truncate(length);
            Ok(document)
        }
        read => read,
    }
}

/// The view that a mounted file is; `None` where it does not tell.
#[must_use]
pub fn shown_view(file: &Path) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(&status(file).ok()?).ok()?;
    Some(document.get("view")?.as_str()?.to_owned())
}

/// Asks for a fetch (`refresh`), or says that the token with this fingerprint was refused.
///
/// # Errors
/// As the kernel says them; ENOTDIR for a file that is none of ours.
pub fn refresh(mountpoint: &Path, wish: &str) -> io::Result<()> {
    let control = OpenOptions::new().write(true).truncate(true).open(mountpoint.join("refresh"));
    match control {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(mountpoint, attribute::REFRESH, wish.as_bytes(), flags)
                .map_err(of_a_file)
        }
        control => control?.write_all(wish.as_bytes()),
    }
}

/// A file of another file system has no such attribute.
fn of_a_file(errno: Errno) -> io::Error {
    match errno {
        Errno::NODATA | Errno::OPNOTSUPP => Errno::NOTDIR.into(),
        // What `refresh` in a directory says with EAGAIN.
        Errno::BUSY => Errno::AGAIN.into(),
        errno => errno.into(),
    }
}
