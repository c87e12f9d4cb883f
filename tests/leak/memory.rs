//! Where in its memory a daemon keeps tokens and the bearer, and who else may look at a token's holder.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use molecule_tokenfs::demo::{Demo, Setup};
use molecule_tokenfs::secret::Fingerprint;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::Driven;
use crate::support::daemon::{Daemon, PROGRAM};
use crate::support::dir::TestDir;
use crate::support::namespace::{open_fuse_device, sandboxed};
use crate::support::process::{ORDINARY, Process, User, command, run};
use crate::support::{eventually, secs};
use crate::tls::Tls;

/// How often the token is replaced.
const ROTATIONS: u64 = 6;
/// A part of a secret as long as this is one.
const PART: usize = 12;
const PAGE: usize = 4096;

/// The number of places in each mapping of a process where parts of a secret stand, for each secret.
fn search(pid: u64, secrets: &[&[u8]]) -> Vec<BTreeMap<String, usize>> {
    let parts: HashMap<&[u8], usize> = secrets
        .iter()
        .enumerate()
        .flat_map(|(number, secret)| secret.chunks_exact(PART).map(move |part| (part, number)))
        .collect();
    let begins: HashSet<[u8; 2]> = parts.keys().map(|part| [part[0], part[1]]).collect();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut found = vec![BTreeMap::new(); secrets.len()];
    for line in fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        // What was never written to is a file's.
        if !words[1].starts_with("rw") {
            continue;
        }
        let name = words.get(5).copied().unwrap_or("anonymous");
        let (from, to) = words[0].split_once('-').unwrap();
        let at = |text| u64::from_str_radix(text, 16).unwrap();
        let mut bytes = vec![0; usize::try_from(at(to) - at(from)).unwrap()];
        memory
            .read_exact_at(&mut bytes, at(from))
            .unwrap_or_else(|error| panic!("{line}: {error}"));
        for start in (0..bytes.len()).step_by(PAGE) {
            if bytes[start..start + PAGE] == [0; PAGE] {
                continue;
            }
            let page = &bytes[start..bytes.len().min(start + PAGE + PART - 1)];
            let hits = page.windows(PART).filter(|window| begins.contains(&[window[0], window[1]]));
            for number in hits.filter_map(|window| parts.get(window)) {
                *found[*number].entry(name.to_owned()).or_default() += 1;
            }
        }
    }
    found
}

/// What a mapping of the shared state is called.
const RING: &str = "/memfd:molecule-tokenfs";

fn drive(url: impl Fn(&Demo) -> String, ca: Option<&Path>) {
    let driven = Driven::start(|demo, _, builder| {
        let ca = ca.map(|ca| ["--ca-file".into(), ca.as_os_str().to_owned()]);
        builder.env("PLATFORM_URL", url(demo)).args(ca.into_iter().flatten())
    });
    let ledger = driven.demo.ledger();
    for rotation in 1..=ROTATIONS {
        for view in ["token", "header", "json", "gh/hosts.yml", "netrc", "git-credential"] {
            // Not every view is a file here; those that are, are read.
            fs::read(driven.path(view)).ok();
        }
        eventually("a token is replaced", secs(5), || {
            fs::write(driven.path("refresh"), "now").ok()
        });
        eventually("the token that was fetched is served", secs(5), || {
            let token = fs::read(driven.path("token")).unwrap();
            let tokens = ledger.report().tokens;
            let is_newest = tokens.last().unwrap().fingerprint == Fingerprint::of(&token);
            (is_newest && tokens.len() as u64 > rotation).then_some(())
        });
    }
    let current = fs::read(driven.path("token")).unwrap();
    let tokens = ledger.secrets();
    assert!(tokens.len() as u64 > ROTATIONS);
    let status = fs::read(driven.path("status.json")).unwrap();
    // What a fetch needed is given back when it has ended.
    std::thread::sleep(secs(2));
    let paused = driven.daemon.pause();
    let old = tokens.iter().filter(|token| **token != current);
    let secrets: Vec<&[u8]> = [driven.bearer.as_bytes(), current.as_slice()]
        .into_iter()
        .chain(old.map(Vec::as_slice))
        .collect();
    for (pid, holds_current) in crate::pids(&status).into_iter().zip([false, true]) {
        let mut found = search(pid, &secrets);
        // The search finds what is there.
        assert!(found[1].remove(RING).is_some(), "the ring has the current token");
        assert_eq!(!found[1].is_empty(), holds_current, "the current token: {:?}", found[1]);
        let (bearer, old) = (&found[0], &found[2..]);
        assert!(bearer.is_empty(), "process {pid} holds the bearer: {bearer:?}");
        for places in old {
            let others: Vec<_> = places.keys().filter(|name| *name != RING).collect();
            assert!(others.is_empty(), "process {pid} holds an old token: {places:?}");
        }
    }
    drop(paused);
    driven.end();
}

