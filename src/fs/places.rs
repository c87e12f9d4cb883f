//! The tokens of a mount: that of its root, and those that have a directory of their own in it.
//!
//! Each is a [`Fs`] that knows nothing of the others. An inode number says whose it is: the root's are
//! its own, those of the others carry the number of their place above them. A request goes to the one
//! that its inode belongs to, and the journal of all is the root's.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::attribute::Attribute;
use super::journal::Call;
use super::node::ROOT;
use super::{Attributes, Chunk, Entry, FOR_EVER, Fs, NAME_TTL, Open, Request};
use crate::error::ReadErrorKind;

/// Where the number of a place begins in an inode number. Below it is room for 2³⁶ generations.
const PLACE_BITS: u32 = 48;
/// The most places beside the root: what is above [`PLACE_BITS`] can tell apart.
pub const MOST: usize = 0xffff;

/// An inode of a place, as the kernel knows it.
fn global(place: u64, ino: u64) -> u64 {
    place << PLACE_BITS | ino
}

/// The number of a place, and the inode as it knows it.
fn local(ino: u64) -> (u64, u64) {
    (ino >> PLACE_BITS, ino & ((1 << PLACE_BITS) - 1))
}

/// For how long attributes hold. Nobody renames in the directories of named tokens, so the kernel does
/// not hear of a rotation that changes their times.
fn ttl_of(place: u64, attributes: &Attributes, ttl: Duration) -> Duration {
    if place != 0 && attributes.directory { ttl.min(NAME_TTL) } else { ttl }
}

/// See the module.
pub struct Places {
    root: Arc<Fs>,
    /// By name; the first is place 1.
    named: Vec<(String, Arc<Fs>)>,
}

impl Places {
    /// A mount with this token at its root, and others in directories of these names. What is beyond
    /// [`MOST`] is left out.
    #[must_use]
    pub fn new(root: Arc<Fs>, mut named: Vec<(String, Arc<Fs>)>) -> Arc<Self> {
        named.truncate(MOST);
        Arc::new(Self { root, named })
    }

    /// The token of the root; all requests are entered in its journal.
    #[must_use]
    pub fn root(&self) -> &Arc<Fs> {
        &self.root
    }

    fn place(&self, number: u64) -> Result<&Arc<Fs>, Errno> {
        let Some(index) = number.checked_sub(1) else { return Ok(&self.root) };
        let named = usize::try_from(index).ok().and_then(|index| self.named.get(index));
        named.map(|(_, fs)| fs).ok_or(Errno::ENOENT)
    }

    /// The place of an inode, its number, and the inode as it knows it.
    fn at(&self, ino: u64) -> Result<(&Arc<Fs>, u64, u64), Errno> {
        let (number, ino) = local(ino);
        Ok((self.place(number)?, number, ino))
    }

    /// The attributes as the kernel shall see them.
    fn shown(&self, place: u64, attributes: Attributes) -> Attributes {
        let is_root = (place, attributes.ino) == (0, ROOT);
        let more = if is_root { u32::try_from(self.named.len()).unwrap_or(u32::MAX) } else { 0 };
        let links = attributes.links.saturating_add(more);
        Attributes { ino: global(place, attributes.ino), links, ..attributes }
    }

    /// See [`Fs::lookup`].
    ///
    /// # Errors
    /// Those.
    pub fn lookup(&self, request: &Request, parent: u64, name: &OsStr) -> Result<Entry, Errno> {
        let (fs, place, ino) = self.at(parent)?;
        if parent == ROOT
            && let Some(index) = self.named.iter().position(|(named, _)| name == &**named)
        {
            let place = index as u64 + 1;
            let (attributes, _) = self.place(place)?.getattr(request, ROOT, None)?;
            let attributes = self.shown(place, attributes);
            return Ok(Entry { attributes, attributes_ttl: NAME_TTL, name_ttl: FOR_EVER });
        }
        let entry = fs.lookup(request, ino, name)?;
        let attributes_ttl = ttl_of(place, &entry.attributes, entry.attributes_ttl);
        Ok(Entry { attributes: self.shown(place, entry.attributes), attributes_ttl, ..entry })
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
        let (fs, place, ino) = self.at(ino)?;
        let (attributes, ttl) = fs.getattr(request, ino, handle)?;
        Ok((self.shown(place, attributes), ttl_of(place, &attributes, ttl)))
    }

