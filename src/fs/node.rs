//! The tree: which inode number is what, and which name leads where.
//!
//! Numbers are computed, never handed out, so that no table has to outlive anything.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use crate::status::Layout;
use crate::view;

/// What is at the root of a mount, and so what the whole tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Root {
    /// The directory of all views.
    Directory,
    /// One live view, by its number: the mountpoint is a file.
    View(u8),
    /// A directory of live views, in a mount that has other directories.
    Live,
    /// A directory of doors, and nothing else.
    Doors,
}

impl Root {
    /// The layout, as people call it.
    #[must_use]
    pub fn layout(self) -> Layout {
        match self {
            Self::Directory | Self::Live | Self::Doors => Layout::Directory,
            Self::View(_) => Layout::File,
        }
    }

    /// The path of the one view that is shown.
    #[must_use]
    pub fn view(self) -> Option<&'static str> {
        match self {
            Self::Directory | Self::Live | Self::Doors => None,
            Self::View(view) => view::by_id(view).map(view::View::path),
        }
    }

    /// The numbers of the views that are shown, in the order in which a rotation changes them.
    #[must_use]
    pub fn views(self) -> Vec<u8> {
        match self {
            Self::Directory | Self::Live => view::ALL.iter().map(|view| view.id()).collect(),
            Self::View(view) => vec![view],
            Self::Doors => Vec::new(),
        }
    }
}

/// A kind of page that shows how things stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// `status.json`
    Status,
    /// `metrics.prom`
    Metrics,
}

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// A directory; the number is its own.
    Directory(u64),
    /// A view of one generation, whose bytes never change. Generation 0 stands for "none yet".
    Generation {
        /// The generation.
        generation: u64,
        /// The view.
        view: u8,
    },
    /// A view that is fresh at each open, for those who pin an inode.
    Live {
        /// The view.
        view: u8,
    },
    /// `refresh`
    Control,
    /// A status page.
    Page(Page),
}

/// Inode numbers below this one are fixed; above it they are made from generation and view.
const FIXED_BITS: u32 = 12;
const FIXED: u64 = 1 << FIXED_BITS;
/// The root (`FUSE_ROOT_ID`).
pub const ROOT: u64 = 1;
const LIVE: u64 = 2;
const CONTROL: u64 = 3;
/// That of version 0.1, whose size was another: the kernel keeps a size for ever, also through an upgrade.
const STATUS_OF_0_1: u64 = 4;
const METRICS: u64 = 5;
const STATUS: u64 = 6;
const EMPTY_VIEWS: u64 = 0x100;
const LIVE_VIEWS: u64 = 0x200;
/// A directory of views is numbered after the first view in it.
const DIRECTORIES: u64 = 0x300;
const LIVE_DIRECTORIES: u64 = 0x400;

impl Node {
    /// The inode number.
    #[must_use]
    pub fn ino(self) -> u64 {
        match self {
            Self::Directory(ino) => ino,
            Self::Generation { generation: 0, view } => EMPTY_VIEWS + u64::from(view),
            Self::Generation { generation, view } => generation << FIXED_BITS | u64::from(view),
            Self::Live { view } => LIVE_VIEWS + u64::from(view),
            Self::Control => CONTROL,
            Self::Page(Page::Status) => STATUS,
            Self::Page(Page::Metrics) => METRICS,
        }
    }
}

/// A directory's entries by name. A view's node stands for "its current generation".
type Names = BTreeMap<&'static str, Node>;

/// Names and numbers of a layout.
#[derive(Debug)]
pub struct Tree {
    root: Root,
    directories: BTreeMap<u64, (u64, Names)>,
}

impl Tree {
    /// The tree of a layout: one for all of those of which there may be many.
    #[must_use]
    pub fn of(root: Root) -> Arc<Self> {
        static LIVE: LazyLock<Arc<Tree>> = LazyLock::new(|| Arc::new(Tree::new(Root::Live)));
        static ALL: LazyLock<Arc<Tree>> = LazyLock::new(|| Arc::new(Tree::new(Root::Directory)));
        match root {
            Root::Live => Arc::clone(&LIVE),
            Root::Directory => Arc::clone(&ALL),
            Root::View(_) | Root::Doors => Arc::new(Self::new(root)),
        }
    }

    /// A directory has the views, `live/` with all of them again, and the pages. A file has no names
    /// beside it, so no node but the root.
    #[must_use]
    pub fn new(root: Root) -> Self {
        let mut tree = Self { root, directories: BTreeMap::new() };
        if let Root::View(_) = root {
            return tree;
        }
        tree.directories.insert(ROOT, (ROOT, Names::new()));
        if root == Root::Doors {
            return tree;
        }
        if root == Root::Live {
            tree.add(ROOT, "refresh", Node::Control);
            tree.add(ROOT, "status.json", Node::Page(Page::Status));
            for view in view::ALL {
                let node = Node::Live { view: view.id() };
                tree.add_view(ROOT, LIVE_DIRECTORIES, view.path(), node);
            }
            return tree;
        }
        tree.add(ROOT, "live", Node::Directory(LIVE));
        tree.add(ROOT, "refresh", Node::Control);
        tree.add(ROOT, "status.json", Node::Page(Page::Status));
        tree.add(ROOT, "metrics.prom", Node::Page(Page::Metrics));
        for view in view::ALL {
            let id = view.id();
            tree.add_view(
                ROOT,
                DIRECTORIES,
                view.path(),
                Node::Generation { generation: 0, view: id },
            );
            tree.add_view(LIVE, LIVE_DIRECTORIES, view.path(), Node::Live { view: id });
        }
        tree
    }

