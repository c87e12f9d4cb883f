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

    /// Whether a caller may ask for a refresh where no mode bits say so: the owner, and root.
    #[must_use]
    pub fn may_control(&self, caller: &Caller) -> bool {
        caller.uid == self.uid || caller.uid == 0
    }

    /// The mode of `refresh`: whoever may read a token may also say that it was refused.
    #[must_use]
    pub fn control_mode(&self) -> u16 {
        (self.view_mode & 0o444) >> 1 | self.view_mode & 0o444
    }
}
