//! Mountpoints that the agent moves while root mounts there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use rand::rngs::StdRng;

use super::{Act, Attack, PROGRAM, boxed};
use crate::scene::{Form, Scene};
use crate::support::dir::mounts_below;
use crate::support::opens::as_user;
use crate::support::process::{ORDINARY, User, command};

pub fn all() -> Vec<Box<dyn Attack>> {
    boxed([
        Act {
            name: "the parent of a mountpoint is exchanged",
            forms: &[Form::Mounted],
            run: exchange,
        },
        Act { name: "a link of the agent's where root mounts", forms: &[Form::Mounted], run: link },
    ])
}

/// A second daemon, which root starts beside the one that is attacked.
fn mount_at(scene: &Scene<'_>, path: &Path) -> bool {
    let mut mount = command(&scene.world.program, User::Own);
    mount.args(["mount", "--background", "--backend", "fuse", "--made-up", "1m", "--owner", "0"]);
    mount.arg(path).env("HOME", scene.dir().path());
    scene.run(mount, PROGRAM).status.success()
}

fn unmount(scene: &Scene<'_>, path: &Path) {
    let mut umount = command(&scene.world.program, User::Own);
    umount.arg("umount").arg(path).env("HOME", scene.dir().path());
    scene.run(umount, PROGRAM);
}

/// A directory of the agent's, and one of root's beside it.
fn fresh(scene: &Scene<'_>, name: &str) -> std::path::PathBuf {
    let place = scene.dir().join(name);
    let _ = fs::remove_dir_all(&place);
    let theirs = place.join("theirs");
    fs::create_dir_all(&theirs).expect("a directory");
    fs::create_dir_all(place.join("roots/token")).expect("a directory");
    std::os::unix::fs::chown(&theirs, Some(ORDINARY), Some(ORDINARY)).expect("chown");
    place
}

/// What of root's is covered by a mount; it is uncovered then.
fn covered(scene: &Scene<'_>, place: &Path) -> Result<(), String> {
    let all = mounts_below(place);
    let roots: Vec<_> = all.iter().filter(|path| path.starts_with(place.join("roots"))).collect();
    let outcome = if roots.is_empty() { Ok(()) } else { Err(format!("a mount covers {roots:?}")) };
    for path in &all {
        unmount(scene, path);
    }
    outcome
}

fn exchange(scene: &Scene<'_>, _: &mut StdRng) -> Result<(), String> {
    let place = fresh(scene, "exchanged");
    let (theirs, roots) = (place.join("theirs"), place.join("roots"));
    as_user(|| {
        fs::create_dir_all(theirs.join("run/token")).expect("a directory");
        symlink(&roots, theirs.join("link")).expect("a link");
    });
    let stop = AtomicBool::new(false);
    let (run, link) = (theirs.join("run"), theirs.join("link"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            as_user(|| {
                while !stop.load(Ordering::Relaxed) {
                    renameat2(AT_FDCWD, &run, AT_FDCWD, &link, RenameFlags::RENAME_EXCHANGE).ok();
                }
            });
        });
        let mut outcome = Ok(());
        for _ in 0..scene.many(50) {
            mount_at(scene, &run.join("token"));
            outcome = covered(scene, &place);
            if outcome.is_err() {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        outcome
    })
}

/// The last component of the mountpoint is a link of the agent's.
fn link(scene: &Scene<'_>, _: &mut StdRng) -> Result<(), String> {
    let place = fresh(scene, "linked");
    let link = place.join("theirs/token");
    as_user(|| symlink(place.join("roots/token"), &link).expect("a link"));
    mount_at(scene, &link);
    covered(scene, &place)
}
