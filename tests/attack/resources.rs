//! What a daemon has of the system: descriptors, threads, inotify watches, memory.

use std::fs;
use std::path::PathBuf;

use nix::unistd::Pid;

use crate::support::processes::children;

/// How much more of each the daemon may have after the attacks. A connection to the platform may be
/// open or not. A crowd of waiting opens leaves about 4 MiB, once: an allocator does not give back every
/// page.
const MORE: Resources =
    Resources { processes: 0, descriptors: 3, threads: 1, watches: 1, kib: 6 * 1024 };

/// See the module; of the supervisor, its worker, and what that started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Resources {
    pub processes: usize,
    pub descriptors: usize,
    pub threads: usize,
    pub watches: usize,
    /// See [`memory_of`].
    pub kib: u64,
}

impl Resources {
    pub fn of(supervisor: Pid) -> Self {
        let mut all = Self::default();
        for process in family(supervisor) {
            let proc = |name: &str| PathBuf::from(format!("/proc/{process}/{name}"));
            let count = |name: &str| fs::read_dir(proc(name)).map_or(0, Iterator::count);
            all.processes += 1;
            all.descriptors += count("fd");
            all.threads += count("task");
            let infos = fs::read_dir(proc("fdinfo")).into_iter().flatten().flatten();
            let watches = |info: fs::DirEntry| {
                let text = fs::read_to_string(info.path()).unwrap_or_default();
                text.lines().filter(|line| line.starts_with("inotify ")).count()
            };
            all.watches += infos.map(watches).sum::<usize>();
            all.kib += memory_of(process);
        }
        all
    }

    /// Whether these are no more than those, as far as that can be told.
    pub fn are_back_at(&self, before: &Self) -> bool {
        self.processes <= before.processes + MORE.processes
            && self.descriptors <= before.descriptors + MORE.descriptors
            && self.threads <= before.threads + MORE.threads
            && self.watches <= before.watches + MORE.watches
            && self.kib <= before.kib + MORE.kib
    }
}

/// The memory of a process without that of files, which all who run the program share: its own, and its
/// part of the state that outlives a worker. A file reader may be gone by now.
fn memory_of(process: Pid) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
    let kib = |line: &str| {
        let (name, size) = line.split_once(':')?;
        let size = size.trim().strip_suffix(" kB")?.parse::<u64>().ok()?;
        ["Pss_Anon", "Pss_Shmem"].contains(&name).then_some(size)
    };
    rollup.lines().filter_map(kib).sum()
}

/// The supervisor, its workers, and what those started; not the command of `run`.
pub fn family(supervisor: Pid) -> Vec<Pid> {
    let mut family = vec![supervisor];
    family.extend(workers(supervisor));
    let files = workers(supervisor).is_empty();
    let parents = if files { vec![supervisor] } else { workers(supervisor) };
    for parent in parents {
        family.extend(children(parent).into_iter().filter(|child| is_ours(*child, "read-foreign")));
    }
    family
}

/// Processes that serve for this supervisor; none where it keeps files.
pub fn workers(supervisor: Pid) -> Vec<Pid> {
    children(supervisor).into_iter().filter(|child| is_ours(*child, "worker")).collect()
}

fn is_ours(process: Pid, word: &str) -> bool {
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    line.split(|&byte| byte == 0).any(|argument| argument == word.as_bytes())
}
