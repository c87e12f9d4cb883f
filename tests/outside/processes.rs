//! What processes use, as the kernel counts it (`proc(5)`).

use std::fs;
use std::time::Duration;

/// The processor time of all threads of these processes.
pub fn cpu_time(processes: &[i32]) -> Duration {
    let threads = processes.iter().flat_map(|process| {
        fs::read_dir(format!("/proc/{process}/task")).expect("its threads").flatten()
    });
    let nanoseconds = threads.map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).expect("schedstat");
        text.split(' ').next().and_then(|word| word.parse::<u64>().ok()).expect("nanoseconds")
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// The proportional set size of a process in KiB: its own memory, and its share of what it shares.
pub fn proportional_set_size(process: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).expect("smaps_rollup");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("Pss");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// How many descriptors a process has open.
pub fn descriptors(process: i32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).expect("its descriptors").count()
}