#[test]
fn no_old_token_and_no_bearer_stays_in_memory_but_in_the_ring_of_open_files() {
    sandboxed(secs(60), || drive(|demo| demo.url().to_owned(), None));
}

#[test]
fn nor_over_https() {
    sandboxed(secs(60), || {
        let tls = Tls::new();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        drive(|demo| runtime.block_on(tls.serve(demo.host())), Some(&tls.certificate()));
    });
}

#[test]
fn all_memory_of_the_worker_is_locked_where_that_is_allowed_and_the_ring_anywhere() {
    sandboxed(secs(60), || {
        // Root may lock all it wants, unless it is bounded as in a container.
        for (user, allowed) in [(User::Own, true), (User::Bounded, false)] {
            let dir = TestDir::new();
            let demo = Demo::start(Setup::default()).unwrap();
            demo.register(&dir.join("configs")).unwrap();
            let daemon = Daemon::of(&dir, user)
                .env("PLATFORM_URL", demo.url())
                .env("WORKSPACE_ID", &demo.address().workspace_id)
                .start();
            let token = fs::read(daemon.path("token")).unwrap();
            let worker = crate::pids(&fs::read(daemon.path("status.json")).unwrap())[1];
            let mappings = mappings(worker);
            let holds = |mapping: &&Mapping| mapping.name == RING && mapping.holds(worker, &token);
            let ring: Vec<_> = mappings.iter().filter(holds).collect();
            assert!(!ring.is_empty() && ring.iter().all(|it| it.is_locked), "{mappings:?}");
            for name in ["[heap]", "[stack]"] {
                let mapping = mappings.iter().find(|mapping| mapping.name == name).unwrap();
                assert_eq!(mapping.is_locked, allowed, "{user:?}, {name}: {mappings:?}");
            }
            assert!(!daemon.log().contains("cannot lock the memory"), "{}", daemon.log());
        }
    });
}

/// A part of the memory of a process.
#[derive(Debug)]
struct Mapping {
    range: std::ops::Range<u64>,
    name: String,
    /// `lo` in `VmFlags` (`proc_pid_smaps(5)`).
    is_locked: bool,
}

impl Mapping {
    fn holds(&self, pid: u64, secret: &[u8]) -> bool {
        let mut bytes = vec![0; usize::try_from(self.range.end - self.range.start).unwrap()];
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        memory.read_exact_at(&mut bytes, self.range.start).unwrap();
        bytes.windows(secret.len()).any(|part| part == secret)
    }
}

fn mappings(pid: u64) -> Vec<Mapping> {
    let mut mappings = Vec::<Mapping>::new();
    for line in fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap().lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["VmFlags:", ref flags @ ..] => {
                mappings.last_mut().unwrap().is_locked = flags.contains(&"lo");
            }
            [range, _, _, _, _, ref name @ ..] if range.contains('-') => {
                let (start, end) = range.split_once('-').unwrap();
                let number = |text| u64::from_str_radix(text, 16).unwrap();
                let name = name.first().copied().unwrap_or_default().to_owned();
                mappings.push(Mapping {
                    range: number(start)..number(end),
                    name,
                    is_locked: false,
                });
            }
            _ => {}
        }
    }
    mappings
}

