//! The places of a mount: its root, and those that have a directory of their own in it, or in one of these.
//!
//! Each is a [`Fs`] that knows nothing of the others. An inode number says whose it is: the root's are
//! its own, those of the others carry the number of their place above them. A request goes to the one
//! that its inode belongs to, and the journal of all is the root's.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use nix::errno::Errno;

use super::attribute::Attribute;
use super::demand::{Demand, Inside};
use super::journal::Call;
use super::node::ROOT;
use super::{Attributes, Chunk, Entry, FOR_EVER, Fs, NAME_TTL, Open, Opened, Request};
use crate::error::ReadErrorKind;
use crate::refresh::Wish;
use crate::source::BoxFuture;
use number::{Numbers, global, local};
use table::{Named, Table};

mod number;
mod table;

/// What an inode is.
enum At {
    /// A directory of names on demand.
    Names(Arc<Demand>),
    /// What a file system knows by the last number; the one before is that of the place, for the others.
    Inside(Arc<Fs>, Numbers, u64),
}

/// See the module.
pub struct Places {
    root: Arc<Fs>,
    table: RwLock<Table>,
    demand: Option<Arc<Demand>>,
}

impl Places {
    /// A mount with this token at its root, and others in directories of these paths. A path stands after
    /// those that it begins with.
    #[must_use]
    pub fn new(root: Arc<Fs>, named: Vec<(String, Arc<Fs>)>, demand: Option<Demand>) -> Arc<Self> {
        let mut table = Table::default();
        for (path, fs) in named {
            table.add(&path, fs);
        }
        let demand = demand.map(Arc::new);
        if let Some(demand) = &demand {
            root.tell_of(Arc::<Demand>::clone(demand));
        }
        Arc::new(Self { root, table: RwLock::new(table), demand })
    }

    /// Shows a token at a path from now on. Opens that wait for another that was shown there wait for this.
    pub fn show(&self, path: &str, fs: Arc<Fs>) {
        self.table.write().unwrap_or_else(PoisonError::into_inner).add(path, fs);
    }

