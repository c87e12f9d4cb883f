//! `mount --background`: nothing of the caller's is kept, and the log goes where it can be found.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::daemon::{PROGRAM, tokenfs};
use crate::support::dir::TestDir;
use crate::support::limit::OnTimeout;
use crate::support::namespace::{open_fuse_device, private_devices, sandboxed};
use crate::support::process::{Finished, ORDINARY, Process, User, command, run};
use crate::support::{eventually, secs};
use crate::{Backend, EACH_REQUEST, small_disk};

/// A daemon in the background. Dropping it ends it.
struct Background {
    mount: PathBuf,
    pids: Vec<Pid>,
}

impl Background {
    /// That which serves there.
    fn at(mount: &Path) -> Self {
        let status = fs::read(mount.join("status.json")).unwrap();
        let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
        let pid = |key: &str| Pid::from_raw(status[key].as_i64().unwrap().try_into().unwrap());
        let mut pids = vec![pid("supervisor_pid"), pid("worker_pid")];
        pids.dedup();
        Self { mount: mount.to_owned(), pids }
    }

    fn supervisor(&self) -> Pid {
        self.pids[0]
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = kill(self.supervisor(), Signal::SIGTERM);
        eventually("the daemon is gone", secs(5), || is_gone(self.supervisor()).then_some(()));
        assert!(!self.mount.join("status.json").exists());
    }
}

