//! Whether a file system can be mounted here, and if not, which of the many reasons it is.
//!
//! The steps of a mount are gone through in their order, in a process and a mount namespace of their
//! own; what the kernel answers, and what this process may, tell the reasons apart.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, ExitCode, Stdio};

use nix::errno::Errno;
use nix::unistd::geteuid;

use super::{Finding, Verdict};
use crate::cmd;
use crate::config;
use crate::connection::mount::{self, Obstacle};
use crate::place::HELPER;
use crate::spawn;
use crate::status::Backend;

const CHECK: &str = "fuse";
/// The bit of `CAP_SYS_ADMIN` (`capabilities(7)`).
const SYS_ADMIN: u32 = 21;
/// What was found out.
pub(super) struct Looked {
    pub(super) findings: Vec<Finding>,
    pub(super) process: Process,
    /// How the attempt to make a mount went, if one was made.
    pub(super) tried: Option<Tried>,
}

/// An attempt to make a mount.
pub(super) struct Tried {
    /// What stopped it.
    pub(super) obstacle: Option<Obstacle>,
    /// Whether nothing did, or the helper can do it.
    pub(super) can_mount: bool,
}

/// Looks, unless a mount that serves has answered the question.
pub fn look(served: Option<Backend>) -> Looked {
    let process = Process::own();
    if served == Some(Backend::Fuse) {
        return Looked { findings: Vec::new(), process, tried: None };
    }
    let obstacle = match try_it() {
        Ok(obstacle) => obstacle,
        Err(error) => {
            let sentence = format!("it cannot be tried whether a mount can be made: {error}");
            let finding = Finding::warn(CHECK, sentence, "try it: molecule-tokenfs mount");
            return Looked { findings: vec![finding], process, tried: None };
        }
    };
    let finding = judge(obstacle, &process);
    let tried = Some(Tried { obstacle, can_mount: finding.verdict == Verdict::Ok });
    // Plain files stand in for the mount: that works, but promises less.
    let stands_in = served == Some(Backend::Files);
    let findings = vec![if stands_in { weaker(finding) } else { finding }];
    Looked { findings, process, tried }
}

fn weaker(finding: Finding) -> Finding {
    let Some(remedy) = finding.remedy else {
        let sentence = "plain files are served, though a mount could be made";
        return Finding::warn(
            CHECK,
            sentence,
            "start it again with --backend fuse: molecule-tokenfs umount, molecule-tokenfs mount",
        );
    };
    let sentence =
        format!("{}; plain files are served instead, which promise less", finding.sentence);
    Finding::warn(CHECK, sentence, remedy)
}

/// Tries it and says how it went, for [`try_it`].
pub fn probe() -> anyhow::Result<ExitCode> {
    let (step, errno) = match mount::probe() {
        Ok(()) => ("done", 0),
        Err(Obstacle::NoDevice) => ("no-device", 0),
        Err(Obstacle::Device(errno)) => ("device", errno as i32),
        Err(Obstacle::Namespace(errno)) => ("namespace", errno as i32),
        Err(Obstacle::FileSystem(errno)) => ("file-system", errno as i32),
        Err(Obstacle::Attach(errno)) => ("attach", errno as i32),
    };
    cmd::print(format!("{step} {errno}\n").as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Tries it in another process, since one that has left its mount namespace cannot go back.
fn try_it() -> io::Result<Option<Obstacle>> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["doctor", "--probe"]).stdin(Stdio::null());
    for name in config::TOKEN_VARIABLES {
        command.env_remove(name);
    }
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let (step, errno) = said.trim().split_once(' ').unwrap_or_default();
    let errno = Errno::from_raw(errno.parse().unwrap_or_default());
    match step {
        "done" => Ok(None),
        "no-device" => Ok(Some(Obstacle::NoDevice)),
        "device" => Ok(Some(Obstacle::Device(errno))),
        "namespace" => Ok(Some(Obstacle::Namespace(errno))),
        "file-system" => Ok(Some(Obstacle::FileSystem(errno))),
        "attach" => Ok(Some(Obstacle::Attach(errno))),
        _ => Err(io::Error::other(format!("the attempt ended with {}", output.status))),
    }
}

/// What this process may, and where it is.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Process {
    pub(super) is_root: bool,
    /// It has `CAP_SYS_ADMIN`, in its user namespace.
    pub(super) may_mount: bool,
    /// A program that it starts can have it.
    pub(super) may_gain: bool,
    /// The user of the host that is root in this user namespace, where it is not root.
    pub(super) outer_root: Option<u32>,
    pub(super) in_container: bool,
    pub(super) helper: Helper,
}

/// How it stands with `fusermount3(1)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Helper {
    Missing,
    NotSetuid,
    Usable,
}

