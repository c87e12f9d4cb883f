//! Tokens on demand: `repos/OWNER/REPO/` and `orgs/OWNER/`, directories that are there for every name
//! that is possible. Looking a name up costs nothing and asks nobody; the first open in it makes the
//! token.
//!
//! An inode number is made from the name, so that it means the same to every worker. What it means to
//! this one is in a table of bounded size: an inode that is not in it (any more) is answered ESTALE,
//! upon which the kernel looks the path up again by itself. Views are as those of `live`: one inode
//! each, and each open is bound to the newest token. So there is nothing to rename. What outlives a worker
//! is the state of each token; from these the next worker makes its table.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use nix::errno::Errno;

use super::access::Access;
use super::journal::Call;
use super::node::ROOT;
use super::pages::{OnDemand, Other};
use super::{Attributes, Entry, FOR_EVER, Fs, Open, Request};
use crate::source::Scope;
use crate::status::Identity;

/// Set in every inode number of this module.
const MARK: u64 = 1 << 63;
/// The part of an inode number that a place gives to its own files and directories.
const LOCAL_BITS: u32 = 12;
const LOCAL: u64 = (1 << LOCAL_BITS) - 1;
/// `repos` and `orgs`, among the fixed numbers of the root (`node`).
const REPOS: u64 = 0x500;
const ORGS: u64 = 0x501;

/// The directory of a token in the mount, which is its name for people: `repos/acme/web`, `orgs/acme`.
#[must_use]
pub fn place(scope: &Scope) -> String {
    let directory = if scope.repository.is_some() { "repos" } else { "orgs" };
    format!("{directory}/{scope}")
}

/// The token whose directory this is.
#[must_use]
pub fn at_place(place: &str) -> Option<Scope> {
    let (directory, name) = place.split_once('/')?;
    match (directory, name.split_once('/')) {
        ("repos", Some((owner, repository))) => Scope::of_repository(owner, repository),
        ("orgs", None) => Scope::of_owner(name),
        _ => None,
    }
}

/// How many names are known at a time.
const NAMES: usize = 4096;
/// How many tokens are kept at a time; the least lately opened goes first, one that is open last.
pub const TOKENS: usize = 256;
/// A token that nobody opened for this long is forgotten.
const IDLE: Duration = Duration::from_hours(2);

/// A token that was made, and what ends with it.
pub struct Made {
    /// Its file system.
    pub fs: Arc<Fs>,
    /// Called when it is forgotten.
    pub end: Box<dyn FnOnce() + Send>,
}

/// Which names have tokens, and how they are made.
pub trait Maker: Send + Sync {
    /// Whether some source can give a token of this scope. Asks nobody.
    fn serves(&self, scope: &Scope) -> bool;

    /// Makes it, which asks nobody either.
    ///
    /// # Errors
    /// What the system says.
    fn make(&self, scope: &Scope) -> std::io::Result<Made>;

    /// Those that an earlier worker kept, as far as they are still served.
    fn kept(&self) -> Vec<(Scope, Made)>;
}

/// What a name leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    /// `repos/OWNER`
    Owner(String),
    /// `repos/OWNER/REPO` or `orgs/OWNER`
    Place(Scope),
}

impl Name {
    /// The part of its inode numbers above [`LOCAL_BITS`].
    fn prefix(&self) -> u64 {
        let (kind, owner, repository) = match self {
            Self::Owner(owner) => ("owner", owner, ""),
            Self::Place(Scope { owner, repository }) => match repository {
                Some(repository) => ("repository", owner, &**repository),
                None => ("organisation", owner, ""),
            },
        };
        let name = format!("{kind}/{owner}/{repository}");
        let digest = digest(&SHA256, name.as_bytes());
        let first =
            digest.as_ref().iter().take(8).fold(0, |word, byte| word << 8 | u64::from(*byte));
        MARK | (first << LOCAL_BITS) & !MARK
    }
}

struct Known {
    name: Name,
    made: Option<Made>,
    /// Files that are open.
    opens: u64,
    /// When it was last looked up or opened (boot clock), and in which order.
    used_at: Duration,
    used: u64,
    /// When a view of it was last opened, in the same order.
    opened: u64,
}

