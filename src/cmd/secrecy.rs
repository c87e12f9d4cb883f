//! What the commands that hold a token do before anything else.

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// The limits that a process had before it kept its memory to itself.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of core dumps, soft and hard.
    core: Option<(rlim_t, rlim_t)>,
}

impl Limits {
    /// Lets nobody of the same user look into this process (`PR_SET_DUMPABLE`, `ptrace(2)`), and has
    /// it leave no core dump. What it starts inherits only the latter.
    ///
    /// No error: a kernel that refuses either would not let the token be read more safely later.
    #[must_use]
    pub fn close() -> Self {
        let _ = prctl::set_dumpable(false);
        let core = getrlimit(Resource::RLIMIT_CORE).ok();
        if let Some((_, hard)) = core {
            // The hard limit stays, or it could not be given back.
            let _ = setrlimit(Resource::RLIMIT_CORE, 0, hard);
        }
        Self { core }
    }

    /// Gives back what a program that takes this process over should have. The process itself stays
    /// closed until then (`execve(2)`).
    pub fn give_back(self) {
        if let Some((soft, hard)) = self.core {
            let _ = setrlimit(Resource::RLIMIT_CORE, soft, hard);
        }
    }
}