    fn add(&mut self, parent: u64, name: &'static str, node: Node) {
        if let Some((_, names)) = self.directories.get_mut(&parent) {
            names.insert(name, node);
        }
        if let Node::Directory(ino) = node {
            self.directories.entry(ino).or_insert_with(|| (parent, Names::new()));
        }
    }

    fn add_view(&mut self, parent: u64, directories: u64, path: &'static str, node: Node) {
        let Some((directory, name)) = path.split_once('/') else {
            return self.add(parent, path, node);
        };
        let view = match node {
            Node::Generation { view, .. } | Node::Live { view } => view,
            Node::Directory(_) | Node::Control | Node::Page(_) => return,
        };
        let directory = if let Some(Node::Directory(ino)) = self.lookup(parent, directory) {
            ino
        } else {
            let ino = directories + u64::from(view);
            self.add(parent, directory, Node::Directory(ino));
            ino
        };
        self.add(directory, name, node);
    }

    /// What a name leads to.
    #[must_use]
    pub fn lookup(&self, parent: u64, name: &str) -> Option<Node> {
        self.directories.get(&parent)?.1.get(name).copied()
    }

    /// The entries of a directory, after `.` and `..`; and the number of the directory above.
    #[must_use]
    pub fn list(
        &self,
        directory: u64,
    ) -> Option<(u64, impl Iterator<Item = (&'static str, Node)>)> {
        let (parent, names) = self.directories.get(&directory)?;
        Some((*parent, names.iter().map(|(name, node)| (*name, *node))))
    }

    /// The numbers of all directories.
    pub fn directories(&self) -> impl Iterator<Item = u64> {
        self.directories.keys().copied()
    }

    /// How many directories lie in a directory; `stat` counts them in `nlink`.
    #[must_use]
    pub fn subdirectories(&self, directory: u64) -> u32 {
        let count = self.directories.get(&directory).map_or(0, |(_, names)| {
            names.values().filter(|node| matches!(node, Node::Directory(_))).count()
        });
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// What an inode number is.
    #[must_use]
    pub fn node(&self, ino: u64) -> Option<Node> {
        if let Root::View(view) = self.root {
            return (ino == ROOT).then_some(Node::Live { view });
        }
        let known_view =
            |number: u64| u8::try_from(number).ok().filter(|id| view::by_id(*id).is_some());
        if ino >= FIXED {
            let view = known_view(ino % FIXED)?;
            return Some(Node::Generation { generation: ino >> FIXED_BITS, view });
        }
        match ino {
            CONTROL => Some(Node::Control),
            STATUS | STATUS_OF_0_1 => Some(Node::Page(Page::Status)),
            METRICS => Some(Node::Page(Page::Metrics)),
            _ if self.directories.contains_key(&ino) => Some(Node::Directory(ino)),
            _ if ino & !0xff == EMPTY_VIEWS => {
                known_view(ino - EMPTY_VIEWS).map(|view| Node::Generation { generation: 0, view })
            }
            _ if ino & !0xff == LIVE_VIEWS => {
                known_view(ino - LIVE_VIEWS).map(|view| Node::Live { view })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_to_a_number_that_leads_back() {
        let tree = Tree::new(Root::Directory);
        let mut seen = std::collections::HashSet::new();
        for directory in tree.directories.keys() {
            let (_, names) = tree.list(*directory).unwrap();
            for (name, node) in names {
                assert_eq!(tree.lookup(*directory, name), Some(node));
                assert_eq!(tree.node(node.ino()), Some(node), "{name}");
                assert!(seen.insert(node.ino()), "{name} shares its number");
            }
        }
        assert!(seen.len() >= 2 * view::ALL.len() + 4);
    }

    #[test]
    fn generations_have_numbers_of_their_own() {
        let tree = Tree::new(Root::Directory);
        let first = Node::Generation { generation: 1, view: 0 };
        let second = Node::Generation { generation: 2, view: 0 };
        assert_ne!(first.ino(), second.ino());
        assert_eq!(tree.node(second.ino()), Some(second));
        assert_eq!(tree.node(second.ino() + 255), None, "no such view");
        assert_eq!(tree.node(99), None);
    }

    #[test]
    fn a_mounted_file_is_one_live_view_and_nothing_else() {
        let (first, other) = (view::ALL[0].id(), view::ALL[1].id());
        let tree = Tree::new(Root::View(other));
        assert_eq!(tree.node(ROOT), Some(Node::Live { view: other }));
        assert!(tree.list(ROOT).is_none(), "not a directory");
        for name in ["token", "live", "refresh", "status.json"] {
            assert_eq!(tree.lookup(ROOT, name), None, "{name}");
        }
        let generation = Node::Generation { generation: 7, view: other };
        for node in
            [Node::Control, Node::Page(Page::Status), Node::Live { view: first }, generation]
        {
            assert_eq!(tree.node(node.ino()), None, "{node:?}");
        }
        assert_eq!(Root::View(other).views(), [other]);
        assert_eq!(Root::View(other).view(), Some(view::ALL[1].path()));
    }

    #[test]
    fn view_numbers_and_paths_are_unique() {
        let ids: std::collections::HashSet<_> = view::ALL.iter().map(|view| view.id()).collect();
        let paths: std::collections::HashSet<_> =
            view::ALL.iter().map(|view| view.path()).collect();
        assert_eq!((ids.len(), paths.len()), (view::ALL.len(), view::ALL.len()));
    }
}
