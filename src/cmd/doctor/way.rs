//! Which way tokens best get to whoever needs them here: with the command to type.
//!
//! `docs/CONTAINERS.md` shows the same decision as a picture.

use std::path::Path;

use nix::errno::Errno;

use super::Finding;
use super::fuse::{Looked, Process, Tried};
use super::mount::Served;
use crate::connection::mount::Obstacle;
use crate::status::Backend;

const CHECK: &str = "way";

/// The ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The tokens are mounted here, by whatever starts the command.
    Run,
    /// The host mounts them into a container that runs.
    Attach,
    /// The host mounts them once, and containers bind that.
    Bind,
    /// Plain files, without a mount.
    Files,
}

/// Recommends one where nothing is mounted, and the bind where the mount can be had by containers, too.
pub fn look(served: &Served, looked: &Looked) -> Option<Finding> {
    match (&looked.tried, &served.mountpoint) {
        (Some(tried), _) => Some(judge(tried, &looked.process)),
        (None, Some(mountpoint)) if served.backend == Some(Backend::Fuse) => {
            beside(mountpoint, &looked.process)
        }
        (None, _) => None,
    }
}

fn judge(tried: &Tried, process: &Process) -> Finding {
    recommend(choose(tried, process), process)
}

fn beside(mountpoint: &Path, process: &Process) -> Option<Finding> {
    is_the_hosts_root(process).then(|| {
        let bind = bind(mountpoint.display());
        Finding::ok(CHECK, format!("bind: containers of this host need no other mount: {bind}"))
    })
}

fn is_the_hosts_root(process: &Process) -> bool {
    process.is_root && !process.in_container && process.outer_root.is_none()
}

fn choose(tried: &Tried, process: &Process) -> Way {
    let has_no_fuse = matches!(
        tried.obstacle,
        Some(
            Obstacle::Device(Errno::ENODEV | Errno::ENXIO)
                | Obstacle::FileSystem(Errno::ENODEV | Errno::ENOSYS)
        )
    );
    match (tried.can_mount, process.in_container) {
        (true, false) if is_the_hosts_root(process) => Way::Bind,
        (true, _) => Way::Run,
        (false, true) if !has_no_fuse => Way::Attach,
        (false, _) => Way::Files,
    }
}

fn recommend(way: Way, process: &Process) -> Finding {
    let user = if process.is_root { " --user USER" } else { "" };
    let place = "/run/molecule/token";
    let sentence = match way {
        Way::Run => {
            format!("run: a mount can be made right here: molecule-tokenfs run{user} -- COMMAND")
        }
        Way::Attach => {
            "attach: nothing can be mounted from within this container, but from its host, while \
                        it runs: molecule-tokenfs attach --pid PID, with docker inspect -f \
                        '{{.State.Pid}}' CONTAINER for PID"
                .to_owned()
        }
        Way::Bind => format!(
            "bind: one mount serves this host and all its containers: molecule-tokenfs mount --background \
             --owner UID {place}; {}",
            bind(place)
        ),
        Way::Files => format!(
            "files: no mount can be had here, plain files can: molecule-tokenfs run{user} --backend files -- \
             COMMAND"
        ),
    };
    Finding::ok(CHECK, sentence)
}

fn bind(place: impl std::fmt::Display) -> String {
    format!("docker run --user UID -v {place}:{place}:ro …")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::doctor::fuse::tests::ROOT;

    #[test]
    fn each_place_is_told_its_way_and_what_to_type() {
        let inside = || Process { in_container: true, ..ROOT };
        let user = Process { is_root: false, may_mount: false, ..ROOT };
        let nested = Process { outer_root: Some(1000), ..ROOT };
        let no_device = Some(Obstacle::NoDevice);
        let refused = Some(Obstacle::Namespace(Errno::EPERM));
        let no_fuse = Some(Obstacle::FileSystem(Errno::ENODEV));
        for (obstacle, can_mount, process, way, command) in [
            (
                None,
                true,
                ROOT,
                "bind: ",
                "mount --background --owner UID /run/molecule/token; docker",
            ),
            (None, true, inside(), "run: ", "run --user USER -- COMMAND"),
            (None, true, nested.clone(), "run: ", "run --user USER -- COMMAND"),
            // By the helper.
            (refused, true, user.clone(), "run: ", "molecule-tokenfs run -- COMMAND"),
            (no_device, false, inside(), "attach: ", "molecule-tokenfs attach --pid PID"),
            (refused, false, inside(), "attach: ", "docker inspect -f '{{.State.Pid}}' CONTAINER"),
            (
                Some(Obstacle::Device(Errno::EACCES)),
                false,
                Process { outer_root: Some(100_000), ..inside() },
                "attach: ",
                "attach --pid PID",
            ),
            (no_device, false, ROOT, "files: ", "run --user USER --backend files -- COMMAND"),
            (refused, false, user, "files: ", "run --backend files -- COMMAND"),
            (no_fuse, false, inside(), "files: ", "--backend files -- COMMAND"),
            (
                Some(Obstacle::FileSystem(Errno::ENOSYS)),
                false,
                inside(),
                "files: ",
                "--backend files",
            ),
            (Some(Obstacle::Device(Errno::EACCES)), false, nested, "files: ", "--backend files"),
        ] {
            let Finding { sentence, remedy, .. } = judge(&Tried { obstacle, can_mount }, &process);
            assert_eq!(remedy, None);
            assert!(sentence.starts_with(way), "{obstacle:?} {process:?}: {sentence}");
            assert!(sentence.contains(command), "{sentence}");
        }
    }

    #[test]
    fn a_mount_of_the_hosts_root_is_there_for_containers_too() {
        let told = |process: &Process| beside(Path::new("/srv/token"), process);
        let sentence = told(&ROOT).unwrap().sentence;
        assert!(sentence.contains("-v /srv/token:/srv/token:ro"), "{sentence}");
        for other in [
            Process { in_container: true, ..ROOT },
            Process { is_root: false, ..ROOT },
            Process { outer_root: Some(1000), ..ROOT },
        ] {
            assert_eq!(told(&other), None, "{other:?}");
        }
    }
}
