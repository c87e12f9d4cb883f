//! Doors that are added, bound and removed while the daemon serves.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use molecule_tokenfs::demo::Setup;
use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::scene::{FIRST, Host, SECOND};
use crate::support::daemon::{Daemon, tokenfs};
use crate::support::namespace::sandboxed;
use crate::support::process::{Finished, Process, User, command, errno, run};
use crate::support::{eventually, millis, secs};

impl Host {
    /// `molecule-tokenfs doors …`
    fn doors(&self, line: &str) -> Finished {
        self.doors_by(User::Own, line)
    }

    fn doors_by(&self, user: User, line: &str) -> Finished {
        let mut doors = tokenfs(&self.dir, user);
        doors.arg("doors").args(line.split_whitespace());
        doors.arg("--directory").arg(self.dir.join("doors"));
        run(doors, &self.dir, secs(20))
    }
}

/// A door that shows a token, and one that waits.
const POOL: &str = "[doors.agent-1]\ntoken = 'acme'\nowner = '1000'\n\
                    [doors.warm-1]\nowner = '2000'\n";

fn replace_the_worker(daemon: &Daemon) {
    let worker = daemon.worker();
    daemon.kill_worker(Signal::SIGKILL);
    eventually("another worker", secs(5), || (daemon.worker()? != worker?).then_some(()));
}

#[test]
fn a_door_is_added_read_listed_and_removed() {
    sandboxed(secs(60), || {
        let host = Host::new(Setup::default());
        let daemon = host.serve(POOL).start();
        let add = "add agent-2 --token globex --with acme --owner 2000 --group 2000 --mode 0440";
        host.doors(add).ok();
        let token = host.read(&daemon, SECOND, "agent-2/token");
        assert_eq!(host.owner_of(&token), "globex");
        assert_eq!(host.owner_of(&host.read(&daemon, SECOND, "agent-2/acme/token")), "acme");
        let file = fs::metadata(daemon.path("agent-2/token")).unwrap();
        assert_eq!((file.mode() & 0o7777, file.uid(), file.gid()), (0o440, 2000, 2000));
        let refused = host.shell(&daemon, FIRST, "cat \"$1/agent-2/token\"");
        assert!(refused.stderr.contains("Permission denied"), "{refused:?}");
        let list = host.doors("list").ok();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<_> = list.lines().map(words).collect();
        let has = |line: &str| lines.iter().any(|other| other == line);
        assert!(has("DOOR OWNER MODE SHOWS FROM"), "{list}");
        assert!(has("agent-2 2000:2000 0440 token globex, acme added"), "{list}");
        assert!(list.contains("not bound"), "{list}");
        let json: serde_json::Value =
            serde_json::from_str(&host.doors("list --json").ok()).unwrap();
        assert_eq!(json.pointer("/doors/1/token/named").unwrap(), "globex");
        let kept = fs::metadata(host.dir.join("doors.json")).unwrap();
        assert_eq!(kept.permissions().mode() & 0o777, 0o600);
        let open = fs::File::open(daemon.path("agent-2")).unwrap();
        host.doors("remove agent-2").ok();
        let error = fs::read(daemon.path("agent-2/token")).unwrap_err();
        assert_eq!(errno(&error), Some(Errno::ENOENT));
        let error = fs::read(format!("/proc/self/fd/{}/token", open.as_raw_fd())).unwrap_err();
        assert_eq!(errno(&error), Some(Errno::ESTALE));
        assert!(!host.doors("list").ok().contains("agent-2"));
    });
}

