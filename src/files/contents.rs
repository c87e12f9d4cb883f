//! What a daemon puts into a directory of files, by name, and how all of it is removed.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags};

pub use crate::place::MARKER;
use crate::{status, view};

/// Before the name of a file that is not complete yet.
pub(super) const NEW: &str = ".new-";
/// Before the name of a directory that a mountpoint links to.
pub(super) const PREFIX: &str = "molecule-tokenfs-";
/// What consumers write their wishes into.
pub(super) const REFRESH: &str = "refresh";
/// The pages that show how things stand: for everybody, and the status with all particulars for those
/// who may read the tokens.
pub(super) const PAGES: [&str; 3] = ["status.json", "metrics.prom", status::FULL];

/// Removes all that a daemon puts into a directory, and nothing else: the tokens' directories, which
/// have the marker or were never completed, then the rest.
pub(super) fn empty(directory: &OwnedFd) {
    for name in entries(directory) {
        let Ok(inner) = open_inner(directory, &name) else { continue };
        let is_marked = || rustix::fs::statat(&inner, MARKER, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        if name.starts_with(NEW) || is_marked() {
            empty_one(&inner);
            rustix::fs::unlinkat(directory, &name, AtFlags::REMOVEDIR).ok();
        }
    }
    empty_one(directory);
}

/// Opens a directory in another one, and nothing else.
fn open_inner(directory: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

/// Removes the files of one token; the marker last.
fn empty_one(directory: &OwnedFd) {
    let views = view::ALL.iter().map(|view| view.path());
    for path in views.chain(PAGES).chain([REFRESH]) {
        remove_file(directory, path).ok();
    }
    let remove_new = |directory: &OwnedFd| {
        for name in entries(directory).iter().filter(|name| name.starts_with(NEW)) {
            remove_file(directory, name).ok();
        }
    };
    for name in subdirectories() {
        if let Ok(inner) = open_inner(directory, name) {
            remove_new(&inner);
            rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR).ok();
        }
    }
    remove_new(directory);
    remove_file(directory, MARKER).ok();
}

/// Removes a file, if it is there.
///
/// # Errors
/// Where the file system refuses.
pub(super) fn remove_file(directory: &OwnedFd, path: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, path, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The directories that views lie in.
pub(super) fn subdirectories() -> impl Iterator<Item = &'static str> {
    let mut names: Vec<_> =
        view::ALL.iter().filter_map(|view| Some(view.path().split_once('/')?.0)).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter()
}

/// The name beside `path` under which its next content is written.
pub(super) fn new(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((directory, name)) => format!("{directory}/{NEW}{name}"),
        None => format!("{NEW}{path}"),
    }
}

/// Names in a directory; none where it cannot be listed.
pub(super) fn entries(directory: &OwnedFd) -> Vec<String> {
    let listed = rustix::fs::Dir::read_from(directory).into_iter().flatten();
    let names = listed.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "." && name != "..").collect()
}
