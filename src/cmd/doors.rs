//! `doors`: changes the doors of a daemon that serves them, and lists them.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use nix::unistd::{Gid, Group, Uid, User};
use serde_json::{Value, json};

use crate::advice::{Advise, EXIT_FAILURE};
use crate::cmd::{self, host};
use crate::config::owner::{Caller, default_group};
use crate::config::parse;
use crate::config::written::{Invalid, Origin, Raw};
use crate::connection::doors::DoorToken;
use crate::connection::doors::socket::{
    self, Answer, Listed, NewDoor, Order, Reply, Request, VERSION,
};

/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// A worker that has just died is followed by another within this.
const RETRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// The arguments of `doors`.
#[derive(Debug, clap::Args)]
pub struct DoorsArgs {
    #[command(subcommand)]
    command: Command,

    /// The directory of the doors
    #[arg(long, global = true, value_name = "DIRECTORY", default_value = host::DEFAULT)]
    directory: PathBuf,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Add a door; without a token its readers wait until it is bound
    Add {
        /// Its name: a–z, 0–9 and -
        name: String,

        /// Whom the files belong to, by name or number, as this host numbers users [default: that of the daemon's settings]
        #[arg(long, value_name = "USER")]
        owner: Option<String>,

        /// Their group [default: the owner's]
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,

        /// Their permission bits: 0400, 0440 or 0444 [default: that of the daemon's settings]
        #[arg(long, value_name = "OCTAL")]
        mode: Option<String>,

        #[command(flatten)]
        shows: Shows,

        /// A further token of the configuration, in a directory of its name; may be repeated
        #[arg(long = "with", value_name = "TOKEN")]
        tokens: Vec<String>,
    },
    /// Let a door show a token, at once and instead of any other
    Bind {
        /// Its name
        name: String,

        #[command(flatten)]
        shows: Shows,
    },
    /// Remove a door that was added
    Remove {
        /// Its name
        name: String,
    },
    /// Print the doors as devices for container engines (Container Device Interface)
    Cdi {
        /// Let a container start without its tokens where they cannot be shown
        #[arg(long)]
        optional: bool,
    },
    /// List the doors
    List {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// What a door shows.
#[derive(Debug, clap::Args)]
#[group(multiple = true)]
struct Shows {
    /// A token of the daemon's configuration: the NAME of [tokens.NAME]
    #[arg(long, value_name = "NAME", conflicts_with_all = ["workspace_id", "bearer_file"])]
    token: Option<String>,

    /// The platform's token of this workspace
    #[arg(long, value_name = "ID", requires = "bearer_file")]
    workspace_id: Option<String>,

    /// The file that holds the workspace's bearer
    #[arg(long, value_name = "FILE", requires = "workspace_id")]
    bearer_file: Option<PathBuf>,
}

/// Asks the daemon.
///
/// # Errors
/// Where no daemon answers, or it refuses; the error says why.
pub fn run(args: DoorsArgs) -> anyhow::Result<ExitCode> {
    let socket = socket::beside(&args.directory);
    let order = match args.command {
        Command::Add { name, owner, group, mode, shows, tokens } => {
            let owner = owner.map(|owner| parsed("--owner", &owner, parse::user)).transpose()?;
            let group = group.map(|group| parsed("--group", &group, parse::group)).transpose()?;
            let mode = mode.map(|mode| parsed("--mode", &mode, parse::mode)).transpose()?;
            let of_owner = |owner| default_group(Caller::own(), owner).value;
            let (group, token) = (group.or(owner.map(of_owner)), shows.token()?);
            Order::Add(NewDoor { name, owner, group, mode, token, tokens })
        }
        Command::Bind { name, shows } => {
            let token = shows.token()?.ok_or_else(|| {
                anyhow!("no token is named")
                    .hint("--token NAME, or --workspace-id ID --bearer-file FILE")
                    .exit_code(crate::advice::EXIT_USAGE)
            })?;
            Order::Bind { name, token }
        }
        Command::Remove { name } => Order::Remove { name },
        Command::List { json } => {
            let doors = ask(&socket, Order::List)?;
            let text =
                if json { format!("{}\n", json!({ "doors": doors })) } else { table(&doors) };
            cmd::print(text.as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Cdi { optional } => {
            let devices = devices(&ask(&socket, Order::List)?, &args.directory, optional)?;
            cmd::print(format!("{devices:#}\n").as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    ask(&socket, order)?;
    Ok(ExitCode::SUCCESS)
}

impl Shows {
    fn token(self) -> anyhow::Result<Option<DoorToken>> {
        if let Some(name) = self.token {
            return Ok(Some(DoorToken::Named(name)));
        }
        let Some((id, file)) = self.workspace_id.zip(self.bearer_file) else { return Ok(None) };
        let id = parsed("--workspace-id", &id, parse::workspace_id)?;
        let bearer_file = std::path::absolute(file).context("no working directory")?;
        Ok(Some(DoorToken::Workspace { id, bearer_file }))
    }
}

fn parsed<T>(flag: &str, text: &str, parse: fn(&Raw) -> Result<T, Invalid>) -> anyhow::Result<T> {
    let raw = Raw { text: text.into(), origin: Origin::Default };
    parse(&raw).map_err(|invalid| {
        let found = text.escape_debug();
        anyhow!("{flag}: expected {}, found `{found}`", invalid.expected)
            .exit_code(crate::advice::EXIT_USAGE)
    })
}

/// Asks whoever listens at the socket: for the doors, or for a change, which is answered with none.
fn ask(socket: &Path, order: Order) -> anyhow::Result<Vec<Listed>> {
    let cannot = || format!("cannot ask the daemon at {}", socket.display());
    let hint = "as root, and while it runs: molecule-tokenfs serve";
    let stream = connect(socket).with_context(cannot).map_err(|error| error.hint(hint))?;
    let exchange = || -> io::Result<Answer> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut line = serde_json::to_vec(&Request { version: VERSION, order })?;
        line.push(b'\n');
        (&stream).write_all(&line)?;
        let mut text = String::new();
        BufReader::new(&stream).read_line(&mut text)?;
        Ok(serde_json::from_str(&text)?)
    };
    let answer = exchange().with_context(|| {
        format!("the daemon at {} did not answer: molecule-tokenfs doors list tells whether it was done", socket.display())
    })?;
    match answer.reply {
        Reply::Done => Ok(Vec::new()),
        Reply::Doors(doors) => Ok(doors),
        Reply::Refused { error } => Err(anyhow!(error).exit_code(EXIT_FAILURE)),
    }
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    let mut left = RETRIES;
    loop {
        match UnixStream::connect(socket) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && left > 0 => {
                left -= 1;
                std::thread::sleep(PAUSE);
            }
            connected => return connected,
        }
    }
}

/// A file for `/etc/cdi`: each door is a device, which the hook shows
/// (<https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>).
fn devices(doors: &[Listed], directory: &Path, optional: bool) -> anyhow::Result<Value> {
    let program = std::env::current_exe().context("cannot find my own executable")?;
    let directory = std::path::absolute(directory)?;
    let devices = doors.iter().map(|door| {
        let mut words = vec![env!("CARGO_PKG_NAME"), "oci-hook", "--door", &*door.name];
        let at = directory.to_string_lossy();
        if directory != Path::new(host::DEFAULT) {
            words.extend(["--directory", &*at]);
        }
        if optional {
            words.push("--optional");
        }
        let hook = json!({ "hookName": "createRuntime", "path": program, "args": words });
        json!({ "name": door.name, "containerEdits": { "hooks": [hook] } })
    });
    let devices = devices.collect::<Vec<_>>();
    Ok(json!({ "cdiVersion": "0.5.0", "kind": "molecule.ai/token", "devices": devices }))
}

fn table(doors: &[Listed]) -> String {
    let own = |door: &Listed| match &door.token {
        Some(DoorToken::Named(name)) => format!("token {name}"),
        Some(DoorToken::Workspace { id, .. }) => format!("workspace {id}"),
        None => "not bound".to_owned(),
    };
    let rows: Vec<_> = doors
        .iter()
        .map(|door| {
            let user = User::from_uid(Uid::from_raw(door.owner)).ok().flatten();
            let group = Group::from_gid(Gid::from_raw(door.group)).ok().flatten();
            let owner = user.map_or_else(|| door.owner.to_string(), |user| user.name);
            let group = group.map_or_else(|| door.group.to_string(), |group| group.name);
            let shows =
                door.tokens.iter().fold(own(door), |shows, name| format!("{shows}, {name}"));
            let from = if door.configured { "configuration" } else { "added" };
            [
                door.name.clone(),
                format!("{owner}:{group}"),
                format!("{:04o}", door.mode),
                shows,
                from.to_owned(),
            ]
        })
        .collect();
    let head = ["DOOR", "OWNER", "MODE", "SHOWS", "FROM"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let mut widths = [0; 5];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        writeln!(text, "{}", line.trim_end()).ok();
    }
    text
}
