//! The tokens of a mount: that of its root, and those that have a directory of their own in it.
//!
//! Each is a [`Fs`] that knows nothing of the others. An inode number says whose it is: the root's are
//! its own, those of the others carry the number of their place above them. A request goes to the one
//! that its inode belongs to, and the journal of all is the root's.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::attribute::Attribute;
use super::demand::{Demand, Inside};
use super::journal::Call;
use super::node::ROOT;
use super::{Attributes, Chunk, Entry, FOR_EVER, Fs, NAME_TTL, Open, Request};
use crate::error::ReadErrorKind;
use crate::refresh::Wish;

/// Where the number of a place begins in an inode number. Below it is room for 2³⁶ generations.
const PLACE_BITS: u32 = 48;

/// An inode of a place, as the kernel knows it.
fn global(place: u64, ino: u64) -> u64 {
    place << PLACE_BITS | ino
}

/// The number of a place, and the inode as it knows it.
fn local(ino: u64) -> (u64, u64) {
    (ino >> PLACE_BITS, ino & ((1 << PLACE_BITS) - 1))
}

/// A file system that answers: one of the mount's, or one that was made on demand.
enum Answering<'a> {
    Own(&'a Arc<Fs>),
    OnDemand(Arc<Fs>),
}

impl Deref for Answering<'_> {
    type Target = Arc<Fs>;

    fn deref(&self) -> &Arc<Fs> {
        match self {
            Self::Own(fs) => fs,
            Self::OnDemand(fs) => fs,
        }
    }
}

/// What an inode is.
enum At<'a> {
    /// A directory of names on demand.
    Names(&'a Arc<Demand>),
    /// What a file system knows by the last number; the one before is that of the place, for the others.
    Inside(Answering<'a>, Numbers, u64),
}

/// How the inode numbers of a place come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    /// The root's are its own.
    Root,
    /// Those of others have this number above [`PLACE_BITS`].
    Named(u64),
    /// Those on demand begin with this.
    OnDemand(u64),
}

impl Numbers {
    fn global(self, ino: u64) -> u64 {
        match self {
            Self::Root => ino,
            Self::Named(place) => global(place, ino),
            Self::OnDemand(prefix) => prefix | ino,
        }
    }
}

struct Named {
    place: u64,
    name: String,
    fs: Arc<Fs>,
}

/// See the module.
pub struct Places {
    root: Arc<Fs>,
    /// In the order of their numbers, which are those of their states: the kernel keeps inodes longer than
    /// a worker lives, and than a configuration holds.
    named: Vec<Named>,
    demand: Option<Arc<Demand>>,
}

impl Places {
    /// A mount with this token at its root, and others in directories of these names.
    #[must_use]
    pub fn new(root: Arc<Fs>, named: Vec<(String, Arc<Fs>)>, demand: Option<Demand>) -> Arc<Self> {
        let named = named.into_iter();
        let named = named.map(|(name, fs)| Named { place: fs.place().number(), name, fs });
        let mut named: Vec<_> = named.collect();
        named.sort_unstable_by_key(|named| named.place);
        let demand = demand.map(Arc::new);
        if let Some(demand) = &demand {
            root.tell_of(Arc::<Demand>::clone(demand));
        }
        Arc::new(Self { root, named, demand })
    }

    /// The token of the root; all requests are entered in its journal.
    #[must_use]
    pub fn root(&self) -> &Arc<Fs> {
        &self.root
    }