#[test]
fn what_cannot_be_done_is_told_and_changes_nothing() {
    sandboxed(secs(60), || {
        let host = Host::new(Setup::default());
        let told = host.doors("list");
        assert!(told.stderr.contains("cannot ask the daemon"), "{told:?}");
        assert!(told.stderr.contains("hint: "), "{told:?}");
        let daemon = host.serve(POOL).start();
        let before = host.doors("list").ok();
        for (line, code, words) in [
            ("add agent-1 --token acme", 1, "there is a door `agent-1` already"),
            ("add a.b --token acme", 1, "the door `a.b` has a wrong name"),
            ("add agent-2 --token acem", 1, "describes no token `acem`"),
            ("add agent-2 --token acme --with globex --with globex", 1, "named twice"),
            ("add agent-2 --mode 0600", 2, "--mode: expected an octal mode"),
            ("add agent-2 --owner no-such-user", 2, "--owner: expected a user of this machine"),
            ("bind agent-1 --token globex", 1, "the configuration describes the door `agent-1`"),
            ("bind agent-9 --token globex", 1, "there is no door `agent-9`"),
            ("bind warm-1", 2, "no token is named"),
            ("bind warm-1 --workspace-id ws", 2, "--bearer-file"),
            ("remove agent-1", 1, "the configuration describes the door `agent-1`"),
            ("remove agent-9", 1, "there is no door `agent-9`"),
        ] {
            let told = host.doors(line);
            assert_eq!(told.status.code(), Some(code), "{line}: {told:?}");
            assert!(told.stderr.contains(words), "{line}: {told:?}");
        }
        let told = host.doors_by(User::Number(FIRST), "list");
        assert!(told.stderr.contains("Permission denied"), "{told:?}");
        assert_eq!(host.doors("list").ok(), before);
        drop(daemon);
    });
}

