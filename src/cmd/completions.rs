//! `completions` and `man`: what the command line says about itself, in other forms.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::builder::PossibleValuesParser;
use clap::{Arg, Command, ValueHint};
use clap_complete::Shell;

use crate::config::Key;
use crate::config::kind::Offers;

/// The arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

/// The arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// The directory; it is created if it is missing
    pub directory: PathBuf,
}

/// Prints a completion script for `program`.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(args: &CompletionsArgs, mut program: Command) -> anyhow::Result<ExitCode> {
    program.build();
    let mut script = Vec::new();
    let mut command = completed(&program);
    clap_complete::generate(args.shell, &mut command, "molecule-tokenfs", &mut script);
    if args.shell == Shell::Bash {
        // clap_complete 4.6 spells a program's name with a dash in two ways, and finds no command then.
        let text = String::from_utf8_lossy(&script);
        script = text.replace("molecule__subcmd__tokenfs", "molecule__tokenfs").into_bytes();
    }
    super::print(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// A command as completions show it: without what is hidden, and with the values that its arguments take.
/// They are known to the settings alone otherwise, which say what is wrong with one.
fn completed(command: &Command) -> Command {
    // clap wants names that live for ever, and this process ends soon.
    let name: &'static str = command.get_name().to_owned().leak();
    let about = command.get_about().cloned().unwrap_or_default();
    // What was added when it was built is added again.
    let is_added = |name: &str| ["help", "version"].contains(&name);
    let arguments = command.get_arguments();
    let arguments = arguments.filter(|it| !it.is_hide_set() && !is_added(it.get_id().as_str()));
    let commands = command.get_subcommands();
    let commands = commands.filter(|it| !it.is_hide_set() && !is_added(it.get_name()));
    Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .about(about)
        .args(arguments.map(with_values))
        .subcommands(commands.map(completed))
}

/// The argument with its values, or with what kind of thing they are.
fn with_values(argument: &Arg) -> Arg {
    let argument = argument.clone();
    let values = |values: Vec<&'static str>| PossibleValuesParser::new(values);
    // An argument of another command that has the name of a setting takes the same values.
    let setting = argument.get_long().and_then(Key::by_name);
    match setting.map(|key| key.declared().form.offers) {
        Some(Offers::Values(all)) => return argument.value_parser(values(all())),
        Some(Offers::Hint(hint)) => return argument.value_hint(hint),
        Some(Offers::Nothing) => return argument,
        None => {}
    }
    let hint = match argument.get_id().as_str() {
        "action" => return argument.value_parser(values(vec!["get", "store", "erase"])),
        "user" => ValueHint::Username,
        "config" | "file" | "shell_helper" => ValueHint::FilePath,
        "dir" | "directory" => ValueHint::DirPath,
        "mountpoint" => ValueHint::AnyPath,
        "command" => ValueHint::CommandWithArguments,
        _ => return argument,
    };
    argument.value_hint(hint)
}

/// Writes `molecule-tokenfs.1` and a page for each command.
///
/// # Errors
/// When the directory or a page cannot be written.
pub fn man(args: &ManArgs, program: Command) -> anyhow::Result<ExitCode> {
    let directory = &args.directory;
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(program, directory))
        .with_context(|| format!("cannot write the manual pages to {}", directory.display()))?;
    Ok(ExitCode::SUCCESS)
}
