//! Why a mount cannot be shown in a container, and what to do about it.

use std::path::PathBuf;

use nix::errno::Errno;

/// Why a mount cannot be shown in a container, or taken away there. Paths are those in the container, but
/// where it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// This process may not.
    #[error("only root of the host, with CAP_SYS_ADMIN, can mount in a container")]
    NotPermitted,
    /// There is no such process.
    #[error("there is no process {pid}")]
    NoProcess {
        /// Which.
        pid: i32,
    },
    /// The process ended meanwhile.
    #[error("process {pid} has ended, and its container with it")]
    Ended {
        /// Which.
        pid: i32,
    },
    /// The process is in no container.
    #[error("process {pid} is in no container: it has the same mounts as this command")]
    SameMounts {
        /// Which.
        pid: i32,
    },
    /// No container is called so.
    #[error(
        "no running container has the name `{wanted}`, nor an id that begins with it: neither in what \
         Docker, containerd, podman, runc and crun keep below /run, nor among control groups"
    )]
    NoContainer {
        /// What was looked for.
        wanted: String,
    },
    /// Several containers are called so.
    #[error("`{wanted}` can be any of these containers: {}", found.join(", "))]
    Ambiguous {
        /// What was looked for.
        wanted: String,
        /// Their ids.
        found: Vec<String>,
    },
    /// Nobody in the container could read the tokens.
    #[error(
        "the tokens belong to user {owner} of this host, who does not exist in the container of process \
         {pid}: its users {users} of this host"
    )]
    NoSuchUser {
        /// Who owns the tokens.
        owner: u32,
        /// The container's process.
        pid: i32,
        /// Who exists there, as the end of a sentence.
        users: String,
        /// Whom to give the tokens, as this host numbers users.
        better: u32,
    },
    /// The daemon behind the mount of this host is gone.
    #[error("the mount at {} is dead: its daemon is gone", path.display())]
    Dead {
        /// Its path on this host.
        path: PathBuf,
    },
    /// What should be shown is a file.
    #[error("{} is a single file, and only directories can be shown in a container", path.display())]
    SingleFile {
        /// Its path on this host.
        path: PathBuf,
    },
    /// A link leads to the place.
    #[error("{} is a symbolic link in the container, and none is followed there", path.display())]
    Link {
        /// Which.
        path: PathBuf,
    },
    /// What is there, or on the way, is no directory.
    #[error("{} is not a directory in the container", path.display())]
    NotADirectory {
        /// Which.
        path: PathBuf,
    },
    /// The directory holds something, which the mount would hide.
    #[error("{} is not empty in the container: mounting there would hide `{entry}`", path.display())]
    NotEmpty {
        /// Which.
        path: PathBuf,
        /// One of its entries.
        entry: String,
    },
    /// A directory is missing and cannot be made.
    #[error("{} does not exist in the container, and cannot be made there: {errno}", path.display())]
    Missing {
        /// Which.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// Something else is mounted there.
    #[error("{} is the root of another file system in the container ({fs_type}); it stays", path.display())]
    Foreign {
        /// Where.
        path: PathBuf,
        /// Its type.
        fs_type: String,
    },
    /// A daemon that is not this host's has mounted there.
    #[error("{} is served by a molecule-tokenfs in the container; it stays", path.display())]
    OfTheContainer {
        /// Where.
        path: PathBuf,
    },
    /// What is mounted there would show on this host as well.
    #[error("what is mounted at {} in the container appears outside of it, too", path.display())]
    Shared {
        /// Where.
        path: PathBuf,
    },
    /// Nothing is shown there.
    #[error("nothing of molecule-tokenfs is shown at {} in the container", path.display())]
    NotShown {
        /// Where.
        path: PathBuf,
    },
    /// The kernel lacks a system call.
    #[error(
        "this kernel cannot {what}: that needs Linux 5.12 (a filter of system calls can be the reason, too)"
    )]
    TooOld {
        /// What it is needed for.
        what: String,
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

impl AttachError {
    /// What to do about it, where something can be done.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotPermitted => "run it as root of the host: sudo molecule-tokenfs …".into(),
            Self::NoProcess { .. } | Self::Ended { .. } => {
                "see which process the container runs as: docker inspect --format '{{.State.Pid}}' NAME"
                    .into()
            }
            Self::SameMounts { .. } => "name a process of the container, or the container: --container ID".into(),
            Self::NoContainer { .. } => {
                "see what runs (docker ps, podman ps, crictl ps, runc list), or name a process of it: --pid PID"
                    .into()
            }
            Self::Ambiguous { .. } => "write more of the id, or name a process of it: --pid PID".into(),
            Self::NoSuchUser { better, .. } => {
                format!("mount them for a user of the container: molecule-tokenfs mount --owner {better} …")
            }
            Self::Dead { .. } => "start the daemon again; it cleans up".into(),
            Self::SingleFile { .. } => "mount a directory: molecule-tokenfs mount --layout directory …".into(),
            Self::Link { .. } => "name a path without links: --path PATH".into(),
            Self::NotADirectory { .. } | Self::NotEmpty { .. } | Self::Foreign { .. } => {
                "name another path in the container: --path PATH".into()
            }
            Self::Missing { .. } => {
                "make the directory in the image, or name one below a directory that can be written to \
                 (docker run --tmpfs /run …): --path PATH"
                    .into()
            }
            Self::OfTheContainer { .. } => {
                "use it as it is, or name another path in the container: --path PATH".into()
            }
            Self::Shared { .. } => {
                "mount it there on this host instead, or name another path: --path PATH".into()
            }
            Self::NotShown { .. } => {
                "see what is mounted there: findmnt --task PID -t fuse.molecule-tokenfs".into()
            }
            Self::TooOld { .. } => {
                "bind the mount when the container starts: docker run -v /run/molecule/token:/run/molecule/token:ro …"
                    .into()
            }
            Self::System { .. } => return None,
        };
        Some(hint)
    }

    pub(super) fn system(what: impl Into<String>, errno: Errno) -> Self {
        Self::System { what: what.into(), errno }
    }

    /// Why a system call about mounts fails.
    pub(super) fn refused(what: &str, errno: Errno) -> Self {
        match errno {
            Errno::ENOSYS => Self::TooOld { what: what.to_owned() },
            Errno::EPERM => Self::NotPermitted,
            errno => Self::system(what, errno),
        }
    }

    pub(super) fn kernel(what: &str, error: rustix::io::Errno) -> Self {
        Self::refused(what, errno(error))
    }
}

pub(super) fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}
