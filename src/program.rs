//! A program that is executed from its descriptor, so that a file that is replaced on disk changes
//! nothing: this one, as the worker or for another duty.
//!
//! It goes through `/proc/self/fd`, which every kernel has and no filter of system calls refuses:
//! `execveat(2)` is newer, and does nothing else.
//!
//! Nothing here may need a fork. After one, the memory of a worker is shared with a child until somebody
//! writes to it. If the worker is killed then, while it takes a request, the kernel cannot copy the request
//! to where it is read, and answers it EIO (`fuse_dev_do_read`). The standard library takes
//! `posix_spawn(3)`, which shares all memory until the program runs, unless it is asked for more than that
//! can do.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::SigSet;

/// What a program reads and writes.
pub struct Streams {
    /// Its standard input.
    pub input: Stdio,
    /// Its standard output.
    pub output: Stdio,
    /// Its standard error.
    pub errors: Stdio,
}

/// A program with its arguments and environment.
pub struct Program {
    file: File,
    words: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Program {
    /// The program in this file, with these words after its name. `environment` is all that it finds there.
    pub fn new(
        file: File,
        words: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        let words = words.into_iter().collect();
        Self { file, words, environment: environment.into_iter().collect() }
    }

    /// Starts it in a process group of its own, for what a terminal sends to ours is for us to hear. The
    /// first thing that it does is to [hear all signals](hear_all_signals), whatever we block.
    ///
    /// # Errors
    /// What the system says; `InvalidInput` where a word or a value holds a NUL.
    pub fn start(&self, Streams { input, output, errors }: Streams) -> io::Result<Child> {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        command.arg0(env!("CARGO_PKG_NAME")).args(&self.words);
        command.env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(input).stdout(output).stderr(errors).process_group(0).spawn()
    }
}

/// Unblocks the signals that whoever started this process had blocked.
///
/// # Errors
/// None that the system knows.
pub fn hear_all_signals() -> nix::Result<()> {
    SigSet::empty().thread_set_mask()
}

#[cfg(test)]
mod tests {
    use nix::sys::resource::{UsageWho, getrusage};

    use super::*;

    #[test]
    fn a_start_shares_no_memory_with_what_it_starts() {
        const PAGE: usize = 4096;
        const PAGES: usize = 4096;
        const FEW: i64 = 1024;
        let mut memory = vec![1_u8; PAGE * PAGES];
        let faults = || getrusage(UsageWho::RUSAGE_THREAD).unwrap().minor_page_faults();
        let program = Program::new(File::open("/bin/true").unwrap(), [], []);
        let streams =
            Streams { input: Stdio::null(), output: Stdio::null(), errors: Stdio::null() };
        let mut child = program.start(streams).unwrap();
        let before = faults();
        memory.iter_mut().step_by(PAGE).for_each(|byte| *byte += 1);
        // After a fork it is one for each page.
        let taken = faults() - before;
        assert!(child.wait().unwrap().success());
        assert!(taken < FEW, "{taken}");
        assert!(memory.iter().step_by(PAGE).all(|byte| *byte == 2));
    }
}
