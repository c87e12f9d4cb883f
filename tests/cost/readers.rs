//! Readers that open, read and close a file as fast as they can, and what that costs.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::time::{ClockId, clock_gettime};

use crate::support::limit::Adopt;

/// Longer than any token here, so that one read is enough.
const BUFFER: usize = 4096;

/// What one block of reads cost.
#[derive(Debug, Clone, Copy)]
pub struct Block {
    /// Half of the reads took no longer, in microseconds.
    pub p50: f64,
    /// 99 of 100 reads took no longer, in microseconds.
    pub p99: f64,
    /// By all readers together, a second.
    pub reads_per_second: f64,
    /// Of the readers' processor time, in microseconds for one read.
    pub reader_cpu: f64,
    /// Of the servers' processor time, in microseconds for one read.
    pub server_cpu: f64,
}

/// What one reader saw.
struct Seen {
    latencies: Vec<u32>,
    start: Duration,
    end: Duration,
    cpu: Duration,
}

/// Lets so many readers read a file for so long. `server_cpu` tells the processor time that its
/// servers have used.
pub fn measure(
    file: &Path,
    content: &[u8],
    readers: usize,
    time: Duration,
    server_cpu: impl Fn() -> Duration,
) -> Block {
    let path = CString::new(file.as_os_str().as_bytes()).unwrap();
    let barrier = Barrier::new(readers);
    let test = Adopt::here();
    let served_before = server_cpu();
    let seen: Vec<_> = thread::scope(|scope| {
        let start = || {
            let test = test.clone();
            let (path, barrier) = (&path, &barrier);
            scope.spawn(move || {
                test.enter();
                barrier.wait();
                read(path, content, time)
            })
        };
        let threads: Vec<_> = (0..readers).map(|_| start()).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let served = server_cpu().saturating_sub(served_before);
    let mut latencies: Vec<_> = seen.iter().flat_map(|seen| &seen.latencies).copied().collect();
    latencies.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "a few hundred thousand at most")]
    let reads = latencies.len() as f64;
    let start = seen.iter().map(|seen| seen.start).min().unwrap();
    let end = seen.iter().map(|seen| seen.end).max().unwrap();
    let cpu: Duration = seen.iter().map(|seen| seen.cpu).sum();
    let percentile = |percent: usize| f64::from(latencies[(latencies.len() - 1) * percent / 100]);
    Block {
        p50: percentile(50) / 1e3,
        p99: percentile(99) / 1e3,
        reads_per_second: reads / end.saturating_sub(start).as_secs_f64(),
        reader_cpu: cpu.as_secs_f64() * 1e6 / reads,
        server_cpu: served.as_secs_f64() * 1e6 / reads,
    }
}

fn read(path: &CString, content: &[u8], time: Duration) -> Seen {
    let mut buffer = [0; BUFFER];
    let mut latencies = Vec::with_capacity(1 << 16);
    let cpu = now(ClockId::CLOCK_THREAD_CPUTIME_ID);
    let start = now(ClockId::CLOCK_MONOTONIC);
    let mut before = start;
    loop {
        let file = open(path.as_c_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        let length = file.and_then(|file| nix::unistd::read(&file, &mut buffer));
        let after = now(ClockId::CLOCK_MONOTONIC);
        // Outside of what is timed, since `before` is taken anew.
        assert_eq!(length.map(|length| &buffer[..length]), Ok::<_, Errno>(content));
        let latency = after.saturating_sub(before).as_nanos();
        latencies.push(u32::try_from(latency).unwrap_or(u32::MAX));
        if after.saturating_sub(start) >= time {
            let cpu = now(ClockId::CLOCK_THREAD_CPUTIME_ID).saturating_sub(cpu);
            return Seen { latencies, start, end: after, cpu };
        }
        before = now(ClockId::CLOCK_MONOTONIC);
    }
}

pub fn now(clock: ClockId) -> Duration {
    clock_gettime(clock).expect("a clock").into()
}
