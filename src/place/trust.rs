//! Whose directories, links and mounts may lead to tokens: root's, and those of the user who runs this
//! process. Anybody else who could change one of them could put a false token there.

use std::fmt;
use std::path::Path;

use nix::unistd::geteuid;
use rustix::fs::Stat;

use crate::connection::mount::MountError;
use crate::connection::mountinfo::MountEntry;

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
    /// The number of all who are not mapped into it, root among them: they cannot be told apart.
    unmapped: Option<u32>,
}

impl Trust {
    /// As this process has to judge.
    #[must_use]
    pub fn own() -> Self {
        let read = |path| std::fs::read_to_string(path).ok();
        let overflow = read("/proc/sys/kernel/overflowuid").and_then(|it| it.trim().parse().ok());
        let map = read("/proc/self/uid_map").unwrap_or_else(|| "0 0 4294967295".to_owned());
        Self::with(geteuid().as_raw(), &map, overflow.unwrap_or(OVERFLOW_UID))
    }

    /// With a map as in `user_namespaces(7)`: first number inside, first number outside, how many.
    pub(super) fn with(own: u32, map: &str, overflow: u32) -> Self {
        let outside = |uid: u32| {
            map.lines().find_map(|line| {
                let mut numbers = line.split_whitespace().map(str::parse::<u32>);
                let (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(count))) =
                    (numbers.next(), numbers.next(), numbers.next())
                else {
                    return None;
                };
                let at = uid.checked_sub(inside).filter(|at| *at < count)?;
                outside.checked_add(at)
            })
        };
        Self {
            own,
            outside: outside(own).unwrap_or(own),
            unmapped: outside(overflow).is_none().then_some(overflow),
        }
    }

    /// Whether the owner of a file, directory or link is trusted.
    #[must_use]
    pub fn covers(&self, owner: u32) -> bool {
        owner == 0 || owner == self.own || Some(owner) == self.unmapped
    }

    /// Whether the user who made a mount is trusted. The kernel tells that user as seen from where the
    /// mount was made, which is outside of a container that it was bound into.
    #[must_use]
    pub fn covers_mounter(&self, mounter: u32) -> bool {
        [0, self.own, self.outside].contains(&mounter)
    }

    /// Whether a directory may be on the way.
    pub(super) fn judge_directory(&self, path: &Path, stat: &Stat) -> Result<(), MountError> {
        let is_sticky = stat.st_mode & STICKY != 0;
        if !self.covers(stat.st_uid) {
            return Err(Flaw::Owner(stat.st_uid).of(path));
        }
        if stat.st_mode & WRITABLE_BY_OTHERS != 0 && !is_sticky {
            return Err(Flaw::Mode(stat.st_mode & 0o7777).of(path));
        }
        Ok(())
    }

    /// Whether a symbolic link may be followed. Its mode says nothing.
    pub(super) fn judge_link(&self, path: &Path, stat: &Stat) -> Result<(), MountError> {
        if self.covers(stat.st_uid) { Ok(()) } else { Err(Flaw::Link(stat.st_uid).of(path)) }
    }

    /// Whether a file system may be on the way: one in user space says of its files what it likes.
    pub(super) fn judge_mount(&self, path: &Path, mount: &MountEntry) -> Result<(), MountError> {
        match mount.mounter {
            Some(mounter) if !self.covers_mounter(mounter) => Err(Flaw::Mount(mounter).of(path)),
            _ => Ok(()),
        }
    }

    /// What is wrong with the file or directory that tokens are mounted on, kept in or read from.
    pub(super) fn flaw_of(&self, stat: &Stat) -> Option<Flaw> {
        if !self.covers(stat.st_uid) {
            return Some(Flaw::Owner(stat.st_uid));
        }
        let mode = stat.st_mode & 0o7777;
        (mode & WRITABLE_BY_OTHERS != 0).then_some(Flaw::Mode(mode))
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
    /// As the error about a path.
    pub(crate) fn of(self, path: &Path) -> MountError {
        MountError::Untrusted { path: path.to_owned(), flaw: self }
    }

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
    fn where_nobody_is_mapped_its_number_is_nobody() {
        // As in a rootless container: user 1 inside is user 100000 outside.
        let trust = Trust::with(1, "0 1000 1\n1 100000 65536\n", 65534);
        assert!(!trust.covers(65534));
        assert!(trust.covers_mounter(100_000) && !trust.covers_mounter(1000));
    }

    #[test]
    fn a_map_that_cannot_be_understood_maps_nobody() {
        let trust = Trust::with(7, "nonsense\n1 2\n", 65534);
        assert!(trust.covers(7) && trust.covers_mounter(7) && !trust.covers(8));
    }
}
