//! The file system without a kernel, under simulated time: a test is the kernel, and calls what the
//! adapter would. What a real kernel makes of the answers is for the tests that mount.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::task::JoinHandle;

use super::access::Access;
use super::generations::regions::{Kind, Whose};
use super::generations::tests::{adopted, root};
use super::generations::{SLOTS, State, TokenState};
use super::journal::{Call, Opcode};
use super::node::{ROOT, Root};
use super::pages::{OnDemand, Other, Pages};
use super::places::Places;
use super::*;
use crate::caller::Caller;
use crate::error::FetchErrorKind;
use crate::refresh::simulated::{Scripted, ScriptedSource, SimulatedTime};
use crate::refresh::store::Store;
use crate::refresh::{Engine, Windows};
use crate::secret::Fingerprint;
use crate::status::{Backend, Identity, Layout};
use crate::view::token::TokenView;
use crate::view::{View, ViewContext};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
/// The thread of most readers, that of another one, and the helper's.
const READER: u32 = 100;
const OTHER: u32 = 101;
const HELPER: u32 = 7;

/// What outlives a worker, and the worker that there is.
struct Mounted {
    time: SimulatedTime,
    source: ScriptedSource,
    state: Arc<TokenState>,
    fs: Arc<Fs>,
    engine: JoinHandle<()>,
    requests: u64,
}

impl Mounted {
    fn new(standing: Scripted) -> Self {
        let time = SimulatedTime::new();
        let source = ScriptedSource::new("platform", Arc::new(time.clone()), standing);
        let state = kept(&Arc::new(State::create().unwrap()), root());
        let (fs, engine) = worker(&time, &source, &state);
        Self { time, source, state, fs, engine, requests: 0 }
    }

    /// The worker dies where it stands, and another one takes its state over.
    async fn replace_the_worker(&mut self) {
        self.engine.abort();
        let _ = (&mut self.engine).await;
        self.state = kept(&adopted(self.state.connection()), root());
        (self.fs, self.engine) = worker(&self.time, &self.source, &self.state);
    }

    fn request(&mut self, thread: u32) -> Request {
        self.requests += 1;
        let caller = Caller::new(1000, 1000, thread);
        Request { unique: self.requests, again: false, caller }
    }

    fn lookup(&mut self, thread: u32, name: &str) -> Result<Attributes, Errno> {
        let request = self.request(thread);
        self.fs.lookup(&request, ROOT, OsStr::new(name)).map(|entry| entry.attributes)
    }

    /// An OPEN of an inode, answered at once or later.
    async fn open_inode(&mut self, thread: u32, ino: u64) -> Result<Opened, Errno> {
        let request = self.request(thread);
        let call = Call::kept("open", Opcode::Open, ino);
        self.fs.enter(&request, &call)?;
        let opened = match self.fs.open(&request, &call, ino, false) {
            Open::Now(opened) => opened,
            Open::Wait(opened) => opened.await,
        };
        self.fs.leave(request.unique, &call, true);
        opened
    }

    /// An open by path, as the kernel does it: where it is told ESTALE, it looks the name up again, once.
    async fn open(&mut self, thread: u32, name: &str) -> Result<(u64, Opened), Errno> {
        let ino = self.lookup(thread, name)?.ino;
        match self.open_inode(thread, ino).await {
            Err(Errno::ESTALE) => {
                let ino = self.lookup(thread, name)?.ino;
                Ok((ino, self.open_inode(thread, ino).await?))
            }
            opened => Ok((ino, opened?)),
        }
    }

    fn read(&self, ino: u64, opened: Opened) -> Result<String, Errno> {
        let chunk = self.fs.read(ino, opened.handle, 0, 4096)?;
        Ok(String::from_utf8(chunk.as_bytes().to_vec()).unwrap())
    }

    async fn cat(&mut self, name: &str) -> Result<String, Errno> {
        let (ino, opened) = self.open(READER, name).await?;
        self.read(ino, opened)
    }

    /// Makes the source's next token come, and shows it.
    async fn rotate(&mut self) {
        let newest = self.state.prepared();
        self.time.suspend(SECOND * 2);
        let request = self.request(OTHER);
        let control = self.lookup(OTHER, "refresh").unwrap().ino;
        self.fs.write(&request, control, b"refresh\n").unwrap();
        self.state.prepared_after(newest).await;
    }
}

