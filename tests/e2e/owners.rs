//! Two owners and three repositories behind one mount, for several lives of their tokens: git, git-lfs,
//! submodules, partial clones and gh send no dead token and none of another owner or repository.
//!
//! The gate runs this for two lives of ten seconds; `scripts/evidence owners` for 90 s with lives of
//! twenty, and keeps the figures.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use molecule_tokenfs::demo::ledger::Verdicts;
use serde_json::json;

use crate::git::{Helper, git, retries};
use crate::loops::{Done, ghs, over_and_over, passed};
use crate::support::daemon::PROGRAM;
use crate::support::limit::Adopt;
use crate::support::namespace::sandboxed;
use crate::support::{millis, secs};
use crate::world::{REPOSITORIES, World, programs, url};

const OWNERS: [&str; 2] = ["acme", "globex"];
/// What each repository has under this name, beside what its owner's scene puts there.
const FILE: &str = "large.bin";

/// The file that `scripts/evidence owners` wants the figures in.
#[expect(clippy::disallowed_methods, reason = "how scripts/evidence asks for more")]
fn evidence() -> Option<PathBuf> {
    std::env::var_os("MOLECULE_OWNERS_JSON").map(PathBuf::from)
}

/// How long: so many seconds as `scripts/evidence owners` says, or what the gate can bear.
#[expect(clippy::disallowed_methods, reason = "how scripts/evidence asks for more")]
fn length() -> Duration {
    let seconds = std::env::var("MOLECULE_OWNERS_SECONDS").ok();
    seconds.map_or(secs(25), |seconds| secs(seconds.parse().expect("a number of seconds")))
}

/// How long the tokens live, and how much of that is left at an open at least.
fn life() -> (Duration, &'static str) {
    if length() > secs(60) { (secs(20), "8s") } else { (secs(10), "4s") }
}

/// Wires the git of this home, as the manual says, to take the token of the repository or owner.
fn wire(world: &World, home: &Path, helper: Helper) {
    let mut setup = world.command(PROGRAM);
    setup.env("HOME", home).args(["setup", "git", "--host", world.demo.host(), "--mountpoint"]);
    setup.arg(world.daemon.mountpoint());
    let set = |option: &str, key: &str, value: &str| {
        git(world, home, Path::new("git"), &["config", "--global", option, key, value]).ok();
    };
    match helper {
        Helper::OneLiner => {}
        Helper::Binary => _ = setup.arg("--by-repository"),
        Helper::Shell => {
            setup.arg("--by-repository").arg("--shell-helper").arg(home.join("helper"));
        }
    }
    world.run(setup).ok();
    if let Helper::OneLiner = helper {
        for owner in OWNERS {
            let key = format!("credential.{}/git/{owner}", world.demo.url());
            let view = world.daemon.path(&format!("{owner}/git-credential"));
            set("--replace-all", &format!("{key}.helper"), "");
            set("--add", &format!("{key}.helper"), &format!("!cat {} #", view.display()));
            set("--replace-all", &format!("{key}.useHttpPath"), "true");
        }
    }
    for (key, value) in [("user.name", "somebody"), ("user.email", "somebody@example.com")] {
        set("--replace-all", key, value);
    }
    git(world, home, Path::new("git"), &["lfs", "install", "--skip-repo"]).ok();
}

/// What a round takes: each of these in turn.
fn turn<T>(of: &[T], round: usize) -> &T {
    of.iter().cycle().nth(round).unwrap()
}

/// What goes on at once: its name, what became of it, and how many blobs were fetched after a life.
type Task<'a> = Box<dyn FnOnce() -> (String, Done, usize) + Send + 'a>;

/// The scene: a home for each helper, and what is done in it.
struct Scene {
    world: World,
    homes: [PathBuf; 3],
}

/// A clone with a name of its own, in which git runs.
struct Clone<'a> {
    world: &'a World,
    home: PathBuf,
    program: PathBuf,
    path: PathBuf,
}

