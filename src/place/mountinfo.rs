//! What is mounted where: `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use crate::place::control;

/// The name that our mounts carry as their source and as the subtype of `fuse`.
pub const NAME: &str = "molecule-tokenfs";
/// A file system of ours that does not answer `stat` for that long is stopped or stuck.
const PATIENCE: Duration = Duration::from_secs(2);

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Its number, unique while it is mounted.
    pub id: u64,
    /// The minor number of the device that it has for `stat`: a FUSE connection's number.
    pub minor: u32,
    /// Where it is.
    pub target: PathBuf,
    /// The type, with a subtype after a dot: `fuse.molecule-tokenfs`.
    pub fs_type: String,
    /// The source.
    pub source: String,
    /// The number of the group whose members show each other's mounts and unmounts, if it is in one.
    pub peers: Option<u64>,
    /// The user who mounted it, where it is one of FUSE's: as seen from where it was mounted.
    pub mounter: Option<u32>,
}

impl MountEntry {
    /// Whether it is a mount of ours, alive or dead.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.fs_type.strip_prefix("fuse.") == Some(NAME) && self.source == NAME
    }
}

/// Whether the daemon behind a mount of ours still answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Alive,
    /// Its daemon is gone.
    Dead,
    /// Its daemon is there, and does not answer.
    Stuck,
}

/// The topmost mount whose root is exactly `target` (a path without symlinks).
pub fn topmost(target: &Path) -> io::Result<Option<MountEntry>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?)
        .into_iter()
        .rfind(|mount| mount.target == target))
}

/// The mount of ours with this number, wherever it is.
///
/// # Errors
/// What the system says.
pub fn by_id(id: u64) -> io::Result<Option<MountEntry>> {
    Ok(by_number(id)?.filter(MountEntry::is_ours))
}

/// The mount with this number, whatever it is.
///
/// # Errors
/// What the system says.
pub fn by_number(id: u64) -> io::Result<Option<MountEntry>> {
    let mounts = parse(&std::fs::read("/proc/self/mountinfo")?);
    Ok(mounts.into_iter().find(|mount| mount.id == id))
}

/// The number of the mount in which a file is open, also where whoever serves it does not answer.
///
/// # Errors
/// What the system says.
pub fn id_of(file: impl AsFd) -> io::Result<Option<u64>> {
    let descriptor = file.as_fd().as_raw_fd();
    let text = match std::fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")) {
        // An older kernel keeps it from an ordinary user's process that cannot be traced.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return by_statx(file),
        text => text?,
    };
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    Ok(id.and_then(|id| id.trim().parse().ok()))
}

/// The same by a newer system call (Linux 5.8), without asking whoever serves the file.
fn by_statx(file: impl AsFd) -> io::Result<Option<u64>> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(file, c"", flags, StatxFlags::MNT_ID)?;
    Ok((stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id))
}

/// All mounts of a table.
pub(crate) fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    let id = text(fields.next()?).parse().ok()?;
    let minor = text(fields.nth(1)?).split_once(':')?.1.parse().ok()?;
    let target = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    let mut optional = fields.by_ref().skip(1).take_while(|field| *field != b"-");
    let peers = optional.find_map(|field| text(field).strip_prefix("shared:")?.parse().ok());
    optional.for_each(drop);
    let (fs_type, source) = (text(fields.next()?), text(fields.next()?));
    let is_fuse = fs_type == "fuse" || fs_type.starts_with("fuse.") || fs_type == "fuseblk";
    let options = fields.next().filter(|_| is_fuse).map(text).unwrap_or_default();
    let mounter = options.split(',').find_map(|option| option.strip_prefix("user_id="));
    let mounter = mounter.and_then(|user| user.parse().ok());
    Some(MountEntry { id, minor, target, fs_type, source, peers, mounter })
}

/// Blank, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'\\'
            && let Some((digits, tail)) = tail.split_at_checked(3)
            && let Some(octal) = std::str::from_utf8(digits).ok()
            && let Ok(escaped) = u8::from_str_radix(octal, 8)
        {
            out.push(escaped);
            rest = tail;
        } else {
            out.push(byte);
        }
    }
    out
}

/// Asks the daemon behind a mount for a sign of life, and its process number. A stopped daemon would
/// block whoever asks, so a thread does it, which is left behind then.
#[must_use]
pub fn health(root: OwnedFd) -> (Health, Option<u32>) {
    let (answer, answered) = mpsc::channel();
    let asked = std::thread::Builder::new().name("health".into()).spawn(move || {
        let path = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
        // Not `stat`: the kernel answers that from its cache. `statfs` always asks the daemon.
        let dead = matches!(rustix::fs::statfs(&path), Err(rustix::io::Errno::NOTCONN));
        let holder = control::status(&path)
            .ok()
            .and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok())
            .and_then(|status| status.get("supervisor_pid")?.as_u64())
            .and_then(|pid| u32::try_from(pid).ok());
        // The asker may have given up.
        answer.send((if dead { Health::Dead } else { Health::Alive }, holder)).ok();
    });
    match asked {
        Ok(_) => answered.recv_timeout(PATIENCE).unwrap_or((Health::Stuck, None)),
        Err(_) => (Health::Stuck, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_target_type_and_source_with_escapes_undone() {
        let text = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:7 - ext3 /dev/root rw\n\
            37 36 0:52 / /run/molecule/token rw,nosuid - fuse.molecule-tokenfs molecule-tokenfs rw,user_id=7,group_id=0\n\
            nonsense\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].target, Path::new("/mnt 2"));
        assert_eq!((mounts[0].fs_type.as_str(), mounts[0].is_ours()), ("ext3", false));
        assert!(mounts[1].is_ours());
        assert_eq!((mounts[1].id, mounts[1].minor), (37, 52));
        assert_eq!((mounts[0].mounter, mounts[1].mounter), (None, Some(7)));
        assert_eq!((mounts[0].peers, mounts[1].peers), (Some(7), None));
    }

    #[test]
    fn a_foreign_mount_with_our_source_is_not_ours() {
        let line = b"37 36 0:52 / /x rw - tmpfs molecule-tokenfs rw";
        assert!(!parse_line(line).unwrap().is_ours());
    }

    #[test]
    fn the_root_of_this_machine_is_a_mount() {
        let root = topmost(Path::new("/")).unwrap().unwrap();
        assert_eq!(id_of(std::fs::File::open("/").unwrap()).unwrap(), Some(root.id));
        assert_eq!(by_id(root.id).unwrap(), None, "it is none of ours");
        assert_eq!(topmost(Path::new("/no/such/mount")).unwrap(), None);
    }
}
