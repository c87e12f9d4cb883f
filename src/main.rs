//! `molecule-tokenfs`: parses the command line and runs one command.

use std::process::ExitCode;

use molecule_tokenfs::{cli::Cli, cmd, observe, secret::wiping::Wiping};

#[global_allocator]
static ALLOCATOR: Wiping = Wiping;

/// Starts no thread and no runtime: that is the business of the commands that need one.
fn main() -> ExitCode {
    let cli = match Cli::from_process() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed standard output or error is no reason to report anything.
            let _ = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    let code = cli.command.run().unwrap_or_else(|error| cmd::report(&error));
    observe::finish();
    code
}