impl Clone<'_> {
    fn git(&self, words: &[&str]) -> Result<String, String> {
        let words = [&["-C", self.path.to_str().unwrap()], words].concat();
        passed(git(self.world, &self.home, &self.program, &words))
    }

    fn read(&self, file: &str) -> Result<String, String> {
        fs::read_to_string(self.path.join(file)).map_err(|error| format!("{file}: {error}"))
    }
}

impl Drop for Clone<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Scene {
    fn new() -> Self {
        let (life, min_life) = life();
        let world = World::of_two_owners(life, min_life);
        let homes = Helper::ALL.map(|helper| {
            let home = world.dir.folder(&format!("home-{}", helper.name()));
            wire(&world, &home, helper);
            home
        });
        let scene = Self { world, homes };
        for repository in REPOSITORIES.into_iter().rev() {
            scene.fill(repository, (repository == "acme/web").then_some("globex/docs"));
        }
        scene
    }

    /// Commits a file for git-lfs, and a submodule of another owner.
    fn fill(&self, repository: &str, submodule: Option<&str>) {
        let bare = self.world.dir.join("repositories").join(format!("{repository}.git"));
        let allow = ["-C", bare.to_str().unwrap(), "config", "uploadpack.allowFilter", "true"];
        git(&self.world, &self.homes[0], Path::new("git"), &allow).ok();
        let clone = self.clone(&self.homes[0], Path::new("git"), repository, "fill", &[]).unwrap();
        let run = |words: &[&str]| clone.git(words).unwrap();
        run(&["lfs", "track", FILE]);
        fs::write(clone.path.join(FILE), format!("the large file of {repository}\n")).unwrap();
        fs::write(clone.path.join("README"), format!("this is {repository}\n")).unwrap();
        if let Some(submodule) = submodule {
            run(&["submodule", "--quiet", "add", &url(&self.world.demo, submodule), "other"]);
        }
        run(&["add", "."]);
        run(&["commit", "-q", "-m", "The scene"]);
        run(&["push", "-q", "origin", "HEAD:main"]);
    }

