//! One of the loops that run side by side: clone, commit and push, ask the REST interface, read the
//! token. They differ in where the token comes from; one that is for a single repository is tried on
//! another as well.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::cmd::demo::app;
use crate::cmd::demo::place::{Place, quoted};
use crate::cmd::demo::process::{Finished, run};
use crate::cmd::demo::tools::{Asker, Tools};
use crate::demo::Demo;
use crate::demo::ledger::Verdict;
use crate::secret::Secret;

/// gh's name for a mock on plain http; its configuration leads it to the demo's Unix socket.
pub(super) const MOCK_HOST: &str = "github.localhost";

/// The pause between two rounds.
const PAUSE: Duration = Duration::from_millis(400);

/// Where a lane's token comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Read from the mount at each use.
    Mounted,
    /// Put into the environment at the start.
    Frozen,
    /// Minted by the demo's App for one repository, while a file below `repos/` is being opened.
    Repository,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Mounted => "mounted",
            Self::Frozen => "frozen",
            Self::Repository => "repository",
        }
    }

    /// Where its token's views are, if it reads any.
    pub(super) fn views(self, place: &Place) -> Option<PathBuf> {
        match self {
            Self::Mounted => Some(place.mount()),
            Self::Frozen => None,
            Self::Repository => Some(app::views(place)),
        }
    }

    /// The path of the REST interface that it asks for.
    fn asks_for(self) -> String {
        match self {
            Self::Mounted | Self::Frozen => "/user".to_owned(),
            Self::Repository => format!("/repos/{}", app::REPOSITORY),
        }
    }

    /// What it does in each round.
    pub(super) fn operations(self) -> &'static [Operation] {
        match self {
            Self::Mounted | Self::Frozen => {
                Operation::ALL.split_at(Operation::Elsewhere as usize).0
            }
            Self::Repository => &Operation::ALL,
        }
    }
}

/// What a lane does in each round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// `git clone`.
    Clone,
    /// `git commit`, `git push`.
    Push,
    /// `gh api /user`, or `/repos/OWNER/REPO` with a token that is for this repository alone.
    Ask,
    /// Read the token; it must be live at the issuer.
    Read,
    /// Ask for a repository that the token is not for: 404 is right, and nothing else.
    Elsewhere,
}

impl Operation {
    pub(super) const ALL: [Self; 5] =
        [Self::Clone, Self::Push, Self::Ask, Self::Read, Self::Elsewhere];

    pub(super) fn label(self, kind: Kind, asker: Asker) -> &'static str {
        match (self, kind, asker) {
            (Self::Clone, _, _) => "git clone",
            (Self::Push, _, _) => "git commit, push",
            (Self::Ask, Kind::Repository, Asker::Gh) => "gh api /repos/…",
            (Self::Ask, _, Asker::Gh) => "gh api /user",
            (Self::Ask, Kind::Repository, Asker::Curl) => "curl …/repos/…",
            (Self::Ask, _, Asker::Curl) => "curl …/user",
            (Self::Read, Kind::Frozen, _) => "echo $GH_TOKEN",
            (Self::Read, _, _) => "cat token",
            (Self::Elsewhere, _, _) => "other repo: 404",
        }
    }

    /// Whatever the lane.
    pub(super) fn short(self, asker: Asker) -> &'static str {
        match (self, asker) {
            (Self::Clone, _) => "git clone",
            (Self::Push, _) => "git push",
            (Self::Ask, Asker::Gh) => "gh api",
            (Self::Ask, Asker::Curl) => "curl",
            (Self::Read, _) => "read the token",
            (Self::Elsewhere, _) => "other repo 404",
        }
    }
}

/// How often an operation worked and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) worked: u64,
    pub(super) failed: u64,
}

/// What a lane has done so far.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    /// The token that it used last.
    pub(super) token: Option<Secret>,
    /// How often another token came in the place of one.
    pub(super) rotations: u64,
    tallies: [Tally; Operation::ALL.len()],
    /// What the last failure said.
    pub(super) last_failure: Option<String>,
}

impl State {
    pub(super) fn tally(&self, operation: Operation) -> Tally {
        self.tallies.get(operation as usize).copied().unwrap_or_default()
    }
}

