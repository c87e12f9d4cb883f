//! `completions` and `man`: what the command line says about itself, in other forms.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;

use crate::cli::Cli;

/// The arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// The arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// The directory; it is created if it is missing
    pub directory: PathBuf,
}

/// Prints a completion script.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "molecule-tokenfs", &mut script);
    super::print(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes `molecule-tokenfs.1` and a page for each command.
///
/// # Errors
/// When the directory or a page cannot be written.
pub fn man(args: &ManArgs) -> anyhow::Result<ExitCode> {
    let directory = &args.directory;
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
        .with_context(|| format!("cannot write the manual pages to {}", directory.display()))?;
    Ok(ExitCode::SUCCESS)
}