    /// Clones with this home and program, into a directory of this name.
    fn clone(
        &self,
        home: &Path,
        program: &Path,
        repository: &str,
        name: &str,
        options: &[&str],
    ) -> Result<Clone<'_>, String> {
        let path = home.join(format!("{}-{name}", repository.replace('/', "-")));
        let (world, source) = (&self.world, url(&self.world.demo, repository));
        let (home, program) = (home.to_owned(), program.to_owned());
        let clone = Clone { world, home, program, path };
        let words = [&["clone", "-q"], options, &[&source, clone.path.to_str().unwrap()]].concat();
        passed(git(world, &clone.home, &clone.program, &words))?;
        Ok(clone)
    }

    /// Does it over and over with each git, in the home of each helper in turn, `per_home` rounds in each.
    fn gits(&self, mut operation: impl FnMut(&Path, &Path, usize) -> Result<(), String>) -> Done {
        let programs = programs("git");
        over_and_over(&self.world, length(), &programs, |program, round| {
            let round = round / programs.len();
            let home = turn(&self.homes, round);
            operation(home, program, round)
                .map_err(|said| format!("{}: {said}", home.file_name().unwrap().display()))
        })
    }

    /// Clones each repository in turn, commits, pushes to a branch of the helper's own, and looks.
    fn clone_commit_and_push(&self, home: &Path) -> Done {
        let branch = format!("refs/heads/{}", home.file_name().unwrap().display());
        over_and_over(&self.world, length(), &programs("git"), |program, round| {
            let repository = *turn(&REPOSITORIES, round);
            let clone = self.clone(home, program, repository, "push", &[])?;
            let message = format!("round {round}");
            clone.git(&["commit", "-q", "--allow-empty", "-m", &message])?;
            clone.git(&["push", "-q", "--force", "origin", &format!("HEAD:{branch}")])?;
            let head = clone.git(&["rev-parse", "HEAD"])?;
            let pushed = clone.git(&["ls-remote", "origin", &branch])?;
            assert!(pushed.starts_with(head.trim()), "the server has {pushed}, not {head}");
            Ok(())
        })
    }

    /// Pushes a large file to each owner in turn, forgets it, and gets it again.
    fn large_files(&self) -> Done {
        self.gits(|home, program, round| {
            let repository = *turn(&["globex/docs", "acme/api"], round);
            let clone = self.clone(home, program, repository, "lfs", &[])?;
            let branch = format!("HEAD:refs/heads/lfs-{}", home.file_name().unwrap().display());
            let content = format!("{repository}, round {round} with {}\n", program.display());
            fs::write(clone.path.join(FILE), &content).unwrap();
            clone.git(&["commit", "-q", "-a", "-m", "A large file"])?;
            clone.git(&["push", "-q", "--force", "origin", &branch])?;
            fs::remove_dir_all(clone.path.join(".git/lfs/objects")).unwrap();
            fs::remove_file(clone.path.join(FILE)).unwrap();
            clone.git(&["checkout", "-q", "--", FILE])?;
            let got = clone.read(FILE)?;
            assert!(got == content, "{repository} has {got}, not {content}");
            Ok(())
        })
    }

    /// Clones acme's repository with its submodule of globex.
    fn submodules(&self) -> Done {
        self.gits(|home, program, _| {
            let clone =
                self.clone(home, program, "acme/web", "submodules", &["--recurse-submodules"])?;
            for (file, repository) in [("README", "acme/web"), ("other/README", "globex/docs")] {
                let text = clone.read(file)?;
                assert!(text == format!("this is {repository}\n"), "{file}: {text}");
            }
            Ok(())
        })
    }

    /// Clones without files, and gets them when the tokens of the clone are dead. Says how often.
    #[expect(clippy::disallowed_methods, reason = "real programs run in real time")]
    fn partial_clones(&self) -> (Done, usize) {
        let mut waiting: VecDeque<(Instant, &str, Clone<'_>)> = VecDeque::new();
        let (mut later, mut made) = (0, 0);
        let done = self.gits(|home, program, round| {
            let repository = *turn(&REPOSITORIES, round);
            made += 1;
            let name = format!("partial-{made}");
            let options = ["--filter=blob:none", "--no-checkout"];
            let clone = self.clone(home, program, repository, &name, &options)?;
            let lacks = clone.git(&["rev-list", "--objects", "--missing=print", "HEAD"])?;
            assert!(lacks.contains("\n?"), "{repository} was cloned whole: {lacks}");
            waiting.push_back((Instant::now(), repository, clone));
            thread::sleep(millis(500));
            while waiting.front().is_some_and(|(since, ..)| since.elapsed() > life().0) {
                let (_, repository, clone) = waiting.pop_front().unwrap();
                clone.git(&["checkout", "-q", "main"])?;
                let text = clone.read("README")?;
                assert!(text == format!("this is {repository}\n"), "{text}");
                later += 1;
            }
            Ok(())
        });
        (done, later)
    }

    /// Asks about each repository with each gh: by path, by `-R`, and in a clone with two remotes.
    fn ask_the_api(&self) -> Done {
        let world = &self.world;
        let ghs = ghs();
        let clone = world.dir.folder("two-remotes");
        let path = clone.to_str().unwrap();
        let set = |words: &[&str]| git(world, &self.homes[0], Path::new("git"), words).ok();
        set(&["init", "-q", path]);
        let remote = |name, repository| {
            let url = format!("http://github.localhost/{repository}.git");
            set(&["-C", path, "remote", "add", name, &url]);
        };
        remote("origin", "globex/docs");
        // It goes first.
        remote("upstream", "acme/api");
        let bin = world.dir.folder("shim");
        let mut setup = world.command(PROGRAM);
        setup.args(["setup", "gh", "--dir"]).arg(&bin);
        world.run(setup).ok();
        let shim = bin.join("gh");
        over_and_over(world, length(), &ghs, |program, round| {
            let repository = *turn(&REPOSITORIES, round / ghs.len());
            let full_name = |told: String, repository: &str| {
                assert!(told.trim() == repository, "{told}, not {repository}");
            };
            let mut gh = gh(world, program, &shim);
            gh.args(["api", &format!("repos/{repository}"), "--jq", ".full_name"]);
            full_name(passed(world.run(gh))?, repository);
            let mut gh = self::gh(world, program, &shim);
            gh.args(["workflow", "list", "-R", repository]);
            let listed = passed(world.run(gh))?;
            assert!(listed.contains("Test"), "{listed}");
            let mut gh = self::gh(world, program, &shim);
            gh.current_dir(&clone);
            gh.args(["api", "repos/{owner}/{repo}", "--jq", ".full_name"]);
            full_name(passed(world.run(gh))?, "acme/api");
            Ok(())
        })
    }
}