/// The state of a token, as a worker takes it.
fn kept(state: &Arc<State>, whose: Whose<'_>) -> Arc<TokenState> {
    let sources = vec!["platform", "root", "acme", "globex"];
    Arc::new(state.token(whose, sources, Root::Directory.views()).unwrap())
}

fn worker(
    time: &SimulatedTime,
    source: &ScriptedSource,
    state: &Arc<TokenState>,
) -> (Arc<Fs>, JoinHandle<()>) {
    let clock: Arc<dyn Clock> = Arc::new(time.clone());
    let (token, engine) = Engine::new(
        vec![Arc::new(source.clone())],
        Windows::default(),
        Arc::clone(state) as _,
        Arc::clone(&clock),
        Arc::new(time.clone()),
        1,
    );
    let config = FsConfig {
        root: Root::Directory,
        access: Access { uid: 1000, gid: 1000, view_mode: 0o400, refresh_mode: 0o600 },
        views: ViewContext { hosts: vec!["github.com".to_owned()] },
        open_timeout: Duration::from_secs(5),
        helper: Some(HELPER),
    };
    let identity = Identity {
        name: "default".to_owned(),
        mountpoint: "/run/molecule/token".into(),
        backend: Backend::Fuse,
        why_files: None,
        layout: Layout::Directory,
        view: None,
        supervisor_pid: 1,
        worker_pid: 2,
        started: clock.now(),
        min_life: None,
        git_min_life: None,
        owners: Vec::new(),
        hosts: Vec::new(),
    };
    let pages = Pages::new(identity, Arc::clone(state.connection()));
    let place = state.place().unwrap();
    let fs = Fs::new(config, (Arc::clone(state), place), token, clock, Arc::default(), pages);
    (fs, tokio::spawn(engine.run()))
}

/// A mount with a token at its root and one in the directory `acme`, and their sources.
fn two_places() -> (Arc<Places>, [ScriptedSource; 2]) {
    let time = SimulatedTime::new();
    let sources = ["root", "acme"]
        .map(|name| ScriptedSource::new(name, Arc::new(time.clone()), Scripted::NewToken(HOUR)));
    let state = Arc::new(State::create().unwrap());
    (places(&state, &time, &sources), sources)
}

fn acme() -> Whose<'static> {
    Whose { kind: Kind::Named, name: "acme", configuration: b"" }
}

/// The same, by a worker that takes a state over.
fn places(
    state: &Arc<State>,
    time: &SimulatedTime,
    [root_source, acme_source]: &[ScriptedSource; 2],
) -> Arc<Places> {
    let (root, _) = worker(time, root_source, &kept(state, root()));
    let (acme, _) = worker(time, acme_source, &kept(state, acme()));
    Places::new(root, vec![("acme".to_owned(), acme)], None)
}

fn by(unique: u64) -> Request {
    Request { unique, again: false, caller: Caller::new(1000, 1000, READER) }
}