    /// See [`Fs::readdir`].
    ///
    /// # Errors
    /// Those.
    pub fn readdir(&self, ino: u64) -> Result<Vec<(u64, bool, &str)>, Errno> {
        let (fs, place, directory) = self.at(ino)?;
        let mut entries: Vec<(u64, bool, &str)> = fs.readdir(directory)?;
        for (entry, _, name) in &mut entries {
            // Above the root of a place is that of the mount.
            let is_above = *name == ".." && directory == ROOT;
            *entry = if is_above { ROOT } else { global(place, *entry) };
        }
        if ino == ROOT {
            let named = (1..).zip(&self.named);
            entries.extend(named.map(|(place, (name, _))| (global(place, ROOT), true, &**name)));
        }
        Ok(entries)
    }

    /// See [`Fs::open`].
    #[must_use]
    pub fn open(&self, request: &Request, call: &Call, writing: bool) -> Open {
        match self.at(call.ino) {
            Ok((fs, _, ino)) => fs.open(request, call, ino, writing),
            Err(errno) => Open::Now(Err(errno)),
        }
    }

    /// See [`Fs::read`].
    ///
    /// # Errors
    /// Those.
    pub fn read(&self, ino: u64, handle: u64, offset: u64, size: u32) -> Result<Chunk, Errno> {
        let (fs, _, ino) = self.at(ino)?;
        fs.read(ino, handle, offset, size)
    }

    /// See [`Fs::release`].
    pub fn release(&self, ino: u64, handle: u64) {
        if let Ok((fs, _, ino)) = self.at(ino) {
            fs.release(ino, handle);
        }
    }

    /// See [`Fs::write`].
    ///
    /// # Errors
    /// Those.
    pub fn write(&self, request: &Request, ino: u64, data: &[u8]) -> Result<(), Errno> {
        let (fs, _, ino) = self.at(ino)?;
        fs.write(request, ino, data)
    }

    /// See [`Fs::truncate`].
    ///
    /// # Errors
    /// Those.
    pub fn truncate(&self, request: &Request, ino: u64) -> Result<(Attributes, Duration), Errno> {
        let (fs, place, ino) = self.at(ino)?;
        let (attributes, ttl) = fs.truncate(request, ino)?;
        Ok((self.shown(place, attributes), ttl))
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
        let (fs, place, parent) = self.at(parent)?;
        let (_, new_place, new_parent) = self.at(new_parent)?;
        if place != new_place {
            return Err(fs.refuse(ReadErrorKind::ReadOnly));
        }
        fs.rename(request, (parent, name), (new_parent, new_name))
    }

    /// See [`Fs::touch`].
    ///
    /// # Errors
    /// Those.
    pub fn touch(&self, request: &Request, ino: u64) -> Result<(Attributes, Duration), Errno> {
        let (fs, place, ino) = self.at(ino)?;
        let (attributes, ttl) = fs.touch(request, ino)?;
        Ok((self.shown(place, attributes), ttl))
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
        let (fs, _, ino) = self.at(ino)?;
        fs.attribute(request, ino, name, room)
    }

    /// See [`Fs::attribute_names`].
    ///
    /// # Errors
    /// Those.
    pub fn attribute_names(&self, ino: u64, room: u32) -> Result<Attribute, Errno> {
        let (fs, _, ino) = self.at(ino)?;
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
        let (fs, _, ino) = self.at(ino)?;
        fs.set_attribute(request, ino, name, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_number_says_whose_it_is() {
        for (place, ino) in [(0, ROOT), (0, (1 << PLACE_BITS) - 1), (1, ROOT), (0xffff, 7 << 12)] {
            assert_eq!(local(global(place, ino)), (place, ino));
        }
        assert_eq!(global(0, 77), 77, "the root's are its own, as they always were");
    }
}
