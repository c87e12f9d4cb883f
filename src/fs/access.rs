//! Who asks, and what belongs to whom.

use serde::{Deserialize, Serialize};

/// The thread that makes a request, as seen from the namespaces of the one who mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Its filesystem user id.
    pub uid: u32,
    /// Its filesystem group id.
    pub gid: u32,
    /// Its thread id; 0 when it lives outside our pid namespace.
    pub thread: u32,
}

/// Owner and mode of everything in the mount. The kernel enforces them (`default_permissions`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// The owner of every file and directory.
    pub uid: u32,
    /// The group of every file and directory.
    pub gid: u32,
    /// The permission bits of the views, for example `0o400`.
    pub view_mode: u16,
    /// The permission bits of `refresh`, for example `0o600`. Whoever may write to it may have any
    /// token withheld for a moment.
    pub refresh_mode: u16,
}

impl Access {
    /// Directories: whoever knows a name may pass, only the owner may list. Whoever may list a
    /// directory can stall it for everybody.
    pub const DIRECTORY_MODE: u16 = 0o711;
    /// Status and metrics hold no secret.
    pub const STATUS_MODE: u16 = 0o444;

    /// Whether nobody but this user may read a view (root aside).
    #[must_use]
    pub fn is_for_nobody_but(&self, uid: u32) -> bool {
        self.uid == uid && self.view_mode & !0o700 == 0
    }

    /// Whether a caller may ask for a refresh, where the kernel does not judge by the mode of a file.
    #[must_use]
    pub fn may_refresh(&self, caller: &Caller) -> bool {
        self.allows(caller, self.refresh_mode << 1)
    }

    /// Whether a caller may know what exactly fails: whoever may read a token.
    #[must_use]
    pub fn may_know(&self, caller: &Caller) -> bool {
        self.allows(caller, self.view_mode)
    }

    /// Judges as the kernel does by the bits for reading of a mode: root may, and of the owner, the
    /// group and others the first that the caller is counts (`path_resolution(7)`).
    fn allows(&self, caller: &Caller, mode: u16) -> bool {
        let is_member = || caller.gid == self.gid || has_group(caller.thread, self.gid);
        match mode & 0o444 {
            _ if caller.uid == 0 => true,
            mode if caller.uid == self.uid => mode & 0o400 != 0,
            mode if mode & 0o044 == 0 => false,
            0o444 => true,
            mode if is_member() => mode & 0o040 != 0,
            mode => mode & 0o004 != 0,
        }
    }
}

/// Whether a thread has this group among its others (`proc_pid_status(5)`); those of a caller outside
/// our pid namespace are not known.
fn has_group(thread: u32, group: u32) -> bool {
    let status = std::fs::read(format!("/proc/{thread}/status")).unwrap_or_default();
    // A program may have any bytes for a name.
    has_group_in(&String::from_utf8_lossy(&status), group)
}

fn has_group_in(status: &str, group: u32) -> bool {
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    groups.is_some_and(|groups| groups.split_whitespace().any(|it| it.parse() == Ok(group)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_read_a_token_may_know_what_fails_and_who_may_write_may_refresh() {
        let access = |view_mode| Access { uid: 1000, gid: 2000, view_mode, refresh_mode: 0 };
        // Thread 0 is no thread.
        let caller = |uid, gid| Caller { uid, gid, thread: 0 };
        for (mode, who, may) in [
            (0o400, caller(1000, 1), true),
            (0o400, caller(0, 0), true),
            (0o400, caller(1001, 2000), false),
            (0o440, caller(1001, 2000), true),
            (0o440, caller(1001, 2001), false),
            (0o444, caller(1001, 2001), true),
        ] {
            assert_eq!(access(mode).may_know(&who), may, "{mode:o} {who:?}");
            let refresh_mode = mode >> 1;
            let access = Access { refresh_mode, ..access(0o444) };
            assert_eq!(access.may_refresh(&who), may, "{refresh_mode:o} {who:?}");
        }
    }

    #[test]
    fn other_groups_count_and_parts_of_numbers_do_not() {
        let status = "Name:\tx\nGid:\t7\t7\t7\t7\nGroups:\t20 2000 \nNStgid:\t1\n";
        assert!(has_group_in(status, 2000) && has_group_in(status, 20));
        assert!(!has_group_in(status, 200) && !has_group_in(status, 7));
        assert!(!has_group_in("Groups:\n", 0) && !has_group_in("", 0));
    }
}
