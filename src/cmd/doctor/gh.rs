//! Which gh runs, and where it gets its token from.

use std::path::{Path, PathBuf};

use super::{Finding, Subject, frozen_variable};
use crate::cmd::setup::gh::SHIM;
use crate::cmd::setup::{in_path, is_script, shell_quote};
use crate::config;
use crate::foreign::plain;

const CHECK: &str = "gh";

/// What was found.
pub struct Gh {
    /// A shim comes first: what is frozen in the environment does gh no harm.
    pub has_shim: bool,
    /// The findings.
    pub findings: Vec<Finding>,
}

/// Looks along PATH.
pub fn look(subject: &Subject, mountpoint: Option<&Path>) -> Gh {
    let programs: Vec<_> = in_path(CHECK).collect();
    let kinds = programs.iter().map(|program| (program.as_path(), is_script(program, SHIM)));
    let kinds: Vec<_> = kinds.collect();
    let config_dir = config::env("GH_CONFIG_DIR").map(PathBuf::from);
    let reads_mount = mountpoint
        .zip(config_dir.as_deref())
        .is_some_and(|(mountpoint, directory)| directory == mountpoint.join("gh"));
    let finding = match kinds.first() {
        None => Finding::ok(CHECK, "gh is not installed here: there is nothing to wire"),
        Some((shim, true)) => shimmed(shim, &kinds),
        Some((real, false)) if reads_mount => by_config_dir(real),
        Some((real, false)) => bare(real, &kinds, subject),
    };
    let has_shim = kinds.first().is_some_and(|(_, shim)| *shim);
    Gh { has_shim, findings: vec![finding] }
}

fn shimmed(shim: &Path, kinds: &[(&Path, bool)]) -> Finding {
    let shown = shim.display();
    match kinds.iter().find(|(_, shim)| !shim) {
        Some((real, _)) => Finding::ok(
            CHECK,
            format!("{shown} gives each call a fresh token and runs {}", real.display()),
        ),
        None if config::env("MOLECULE_REAL_GH").is_some() => {
            Finding::ok(CHECK, format!("{shown} gives each call a fresh token"))
        }
        None => Finding::warn(
            CHECK,
            format!("there is the shim {shown}, and no gh behind it"),
            "apt-get install gh",
        ),
    }
}

/// A gh that reads the mount's own configuration directory.
fn by_config_dir(real: &Path) -> Finding {
    let set = ["GH_TOKEN", "GITHUB_TOKEN"].into_iter().find(|name| config::env(name).is_some());
    match set {
        None => Finding::ok(
            CHECK,
            format!("{} reads its token from the mount (GH_CONFIG_DIR)", real.display()),
        ),
        Some(name) => Finding::fail(
            CHECK,
            format!("{name} is set: gh takes it before the token of GH_CONFIG_DIR, dead or not"),
            "unset GH_TOKEN GITHUB_TOKEN",
        ),
    }
}

/// A gh that nothing stands before.
fn bare(real: &Path, kinds: &[(&Path, bool)], subject: &Subject) -> Finding {
    let shown = real.display();
    if let Some((shim, _)) = kinds.iter().find(|(_, shim)| *shim) {
        let directory = shim.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
        return Finding::fail(
            CHECK,
            format!("PATH reaches {shown} before the shim {}", shim.display()),
            format!("export PATH={}:\"$PATH\"", shell_quote(&directory)),
        );
    }
    let own = ["GH_TOKEN", "GITHUB_TOKEN"]
        .into_iter()
        .find(|name| config::env(name).is_some() && !frozen_variable(name));
    if let Some(name) = own {
        return Finding::ok(CHECK, format!("{shown} uses the token of your own in {name}"));
    }
    let login = match stored(subject) {
        Some(true) => ": it has an installation token in its own hosts.yml, dead within an hour",
        Some(false) => {
            return Finding::warn(
                CHECK,
                format!("{shown} uses a login of its own, not the mount's token"),
                "molecule-tokenfs setup gh",
            );
        }
        None => "",
    };
    Finding::fail(
        CHECK,
        format!("{shown} runs without the shim, so it gets no token from the mount{login}"),
        "molecule-tokenfs setup gh",
    )
}

/// Whether gh has a login in its own file, and whether that is frozen.
fn stored(subject: &Subject) -> Option<bool> {
    let directory = match config::env("GH_CONFIG_DIR") {
        Some(directory) if !subject.is_other() => PathBuf::from(directory),
        _ => subject.home.as_ref()?.join(".config/gh"),
    };
    let file = directory.join("hosts.yml");
    let text = subject.act(|| plain::read(&file)).ok()?;
    let mut tokens = std::str::from_utf8(&text)
        .ok()?
        .lines()
        .filter_map(|line| line.trim().strip_prefix("oauth_token:"));
    let frozen = tokens.next()?.trim().trim_matches(['"', '\'']).starts_with("ghs_");
    Some(frozen || tokens.any(|token| token.contains("ghs_")))
}
