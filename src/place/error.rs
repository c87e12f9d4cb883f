//! Why a mount cannot be made or unmade, and what to do about it.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

use crate::status::Layout;
use crate::trust::Flaw;

/// The device through which the kernel talks to a file system in a process.
pub(crate) const DEVICE: &str = "/dev/fuse";
/// The program that mounts for ordinary users.
pub(crate) const HELPER: &str = "fusermount3";

/// Why a mount cannot be made or unmade.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A daemon of ours serves there already.
    #[error("{} is already mounted by molecule-tokenfs{}", target.display(), holder(*pid))]
    AlreadyServed {
        /// Where.
        target: PathBuf,
        /// The process that serves it, if it said so.
        pid: Option<u32>,
    },
    /// A daemon of ours holds it and does not answer.
    #[error(
        "{} is mounted by a molecule-tokenfs that does not answer; it may be stopped",
        target.display()
    )]
    Stuck {
        /// Where.
        target: PathBuf,
    },
    /// Something else is mounted there.
    #[error(
        "{} is the root of another file system ({fs_type} from {origin}); it stays as it is",
        target.display()
    )]
    Foreign {
        /// Where.
        target: PathBuf,
        /// Its type.
        fs_type: String,
        /// Its source.
        origin: String,
    },
    /// Nothing of ours is mounted there.
    #[error("nothing of molecule-tokenfs is mounted at {}", target.display())]
    NotMounted {
        /// Where.
        target: PathBuf,
    },
    /// The target is nothing that can be mounted on.
    #[error("{} is neither a directory nor a regular file", target.display())]
    NotADirectory {
        /// Where.
        target: PathBuf,
    },
    /// The target is a file where a directory is wanted, or the other way round.
    #[error("{} is {}, and the layout `{}` wants {}", target.display(), thing(other(*wanted)), wanted.name(), thing(*wanted))]
    OtherLayout {
        /// Where.
        target: PathBuf,
        /// What it should be.
        wanted: Layout,
    },
    /// The target holds files, which the mount would hide.
    #[error("{} is not empty: mounting there would hide `{entry}`", target.display())]
    NotEmpty {
        /// Where.
        target: PathBuf,
        /// One of the files.
        entry: String,
    },
    /// The target is a file that is not empty, which the mount would hide.
    #[error("{} is not empty: mounting there would hide its {bytes} bytes", target.display())]
    NotEmptyFile {
        /// Where.
        target: PathBuf,
        /// How many there are.
        bytes: u64,
    },
    /// The mount is in use.
    #[error("{} is in use", target.display())]
    Busy {
        /// Where.
        target: PathBuf,
    },
    /// Somebody else could change what is there, or what leads there.
    #[error("{} {flaw}: others could put something else in the place of the tokens", path.display())]
    Untrusted {
        /// The directory or link.
        path: PathBuf,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// It belongs to somebody else.
    #[error("{} belongs to another user", target.display())]
    NotOurs {
        /// Which directory.
        target: PathBuf,
    },
    /// There is no memory to keep files in.
    #[error("there is no tmpfs to keep the tokens in: not at {tried}")]
    NoTmpfs {
        /// Where it was looked for.
        tried: String,
    },
    /// There is no FUSE device.
    #[error("there is no {DEVICE} here")]
    NoDevice,
    /// What is called so is another device: something was mounted over it.
    #[error("{DEVICE} is no FUSE device here")]
    OtherDevice,
    /// The device may not be opened.
    #[error("{DEVICE} cannot be opened: {errno}")]
    DeviceRefused {
        /// What the kernel said: EACCES is the node's mode, EPERM the container's device rules.
        errno: Errno,
    },
    /// The kernel does not let this process mount, and there is no helper that may.
    #[error("this process may not mount, and there is no {HELPER} that could do it")]
    NotPermitted,
    /// A security module refuses the very last step.
    #[error("a security module (AppArmor, SELinux) does not let this process mount")]
    Forbidden,
    /// A system call that a mount cannot do without is refused.
    #[error("this process may not {what}: {errno}")]
    Refused {
        /// What it is needed for.
        what: &'static str,
        /// What the kernel, or a filter of system calls, said.
        errno: Errno,
    },
    /// The kernel refuses, for whatever reason.
    #[error("the kernel refuses to {what}: {errno}")]
    KernelRefused {
        /// What was tried.
        what: String,
        /// What it said.
        errno: Errno,
    },
    /// The kernel has no FUSE.
    #[error("this kernel has no FUSE")]
    NoFuse,
    /// The helper refused.
    #[error("{HELPER} refused: {message}")]
    Helper {
        /// What it printed.
        message: String,
    },
    /// A system call failed.
    #[error("cannot {what}: {errno}")]
    System {
        /// What was tried.
        what: String,
        /// What the kernel said.
        errno: Errno,
    },
}

fn other(layout: Layout) -> Layout {
    match layout {
        Layout::Directory => Layout::File,
        Layout::File => Layout::Directory,
    }
}

