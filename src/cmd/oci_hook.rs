//! `oci-hook`: shows a door in a container that is being made, before its first instruction. An OCI runtime
//! starts it as a `createRuntime` hook, with the state of the container on standard input
//! (<https://github.com/opencontainers/runtime-spec/blob/main/config.md#posix-platform-hooks>).

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use serde::Deserialize;
use serde_json::Value;

use crate::advice::{Advise, EXIT_FAILURE};
use crate::attach::Process;
use crate::cmd::attach::{self, Door, Order, PLACE};
use crate::cmd::{self, host};

/// The annotation that names a door, where the hook does not.
const ANNOTATION: &str = "molecule.ai/door";
/// The longest state, in bytes.
const LONGEST: u64 = 4 * 1024 * 1024;

/// The arguments of `oci-hook`.
#[derive(Debug, clap::Args)]
pub struct HookArgs {
    /// The door to show [default: the one that the annotation names; none where there is no annotation]
    #[arg(long, value_name = "NAME")]
    door: Option<Door>,

    /// The annotation of the container that names its door
    #[arg(long, value_name = "KEY", default_value = ANNOTATION)]
    annotation: String,

    /// The directory of the doors
    #[arg(long, value_name = "DIRECTORY", default_value = host::DEFAULT)]
    directory: PathBuf,

    /// Where in the container: a path without symbolic links
    #[arg(long, value_name = "PATH", default_value = PLACE, value_parser = attach::place)]
    path: PathBuf,

    /// Let programs in the container write to `refresh`
    #[arg(long)]
    allow_refresh: bool,

    /// Let the container start without its tokens where they cannot be shown
    #[arg(long)]
    optional: bool,
}

/// What a runtime says of a container.
#[derive(Debug, Deserialize)]
struct State {
    id: String,
    #[serde(default)]
    pid: i32,
    bundle: PathBuf,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

/// Shows the door of a container in it.
///
/// # Errors
/// What stands in the way, which stops the container.
pub fn run(args: &HookArgs) -> anyhow::Result<ExitCode> {
    let shown = show(args);
    match shown {
        Err(error) if args.optional => {
            // Whoever runs the runtime reads why; the container starts.
            let _ = cmd::report(&error);
            Ok(ExitCode::SUCCESS)
        }
        shown => shown.map(|()| ExitCode::SUCCESS),
    }
}

fn show(args: &HookArgs) -> anyhow::Result<()> {
    let mut text = Vec::new();
    io::stdin()
        .take(LONGEST)
        .read_to_end(&mut text)
        .context("cannot read the container's state")?;
    let state: State = serde_json::from_slice(&text).map_err(|error| {
        anyhow!("standard input is not the state of a container: {error}")
            .hint("this command is a createRuntime hook: see docs/CONTAINERS.md")
    })?;
    let door = match (&args.door, state.annotations.get(&args.annotation)) {
        (Some(door), _) => door.clone(),
        (None, Some(name)) => name.parse().map_err(|flaw| {
            anyhow!("the annotation {} of container {}: {flaw}", args.annotation, state.id)
        })?,
        (None, None) => return Ok(()),
    };
    let root = root_of(&state.bundle)
        .with_context(|| format!("cannot find the root of container {}", state.id))?;
    let order = Order {
        mountpoint: Some(args.directory.join(door.name())),
        path: &args.path,
        allow_refresh: args.allow_refresh,
    };
    let shown = attach::apart(|note| {
        let process = Process::open(state.pid, None).and_then(|process| process.in_root(&root));
        attach::show(&process.map_err(attach::explained)?, order, note).map(|_| ())
    });
    let shown = shown.with_context(|| format!("cannot show the door `{}`", door.name()))?;
    if shown == ExitCode::SUCCESS {
        return Ok(());
    }
    // It has said why.
    let (door, id) = (door.name(), state.id);
    Err(anyhow!("the door `{door}` is not shown in container {id}").exit_code(EXIT_FAILURE))
}

/// The directory that becomes the container's root, as the host names it.
fn root_of(bundle: &Path) -> anyhow::Result<PathBuf> {
    let file = bundle.join("config.json");
    let cannot = || format!("cannot read {}", file.display());
    let config: Value =
        serde_json::from_slice(&fs::read(&file).with_context(cannot)?).with_context(cannot)?;
    let path = config.pointer("/root/path").and_then(Value::as_str);
    let path = path.ok_or_else(|| anyhow!("{} names no root", file.display()))?;
    Ok(fs::canonicalize(bundle.join(path))?)
}