/// See the module.
pub(super) struct Lane {
    pub(super) kind: Kind,
    state: Mutex<State>,
}

impl Lane {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, state: Mutex::default() }
    }

    /// The lane's repository at the git server.
    pub(super) fn repository(&self) -> String {
        match self.kind {
            Kind::Mounted | Kind::Frozen => format!("{}.git", self.kind.name()),
            Kind::Repository => format!("{}.git", app::REPOSITORY),
        }
    }

    pub(super) fn state(&self) -> State {
        self.lock().clone()
    }

    /// Goes round until told to stop. Each command takes one of the `turns`.
    ///
    /// # Errors
    /// A command cannot be run at all. That one fails is no error, it is counted.
    pub(super) async fn run(
        &self,
        place: &Place,
        demo: &Demo,
        tools: &Tools,
        turns: &Semaphore,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let bench = Bench::prepare(self, place, demo, tools).await?;
        let clone = async |name| bench.git(&["clone", "--quiet", &bench.url, name]).await;
        let turn = async || turns.acquire().await.context("the demo is over");
        let began = turn().await?;
        self.note(Operation::Clone, clone("work").await?);
        drop(began);
        let mut round = 0;
        while !stop.is_cancelled() {
            round += 1;
            let began = turn().await?;
            self.note(Operation::Push, bench.push(&format!("Round {round}")).await?);
            drop(began);
            let began = turn().await?;
            self.note(Operation::Ask, run(&mut bench.ask(&self.kind.asks_for())).await?);
            drop(began);
            let began = turn().await?;
            self.read(&bench, demo).await?;
            drop(began);
            if self.kind == Kind::Repository {
                let began = turn().await?;
                let asked = run(&mut bench.ask(&format!("/repos/{}", app::OTHER))).await?;
                self.note(Operation::Elsewhere, not_found(asked));
                drop(began);
            }
            let began = turn().await?;
            self.note(Operation::Clone, clone("again").await?);
            drop(began);
            let again = bench.home.join("again");
            if again.exists() {
                std::fs::remove_dir_all(again)?;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
        Ok(())
    }

    /// Reads the token as this lane's programs do, and asks the issuer about it.
    async fn read(&self, bench: &Bench<'_>, demo: &Demo) -> io::Result<()> {
        let mut read = run(&mut bench.read()).await?;
        match Secret::new(std::mem::take(&mut read.stdout)) {
            Ok(token) => {
                let verdict = demo.ledger().verdict(token.expose());
                if verdict != Verdict::Live {
                    read.success = false;
                    read.said = Some(format!("the token is {verdict:?}").to_lowercase());
                }
                let mut state = self.lock();
                if state.token.as_ref().is_some_and(|before| *before != token) {
                    state.rotations += 1;
                }
                state.token = Some(token);
            }
            Err(error) => {
                read.success = false;
                read.said = Some(read.said.unwrap_or_else(|| error.to_string()));
            }
        }
        self.note(Operation::Read, read);
        Ok(())
    }

    fn note(&self, operation: Operation, finished: Finished) {
        let mut state = self.lock();
        if let Some(tally) = state.tallies.get_mut(operation as usize) {
            if finished.success {
                tally.worked += 1;
                return;
            }
            tally.failed += 1;
        }
        let said = finished.said.unwrap_or_else(|| "it failed without a word".to_owned());
        state.last_failure = Some(masked(&said));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the answer was 404, as it has to be for a repository that the token is not for.
fn not_found(asked: Finished) -> Finished {
    // As gh and curl end their lines.
    let ends = ["(HTTP 404)", "error: 404"];
    let is_404 = asked.said.as_ref().is_some_and(|said| ends.iter().any(|end| said.ends_with(end)));
    let said = if asked.success {
        Some("the token was good for another repository, too".to_owned())
    } else {
        asked.said
    };
    Finished { success: !asked.success && is_404, said, ..asked }
}

/// What a program said, fit to be shown: no control characters, and no token, should it have printed
/// one.
fn masked(said: &str) -> String {
    let words = said.split_whitespace().map(|word| if word.contains("ghs_") { "…" } else { word });
    words.collect::<Vec<_>>().join(" ").replace(char::is_control, "")
}

/// What the commands of a lane have in common.
struct Bench<'a> {
    tools: &'a Tools,
    home: PathBuf,
    url: String,
    api: String,
    /// Of its token, if it reads it from there.
    views: Option<PathBuf>,
    environment: Vec<(&'static str, std::ffi::OsString)>,
}

impl<'a> Bench<'a> {
    async fn prepare(
        lane: &Lane,
        place: &Place,
        demo: &Demo,
        tools: &'a Tools,
    ) -> anyhow::Result<Self> {
        let kind = lane.kind;
        let home = place.home(kind.name());
        std::fs::create_dir(&home).context("cannot make a home for a lane")?;
        let mut environment = vec![
            ("HOME", home.clone().into_os_string()),
            ("LANG", "C.UTF-8".into()),
            ("GIT_CONFIG_NOSYSTEM", "1".into()),
            ("GIT_TERMINAL_PROMPT", "0".into()),
            ("GH_HOST", MOCK_HOST.into()),
            ("GH_CONFIG_DIR", place.gh_config().into()),
            ("GH_NO_UPDATE_NOTIFIER", "1".into()),
            ("NO_COLOR", "1".into()),
        ];
        let views = kind.views(place);
        let helper = if let Some(views) = &views {
            let mut path = place.bin().into_os_string();
            path.push(":");
            path.push(&tools.path);
            environment.push(("PATH", path));
            environment.push(("GH_TOKEN_FILE", views.join("token").into()));
            format!("!cat {} #", quoted(&views.join("git-credential")))
        } else {
            let token = demo.ledger().issue().secret;
            environment.push(("PATH", tools.path.clone()));
            for name in ["GH_TOKEN", "GITHUB_TOKEN"] {
                environment.push((name, token.expose_str().into()));
            }
            lane.lock().token = Some(token);
            "!f() { echo username=x-access-token; echo \"password=$GITHUB_TOKEN\"; }; f".to_owned()
        };
        let bench = Self {
            tools,
            home,
            url: format!("{}/git/{}", demo.url(), lane.repository()),
            api: demo.url().to_owned(),
            views,
            environment,
        };
        let key = format!("credential.{}.helper", demo.url());
        for setting in [
            ["user.name", "The demo"],
            ["user.email", "demo@localhost"],
            // The empty one first: no other helper may keep the token (gitcredentials(7)).
            [&key, ""],
            [&key, &helper],
        ] {
            let [name, value] = setting;
            let set = bench.git(&["config", "--global", "--add", name, value]).await?;
            anyhow::ensure!(set.success, "git config failed: {}", set.said.unwrap_or_default());
        }
        Ok(bench)
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(&self.home);
        command
    }

    async fn git(&self, arguments: &[&str]) -> io::Result<Finished> {
        run(self.command("git").args(arguments)).await
    }

    /// Commits, and pushes if that worked.
    async fn push(&self, message: &str) -> io::Result<Finished> {
        let commit = ["-C", "work", "commit", "--quiet", "--allow-empty", "-m", message];
        let commit = self.git(&commit).await?;
        if !commit.success {
            return Ok(commit);
        }
        self.git(&["-C", "work", "push", "--quiet"]).await
    }

    fn ask(&self, path: &str) -> Command {
        let url = format!("{}{path}", self.api);
        match (self.tools.asker, &self.views) {
            (Asker::Gh, views) => {
                let program = match views {
                    Some(_) => OsStr::new("gh"),
                    // With nothing before it that would give it a fresh token.
                    None => self.tools.gh.as_os_str(),
                };
                let mut command = self.command(program);
                command.args(["api", path]);
                command
            }
            (Asker::Curl, Some(views)) => {
                let mut header = std::ffi::OsString::from("@");
                header.push(views.join("header"));
                let mut command = self.command("curl");
                command.args(["-fsS", "-H"]).arg(header).arg(url);
                command
            }
            (Asker::Curl, None) => {
                // Through a pipe: other users can read arguments.
                let line = "printf 'Authorization: Bearer %s\\n' \"$GH_TOKEN\" | \
                            curl -fsS -H @- \"$1\"";
                let mut command = self.command("sh");
                command.args(["-c", line, "sh", &url]);
                command
            }
        }
    }

    fn read(&self) -> Command {
        if let Some(views) = &self.views {
            let mut command = self.command("cat");
            command.arg(views.join("token"));
            command
        } else {
            let mut command = self.command("sh");
            command.args(["-c", "printf %s \"$GH_TOKEN\""]);
            command
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::demo::Setup;

    #[test]
    fn what_a_program_said_is_shown_without_tokens_and_control_characters() {
        assert_eq!(masked("refused:\tghs_abc \u{1b}[31mwhy"), "refused: … [31mwhy");
    }

    #[test]
    fn only_a_404_is_right_for_another_repository() {
        let asked = |success, said: Option<&str>| {
            let said = said.map(str::to_owned);
            not_found(Finished { success, stdout: Vec::new(), said })
        };
        for said in ["gh: Not Found (HTTP 404)", "curl: (22) The requested URL returned error: 404"]
        {
            assert!(asked(false, Some(said)).success, "{said}");
        }
        let served = asked(true, None);
        assert!(!served.success && served.said.unwrap().contains("another repository"));
        for said in [Some("gh: Bad credentials (HTTP 401)"), Some("connect to port 40404"), None] {
            let asked = asked(false, said);
            assert!(!asked.success && asked.said.as_deref() == said, "{said:?}");
        }
    }

    /// What a mount shows, as files that are replaced: the lanes see no difference.
    fn rotate(demo: &Demo, mount: &Path) {
        let token = demo.ledger().issue().secret;
        let token = token.expose_str();
        let credential = format!("username=x-access-token\npassword={token}\n");
        let header = format!("Authorization: Bearer {token}\n");
        for (name, text) in [("token", token), ("git-credential", &credential), ("header", &header)]
        {
            fs::write(mount.join(crate::files::MARKER), "").unwrap();
            fs::write(mount.join(".new"), text).unwrap();
            fs::rename(mount.join(".new"), mount.join(name)).unwrap();
        }
    }

    #[tokio::test]
    async fn a_rotating_token_never_fails_and_a_frozen_one_does_when_its_life_is_over() {
        let tools = Tools::find().unwrap();
        let place = Place::create().unwrap();
        let demo = Demo::start(Setup {
            unix_socket: Some(place.socket()),
            git_root: Some(place.directory("repositories").unwrap()),
            ..Setup::with_life(Duration::from_secs(4))
        })
        .unwrap();
        let [mounted, frozen] = [Kind::Mounted, Kind::Frozen].map(Lane::new);
        for lane in [&mounted, &frozen] {
            demo.create_repository(&lane.repository()).unwrap();
        }
        rotate(&demo, &place.mount());
        let (stop, turns) = (CancellationToken::new(), Semaphore::new(2));
        let have_worked = || {
            let (mounted, frozen) = (mounted.state(), frozen.state());
            let mut operations = Kind::Mounted.operations().iter();
            mounted.rotations >= 2
                && operations.all(|operation| {
                    mounted.tally(*operation).worked >= 2 && frozen.tally(*operation).failed >= 1
                })
        };
        let rotation = async {
            // As many as a busy machine needs.
            for number in 1.. {
                tokio::time::sleep(Duration::from_secs(1)).await;
                rotate(&demo, &place.mount());
                if number >= 6 && have_worked() {
                    break;
                }
            }
            stop.cancel();
            Ok(())
        };
        let all = async {
            tokio::try_join!(
                mounted.run(&place, &demo, &tools, &turns, &stop),
                frozen.run(&place, &demo, &tools, &turns, &stop),
                rotation,
            )
        };
        tokio::time::timeout(Duration::from_mins(1), all).await.unwrap().unwrap();

        let (mounted, frozen) = (mounted.state(), frozen.state());
        assert!(mounted.rotations >= 2, "{}", mounted.rotations);
        for &operation in Kind::Mounted.operations() {
            let (ours, theirs) = (mounted.tally(operation), frozen.tally(operation));
            assert!(ours.worked >= 2 && ours.failed == 0, "{operation:?} {mounted:?}");
            assert!(theirs.worked >= 1 && theirs.failed >= 1, "{operation:?} {frozen:?}");
        }
        assert_eq!(frozen.rotations, 0);
        let refused = demo.ledger().entry(frozen.token.unwrap().expose()).unwrap().refused;
        assert_eq!(demo.ledger().counts().refused(), refused, "only the frozen token was refused");
    }
}
