//! What a reader sees: the files, their attributes and their bytes, and who may open what when.
//!
//! This file knows no FUSE type and no kernel; `fs/fuse.rs` is the thin adapter. Every call is
//! idempotent: a request may be delivered again after a crash, and is then answered alike. Nothing
//! here waits except an [`Open::Wait`].
//!
//! A view of a generation is an inode whose bytes never change, so the kernel may cache them. An
//! open of an inode that its view has moved on from is answered ESTALE once; the kernel then looks
//! the name up again by itself and finds the new one. It does so only once, hence the marks.

use std::ffi::OsStr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use serde::{Deserialize, Serialize};

use crate::error::ReadErrorKind;
use crate::refresh::{Handle, TooSoon, Wish};
use crate::secret::{Fingerprint, Rendered};
use crate::status::counters::Counters;
use crate::time::Clock;
use crate::view::{self, ViewContext};
use access::Access;
pub use answer::{Attributes, Cache, Chunk, Entry, Open, Opened, Request};
use generations::{Generation, Place, State, TokenState};
use journal::Call;
use node::{Node, Page, Root, Tree};
use pages::{OnDemand, Other, Pages};
use recent::Recent;
use tables::Mark;

pub mod access;
mod answer;
pub mod attribute;
pub mod demand;
pub mod fault;
pub mod fuse;
pub mod generations;
mod interrupt;
pub mod journal;
pub mod memory;
pub mod node;
mod open;
pub mod pages;
pub mod places;
mod recent;
mod tables;
#[cfg(test)]
mod tests;

/// How long the kernel may keep what never changes.
const FOR_EVER: Duration = Duration::from_hours(1);
/// How long the kernel may take a name for the generation it led to. Opens do not depend on it; a
/// bare `stat` by path shows the last generation for at most that long.
const NAME_TTL: Duration = Duration::from_secs(1);
/// The bytes of the longest name, as on other file systems. The kernel itself would let more pass.
const NAME_MAX: u32 = 255;
/// Before the name of a view: the newest generation of it, which the helper renames onto it.
const NEXT: &str = ".next-";

/// How the filesystem behaves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FsConfig {
    /// What is at the mountpoint.
    pub root: Root,
    /// Owner and modes.
    pub access: Access,
    /// What views are rendered with.
    pub views: ViewContext,
    /// The longest that an open may wait.
    pub open_timeout: Duration,
    /// The thread that makes rotations visible; it may rename and touch.
    pub helper: Option<u32>,
}

/// The filesystem over one token.
pub struct Fs {
    config: FsConfig,
    tree: Arc<Tree>,
    /// The connection's part of the state: the journal, marks, and signs of life.
    connection: Arc<State>,
    /// The token's, and that of the place where it is shown.
    state: Arc<TokenState>,
    place: Arc<Place>,
    recent: Recent,
    token: Handle,
    /// The views whose readers keep a token for long: see [`view::View::is_held`].
    held: Vec<u8>,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    pages: Pages,
    /// Wall time of the start: what has no time of its own shows it.
    started: Duration,
}

impl Fs {
    /// A filesystem that shows `state` at a place of it, and asks `token` whether it is fresh.
    pub fn new(
        config: FsConfig,
        (state, place): (Arc<TokenState>, Arc<Place>),
        token: Handle,
        clock: Arc<dyn Clock>,
        counters: Arc<Counters>,
        pages: Pages,
    ) -> Arc<Self> {
        let started = clock.now().wall;
        Arc::new(Self {
            tree: Tree::of(config.root),
            config,
            connection: Arc::clone(state.connection()),
            state,
            place,
            recent: Recent::default(),
            token,
            held: view::ALL.iter().filter(|view| view.is_held()).map(|view| view.id()).collect(),
            clock,
            counters,
            pages,
            started,
        })
    }

    /// A request was taken from the kernel. `again` is whether it was delivered before.
    ///
    /// # Errors
    /// EIO for one of which workers died.
    pub fn enter(&self, request: &Request, call: &Call) -> Result<(), Errno> {
        self.connection.enter();
        let journal = &self.connection.shared().journal;
        journal.enter(request.unique, call, &request.caller);
        if request.again && journal.kills(request.unique) {
            tracing::error!(
                request = call.handler,
                "workers died of it: it is answered EIO; please report this bug"
            );
            return Err(self.refuse(ReadErrorKind::Unserved));
        }
        self.connection.pass_handler(call.handler, false);
        Ok(())
    }

