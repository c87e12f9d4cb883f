//! What processes have used, as the kernel counts it (`proc(5)`).

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::Pid;

/// All threads of these processes.
pub fn threads(processes: &[i32]) -> impl Iterator<Item = PathBuf> {
    let folders = processes.iter().map(|process| PathBuf::from(format!("/proc/{process}/task")));
    folders.flat_map(|folder| {
        let threads = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        threads.map(|thread| thread.expect("a thread").path())
    })
}

/// The processor time of processes.
pub fn cpu_time(processes: &[i32]) -> Duration {
    let nanoseconds = |thread: PathBuf| -> u64 {
        let schedstat = fs::read_to_string(thread.join("schedstat")).expect("schedstat");
        schedstat.split(' ').next().unwrap().parse().expect("nanoseconds")
    };
    Duration::from_nanos(threads(processes).map(nanoseconds).sum())
}

/// How often the threads of processes were given a processor, having waited for something or having
/// been interrupted.
pub fn wake_ups(processes: &[i32]) -> u64 {
    let switches = |thread: PathBuf| {
        let status = fs::read_to_string(thread.join("status")).expect("status");
        number(&status, "voluntary_ctxt_switches:") + number(&status, "nonvoluntary_ctxt_switches:")
    };
    threads(processes).map(switches).sum()
}

/// How many threads processes have.
pub fn thread_count(processes: &[i32]) -> usize {
    threads(processes).count()
}

/// The proportional set size of a process, in bytes: its own memory, and its share of what it shares.
pub fn proportional_set_size(process: i32) -> u64 {
    let path = format!("/proc/{process}/smaps_rollup");
    number(&fs::read_to_string(path).expect("smaps_rollup"), "Pss:") * 1024
}

/// The memory of a process that is not of a file, in bytes: what it wrote, and its share of what it shares
/// so. Which pages of its program are there at a moment says nothing of what it keeps.
pub fn memory_of_its_own(process: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).expect("smaps_rollup");
    (number(&text, "Pss_Anon:") + number(&text, "Pss_Shmem:")) * 1024
}

fn number(text: &str, key: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(key)).expect(key);
    value.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// How many descriptors the threads of a process have open, each counted by itself: some share no table.
pub fn descriptors(process: i32) -> usize {
    let count = |thread: PathBuf| fs::read_dir(thread.join("fd")).expect("its descriptors").count();
    threads(&[process]).map(count).sum()
}

/// The processes that some process started and that are there now (`proc_pid_children(5)`).
pub fn children(parent: Pid) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let children =
        |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let text = tasks.map(children).collect::<Vec<_>>().join(" ");
    text.split_whitespace().map(|pid| Pid::from_raw(pid.parse().expect("a pid"))).collect()
}
