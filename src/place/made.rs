//! What is made for the tokens, and is removed when they are gone.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};

use crate::place::mountinfo;

/// Directories and files that were made, in that order. Dropping it removes them, the last one first,
/// where nobody has put anything there meanwhile: found by the directory that they were made in, wherever
/// that is now.
#[derive(Debug, Default)]
pub(crate) struct Made(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    parent: OwnedFd,
    name: OsString,
    is_directory: bool,
}

impl Made {
    /// Notes something that was made in a directory.
    pub(crate) fn note(&mut self, parent: impl AsFd, name: &OsStr, is_directory: bool) {
        // Without a descriptor left it stays.
        if let Ok(parent) = parent.as_fd().try_clone_to_owned() {
            self.0.push(Entry { parent, name: name.to_owned(), is_directory });
        }
    }

    /// What was made stays.
    pub(crate) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for entry in self.0.iter().rev() {
            // What is not empty stays.
            if entry.is_directory {
                unlinkat(&entry.parent, &entry.name, AtFlags::REMOVEDIR).ok();
            } else if entry.is_an_empty_file() {
                unlinkat(&entry.parent, &entry.name, AtFlags::empty()).ok();
            }
        }
    }
}

impl Entry {
    /// Nobody is asked who has mounted something there, and may not answer.
    fn is_an_empty_file(&self) -> bool {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(file) = openat(&self.parent, &self.name, flags, Mode::empty()) else { return false };
        let mounts = [mountinfo::id_of(&file), mountinfo::id_of(&self.parent)];
        let is_mounted = !matches!(&mounts, [Ok(file), Ok(parent)] if file == parent);
        !is_mounted && rustix::fs::fstat(&file).is_ok_and(|stat| stat.st_size == 0)
    }
}
