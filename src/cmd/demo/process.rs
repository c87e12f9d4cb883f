//! One command of a lane: in a process group of its own, with a deadline, gone when dropped.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

/// What any command of the demo is done within, or has failed.
const DEADLINE: Duration = Duration::from_secs(30);

/// How a command ended.
pub(super) struct Finished {
    /// It succeeded, in time.
    pub(super) success: bool,
    /// What it printed. May hold a token.
    pub(super) stdout: Vec<u8>,
    /// The last line that it wrote to standard error, if it wrote any.
    pub(super) said: Option<String>,
}

/// Runs a command to its end, or to its deadline. Dropping the future kills it, with its children.
pub(super) async fn run(command: &mut Command) -> std::io::Result<Finished> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Ctrl-C is for the demo, which ends its commands itself.
    let mut child = Group(command.process_group(0).kill_on_drop(true).spawn()?);
    let (mut stdout, mut stderr) = (child.0.stdout.take(), child.0.stderr.take());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let all = async {
        let read_out = async {
            if let Some(stdout) = &mut stdout {
                let _ = stdout.read_to_end(&mut out).await;
            }
        };
        let read_err = async {
            if let Some(stderr) = &mut stderr {
                let _ = stderr.read_to_end(&mut err).await;
            }
        };
        tokio::join!(read_out, read_err);
        child.0.wait().await
    };
    let ended = tokio::time::timeout(DEADLINE, all).await;
    let (success, late) = match ended {
        Ok(status) => (status?.success(), None),
        Err(_) => (false, Some(format!("not done within {} s", DEADLINE.as_secs()))),
    };
    let text = String::from_utf8_lossy(&err);
    let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    Ok(Finished { success, stdout: out, said: late.or_else(|| last.map(str::to_owned)) })
}

/// A child and its process group: git runs helpers of its own, which must not outlive it.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // An id that was waited for is none any more, and `id` knows.
        if let Some(id) = self.0.id().and_then(|id| i32::try_from(id).ok()) {
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}
