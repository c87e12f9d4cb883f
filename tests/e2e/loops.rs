//! git and gh, side by side and over and over, while the tokens under them live for ten seconds.
//!
//! The gate runs this for a few lives; `scripts/evidence git-gh` for 90 seconds, and keeps the
//! figures.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::gh::shimmed;
use crate::git::{Helper, configure, git, retries};
use crate::support::limit::Adopt;
use crate::support::namespace::sandboxed;
use crate::support::process::{Finished, registry_tool};
use crate::support::secs;
use crate::world::{LIFE, World, programs};

/// How long: a few lives for the gate, 90 s where the figures are wanted.
fn length() -> Duration {
    if evidence().is_some() { secs(90) } else { secs(25) }
}

/// The file that `scripts/evidence git-gh` wants the figures in.
#[expect(clippy::disallowed_methods, reason = "how scripts/evidence asks for more")]
fn evidence() -> Option<PathBuf> {
    std::env::var_os("MOLECULE_GIT_GH_JSON").map(PathBuf::from)
}

/// How many operations passed, by the version of the program, and what the others said.
#[derive(Default)]
pub struct Done {
    pub passed: BTreeMap<String, usize>,
    pub failed: Vec<String>,
}

/// Does one operation after the other for so long, each with the next of `programs`.
#[expect(clippy::disallowed_methods, reason = "real programs run in real time")]
pub fn over_and_over(
    world: &World,
    length: Duration,
    programs: &[PathBuf],
    mut operation: impl FnMut(&Path, usize) -> Result<(), String>,
) -> Done {
    let end = Instant::now() + length;
    let versions = programs.iter().map(|program| world.version(program)).collect::<Vec<_>>();
    let mut done = Done::default();
    for (round, (program, version)) in programs.iter().zip(versions).cycle().enumerate() {
        match operation(program, round) {
            Ok(()) => *done.passed.entry(version).or_default() += 1,
            Err(said) => done.failed.push(format!("{version}: {said}")),
        }
        if Instant::now() >= end {
            break;
        }
    }
    done
}

/// What a command printed, or all about its failure.
pub fn passed(finished: Finished) -> Result<String, String> {
    if finished.status.success() { Ok(finished.stdout) } else { Err(format!("{finished:?}")) }
}

/// Clones, commits and pushes, to a repository of this helper's own.
fn clone_commit_and_push(world: &World, helper: Helper) -> Done {
    let name = helper.name();
    let url = world.demo.create_repository(&format!("{name}.git")).unwrap();
    let home = world.dir.folder(&format!("home-{name}"));
    configure(world, &home, helper);
    over_and_over(world, length(), &programs("git"), |program, round| {
        let clone = home.join(format!("clone-{round}"));
        let clone = clone.to_str().unwrap();
        let git = |words: &[&str]| passed(git(world, &home, program, words));
        git(&["clone", "-q", &url, clone])?;
        let message = format!("round {round}");
        git(&["-C", clone, "commit", "-q", "--allow-empty", "-m", &message])?;
        git(&["-C", clone, "push", "-q", "origin", "HEAD"])?;
        let head = git(&["-C", clone, "rev-parse", "HEAD"])?;
        let pushed = git(&["ls-remote", &url, "HEAD"])?;
        assert!(pushed.starts_with(head.trim()), "the server has {pushed}, not {head}");
        fs::remove_dir_all(clone).unwrap();
        Ok(())
    })
}

/// Every gh that is to be had: Debian's and newer ones.
pub fn ghs() -> Vec<PathBuf> {
    [programs("gh"), vec![registry_tool("gh-2.88"), registry_tool("gh-2.103")]].concat()
}

/// Asks the API with every gh.
fn ask_the_api(world: &World) -> Done {
    over_and_over(world, length(), &ghs(), |program, _| {
        for path in ["/user", "/installation/repositories"] {
            let mut gh = shimmed(world, program);
            gh.args(["api", path]);
            passed(world.run(gh))?;
        }
        Ok(())
    })
}

#[test]
fn git_through_each_helper_and_gh_through_the_shim_never_fail_while_tokens_die() {
    sandboxed(length() + secs(60), || {
        let world = World::new();
        let adopt = Adopt::here();
        let done = thread::scope(|scope| {
            let (world, adopt) = (&world, &adopt);
            let gits = Helper::ALL.map(|helper| {
                scope.spawn(move || {
                    adopt.clone().enter();
                    (helper.name(), clone_commit_and_push(world, helper))
                })
            });
            let gh = scope.spawn(move || {
                adopt.clone().enter();
                ("shim", ask_the_api(world))
            });
            let threads = gits.into_iter().chain([gh]);
            threads.map(|thread| thread.join().expect("the loop ends")).collect::<Vec<_>>()
        });

        let ledger = world.demo.ledger();
        let presented = ["git", "rest"].map(|service| (service, ledger.counts().service(service)));
        let used = ledger.report().tokens.iter().filter(|token| token.accepted > 0).count();
        let failed = done.iter().flat_map(|(_, done)| &done.failed).collect::<Vec<_>>();
        let figures = json!({
            "seconds": length().as_secs(),
            "token_life_seconds": LIFE.as_secs(),
            "tokens_used": used,
            "operations": done.iter().map(|(name, done)| (*name, &done.passed)).collect::<BTreeMap<_, _>>(),
            "failed_operations": failed.len(),
            "presented": presented.iter().map(|(service, seen)| (*service, json!({
                "live": seen.live, "dead": seen.dead + seen.revoked, "unknown": seen.unknown,
            }))).collect::<BTreeMap<_, _>>(),
        });
        println!("{figures:#}");
        if let Some(file) = evidence() {
            fs::write(file, format!("{figures:#}\n")).expect("the figures are written");
        }

        assert!(failed.is_empty(), "{failed:#?}");
        for (service, seen) in presented {
            assert_eq!((seen.dead, seen.revoked, seen.unknown), (0, 0, 0), "{service}: {seen:?}");
            assert!(seen.live > 0, "{service} saw no token");
        }
        assert!(used >= 3, "{used} tokens are not several lives");
        if evidence().is_some() {
            let old_and_new =
                programs("git").iter().map(|git| retries(&world, git)).collect::<Vec<_>>();
            assert!(
                old_and_new.contains(&false) && old_and_new.contains(&true),
                "the claim is about a git before 2.46 and one after it: put both into PATH"
            );
        }
    });
}
