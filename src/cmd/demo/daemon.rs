//! The daemon under demonstration: this same program, as a child.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cmd::Advise;
use crate::cmd::demo::fuse::Way;
use crate::cmd::demo::lane::Lane;
use crate::cmd::demo::place::Place;
use crate::cmd::demo::tools::Tools;
use crate::cmd::demo::{fuse, process};
use crate::cmd::reader::files;
use crate::demo::Demo;
use crate::spawn;

/// How long it may take until the mount answers.
const START: Duration = Duration::from_secs(10);
/// How long it may take to unmount and end.
const STOP: Duration = Duration::from_secs(5);
/// How often a token is asked for after a stop, before the demo goes on without.
const RECOVERY_TRIES: u32 = 10;
const POLL: Duration = Duration::from_millis(20);

/// See the module. Dropping it ends the daemon and waits until the mount is gone.
pub(super) struct Daemon {
    child: Child,
    mount: PathBuf,
    path: std::ffi::OsString,
}

impl Daemon {
    /// Starts it with flags only: the demo's settings come from nowhere else.
    pub(super) fn start(
        place: &Place,
        demo: &Demo,
        tools: &Tools,
        life: Duration,
        way: Way,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let log = File::create(place.log()).context("cannot write the daemon's log")?;
        // Enough for any command of the demo to finish with the token that it read.
        let min_life = (life / 4).min(Duration::from_mins(1));
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", &tools.path)
            .env("HOME", place.root())
            .arg("mount")
            .arg(place.mount())
            .arg("--config")
            .arg(place.settings())
            .args(["--platform-url", demo.url()])
            .args(["--workspace-id", &demo.address().workspace_id])
            .arg("--configs-dir")
            .arg(place.configs())
            .args(["--min-life", &format!("{}ms", min_life.as_millis())])
            .args(["--host", demo.host()])
            .args(["--backend", if way == Way::Files { "files" } else { "auto" }])
            // Nobody outside the demo takes its tokens.
            .args(["--allow-disk", "--log-level", "info", "--with-parent"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C is for the demo, which ends its daemon itself.
            .process_group(0);
        let child = command.spawn().context("cannot start the daemon")?;
        Ok(Self { child, mount: place.mount(), path: tools.path.clone() })
    }

    /// Waits until the mount answers, and there is a token: files are not there before.
    ///
    /// # Errors
    /// The daemon ended, or nothing answers within ten seconds; with what it said last.
    pub(super) async fn wait_until_it_serves(&mut self, place: &Place) -> anyhow::Result<()> {
        let polls = START.as_millis() / POLL.as_millis();
        for _ in 0..polls {
            if let Some(status) = self.child.try_wait()? {
                return Err(failure(place, &format!("the daemon ended ({status})")));
            }
            // By another process: an open that hangs must not hang the demo.
            let mut cat = tokio::process::Command::new("cat");
            cat.env("PATH", &self.path);
            cat.args(["status.json", "token"].map(|name| self.mount.join(name)));
            if process::run(&mut cat).await.is_ok_and(|cat| cat.success) {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        Err(failure(place, "the mount does not answer"))
    }

    /// After the platform stood still, whose requests failed meanwhile: has the tokens of the lanes fetched
    /// at once, and waits until there are some.
    pub(super) async fn recover(&self, lanes: &[&Lane], place: &Place) {
        let views: Vec<_> = lanes.iter().filter_map(|lane| lane.kind.views(place)).collect();
        for _ in 0..RECOVERY_TRIES {
            if let Ok(pid) = i32::try_from(self.child.id()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGUSR1);
            }
            let mut cat = tokio::process::Command::new("cat");
            cat.env("PATH", &self.path).args(views.iter().map(|views| views.join("token")));
            if process::run(&mut cat).await.is_ok_and(|cat| cat.success) {
                return;
            }
            // A fetch may be forced once a second.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Whether it keeps files, since it could not mount.
    pub(super) fn keeps_files(&self) -> bool {
        files::are_at(&self.mount)
    }

    fn ended_within(&mut self, limit: Duration) -> bool {
        for _ in 0..limit.as_millis() / POLL.as_millis() {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            std::thread::sleep(POLL);
        }
        false
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id())
            && matches!(self.child.try_wait(), Ok(None))
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if self.ended_within(STOP) && !is_mounted(&self.mount) {
            return;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if umount2(&self.mount, MntFlags::MNT_DETACH).is_err() {
            // Best effort: there is no other way left.
            if let Ok(mut fusermount) = spawn::command("fusermount3") {
                fusermount.args([OsStr::new("-u"), OsStr::new("-z"), self.mount.as_os_str()]);
                fusermount.stderr(Stdio::null()).status().ok();
            }
        }
    }
}

/// Whether something is mounted there, dead or alive.
fn is_mounted(mount: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path| fs::metadata(path).map(|it| it.dev());
    match (device(mount), mount.parent().map(device)) {
        (Ok(mine), Some(Ok(parent))) => mine != parent,
        (Err(error), _) => error.raw_os_error() == Some(libc::ENOTCONN),
        _ => false,
    }
}

fn failure(place: &Place, what: &str) -> anyhow::Error {
    let log = fs::read_to_string(place.log()).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let last = lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n  ");
    let error = anyhow::anyhow!("{what}; it said:\n  {last}").context("the mount cannot be had");
    match fuse::suspicion() {
        Some(hint) => error.hint(hint),
        None => error,
    }
}
