//! Which places there are beside that of the root, and where.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::number::{global, local};
use crate::fs::Fs;
use crate::fs::node::ROOT;

/// A place beside that of the root.
pub(super) struct Named {
    /// The inode of the directory that it lies in.
    pub(super) above: u64,
    /// The number of the place at the root of the mount that it lies in, or is.
    pub(super) top: u64,
    pub(super) fs: Arc<Fs>,
    /// Cancelled when it is another file system that answers for the place, or none.
    pub(super) over: CancellationToken,
}

/// Places by number, which is that of their states: the kernel keeps inodes longer than a worker lives, and
/// than a configuration holds.
#[derive(Default)]
pub(super) struct Table {
    pub(super) places: BTreeMap<u64, Named>,
    /// The numbers of those in a directory, by name.
    pub(super) inside: HashMap<u64, BTreeMap<String, u64>>,
}

impl Table {
    /// Adds a place at a path. The one that it lies in must be there.
    pub(super) fn add(&mut self, path: &str, fs: Arc<Fs>) {
        let number = fs.place().number();
        let (above, name) = match path.rsplit_once('/') {
            Some((above, name)) => (self.directory(above), name),
            None => (ROOT, path),
        };
        let top = match local(above) {
            (0, _) => number,
            (above, _) => self.places.get(&above).map_or(number, |above| above.top),
        };
        self.inside.entry(above).or_default().insert(name.to_owned(), number);
        let named = Named { above, top, fs, over: CancellationToken::new() };
        if let Some(before) = self.places.insert(number, named) {
            before.over.cancel();
        }
    }

    /// Takes a place away, and those in it.
    pub(super) fn remove(&mut self, path: &str) {
        let (above, name) = match path.rsplit_once('/') {
            Some((above, name)) => (self.directory(above), name),
            None => (ROOT, path),
        };
        let Some(number) = self.inside.get_mut(&above).and_then(|names| names.remove(name)) else {
            return;
        };
        let inside = self.inside.remove(&global(number, ROOT)).into_iter().flatten();
        for number in inside.map(|(_, number)| number).chain([number]) {
            if let Some(gone) = self.places.remove(&number) {
                gone.over.cancel();
            }
        }
    }

    /// The directory at a path.
    fn directory(&self, path: &str) -> u64 {
        path.split('/').fold(ROOT, |above, name| {
            self.child(above, name).map_or(ROOT, |number| global(number, ROOT))
        })
    }

    pub(super) fn child(&self, above: u64, name: &str) -> Option<u64> {
        self.inside.get(&above)?.get(name).copied()
    }
}