/// Whether it has ended; whoever inherits it need not have reaped it yet.
fn is_gone(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

/// Kills what a failed test leaves: a daemon in the background is nobody's child. Its arguments name the
/// test's directory.
struct Leftovers {
    _on_timeout: OnTimeout,
    dir: PathBuf,
}

impl Leftovers {
    fn of(dir: &TestDir) -> Self {
        let (dir, path) = (dir.path().to_owned(), dir.path().to_owned());
        Self { dir, _on_timeout: OnTimeout::new(move || Self::kill(&path)) }
    }

    fn kill(dir: &Path) {
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
            let names_it = String::from_utf8_lossy(&words).contains(dir.to_str().unwrap());
            if let Some(pid) = pid.filter(|_| names_it) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        Self::kill(&self.dir);
    }
}

fn words(backend: Backend, mount: &Path) -> Vec<String> {
    let mut words: Vec<_> = ["mount", "--background"].map(str::to_owned).into();
    words.extend(backend.args().map(str::to_owned));
    words.push(mount.to_str().unwrap().to_owned());
    words
}

fn start(dir: &TestDir, user: User, more: &[&str]) -> Finished {
    let mut mount = tokenfs(dir, user);
    mount.args(words(Backend::Fuse, &dir.join("token"))).args(more);
    let owner = if user == User::Own { 0 } else { ORDINARY };
    mount.env("MOLECULE_TOKENFS_OWNER", owner.to_string());
    run(mount, dir, secs(20))
}

#[test]
fn a_caller_that_waits_for_the_end_of_its_output_goes_on() {
    sandboxed(secs(60), || {
        small_disk(Path::new("/var/log"), "size=1m");
        for backend in Backend::BOTH {
            let dir = TestDir::new();
            let _leftovers = Leftovers::of(&dir);
            let mount = dir.join("token");
            let mut shell = command("sh", User::Own);
            let line = "said=$(\"$@\" 2>&1) 3>&1 || exit; echo \"said $said\"";
            shell.args(["-c", line, "sh", PROGRAM]).args(words(backend, &mount));
            shell.env("HOME", dir.path()).env("MOLECULE_TOKENFS_OWNER", "0");
            let told = run(shell, &dir, secs(20));
            let daemon = Background::at(&mount);
            assert_eq!(told.ok(), "said the log goes to /var/log/molecule-tokenfs.log\n");
            for pid in &daemon.pids {
                let open = |number| fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap();
                let mut streams = vec![open(1)];
                if *pid == daemon.supervisor() {
                    streams.extend([open(0), open(2)]);
                }
                assert!(streams.iter().all(|it| it == Path::new("/dev/null")), "{streams:?}");
            }
        }
    });
}

#[test]
fn a_terminal_that_is_closed_afterwards_does_not_matter() {
    sandboxed(secs(60), || {
        small_disk(Path::new("/var/log"), "size=1m");
        let dir = TestDir::new();
        let _leftovers = Leftovers::of(&dir);
        let mount = dir.join("token");
        let terminal = openpty(None, None).unwrap();
        // In a session of its own, whose terminal that is.
        let mut shell = command("setsid", User::Own);
        shell.args(["--ctty", "--wait", PROGRAM]).args(words(Backend::Fuse, &mount));
        shell.args(["--log-level", EACH_REQUEST]).env("HOME", dir.path());
        shell.stdin(terminal.slave.try_clone().unwrap());
        let mut caller = Process::start_to(shell, "caller", &dir, terminal.slave);
        assert_eq!(caller.wait(secs(20)).code(), Some(0));
        let daemon = Background::at(&mount);
        drop(terminal.master);
        for _ in 0..300 {
            assert!(fs::read(mount.join("token")).unwrap().starts_with(b"ghs_"));
        }
        kill(daemon.pids[1], Signal::SIGKILL).unwrap();
        assert!(fs::read(mount.join("token")).unwrap().starts_with(b"ghs_"));
        for words in ["the worker died", "fuser::request"] {
            eventually(words, secs(5), || {
                let log = fs::read_to_string("/var/log/molecule-tokenfs.log").unwrap();
                log.contains(words).then_some(())
            });
        }
    });
}

#[test]
fn what_stands_in_its_way_reaches_the_caller() {
    sandboxed(secs(60), || {
        small_disk(Path::new("/var/log"), "size=1m");
        let dir = TestDir::new();
        let _leftovers = Leftovers::of(&dir);
        dir.file("full/theirs", "x");
        let mut mount = tokenfs(&dir, User::Own);
        mount.args(["mount", "--background"]).arg(dir.join("full"));
        mount.env("GITHUB_TOKEN", "no token\n");
        let refused = run(mount, &dir, secs(20));
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        for words in ["warning: the value of GITHUB_TOKEN is ignored", "would hide `theirs`"] {
            assert!(refused.stderr.contains(words), "{words}: {refused:?}");
        }
        let last = "the log goes to /var/log/molecule-tokenfs.log\n";
        assert!(refused.stderr.ends_with(last), "{refused:?}");

        let broken = start(&dir, User::Own, &["--fault", "panic:start:1-"]);
        assert_eq!(broken.status.code(), Some(1), "{broken:?}");
        for words in ["times in a row", "a fault on demand"] {
            assert!(broken.stderr.contains(words), "the worker's reason, too: {broken:?}");
        }
    });
}

#[test]
fn the_system_s_logger_gets_the_log_where_there_is_one() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let _leftovers = Leftovers::of(&dir);
        private_devices(&dir);
        let logger = UnixDatagram::bind("/dev/log").unwrap();
        logger.set_read_timeout(Some(secs(10))).unwrap();
        let told = start(&dir, User::Own, &["--log-level", "debug"]);
        let daemon = Background::at(&dir.join("token"));
        assert!(told.status.success(), "{told:?}");
        assert_eq!(told.stderr, "the log goes to the system's logger, as molecule-tokenfs\n");
        let wait_for = |logger: &UnixDatagram, words: &str| {
            let mut bytes = [0; 8192];
            loop {
                let length = logger.recv(&mut bytes).unwrap_or_else(|e| panic!("{words}: {e}"));
                let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                if text.contains(words) {
                    return text;
                }
            }
        };
        let (supervisor, worker) = (daemon.supervisor(), daemon.pids[1]);
        let serving = wait_for(&logger, "serving at");
        let expected =
            format!("<30>molecule-tokenfs[{supervisor}]: molecule_tokenfs::cmd::mount: ");
        assert!(serving.starts_with(&expected), "{serving}");
        assert!(!serving.ends_with('\n'), "{serving:?}");
        // A rejection is the worker's to tell.
        fs::read(dir.join("token/token")).unwrap();
        let published = wait_for(&logger, &format!("molecule-tokenfs[{worker}]: "));
        assert!(published.starts_with("<30>") || published.starts_with("<31>"), "{published}");

        // The logger is away, and another one comes.
        drop(logger);
        kill(worker, Signal::SIGKILL).unwrap();
        assert!(fs::read(dir.join("token/token")).unwrap().starts_with(b"ghs_"));
        fs::remove_file("/dev/log").unwrap();
        let logger = UnixDatagram::bind("/dev/log").unwrap();
        logger.set_read_timeout(Some(secs(10))).unwrap();
        kill(supervisor, Signal::SIGHUP).unwrap();
        let lost = wait_for(&logger, "log lines are lost: Connection refused");
        assert!(lost.starts_with(&format!("<28>molecule-tokenfs[{supervisor}]: ")), "{lost}");
        wait_for(&logger, "the newer worker has taken over");
        let newer = Background::at(&dir.join("token")).pids[1];
        drop(daemon);
        wait_for(&logger, &format!("molecule-tokenfs[{newer}]: "));
    });
}