/// gh behind the shim, which finds out by itself whose token is wanted.
fn gh(world: &World, program: &Path, shim: &Path) -> Command {
    let mut gh = world.command(shim);
    gh.env("MOLECULE_REAL_GH", program).env("GH_TOKEN_FILE", world.daemon.path("token"));
    gh.env("GH_HOST", "github.localhost");
    gh
}

/// gh with the token of this repository, whatever it asks for.
fn gh_with(world: &World, program: &Path, repository: &str) -> Command {
    let mut gh = world.command("sh");
    gh.args(["-c", "GH_TOKEN=$(cat \"$TOKEN\") exec \"$0\" \"$@\""]).arg(program);
    gh.env("TOKEN", world.daemon.path(&format!("repos/{repository}/token")));
    gh.env("GH_HOST", "github.localhost");
    gh
}

/// Runs all of these at once.
fn at_once(tasks: Vec<Task<'_>>) -> Vec<(String, Done, usize)> {
    let adopt = Adopt::here();
    thread::scope(|scope| {
        let threads = tasks.into_iter().map(|task| {
            let adopt = adopt.clone();
            scope.spawn(move || {
                adopt.enter();
                task()
            })
        });
        let threads = threads.collect::<Vec<_>>();
        threads.into_iter().map(|thread| thread.join().expect("the loop ends")).collect()
    })
}

#[test]
fn two_owners_never_fail_and_no_dead_or_foreign_token_is_sent() {
    sandboxed(length() + secs(90), || {
        let scene = Scene::new();
        let before = scene.world.demo.ledger().counts();
        let mut tasks: Vec<Task<'_>> = Vec::new();
        for (helper, home) in Helper::ALL.into_iter().zip(&scene.homes) {
            let scene = &scene;
            let name = format!("git, {}", helper.name());
            tasks.push(Box::new(move || (name, scene.clone_commit_and_push(home), 0)));
        }
        tasks.push(Box::new(|| ("git-lfs".to_owned(), scene.large_files(), 0)));
        tasks.push(Box::new(|| ("submodules".to_owned(), scene.submodules(), 0)));
        tasks.push(Box::new(|| {
            let (done, later) = scene.partial_clones();
            ("partial clones".to_owned(), done, later)
        }));
        tasks.push(Box::new(|| ("gh".to_owned(), scene.ask_the_api(), 0)));
        let done = at_once(tasks);

        let ledger = scene.world.demo.ledger();
        let used = ledger.report().tokens.iter().filter(|token| token.accepted > 0).count();
        let presented = ["git", "lfs", "rest"].map(|name| (name, ledger.counts().service(name)));
        let failed = done.iter().flat_map(|(_, done, _)| &done.failed).collect::<Vec<_>>();
        let later: usize = done.iter().map(|(.., later)| later).sum();
        let sum =
            |of: fn(&Verdicts) -> u64| presented.iter().map(|(_, seen)| of(seen)).sum::<u64>();
        let passed = done.iter().flat_map(|(_, done, _)| done.passed.values()).sum::<usize>();
        let figures = json!({
            "seconds": length().as_secs(),
            "token_life_seconds": life().0.as_secs(),
            "installations": OWNERS.len(),
            "repositories": REPOSITORIES.len(),
            "operations": passed,
            "operations_by_scene": done.iter().map(|(name, done, _)| (name, &done.passed))
                .collect::<BTreeMap<_, _>>(),
            "failed_operations": failed.len(),
            "blobs_fetched_after_a_life": later,
            "tokens_used": used,
            "live_tokens_at_the_server": sum(|seen| seen.live),
            "dead_tokens_at_the_server": sum(|seen| seen.dead + seen.revoked + seen.unknown),
            "tokens_of_another_owner_or_repository_at_the_server": sum(|seen| seen.out_of_scope),
        });
        println!("{figures:#}");
        if let Some(file) = evidence() {
            fs::write(file, format!("{figures:#}\n")).expect("the figures are written");
        }

        assert!(failed.is_empty(), "{:#?}", failed.iter().take(12).collect::<Vec<_>>());
        for (service, seen) in presented {
            assert_eq!(seen.refused(), 0, "{service}: {seen:?}");
            assert!(seen.live > before.service(service).live, "{service}: {seen:?}");
        }
        assert!(done.iter().all(|(_, done, _)| !done.passed.is_empty()));
        assert!(later > 0, "no blob was fetched after the tokens of its clone had died");
        assert!(used >= 8, "{used} tokens are not several lives of each");
        if evidence().is_some() {
            let versions: Vec<_> =
                programs("git").iter().map(|git| retries(&scene.world, git)).collect();
            assert!(
                versions.contains(&false) && versions.contains(&true),
                "the claim is about a git before 2.46 and one after it: put both into PATH"
            );
        }
    });
}

