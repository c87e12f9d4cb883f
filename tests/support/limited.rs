//! Limits on what a running daemon may take.

use std::fs;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::daemon::Daemon;

/// As `/proc/PID/limits` calls it.
fn name(resource: Resource) -> &'static str {
    match resource {
        Resource::As => "Max address space",
        Resource::Nofile => "Max open files",
        _ => "Max processes",
    }
}

/// Limits the supervisor, as an administrator or a control group may, until dropped.
pub struct Limited {
    process: Pid,
    resource: Resource,
    before: Rlimit,
}

impl Limited {
    pub fn to(daemon: &Daemon, resource: Resource, limit: u64) -> Self {
        let process = Pid::from_raw(daemon.pid().as_raw()).expect("a process");
        // Only the soft limit, so that it can be raised again.
        let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
        let (name, maximum) = (name(resource), |word: &str| word.parse().ok());
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("a limit");
        let maximum = maximum(line.split_whitespace().nth(1).expect("the hard limit"));
        let limit = Rlimit { current: Some(limit), maximum };
        let before = prlimit(Some(process), resource, limit).expect("a limit");
        Self { process, resource, before }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        prlimit(Some(self.process), self.resource, self.before).expect("the limit from before");
    }
}
