//! How we run the system's programs: where they are looked up, and with what environment.
//!
//! An ordinary user runs what a shell would run, from the absolute directories in PATH. A privileged
//! process must not let others choose the program or influence it: it looks in fixed directories, accepts
//! only programs that nobody but root can have put there, and gives them a clean environment. Callers add
//! what a program needs beyond that.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::unistd::{getegid, geteuid, getgid, getuid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::time::{Clock, SystemClock};
use crate::trust::Trust;

/// Where a privileged process looks for programs, in the format of PATH.
pub const DIRECTORIES: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The largest output that is accepted, in bytes. All that we ask for is short.
const MAX_OUTPUT: usize = 1 << 20;

/// The most symbolic links that are followed to a program (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// The variables that gh takes a token from. No program run from here needs one.
pub const GH_VARIABLES: [&str; 4] =
    ["GH_TOKEN", "GITHUB_TOKEN", "GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN"];

/// Why a program is not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// There is none of this name.
    #[error("{name} is not installed here")]
    NotInstalled {
        /// The program.
        name: String,
    },
    /// It is there, but somebody other than root could have put it there.
    #[error("root must not run {path}: {why}")]
    Untrusted {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it, or with a directory that leads to it.
        why: String,
    },
}

/// A user to run a program as.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    /// The user's number.
    pub uid: u32,
    /// The user's group; the program gets no others.
    pub gid: u32,
    /// The user's home, if there is one.
    pub home: Option<&'a Path>,
}

/// Whether this process may do more than whoever set up its environment: it runs as root, setuid or
/// setgid, or holds a capability.
#[must_use]
pub fn is_privileged() -> bool {
    let is_raised = getuid() != geteuid() || getgid() != getegid();
    let has_capability = || {
        let own = rustix::thread::capabilities(None);
        // This cannot fail for one's own thread; if it does, be careful.
        own.map_or(true, |own| !own.effective.is_empty())
    };
    geteuid().is_root() || is_raised || has_capability()
}

/// The directories to search for programs, in the format of PATH. For a privileged process these are the
/// ones of [`DIRECTORIES`] that only root can change.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "PATH says where programs are, as in execvp(3)")]
pub fn search_path() -> OsString {
    if !is_privileged() {
        let path = std::env::var_os("PATH").filter(|path| !path.is_empty());
        return path.unwrap_or_else(|| DIRECTORIES.into());
    }
    let is_roots = |directory: &PathBuf| directory.is_dir() && check(directory).is_ok();
    let safe = std::env::split_paths(DIRECTORIES).filter(is_roots);
    let safe = std::env::join_paths(safe).unwrap_or_default();
    // An empty PATH means the current directory.
    if safe.is_empty() { "/nonexistent".into() } else { safe }
}

/// The directory for temporary files: TMPDIR, unless somebody else could replace what a privileged
/// process creates there.
#[must_use]
pub fn temporary() -> PathBuf {
    let named = std::env::temp_dir();
    if is_privileged() && check(&named).is_err() { "/tmp".into() } else { named }
}

/// All programs of this name that may be run, in search order.
pub fn find_all(name: &str) -> impl Iterator<Item = PathBuf> {
    candidates(name, &search_path())
        .into_iter()
        .filter(|path| !is_privileged() || check(path).is_ok())
}

/// The first program of this name that may be run.
///
/// # Errors
/// [`Missing`], if there is none.
pub fn find(name: &str) -> Result<PathBuf, Missing> {
    let is_privileged = is_privileged();
    let path = if is_privileged { DIRECTORIES.into() } else { search_path() };
    let mut passed_over = None;
    for path in candidates(name, &path) {
        match if is_privileged { check(&path) } else { Ok(()) } {
            Ok(()) => return Ok(path),
            Err(why) => passed_over = passed_over.or(Some(Missing::Untrusted { path, why })),
        }
    }
    Err(passed_over.unwrap_or_else(|| Missing::NotInstalled { name: name.to_owned() }))
}