    /// A request is done with: answered, or given up.
    pub fn leave(&self, unique: u64, call: &Call, waited: bool) {
        self.connection.pass_handler(call.handler, true);
        self.connection.shared().journal.leave(unique, waited);
        self.connection.leave();
    }

    /// Works on an open that waits: a death meanwhile is its doing.
    pub fn work<T>(&self, unique: u64, work: impl FnOnce() -> T) -> T {
        let journal = &self.connection.shared().journal;
        journal.polls(unique);
        let done = work();
        journal.polled();
        self.connection.look();
        done
    }

    /// Its pages tell of these tokens on demand, too.
    fn tell_of(&self, on_demand: Arc<dyn OnDemand>) {
        self.pages.tell_of(on_demand);
    }

    /// The state of its token.
    #[must_use]
    pub fn state(&self) -> &Arc<TokenState> {
        &self.state
    }

    /// The place where it shows it.
    #[must_use]
    pub fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// The boot clock.
    pub(in crate::fs) fn now(&self) -> Duration {
        self.clock.now().boot
    }

    /// A place where tests may have asked for a fault.
    pub fn pass(&self, place: &str) {
        self.connection.pass(place);
    }

    /// Finds a name in a directory. Never waits.
    ///
    /// # Errors
    /// ENOENT, ENAMETOOLONG.
    pub fn lookup(&self, request: &Request, parent: u64, name: &OsStr) -> Result<Entry, Errno> {
        if name.len() > NAME_MAX as usize {
            return Err(Errno::ENAMETOOLONG);
        }
        let name = name.to_str().ok_or(Errno::ENOENT)?;
        let Some(node) = self.tree.lookup(parent, name) else {
            return self.lookup_next(request, parent, name);
        };
        match node {
            Node::Generation { view, .. } if !self.is_helper(request) => self.place.see_view(view),
            Node::Live { view } if !self.is_helper(request) => self.place.see_live(view),
            _ => {}
        }
        let (node, attributes) = match node {
            Node::Generation { view, .. } => self.current_view(view)?,
            _ => (node, self.attributes(request, node.ino(), node, None)?),
        };
        let (attributes_ttl, name_ttl) = match node {
            Node::Generation { generation: 0, .. } => (Duration::ZERO, Duration::ZERO),
            Node::Generation { .. } if self.marked(request) => (Duration::ZERO, NAME_TTL),
            Node::Generation { .. } => (FOR_EVER, NAME_TTL),
            Node::Live { .. } => (Duration::ZERO, FOR_EVER),
            Node::Page(_) => (NAME_TTL, FOR_EVER),
            Node::Directory(_) | Node::Control => (FOR_EVER, FOR_EVER),
        };
        Ok(Entry { attributes, attributes_ttl, name_ttl })
    }

    /// The newest generation of a view, under its waiting name.
    fn lookup_next(&self, request: &Request, parent: u64, name: &str) -> Result<Entry, Errno> {
        let view = name.strip_prefix(NEXT).and_then(|name| self.tree.lookup(parent, name));
        let Some(Node::Generation { view, .. }) = view.filter(|_| self.is_helper(request)) else {
            return Err(Errno::ENOENT);
        };
        let generation = self.state.prepared();
        let ino = Node::Generation { generation, view }.ino();
        let attributes = self.generation_attributes(ino, generation, view)?;
        let attributes = Attributes { links: 1, ..attributes };
        Ok(Entry { attributes, attributes_ttl: Duration::ZERO, name_ttl: Duration::ZERO })
    }

    /// The attributes of an inode, and for how long they hold. Never waits.
    ///
    /// # Errors
    /// EKEYEXPIRED for a generation that is not kept any more, ENOENT for no inode of ours.
    pub fn getattr(
        &self,
        request: &Request,
        ino: u64,
        handle: Option<u64>,
    ) -> Result<(Attributes, Duration), Errno> {
        let node = self.node(ino)?;
        let attributes = self.attributes(request, ino, node, handle)?;
        let ttl = match node {
            Node::Generation { generation: 0, .. } | Node::Live { .. } => Duration::ZERO,
            Node::Generation { .. } if self.marked(request) => Duration::ZERO,
            // An upgrade can bring more tokens, and then it is longer.
            Node::Page(_) => NAME_TTL,
            _ => FOR_EVER,
        };
        Ok((attributes, ttl))
    }

