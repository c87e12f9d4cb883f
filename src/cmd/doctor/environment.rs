//! Tokens that are frozen in an environment: this one's, and as far as we may look, those of all
//! running processes.

use std::ffi::OsStr;
use std::fs;
use std::time::Duration;

use zeroize::Zeroizing;

use super::mount::Served;
use super::{Finding, is_frozen};
use crate::config::{self, TOKEN_VARIABLES};
use crate::secret::Fingerprint;
use crate::status::words;
use crate::time::{Clock, SystemClock};

/// An installation token lives no longer.
const LONGEST_LIFE: Duration = Duration::from_hours(1);
/// More would hide the rest.
const MOST: usize = 10;

/// Looks at this environment, and at those of the processes that run.
pub fn look(served: &Served, gh_has_shim: bool) -> Vec<Finding> {
    let mut findings: Vec<_> =
        TOKEN_VARIABLES.into_iter().filter_map(|name| own(name, served, gh_has_shim)).collect();
    let mut holders = holders(served);
    holders.sort_by_key(|holder| std::cmp::Reverse(holder.age));
    let more = holders.len().saturating_sub(MOST);
    findings.extend(holders.into_iter().take(MOST).map(Holder::finding));
    if more > 0 {
        findings.push(Finding::warn(
            "process",
            format!("{more} more processes hold an installation token in their environment"),
            "restart them, too",
        ));
    }
    findings
}

fn own(name: &'static str, served: &Served, gh_has_shim: bool) -> Option<Finding> {
    let value = config::env(name)?;
    let value = Zeroizing::new(value.into_encoded_bytes());
    if !is_frozen(&value) {
        let sentence = format!("{name} holds a token of your own: gh uses it, git does not");
        return Some(Finding::ok("environment", sentence));
    }
    let fingerprint = Fingerprint::of(&value).to_string();
    if served.fingerprint.as_deref() == Some(&fingerprint) {
        let sentence = format!("{name} holds the token {fingerprint}, which is the one served now");
        return Some(Finding::ok("environment", sentence));
    }
    let sentence = format!(
        "{name} holds the installation token {fingerprint}, frozen when this environment was made: \
         it is dead an hour after it was issued, and what reads it gets 401"
    );
    let remedy = "unset GH_TOKEN GITHUB_TOKEN (in an image: start the command with \
                  molecule-tokenfs run, which takes them away)";
    Some(if gh_has_shim {
        Finding::warn("environment", format!("{sentence}; git and gh are not harmed"), remedy)
    } else {
        Finding::fail("environment", sentence, remedy)
    })
}

/// A process that has a frozen token.
struct Holder {
    pid: u32,
    command: String,
    variable: String,
    fingerprint: String,
    age: Duration,
}

impl Holder {
    fn finding(self) -> Finding {
        let Self { pid, command, variable, fingerprint, age } = self;
        let dead = age >= LONGEST_LIFE;
        let fate = if dead { "so it is dead" } else { "it will be dead within the hour" };
        let sentence = format!(
            "process {pid} ({command}) holds the installation token {fingerprint} in {variable}; it \
             runs for {}: {fate}",
            words(Duration::from_secs(age.as_secs()))
        );
        let remedy = format!(
            "start it again without: kill {pid}; molecule-tokenfs exec --env {variable} -- {command} …"
        );
        if dead {
            Finding::fail("process", sentence, remedy)
        } else {
            Finding::warn("process", sentence, remedy)
        }
    }
}

/// Every process whose environment we may read and which has such a token; not our own daemons,
/// which keep it as the last resort that it is.
fn holders(served: &Served) -> Vec<Holder> {
    let own = std::process::id();
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own)
        .filter_map(|pid| holder(pid, served))
        .collect()
}

fn holder(pid: u32, served: &Served) -> Option<Holder> {
    let environment = Zeroizing::new(fs::read(format!("/proc/{pid}/environ")).ok()?);
    let (variable, token) = environment.split(|byte| *byte == 0).find_map(|setting| {
        let at = setting.iter().position(|byte| *byte == b'=')?;
        let (name, value) = setting.split_at_checked(at)?;
        let value = value.get(1..)?;
        is_frozen(value).then_some((name, value))
    })?;
    let fingerprint = Fingerprint::of(token).to_string();
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let program = program.as_deref().and_then(|path| path.file_name()).map(OsStr::to_string_lossy);
    let is_ours = program.as_deref().is_some_and(|name| name.starts_with("molecule-tokenfs"));
    if is_ours || served.fingerprint.as_deref() == Some(&fingerprint) {
        return None;
    }
    let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(Holder {
        pid,
        command: command.trim().to_owned(),
        variable: String::from_utf8_lossy(variable).into_owned(),
        fingerprint,
        age: age(pid)?,
    })
}

/// How long a process has run: field 22 of `proc_pid_stat(5)`, in ticks since the boot.
fn age(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in field 2 may hold blanks and brackets of its own.
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: u64 = rest.split_whitespace().nth(19)?.parse().ok()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let started = Duration::from_secs(ticks / u64::try_from(per_second).ok()?.max(1));
    Some(SystemClock.now().boot.saturating_sub(started))
}