#[test]
fn a_logger_that_reads_nothing_holds_up_nobody() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let _leftovers = Leftovers::of(&dir);
        private_devices(&dir);
        let _logger = UnixDatagram::bind("/dev/log").unwrap();
        let told = start(&dir, User::Own, &["--log-level", EACH_REQUEST]);
        assert!(told.status.success(), "{told:?}");
        let daemon = Background::at(&dir.join("token"));
        for _ in 0..2000 {
            assert!(fs::read(dir.join("token/token")).unwrap().starts_with(b"ghs_"));
        }
        kill(daemon.supervisor(), Signal::SIGTERM).unwrap();
        eventually("it has ended", secs(2), || is_gone(daemon.supervisor()).then_some(()));
    });
}

#[test]
fn without_a_logger_a_user_has_a_file_of_their_own() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let _leftovers = Leftovers::of(&dir);
        open_fuse_device(&dir);
        dir.give_to(ORDINARY);
        let told = start(&dir, User::Number(ORDINARY), &[]);
        let mut pgrep = command("sh", User::Number(ORDINARY));
        pgrep.args(["-c", "cat \"$1/status.json\"", "sh"]).arg(dir.join("token"));
        let status = run(pgrep, &dir, secs(5)).ok();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let log = dir.join(".local/state/molecule-tokenfs.log");
        let said = format!("the log goes to {}\n", log.display());
        let mut umount = tokenfs(&dir, User::Number(ORDINARY));
        umount.arg("umount").arg(dir.join("token"));
        let pid = Pid::from_raw(status["supervisor_pid"].as_i64().unwrap().try_into().unwrap());
        run(umount, &dir, secs(5)).ok();
        eventually("it is gone", secs(5), || is_gone(pid).then_some(()));
        assert_eq!(told.stderr, said, "{told:?}");
        assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(log).unwrap();
        assert!(text.contains("serving at") && text.contains("somebody unmounted it"), "{text}");
    });
}

#[test]
fn where_nothing_can_be_written_it_says_so() {
    sandboxed(secs(60), || {
        small_disk(Path::new("/var/log"), "size=1m,mode=755");
        fs::create_dir("/var/log/molecule-tokenfs.log").unwrap();
        let dir = TestDir::new();
        let _leftovers = Leftovers::of(&dir);
        let told = start(&dir, User::Own, &[]);
        let _daemon = Background::at(&dir.join("token"));
        assert!(told.status.success(), "{told:?}");
        assert!(told.stderr.starts_with("nothing is logged: "), "{told:?}");
        assert!(told.stderr.ends_with("name another file: --log-file FILE\n"), "{told:?}");
    });
}

#[test]
fn its_processes_have_its_name() {
    sandboxed(secs(60), || {
        small_disk(Path::new("/var/log"), "size=1m");
        let dir = TestDir::new();
        let _leftovers = Leftovers::of(&dir);
        start(&dir, User::Own, &[]);
        let daemon = Background::at(&dir.join("token"));
        let mut pgrep = command("pgrep", User::Own);
        pgrep.arg("molecule");
        let found = run(pgrep, &dir, secs(5)).ok();
        for pid in &daemon.pids {
            assert!(found.lines().any(|line| line == pid.to_string()), "{pid}: {found}");
        }
    });
}