    /// The entries of a directory: inode number, whether it is a directory, name.
    ///
    /// # Errors
    /// ENOTDIR.
    pub fn readdir(&self, ino: u64) -> Result<Vec<(u64, bool, &'static str)>, Errno> {
        let (parent, names) = self.tree.list(ino).ok_or(Errno::ENOTDIR)?;
        let own = [(ino, true, "."), (parent, true, "..")];
        let names = names.map(|(name, node)| match node {
            Node::Generation { view, .. } => {
                let generation = self.place.current(view);
                (Node::Generation { generation, view }.ino(), false, name)
            }
            _ => (node.ino(), matches!(node, Node::Directory(_)), name),
        });
        Ok(own.into_iter().chain(names).collect())
    }

    /// Opens an inode. `call` is kept while the open waits; `writing` is whether the flags ask for
    /// anything but reading.
    #[must_use]
    pub fn open(self: &Arc<Self>, request: &Request, call: &Call, ino: u64, writing: bool) -> Open {
        let node = match self.node(ino) {
            Ok(node) => node,
            Err(errno) => return Open::Now(Err(errno)),
        };
        let open = match node {
            Node::Directory(_) => return Open::Now(Err(Errno::EISDIR)),
            Node::Control => return Open::Now(Ok(Opened { handle: 0, cache: Cache::Direct })),
            _ if writing => return Open::Now(Err(self.refuse(ReadErrorKind::ReadOnly))),
            Node::Page(page) => {
                let may_know = self.config.access.may_know(&request.caller);
                if !self.pages.are_long() || self.note_wait(request, call).is_none() {
                    return Open::Now(Ok(self.open_page(page, may_know)));
                }
                // Who opens a token meanwhile does not wait for it.
                let fs = Arc::clone(self);
                return Open::Wait(Box::pin(async move { Ok(fs.open_page(page, may_know)) }));
            }
            Node::Live { view } => self.open_live(request, call, view),
            Node::Generation { generation, view } => {
                self.open_generation(request, call, generation, view)
            }
        };
        if matches!(open, Open::Now(Ok(_))) {
            self.counters.opened(Duration::ZERO);
        }
        open
    }

    fn open_page(&self, page: Page, may_know: bool) -> Opened {
        let now = self.clock.now();
        let handle = self.pages.open(page, may_know, &self.token, &self.counters, &now);
        Opened { handle, cache: Cache::Direct }
    }

    /// Whether it is a directory of doors, whose readers are nobody's to each other.
    fn shows_doors(&self) -> bool {
        self.config.root == Root::Doors
    }

    /// Whether an inode is a page, which shows no token.
    fn is_page(&self, ino: u64) -> bool {
        matches!(self.tree.node(ino), Some(Node::Page(_)))
    }

    /// What the pages of a mount need to tell of its token.
    #[must_use]
    pub fn told(&self) -> Other {
        let identity = self.pages.identity().clone();
        (identity, self.token.clone(), Arc::clone(&self.counters))
    }

    /// The bytes of an open file.
    ///
    /// # Errors
    /// EKEYEXPIRED when the handle's generation is not kept any more.
    pub fn read(&self, ino: u64, handle: u64, offset: u64, size: u32) -> Result<Chunk, Errno> {
        let view = match self.node(ino)? {
            Node::Directory(_) => return Err(Errno::EISDIR),
            Node::Control => return Ok(Chunk::End),
            Node::Page(page) => {
                let now = self.clock.now();
                let bytes = self.pages.read(page, handle, &self.token, &self.counters, &now);
                let range = range(bytes.len(), offset, size);
                return Ok(Chunk::Page(bytes, range));
            }
            Node::Live { view } | Node::Generation { view, .. } => view,
        };
        let generation = self.recent.get(&self.state, handle).ok_or(Errno::EKEYEXPIRED)?;
        let rendered = self.render(view, &generation)?;
        let range = range(rendered.as_bytes().len(), offset, size);
        Ok(Chunk::View(rendered, range))
    }

    /// The last user of a handle has closed it.
    pub fn release(&self, ino: u64, handle: u64) {
        if let Ok(Node::Page(_)) = self.node(ino) {
            self.pages.release(handle);
        }
    }