#[tokio::test(start_paused = true)]
async fn each_place_has_a_token_of_its_own() {
    let (places, sources) = two_places();
    let find = |parent, name| places.lookup(&by(2), parent, OsStr::new(name));
    let acme = find(ROOT, "acme").unwrap().attributes;
    assert!(acme.directory && acme.ino != ROOT);
    for (directory, token) in [(ROOT, "ghs_root_0"), (acme.ino, "ghs_acme_0")] {
        let open = |ino| match places.open(&by(4), &Call::kept("open", Opcode::Open, ino), false) {
            Open::Now(opened) => Box::pin(std::future::ready(opened)),
            Open::Wait(opened) => opened,
        };
        let mut ino = find(directory, "token").unwrap().attributes.ino;
        let mut opened = open(ino).await;
        if opened == Err(Errno::ESTALE) {
            ino = find(directory, "token").unwrap().attributes.ino;
            opened = open(ino).await;
        }
        let chunk = places.read(ino, opened.unwrap().handle, 0, 100).unwrap();
        assert_eq!(chunk.as_bytes(), token.as_bytes());
        assert_eq!(places.getattr(&by(6), ino, None).unwrap().0.ino, ino);
    }
    assert_eq!(sources.map(|source| source.requests().len()), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn the_directory_of_a_place_is_one_of_the_mount() {
    let (places, _) = two_places();
    let acme = places.lookup(&by(2), ROOT, OsStr::new("acme")).unwrap().attributes.ino;
    let names = |ino| places.readdir(ino).unwrap();
    let at_root = names(ROOT);
    assert!(
        at_root.contains(&(acme, true, "acme".into()))
            && at_root.contains(&(ROOT, true, "..".into()))
    );
    let inside = names(acme);
    assert!(
        inside.contains(&(acme, true, ".".into())) && inside.contains(&(ROOT, true, "..".into()))
    );
    assert!(!inside.iter().any(|(_, _, name)| *name == "acme"));
    let inodes: std::collections::HashSet<_> = at_root
        .iter()
        .chain(&inside)
        .filter(|entry| !entry.2.starts_with('.'))
        .map(|e| e.0)
        .collect();
    assert_eq!(inodes.len(), at_root.len() + inside.len() - 4, "all are different");
    // `live` and the place; a directory counts itself, its name and those in it.
    let links = |ino| places.getattr(&by(2), ino, None).unwrap().0.links;
    assert_eq!(links(ROOT), links(acme) + 1);
    let token = OsStr::new("token");
    let renamed = places.rename(&by(8), (ROOT, OsStr::new(".next-token")), (acme, token));
    assert_eq!(renamed, Err(Errno::EROFS));
    let gone = places.getattr(&by(2), 7 << 48 | ROOT, None);
    assert_eq!(gone, Err(Errno::ESTALE), "no such place: the kernel looks the path up anew");
}

#[tokio::test(start_paused = true)]
async fn a_fingerprint_finds_its_token_whatever_refresh_it_is_written_to() {
    let (places, sources) = two_places();
    let acme = places.lookup(&by(2), ROOT, OsStr::new("acme")).unwrap().attributes.ino;
    let (_, _, root_token) = read_in(&places, ROOT, "token").await;
    let (_, _, acme_token) = read_in(&places, acme, "token").await;
    let control =
        |directory| places.lookup(&by(2), directory, OsStr::new("refresh")).unwrap().attributes.ino;
    let print = |token: &str| Fingerprint::of(token.as_bytes()).to_string();
    places.write(&by(4), control(ROOT), print(&acme_token).as_bytes()).unwrap();
    assert_eq!(read_in(&places, acme, "token").await.2, "ghs_acme_1");
    assert_eq!(read_in(&places, ROOT, "token").await.2, root_token, "the other is not concerned");
    places.write(&by(4), control(acme), print(&root_token).as_bytes()).unwrap();
    assert_eq!(read_in(&places, ROOT, "token").await.2, "ghs_root_1");
    places.write(&by(4), control(acme), b"01234567").unwrap();
    assert_eq!(sources.map(|source| source.requests().len()), [2, 2], "nobody's is nobody's");
}

/// Opens a file of a place by path, as the kernel does, and what is in it.
async fn read_in(places: &Arc<Places>, directory: u64, name: &str) -> (u64, Opened, String) {
    let mut request = by(1_000);
    for _ in 0..2 {
        request.unique += 2;
        let ino = places.lookup(&request, directory, OsStr::new(name)).unwrap().attributes.ino;
        let opened = match places.open(&request, &Call::kept("open", Opcode::Open, ino), false) {
            Open::Now(opened) => opened,
            Open::Wait(opened) => opened.await,
        };
        if let Ok(opened) = opened {
            let chunk = places.read(ino, opened.handle, 0, 4096).unwrap();
            return (ino, opened, String::from_utf8(chunk.as_bytes().to_vec()).unwrap());
        }
    }
    panic!("no open");
}

#[tokio::test(start_paused = true)]
async fn a_named_token_outlives_a_worker_and_a_change_of_its_configuration_ends_it() {
    let time = SimulatedTime::new();
    let sources = ["root", "acme"]
        .map(|name| ScriptedSource::new(name, Arc::new(time.clone()), Scripted::NewToken(HOUR)));
    let state = Arc::new(State::create().unwrap());
    let before = places(&state, &time, &sources);
    let find =
        |places: &Places| places.lookup(&by(2), ROOT, OsStr::new("acme")).unwrap().attributes.ino;
    let directory = find(&before);
    let (ino, opened, token) = read_in(&before, directory, "token").await;
    assert_eq!(token, "ghs_acme_0");
    sources[1].always(Scripted::Fail(FetchErrorKind::Unauthorized));
    // The worker dies, and the next one serves the same token under the same numbers.
    let state = adopted(&state);
    let after = places(&state, &time, &sources);
    assert_eq!(find(&after), directory);
    assert_eq!(after.read(ino, opened.handle, 0, 4096).unwrap().as_bytes(), b"ghs_acme_0");
    assert_eq!(read_in(&after, directory, "token").await, (ino, opened, token));
    assert_eq!(sources[1].requests().len(), 1, "nothing is fetched anew");
    // An upgrade that changes where it comes from.
    let state = adopted(&state);
    sources[1].always(Scripted::NewToken(HOUR));
    let (root, _) = worker(&time, &sources[0], &kept(&state, root()));
    let other = Whose { configuration: b"other", ..acme() };
    let (acme, _) = worker(&time, &sources[1], &kept(&state, other));
    let after = Places::new(root, vec![("acme".to_owned(), acme)], None);
    assert_eq!(after.getattr(&by(4), directory, None), Err(Errno::ESTALE));
    assert!(matches!(after.read(ino, opened.handle, 0, 4096), Err(Errno::ESTALE)));
    let (_, _, token) = read_in(&after, find(&after), "token").await;
    assert_eq!(token, "ghs_acme_1");
}

#[tokio::test(start_paused = true)]
async fn the_views_of_a_named_token_flip_in_renames_once_somebody_may_see_them() {
    let (places, _) = two_places();
    let state = kept(places.root().state().connection(), acme());
    // It is another value over the same memory, as the worker's own.
    let published = |number: u64| {
        let secret = crate::secret::Secret::new(format!("ghs_{number}").into_bytes()).unwrap();
        let issued = crate::time::Now::default();
        let life = crate::token::Life::Known(HOUR);
        let token = crate::token::Token {
            secret,
            generation: state.reserve(),
            source: "acme",
            issued,
            life,
        };
        state.publish(&token.usable(&issued, Duration::ZERO).unwrap(), &issued);
        state.prepared()
    };
    let rotations = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let asked = Arc::clone(&rotations);
    state.rotate_with(move || {
        asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    });
    let first = published(1);
    assert_eq!(
        (state.place().unwrap().current(view()), state.wants_rotation()),
        (first, false),
        "nobody looked"
    );
    let directory = places.lookup(&by(4), ROOT, OsStr::new("acme")).unwrap().attributes.ino;
    let second = published(2);
    assert_eq!((state.place().unwrap().current(view()), state.wants_rotation()), (first, true));
    assert_eq!(rotations.load(std::sync::atomic::Ordering::Relaxed), 1);
    let helper = Request { caller: Caller::new(1000, 1000, HELPER), ..by(6) };
    let (next, name) = (OsStr::new(".next-token"), OsStr::new("token"));
    let waiting = places.lookup(&helper, directory, next).unwrap().attributes.ino;
    assert_eq!(places.rename(&helper, (directory, next), (directory, name)), Ok(()));
    assert_eq!(state.place().unwrap().current(view()), second);
    assert_eq!(places.lookup(&by(8), directory, name).unwrap().attributes.ino, waiting);
}

fn view() -> u8 {
    TokenView.id()
}

#[tokio::test(start_paused = true)]
async fn the_first_open_fetches_and_the_next_ones_do_not() {
    let mut mounted = Mounted::new(Scripted::NewToken(HOUR));
    assert_eq!(mounted.cat("token").await.unwrap(), "ghs_platform_0");
    assert_eq!(mounted.cat("token").await.unwrap(), "ghs_platform_0");
    assert!(mounted.cat("netrc").await.unwrap().contains("password ghs_platform_0"));
    assert_eq!(mounted.source.requests().len(), 1);
    assert_eq!(mounted.lookup(READER, "nothing"), Err(Errno::ENOENT));
}

#[tokio::test(start_paused = true)]
async fn an_inode_that_has_passed_is_told_so_once_and_then_served() {
    let mut mounted = Mounted::new(Scripted::NewToken(HOUR));
    mounted.cat("token").await.unwrap();
    let passed = mounted.lookup(READER, "token").unwrap().ino;
    mounted.rotate().await;
    assert_eq!(mounted.open_inode(READER, passed).await, Err(Errno::ESTALE));
    // The kernel looks the name up, once. Should it come back with the same inode, it is served.
    let opened = mounted.open_inode(READER, passed).await.unwrap();
    assert_eq!(opened.cache, Cache::Direct);
    assert_eq!(mounted.read(passed, opened).unwrap(), "ghs_platform_1");
    // An open of its own begins anew.
    assert_eq!(mounted.open_inode(READER, passed).await, Err(Errno::ESTALE));
    let ino = mounted.lookup(READER, "token").unwrap().ino;
    let opened = mounted.open_inode(READER, ino).await.unwrap();
    assert_eq!(mounted.read(ino, opened).unwrap(), "ghs_platform_1");
}

#[tokio::test(start_paused = true)]
async fn a_second_look_that_meets_a_dead_token_is_served_the_newest_uncached() {
    let mut mounted = Mounted::new(Scripted::NewToken(MINUTE * 10));
    mounted.cat("token").await.unwrap();
    let passed = mounted.lookup(READER, "token").unwrap().ino;
    mounted.rotate().await;
    assert_eq!(mounted.open_inode(READER, passed).await, Err(Errno::ESTALE));
    mounted.time.suspend(MINUTE * 11);
    let opened = mounted.open_inode(READER, passed).await.unwrap();
    assert_eq!(opened.cache, Cache::Direct);
    assert_eq!(mounted.read(passed, opened).unwrap(), "ghs_platform_2");
}

#[tokio::test(start_paused = true)]
async fn an_inode_that_passed_long_ago_is_no_paths_and_never_told_to_look_again() {
    let mut mounted = Mounted::new(Scripted::NewToken(HOUR));
    mounted.cat("token").await.unwrap();
    let passed = mounted.lookup(READER, "token").unwrap().ino;
    mounted.rotate().await;
    mounted.time.suspend(SECOND * 6);
    let opened = mounted.open_inode(READER, passed).await.unwrap();
    assert_eq!(opened.cache, Cache::Direct);
    assert_eq!(mounted.read(passed, opened).unwrap(), "ghs_platform_1");
}

#[tokio::test(start_paused = true)]
async fn an_open_file_keeps_its_token_while_the_ring_does() {
    let mut mounted = Mounted::new(Scripted::NewToken(HOUR));
    let (ino, opened) = mounted.open(READER, "token").await.unwrap();
    for _ in 1..SLOTS {
        mounted.rotate().await;
    }
    assert_eq!(mounted.read(ino, opened).unwrap(), "ghs_platform_0");
    mounted.rotate().await;
    assert_eq!(mounted.read(ino, opened), Err(Errno::EKEYEXPIRED));
}

#[tokio::test(start_paused = true)]
async fn an_open_without_a_token_fails_by_its_deadline_with_a_name() {
    for (standing, errno) in [
        (Scripted::Hang, Errno::ETIMEDOUT),
        (Scripted::Fail(FetchErrorKind::Unauthorized), Errno::EKEYREJECTED),
        (Scripted::Fail(FetchErrorKind::NotConfigured), Errno::ENOKEY),
    ] {
        let mut mounted = Mounted::new(standing);
        let start = mounted.time.now().boot;
        assert_eq!(mounted.cat("token").await, Err(errno));
        let took = mounted.time.now().boot.saturating_sub(start);
        assert!(took <= SECOND * 5, "{errno}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_died_in_a_suspended_machine_is_not_served() {
    let mut mounted = Mounted::new(Scripted::NewToken(HOUR));
    mounted.cat("token").await.unwrap();
    mounted.time.suspend(HOUR * 2);
    assert_eq!(mounted.cat("token").await.unwrap(), "ghs_platform_1");
    mounted.source.always(Scripted::Hang);
    mounted.time.suspend(HOUR * 2);
    assert_eq!(mounted.cat("token").await, Err(Errno::ETIMEDOUT));
}

#[tokio::test(start_paused = true)]
async fn the_next_worker_goes_on_with_tokens_inodes_and_marks() {
    let mut mounted = Mounted::new(Scripted::NewToken(HOUR));
    let (first, opened) = mounted.open(READER, "token").await.unwrap();
    mounted.replace_the_worker().await;
    assert_eq!(mounted.lookup(READER, "token").unwrap().ino, first);
    assert_eq!(mounted.read(first, opened).unwrap(), "ghs_platform_0");
    assert_eq!(mounted.cat("token").await.unwrap(), "ghs_platform_0");
    assert_eq!(mounted.source.requests().len(), 1, "nothing is fetched anew");
    // Told to look again by one worker, served by the next.
    mounted.rotate().await;
    assert_eq!(mounted.open_inode(READER, first).await, Err(Errno::ESTALE));
    mounted.replace_the_worker().await;
    mounted.rotate().await;
    let opened = mounted.open_inode(READER, first).await.unwrap();
    assert!(mounted.read(first, opened).unwrap().starts_with("ghs_platform_"));
}

#[tokio::test(start_paused = true)]
async fn a_view_flips_in_the_rename_of_the_helper_and_of_nobody_else() {
    let mut mounted = Mounted::new(Scripted::NewToken(HOUR));
    mounted.cat("token").await.unwrap();
    // From now on somebody renames: this test.
    mounted.state.rotate_with(|| ());
    mounted.rotate().await;
    assert_eq!((mounted.state.place().unwrap().current(view()), mounted.state.prepared()), (1, 2));
    let next = OsStr::new(".next-token");
    assert_eq!(mounted.lookup(READER, ".next-token"), Err(Errno::ENOENT));
    let rename = |mounted: &mut Mounted, thread| {
        let request = mounted.request(thread);
        mounted.fs.rename(&request, (ROOT, next), (ROOT, OsStr::new("token")))
    };
    assert_eq!(rename(&mut mounted, READER), Err(Errno::EROFS));
    assert_eq!(mounted.state.place().unwrap().current(view()), 1);
    let waiting = mounted.lookup(HELPER, ".next-token").unwrap();
    assert_eq!(rename(&mut mounted, HELPER), Ok(()));
    assert_eq!(mounted.state.place().unwrap().current(view()), 2);
    assert_eq!(mounted.lookup(READER, "token").unwrap().ino, waiting.ino);
}

#[tokio::test(start_paused = true)]
async fn a_live_inode_opens_the_newest_token_for_ever() {
    let mut mounted = Mounted::new(Scripted::NewToken(HOUR));
    let request = mounted.request(READER);
    let live = mounted.lookup(READER, "live").unwrap().ino;
    let entry = mounted.fs.lookup(&request, live, OsStr::new("token")).unwrap();
    let ino = entry.attributes.ino;
    let first = mounted.open_inode(READER, ino).await.unwrap();
    mounted.rotate().await;
    let second = mounted.open_inode(READER, ino).await.unwrap();
    assert_eq!(mounted.read(ino, first).unwrap(), "ghs_platform_0");
    assert_eq!(mounted.read(ino, second).unwrap(), "ghs_platform_1");
    assert_eq!((first.cache, second.cache), (Cache::Direct, Cache::Direct));
}

#[tokio::test(start_paused = true)]
async fn nothing_can_be_written_but_refresh() {
    let mut mounted = Mounted::new(Scripted::NewToken(HOUR));
    let (token, _) = mounted.open(READER, "token").await.unwrap();
    let control = mounted.lookup(READER, "refresh").unwrap().ino;
    let request = mounted.request(READER);
    assert_eq!(mounted.fs.write(&request, token, b"x"), Err(Errno::EROFS));
    assert_eq!(mounted.fs.write(&request, control, b"something"), Err(Errno::EINVAL));
    mounted.time.suspend(SECOND * 2);
    assert_eq!(mounted.fs.write(&request, control, b"refresh"), Ok(()));
    assert_eq!(mounted.fs.write(&request, control, b"refresh"), Err(Errno::EAGAIN));
}

/// Tokens on demand, of which there are as many.
struct Kept(usize);

impl OnDemand for Kept {
    fn count(&self) -> usize {
        self.0
    }

    fn shown(&self) -> Vec<Other> {
        Vec::new()
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_of_a_long_page_waits_and_outlives_the_worker() {
    for (count, waits) in [(0, false), (1, true)] {
        let mut mounted = Mounted::new(Scripted::NewToken(HOUR));
        mounted.fs.tell_of(Arc::new(Kept(count)));
        let ino = mounted.lookup(READER, "status.json").unwrap().ino;
        let request = mounted.request(READER);
        let call = Call::kept("open", Opcode::Open, ino);
        mounted.fs.enter(&request, &call).unwrap();
        let open = mounted.fs.open(&request, &call, ino, false);
        let left = adopted(mounted.state.connection()).requests_left().2;
        assert_eq!(left.iter().any(|left| left.unique == request.unique), waits);
        let opened = match open {
            Open::Now(opened) => opened,
            Open::Wait(opened) => opened.await,
        };
        mounted.fs.leave(request.unique, &call, true);
        assert!(mounted.read(ino, opened.unwrap()).unwrap().starts_with('{'));
        assert!(mounted.state.connection().requests_left().2.is_empty());
    }
}
