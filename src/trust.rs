//! Whose files count: root's, and those of the user who runs this process. Anybody else who could change
//! one of them could put something false there.

use std::fmt;
use std::fs::read_to_string;
use std::path::Path;

use nix::unistd::geteuid;

mod map;

pub use map::IdMap;

/// Write permission for the group and for others (`inode(7)`).
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// In a directory with this bit only the owners of an entry and of the directory may rename or remove it.
const STICKY: u32 = 0o1000;
/// The user that the kernel shows for one who is not mapped into a user namespace.
const OVERFLOW_UID: u32 = 65534;

/// Who is trusted, by number, as seen from this process's user namespace.
#[derive(Debug, Clone, Copy)]
pub struct Trust {
    own: u32,
    /// This process's user as seen from outside of its user namespace.
    outside: u32,
    /// The number of all who are not mapped into it, root among them: they cannot be told apart, and
    /// count as root. `None` where everybody is mapped.
    unmapped: Option<u32>,
    /// Whether that number is also a user's who is mapped.
    is_ambiguous: bool,
}

impl Trust {
    /// Root, and the user of this process.
    #[must_use]
    pub fn own() -> Self {
        Self::of(geteuid().as_raw())
    }

    /// Root alone.
    #[must_use]
    pub fn root() -> Self {
        Self::of(0)
    }

    fn of(user: u32) -> Self {
        let overflow = read_to_string("/proc/sys/kernel/overflowuid").ok();
        let overflow = overflow.and_then(|it| it.trim().parse().ok()).unwrap_or(OVERFLOW_UID);
        let map = read_to_string("/proc/self/uid_map");
        Self::with(user, map.as_deref().unwrap_or("0 0 4294967295"), overflow)
    }

    /// With a map as in `user_namespaces(7)`: first number inside, first number outside, how many.
    pub(crate) fn with(own: u32, map: &str, overflow: u32) -> Self {
        let map = IdMap::parse(map);
        Self {
            own,
            outside: map.outside(own).unwrap_or(own),
            unmapped: (!map.is_everybody()).then_some(overflow),
            is_ambiguous: !map.is_everybody() && map.outside(overflow).is_some(),
        }
    }

    /// Whether the owner of a file, directory or link is trusted.
    #[must_use]
    pub fn covers(&self, owner: u32) -> bool {
        owner == 0 || owner == self.own || Some(owner) == self.unmapped
    }

    /// Whether this owner can be a user who is mapped as well as one who is not.
    pub(crate) fn is_ambiguous(&self, owner: u32) -> bool {
        self.is_ambiguous && Some(owner) == self.unmapped
    }

    /// Whether the user who made a mount is trusted. The kernel tells that user as seen from where the
    /// mount was made, which is outside of a container that it was bound into.
    #[must_use]
    pub fn covers_mounter(&self, mounter: u32) -> bool {
        [0, self.own, self.outside].contains(&mounter)
    }

    /// What is wrong with a file or directory of this owner and mode (`inode(7)`): only those who are
    /// trusted may change it.
    #[must_use]
    pub fn flaw_of(&self, owner: u32, mode: u32) -> Option<Flaw> {
        if !self.covers(owner) {
            return Some(Flaw::Owner(owner));
        }
        (mode & WRITABLE_BY_OTHERS != 0).then_some(Flaw::Mode(mode & 0o7777))
    }

    /// The same of a directory that leads to something. Everybody may write to a sticky one: what is in
    /// it is its owner's.
    #[must_use]
    pub fn flaw_on_the_way(&self, owner: u32, mode: u32) -> Option<Flaw> {
        let is_sticky = mode & STICKY != 0;
        self.flaw_of(owner, if is_sticky { mode & !WRITABLE_BY_OTHERS } else { mode })
    }
}

/// Why something is not trusted. As the rest of a sentence about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// It belongs to this user.
    Owner(u32),
    /// Others than its owner may write to it; its mode.
    Mode(u32),
    /// It is a link of this user's.
    Link(u32),
    /// It is a file system that this user mounted.
    Mount(u32),
}

impl Flaw {
    /// The command that mends it, for root.
    #[must_use]
    pub fn remedy(&self, path: &Path) -> String {
        let path = path.display();
        match self {
            Self::Owner(_) => format!("chown root {path}"),
            Self::Mode(_) => format!("chmod go-w {path}"),
            Self::Link(_) => format!("chown -h root {path}"),
            Self::Mount(_) => format!("umount {path}"),
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner(user) => write!(f, "belongs to user {user}"),
            Self::Mode(mode) => write!(f, "can be written to by others (mode {mode:04o})"),
            Self::Link(user) => write!(f, "is a symbolic link of user {user}"),
            Self::Mount(user) => write!(f, "is a file system that user {user} mounted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "         0          0 4294967295\n";

    #[test]
    fn root_and_the_own_user_are_trusted_and_nobody_else() {
        let trust = Trust::with(1000, ALL, 65534);
        for (user, is_trusted) in [(0, true), (1000, true), (1001, false), (65534, false)] {
            assert_eq!(trust.covers(user), is_trusted, "{user}");
            assert_eq!(trust.covers_mounter(user), is_trusted, "{user}");
        }
    }

    #[test]
    fn users_that_are_not_mapped_may_be_root_and_count_as_root() {
        // As after `unshare -r` of user 1000.
        let trust = Trust::with(0, "0 1000 1\n", 65534);
        assert!(trust.covers(0) && trust.covers(65534) && !trust.covers(1000));
        // A mount of that user's from outside; and of nobody's, who would be shown by number.
        assert!(trust.covers_mounter(1000) && !trust.covers_mounter(65534));
    }

    #[test]
    fn where_nobody_is_mapped_its_number_may_be_nobodys_or_roots() {
        // As in a rootless container: user 1 inside is user 100000 outside.
        let trust = Trust::with(1, "0 1000 1\n1 100000 65536\n", 65534);
        assert!(trust.covers(65534) && trust.is_ambiguous(65534) && !trust.is_ambiguous(1));
        assert!(trust.covers_mounter(100_000) && !trust.covers_mounter(1000));
        for map in [ALL, "0 1000 1\n"] {
            assert!(!Trust::with(0, map, 65534).is_ambiguous(65534), "{map}");
        }
    }

    #[test]
    fn only_a_sticky_directory_may_be_open_to_others_and_only_on_the_way() {
        let trust = Trust::with(1000, ALL, 65534);
        assert_eq!(trust.flaw_of(1000, 0o100_755), None);
        assert_eq!(trust.flaw_of(0, 0o041_777), Some(Flaw::Mode(0o1777)));
        assert_eq!(trust.flaw_on_the_way(0, 0o041_777), None);
        assert_eq!(trust.flaw_on_the_way(0, 0o040_775), Some(Flaw::Mode(0o775)));
        assert_eq!(trust.flaw_on_the_way(7, 0o041_777), Some(Flaw::Owner(7)));
    }

    #[test]
    fn a_map_that_cannot_be_understood_maps_nobody() {
        let trust = Trust::with(7, "nonsense\n1 2\n", 65534);
        assert!(trust.covers(7) && trust.covers_mounter(7) && !trust.covers(8));
    }
}
