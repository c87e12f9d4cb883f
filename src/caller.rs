//! Who makes a request.
//!
//! The kernel tells the user and the group with each request, unless the connection allows binds of the
//! mount to be id-mapped (`FUSE_ALLOW_IDMAP`, Linux 6.12): then it leaves them out, and `/proc` tells them.
//! What it says of a thread is about the caller and nobody else while the request is in hand: until it is
//! answered the thread can neither leave the system call nor die, and its process cannot execute anything.
//!
//! Looking there costs about as much as an open, so it is done only where the answer makes a difference.

use rustix::fs::{CWD, readlinkat_raw};
use rustix::process::getpid;

/// The thread that makes a request, as seen from the namespaces of the one who mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Where the kernel tells them.
    ids: Option<Ids>,
    /// Its thread id; 0 when it lives outside our pid namespace.
    pub thread: u32,
}

/// The user and the group that count for files (`credentials(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Caller {
    /// In the place of a number that the kernel leaves out (`FUSE_INVALID_UIDGID`).
    const LEFT_OUT: u32 = u32::MAX;

    /// The caller that a request names.
    #[must_use]
    pub const fn new(uid: u32, gid: u32, thread: u32) -> Self {
        let are_told = uid != Self::LEFT_OUT && gid != Self::LEFT_OUT;
        let ids = if are_told { Some(Ids { uid, gid }) } else { None };
        Self { ids, thread }
    }

    /// Somebody of whom nothing but the user is known.
    #[must_use]
    pub const fn of_user(uid: u32) -> Self {
        Self { ids: Some(Ids { uid, gid: uid }), thread: 0 }
    }

    /// User and group as a request names them.
    #[must_use]
    pub fn numbers(&self) -> (u32, u32) {
        self.ids.map_or((Self::LEFT_OUT, Self::LEFT_OUT), |ids| (ids.uid, ids.gid))
    }

    /// The user and the group. `None` where nobody tells: who cannot be told from others may nothing that
    /// not everybody may.
    #[must_use]
    pub fn ids(&self) -> Option<Ids> {
        self.ids.or_else(|| ids_in(&status(self.thread)?))
    }

    /// The user.
    #[must_use]
    pub fn uid(&self) -> Option<u32> {
        self.ids().map(|ids| ids.uid)
    }

    /// Whether it has this group among its others.
    #[must_use]
    pub fn has_group(&self, group: u32) -> bool {
        status(self.thread).is_some_and(|status| has_group_in(&status, group))
    }
}

/// What is known of a thread (`proc_pid_status(5)`). Nothing of one outside our pid namespace, or where
/// `/proc` is hidden from us, or belongs to another pid namespace, in which the number is somebody else's.
fn status(thread: u32) -> Option<String> {
    let mut own = [0; 16];
    let length = readlinkat_raw(CWD, "/proc/self", &mut own).ok()?;
    if own.get(..length)? != getpid().as_raw_nonzero().to_string().as_bytes() {
        return None;
    }
    let status = std::fs::read(format!("/proc/{thread}/status")).ok()?;
    // A program may have any bytes for a name.
    Some(String::from_utf8_lossy(&status).into_owned())
}

/// The numbers of a line of a process's or thread's status (`proc_pid_status(5)`); none where there is no
/// such line.
pub fn numbers<'a>(status: &'a str, name: &str) -> impl Iterator<Item = u32> + use<'a> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().split_whitespace().map_while(|number| number.parse().ok())
}

/// The last of four is the one for files; nearly always all are the same.
fn ids_in(status: &str) -> Option<Ids> {
    Some(Ids { uid: numbers(status, "Uid").nth(3)?, gid: numbers(status, "Gid").nth(3)? })
}

fn has_group_in(status: &str, group: u32) -> bool {
    numbers(status, "Groups").any(|it| it == group)
}

#[cfg(test)]
mod tests {
    use nix::unistd::{gettid, setfsuid};

    use super::*;

    #[test]
    fn the_numbers_for_files_count() {
        let status = "Name:\tUid:\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t64\n";
        assert_eq!(ids_in(status), Some(Ids { uid: 4, gid: 8 }));
        for cut in ["", "Uid:\t1\t2\t3\nGid:\t5\t6\t7\t8\n", "Uid:\t1\t2\t3\t4\n"] {
            assert_eq!(ids_in(cut), None, "{cut}");
        }
    }

    #[test]
    fn other_groups_count_and_parts_of_numbers_do_not() {
        let status = "Name:\tx\nGid:\t7\t7\t7\t7\nGroups:\t20 2000 \nNStgid:\t1\n";
        assert!(has_group_in(status, 2000) && has_group_in(status, 20));
        assert!(!has_group_in(status, 200) && !has_group_in(status, 7));
        assert!(!has_group_in("Groups:\n", 0) && !has_group_in("", 0));
    }

    #[test]
    fn what_the_kernel_tells_counts_and_what_it_leaves_out_is_looked_up() {
        let told = Caller::new(1000, 100, 0);
        assert_eq!(told.ids(), Some(Ids { uid: 1000, gid: 100 }));
        assert_eq!(told.numbers(), (1000, 100));
        // On a thread of its own: this is a user of the thread's alone.
        let looked_up = std::thread::spawn(|| {
            setfsuid(4242.into());
            let thread = u32::try_from(gettid().as_raw()).unwrap();
            Caller::new(u32::MAX, u32::MAX, thread).uid()
        });
        assert_eq!(looked_up.join().unwrap(), Some(4242));
    }

    #[test]
    fn nobody_is_taken_for_somebody() {
        for nobody in [0, u32::MAX - 1] {
            let caller = Caller::new(u32::MAX, u32::MAX, nobody);
            assert_eq!((caller.ids(), caller.numbers()), (None, (u32::MAX, u32::MAX)));
            assert!(!caller.has_group(0));
        }
    }
}
