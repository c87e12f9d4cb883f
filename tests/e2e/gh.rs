//! gh through the shim, and through the mount's own configuration directory.

use std::fs;
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
fn shimmed(world: &World, real: &Path) -> Command {
    let (early, late) = (world.dir.join("early"), world.dir.folder("late"));
    let _ = fs::remove_file(late.join("gh"));
    symlink(real, late.join("gh")).unwrap();
    let path = format!("{}:{}:/usr/bin:/bin", early.display(), late.display());
    let mut setup = world.command(PROGRAM);
    setup.args(["setup", "gh", "--dir"]).arg(&early).env("PATH", &path);
    world.run(setup).ok();

    let mut gh = world.command(early.join("gh"));
    gh.env("PATH", path).env("GH_TOKEN_FILE", world.daemon.path("token"));
    gh.env("GH_HOST", "github.localhost");
    gh.env("GITHUB_TOKEN", "ghs_of-an-hour-ago");
    gh
}

#[test]
fn the_shim_serves_gh_over_several_lives() {
    sandboxed(secs(90), || {
        let world = World::new();
        let real = gh();
        world.over_several_lives("rest", |_| {
            for what in ["/user", "/installation/repositories"] {
                let mut gh = shimmed(&world, &real);
                gh.args(["api", what]);
                world.run(gh).ok();
            }
        });
    });
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
fn gh_is_told_apart_what_fails_for_want_of_a_token() {
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
