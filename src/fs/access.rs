//! Who asks, and what belongs to whom.

use serde::{Deserialize, Serialize};

use crate::caller::{Caller, Ids};

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
    /// What views can have: their owner may read, and nobody may write.
    pub const VIEW_MODES: [u16; 3] = [0o400, 0o440, 0o444];
    /// Status and metrics hold no secret.
    pub const STATUS_MODE: u16 = 0o444;

    /// What is beside the doors of a host belongs to root. There is no token in it.
    pub const OF_HOST: Self = Self { uid: 0, gid: 0, view_mode: 0o400, refresh_mode: 0o600 };

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
    /// group and others the first that the caller is counts (`path_resolution(7)`). Through an id-mapped
    /// bind too it goes by the caller's own numbers: nobody tells us of the map.
    fn allows(&self, caller: &Caller, mode: u16) -> bool {
        let mode = mode & 0o444;
        if mode == 0o444 {
            return true;
        }
        let Some(Ids { uid, gid }) = caller.ids() else { return false };
        let is_member = || gid == self.gid || caller.has_group(self.gid);
        match mode {
            _ if uid == 0 => true,
            mode if uid == self.uid => mode & 0o400 != 0,
            mode if mode & 0o044 == 0 => false,
            mode if is_member() => mode & 0o040 != 0,
            mode => mode & 0o004 != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_read_a_token_may_know_what_fails_and_who_may_write_may_refresh() {
        let access = |view_mode| Access { uid: 1000, gid: 2000, view_mode, refresh_mode: 0 };
        // Thread 0 is no thread.
        let caller = |uid, gid| Caller::new(uid, gid, 0);
        for (mode, who, may) in [
            (0o400, caller(1000, 1), true),
            (0o400, caller(0, 0), true),
            (0o400, caller(1001, 2000), false),
            (0o440, caller(1001, 2000), true),
            (0o440, caller(1001, 2001), false),
            (0o444, caller(1001, 2001), true),
            (0o444, caller(u32::MAX, u32::MAX), true),
            (0o440, caller(u32::MAX, u32::MAX), false),
            (0o404, caller(u32::MAX, u32::MAX), false),
        ] {
            assert_eq!(access(mode).may_know(&who), may, "{mode:o} {who:?}");
            let refresh_mode = mode >> 1;
            let access = Access { refresh_mode, ..access(0o444) };
            assert_eq!(access.may_refresh(&who), may, "{refresh_mode:o} {who:?}");
        }
    }
}