    fn at(&self, ino: u64) -> Result<At<'_>, Errno> {
        if let Some(demand) = self.demand.as_ref().filter(|_| Demand::owns(ino)) {
            return Ok(match demand.at(ino)? {
                None => At::Names(demand),
                Some(Inside { fs, prefix, ino }) => {
                    At::Inside(Answering::OnDemand(fs), Numbers::OnDemand(prefix), ino)
                }
            });
        }
        let (number, ino) = local(ino);
        if number == 0 {
            return Ok(At::Inside(Answering::Own(&self.root), Numbers::Root, ino));
        }
        // One that is no longer configured: the kernel looks the path up anew.
        let named = self.named.binary_search_by_key(&number, |named| named.place);
        let named = named.ok().and_then(|index| self.named.get(index)).ok_or(Errno::ESTALE)?;
        Ok(At::Inside(Answering::Own(&named.fs), Numbers::Named(number), ino))
    }

    /// The same on a path.
    fn at_of(&self, request: &Request, ino: u64) -> Result<At<'_>, Errno> {
        self.at(ino).inspect_err(|errno| self.note_end(request, ino, *errno))
    }

    /// Notes that a path is walked again, where it led to a named token that is gone. Views on demand are
    /// served at the first open, whatever came before.
    fn note_end(&self, request: &Request, ino: u64, errno: Errno) {
        if errno == Errno::ESTALE && !Demand::owns(ino) {
            self.root.sends_away(request);
        }
    }

    /// The file system that has an inode that is no directory of names.
    fn file(&self, ino: u64) -> Result<(Answering<'_>, Numbers, u64), Errno> {
        match self.at(ino)? {
            At::Inside(fs, numbers, ino) => Ok((fs, numbers, ino)),
            At::Names(..) => Err(Errno::EISDIR),
        }
    }

    /// The attributes as the kernel shall see them, and for how long they hold.
    fn shown(
        &self,
        numbers: Numbers,
        attributes: Attributes,
        ttl: Duration,
    ) -> (Attributes, Duration) {
        let is_root = numbers == Numbers::Root && attributes.ino == ROOT;
        let more = if is_root { self.named.len() + self.at_root().count() } else { 0 };
        let links = attributes.links.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
        // Nobody renames in the directories of tokens on demand, so the kernel does not hear of a rotation
        // that changes their times.
        let is_steady = !matches!(numbers, Numbers::OnDemand(_)) || !attributes.directory;
        let ttl = if is_steady { ttl } else { ttl.min(NAME_TTL) };
        (Attributes { ino: numbers.global(attributes.ino), links, ..attributes }, ttl)
    }

    /// The directories that hold views: each rotation changes their times.
    #[must_use]
    pub fn directories_of_views(&self) -> Vec<u64> {
        let root = self.root.directories_of_views();
        let named = self.named.iter().flat_map(|named| {
            let directories = named.fs.directories_of_views().into_iter();
            directories.map(|directory| global(named.place, directory))
        });
        root.into_iter().chain(named).collect()
    }

    /// Takes the tokens on demand that an earlier worker kept. To be called before any request is answered,
    /// and when no other worker serves.
    pub fn take_over(&self) {
        if let Some(demand) = &self.demand {
            demand.take_over();
        }
    }

    /// The directories of names at the root.
    fn at_root(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.demand.iter().flat_map(|_| Demand::AT_ROOT)
    }

    /// See [`Fs::lookup`].
    ///
    /// # Errors
    /// Those.
    pub fn lookup(&self, request: &Request, parent: u64, name: &OsStr) -> Result<Entry, Errno> {
        let (fs, numbers, ino) = match self.at_of(request, parent)? {
            At::Names(demand) => return demand.lookup(request, parent, name),
            At::Inside(fs, numbers, ino) => (fs, numbers, ino),
        };
        if parent == ROOT {
            let named = self.named.iter().find(|named| name == &*named.name);
            let named = named.map(|named| {
                named.fs.place().see();
                global(named.place, ROOT)
            });
            let at_root = || self.at_root().find(|(at_root, _)| name == *at_root);
            if let Some(directory) = named.or_else(|| at_root().map(|(_, ino)| ino)) {
                let (attributes, attributes_ttl) = self.getattr(request, directory, None)?;
                return Ok(Entry { attributes, attributes_ttl, name_ttl: FOR_EVER });
            }
        }
        let entry = fs.lookup(request, ino, name)?;
        let (attributes, attributes_ttl) =
            self.shown(numbers, entry.attributes, entry.attributes_ttl);
        Ok(Entry { attributes, attributes_ttl, ..entry })
    }

    /// See [`Fs::getattr`].
    ///
    /// # Errors
    /// Those.
    pub fn getattr(
        &self,
        request: &Request,
        ino: u64,
        handle: Option<u64>,
    ) -> Result<(Attributes, Duration), Errno> {
        match self.at_of(request, ino)? {
            At::Names(demand) => Ok((demand.directory(request, ino)?, NAME_TTL)),
            At::Inside(fs, numbers, ino) => {
                let (attributes, ttl) = fs.getattr(request, ino, handle)?;
                Ok(self.shown(numbers, attributes, ttl))
            }
        }
    }

    /// See [`Fs::readdir`].
    ///
    /// # Errors
    /// Those.
    pub fn readdir(&self, ino: u64) -> Result<Vec<(u64, bool, Cow<'static, str>)>, Errno> {
        let (fs, numbers, directory) = match self.at(ino)? {
            At::Names(demand) => {
                let (above, names) = demand.list(ino)?;
                let own = [(ino, true, ".".into()), (above, true, "..".into())];
                let names = names.into_iter().map(|(ino, name)| (ino, true, name.into()));
                return Ok(own.into_iter().chain(names).collect());
            }
            At::Inside(fs, numbers, directory) => (fs, numbers, directory),
        };
        let entries = fs.readdir(directory)?.into_iter().map(|(entry, is_directory, name)| {
            // Above the root of a place is that of the mount.
            let is_above = name == ".." && directory == ROOT;
            let entry = if is_above { ROOT } else { numbers.global(entry) };
            (entry, is_directory, Cow::Borrowed(name))
        });
        let mut entries: Vec<_> = entries.collect();
        if ino == ROOT {
            let named = self.named.iter();
            let named =
                named.map(|named| (global(named.place, ROOT), Cow::from(named.name.clone())));
            let at_root = self.at_root().map(|(name, ino)| (ino, name.into()));
            entries.extend(named.chain(at_root).map(|(ino, name)| (ino, true, name)));
        }
        Ok(entries)
    }

    /// See [`Fs::open`].
    #[must_use]
    pub fn open(&self, request: &Request, call: &Call, writing: bool) -> Open {
        match self.file(call.ino) {
            Ok((fs, Numbers::Root | Numbers::Named(_), ino)) => {
                fs.open(request, call, ino, writing)
            }
            Ok((_, Numbers::OnDemand(_), _)) => match &self.demand {
                Some(demand) => demand.open(request, call, writing),
                None => Open::Now(Err(Errno::ENOENT)),
            },
            Err(errno) => {
                self.note_end(request, call.ino, errno);
                Open::Now(Err(errno))
            }
        }
    }

    /// See [`Fs::read`].
    ///
    /// # Errors
    /// Those.
    pub fn read(&self, ino: u64, handle: u64, offset: u64, size: u32) -> Result<Chunk, Errno> {
        let (fs, _, ino) = self.file(ino)?;
        fs.read(ino, handle, offset, size)
    }

    /// See [`Fs::release`].
    pub fn release(&self, ino: u64, handle: u64) {
        let Ok((fs, numbers, own)) = self.file(ino) else { return };
        fs.release(own, handle);
        if let (Numbers::OnDemand(_), Some(demand)) = (numbers, &self.demand) {
            demand.release(ino);
        }
    }

    /// See [`Fs::write`].
    ///
    /// # Errors
    /// Those.
    pub fn write(&self, request: &Request, ino: u64, data: &[u8]) -> Result<(), Errno> {
        let (fs, _, ino) = self.file(ino)?;
        fs.write(request, ino, data)?;
        self.tell_others(&fs, request, data);
        Ok(())
    }

    /// Lets a fingerprint that was written to `refresh` find its token, wherever in the mount that is. The
    /// place that it was written to knows already.
    fn tell_others(&self, told: &Arc<Fs>, request: &Request, data: &[u8]) {
        let Some(Wish::Another(fingerprint)) = Wish::parse(data) else { return };
        let named = self.named.iter().map(|named| Arc::clone(&named.fs));
        let on_demand = self.demand.iter().flat_map(|demand| demand.kept());
        for fs in [Arc::clone(&self.root)].into_iter().chain(named).chain(on_demand) {
            if !Arc::ptr_eq(&fs, told) {
                fs.reject(request, fingerprint);
            }
        }
    }

    /// See [`Fs::truncate`].
    ///
    /// # Errors
    /// Those.
    pub fn truncate(&self, request: &Request, ino: u64) -> Result<(Attributes, Duration), Errno> {
        let (fs, numbers, ino) = self.file(ino)?;
        let (attributes, ttl) = fs.truncate(request, ino)?;
        Ok(self.shown(numbers, attributes, ttl))
    }

    /// See [`Fs::rename`]. From one place to another nobody may rename.
    ///
    /// # Errors
    /// Those.
    pub fn rename(
        &self,
        request: &Request,
        (parent, name): (u64, &OsStr),
        (new_parent, new_name): (u64, &OsStr),
    ) -> Result<(), Errno> {
        let refused = || self.root.refuse(ReadErrorKind::ReadOnly);
        let (fs, numbers, parent) = self.file(parent).map_err(|_| refused())?;
        let (_, new_numbers, new_parent) = self.file(new_parent).map_err(|_| refused())?;
        if numbers != new_numbers {
            return Err(refused());
        }
        fs.rename(request, (parent, name), (new_parent, new_name))
    }

    /// See [`Fs::touch`].
    ///
    /// # Errors
    /// Those.
    pub fn touch(&self, request: &Request, ino: u64) -> Result<(Attributes, Duration), Errno> {
        let refused = |_| self.root.refuse(ReadErrorKind::ReadOnly);
        let (fs, numbers, ino) = self.file(ino).map_err(refused)?;
        let (attributes, ttl) = fs.touch(request, ino)?;
        Ok(self.shown(numbers, attributes, ttl))
    }

    /// See [`Fs::attribute`].
    ///
    /// # Errors
    /// Those.
    pub fn attribute(
        &self,
        request: &Request,
        ino: u64,
        name: &OsStr,
        room: u32,
    ) -> Result<Attribute, Errno> {
        let (fs, _, ino) = self.file(ino).map_err(|_| Errno::ENOSYS)?;
        fs.attribute(request, ino, name, room)
    }

    /// See [`Fs::attribute_names`].
    ///
    /// # Errors
    /// Those.
    pub fn attribute_names(&self, ino: u64, room: u32) -> Result<Attribute, Errno> {
        let (fs, _, ino) = self.file(ino).map_err(|_| Errno::ENOSYS)?;
        fs.attribute_names(ino, room)
    }

    /// See [`Fs::set_attribute`].
    ///
    /// # Errors
    /// Those.
    pub fn set_attribute(
        &self,
        request: &Request,
        ino: u64,
        name: &OsStr,
        value: &[u8],
    ) -> Result<(), Errno> {
        let refused = |_| self.root.refuse(ReadErrorKind::ReadOnly);
        let (fs, _, ino) = self.file(ino).map_err(refused)?;
        fs.set_attribute(request, ino, name, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::generations::regions::PLACES;

    #[test]
    fn an_inode_number_says_whose_it_is() {
        for (place, ino) in [(0, ROOT), (0, (1 << PLACE_BITS) - 1), (1, ROOT), (PLACES, 7 << 12)] {
            assert_eq!(local(global(place, ino)), (place, ino));
            assert!(!Demand::owns(global(place, ino)), "it has no mark of those on demand");
        }
        assert_eq!(global(0, 77), 77, "the root's are its own, as they always were");
    }
}