impl Process {
    fn own() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.strip_prefix(':')).map(str::trim).unwrap_or_default()
        };
        let has = |set: &str| {
            u64::from_str_radix(field(set), 16).is_ok_and(|bits| bits & (1 << SYS_ADMIN) != 0)
        };
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let helper = match spawn::find(HELPER).ok().and_then(|path| fs::metadata(path).ok()) {
            None => Helper::Missing,
            Some(metadata) if metadata.mode() & 0o4000 == 0 || metadata.uid() != 0 => {
                Helper::NotSetuid
            }
            Some(_) => Helper::Usable,
        };
        let marks = ["/.dockerenv", "/run/.containerenv"];
        Self {
            is_root: geteuid().is_root(),
            may_mount: has("CapEff"),
            may_gain: has("CapBnd") && field("NoNewPrivs") == "0",
            outer_root: outer_root(&map),
            in_container: marks.iter().any(|mark| fs::exists(mark).unwrap_or(false))
                || ["container", "KUBERNETES_SERVICE_HOST"]
                    .iter()
                    .any(|name| config::env(name).is_some()),
            helper,
        }
    }
}

/// Who is root in a user namespace (`user_namespaces(7)`), where that is not the host's root.
fn outer_root(map: &str) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        match (numbers.next()?, numbers.next()?) {
            (Ok(0), Ok(outer)) if outer != 0 => Some(outer),
            _ => None,
        }
    })
}

/// Puts what stopped the attempt into words.
fn judge(obstacle: Option<Obstacle>, process: &Process) -> Finding {
    let fail = |sentence: &str, remedy: &str| Finding::fail(CHECK, sentence, remedy);
    // An ordinary user's mounts are made by the helper; only its device must be open to them.
    let ordinary = !process.may_mount && !process.is_root;
    match obstacle {
        None => Finding::ok(CHECK, "a mount can be made here"),
        Some(Obstacle::NoDevice) if process.in_container => fail(
            "there is no /dev/fuse in this container",
            "start it with the device: docker run --device /dev/fuse --cap-add SYS_ADMIN …; without \
             it molecule-tokenfs mount serves plain files",
        ),
        Some(Obstacle::NoDevice) => fail(
            "there is no /dev/fuse here",
            "modprobe fuse (in a container: docker run --device /dev/fuse --cap-add SYS_ADMIN …)",
        ),
        Some(Obstacle::Device(Errno::EPERM)) => fail(
            "/dev/fuse is there, but the container's device rules forbid it",
            "start the container with the device: docker run --device /dev/fuse …; a node made with \
             mknod is not enough",
        ),
        Some(Obstacle::Device(Errno::EACCES)) => match process.outer_root {
            Some(outer) => Finding::fail(
                CHECK,
                format!(
                    "this is a user namespace, whose root is user {outer} of the host, and \
                     /dev/fuse is not open to that user"
                ),
                "on the host: chmod 0666 /dev/fuse",
            ),
            None => fail("/dev/fuse is not open to this user", "as root: chmod 0666 /dev/fuse"),
        },
        Some(
            Obstacle::Device(Errno::ENODEV | Errno::ENXIO) | Obstacle::FileSystem(Errno::ENODEV),
        ) => fail("this kernel has no FUSE", "on the host: modprobe fuse"),
        Some(Obstacle::Device(errno)) => Finding::fail(
            CHECK,
            format!("/dev/fuse cannot be opened: {errno}"),
            "look at it: ls -l /dev/fuse",
        ),
        Some(_) if ordinary => helper(process),
        Some(
            Obstacle::Namespace(Errno::EPERM)
            | Obstacle::FileSystem(Errno::EPERM)
            | Obstacle::Attach(Errno::EPERM),
        ) if !process.may_mount => fail(
            "this process may not mount: it lacks the capability CAP_SYS_ADMIN",
            "start the container with it: docker run --cap-add SYS_ADMIN …",
        ),
        Some(
            Obstacle::Namespace(Errno::EPERM | Errno::ENOSYS)
            | Obstacle::FileSystem(Errno::EPERM | Errno::ENOSYS)
            | Obstacle::Attach(Errno::EPERM | Errno::ENOSYS),
        ) => fail(
            "a seccomp filter forbids mounting: this process has CAP_SYS_ADMIN and is refused all \
             the same",
            "start the container with a profile that allows it: docker run --security-opt \
             seccomp=unconfined … (gVisor and kernels before 5.2 look the same)",
        ),
        Some(Obstacle::Attach(Errno::EACCES) | Obstacle::Namespace(Errno::EACCES)) => fail(
            "AppArmor forbids mounting: all steps but the last succeed",
            "start the container without its profile: docker run --security-opt \
             apparmor=unconfined …",
        ),
        Some(
            Obstacle::Namespace(errno) | Obstacle::FileSystem(errno) | Obstacle::Attach(errno),
        ) => Finding::fail(
            CHECK,
            format!("a mount cannot be made: {errno}"),
            "see at which step: molecule-tokenfs mount --log-level debug",
        ),
    }
}

