//! What git itself says and writes: its own parser and quoting are the only right ones.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::cmd::Advise;
use crate::config::{self, Environment};
use crate::spawn;

/// How long git may take. A configuration that includes a FIFO would make it wait for ever.
const LIMIT: Duration = Duration::from_secs(10);

/// One setting, as `git config --list` gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands, for example `file:/home/me/.gitconfig`; empty when nobody asked.
    pub origin: String,
    /// The key: section and name in lower case.
    pub key: String,
    /// The value; empty also where there is none.
    pub value: String,
}

/// Which settings to list.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// All that git reads here, includes too.
    Effective,
    /// What this file holds and includes.
    With(&'a Path),
    /// This file alone.
    Alone(&'a Path),
}

/// The settings in the order in which git reads them.
///
/// # Errors
/// When git is not there or cannot parse a file.
pub fn list(scope: Scope<'_>) -> anyhow::Result<Vec<Entry>> {
    let git = match scope {
        Scope::Effective => configured_git()?.0,
        Scope::With(_) | Scope::Alone(_) => git()?,
    };
    list_by(git, scope)
}

/// The settings as this git sees them, for example one that runs as another user.
///
/// # Errors
/// As [`list`].
pub fn list_by(mut command: Command, scope: Scope<'_>) -> anyhow::Result<Vec<Entry>> {
    command.args(["config", "--show-origin", "-z", "--list"]);
    match scope {
        Scope::Effective => {}
        Scope::With(file) => {
            command.arg("--includes").arg("--file").arg(file);
        }
        Scope::Alone(file) => {
            command.arg("--no-includes").arg("--file").arg(file);
        }
    }
    Ok(parse_list(&succeed(&mut command)?.stdout))
}

/// `origin NUL key LF value NUL`, again and again.
fn parse_list(output: &[u8]) -> Vec<Entry> {
    let text = String::from_utf8_lossy(output);
    let mut fields = text.split('\0');
    let mut entries = Vec::new();
    while let (Some(origin), Some(setting)) = (fields.next(), fields.next()) {
        let (key, value) = setting.split_once('\n').unwrap_or((setting, ""));
        entries.push(Entry { origin: origin.into(), key: key.into(), value: value.into() });
    }
    entries
}

/// The helpers that git asks for a URL of this protocol and host, in their order
/// (`gitcredentials(7)`): an empty one resets those before it.
#[must_use]
pub fn helpers<'a>(entries: &'a [Entry], protocol: &str, host: &str) -> Vec<&'a Entry> {
    let mut helpers = Vec::new();
    for entry in entries {
        let Some(rest) = entry.key.strip_prefix("credential.") else { continue };
        let applies = rest == "helper"
            || rest
                .strip_suffix(".helper")
                .is_some_and(|pattern| pattern_matches(pattern, protocol, host));
        if applies && entry.value.is_empty() {
            helpers.clear();
        } else if applies {
            helpers.push(entry);
        }
    }
    helpers
}

/// Whether `credential.PATTERN.*` is about a host. User and path are passed over: they narrow it
/// further, which is no reason not to mention it.
fn pattern_matches(pattern: &str, protocol: &str, host: &str) -> bool {
    let (scheme, rest) = pattern.split_once("://").unwrap_or((protocol, pattern));
    let authority = rest.split('/').next().unwrap_or_default();
    let name = authority.rsplit_once('@').map_or(authority, |(_, name)| name);
    let default_port = if protocol == "https" { ":443" } else { ":80" };
    let labels = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.strip_suffix(default_port).unwrap_or(&name).split('.').map(str::to_owned).collect()
    };
    let (pattern, host): (Vec<String>, Vec<String>) = (labels(name), labels(host));
    scheme == protocol
        && (name.is_empty()
            || pattern.len() == host.len()
                && pattern
                    .iter()
                    .zip(&host)
                    .all(|(pattern, label)| pattern == "*" || pattern == label))
}

/// Sections with these settings, as git writes and quotes them.
///
/// # Errors
/// When git is not there or no temporary directory can be made.
pub fn render(settings: &[(String, String)]) -> anyhow::Result<Vec<u8>> {
    let directory = Scratch::new().context("cannot make a temporary directory")?;
    let file = directory.0.join("config");
    for (key, value) in settings {
        succeed(git()?.args(["config", "--file"]).arg(&file).args(["--add", key, value]))?;
    }
    std::fs::read(&file).context("cannot read what git wrote")
}

