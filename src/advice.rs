//! Errors for somebody at a terminal: what to do about them, and the exit code that they lead to.

use std::fmt;

/// Something failed, or works in a degraded way.
pub const EXIT_FAILURE: u8 = 1;
/// The command line or the configuration is wrong.
pub const EXIT_USAGE: u8 = 2;
/// There is no token.
pub const EXIT_NO_TOKEN: u8 = 3;

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

/// An error as `error: …` with its causes and hints, and its exit code.
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

#[cfg(test)]
mod tests {
    use std::io;

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