#[test]
fn whoever_is_not_root_is_refused_and_so_is_what_is_no_request() {
    sandboxed(secs(60), || {
        let host = Host::new(Setup::default());
        let daemon = host.serve(POOL).start();
        let socket = host.dir.join("doors.sock");
        let ask = |user, line: &str| {
            let program = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\n\
                           s.connect(sys.argv[1])\ns.sendall(sys.argv[2].encode() + b'\\n')\n\
                           print(s.makefile().readline())";
            let mut python = command("/usr/bin/python3", user);
            python.args(["-c", program]).arg(&socket).arg(line);
            run(python, &host.dir, secs(10)).ok()
        };
        let list = r#"{"version":1,"order":"list"}"#;
        assert!(ask(User::Own, list).contains("warm-1"));
        // Whoever has the socket all the same.
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(ask(User::Number(FIRST), list).contains("only root"));
        let add = |door: &str| format!(r#"{{"version":1,"order":{{"add":{{"name":{door}}}}}}}"#);
        let workspace = |id: &str, file: &str| {
            add(&format!(r#""x","token":{{"workspace":{{"id":"{id}","bearer_file":"{file}"}}}}"#))
        };
        for (line, words) in [
            (String::new(), "this is no request"),
            ("{}".to_owned(), "missing field `version`"),
            (r#"{"version":2,"order":"list"}"#.to_owned(), "speaks version 1, and not 2"),
            (r#"{"version":1,"order":{"open":{}}}"#.to_owned(), "unknown variant `open`"),
            (add(r#""../x""#), "has a wrong name"),
            (add(r#""x","mode":438"#), "is no mode for a token"),
            (workspace("../x", "/b"), "can be no workspace"),
            (workspace("x", "b"), "is no absolute path"),
        ] {
            let told = ask(User::Own, &line);
            assert!(told.contains("refused") && told.contains(words), "{line}: {told}");
        }
        drop(daemon);
    });
}

#[test]
fn a_door_that_was_added_outlives_worker_and_daemon() {
    sandboxed(secs(60), || {
        let host = Host::new(Setup::default());
        let mut daemon = host.serve(POOL).start();
        host.doors("add agent-2 --token globex --owner 2000").ok();
        host.doors("bind warm-1 --token acme").ok();
        let token = host.read(&daemon, SECOND, "agent-2/token");
        let number = fs::metadata(daemon.path("agent-2")).unwrap().ino();
        replace_the_worker(&daemon);
        assert_eq!(host.read(&daemon, SECOND, "agent-2/token"), token);
        assert_eq!(fs::metadata(daemon.path("agent-2")).unwrap().ino(), number);
        assert!(host.doors("list").ok().contains("added"));
        assert!(daemon.stop().success());
        let daemon = host.serve(POOL).start();
        let again = host.read(&daemon, SECOND, "agent-2/token");
        assert_eq!(host.owner_of(&again), "globex");
        assert_eq!(host.owner_of(&host.read(&daemon, SECOND, "warm-1/token")), "acme");
    });
}

/// When each reader of the door that waits had its answer, and what that was.
#[expect(clippy::disallowed_methods, reason = "a test runs in real time")]
fn waiting(daemon: &Daemon, number: usize) -> Vec<JoinHandle<(Instant, std::io::Result<Vec<u8>>)>> {
    let read = |path: PathBuf| {
        std::thread::spawn(move || {
            let read = fs::read(path);
            (Instant::now(), read)
        })
    };
    let path = |n: usize| if n.is_multiple_of(2) { "warm-1/token" } else { "warm-1/live/token" };
    (0..number).map(|n| read(daemon.path(path(n)))).collect()
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test runs in real time")]
fn readers_that_opened_before_the_binding_are_served_with_it() {
    sandboxed(secs(60), || {
        let host = Host::new(Setup::default());
        let daemon = host.serve(POOL).args(["--open-timeout", "20s"]).start();
        let readers = waiting(&daemon, 100);
        std::thread::sleep(secs(1));
        replace_the_worker(&daemon);
        std::thread::sleep(millis(500));
        assert!(readers.iter().all(|reader| !reader.is_finished()), "{}", daemon.log());
        host.doors("bind warm-1 --token globex").ok();
        let bound = Instant::now();
        let mut longest = Duration::ZERO;
        for reader in readers {
            let (at, token) = reader.join().unwrap();
            assert_eq!(host.owner_of(std::str::from_utf8(&token.unwrap()).unwrap()), "globex");
            longest = longest.max(at.saturating_duration_since(bound));
        }
        println!("the last one was served {longest:?} after the command");
        assert_eq!(host.demo.github().minted(), 1);
    });
}

#[test]
fn an_open_of_a_door_that_nobody_binds_fails_by_its_deadline_and_says_why() {
    sandboxed(secs(60), || {
        let host = Host::new(Setup::default());
        let daemon = host.serve(POOL).args(["--open-timeout", "1s"]).start();
        let error = fs::read(daemon.path("warm-1/token")).unwrap_err();
        assert_eq!(errno(&error), Some(Errno::ENOKEY));
        let status = fs::read_to_string(daemon.path("warm-1/status.json")).unwrap();
        assert!(status.contains("doors bind"), "{status}");
    });
}

#[test]
fn a_door_that_is_bound_anew_shows_nothing_of_before_and_tells_watchers() {
    sandboxed(secs(60), || {
        let host = Host::new(Setup::default());
        let daemon = host.serve(POOL).start();
        host.doors("bind warm-1 --token acme").ok();
        host.read(&daemon, SECOND, "warm-1/token");
        let number = fs::metadata(daemon.path("warm-1")).unwrap().ino();
        let mut inotify = command("inotifywait", User::Own);
        inotify.args(["-m", "-e", "moved_to", "--format", "%f"]).arg(daemon.path("warm-1"));
        let watcher = Process::start(inotify, "watcher", &host.dir);
        let is_watching = || watcher.stderr().contains("established").then_some(());
        eventually("it watches", secs(5), is_watching);
        let heard = || watcher.stdout().lines().filter(|name| *name == "token").count();
        for token in ["globex", "acme", "globex"] {
            let before = heard();
            host.doors(&format!("bind warm-1 --token {token}")).ok();
            let read = |path: &str| host.owner_of(&host.read(&daemon, SECOND, path));
            assert_eq!(
                (read("warm-1/token"), read("warm-1/live/token")),
                (token.into(), token.into())
            );
            eventually("it hears", secs(5), || (heard() > before).then_some(()));
            assert_eq!(read("warm-1/token"), token);
        }
        assert_eq!(fs::metadata(daemon.path("warm-1")).unwrap().ino(), number);
    });
}
