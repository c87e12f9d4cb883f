//! Honest readers of two users: processes that open and read all the time and note what they see.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::dir::TestDir;
use crate::support::process::Process;
use crate::timeline::boot;

/// From before an open to after it, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    pub start: Duration,
    pub end: Duration,
    pub what: String,
}

/// The readers of one daemon.
pub struct Readers {
    processes: Vec<Process>,
    stop: PathBuf,
}

impl Readers {
    pub fn none() -> Self {
        Self { processes: Vec::new(), stop: PathBuf::new() }
    }

    /// `enter` gives a command in the namespaces of the daemon.
    pub fn start(
        dir: &TestDir,
        paths: &[(u32, u32, PathBuf)],
        enter: impl Fn(&[&str]) -> Command,
    ) -> Self {
        let stop = dir.join("readers-stop");
        let script = dir.file("reader.py", include_str!("reader.py"));
        let processes = paths.iter().enumerate().map(|(number, (user, group, path))| {
            let (user, group) = (user.to_string(), group.to_string());
            let words = ["setpriv", "--reuid", &user, "--regid", &group, "--clear-groups"];
            let files = [&script, path, &stop].map(|path| path.to_str().expect("plain text"));
            let words = [&words[..], &["python3", "-B"], &files].concat();
            Process::start(enter(&words), &format!("reader-{number}"), dir)
        });
        Self { processes: processes.collect(), stop }
    }

    /// Ends them, and gives what each saw; of one that does not end, that its last open hangs.
    /// `abort` frees those that cannot be killed.
    pub fn finish(mut self, patience: Duration, abort: impl Fn()) -> Vec<Open> {
        std::fs::write(&self.stop, "").expect("a file");
        let (asked, end) = (boot(), boot() + patience);
        let mut opens = Vec::new();
        for process in &mut self.processes {
            while process.ended().is_none() && boot() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
            if process.ended().is_none() {
                process.signal(Signal::SIGKILL);
                abort();
                opens.push(Open { start: asked, end: boot(), what: "hangs".to_owned() });
            }
            let said = process.stdout();
            assert!(said.lines().count() > 10, "a reader read nothing: {}", process.stderr());
            opens.extend(said.lines().filter_map(parse));
        }
        opens
    }
}

/// One line of `reader.py`. The last line of a reader that was killed may be torn.
fn parse(line: &str) -> Option<Open> {
    let mut words = line.split(' ');
    let mut time = || words.next()?.parse().ok().map(Duration::from_nanos);
    let (start, end) = (time()?, time()?);
    Some(Open { start, end, what: words.next()?.to_owned() })
}