/// A directory of our own, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> io::Result<Self> {
        let template = spawn::temporary().join("molecule-tokenfs-XXXXXX");
        Ok(Self(nix::unistd::mkdtemp(&template)?))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: it holds nothing secret.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The file that `git config --global` writes (`git-config(1)`, FILES).
///
/// # Errors
/// When HOME is not set.
pub fn global_file() -> anyhow::Result<PathBuf> {
    global_file_in(&Environment::Process)
}

fn global_file_in(environment: &Environment) -> anyhow::Result<PathBuf> {
    if let Some(file) = environment.get("GIT_CONFIG_GLOBAL") {
        return Ok(file.into());
    }
    let Some(home) = environment.get("HOME").map(PathBuf::from) else {
        return Err(anyhow::anyhow!("HOME is not set: whose git configuration is meant?")
            .hint("name the file: molecule-tokenfs setup git --file FILE"));
    };
    let usual = home.join(".gitconfig");
    let xdg = environment
        .get("XDG_CONFIG_HOME")
        .map_or_else(|| home.join(".config"), PathBuf::from)
        .join("git/config");
    Ok(if xdg.exists() && std::fs::symlink_metadata(&usual).is_err() { xdg } else { usual })
}

/// The file that `git config --system` writes; only git knows where it was built to look.
///
/// # Errors
/// When git is not there.
pub fn system_file() -> anyhow::Result<PathBuf> {
    if let Some(file) = Environment::Process.get("GIT_CONFIG_SYSTEM") {
        return Ok(file.into());
    }
    // git hands the path to its editor; older gits have no other way to ask for it.
    let output =
        succeed(git()?.env("GIT_EDITOR", "printf %s").args(["config", "--system", "--edit"]))?;
    let path = String::from_utf8(output.stdout).context("git named no file")?;
    if path.is_empty() {
        bail!("git does not say where its system configuration is");
    }
    Ok(path.into())
}

/// git without a token in its environment and without any configuration, which could run programs or
/// make it wait for ever.
///
/// # Errors
/// If git is missing, or root must not run the one that is installed.
pub fn git() -> anyhow::Result<Command> {
    let mut command = spawn::command("git").map_err(missing)?;
    for (name, value) in [
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CEILING_DIRECTORIES", "/"),
    ] {
        command.env(name, value);
    }
    command.current_dir("/");
    Ok(command)
}

/// git with the configuration that applies to this process. A privileged process leaves out files that
/// others can change, and the repository in the current directory; the second value says why.
///
/// # Errors
/// As [`git`].
pub fn configured_git() -> anyhow::Result<(Command, Option<String>)> {
    if !spawn::is_privileged() {
        return Ok((spawn::command("git").map_err(missing)?, None));
    }
    let mut git = git()?;
    let environment = Environment::Process;
    // Settings in the environment, which is where `run` puts ours.
    for (name, value) in config::variables() {
        let text = name.to_string_lossy();
        if text.starts_with("GIT_CONFIG_KEY_")
            || text.starts_with("GIT_CONFIG_VALUE_")
            || text == "GIT_CONFIG_COUNT"
        {
            git.env(name, value);
        }
    }
    let mut left_out = Vec::new();
    let mut is_ours = |path: &Path| {
        let checked = if path.exists() { spawn::check(path) } else { Ok(()) };
        checked.map_err(|why| left_out.push(why)).is_ok()
    };
    if environment.get("GIT_CONFIG_NOSYSTEM").is_none() {
        match environment.get("GIT_CONFIG_SYSTEM").map(PathBuf::from) {
            Some(file) if is_ours(&file) => {
                git.env_remove("GIT_CONFIG_NOSYSTEM").env("GIT_CONFIG_SYSTEM", file);
            }
            None if is_ours(&system_file()?) => {
                git.env_remove("GIT_CONFIG_NOSYSTEM");
            }
            _ => {}
        }
    }
    if let Some(file) = environment.get("GIT_CONFIG_GLOBAL").map(PathBuf::from) {
        if is_ours(&file) {
            git.env("GIT_CONFIG_GLOBAL", file);
        }
    } else if let Some(home) = environment.get("HOME").map(PathBuf::from)
        && is_ours(&home)
    {
        let elsewhere = environment.get("XDG_CONFIG_HOME").map(PathBuf::from);
        let directory = elsewhere.clone().unwrap_or_else(|| home.join(".config"));
        if is_ours(&home.join(".gitconfig")) && is_ours(&directory.join("git/config")) {
            git.env_remove("GIT_CONFIG_GLOBAL").env("HOME", home);
            git.envs(elsewhere.map(|directory| ("XDG_CONFIG_HOME", directory)));
        }
    }
    let left_out = left_out.into_iter().next();
    Ok((git, left_out))
}

