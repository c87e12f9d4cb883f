//! The commands, one file each, and what they have in common: output, errors, exit codes.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use nix::errno::Errno;

use crate::advice::describe;
use crate::{config, observe};

pub use crate::advice::{Advise, EXIT_FAILURE, EXIT_NO_TOKEN, EXIT_USAGE};

pub mod attach;
pub mod background;
pub mod check;
pub mod choice;
pub mod completions;
pub mod demo;
pub mod doctor;
pub mod doors;
pub mod exec;
pub mod get;
pub mod git_credential;
pub mod host;
pub mod init;
pub mod live;
pub mod mount;
pub mod oci_hook;
pub mod read_foreign;
pub mod reader;
pub mod refresh;
pub mod run;
pub mod secrecy;
pub mod serve;
pub mod served;
pub mod setup;
pub mod status;
pub mod umount;
pub mod upgrade;
pub mod wait;
pub mod worker;

/// The exit codes that the commands share.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed, or working in a degraded way
  2  the command line or the configuration is wrong
  3  there is no token";

/// The exit codes of those that need no token.
pub(crate) const EXIT_CODES_WITHOUT_TOKEN: &str = "\
Exit codes:
  0  done
  1  failed
  2  the command line or the configuration is wrong";

/// What a shell reports for a process that `SIGPIPE` ended.
const EXIT_BROKEN_PIPE: u8 = 141;

/// Whether the user lets programs colour what they print (<https://no-color.org>).
pub(crate) fn allows_colours() -> bool {
    config::env("NO_COLOR").is_none()
}

/// Prints an error to standard error, as `error: …` with its causes and hints, and gives the exit
/// code that belongs to it. A process with a log tells it there, too, and waits for neither.
#[must_use]
pub fn report(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(reported(error))
}

/// As [`report`], with the exit code as a number.
fn reported(error: &anyhow::Error) -> u8 {
    if error.is::<ReaderLeft>() {
        return EXIT_BROKEN_PIPE;
    }
    let (text, code) = describe(error);
    if !observe::report(&text) {
        // Nobody is left to tell when standard error is closed, too.
        let _ = io::stderr().write_all(text.as_bytes());
    }
    code
}

/// Nobody reads standard output any more (`get | head -c 4`). No reason to say anything: `SIGPIPE`,
/// which Rust ignores, would not, either.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the standard output")]
struct ReaderLeft;

/// Writes data to standard output, unbuffered: what is printed may be a token, and a buffer would
/// keep it.
///
/// # Errors
/// When standard output cannot be written. [`report`] is silent about a closed pipe.
pub fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match nix::unistd::write(io::stdout().as_fd(), rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(Errno::EPIPE) => return Err(ReaderLeft.into()),
            Err(errno) => {
                let cause = io::Error::from(errno);
                return Err(anyhow::Error::new(cause).context("cannot write to standard output"));
            }
        }
    }
    Ok(())
}
