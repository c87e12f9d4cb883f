//! A daemon in one of its forms, with the agent, the platform and the readers around it.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, lchown};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use molecule_tokenfs::demo::ledger::Verdict;
use molecule_tokenfs::demo::{Demo, Setup};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::attacks::Attack;
use crate::judge;
use crate::log::Log;
use crate::platform::{Front, ROOTS_SECRET};
use crate::readers::Readers;
use crate::resources::{Resources, workers};
use crate::server::{Server, enterer, outside, start};
use crate::support::dir::TestDir;
use crate::support::limit::Adopt;
use crate::support::opens::as_user;
use crate::support::process::{Finished, ORDINARY, run};
use crate::support::traps::Traps;
use crate::support::{eventually, millis, secs};
use crate::timeline::{Timeline, boot};
use crate::world::World;

/// How long an open waits.
pub const DEADLINE: Duration = secs(3);
/// How long tokens live, and what an open must find left.
pub const LIFE: Duration = secs(4);
pub const MIN_LIFE: Duration = millis(300);
/// A group that may read the tokens, a user in it, and one who is in none.
pub const GROUP: u32 = 2000;
pub const MEMBER: u32 = 1001;
pub const STRANGER: u32 = 1002;
/// By when a token is served again after an attack has ended: a failure may be retried after 30 seconds
/// only (docs/FRESHNESS.md), though whoever writes to `refresh` need not wait for that.
const RECOVERED: Duration = secs(45);
/// By when the daemon has given back what it took.
const SETTLED: Duration = secs(20);

/// How the tokens are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `mount`.
    Mounted,
    /// `run` as the first process of a process namespace.
    FirstProcess,
    /// `mount` with the backend `files`.
    Files,
}

impl Form {
    pub const ALL: [Self; 3] = [Self::Mounted, Self::FirstProcess, Self::Files];
    pub const FUSE: [Self; 2] = [Self::Mounted, Self::FirstProcess];
    /// Those whose mounts the test sees.
    pub const HERE: [Self; 2] = [Self::Mounted, Self::Files];
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mounted => "mounted",
            Self::FirstProcess => "first process",
            Self::Files => "files",
        })
    }
}

/// What is done to each daemon at last.
const LOG_IS_GONE: &str = "the log's reader is gone";

/// See the module.
pub struct Scene<'a> {
    pub world: &'a World,
    pub form: Form,
    /// The agent's name.
    pub user: String,
    pub demo: Demo,
    pub front: Front,
    pub log: Log,
    pub agent: Agent,
    pub traps: Traps,
    long: bool,
    server: Server,
    readers: Readers,
    before: Resources,
    after: Resources,
    bearer: String,
    timeline: Timeline,
    harm: Vec<String>,
    most_workers: usize,
    over: bool,
    /// The supervisor has ended.
    dead: bool,
    /// What of the agent's root ran or wrote when it started.
    started: Option<String>,
    /// How often root ran or wrote something of the agent's.
    runs_as_root: u64,
}

/// One at a time writes to the list of users.
static USERS: Mutex<()> = Mutex::new(());

impl<'a> Scene<'a> {
    /// Starts a daemon of this form with a number of its own, lets it come to rest, and notes what it has then.
    pub fn start(world: &'a World, form: Form, number: usize, long: bool) -> Self {
        let user = format!("agent-{}-{number}", form.to_string().replace(' ', "-"));
        let traps = {
            let _alone = USERS.lock().unwrap();
            Traps::lay(TestDir::new(), &user)
        };
        let dir = &traps.dir;
        let secret = dir.file("secret", ROOTS_SECRET);
        fs::set_permissions(secret, fs::Permissions::from_mode(0o600)).unwrap();
        let demo = Demo::start(Setup::with_life(LIFE)).expect("the demo platform starts");
        let front = Front::start(demo.host());
        register(&demo, dir);
        let bearer = fs::read_to_string(dir.join("configs/.auth_token")).unwrap();
        let agent = Agent::prepare(dir);
        let (reader, errors) =
            if form == Form::FirstProcess { Log::pipe() } else { Log::terminal() };
        let platform =
            [("PLATFORM_URL", front.url()), ("WORKSPACE_ID", demo.address().workspace_id.as_str())];
        let server = start(world, form, &traps, &agent, &platform, errors);
        let enter = enterer(&server);
        let mountpoint = dir.join("token");
        let mut paths = vec![(ORDINARY, ORDINARY, "token"), (MEMBER, GROUP, "token")];
        if form != Form::Files {
            paths.push((MEMBER, GROUP, "live/token"));
        }
        let paths: Vec<_> = paths
            .into_iter()
            .map(|(user, group, name)| (user, group, mountpoint.join(name)))
            .collect();
        let outside = outside(&server, &mountpoint);
        eventually("a token", secs(20), || fs::read(outside.join("token")).ok());
        let readers = Readers::start(dir, &paths, enter);
        let mut scene = Self {
            world,
            form,
            user,
            demo,
            front,
            log: reader,
            agent,
            long,
            server,
            readers,
            before: Resources::default(),
            after: Resources::default(),
            bearer,
            timeline: Timeline::default(),
            harm: Vec::new(),
            most_workers: 0,
            over: false,
            dead: false,
            started: None,
            runs_as_root: 0,
            traps,
        };
        // By then all threads and connections are there.
        std::thread::sleep(secs(2));
        scene.before = Resources::of(scene.supervisor());
        scene.started = scene.touched();
        scene
    }

