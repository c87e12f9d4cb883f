//! The program that is attacked, and where it runs.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::agent::Agent;
use crate::scene::Form;
use crate::support::container::Container;
use crate::support::daemon::Daemon;
use crate::support::process::{ORDINARY, Process, User, command};
use crate::support::traps::Traps;
use crate::world::World;

/// Who serves.
pub enum Server {
    Daemon(Daemon, #[expect(dead_code, reason = "it is ended with the daemon")] Process),
    Container(Container),
}

/// How each daemon is set.
const SETTINGS: [&str; 12] = [
    "--open-timeout",
    "3s",
    "--request-timeout",
    "2s",
    "--group",
    "2000",
    "--mode",
    "0440",
    "--host",
    "ghe.example.com",
    "--host",
    "github.com",
];

/// Starts it in the agent's surroundings, with the agent's shell beside it or as its command.
pub fn start(
    world: &World,
    form: Form,
    traps: &Traps,
    agent: &Agent,
    platform: &[(&str, &str)],
    errors: OwnedFd,
) -> Server {
    let dir = &traps.dir;
    if form == Form::FirstProcess {
        let mut command = first_process(world, traps, agent);
        command.envs(platform.iter().copied());
        return Server::Container(Container::start_to(dir, &command, errors));
    }
    let mut builder = Daemon::of_copy(dir, &world.program).log_level("debug").args(SETTINGS);
    builder = builder.arg_pair("--min-life", min_life(form));
    builder = builder.change(|command| {
        traps.inside(command);
        command.envs(platform.iter().copied());
    });
    if form == Form::Files {
        builder = builder.args(["--backend", "files"]);
    }
    let shared = errors.try_clone().unwrap();
    let daemon = builder.start_to(errors);
    let words = agent.command();
    let mut shell = command(&words[0], User::Number(ORDINARY));
    shell.args(&words[1..]);
    Server::Daemon(daemon, Process::start_to(shell, "agent-shell", dir, shared))
}

/// Nobody judges the open of a file: a timer must take it away in time, also where the machine is busy.
fn min_life(form: Form) -> &'static str {
    if form == Form::Files { "1s" } else { "300ms" }
}

/// `run` with the agent's shell as its command.
fn first_process(world: &World, traps: &Traps, agent: &Agent) -> Command {
    let mut inner = command(&world.program, User::Own);
    inner.args(["run", "--user", &ORDINARY.to_string(), "--log-level", "debug", "--mountpoint"]);
    inner.arg(traps.dir.join("token")).args(SETTINGS);
    inner.args(["--min-life", min_life(Form::FirstProcess)]).arg("--").args(agent.command());
    traps.inside(&mut inner);
    inner.env("CONFIGS_DIR", traps.dir.join("configs"));
    inner
}

pub fn outside(server: &Server, mountpoint: &Path) -> PathBuf {
    match server {
        Server::Daemon(..) => mountpoint.to_owned(),
        Server::Container(container) => {
            let root = PathBuf::from(format!("/proc/{}/root", container.first));
            root.join(mountpoint.strip_prefix("/").expect("a whole path"))
        }
    }
}

/// Where everybody finds programs: the first of root's own may be shut to others.
pub const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Gives commands in the namespaces of a server.
pub fn enterer(server: &Server) -> impl Fn(&[&str]) -> Command + '_ {
    move |words| {
        let mut command = match server {
            Server::Container(container) => container.enter(words),
            Server::Daemon(..) => {
                let mut here = command(words[0], User::Own);
                here.args(&words[1..]);
                here
            }
        };
        command.env("PATH", SEARCH_PATH);
        command
    }
}