    /// Nothing is at a path any more, or in it. Opens that wait there fail.
    pub fn remove(&self, path: &str) {
        self.table.write().unwrap_or_else(PoisonError::into_inner).remove(path);
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token of the root; all requests are entered in its journal.
    #[must_use]
    pub fn root(&self) -> &Arc<Fs> {
        &self.root
    }

    fn at(&self, ino: u64) -> Result<At, Errno> {
        if let Some(demand) = self.demand.as_ref().filter(|_| Demand::owns(ino)) {
            return Ok(match demand.at(ino)? {
                None => At::Names(Arc::clone(demand)),
                Some(Inside { fs, prefix, ino }) => At::Inside(fs, Numbers::OnDemand(prefix), ino),
            });
        }
        let (number, ino) = local(ino);
        if number == 0 {
            return Ok(At::Inside(Arc::clone(&self.root), Numbers::Root, ino));
        }
        // One that is no longer configured: the kernel looks the path up anew.
        let table = self.table();
        let named = table.places.get(&number).ok_or(Errno::ESTALE)?;
        Ok(At::Inside(Arc::clone(&named.fs), Numbers::Named(number), ino))
    }

    /// The same on a path.
    fn at_of(&self, request: &Request, ino: u64) -> Result<At, Errno> {
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
    fn file(&self, ino: u64) -> Result<(Arc<Fs>, Numbers, u64), Errno> {
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
        let ino = numbers.global(attributes.ino);
        let is_root = numbers == Numbers::Root && attributes.ino == ROOT;
        let on_demand = if is_root { self.at_root().count() } else { 0 };
        let inside = if attributes.directory {
            self.table().inside.get(&ino).map(BTreeMap::len)
        } else {
            None
        };
        let more = on_demand + inside.unwrap_or_default();
        let links = attributes.links.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
        // Nobody renames in the directories of tokens on demand, so the kernel does not hear of a rotation
        // that changes their times.
        let is_steady = !matches!(numbers, Numbers::OnDemand(_)) || !attributes.directory;
        let ttl = if is_steady { ttl } else { ttl.min(NAME_TTL) };
        (Attributes { ino, links, ..attributes }, ttl)
    }

    /// The directories that hold views: each rotation changes their times.
    #[must_use]
    pub fn directories_of_views(&self) -> Vec<u64> {
        let root = self.root.directories_of_views();
        let table = self.table();
        let named = table.places.iter().flat_map(|(number, named)| {
            let directories = named.fs.directories_of_views().into_iter();
            directories.map(|directory| global(*number, directory))
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
        // Only the root of a place has others in it.
        if ino == ROOT {
            let at_root = self.at_root().find(|(at_root, _)| parent == ROOT && name == *at_root);
            let directory =
                self.named(numbers.global(ino), name).or_else(|| at_root.map(|(_, ino)| ino));
            if let Some(directory) = directory {
                let (attributes, attributes_ttl) = self.getattr(request, directory, None)?;
                return Ok(Entry { attributes, attributes_ttl, name_ttl: FOR_EVER });
            }
        }
        let entry = fs.lookup(request, ino, name)?;
        let (attributes, attributes_ttl) =
            self.shown(numbers, entry.attributes, entry.attributes_ttl);
        Ok(Entry { attributes, attributes_ttl, ..entry })
    }

    /// The directory of a place of this name, which somebody may watch from now on.
    fn named(&self, above: u64, name: &OsStr) -> Option<u64> {
        let table = self.table();
        let number = table.child(above, name.to_str()?)?;
        table.places.get(&number)?.fs.place().see();
        Some(global(number, ROOT))
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
        let table = self.table();
        let (number, _) = local(ino);
        let above = table.places.get(&number).map_or(ROOT, |named| named.above);
        let entries = fs.readdir(directory)?.into_iter().map(|(entry, is_directory, name)| {
            let is_above = name == ".." && directory == ROOT;
            let entry = if is_above { above } else { numbers.global(entry) };
            (entry, is_directory, Cow::Borrowed(name))
        });
        let inside = table.inside.get(&numbers.global(directory)).into_iter().flatten();
        let inside = inside.map(|(name, number)| (global(*number, ROOT), Cow::from(name.clone())));
        let at_root = self.at_root().filter(|_| ino == ROOT).map(|(name, ino)| (ino, name.into()));
        Ok(entries.chain(inside.chain(at_root).map(|(ino, name)| (ino, true, name))).collect())
    }

    /// See [`Fs::open`].
    #[must_use]
    pub fn open(self: &Arc<Self>, request: &Request, call: &Call, writing: bool) -> Open {
        match self.file(call.ino) {
            Ok((fs, Numbers::Root, ino)) => fs.open(request, call, ino, writing),
            Ok((fs, Numbers::Named(number), ino)) => match fs.open(request, call, ino, writing) {
                Open::Wait(opened) if self.root.shows_doors() => {
                    self.follow(number, (request, call, writing), (&fs, opened))
                }
                open => open,
            },
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

    /// An open that waits at a door, for whichever token that shows.
    fn follow(
        self: &Arc<Self>,
        number: u64,
        (request, call, writing): (&Request, &Call, bool),
        (fs, opened): (&Arc<Fs>, BoxFuture<'static, Result<Opened, Errno>>),
    ) -> Open {
        let table = self.table();
        let named = table.places.get(&number).filter(|named| Arc::ptr_eq(&named.fs, fs));
        let over = named.map(|named| named.over.clone());
        drop(table);
        let (places, request, call) = (Arc::clone(self), *request, *call);
        Open::Wait(Box::pin(async move {
            if let Some(over) = over {
                tokio::select! {
                    biased;
                    () = over.cancelled() => {}
                    opened = opened => return opened,
                }
            }
            match places.open(&request, &call, writing) {
                Open::Now(opened) => opened,
                Open::Wait(opened) => opened.await,
            }
        }))
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

    /// Lets a fingerprint that was written to `refresh` find its token, wherever in the mount that is, but
    /// not behind another door. The place that it was written to knows already.
    fn tell_others(&self, told: &Arc<Fs>, request: &Request, data: &[u8]) {
        let Some(Wish::Another(fingerprint)) = Wish::parse(data) else { return };
        let table = self.table();
        let top = table.places.get(&told.place().number()).map(|named| named.top);
        let is_near = |named: &&Named| !self.root.shows_doors() || Some(named.top) == top;
        let named = table.places.values().filter(is_near).map(|named| Arc::clone(&named.fs));
        let root = Some(Arc::clone(&self.root)).filter(|root| !root.shows_doors());
        let on_demand = self.demand.iter().flat_map(|demand| demand.kept());
        for fs in root.into_iter().chain(named).chain(on_demand) {
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
