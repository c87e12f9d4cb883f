//! A program that is executed from its descriptor, so that a file that is replaced on disk changes
//! nothing: this one, as the worker or for another duty.
//!
//! It goes through `/proc/self/fd`, which every kernel has and no filter of system calls refuses:
//! `execveat(2)` is newer, and does nothing else.

#![expect(unsafe_code, reason = "executes a program from its descriptor")]

use std::ffi::{CString, c_char};
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
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    /// The program in this file, with these words after its name. `environment`, of `NAME=value`, is
    /// all that it finds there.
    ///
    /// # Errors
    /// Where a word or a value holds a NUL.
    pub fn new(
        file: File,
        words: impl IntoIterator<Item = Vec<u8>>,
        environment: impl IntoIterator<Item = Vec<u8>>,
    ) -> io::Result<Self> {
        let strings = |values: &mut dyn Iterator<Item = Vec<u8>>| {
            let strings = values.map(|value| CString::new(value).map_err(io::Error::from));
            strings.collect::<io::Result<Vec<_>>>()
        };
        let name = env!("CARGO_PKG_NAME").as_bytes().to_vec();
        Ok(Self {
            file,
            arguments: strings(&mut std::iter::once(name).chain(words))?,
            environment: strings(&mut environment.into_iter())?,
        })
    }

    /// Starts it in a process group of its own, for what a terminal sends to ours is for us to hear,
    /// and with no signal blocked, whatever we block.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(&self, Streams { input, output, errors }: Streams) -> io::Result<Child> {
        let pointers = |strings: &[CString]| {
            let ends = std::iter::once(std::ptr::null());
            strings.iter().map(|string| string.as_ptr()).chain(ends).collect()
        };
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let exec = Exec {
            signals: SigSet::empty(),
            path: CString::new(path)?,
            arguments: pointers(&self.arguments),
            environment: pointers(&self.environment),
        };
        let mut command = Command::new(env!("CARGO_PKG_NAME"));
        command.stdin(input).stdout(output).stderr(errors).process_group(0);
        // SAFETY: between fork and exec the closure makes two system calls, allocates nothing, and
        // points to strings that outlive the call to `spawn`.
        unsafe { command.pre_exec(move || exec.replace_this_process()) };
        command.spawn()
    }
}

/// The arguments of `execve(2)`, made before the fork.
struct Exec {
    /// Those that are blocked in it.
    signals: SigSet,
    path: CString,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
}

// SAFETY: the pointers are only read, in the child, while their strings live in the parent's
// `Program`.
unsafe impl Send for Exec {}
// SAFETY: as above.
unsafe impl Sync for Exec {}

impl Exec {
    fn replace_this_process(&self) -> io::Result<()> {
        self.signals.thread_set_mask()?;
        // SAFETY: the three pointers lead to a NUL-terminated string and to two arrays of such that
        // end with a null pointer.
        unsafe {
            libc::execve(self.path.as_ptr(), self.arguments.as_ptr(), self.environment.as_ptr());
        }
        Err(io::Error::last_os_error())
    }
}
