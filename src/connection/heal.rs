//! Shows a mount again in the containers that were shown the one before, which died with its daemon.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::task::JoinSet;

use crate::place::attached::{self, Attached};

/// The mount is visible this long after a worker begins to serve, at the latest.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);
/// So many containers at a time: one of them may not answer.
const AT_A_TIME: usize = 8;

/// See the module. Where nothing died there is nothing to do.
pub async fn heal(mountpoint: &Path) {
    let mut dead = attached::all(mountpoint);
    if dead.is_empty() {
        return;
    }
    let Some(device) = device(mountpoint).await else { return };
    dead.retain(|attached| attached.device != device);
    let count = dead.len();
    let mut healing = JoinSet::new();
    let mut failed = 0;
    for attached in dead {
        if healing.len() >= AT_A_TIME {
            failed += usize::from(!matches!(healing.join_next().await, Some(Ok(true))));
        }
        healing.spawn(show(attached));
    }
    while let Some(healed) = healing.join_next().await {
        failed += usize::from(!matches!(healed, Ok(true)));
    }
    if count > 0 {
        let (healed, of) = (count - failed, count);
        tracing::info!("the mount is shown again in {healed} of {of} containers");
    }
}

/// The number of the mount's device, when it is there.
async fn device(mountpoint: &Path) -> Option<u32> {
    let find = async {
        loop {
            // Only the table of mounts is looked at: a request to our own mount could wait for us.
            if let Ok(Some(mount)) = attached::mount_of(mountpoint)
                && mount.target == mountpoint
            {
                return mount.minor;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(PATIENCE, find).await.ok()
}

/// Whether it is shown again. Another process does it, which enters the container.
async fn show(attached: Attached) -> bool {
    let Attached { pid, started, directory, path, allow_refresh, .. } = attached;
    let mut attach = Command::new("/proc/self/exe");
    attach.arg0(env!("CARGO_PKG_NAME")).arg("attach").arg("--pid").arg(pid.to_string());
    attach.arg("--started").arg(started.to_string()).arg("--path").arg(&path);
    if allow_refresh {
        attach.arg("--allow-refresh");
    }
    attach.arg("--").arg(&directory);
    attach.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let told = match attach.output().await {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "),
        Err(error) => error.to_string(),
    };
    tracing::warn!("{} is not shown again to process {pid}: {told}", directory.display());
    false
}