fn thing(layout: Layout) -> &'static str {
    match layout {
        Layout::Directory => "a directory",
        Layout::File => "a regular file",
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

impl MountError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::AlreadyServed { target, .. } => {
                let target = target.display();
                format!("use it as it is, or end it first: molecule-tokenfs umount {target}")
            }
            Self::Stuck { target } => {
                let target = target.display();
                format!(
                    "let it go on (kill -CONT), or detach it: molecule-tokenfs umount --lazy {target}"
                )
            }
            Self::Foreign { .. }
            | Self::NotADirectory { .. }
            | Self::NotEmpty { .. }
            | Self::NotEmptyFile { .. } => {
                "name another directory or file: molecule-tokenfs mount MOUNTPOINT".into()
            }
            Self::NotOurs { .. } => {
                "run this as its owner, or name another directory: molecule-tokenfs mount DIRECTORY"
                    .into()
            }
            Self::Untrusted { path, flaw } => format!(
                "fix it as root ({}), or name a directory that only root and you can change: \
                 molecule-tokenfs mount MOUNTPOINT",
                flaw.remedy(path)
            ),
            Self::NoTmpfs { .. } => {
                "mount one (docker run --tmpfs DIRECTORY; in Kubernetes an emptyDir with medium: \
                 Memory), or let the tokens lie on a disk: --allow-disk"
                    .into()
            }
            Self::OtherLayout { .. } => {
                "name another mountpoint, or leave --layout out: then what is there decides".into()
            }
            Self::NotMounted { .. } => {
                "see what is mounted: findmnt -t fuse.molecule-tokenfs".into()
            }
            Self::Busy { target } => {
                let target = target.display();
                format!(
                    "see who uses it (fuser -vm {target}), or detach it when they are done: \
                     molecule-tokenfs umount --lazy {target}"
                )
            }
            Self::NoDevice | Self::OtherDevice => {
                "in a container pass it in (docker run --device /dev/fuse --cap-add SYS_ADMIN …); \
                 on a host load the module: modprobe fuse"
                    .into()
            }
            Self::DeviceRefused { errno: Errno::EACCES } => {
                format!("let users open it: chmod 0666 {DEVICE}")
            }
            Self::DeviceRefused { .. } => {
                "the container's device rules forbid it: docker run --device /dev/fuse …".into()
            }
            Self::NotPermitted => {
                "in a container add the capability (docker run --cap-add SYS_ADMIN …); as an \
                 ordinary user install the helper: apt-get install fuse3"
                    .into()
            }
            Self::Forbidden => "under Docker: --security-opt apparmor=unconfined".into(),
            Self::Refused { errno: Errno::EFBIG, .. } => {
                "raise the limit on the size of files: ulimit -f unlimited".into()
            }
            Self::Refused { .. } => {
                "let the container's seccomp profile allow it, or do without a mount: --backend files"
                    .into()
            }
            Self::KernelRefused { .. } => {
                "see what keeps it from that: molecule-tokenfs doctor; or do without a mount: \
                 --backend files"
                    .into()
            }
            Self::NoFuse => "load the module: modprobe fuse".into(),
            Self::Helper { .. } => {
                format!("it must be setuid root, and {DEVICE} open to users; see {HELPER}(1)")
            }
            Self::System { .. } => "the daemon's log may say more (--log-level debug)".into(),
        }
    }

    /// Whether nothing can be mounted here at all, whatever the target is.
    #[must_use]
    pub fn is_want_of_fuse(&self) -> bool {
        match self {
            Self::NoDevice
            | Self::OtherDevice
            | Self::DeviceRefused { .. }
            | Self::NotPermitted
            | Self::Forbidden
            | Self::Refused { .. }
            | Self::KernelRefused { .. }
            | Self::NoFuse
            | Self::Helper { .. } => true,
            Self::AlreadyServed { .. }
            | Self::Stuck { .. }
            | Self::Foreign { .. }
            | Self::NotMounted { .. }
            | Self::NotADirectory { .. }
            | Self::NotEmpty { .. }
            | Self::NotEmptyFile { .. }
            | Self::OtherLayout { .. }
            | Self::Busy { .. }
            | Self::NotOurs { .. }
            | Self::Untrusted { .. }
            | Self::NoTmpfs { .. }
            | Self::System { .. } => false,
        }
    }

    /// Why something cannot be done that a mount needs.
    pub(crate) fn cannot(what: &'static str, error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(errno @ (Errno::ENOSYS | Errno::EPERM | Errno::EACCES | Errno::EFBIG)) => {
                Self::Refused { what, errno }
            }
            errno => Self::system(what, errno.unwrap_or(Errno::EIO)),
        }
    }

    /// Why the kernel does not make a mount.
    pub(crate) fn kernel(what: impl Into<String>, errno: Errno) -> Self {
        Self::KernelRefused { what: what.into(), errno }
    }

    pub(crate) fn system(what: impl Into<String>, errno: impl Into<Errno>) -> Self {
        Self::System { what: what.into(), errno: errno.into() }
    }
}
