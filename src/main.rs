//! `molecule-tokenfs`: parses the command line and runs one command.

use std::alloc::System;
use std::process::ExitCode;

use clap::Parser;
use molecule_tokenfs::{cli::Cli, cmd};
use zeroizing_alloc::ZeroAlloc;

/// Wipes every block of memory when it is freed or moved: a token or a bearer passes through buffers
/// of libraries (HTTP, TLS, JSON) that know nothing of secrets.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

/// Starts no thread and no runtime: that is the business of the commands that need one.
fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed standard output or error is no reason to report anything.
            let _ = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    cli.command.run().unwrap_or_else(|error| cmd::report(&error))
}
