//! What the running kernel lacks of what a mount would like to have, and what it is told to do to mounts.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::Finding;
use crate::connection::kernel::Kernel;
use crate::status::Backend;

const CHECK: &str = "kernel";
/// Where Linux 6.15 and later take limits for the requests of all FUSE mounts, each in seconds; 0 is none.
const LIMITS: &str = "/proc/sys/fs/fuse";
const NAMES: [&str; 2] = ["default_request_timeout", "max_request_timeout"];
/// So much longer than it may wait an open can be under way: until the watchdog has seen that it hangs, and
/// the worker is killed.
const MARGIN: Duration = Duration::from_secs(5);

/// Says it where a mount serves, or where it is to be found out whether one could.
pub fn look(served: Option<Backend>, open_timeout: Duration) -> Vec<Finding> {
    if served == Some(Backend::Files) {
        return Vec::new();
    }
    let limits = limits(Path::new(LIMITS), open_timeout);
    judge(Kernel::running()).into_iter().chain(limits).collect()
}

/// The limits that the kernel ends a mount by before an open has waited as long as it may.
fn limits(directory: &Path, open_timeout: Duration) -> Option<Finding> {
    let least = open_timeout.saturating_add(MARGIN);
    let limit = |name: &'static str| {
        let text = fs::read_to_string(directory.join(name)).ok()?;
        let limit = Duration::from_secs(text.trim().parse().ok()?);
        (!limit.is_zero() && limit < least).then_some((limit, name))
    };
    let short: Vec<_> = NAMES.into_iter().filter_map(limit).collect();
    let (limit, name) = short.iter().min()?;
    let least = least.as_secs() + u64::from(least.subsec_nanos() > 0);
    let longer = short.iter().map(|(_, name)| format!(" fs.fuse.{name}={least}"));
    let longer = format!("on the host, as root: sysctl{}", longer.collect::<String>());
    let fits = limit.checked_sub(MARGIN).filter(|fits| !fits.is_zero());
    let shorter = fits.map(|fits| format!(", or --open-timeout {}s here", fits.as_secs()));
    Some(Finding::warn(
        CHECK,
        format!(
            "the kernel ends a whole mount when one request takes {} s (fs.fuse.{name}), and an open may \
             wait {open_timeout:?}",
            limit.as_secs()
        ),
        format!("{longer}{}; then mount anew", shorter.unwrap_or_default()),
    ))
}

/// By `docs/SEMANTICS.md`, whose table shows what was measured on four kernels.
fn judge(kernel: Kernel) -> Option<Finding> {
    if kernel.resends() {
        return None;
    }
    let Kernel(major, minor) = kernel;
    let sentence = format!(
        "Linux {major}.{minor} loses requests that a dead worker had read: no open fails, but the read of \
         a file that is open may fail with ESTALE in that instant"
    );
    Some(Finding::warn(
        CHECK,
        sentence,
        "open the file again after ESTALE, as cat helpers do at each use; Linux 6.9 loses none",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kernel_that_lacks_something_is_spoken_of() {
        for new in [Kernel(6, 9), Kernel(6, 18), Kernel(7, 2)] {
            assert_eq!(judge(new), None);
        }
        for old in [Kernel(5, 10), Kernel(6, 8)] {
            let finding = judge(old).unwrap();
            assert!(finding.sentence.starts_with(&format!("Linux {}.{} ", old.0, old.1)));
            assert!(finding.remedy.unwrap().contains("6.9"));
        }
        assert_eq!(look(Some(Backend::Files), Duration::ZERO), []);
    }

    #[test]
    fn a_limit_that_an_open_may_reach_is_told_with_what_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let set = |values: [&str; 2]| {
            for (name, value) in NAMES.into_iter().zip(values) {
                fs::write(dir.path().join(name), format!("{value}\n")).unwrap();
            }
            limits(dir.path(), Duration::from_secs(20))
        };
        assert_eq!(limits(dir.path(), Duration::MAX), None, "before Linux 6.15");
        for long in [["0", "0"], ["25", "0"], ["0", "25"], ["600", "65535"], ["x", ""]] {
            assert_eq!(set(long), None, "{long:?}");
        }
        for (values, of, sysctl, fits) in [
            (
                ["24", "0"],
                "24 s (fs.fuse.default_",
                "fs.fuse.default_request_timeout=25, or",
                "19s",
            ),
            (["0", "15"], "15 s (fs.fuse.max_", "sysctl fs.fuse.max_request_timeout=25, or", "10s"),
            (
                ["600", "15"],
                "15 s (fs.fuse.max_",
                "sysctl fs.fuse.max_request_timeout=25, or",
                "10s",
            ),
            (
                ["10", "15"],
                "10 s (fs.fuse.default_",
                "default_request_timeout=25 fs.fuse.max_request_timeout=25, or",
                "5s",
            ),
        ] {
            let Finding { verdict, sentence, remedy, .. } = set(values).unwrap();
            assert_eq!(verdict, crate::cmd::doctor::Verdict::Warn);
            assert!(sentence.contains(of) && sentence.ends_with("wait 20s"), "{sentence}");
            let remedy = remedy.unwrap();
            assert!(remedy.contains(sysctl), "{remedy}");
            assert!(remedy.ends_with(&format!(" --open-timeout {fits} here; then mount anew")));
        }
        let nothing_fits = set(["5", "0"]).unwrap().remedy.unwrap();
        assert!(!nothing_fits.contains("--open-timeout"), "{nothing_fits}");
    }
}