impl Known {
    /// Keeps for the next worker how it is used.
    fn keep_uses(&self) {
        if let Some(made) = &self.made {
            made.fs.state().set_uses(self.opens, self.used_at);
        }
    }
}

#[derive(Default)]
struct Table {
    known: HashMap<u64, Known>,
    uses: u64,
}

/// See the module.
pub struct Demand {
    /// Answers for a place whose token nobody has opened yet.
    template: Arc<Fs>,
    maker: Box<dyn Maker>,
    table: Mutex<Table>,
}

/// Something in a place.
pub(super) struct Inside {
    /// The file system that answers for the place.
    pub(super) fs: Arc<Fs>,
    /// What inode numbers of the place begin with.
    pub(super) prefix: u64,
    /// The number by which the file system knows it.
    pub(super) ino: u64,
}

impl Demand {
    /// Tokens of this maker. `template` is a file system that shows a directory of live views and has no
    /// token.
    #[must_use]
    pub fn new(template: Arc<Fs>, maker: Box<dyn Maker>) -> Self {
        Self { template, maker, table: Mutex::default() }
    }

    /// Takes what an earlier worker kept.
    pub(super) fn take_over(&self) {
        let mut table = self.table();
        let mut kept = self.maker.kept();
        kept.sort_by_key(|(_, made)| made.fs.state().uses().1);
        for (scope, made) in kept {
            table.uses += 1;
            let (opens, used_at) = made.fs.state().uses();
            let name = Name::Place(scope);
            let prefix = name.prefix();
            let used = table.uses;
            let known = Known { name, made: Some(made), opens, used_at, used, opened: used };
            table.known.insert(prefix, known);
        }
    }