    pub fn dir(&self) -> &TestDir {
        &self.traps.dir
    }

    /// The mountpoint, as the daemon's namespace has it.
    pub fn mountpoint(&self) -> PathBuf {
        self.dir().join("token")
    }

    /// The path of something in the mount, from here.
    pub fn outside(&self, name: &str) -> PathBuf {
        outside(&self.server, &self.mountpoint()).join(name)
    }

    pub fn configs(&self) -> PathBuf {
        self.dir().join("configs")
    }

    pub fn bearer_file(&self) -> PathBuf {
        self.dir().join("configs/.auth_token")
    }

    pub fn supervisor(&self) -> Pid {
        match &self.server {
            Server::Daemon(daemon, _) => daemon.pid(),
            Server::Container(container) => container.first,
        }
    }

    /// A command in the daemon's namespaces.
    pub fn enter(&self, words: &[&str]) -> Command {
        enterer(&self.server)(words)
    }

    /// Runs one to its end.
    pub fn run(&self, command: Command, limit: Duration) -> Finished {
        run(command, self.dir(), limit)
    }

    /// What of the agent's root has run or written since the last call.
    fn touched(&self) -> Option<String> {
        let touched = self.traps.touched();
        if touched.is_some() {
            self.traps.own_all();
        }
        touched
    }

    /// How long an attack goes on.
    pub fn span(&self, random: &mut StdRng) -> Duration {
        if self.world.alone {
            return LIFE + secs(2);
        }
        if self.long { millis(random.random_range(300..3000)) } else { millis(250) }
    }

    /// As many as this in the long form, a tenth of it in the gate's.
    pub fn many(&self, number: usize) -> usize {
        if self.long { number } else { number / 10 }
    }

    /// Puts something in the bearer's place by a rename, with the agent's rights.
    pub fn put(&self, make: impl FnOnce(&Path) -> io::Result<()> + Send) {
        let (new, place) = (self.configs().join(".new"), self.bearer_file());
        as_user(move || {
            let _ = fs::remove_file(&new).or_else(|_| fs::remove_dir(&new));
            let _ = fs::remove_dir(&place);
            make(&new).expect("something new");
            if fs::symlink_metadata(&new).expect("it is there").is_dir() {
                fs::remove_file(&place).expect("it is the agent's");
            }
            fs::rename(new, place).expect("a rename");
        });
    }

    /// Asks for a fetch, as root.
    pub fn refresh(&self) {
        let _ = self.in_time(fs::write, "refresh", "now".to_owned());
    }

    /// Says that the token of now was refused, so that opens must wait for another.
    pub fn reject(&self) {
        if let Some(Ok(token)) = self.read() {
            let fingerprint = molecule_tokenfs::secret::Fingerprint::of(&token);
            let _ = self.in_time(fs::write, "refresh", fingerprint.to_string());
        }
    }

    /// The same for half of the attacks: the others meet a token that is there.
    pub fn reject_perhaps(&self, random: &mut StdRng) {
        if self.world.alone || random.random() {
            self.reject();
        }
    }

    /// Reads the token as root; `None`: it hangs.
    pub fn read(&self) -> Option<io::Result<Vec<u8>>> {
        self.in_time(|path, _| fs::read(path), "token", String::new())
    }

