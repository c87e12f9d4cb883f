//! `exec`: runs one command with a fresh token in its environment.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::anyhow;

use crate::cmd::Advise;
use crate::cmd::reader::{Reader, Which};
use crate::cmd::secrecy::Limits;
use crate::config;

/// What a shell reports for a command that it found and could not run.
pub(super) const EXIT_CANNOT_RUN: u8 = 126;
/// What a shell reports for a command that it did not find.
const EXIT_NOT_FOUND: u8 = 127;

/// The arguments of `exec`.
#[derive(Debug, clap::Args)]
pub struct ExecArgs {
    /// The variable that gets the token; repeatable
    #[arg(long, value_name = "NAME", default_value = "GH_TOKEN", value_parser = variable_name)]
    pub env: Vec<String>,

    /// Which token.
    #[command(flatten)]
    pub which: Which,

    /// The mount [default: the one of this machine or user]
    #[arg(long, value_name = "PATH")]
    pub mountpoint: Option<PathBuf>,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

fn variable_name(name: &str) -> Result<String, &'static str> {
    let mut bytes = name.bytes();
    let starts_well = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if starts_well && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        Ok(name.to_owned())
    } else {
        Err("expected the name of a variable: letters, digits and _")
    }
}

/// Becomes the command. The token is in its environment only: arguments are for everybody to see. It
/// gets the limits that this process had `before`.
///
/// # Errors
/// When there is no token, or the command cannot be run.
pub fn run(args: &ExecArgs, before: Option<Limits>) -> anyhow::Result<ExitCode> {
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(anyhow!("no command is given")); // The command line takes none without one.
    };
    let token =
        Reader::find(args.mountpoint.clone())?.of_token(&args.which)?.read(Some("token"))?;
    warn_of_any_host(&args.env);
    let mut command = Command::new(program);
    command.args(arguments);
    for name in &args.env {
        command.env(name, OsStr::from_bytes(&token));
    }
    if let Some(limits) = before {
        limits.give_back();
    }
    Err(cannot_run(program, command.exec()))
}

/// Warns of variables whose token gh sends to any server it is told to talk to.
fn warn_of_any_host(variables: &[String]) {
    let reaches_any = |name: &&String| name.ends_with("_ENTERPRISE_TOKEN");
    if let Some(name) = variables.iter().find(reaches_any) {
        let line = format!(
            "warning: gh sends {name} to any server that is not github.com; molecule-tokenfs setup gh \
             keeps a token to its hosts\n"
        );
        // Nobody is left to tell when standard error is closed.
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

/// The error of an exec, with the exit code that a shell reports for it.
pub(super) fn cannot_run(program: &OsStr, error: io::Error) -> anyhow::Error {
    let error = match error.kind() {
        // What execvp(3) says also where PATH names directories that this user may not enter.
        io::ErrorKind::PermissionDenied if !is_there(program) => io::ErrorKind::NotFound.into(),
        _ => error,
    };
    let code = match error.kind() {
        io::ErrorKind::NotFound => EXIT_NOT_FOUND,
        _ => EXIT_CANNOT_RUN,
    };
    anyhow::Error::new(error).context(format!("cannot run {}", program.display())).exit_code(code)
}

/// Whether a program can be seen, as a path or in PATH.
fn is_there(program: &OsStr) -> bool {
    let path = config::env("PATH").unwrap_or_default();
    Path::new(program).components().count() > 1
        || std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_has_a_name_that_a_shell_can_use() {
        for good in ["GH_TOKEN", "_x1"] {
            assert!(variable_name(good).is_ok(), "{good}");
        }
        for bad in ["", "1X", "A=B", "A B", "Ä", "A-B"] {
            assert!(variable_name(bad).is_err(), "{bad}");
        }
    }
}