#[test]
fn nobody_of_the_same_user_looks_into_a_command_that_holds_a_token() {
    sandboxed(secs(40), || {
        let driven = Driven::start(|_, dir, builder| {
            open_fuse_device(dir);
            builder.args(["--owner", &ORDINARY.to_string()])
        });
        fs::read(driven.path("token")).unwrap();
        let mountpoint = driven.mountpoint();
        let request = "protocol=https\nhost=github.com\n\n";
        let cases: [(&[&str], &str); 3] = [
            (&["get", &mountpoint], ""),
            (&["get", "--view", "header", "--min-life", "1s", &mountpoint], ""),
            (&["git-credential", "--mountpoint", &mountpoint, "get"], request),
        ];
        for (args, input) in cases {
            let held = HeldUp::start(&driven.dir, args, input);
            let status = fs::read_to_string(format!("/proc/{}/limits", held.pid)).unwrap();
            let core = status.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            assert_eq!(core.split_whitespace().nth(4), Some("0"), "{args:?}: {core}");
            let owner = fs::metadata(format!("/proc/{}/mem", held.pid)).unwrap().uid();
            assert_eq!(owner, 0, "{args:?} is dumpable");
            assert!(!held.ends().is_empty());
        }
        // The program that `exec` becomes has its own limits, and may be looked at as any other.
        let mut exec = command("sh", User::Number(ORDINARY));
        exec.arg("-c")
            .arg("ulimit -S -c 1 && exec \"$0\" \"$@\"")
            .arg(PROGRAM)
            .args(["exec", "--mountpoint", &mountpoint, "--", "sh", "-c"])
            .arg("ulimit -S -c; stat -c %u /proc/self/mem");
        let told = run(exec, &driven.dir, secs(10)).ok();
        assert_eq!(told, format!("1\n{ORDINARY}\n"));
        driven.end();
    });
}

/// A command of an ordinary user's that has a token and cannot get rid of it: its output is a full
/// pipe.
struct HeldUp {
    process: Process,
    pid: i32,
    pipe: File,
}

impl HeldUp {
    fn start(dir: &TestDir, args: &[&str], input: &str) -> Self {
        let (request, path) = (dir.file("request", input), dir.join("pipe"));
        if !path.exists() {
            mkfifo(&path, Mode::S_IRWXU).unwrap();
            std::os::unix::fs::chown(&path, Some(ORDINARY), None).unwrap();
        }
        let mut options = File::options();
        let mut pipe =
            options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        while pipe.write(&[b'.'; 4096]).is_ok() {}
        let mut held = command("sh", User::Number(ORDINARY));
        held.args(["-c", "exec \"$0\" \"$@\" <request >pipe", PROGRAM])
            .args(args)
            .env("HOME", dir.path())
            .current_dir(dir.path());
        assert!(request.exists());
        let process = Process::start(held, "held", dir);
        let pid = process.pid().as_raw();
        eventually("it writes", secs(5), || {
            // write(2) of standard output: `proc_pid_syscall(5)`.
            let call = fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
            call.starts_with(&format!("{} 0x1 ", libc::SYS_write)).then_some(())
        });
        Self { process, pid, pipe }
    }

    /// Lets it end; what it wrote.
    fn ends(mut self) -> Vec<u8> {
        let mut text = Vec::new();
        eventually("it ends", secs(5), || {
            let mut some = [0; 4096];
            while let Ok(count @ 1..) = self.pipe.read(&mut some) {
                text.extend_from_slice(&some[..count]);
            }
            self.process.ended()
        });
        while let Ok(count @ 1..) = self.pipe.read(&mut [0; 4096]) {
            assert!(count > 0);
        }
        text.retain(|byte| *byte != b'.');
        text
    }
}
