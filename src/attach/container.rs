//! Which process a container is, by its id or name: found in the files that container engines keep, and
//! else among control groups, which are called by the ids. No program of theirs is run.
//!
//! Only files of root's count. A name that somebody else gave a control group does count, but not where
//! an engine of root's knows that name.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::error::AttachError;
use crate::caller::numbers;
use crate::place::attached::start_of;

/// Where a directory for each container is, and how many directories above it have any name (namespaces
/// of containerd's).
const PLACES: [(&str, usize); 8] = [
    ("run/runc", 0),
    ("run/crun", 0),
    ("run/docker/runtime-runc", 1),
    ("run/containerd/runc", 1),
    ("run/containerd/io.containerd.runtime.v2.task", 1),
    ("run/docker/containerd/daemon/io.containerd.runtime.v2.task", 1),
    ("run/containers/storage/overlay-containers", 0),
    ("run/containers/storage/vfs-containers", 0),
];
/// What is in it and names the first process: of runc, of crun, of containerd, of podman and CRI-O.
const FILES: [&str; 4] = ["state.json", "status", "init.pid", "userdata/pidfile"];
/// Where podman and CRI-O keep names.
const PODMAN: [&str; 2] = ["overlay", "vfs"];
/// How many hexadecimal digits an id has that an engine gave.
const ID: usize = 64;

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: String,
    /// Its first process.
    pub pid: i32,
    /// When that started, where it is known (see [`super::Process::open`]).
    pub started: Option<u64>,
}

/// Finds a container by its name, its id, or the beginning of its id.
///
/// # Errors
/// [`AttachError::NoContainer`], [`AttachError::Ambiguous`].
pub fn find(wanted: &str) -> Result<Found, AttachError> {
    System { root: Path::new("/"), owner: 0 }.find(wanted)
}

/// The files of a machine.
struct System<'a> {
    root: &'a Path,
    /// Whose files count.
    owner: u32,
}

/// What runc and crun write; with other names for the same.
#[derive(Deserialize)]
struct State {
    #[serde(alias = "init_process_pid")]
    pid: i32,
    #[serde(alias = "init_process_start", alias = "process-start-time")]
    started: Option<u64>,
}

