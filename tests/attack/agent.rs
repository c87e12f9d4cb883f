//! The agent: an ordinary user with a shell that runs programs. Under `run` it is the command; elsewhere
//! it shares standard error with the daemon, as a program of the same terminal does.

use std::fs;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::server::SEARCH_PATH;
use crate::support::dir::TestDir;
use crate::support::process::ORDINARY;
use crate::timeline::boot;

/// Runs each program whose name comes through the FIFO. A process of the group of the daemon's must not
/// be killed with it, so nothing here knows job control.
const SHELL: &str = r#"
cd "$1" && exec 3<>fifo || exit 1
while read -r job <&3; do
    (sh "./$job" >"$job.out" </dev/null 3<&-; echo $? >"$job.new"; mv "$job.new" "$job.code") &
done
"#;

/// What every program of the agent's in Python begins with.
const PRELUDE: &str = include_str!("agent.py");

/// See the module.
pub struct Agent {
    folder: PathBuf,
    fifo: File,
    next: AtomicU32,
}

impl Agent {
    /// Makes what the agent's shell works in.
    pub fn prepare(dir: &TestDir) -> Self {
        let folder = dir.folder("agent");
        mkfifo(&folder.join("fifo"), Mode::from_bits_truncate(0o600)).expect("a FIFO");
        fs::write(folder.join("shell"), SHELL).expect("a shell");
        fs::write(folder.join("agent.py"), PRELUDE).expect("a prelude");
        for path in [folder.clone(), folder.join("fifo"), folder.join("shell")] {
            chown(path, Some(ORDINARY), Some(ORDINARY)).expect("chown");
        }
        let fifo = OpenOptions::new().read(true).write(true).open(folder.join("fifo"));
        Self { folder, fifo: fifo.expect("a FIFO"), next: AtomicU32::new(0) }
    }

    /// The command that is the agent's shell.
    pub fn command(&self) -> Vec<String> {
        let shell = self.folder.join("shell");
        ["sh", shell.to_str().unwrap(), self.folder.to_str().unwrap()].map(str::to_owned).to_vec()
    }

    /// Runs a program in Python, and gives the harm that it tells of. `variables` are in its environment.
    pub fn run(
        &self,
        program: &str,
        variables: &[(&str, String)],
        limit: Duration,
    ) -> Result<(), String> {
        let number = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let place = |name: &str| self.folder.join(format!("{number}{name}"));
        fs::write(place(".py"), format!("from agent import *\n{program}")).expect("a program");
        let exports = variables.iter().map(|(name, value)| format!("export {name}='{value}'"));
        let exports = exports.collect::<Vec<_>>().join("\n");
        let line = format!("PATH={SEARCH_PATH}\n{exports}\nexec python3 -B ./{number}.py\n");
        fs::write(place(""), line).expect("a job");
        (&self.fifo).write_all(format!("{number}\n").as_bytes()).expect("the agent is told");
        let end = boot() + limit;
        while !place(".code").exists() {
            if boot() > end {
                return Err(format!("the agent's program has not ended after {limit:?}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let code = fs::read_to_string(place(".code")).expect("a code");
        let said = fs::read_to_string(place(".out")).unwrap_or_default();
        let harm: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("harm: ")).collect();
        if !harm.is_empty() {
            return Err(harm.join("; "));
        }
        // A program that does nothing proves nothing.
        let did = said.lines().any(|line| line.starts_with("done"));
        if code.trim() != "0" || !did {
            return Err(format!("the agent's program failed ({}): {said}", code.trim()));
        }
        Ok(())
    }
}