    /// Writes to `refresh`: nothing, `refresh` or `now` asks for a fetch; 8 hexadecimal digits say
    /// that the token with this fingerprint was refused.
    ///
    /// # Errors
    /// EROFS for any other file, EINVAL for anything else, EAGAIN for a second fetch within a second.
    pub fn write(&self, request: &Request, ino: u64, data: &[u8]) -> Result<(), Errno> {
        if self.node(ino)? != Node::Control {
            return Err(self.refuse(ReadErrorKind::ReadOnly));
        }
        self.control(request, data)
    }

    /// Does what somebody wrote to `refresh`, or to the attribute that stands for it.
    fn control(&self, request: &Request, data: &[u8]) -> Result<(), Errno> {
        let wish = Wish::parse(data).ok_or(Errno::EINVAL)?;
        self.token.fulfil(wish, Some(request.caller)).map_err(|TooSoon| Errno::EAGAIN)
    }

    /// The token with this fingerprint was refused, if it is this one.
    fn reject(&self, request: &Request, fingerprint: Fingerprint) {
        self.token.reject(fingerprint, Some(request.caller));
    }

    /// Cuts a file, as `open` with `O_TRUNC` does: `refresh` has no bytes to lose.
    ///
    /// # Errors
    /// EROFS for any other file.
    pub fn truncate(&self, request: &Request, ino: u64) -> Result<(Attributes, Duration), Errno> {
        if self.node(ino)? == Node::Control {
            self.getattr(request, ino, None)
        } else {
            Err(self.refuse(ReadErrorKind::ReadOnly))
        }
    }

    /// The helper renames a waiting generation onto its view: from now on the view shows it.
    ///
    /// # Errors
    /// EROFS for anybody else.
    pub fn rename(
        &self,
        request: &Request,
        (parent, name): (u64, &OsStr),
        (new_parent, new_name): (u64, &OsStr),
    ) -> Result<(), Errno> {
        let name = name.to_str().and_then(|name| name.strip_prefix(NEXT));
        let is_onto_itself = parent == new_parent && name.is_some() && name == new_name.to_str();
        let node = name.and_then(|name| self.tree.lookup(parent, name));
        match node {
            Some(Node::Generation { view, .. }) if is_onto_itself && self.is_helper(request) => {
                self.place.flip(view);
                Ok(())
            }
            _ => Err(self.refuse(ReadErrorKind::ReadOnly)),
        }
    }

    /// The helper touches a live view, so that watchers of it look again. A mounted file has no name
    /// to rename onto: from this touch on it shows the newest generation.
    ///
    /// # Errors
    /// EROFS for anybody or anything else.
    pub fn touch(&self, request: &Request, ino: u64) -> Result<(Attributes, Duration), Errno> {
        match self.node(ino)? {
            Node::Live { view } if self.is_helper(request) => {
                if let Root::View(_) = self.config.root {
                    self.place.flip(view);
                }
                self.place.touch(view);
                self.getattr(request, ino, None)
            }
            _ => Err(self.refuse(ReadErrorKind::ReadOnly)),
        }
    }

    fn is_helper(&self, request: &Request) -> bool {
        let thread = request.caller.thread;
        self.config.helper == Some(thread) || self.connection.has_helper(thread)
    }

    /// Counts a refusal and gives its errno; for everything that would write.
    pub fn refuse(&self, kind: ReadErrorKind) -> Errno {
        self.counters.refused(kind);
        kind.errno()
    }

    fn node(&self, ino: u64) -> Result<Node, Errno> {
        self.tree.node(ino).ok_or(Errno::ENOENT)
    }

    fn marked(&self, request: &Request) -> bool {
        self.connection.shared().marks.get(request.caller.thread).is_some()
    }

    /// A path of this thread led to a token that is gone, and is looked up again. The kernel does so once, so
    /// what it then opens is served whatever it is.
    pub(in crate::fs) fn sends_away(&self, request: &Request) {
        let (marks, mark) =
            (&self.connection.shared().marks, Mark { view: u8::MAX, generation: 0 });
        // Where there is no room, the reader may hear of it.
        marks.set(&self.connection.writers, request.caller.thread, mark, self.now());
    }

    /// What a thread was last handed of a live view.
    fn handed(&self, thread: u32, view: u8) -> Option<u64> {
        self.connection.shared().handed.get(thread, (self.place.index(), view))
    }

