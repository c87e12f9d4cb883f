//! The socket at which root adds, binds, lists and removes doors while the daemon serves.
//!
//! Requests and replies are JSON, one a line, in turn: `{"version":1,"order":{"remove":{"name":"agent-1"}}}`,
//! `{"version":1,"reply":"done"}`. `docs/CONTAINERS.md` lists them.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::kept::Kept;
use super::{DoorConfig, DoorError, DoorToken, Doors};
use crate::fs::access::Access;
use crate::fs::places::Places;
use crate::place::attached;
use crate::source::platform;
use crate::source::table::flaw_of_name;

/// The version of the protocol.
pub const VERSION: u32 = 1;
/// The longest line, in bytes.
const LONGEST: u64 = 64 * 1024;
/// Who says nothing for this long is not listened to any more.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts to accept where descriptors are short.
const PAUSE: Duration = Duration::from_millis(100);

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// What shall be done.
    pub order: Order,
}

/// What can be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// Adds a door.
    Add(NewDoor),
    /// Lets a door show a token.
    Bind {
        /// Its name.
        name: String,
        /// Which one.
        token: DoorToken,
    },
    /// Removes a door.
    Remove {
        /// Its name.
        name: String,
    },
    /// Lists the doors.
    List,
}

/// A door to be added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NewDoor {
    /// Its name.
    pub name: String,
    /// Owner, group and mode of the files in it; without, those of the daemon's settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<u32>,
    /// See there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// See there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u16>,
    /// What it shows; without, its opens wait until it is bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<DoorToken>,
    /// The names of further tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<String>,
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// [`VERSION`].
    pub version: u32,
    /// The answer itself.
    pub reply: Reply,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// It is done.
    Done,
    /// The doors, by name.
    Doors(Vec<Listed>),
    /// It is not done.
    Refused {
        /// Why.
        error: String,
    },
}

/// A door in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Whom its files belong to.
    pub owner: u32,
    /// Their group.
    pub group: u32,
    /// The permission bits of the views.
    pub mode: u16,
    /// What it shows; none while it is not bound.
    pub token: Option<DoorToken>,
    /// The names of further tokens.
    pub tokens: Vec<String>,
    /// Whether the configuration describes it.
    pub configured: bool,
}

/// The socket for the doors in this directory: `DIRECTORY.sock`.
#[must_use]
pub fn beside(directory: &Path) -> PathBuf {
    attached::beside(directory, "sock")
}

/// The doors of this process and what they are shown in, for whoever changes them.
pub struct Changes {
    /// The doors.
    pub doors: Mutex<Doors>,
    /// Where they are shown.
    pub places: Arc<Places>,
    /// Where they are kept.
    pub kept: Kept,
}

impl Changes {
    /// Whether some view has not told watchers of the newest generation.
    #[must_use]
    pub fn want_rotation(&self) -> bool {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner).want_rotation()
    }
}

/// Listens for ever at the socket, in the place of an earlier worker.
///
/// # Errors
/// Where the socket cannot be made.
pub async fn listen(path: &Path, changes: Arc<Changes>) -> io::Result<()> {
    let listener = bind(path)?;
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                tokio::spawn(serve(client, Arc::clone(&changes)));
            }
            Err(error) => {
                tracing::warn!("nobody is heard at {}: {error}", path.display());
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Makes the socket, and puts it in the place of the one that is there. At no moment there is none.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let new = path.with_extension("sock.new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    Ok(listener)
}

async fn serve(client: UnixStream, changes: Arc<Changes>) {
    let is_root = client.peer_cred().is_ok_and(|peer| peer.uid() == 0);
    let (read, mut write) = client.into_split();
    let mut lines = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut lines).take(LONGEST);
        let read = limited.read_until(b'\n', &mut line);
        match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(length)) if length > 0 => {}
            _ => return,
        }
        let reply = if is_root {
            answer(&line, &changes)
        } else {
            Reply::Refused { error: "only root may change or list doors".to_owned() }
        };
        let answer = Answer { version: VERSION, reply };
        let Ok(mut text) = serde_json::to_vec(&answer) else { return };
        text.push(b'\n');
        let written = tokio::time::timeout(PATIENCE, write.write_all(&text));
        if !matches!(written.await, Ok(Ok(()))) || !line.ends_with(b"\n") {
            return;
        }
    }
}

fn answer(line: &[u8], changes: &Changes) -> Reply {
    let refused = |error: String| Reply::Refused { error };
    let request: Request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => return refused(format!("this is no request: {error}")),
    };
    if request.version != VERSION {
        let version = request.version;
        return refused(format!("this daemon speaks version {VERSION}, and not {version}"));
    }
    let mut doors = changes.doors.lock().unwrap_or_else(PoisonError::into_inner);
    let done = match request.order {
        Order::List => return Reply::Doors(doors.all().map(listed).collect()),
        Order::Add(new) => door(new, doors.access()).and_then(|door| {
            let name = door.name.clone();
            doors.add(door, &changes.places).map_err(told)?;
            tracing::info!("the door `{name}` was added");
            Ok(())
        }),
        Order::Bind { name, token } => check(&token).and_then(|()| {
            doors.bind(&name, token, &changes.places).map_err(told)?;
            tracing::info!("the door `{name}` was bound");
            Ok(())
        }),
        Order::Remove { name } => doors.remove(&name, &changes.places).map_err(told).map(|()| {
            tracing::info!("the door `{name}` was removed");
        }),
    };
    let kept = done.and_then(|()| {
        let what = "it is done, but will not outlive the daemon";
        changes.kept.save(doors.to_keep()).map_err(|error| format!("{what}: {error}"))
    });
    kept.map_or_else(refused, |()| Reply::Done)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn told(error: DoorError) -> String {
    error.to_string()
}

fn door(new: NewDoor, base: Access) -> Result<DoorConfig, String> {
    let NewDoor { name, owner, group, mode, token, tokens } = new;
    if let Some(flaw) = flaw_of_name(&name) {
        return Err(format!("the door `{}` {flaw}", name.escape_debug()));
    }
    token.as_ref().map_or(Ok(()), check)?;
    let view_mode = mode.unwrap_or(base.view_mode);
    if !Access::VIEW_MODES.contains(&view_mode) {
        return Err(format!("{view_mode:04o} is no mode for a token: 0400, 0440 or 0444"));
    }
    let (uid, gid) = (owner.unwrap_or(base.uid), group.unwrap_or(base.gid));
    Ok(DoorConfig { name, access: Access { uid, gid, view_mode, ..base }, token, tokens })
}

fn check(token: &DoorToken) -> Result<(), String> {
    let DoorToken::Workspace { id, bearer_file } = token else { return Ok(()) };
    if !platform::is_workspace_id(id) {
        return Err(format!("`{}` can be no workspace", id.escape_debug()));
    }
    if !bearer_file.is_absolute() {
        return Err(format!("{} is no absolute path", bearer_file.display()));
    }
    Ok(())
}

fn listed((door, configured): (&DoorConfig, bool)) -> Listed {
    let DoorConfig { name, access, token, tokens } = door.clone();
    let Access { uid: owner, gid: group, view_mode: mode, .. } = access;
    Listed { name, owner, group, mode, token, tokens, configured }
}