#[test]
fn a_token_of_another_owner_is_refused_and_counted() {
    sandboxed(secs(60), || {
        let scene = Scene::new();
        let home = scene.world.dir.folder("home-default");
        let mut setup = scene.world.command(PROGRAM);
        setup.env("HOME", &home).args(["setup", "git", "--host", scene.world.demo.host()]);
        setup.arg("--mountpoint").arg(scene.world.daemon.mountpoint());
        scene.world.run(setup).ok();
        let refused = scene.clone(&home, Path::new("git"), "globex/docs", "refused", &[]);
        assert!(refused.is_err_and(|said| said.contains("not found")));
        let mut gh = gh_with(&scene.world, &programs("gh")[0], "acme/web");
        gh.args(["api", "repos/acme/api"]);
        assert!(!scene.world.run(gh).status.success());
        // git-lfs does not say the path unless it is told to, and so gets the token of the mount itself.
        let key = format!("credential.{}/git/globex.useHttpPath", scene.world.demo.url());
        let home = &scene.homes[0];
        git(&scene.world, home, Path::new("git"), &["config", "--global", "--unset", &key]).ok();
        let refused = scene.clone(home, Path::new("git"), "globex/docs", "lfs", &[]);
        assert!(refused.is_err_and(|said| said.contains("smudge")));
        let counts = scene.world.demo.ledger().counts();
        let seen = ["git", "rest", "lfs"].map(|name| counts.service(name).out_of_scope);
        assert_eq!(seen[..2], [1, 1], "{counts:?}");
        assert!(seen[2] > 0, "{counts:?}");
    });
}

#[test]
fn the_command_of_run_takes_the_token_of_the_repository_at_hand() {
    sandboxed(secs(60), || {
        let world = World::of_two_owners(secs(3600), "60s");
        for (round, repository) in REPOSITORIES.into_iter().enumerate() {
            let mut run = world.command(PROGRAM);
            run.args(["run", "--no-system-wide", "--config"]).arg(world.dir.join("tokenfs.toml"));
            run.arg("--mountpoint").arg(world.dir.join(format!("run-{round}")));
            run.args(["--", "git", "ls-remote", &url(&world.demo, repository)]);
            assert!(world.run(run).ok().contains("refs/heads/main"), "{repository}");
        }
        let minted = world.demo.github().seen().into_iter().filter(|seen| seen.status == 201);
        let minted: Vec<_> = minted.map(|seen| seen.body["repositories"][0].clone()).collect();
        assert_eq!(minted, ["web", "api", "docs"], "each for its repository alone");
        assert_eq!(world.demo.ledger().counts().refused(), 0);
    });
}