    /// The node and attributes of the generation that a view shows now.
    fn current_view(&self, view: u8) -> Result<(Node, Attributes), Errno> {
        // Between the two reads the generation may leave the ring, if it rotates 64 times meanwhile.
        for _ in 0..8 {
            let generation = self.place.current(view);
            let node = Node::Generation { generation, view };
            match self.generation_attributes(node.ino(), generation, view) {
                Err(Errno::EKEYEXPIRED) => {}
                attributes => return Ok((node, attributes?)),
            }
        }
        Err(Errno::EKEYEXPIRED)
    }

    fn attributes(
        &self,
        request: &Request,
        ino: u64,
        node: Node,
        handle: Option<u64>,
    ) -> Result<Attributes, Errno> {
        match node {
            Node::Directory(_) => {
                let links = 2 + self.tree.subdirectories(ino);
                let fixed = self.fixed(ino, 0, Access::DIRECTORY_MODE, links);
                Ok(Attributes { modified: self.renamed(ino).unwrap_or(fixed.modified), ..fixed })
            }
            Node::Control => Ok(self.fixed(ino, 0, self.config.access.refresh_mode, 1)),
            Node::Page(page) => Ok(self.fixed(ino, self.pages.size(page), Access::STATUS_MODE, 1)),
            Node::Generation { generation, view } => {
                self.generation_attributes(ino, generation, view)
            }
            Node::Live { view } => {
                let handed = handle
                    .or_else(|| self.handed(request.caller.thread, view))
                    .and_then(|generation| self.generation_attributes(ino, generation, view).ok());
                let attributes = match handed {
                    Some(attributes) => attributes,
                    None => self.current_view(view)?.1,
                };
                Ok(Attributes { ino, links: 1, ..attributes })
            }
        }
    }

    /// The directories that hold views: each rotation changes their times.
    #[must_use]
    pub fn directories_of_views(&self) -> Vec<u64> {
        let holds_views = |directory: &u64| self.renames_in(*directory).is_some();
        self.tree.directories().filter(holds_views).collect()
    }

    /// The first view in a directory.
    fn renames_in(&self, directory: u64) -> Option<u8> {
        let (_, mut names) = self.tree.list(directory)?;
        names.find_map(|(_, node)| match node {
            Node::Generation { view, .. } => Some(view),
            _ => None,
        })
    }

    /// When a rotation last renamed in a directory; the kernel asks again after each rename.
    fn renamed(&self, directory: u64) -> Option<Duration> {
        let view = self.renames_in(directory)?;
        Some(self.state.generation(self.place.current(view))?.published_at)
    }

    fn generation_attributes(&self, ino: u64, number: u64, view: u8) -> Result<Attributes, Errno> {
        let mode = self.config.access.view_mode;
        if number == 0 {
            // Never 0 bytes: `test -s` must not say for ever that there is nothing, since nothing
            // but an open fetches.
            let links = u32::from(self.place.current(view) == 0);
            return Ok(self.fixed(ino, 1, mode, links));
        }
        let generation = self.recent.get(&self.state, number).ok_or(Errno::EKEYEXPIRED)?;
        let size = self.render(view, &generation)?.as_bytes().len() as u64;
        // Without a name the kernel tells watchers that the file was deleted.
        let links = u32::from(self.place.current(view) == number);
        let modified = generation.published_at;
        Ok(Attributes { modified, ..self.fixed(ino, size, mode, links) })
    }

    fn fixed(&self, ino: u64, size: u64, mode: u16, links: u32) -> Attributes {
        let Access { uid, gid, .. } = self.config.access;
        let directory = matches!(self.tree.node(ino), Some(Node::Directory(_)));
        Attributes { ino, directory, size, mode, links, uid, gid, modified: self.started }
    }

    fn render(&self, view: u8, generation: &Generation) -> Result<Rendered, Errno> {
        let view = view::by_id(view).ok_or(Errno::ENOENT)?;
        Ok(view::render(view, &generation.published, &self.config.views))
    }
}

/// The part of `length` bytes that a read of `size` at `offset` gives.
fn range(length: usize, offset: u64, size: u32) -> Range<usize> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(length);
    let end = start.saturating_add(usize::try_from(size).unwrap_or(usize::MAX)).min(length);
    start..end
}