    /// A call on something in the mount that may hang: `None` then.
    fn in_time<T: Send + 'static>(
        &self,
        call: fn(PathBuf, String) -> T,
        name: &str,
        text: String,
    ) -> Option<T> {
        let (path, adopt) = (self.outside(name), Adopt::here());
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            adopt.enter();
            tell.send(call(path, text)).ok();
        });
        told.recv_timeout(DEADLINE + judge::GRACE).ok()
    }

    /// What a program of the agent's is told of.
    pub fn variables(&self, random: &mut StdRng) -> Vec<(&'static str, String)> {
        let text = |path: PathBuf| path.into_os_string().into_string().expect("plain text");
        vec![
            ("MOUNT", text(self.mountpoint())),
            ("CONFIGS", text(self.configs())),
            ("PROGRAM", text(self.world.program.clone())),
            ("PLACE", text(self.dir().join("agent"))),
            ("FORM", self.form.to_string()),
            ("SPAN", self.span(random).as_secs_f64().to_string()),
            ("SEED", random.random::<u32>().to_string()),
            ("MANY", self.many(10_000).to_string()),
            ("CERTIFICATES", text(self.world.certificates())),
        ]
    }

    /// Lets an attack go on, takes back what it did, and looks whether the daemon serves as before.
    pub fn suffer(&mut self, attack: &dyn Attack, random: &mut StdRng) {
        self.timeline.begin(attack.name());
        let outcome = catch_unwind(AssertUnwindSafe(|| attack.run(self, random)));
        let outcome = outcome.unwrap_or_else(|panic| {
            let told = panic.downcast_ref::<String>().map_or("it panicked", String::as_str);
            Err(told.to_owned())
        });
        if let Err(sentence) = outcome {
            self.tell(attack.name(), &sentence);
        }
        self.front.answer_with(None);
        self.demo.faults().heal();
        if let Some(touched) = self.touched() {
            self.runs_as_root += 1;
            self.tell(attack.name(), &touched);
        }
        self.most_workers = self.most_workers.max(workers(self.supervisor()).len());
        register(&self.demo, self.dir());
        if self.has_ended() {
            self.tell(attack.name(), "the supervisor ended");
            self.dead = true;
            self.over = true;
            return;
        }
        let end = boot() + RECOVERED;
        let mut last = "an open hangs".to_owned();
        while boot() < end {
            self.refresh();
            match self.read() {
                Some(Ok(token)) if self.demo.ledger().verdict(&token) == Verdict::Live => return,
                Some(Ok(_)) => "a dead token".clone_into(&mut last),
                Some(Err(error)) => last = error.to_string(),
                None => {}
            }
            std::thread::sleep(millis(200));
        }
        self.tell(attack.name(), &format!("no token {RECOVERED:?} after its end: {last}"));
        self.over = true;
    }

    fn tell(&mut self, attack: &str, sentence: &str) {
        self.harm.push(format!("{attack}: {sentence}"));
    }

    /// It does not serve any more: the next attacks would tell nothing.
    pub fn is_over(&self) -> bool {
        self.over
    }

    fn has_ended(&mut self) -> bool {
        match &mut self.server {
            Server::Daemon(daemon, _) => daemon.process().ended().is_some(),
            Server::Container(container) => container.outer.ended().is_some(),
        }
    }

    /// Ends everything, and gives the figures.
    pub fn end(mut self) -> Value {
        self.come_to_rest();
        self.close()
    }

    /// The same, the log's reader going away first. What became of the start counts, too.
    pub fn end_without_log(mut self) -> Value {
        if let Some(touched) = self.started.take() {
            self.runs_as_root += 1;
            self.tell("the start in the agent's surroundings", &touched);
        }
        self.come_to_rest();
        if !self.over {
            self.log.close();
            self.go_on_without_a_log();
        }
        self.close()
    }

    /// Looks whether it has given back what it took.
    fn come_to_rest(&mut self) {
        let last = "after the attacks";
        self.timeline.begin(last);
        let supervisor = self.supervisor();
        let mut after = Resources::of(supervisor);
        let end = boot() + SETTLED;
        while !self.over && !after.are_back_at(&self.before) && boot() < end {
            std::thread::sleep(millis(250));
            after = Resources::of(supervisor);
        }
        if !self.over && !after.are_back_at(&self.before) {
            let sentence = format!("it keeps what it took: {:?} before, {after:?}", self.before);
            self.tell(last, &sentence);
        }
        self.after = after;
        if self.most_workers > 2 {
            self.tell(last, &format!("there were {} workers", self.most_workers));
        }
        if self.front.leaked() > 0 {
            self.tell(last, "a file of root's, or a token, was sent as the bearer");
        }
        if !self.over {
            self.look_for_the_bearer();
        }
    }

    fn close(mut self) -> Value {
        let readers = std::mem::replace(&mut self.readers, Readers::none());
        let opens = readers.finish(DEADLINE + judge::GRACE, || self.abort());
        self.abort();
        let tokens = self.demo.ledger().report().tokens;
        let verdict = judge::judge(&tokens, &opens, self.form, &self.timeline);
        let mut harm = self.harm.clone();
        harm.extend(verdict.harm.iter().cloned());
        json!({
            "attacks": self.timeline.count() - 1,
            "by_attack": self.timeline.counts(),
            "opens": verdict.opens,
            "tokens": tokens.len(),
            "requests": self.front.requests(),
            "refusals": verdict.refusals,
            "dead": verdict.dead,
            "foreign": verdict.foreign,
            "late": verdict.late,
            "longest_open_ms": verdict.longest_open_ms,
            "deaths": u64::from(self.dead),
            "runs_as_root": self.runs_as_root,
            "most_workers": self.most_workers,
            "before": self.before,
            "after": self.after,
            "harm": harm,
        })
    }

    /// Neither the log nor the status tells the bearer.
    fn look_for_the_bearer(&mut self) {
        let status = self.in_time(|path, _| fs::read(path), "status.json", String::new());
        let status = status.and_then(Result::ok).unwrap_or_default();
        let part = self.bearer[..16].to_owned();
        for (name, text) in [("status.json", status), ("the log", self.log.text())] {
            if String::from_utf8_lossy(&text).contains(&part) {
                self.tell("after the attacks", &format!("the bearer is in {name}"));
            }
        }
    }

    /// Nobody reads the log any more: it serves all the same, and ends when it is told to.
    fn go_on_without_a_log(&mut self) {
        let name = LOG_IS_GONE;
        self.timeline.begin(name);
        for _ in 0..20 {
            self.refresh();
        }
        // The last attack may have left a failure behind, as any other.
        let end = boot() + RECOVERED;
        let mut read = self.read();
        while !matches!(read, Some(Ok(_))) && boot() < end && !self.has_ended() {
            std::thread::sleep(millis(200));
            self.refresh();
            read = self.read();
        }
        if !matches!(read, Some(Ok(_))) || self.has_ended() {
            return self.tell(name, &format!("no token: {:?}", read.map(|read| read.map(drop))));
        }
        let _ = kill(self.supervisor(), Signal::SIGTERM);
        let end = boot() + secs(10);
        while !self.has_ended() {
            if boot() > end {
                return self.tell(name, "it does not end when it is told to");
            }
            std::thread::sleep(millis(20));
        }
    }

    /// Aborts the connection of a daemon that hangs, that nothing is left of it.
    fn abort(&self) {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.supervisor()));
        let (table, mountpoint) = (table.unwrap_or_default(), self.mountpoint());
        for line in table.lines().filter(|line| line.contains(mountpoint.to_str().unwrap())) {
            let number = line.split(' ').nth(2).and_then(|device| device.strip_prefix("0:"));
            let Some(number) = number else { continue };
            let abort = self.world.dir.join("fusectl").join(number).join("abort");
            let _ = fs::write(abort, "1");
        }
    }
}

/// The workspace registers: the directory and what is in it are the agent's, whatever was there.
fn register(demo: &Demo, dir: &TestDir) {
    let configs = dir.folder("configs");
    fs::set_permissions(&configs, fs::Permissions::from_mode(0o755)).expect("a mode");
    for entry in fs::read_dir(&configs).expect("the configs directory").flatten() {
        if entry.file_name() != ".auth_token" {
            let path = entry.path();
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
        }
    }
    if configs.join(".auth_token").is_dir() {
        fs::remove_dir(configs.join(".auth_token")).expect("an empty directory");
    }
    let bearer = demo.register(&configs).expect("the workspace registers");
    for path in [configs, bearer] {
        lchown(path, Some(ORDINARY), Some(ORDINARY)).expect("chown");
    }
}
