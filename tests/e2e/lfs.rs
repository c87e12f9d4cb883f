//! git-lfs, wired by `setup git` alone, in a fetch that outlives several tokens.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use molecule_tokenfs::demo::faults::Service;
use molecule_tokenfs::demo::ledger::Verdicts;
use molecule_tokenfs::time::{Clock, SystemClock};

use crate::git::{git, set_up};
use crate::support::namespace::sandboxed;
use crate::support::process::{Finished, run};
use crate::support::{millis, secs};
use crate::world::World;

/// How long the tokens live.
const LIFE: Duration = secs(5);

/// How long the server takes for an answer. It judges the token before.
const LATENCY: Duration = millis(900);

/// A repository with large files, and a clone that has no more than their pointers.
struct Large {
    world: World,
    home: PathBuf,
    clone: PathBuf,
}

/// What became of a fetch.
struct Fetched {
    finished: Finished,
    took: Duration,
    /// What the server was shown meanwhile.
    seen: Verdicts,
    /// How many of the tokens that it accepted had died by the end.
    outlived: usize,
}

impl Large {
    fn new(files: usize) -> Self {
        let world = World::of_life(LIFE, "2s");
        let url = world.demo.create_repository("large.git").unwrap();
        let (home, clone) = (world.dir.folder("home"), world.dir.join("clone"));
        set_up(&world, &home);
        let large = Self { world, home, clone };
        for (key, value) in [
            ("user.name", "somebody"),
            ("user.email", "somebody@example.com"),
            ("lfs.concurrenttransfers", "2"),
        ] {
            large.git(&["config", "--global", key, value]);
        }
        large.git(&["lfs", "install", "--skip-repo"]);

        let origin = large.world.dir.join("origin");
        let path = origin.to_str().unwrap();
        large.git(&["clone", "-q", &url, path]);
        large.git(&["-C", path, "lfs", "track", "*.bin"]);
        for number in 0..files {
            fs::write(origin.join(format!("{number}.bin")), contents(number)).unwrap();
        }
        large.git(&["-C", path, "add", "."]);
        large.git(&["-C", path, "commit", "-q", "-m", "Large files"]);
        large.git(&["-C", path, "push", "-q", "origin", "HEAD"]);
        let stored = large.world.demo.ledger().counts().service("lfs");
        assert!(stored.live > files as u64, "each file was put: {stored:?}");

        let clone = large.clone.to_str().unwrap();
        large.git(&["clone", "-q", "--no-checkout", &url, clone]);
        large
    }

    /// Runs git, which must end well, outside the clone.
    fn git(&self, words: &[&str]) {
        git(&self.world, &self.home, Path::new("git"), words).ok();
    }

    /// Fetches every large file, slowly, under this setting of git's.
    #[expect(clippy::disallowed_methods, reason = "real programs run in real time")]
    fn fetch(&self, setting: &str) -> Fetched {
        let (faults, ledger) = (self.world.demo.faults(), self.world.demo.ledger());
        let mut command = self.world.command("git");
        command.env("HOME", &self.home).arg("-C").arg(&self.clone);
        command.args(["-c", setting, "lfs", "fetch", "origin", "main"]);
        faults.latency(Service::Lfs, LATENCY);
        let (before, start) = (ledger.report(), Instant::now());
        let finished = run(command, &self.world.dir, secs(60));
        let (took, after, end) = (start.elapsed(), ledger.report(), SystemClock.now().boot);
        faults.heal();
        let (old, new) = (before.counts.service("lfs"), after.counts.service("lfs"));
        let seen = Verdicts {
            live: new.live - old.live,
            dead: new.dead - old.dead,
            revoked: new.revoked - old.revoked,
            unknown: new.unknown - old.unknown,
            missing: new.missing - old.missing,
            out_of_scope: new.out_of_scope - old.out_of_scope,
        };
        let accepted_before = before.tokens.iter().map(|token| token.accepted);
        let accepted = after.tokens.iter().zip(accepted_before.chain(std::iter::repeat(0)));
        let accepted = accepted.filter(|(token, before)| token.accepted > *before);
        let outlived = accepted.filter(|(token, _)| !token.live_at(end)).count();
        Fetched { finished, took, seen, outlived }
    }
}

/// What a large file holds.
fn contents(number: usize) -> Vec<u8> {
    format!("large file {number}\n").repeat(5_000).into_bytes()
}

#[test]
fn a_fetch_of_three_lives_shows_the_server_no_dead_token() {
    sandboxed(secs(100), || {
        let files = 30;
        let large = Large::new(files);
        // As it is: the setting that `setup git` made is one of others.
        let Fetched { finished, took, seen, outlived } = large.fetch("color.ui=false");
        println!("{took:?}: {seen:?}, {outlived} tokens outlived");
        finished.ok();
        assert_eq!(seen.refused(), 0, "{seen:?}");
        assert!(seen.live > files as u64, "each file and their list cost a request: {seen:?}");
        assert!(took >= 3 * LIFE, "{took:?} is no three lives of a token");
        assert!(outlived >= 3, "only {outlived} of the tokens that it used died meanwhile");

        // Without a server: what was fetched is all that there is.
        let clone = large.clone.to_str().unwrap();
        large.git(&["-C", clone, "-c", "lfs.url=http://127.0.0.1:9/", "checkout", "-q", "main"]);
        for number in 0..files {
            let file = fs::read(large.clone.join(format!("{number}.bin"))).unwrap();
            assert!(file == contents(number), "{number}.bin is not what was pushed");
        }
    });
}

#[test]
fn without_the_setting_that_setup_makes_the_server_is_shown_a_dead_token() {
    sandboxed(secs(60), || {
        let Fetched { finished, seen, .. } = Large::new(14).fetch("lfs.cachecredentials=true");
        assert!(seen.dead > 0, "{seen:?} {finished:?}");
        println!("{seen:?} {finished:?}");
    });
}