/// The way of an ordinary user.
fn helper(process: &Process) -> Finding {
    match process.helper {
        Helper::Missing => Finding::fail(
            CHECK,
            format!("an ordinary user mounts through {HELPER}, which is not installed"),
            "as root: apt-get install fuse3",
        ),
        Helper::NotSetuid => Finding::fail(
            CHECK,
            format!("{HELPER} is not setuid root, so it may not mount either"),
            format!("as root: chmod 4755 $(command -v {HELPER})"),
        ),
        Helper::Usable if !process.may_gain => Finding::fail(
            CHECK,
            format!(
                "{HELPER} cannot gain the right to mount here (no new privileges, or CAP_SYS_ADMIN \
                 is out of reach)"
            ),
            "mount as root before the privileges are dropped: molecule-tokenfs run --user USER -- \
             COMMAND",
        ),
        Helper::Usable => Finding::ok(CHECK, format!("a mount can be made here, by {HELPER}")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cmd::doctor) const ROOT: Process = Process {
        is_root: true,
        may_mount: true,
        may_gain: true,
        outer_root: None,
        in_container: false,
        helper: Helper::Usable,
    };

    fn told(obstacle: Obstacle, process: &Process) -> String {
        let finding = judge(Some(obstacle), process);
        format!(
            "{}: {} > {}",
            finding.verdict.name(),
            finding.sentence,
            finding.remedy.unwrap_or_default()
        )
    }

    #[test]
    fn what_the_kernel_says_and_what_the_process_may_tell_the_reasons_apart() {
        let bare = Process { may_mount: false, ..ROOT };
        let nested = Process { outer_root: Some(1000), ..ROOT };
        let inside = Process { in_container: true, ..ROOT };
        for (obstacle, process, sentence, remedy) in [
            (Obstacle::NoDevice, &ROOT, "no /dev/fuse here", "modprobe fuse"),
            (Obstacle::NoDevice, &inside, "in this container", "--device /dev/fuse"),
            (Obstacle::Device(Errno::EPERM), &inside, "device rules", "--device /dev/fuse"),
            (Obstacle::Device(Errno::EACCES), &ROOT, "not open to this user", "chmod 0666"),
            (Obstacle::Device(Errno::EACCES), &nested, "user 1000 of the host", "on the host"),
            (Obstacle::Device(Errno::ENODEV), &ROOT, "no FUSE", "modprobe"),
            (
                Obstacle::Namespace(Errno::EPERM),
                &bare,
                "lacks the capability",
                "--cap-add SYS_ADMIN",
            ),
            (
                Obstacle::FileSystem(Errno::EPERM),
                &bare,
                "lacks the capability",
                "--cap-add SYS_ADMIN",
            ),
            (Obstacle::FileSystem(Errno::EPERM), &ROOT, "seccomp", "seccomp=unconfined"),
            (Obstacle::FileSystem(Errno::ENOSYS), &ROOT, "seccomp", "gVisor"),
            (Obstacle::Attach(Errno::EACCES), &ROOT, "AppArmor", "apparmor=unconfined"),
            (Obstacle::Attach(Errno::EIO), &ROOT, "EIO", "--log-level debug"),
        ] {
            let told = told(obstacle, process);
            assert!(told.starts_with("fail: "), "{told}");
            assert!(told.contains(sentence) && told.contains(remedy), "{obstacle:?}: {told}");
        }
    }

    #[test]
    fn an_ordinary_user_needs_the_helper() {
        let user = Process { is_root: false, may_mount: false, ..ROOT };
        let refused = Obstacle::Namespace(Errno::EPERM);
        assert!(told(refused, &user).starts_with("ok: "));
        for (process, words) in [
            (Process { helper: Helper::Missing, ..user.clone() }, "apt-get install fuse3"),
            (Process { helper: Helper::NotSetuid, ..user.clone() }, "chmod 4755"),
            (Process { may_gain: false, ..user.clone() }, "no new privileges"),
        ] {
            let told = told(refused, &process);
            assert!(told.starts_with("fail: ") && told.contains(words), "{told}");
        }
        // Whatever helper there is, it could not open the device for them.
        assert!(told(Obstacle::Device(Errno::EACCES), &user).starts_with("fail: "));
    }

    #[test]
    fn the_root_of_a_user_namespace_is_somebody_outside() {
        assert_eq!(outer_root("         0          0 4294967295\n"), None);
        assert_eq!(outer_root("         0       1000          1\n"), Some(1000));
        assert_eq!(outer_root("      1000       1000          1\n"), None);
    }
}
