//! `demo-platform`: the demo platform as a process of its own, for soaks and benchmarks.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::cmd::demo::Signals;
use crate::cmd::{allows_colours, print};
use crate::config::parse::span_argument;
use crate::demo::github::Installation;
use crate::demo::{Address, Demo, Setup};
use crate::observe;

/// Arguments of `demo-platform`.
#[derive(Debug, clap::Args)]
pub struct PlatformArgs {
    /// Let tokens live this long
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = span_argument)]
    life: Duration,
    /// The shortest token, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 40)]
    shortest: usize,
    /// The longest token, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 600)]
    longest: usize,
    /// Give the same token again until less than this is left of it
    #[arg(long, value_name = "SPAN", value_parser = span_argument)]
    cache_until: Option<Duration>,
    /// Set the issuer's clock this many seconds ahead
    #[arg(long, value_name = "SECONDS", default_value_t = 0, allow_negative_numbers = true)]
    clock_offset: i64,
    /// Set the platform's clock, which stamps `Date`, this many seconds ahead of the issuer's
    #[arg(long, value_name = "SECONDS", default_value_t = 0, allow_negative_numbers = true)]
    platform_offset: i64,
    /// Write the bearer into this directory
    #[arg(long, value_name = "DIR")]
    configs_dir: Option<PathBuf>,
    /// Answer on this Unix socket as well
    #[arg(long, value_name = "PATH")]
    unix_socket: Option<PathBuf>,
    /// Serve the bare repositories in this directory
    #[arg(long, value_name = "DIR")]
    git_root: Option<PathBuf>,
    /// Make this repository in it, repeatable
    #[arg(long, value_name = "NAME.git", requires = "git_root")]
    repository: Vec<String>,
    /// Create a GitHub App and write its key to this file; it is installed for each OWNER of a
    /// repository OWNER/NAME.git
    #[arg(long, value_name = "FILE")]
    app_key: Option<PathBuf>,
}

/// The line that `demo-platform` prints.
#[derive(Serialize)]
struct Announcement<'a> {
    #[serde(flatten)]
    address: &'a Address,
    bearer_file: Option<PathBuf>,
    repositories: Vec<String>,
    /// Of the App, if there is one.
    client_id: Option<String>,
}

/// Serves until standard input closes or a signal comes.
///
/// # Errors
/// The platform cannot start, or a repository or the bearer file cannot be made.
pub fn run(args: &PlatformArgs) -> anyhow::Result<ExitCode> {
    observe::init(&observe::LogLevel::default(), &observe::Target::Stderr, allows_colours())?;
    observe::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let (shortest, longest) = (args.shortest, args.longest.max(args.shortest));
        let setup = Setup {
            unix_socket: args.unix_socket.clone(),
            git_root: args.git_root.clone(),
            ..Setup::with_life(args.life)
        };
        let setup = setup.lengths(shortest..=longest).minting(|minting| {
            minting.cache_until = args.cache_until;
            minting.clock_offset = args.clock_offset;
            minting.platform_offset = args.platform_offset;
        });
        let demo = Demo::start(setup).context("cannot start the demo platform")?;
        let bearer_file = args.configs_dir.as_deref().map(|dir| demo.register(dir)).transpose()?;
        let repositories = args.repository.iter().map(|name| demo.create_repository(name));
        let announcement = Announcement {
            address: demo.address(),
            bearer_file,
            repositories: repositories.collect::<Result<_, _>>()?,
            client_id: args
                .app_key
                .as_deref()
                .map(|key| app(&demo, key, &args.repository))
                .transpose()?,
        };
        print(format!("{}\n", serde_json::to_string(&announcement)?).as_bytes())?;
        let closed = end_of_input()?;
        tokio::select! {
            () = closed.cancelled() => {}
            () = signals.next() => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Creates an App, and installs it for the owners of these repositories. Gives its client id.
fn app(demo: &Demo, key: &Path, repositories: &[String]) -> std::io::Result<String> {
    let client_id = demo.github().create_app(key)?;
    let mut owners = BTreeMap::<_, Vec<_>>::new();
    for (owner, name) in repositories.iter().filter_map(|path| path.split_once('/')) {
        owners.entry(owner).or_default().push(name.strip_suffix(".git").unwrap_or(name));
    }
    for (id, (owner, names)) in (71..).zip(owners) {
        demo.github().install(Installation::of(id, owner, &names));
    }
    Ok(client_id)
}

/// Cancelled when standard input ends: whoever started the platform is gone then.
fn end_of_input() -> std::io::Result<CancellationToken> {
    let closed = CancellationToken::new();
    let guard = closed.clone().drop_guard();
    // A thread of its own, which the process does not wait for: a read of a terminal has no end.
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let _guard = guard;
        let mut bytes = [0; 1024];
        while std::io::stdin().read(&mut bytes).is_ok_and(|read| read > 0) {}
    })?;
    Ok(closed)
}
