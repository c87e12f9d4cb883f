//! `doctor`: looks through everything between a tool and its token, and says of each part whether
//! it is well, and which command mends it.
//!
//! A part is one file in `doctor/` and one line in [`run`]. Each gives [`Finding`]s; none stops at
//! the first that is bad, since at 3 a.m. nobody wants to come back for the second.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use crate::cmd::{self, EXIT_FAILURE};
use crate::config::{Settings, SettingsArgs, env};

mod choice;
mod environment;
mod fuse;
mod gh;
mod git;
mod kernel;
mod mount;
mod subject;
mod way;

use subject::Subject;

/// The arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// The mount [default: the one of this machine or user]
    pub mountpoint: Option<PathBuf>,

    /// Check as this user: its files, its git configuration, its right to read
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    /// Try to make a mount, print how that went, and end: for itself
    #[arg(long, hide = true)]
    pub probe: bool,
}

/// How a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but will not always, or not for everything.
    Warn,
    /// Tools get no token, or a dead one.
    Fail,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What was found out about one part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    /// The part: a word.
    check: &'static str,
    verdict: Verdict,
    /// What is so, without a full stop; never a token.
    sentence: String,
    /// What to type, or what to do.
    remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, sentence: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, sentence: sentence.into(), remedy: None }
    }

    fn warn(check: &'static str, sentence: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { check, verdict: Verdict::Warn, sentence: sentence.into(), remedy }
    }

    fn fail(check: &'static str, sentence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, ..Self::warn(check, sentence, remedy) }
    }

    /// The same about the token of this name.
    fn of(self, token: &str) -> Self {
        Self { sentence: format!("{token}: {}", self.sentence), ..self }
    }
}

/// Looks at everything; fails where something does.
///
/// # Errors
/// When the configuration is wrong or there is no such user: then it cannot be told what is meant.
pub fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    if args.probe {
        return fuse::probe();
    }
    let subject = Subject::find(args.user.as_deref())?;
    let settings = Settings::load(&SettingsArgs::default())?;
    let (served, mut findings) = mount::look(args.mountpoint.clone(), &settings, &subject);
    let fuse = fuse::look(served.backend);
    let way = way::look(&served, &fuse);
    let kernel = kernel::look(served.backend, settings.open_timeout.value);
    findings.splice(0..0, fuse.findings.into_iter().chain(kernel));
    let gh = gh::look(&subject, served.mountpoint.as_deref());
    findings.extend(git::look(&subject, &settings.hosts.value));
    findings.extend(environment::look(&served, gh.has_shim));
    findings.extend(gh.findings);
    if let Some(mountpoint) = &served.mountpoint {
        findings.extend(choice::look(&subject, mountpoint, &settings.hosts.value, gh.has_shim));
    }
    // Advice, after what is wrong.
    findings.extend(way);
    let text = if args.json { json(&subject, &findings) } else { text(&findings) };
    cmd::print(text.as_bytes())?;
    let failed = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
    Ok(if failed { ExitCode::from(EXIT_FAILURE) } else { ExitCode::SUCCESS })
}

fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut out = String::new();
    for Finding { check, verdict, sentence, remedy } in findings {
        // Writing into a string cannot fail.
        let _ = writeln!(out, "{:<4}  {check:<width$}  {sentence}", verdict.name());
        if let Some(remedy) = remedy {
            let _ = writeln!(out, "      {:width$}  do: {remedy}", "");
        }
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let _ = match (count(Verdict::Fail), count(Verdict::Warn)) {
        (0, 0) => writeln!(out, "\nAll is well."),
        (0, warnings) => writeln!(out, "\nIt works; {warnings} to look at."),
        (failed, _) => writeln!(out, "\n{failed} to fix, the first one first; then ask again."),
    };
    out
}

fn json(subject: &Subject, findings: &[Finding]) -> String {
    let failed = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
    let object = serde_json::json!({
        "ok": !failed,
        "user": subject.name,
        "version": env!("CARGO_PKG_VERSION"),
        "findings": findings,
    });
    format!("{object:#}\n")
}

/// Whether a value is a token of a GitHub App: it lives for an hour at most, so whatever keeps it
/// keeps a dead one.
fn is_frozen(value: &[u8]) -> bool {
    value.starts_with(b"ghs_")
}

/// A variable of this process's environment that holds such a token.
fn frozen_variable(name: &str) -> bool {
    env(name).is_some_and(|value| is_frozen(OsStr::as_encoded_bytes(&value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_what_mends_it_another() {
        let findings = [
            Finding::ok("mount", "served"),
            Finding::warn("clock", "it is late", "set it"),
            Finding::fail("git", "no helper", "molecule-tokenfs setup git --global"),
        ];
        insta::assert_snapshot!(text(&findings), @r"
        ok    mount  served
        warn  clock  it is late
                     do: set it
        fail  git    no helper
                     do: molecule-tokenfs setup git --global

        1 to fix, the first one first; then ask again.
        ");
        assert!(text(&findings[..2]).ends_with("\nIt works; 1 to look at.\n"));
        assert!(text(&findings[..1]).ends_with("\nAll is well.\n"));
    }
}