    /// The names that it has at the root.
    pub(super) const AT_ROOT: [(&'static str, u64); 2] = [("orgs", ORGS), ("repos", REPOS)];

    /// Whether an inode is one of this module's.
    pub(super) fn owns(ino: u64) -> bool {
        ino & MARK != 0 || ino == REPOS || ino == ORGS
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an inode is: something in a place, or else a directory of names.
    ///
    /// # Errors
    /// ESTALE where it is not known (any more).
    pub(super) fn at(&self, ino: u64) -> Result<Option<Inside>, Errno> {
        if ino == REPOS || ino == ORGS {
            return Ok(None);
        }
        let table = self.table();
        let (prefix, ino) = (ino & !LOCAL, ino & LOCAL);
        let known = table.known.get(&prefix).ok_or(Errno::ESTALE)?;
        if let Name::Owner(_) = known.name {
            return Ok(None);
        }
        let fs = known.made.as_ref().map_or(&self.template, |made| &made.fs);
        Ok(Some(Inside { fs: Arc::clone(fs), prefix, ino }))
    }

    /// The attributes of a directory of names.
    pub(super) fn directory(&self, request: &Request, ino: u64) -> Result<Attributes, Errno> {
        let (attributes, _) = self.template.getattr(request, ROOT, None)?;
        let mode = Access::DIRECTORY_MODE;
        Ok(Attributes { ino, mode, links: 2, ..attributes })
    }

    /// Finds a name in a directory of names.
    pub(super) fn lookup(
        &self,
        request: &Request,
        parent: u64,
        name: &OsStr,
    ) -> Result<Entry, Errno> {
        let text = name.to_str().ok_or(Errno::ENOENT)?;
        let name = self.named(parent, text)?;
        let prefix = name.prefix();
        if !self.note(prefix, &name) {
            // Another name with the same number, which nobody finds by accident.
            return Err(Errno::ENOENT);
        }
        let attributes = self.directory(request, prefix | ROOT)?;
        Ok(Entry { attributes, attributes_ttl: FOR_EVER, name_ttl: FOR_EVER })
    }

    /// What a name in a directory is, if it is possible and some source can give a token for it. Upper and
    /// lower case lead to one token, and so does a trailing `.git`.
    fn named(&self, parent: u64, text: &str) -> Result<Name, Errno> {
        let text = text.to_ascii_lowercase();
        let name = match parent {
            REPOS => Scope::is_owner(&text).then_some(Name::Owner(text)),
            ORGS => Scope::of_owner(&text).map(Name::Place),
            _ => {
                let table = self.table();
                let known = table.known.get(&(parent & !LOCAL)).ok_or(Errno::ESTALE)?;
                let Name::Owner(owner) = &known.name else { return Err(Errno::ENOTDIR) };
                Scope::of_repository(owner, &text).map(Name::Place)
            }
        };
        let name = name.ok_or(Errno::ENOENT)?;
        let is_served = match &name {
            Name::Owner(owner) => {
                self.maker.serves(&Scope { owner: owner.clone(), repository: None })
            }
            Name::Place(scope) => self.maker.serves(scope),
        };
        if is_served { Ok(name) } else { Err(Errno::ENOENT) }
    }

    /// Enters a name in the table, and forgets the least lately used one where there is no room. Whether
    /// its number is its own.
    fn note(&self, prefix: u64, name: &Name) -> bool {
        let now = self.template.now();
        let mut table = self.table();
        table.uses += 1;
        let used = table.uses;
        if let Some(known) = table.known.get_mut(&prefix) {
            (known.used, known.used_at) = (used, now);
            return known.name == *name;
        }
        if table.known.len() >= NAMES {
            let without_token = table.known.iter().filter(|(_, known)| known.made.is_none());
            let oldest =
                without_token.min_by_key(|(_, known)| known.used).map(|(prefix, _)| *prefix);
            oldest.and_then(|oldest| table.known.remove(&oldest));
        }
        let name = name.clone();
        let known = Known { name, made: None, opens: 0, used_at: now, used, opened: 0 };
        table.known.insert(prefix, known);
        true
    }

    /// The names in a directory of names: those whose tokens were opened lately. And the directory above.
    pub(super) fn list(&self, ino: u64) -> Result<(u64, Vec<(u64, String)>), Errno> {
        let table = self.table();
        let made = || table.known.iter().filter(|(_, known)| known.made.is_some());
        let scopes = made().filter_map(|(prefix, known)| match &known.name {
            Name::Place(scope) => Some((*prefix, scope)),
            Name::Owner(_) => None,
        });
        let (above, mut names): (_, Vec<_>) = match ino {
            ORGS => (
                ROOT,
                scopes
                    .filter(|(_, scope)| scope.repository.is_none())
                    .map(|(prefix, scope)| (prefix | ROOT, scope.owner.clone()))
                    .collect(),
            ),
            REPOS => {
                let owners = scopes.filter(|(_, scope)| scope.repository.is_some());
                let number = |owner: &String| Name::Owner(owner.clone()).prefix() | ROOT;
                (
                    ROOT,
                    owners.map(|(_, scope)| (number(&scope.owner), scope.owner.clone())).collect(),
                )
            }
            _ => {
                let known = table.known.get(&(ino & !LOCAL)).ok_or(Errno::ESTALE)?;
                let Name::Owner(owner) = &known.name else { return Err(Errno::ENOTDIR) };
                let its = scopes.filter(|(_, scope)| scope.owner == *owner);
                let named = its.filter_map(|(prefix, scope)| {
                    scope.repository.clone().map(|repository| (prefix | ROOT, repository))
                });
                (REPOS, named.collect())
            }
        };
        names.sort();
        names.dedup();
        Ok((above, names))
    }

    /// Opens a file of a place, for which its token is made where that has not happened yet.
    pub(super) fn open(self: &Arc<Self>, request: &Request, call: &Call, writing: bool) -> Open {
        let (prefix, ino) = (call.ino & !LOCAL, call.ino & LOCAL);
        let fs = match self.made(prefix, self.template.is_page(ino)) {
            Ok(fs) => fs,
            Err(errno) => return Open::Now(Err(errno)),
        };
        match fs.open(request, call, ino, writing) {
            Open::Now(Err(errno)) => {
                self.release(prefix);
                Open::Now(Err(errno))
            }
            Open::Now(opened) => Open::Now(opened),
            Open::Wait(opened) => {
                let demand = Arc::clone(self);
                Open::Wait(Box::pin(async move {
                    let opened = opened.await;
                    if opened.is_err() {
                        demand.release(prefix);
                    }
                    opened
                }))
            }
        }
    }

    /// The file system of a place, with an open more; whether somebody only looks how it stands.
    fn made(&self, prefix: u64, looks: bool) -> Result<Arc<Fs>, Errno> {
        let now = self.template.now();
        let mut table = self.table();
        let known = table.known.get(&prefix).ok_or(Errno::ESTALE)?;
        let Name::Place(scope) = known.name.clone() else { return Err(Errno::EISDIR) };
        if known.made.is_none() {
            table.make_room(now);
            let made = self.maker.make(&scope).map_err(|error| {
                tracing::warn!("cannot make the token of {scope}: {error}");
                Errno::EIO
            })?;
            if let Some(known) = table.known.get_mut(&prefix) {
                known.made = Some(made);
            }
        }
        table.uses += 1;
        let used = table.uses;
        let known = table.known.get_mut(&prefix).ok_or(Errno::ESTALE)?;
        if !looks {
            (known.used, known.used_at, known.opened) = (used, now, used);
        }
        known.opens += 1;
        known.keep_uses();
        known.made.as_ref().map(|made| Arc::clone(&made.fs)).ok_or(Errno::EIO)
    }

    /// The tokens that are kept.
    pub(super) fn kept(&self) -> Vec<Arc<Fs>> {
        let table = self.table();
        let made = table.known.values().filter_map(|known| known.made.as_ref());
        made.map(|made| Arc::clone(&made.fs)).collect()
    }

    /// A file of a place was closed, or not opened after all.
    pub(super) fn release(&self, ino: u64) {
        if let Some(known) = self.table().known.get_mut(&(ino & !LOCAL)) {
            known.opens = known.opens.saturating_sub(1);
            known.keep_uses();
        }
    }
}

impl OnDemand for Demand {
    fn count(&self) -> usize {
        self.table().known.values().filter(|known| known.made.is_some()).count()
    }

    fn shown(&self) -> Vec<Other> {
        let table = self.table();
        let kept = table.known.values().filter_map(|known| match (&known.name, &known.made) {
            (Name::Place(scope), Some(made)) => {
                Some((known.opened, place(scope), Arc::clone(&made.fs)))
            }
            _ => None,
        });
        let mut kept: Vec<_> = kept.collect();
        // Whoever opens one needs the table.
        drop(table);
        kept.sort_unstable_by_key(|(opened, ..)| Reverse(*opened));
        let shown = kept.into_iter().map(|(_, name, fs)| {
            let (identity, token, counters) = fs.told();
            (Identity { name, ..identity }, token, counters)
        });
        shown.collect()
    }
}

impl Table {
    /// Forgets tokens that are idle, and one more where there is no room for another.
    fn make_room(&mut self, now: Duration) {
        let made = |known: &Known| known.made.is_some();
        let idle: Vec<u64> = self
            .known
            .iter()
            .filter(|(_, known)| {
                made(known) && known.opens == 0 && now.saturating_sub(known.used_at) > IDLE
            })
            .map(|(prefix, _)| *prefix)
            .collect();
        for prefix in idle {
            self.forget(prefix);
        }
        if self.known.values().filter(|known| made(known)).count() >= TOKENS {
            let kept = self.known.iter().filter(|(_, known)| made(known));
            let oldest = kept.min_by_key(|(_, known)| (known.opens > 0, known.used));
            if let Some(prefix) = oldest.map(|(prefix, _)| *prefix) {
                self.forget(prefix);
            }
        }
    }

    fn forget(&mut self, prefix: u64) {
        if let Some(made) = self.known.get_mut(&prefix).and_then(|known| known.made.take()) {
            made.fs.state().forget();
            (made.end)();
        }
    }
}
