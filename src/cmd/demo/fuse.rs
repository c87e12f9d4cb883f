//! Whether FUSE can be used here, by which way, and if not, why not and what to do.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::cmd::Advise;
use crate::cmd::demo::tools::find_in;
use crate::config;

/// How the daemon gets its mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// It mounts by itself, being root.
    Direct,
    /// Through the setuid helper `fusermount3`.
    Fusermount,
    /// In a user and mount namespace that this process entered: the mount is seen by its children
    /// only.
    Namespace,
    /// Not at all: the tokens are files.
    Files,
}

impl Way {
    /// How FUSE got its mount, after "FUSE serves the mounted token".
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Direct | Self::Files => "",
            Self::Fusermount => " (mounted by fusermount3)",
            Self::Namespace => " (in a mount namespace of the demo's own)",
        }
    }
}

/// `CAP_SYS_ADMIN` in the sets of `/proc/self/status` (capabilities(7)).
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Finds the way, and enters a namespace where that is the only one.
///
/// The process must have a single thread (`unshare(2)`).
///
/// # Errors
/// Why FUSE cannot be used here, with the remedy.
pub(super) fn prepare() -> anyhow::Result<Way> {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    if let Err(error) = opened {
        return Err(no_device(&error));
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if geteuid().is_root() {
        if capabilities(&status) & CAP_SYS_ADMIN == 0 {
            return Err(anyhow::anyhow!("root may not mount here: CAP_SYS_ADMIN is missing").hint(
                "start the container with --cap-add SYS_ADMIN --device /dev/fuse (Docker also needs \
                 --security-opt apparmor=unconfined)",
            ));
        }
        return Ok(Way::Direct);
    }
    let path = config::env("PATH").unwrap_or_default();
    if fusermount_usable(&path, &status) {
        return Ok(Way::Fusermount);
    }
    enter_namespace()?;
    Ok(Way::Namespace)
}

/// What may be behind a mount that failed although [`prepare`] saw no obstacle.
pub(super) fn suspicion() -> Option<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    (field(&status, "Seccomp") == Some("2")).then_some(
        "a seccomp filter or AppArmor may forbid mounting here; under Docker: --security-opt \
         seccomp=unconfined --security-opt apparmor=unconfined",
    )
}

fn no_device(error: &io::Error) -> anyhow::Error {
    let (why, hint) = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => (
            "there is no /dev/fuse here",
            "in a container: start it with --device /dev/fuse; on a machine: modprobe fuse",
        ),
        Some(Errno::EPERM) => (
            "the container's device rules forbid /dev/fuse",
            "start the container with --device /dev/fuse",
        ),
        Some(Errno::EACCES) => (
            "this user may not open /dev/fuse",
            "run the demo as root, or open the device to users as distributions do: chmod 0666 \
             /dev/fuse",
        ),
        Some(Errno::ENODEV | Errno::ENXIO) => {
            ("the kernel has no FUSE", "load its module on the host: modprobe fuse")
        }
        _ => ("/dev/fuse cannot be opened", "check the device: ls -l /dev/fuse"),
    };
    anyhow::Error::msg(error.to_string()).context(format!("FUSE cannot be used: {why}")).hint(hint)
}

/// `fusermount3` works only if it is setuid root and this process may gain privileges by it.
fn fusermount_usable(path: &OsStr, status: &str) -> bool {
    let setuid = find_in(path, "fusermount3")
        .and_then(|program| std::fs::metadata(program).ok())
        .is_some_and(|it| it.uid() == 0 && it.permissions().mode() & 0o4000 != 0);
    setuid && field(status, "NoNewPrivs") != Some("1")
}

fn enter_namespace() -> anyhow::Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    let failed = |what: &str, error: io::Error| {
        let switch = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
        let restricted = std::fs::read_to_string(switch).is_ok_and(|text| text.trim() == "1");
        let hint = if restricted {
            "AppArmor restricts user namespaces here; install fusermount3 (apt-get install fuse3), \
             or run the demo as root"
        } else {
            "install fusermount3 (apt-get install fuse3), or run the demo as root"
        };
        anyhow::Error::new(error)
            .context(format!(
                "FUSE cannot be used: fusermount3 is not usable here, and {what} failed"
            ))
            .hint(hint)
    };
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(|errno| failed("a user namespace of our own", errno.into()))?;
    // Without `deny` an ordinary user may not map groups (user_namespaces(7)).
    for (file, text) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ] {
        std::fs::write(file, text).map_err(|error| failed(&format!("writing {file}"), error))?;
    }
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|errno| failed("a mount namespace of our own", errno.into()))
}

fn capabilities(status: &str) -> u64 {
    field(status, "CapEff").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or_default()
}

/// A line of `/proc/PID/status` (`proc_pid_status(5)`).
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_status_are_read() {
        let status = "Name:\tx\nCapEff:\t00000000a80425fb\nNoNewPrivs:\t1\nSeccomp:\t2\n";
        assert_eq!(capabilities(status), 0xa804_25fb);
        assert_eq!(capabilities(status) & CAP_SYS_ADMIN, 0);
        assert_eq!(field(status, "NoNewPrivs"), Some("1"));
        assert_eq!(field(status, "Cap"), None);
        assert_eq!(capabilities("CapEff:\t000001ffffffffff\n") & CAP_SYS_ADMIN, CAP_SYS_ADMIN);
    }

    #[test]
    fn every_reason_of_a_closed_device_has_a_remedy_of_its_own() {
        let said: std::collections::HashSet<_> =
            [Errno::ENOENT, Errno::EPERM, Errno::EACCES, Errno::ENODEV, Errno::EIO]
                .map(|errno| no_device(&errno.into()).to_string())
                .into();
        assert_eq!(said.len(), 5);
    }

    #[test]
    fn a_fusermount_without_its_setuid_bit_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("fusermount3");
        std::fs::write(&program, "").unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        assert!(!fusermount_usable(dir.path().as_os_str(), "NoNewPrivs:\t0\n"));
    }
}