fn candidates(name: &str, path: &OsStr) -> Vec<PathBuf> {
    std::env::split_paths(path)
        // Empty and relative entries depend on the current directory.
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .filter(|path| fs::metadata(path).is_ok_and(|it| it.is_file() && it.mode() & 0o111 != 0))
        .collect()
}

/// A command for this program, with empty standard input and no token in its environment. For a
/// privileged process the [whole environment](clean) is fixed, and the directory is `/`.
///
/// # Errors
/// As [`find`].
pub fn command(name: &str) -> Result<Command, Missing> {
    let mut command = Command::new(find(name)?);
    command.stdin(Stdio::null()).env("LC_ALL", "C");
    if is_privileged() {
        clean(&mut command);
    } else {
        for name in GH_VARIABLES {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// A command for this program that runs as another user. Only root can do this.
///
/// # Errors
/// As [`find`].
pub fn command_as(name: &str, user: User<'_>) -> Result<Command, Missing> {
    let mut command = Command::new(find(name)?);
    command.stdin(Stdio::null());
    clean(&mut command);
    if let Some(home) = user.home {
        command.env("HOME", home);
    }
    // The standard library drops the caller's supplementary groups if a user is set.
    command.uid(user.uid).gid(user.gid);
    Ok(command)
}

/// Gives a command an environment and a directory that nobody else can influence.
fn clean(command: &mut Command) {
    command.env_clear().current_dir("/");
    command.env("PATH", search_path()).env("LC_ALL", "C").env("HOME", "/nonexistent");
}

/// Checks that only root can have put a file at `path`, and only root can change it: the file and every
/// directory and link that leads to it belong to root and are not writable by others. A sticky directory
/// such as `/tmp` is accepted, because others cannot replace root's files in it.
///
/// # Errors
/// The first objection, in words.
pub fn check(path: &Path) -> Result<(), String> {
    let (mut path, root) = (path.to_owned(), Trust::root());
    for _ in 0..MAX_LINKS {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let resolved = fs::canonicalize(directory).map_err(|error| told(directory, &error))?;
        for directory in directory.ancestors().chain(resolved.ancestors()) {
            let found = fs::metadata(directory).map_err(|error| told(directory, &error))?;
            check_one(&root, directory, &found)?;
        }
        let found = fs::symlink_metadata(&path).map_err(|error| told(&path, &error))?;
        if !found.is_symlink() {
            return check_one(&root, &path, &found);
        }
        let target = fs::read_link(&path).map_err(|error| told(&path, &error))?;
        path = resolved.join(target);
    }
    Err(format!("{}: too many symbolic links", path.display()))
}

fn told(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

fn check_one(root: &Trust, path: &Path, found: &Metadata) -> Result<(), String> {
    let (owner, mode) = (found.uid(), found.mode());
    let flaw =
        if found.is_dir() { root.flaw_on_the_way(owner, mode) } else { root.flaw_of(owner, mode) };
    flaw.map_or(Ok(()), |flaw| Err(format!("{} {flaw}", path.display())))
}

/// Runs a program and collects its output. It is killed if that takes longer than `limit`.
///
/// # Errors
/// If it cannot be started; `TimedOut` if it does not end in time; `InvalidData` if it writes more than
/// 1 MiB.
pub fn output(command: &mut Command, limit: Duration) -> io::Result<Output> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let collected = collect(&mut child, SystemClock.now().boot.saturating_add(limit));
    if collected.is_err() {
        // It may have ended meanwhile, which is as well.
        let _ = child.kill();
    }
    let status = child.wait();
    let (stdout, stderr) = collected?;
    Ok(Output { status: status?, stdout, stderr })
}

/// What a child writes until it has ended.
fn collect(child: &mut Child, deadline: Duration) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while out.is_some() || err.is_some() {
        let open: Vec<_> = out.iter().map(AsFd::as_fd).chain(err.iter().map(AsFd::as_fd)).collect();
        wait_for_any(&open, deadline)?;
        read_some(&mut out, &mut stdout)?;
        read_some(&mut err, &mut stderr)?;
    }
    // It may have closed both and go on.
    wait_for_end(Pid::from_child(child), deadline)?;
    Ok((stdout, stderr))
}

/// Waits until a process has ended: a child that nobody has waited for. Before Linux 5.3 nobody can wait so
/// long only, and it returns at once.
///
/// # Errors
/// `TimedOut` if it did not end before `deadline` (boot clock).
pub fn wait_for_end(pid: Pid, deadline: Duration) -> io::Result<()> {
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(ended) => wait_for_any(&[ended.as_fd()], deadline),
        Err(_) => Ok(()),
    }
}

/// Waits until one of these is readable.
fn wait_for_any(open: &[std::os::fd::BorrowedFd<'_>], deadline: Duration) -> io::Result<()> {
    let mut polled: Vec<_> = open.iter().map(|file| PollFd::new(file, PollFlags::IN)).collect();
    loop {
        let left = deadline.saturating_sub(SystemClock.now().boot);
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not end in time"));
        }
        match poll(&mut polled, Some(&Timespec::try_from(left).unwrap_or_default())) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads what there is; at the end the pipe is closed.
fn read_some<R: Read + AsFd>(pipe: &mut Option<R>, into: &mut Vec<u8>) -> io::Result<()> {
    let Some(open) = pipe else { return Ok(()) };
    let mut polled = [PollFd::new(&*open, PollFlags::IN)];
    if poll(&mut polled, Some(&Timespec::default())) == Ok(0) {
        return Ok(());
    }
    let mut buffer = [0; 4096];
    let read = open.read(&mut buffer)?;
    into.extend_from_slice(buffer.get(..read).unwrap_or_default());
    if into.len() > MAX_OUTPUT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its output is too long"));
    }
    if read == 0 {
        *pipe = None;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = command("sh").unwrap();
        command.args(["-c", script]);
        command
    }

    #[test]
    fn empty_and_relative_directories_hold_no_programs() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("git");
        fs::write(&program, "").unwrap();
        let path =
            std::env::join_paths(["", ".", "src", dir.path().to_str().unwrap(), ""]).unwrap();
        assert!(candidates("git", &path).is_empty(), "it cannot be run");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(candidates("git", &path), [program]);
        // There are files of this name in the directory of the tests.
        assert!(candidates("Cargo.toml", OsStr::new(":.:..")).is_empty());
    }

    #[test]
    fn what_others_can_write_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o777)).unwrap();
        let error = check(&file).unwrap_err();
        assert!(error.contains("can be written") || error.contains("belongs to"), "{error}");
        assert!(check(Path::new("/nonexistent/x")).is_err());
        assert_eq!(check(&fs::canonicalize("/bin/sh").unwrap()), Ok(()));
        assert_eq!(check(Path::new("/bin/sh")), Ok(()));
    }

    #[test]
    fn everything_that_a_program_says_is_collected() {
        let script =
            "i=0; while [ $i -lt 20000 ]; do echo line; i=$((i+1)); done; echo no >&2; exit 3";
        let said = output(&mut sh(script), Duration::from_secs(30)).unwrap();
        assert_eq!((said.stdout.len(), &*said.stderr), (100_000, &b"no\n"[..]));
        assert_eq!(said.status.code(), Some(3));
        // Both ends closed, and still there.
        let said = output(&mut sh("exec >&- 2>&-; sleep 0.1; exit 4"), Duration::from_secs(30));
        assert_eq!(said.unwrap().status.code(), Some(4));
    }

    #[test]
    fn a_program_that_does_not_end_or_says_too_much_is_killed() {
        for script in ["sleep 60", "exec >&- 2>&-; sleep 60", "sleep 60 & echo x"] {
            let error = output(&mut sh(script), Duration::from_millis(100)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{script}");
        }
        let error = output(&mut sh("cat /dev/zero"), Duration::from_secs(30)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