/// The error for a git that cannot be run.
#[must_use]
pub fn missing(missing: spawn::Missing) -> anyhow::Error {
    let hint = match missing {
        spawn::Missing::NotInstalled { .. } => "install it: apt-get install git",
        spawn::Missing::Untrusted { .. } => {
            "make it writable by root only, or install another one: apt-get install git"
        }
    };
    anyhow::Error::new(missing).hint(hint)
}

fn succeed(command: &mut Command) -> anyhow::Result<Output> {
    let output = spawn::output(command, LIMIT).context("cannot run git")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("git config failed: {}", said.trim());
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: &str) -> Entry {
        Entry { origin: String::new(), key: key.into(), value: value.into() }
    }

    fn values(entries: &[Entry], host: &str) -> Vec<String> {
        helpers(entries, "https", host).iter().map(|entry| entry.value.clone()).collect()
    }

    #[test]
    fn helpers_are_asked_in_the_order_of_the_file_and_an_empty_one_resets() {
        let entries = [
            entry("credential.helper", "store"),
            entry("credential.https://github.com.helper", ""),
            entry("credential.https://github.com.helper", "ours"),
            entry("credential.helper", "cache"),
            entry("credential.https://github.com.username", "me"),
        ];
        assert_eq!(values(&entries, "github.com"), ["ours", "cache"]);
        assert_eq!(values(&entries, "other.example"), ["store", "cache"]);
    }

    #[test]
    fn a_pattern_is_matched_as_git_does() {
        for pattern in [
            "https://github.com",
            "https://github.com/",
            "https://github.com/owner",
            "https://me@github.com",
            "https://github.com:443",
            "https://GitHub.com",
            "https://*.com",
            "github.com",
            "https://",
        ] {
            assert!(pattern_matches(pattern, "https", "github.com"), "{pattern}");
        }
        for pattern in
            ["http://github.com", "https://github.com:8443", "https://*", "https://api.github.com"]
        {
            assert!(!pattern_matches(pattern, "https", "github.com"), "{pattern}");
        }
    }

    #[test]
    fn a_list_is_read_with_its_origins() {
        let listed = parse_list(b"file:/a\0user.name\nx\ny\0command line:\0core.bare\0");
        assert_eq!(listed.len(), 2);
        assert_eq!(listed[0].value, "x\ny");
        assert_eq!((listed[1].origin.as_str(), listed[1].value.as_str()), ("command line:", ""));
    }

    #[test]
    fn the_global_file_is_where_git_config_global_writes() {
        let home = tempfile::tempdir().unwrap();
        let environment = Environment::from([("HOME", home.path().to_str().unwrap())]);
        let usual = home.path().join(".gitconfig");
        assert_eq!(global_file_in(&environment).unwrap(), usual);
        let xdg = home.path().join(".config/git/config");
        std::fs::create_dir_all(xdg.parent().unwrap()).unwrap();
        std::fs::write(&xdg, "").unwrap();
        assert_eq!(global_file_in(&environment).unwrap(), xdg);
        std::fs::write(&usual, "").unwrap();
        assert_eq!(global_file_in(&environment).unwrap(), usual);
        let named = Environment::from([("HOME", "/h"), ("GIT_CONFIG_GLOBAL", "/g")]);
        assert_eq!(global_file_in(&named).unwrap(), Path::new("/g"));
        assert!(global_file_in(&Environment::from([])).is_err());
    }
}
