//! gh behind the shim, and without it.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::daemon::PROGRAM;
use crate::support::namespace::sandboxed;
use crate::support::secs;
use crate::world::{World, programs};

/// Debian's gh.
fn gh() -> PathBuf {
    programs("gh").into_iter().next().unwrap()
}

/// `gh` as a user types it, with the shim installed before it in PATH, and the token of an hour ago
/// still in the environment, as images have it.
pub fn shimmed(world: &World, real: &Path) -> Command {
    let name = real.file_name().unwrap().to_str().unwrap();
    let (early, late) = (world.dir.join("early"), world.dir.folder(&format!("late-{name}")));
    let path = format!("{}:{}:/usr/bin:/bin", early.display(), late.display());
    if !late.join("gh").is_symlink() {
        symlink(real, late.join("gh")).unwrap();
        let mut setup = world.command(PROGRAM);
        setup.args(["setup", "gh", "--dir"]).arg(&early).env("PATH", &path);
        world.run(setup).ok();
    }

    let mut gh = world.command(early.join("gh"));
    gh.env("PATH", path).env("GH_TOKEN_FILE", world.daemon.path("token"));
    gh.env("GH_HOST", "github.localhost");
    gh.env("GITHUB_TOKEN", "ghs_of-an-hour-ago");
    gh
}

#[test]
fn without_the_shim_the_old_token_is_refused() {
    sandboxed(secs(30), || {
        let world = World::new();
        let mut gh = world.command(gh());
        gh.args(["api", "/user"]).env("GH_HOST", "github.localhost");
        gh.env("GITHUB_TOKEN", "ghs_of-an-hour-ago");
        let refused = world.run(gh);
        assert!(!refused.status.success() && refused.stderr.contains("401"), "{refused:?}");
        assert_eq!(world.demo.ledger().counts().service("rest").unknown, 1);
    });
}

#[test]
fn without_a_mount_gh_fails_in_a_way_of_its_own() {
    sandboxed(secs(30), || {
        let mut world = World::new();
        world.daemon.stop();
        let mut gh = shimmed(&world, &gh());
        gh.args(["api", "/user"]);
        let refused = world.run(gh);
        assert_eq!(refused.status.code(), Some(4), "{refused:?}");
        assert!(refused.stderr.ends_with("molecule-tokenfs status\n"), "{refused:?}");
    });
}
