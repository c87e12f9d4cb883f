//! The commands, one file each, and what they have in common: output, errors, exit codes.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use nix::errno::Errno;

use crate::observe;

pub mod background;
pub mod check;
pub mod choice;
pub mod completions;
pub mod demo;
pub mod doctor;
pub mod exec;
pub mod get;
pub mod git_credential;
pub mod init;
pub mod live;
pub mod mount;
pub mod read_foreign;
pub mod reader;
pub mod refresh;
pub mod run;
pub mod secrecy;
pub mod serve;
pub mod setup;
pub mod status;
pub mod umount;
pub mod upgrade;
pub mod wait;
pub mod worker;

/// Something failed, or works in a degraded way.
pub const EXIT_FAILURE: u8 = 1;
/// The command line or the configuration is wrong.
pub const EXIT_USAGE: u8 = 2;
/// There is no token.
pub const EXIT_NO_TOKEN: u8 = 3;
/// What a shell reports for a process that `SIGPIPE` ended.
const EXIT_BROKEN_PIPE: u8 = 141;

/// An error, what to do about it, and the exit code it leads to. Made by [`Advise`].
#[derive(Debug)]
struct Advised {
    error: anyhow::Error,
    hints: Vec<String>,
    code: Option<u8>,
}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Advised {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// Adds to an error what to do about it, and its exit code.
pub trait Advise {
    /// The value, or the error itself.
    type Output;

    /// Adds a `hint: …` line. A hint says what to type or to change, without a full stop.
    fn hint(self, hint: impl Into<String>) -> Self::Output;

    /// Sets the exit code; without one it is [`EXIT_FAILURE`].
    fn exit_code(self, code: u8) -> Self::Output;
}

/// Wraps an error, unless it is wrapped already. (A downcast alone would also find one below later
/// context, and lose that.)
fn advised(error: anyhow::Error) -> Advised {
    let wrap = |error| Advised { error, hints: Vec::new(), code: None };
    let outermost: &(dyn std::error::Error + 'static) = error.as_ref();
    if outermost.is::<Advised>() { error.downcast().unwrap_or_else(wrap) } else { wrap(error) }
}

impl Advise for anyhow::Error {
    type Output = Self;

    fn hint(self, hint: impl Into<String>) -> Self {
        let mut advised = advised(self);
        advised.hints.push(hint.into());
        Self::new(advised)
    }

    fn exit_code(self, code: u8) -> Self {
        Self::new(Advised { code: Some(code), ..advised(self) })
    }
}

impl<T, E: Into<anyhow::Error>> Advise for Result<T, E> {
    type Output = anyhow::Result<T>;

    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| error.into().hint(hint))
    }

    fn exit_code(self, code: u8) -> anyhow::Result<T> {
        self.map_err(|error| error.into().exit_code(code))
    }
}

/// Prints an error to standard error, as `error: …` with its causes and hints, and gives the exit
/// code that belongs to it. A process with a log tells it there, too, and waits for neither.
#[must_use]
pub fn report(error: &anyhow::Error) -> ExitCode {
    if error.is::<ReaderLeft>() {
        return ExitCode::from(EXIT_BROKEN_PIPE);
    }
    let (text, code) = describe(error);
    if !observe::report(&text) {
        // Nobody is left to tell when standard error is closed, too.
        let _ = io::stderr().write_all(text.as_bytes());
    }
    ExitCode::from(code)
}

pub(crate) fn describe(error: &anyhow::Error) -> (String, u8) {
    let mut lines = vec![format!("error: {error}")];
    lines.extend(error.chain().skip(1).map(|cause| format!("  caused by: {cause}")));
    let advised: Vec<_> =
        error.chain().filter_map(|cause| cause.downcast_ref::<Advised>()).collect();
    // The innermost knows best what mends it, the outermost what it means for the command.
    let hints = advised.iter().rev().flat_map(|advised| &advised.hints);
    lines.extend(hints.map(|hint| format!("hint: {hint}")));
    let code = advised.iter().find_map(|advised| advised.code);
    (lines.join("\n") + "\n", code.unwrap_or(EXIT_FAILURE))
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

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn an_error_is_told_with_its_causes_hints_and_exit_code() {
        let error = Err::<(), _>(io::Error::other("disk on fire"))
            .context("cannot read the file")
            .hint("put it out")
            .exit_code(EXIT_USAGE)
            .context("cannot start")
            .hint("type: molecule-tokenfs check")
            .unwrap_err();
        let (text, code) = describe(&error);
        assert_eq!(
            text,
            "error: cannot start\n  caused by: cannot read the file\n  caused by: disk on fire\n\
             hint: put it out\nhint: type: molecule-tokenfs check\n"
        );
        assert_eq!(code, EXIT_USAGE);
    }

    #[test]
    fn an_error_without_a_code_is_a_failure() {
        assert_eq!(describe(&anyhow::anyhow!("no")), ("error: no\n".to_owned(), EXIT_FAILURE));
    }
}