impl System<'_> {
    fn find(&self, wanted: &str) -> Result<Found, AttachError> {
        let kept = self.kept();
        let named = self.named(wanted);
        let is_it = |id: &str| id == wanted || named.iter().any(|named| named == id);
        let mut found: Vec<_> = kept.values().filter(|found| is_it(&found.id)).cloned().collect();
        if found.is_empty() {
            found = kept.into_values().filter(|found| found.id.starts_with(wanted)).collect();
        }
        if found.is_empty() {
            found = self.in_control_groups(|id| is_it(id) || is_id(id) && id.starts_with(wanted));
        }
        if found.len() > 1 {
            let found = found.into_iter().map(|found| found.id).collect();
            return Err(AttachError::Ambiguous { wanted: wanted.to_owned(), found });
        }
        found.pop().ok_or_else(|| AttachError::NoContainer { wanted: wanted.to_owned() })
    }

    /// The containers that engines know and that run, by their ids.
    fn kept(&self) -> BTreeMap<String, Found> {
        let mut kept = BTreeMap::new();
        for (place, depth) in PLACES {
            let mut directories = entries(&self.root.join(place));
            for _ in 0..depth {
                directories = directories.iter().flat_map(|it| entries(it)).collect();
            }
            for directory in directories {
                let Some(id) = directory.file_name().and_then(|name| name.to_str()) else {
                    continue;
                };
                let found =
                    FILES.iter().find_map(|file| self.first_process(&directory.join(file), id));
                if let Some(found) = found {
                    kept.entry(found.id.clone()).or_insert(found);
                }
            }
        }
        kept
    }

    /// What a file says of a container, if that still runs: files of one that was killed can be there, and
    /// its number somebody else's.
    fn first_process(&self, file: &Path, id: &str) -> Option<Found> {
        let text = self.read(file)?;
        let found = |pid, started| Found { id: id.to_owned(), pid, started };
        if let Ok(State { pid, started: Some(started) }) = serde_json::from_str(&text) {
            return (self.start_of(pid) == Some(started)).then(|| found(pid, Some(started)));
        }
        let pid = text.trim().parse().ok()?;
        let is_it =
            self.depth_of_first(pid).is_some() || self.groups_of(pid).any(|group| group == id);
        let others = self.groups_of(pid).filter(|group| is_id(group)).collect::<Vec<_>>();
        let is_another = is_id(id) && !others.is_empty() && !others.iter().any(|other| other == id);
        (is_it && !is_another).then(|| found(pid, self.start_of(pid)))
    }

    /// The ids of containers with this name: those of Docker's, podman's and CRI-O's.
    fn named(&self, wanted: &str) -> Vec<String> {
        let mut ids = Vec::new();
        for directory in entries(&self.root.join("var/lib/docker/containers")) {
            let Some(text) = self.read(&directory.join("config.v2.json")) else { continue };
            let config: Value = serde_json::from_str(&text).unwrap_or_default();
            let name = config.get("Name").and_then(Value::as_str).unwrap_or_default();
            if name.strip_prefix('/') == Some(wanted) {
                ids.extend(directory.file_name().and_then(|id| id.to_str()).map(str::to_owned));
            }
        }
        for driver in PODMAN {
            let list = format!("var/lib/containers/storage/{driver}-containers/containers.json");
            let text = self.read(&self.root.join(list)).unwrap_or_default();
            let list: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
            ids.extend(list.iter().filter_map(|container| {
                let names = container.get("names")?.as_array()?;
                let is_it = names.iter().any(|name| name.as_str() == Some(wanted));
                is_it.then(|| container.get("id")?.as_str().map(str::to_owned))?
            }));
        }
        ids
    }

    /// The first process of each container whose control group has such an id. Of containers in a
    /// container, the outermost.
    fn in_control_groups(&self, is_it: impl Fn(&str) -> bool) -> Vec<Found> {
        let mut found = BTreeMap::<String, (usize, Found)>::new();
        let processes = entries(&self.root.join("proc"));
        let pids = processes.iter().filter_map(|it| it.file_name()?.to_str()?.parse::<i32>().ok());
        for pid in pids {
            let Some(depth) = self.depth_of_first(pid) else { continue };
            let Some(id) = self.groups_of(pid).find(|id| is_it(id)) else { continue };
            let this = Found { id: id.clone(), pid, started: self.start_of(pid) };
            match found.get(&id) {
                Some((other, _)) if *other <= depth => {}
                _ => drop(found.insert(id, (depth, this))),
            }
        }
        found.into_values().map(|(_, found)| found).collect()
    }

    /// How many namespaces of processes a process is in below ours, if it is the first one of the innermost.
    fn depth_of_first(&self, pid: i32) -> Option<usize> {
        let status = fs::read_to_string(self.root.join(format!("proc/{pid}/status"))).ok()?;
        let numbers: Vec<_> = numbers(&status, "NSpid").collect();
        (numbers.len() > 1 && numbers.last() == Some(&1)).then_some(numbers.len())
    }

    /// The ids in the names of the control groups that a process is in, without what engines put around them
    /// (`docker-ID.scope`, `cri-containerd-ID.scope`, `libpod-ID`), and the names of the innermost groups.
    fn groups_of(&self, pid: i32) -> impl Iterator<Item = String> {
        let text = fs::read_to_string(self.root.join(format!("proc/{pid}/cgroup")));
        let mut names = Vec::new();
        for path in text.unwrap_or_default().lines().filter_map(|line| line.splitn(3, ':').nth(2)) {
            let mut groups = path.split('/').peekable();
            while let Some(name) = groups.next() {
                let name = name.strip_suffix(".scope").unwrap_or(name);
                let bare = name.rsplit_once('-').map_or(name, |(_, id)| id);
                if is_id(bare) {
                    names.push(bare.to_owned());
                } else if groups.peek().is_none() {
                    names.push(name.to_owned());
                }
            }
        }
        names.into_iter()
    }

    fn start_of(&self, pid: i32) -> Option<u64> {
        start_of(&self.root.join(format!("proc/{pid}/stat")))
    }

    fn read(&self, file: &Path) -> Option<String> {
        let is_roots =
            fs::symlink_metadata(file).is_ok_and(|it| it.is_file() && it.uid() == self.owner);
        is_roots.then(|| fs::read_to_string(file).ok())?
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn is_id(name: &str) -> bool {
    name.len() == ID && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests;
