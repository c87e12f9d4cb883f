//! Which token git and gh would take in this directory, and why.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Finding, Subject, git};
use crate::cmd::choice::Choice;
use crate::cmd::setup::gh::SHIM;
use crate::cmd::setup::git_config::{self, Entry};
use crate::source::Scope;
use crate::{config, spawn};

const CHECK: &str = "repository";

/// The most remotes that are told of.
const MOST: usize = 6;

/// How long git or the shim may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What the shim looks at to tell what gh is about.
const OF_GH: [&str; 4] = ["GH_REPO", "GH_HOST", "GH_TOKEN_FILE", "MOLECULE_TOKENFS_HOST"];

const SET_UP: &str =
    "molecule-tokenfs setup git --by-repository, with --global or --system as before";

/// A remote of the clone in this directory.
struct Remote {
    name: String,
    protocol: String,
    host: String,
    path: String,
    repository: Scope,
}

/// Looks at the clone that this process is in; elsewhere there is nothing to tell.
pub fn look(
    subject: &Subject,
    mountpoint: &Path,
    hosts: &[String],
    has_shim: bool,
) -> Vec<Finding> {
    let remotes: Vec<_> = remotes(subject)
        .into_iter()
        .filter(|remote| hosts.contains(&remote.host) || is_of_a_token(mountpoint, remote))
        .take(MOST)
        .collect();
    if remotes.is_empty() {
        return Vec::new();
    }
    let git = git_here(subject);
    let entries = git.and_then(|git| git_config::list_by(git, git_config::Scope::Effective).ok());
    let entries = entries.unwrap_or_default();
    let mut findings = Vec::new();
    let mut of_git = Vec::new();
    for remote in &remotes {
        let place = place_of_git(&entries, mountpoint, remote);
        findings.push(told_of_git(mountpoint, remote, place.as_deref()));
        findings.extend(unserved(mountpoint, remote));
        of_git.push((&remote.repository, place));
    }
    if let Some(gh) = has_shim.then(|| Shown::by(subject, mountpoint)).flatten() {
        findings.push(gh.finding(mountpoint));
        let of_git =
            of_git.into_iter().find(|(repository, _)| repository.to_string() == gh.repository);
        if let Some((_, Some(place))) = of_git
            .filter(|(_, place)| place.as_ref() != gh.file.parent().map(Path::to_owned).as_ref())
        {
            findings.push(Finding::warn(
                CHECK,
                format!(
                    "for {} git takes the token in {}, and gh takes {}",
                    gh.repository,
                    place.display(),
                    gh.file.display()
                ),
                SET_UP,
            ));
        }
    }
    findings
}

fn is_of_a_token(mountpoint: &Path, remote: &Remote) -> bool {
    Choice::of(mountpoint, &remote.repository, &remote.host) != Choice::Mount
}

/// The directory of the token that git gets for a remote; `None` where git asks no helper of ours.
fn place_of_git(entries: &[Entry], mountpoint: &Path, remote: &Remote) -> Option<PathBuf> {
    if !matches!(&*remote.protocol, "http" | "https") {
        return None;
    }
    let about: Vec<_> = entries.iter().filter(|it| is_about(it, remote)).cloned().collect();
    let helpers = git_config::helpers(&about, &remote.protocol, &remote.host);
    let ours = helpers.into_iter().find(|entry| git::is_ours(&entry.value))?;
    if let Some(command) = ours.value.strip_prefix("!cat ") {
        return Path::new(command.split_whitespace().next()?).parent().map(Path::to_owned);
    }
    let says_path = about.iter().rfind(|entry| entry.key.ends_with(".usehttppath"));
    let says_path =
        says_path.is_some_and(|entry| matches!(&*entry.value, "true" | "1" | "yes" | "on" | ""));
    let chosen = if says_path {
        Choice::of(mountpoint, &remote.repository, &remote.host)
    } else {
        Choice::Mount
    };
    Some(mountpoint.join(chosen.place()))
}

/// Whether a setting `credential.URL.KEY` holds for a remote, as far as its protocol, host and path say.
fn is_about(entry: &Entry, remote: &Remote) -> bool {
    let Some(rest) = entry.key.strip_prefix("credential.") else { return false };
    let Some((url, _)) = rest.rsplit_once('.') else { return true };
    let Some((protocol, rest)) = url.split_once("://") else { return true };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.trim_end_matches('/');
    let below = |rest: &str| rest.is_empty() || rest.starts_with('/');
    protocol == remote.protocol
        && host.eq_ignore_ascii_case(&remote.host)
        && (path.is_empty() || remote.path.strip_prefix(path).is_some_and(below))
}

fn told_of_git(mountpoint: &Path, remote: &Remote, place: Option<&Path>) -> Finding {
    let Remote { name, repository, host, protocol, .. } = remote;
    let about = format!("for {repository} (the remote {name})");
    let Some(place) = place else {
        let why = if matches!(&**protocol, "http" | "https") {
            "no helper of ours is asked"
        } else {
            "it uses ssh"
        };
        return Finding::ok(CHECK, format!("git takes no token of the mount {about}: {why}"));
    };
    let takes = format!("git takes {} {about}", place.join("git-credential").display());
    let best = Choice::of(mountpoint, repository, host);
    if place != mountpoint.join(best.place()) {
        let other = mountpoint.join(best.place());
        let sentence = format!(
            "{takes}, and not the token in {}: git was not told to say which repository it is about",
            other.display()
        );
        return Finding::warn(CHECK, sentence, SET_UP);
    }
    Finding::ok(CHECK, format!("{takes}: {}", why(&best, repository)))
}

fn why(choice: &Choice, repository: &Scope) -> String {
    match choice {
        Choice::OnDemand(scope) => format!("the mount makes a token for {scope} alone"),
        Choice::Named(name) => format!("the token `{name}` is for {}", repository.owner),
        Choice::Mount => {
            format!("the default token, since no other is for {}", repository.owner)
        }
    }
}

/// A remote whose owner no token is for.
fn unserved(mountpoint: &Path, remote: &Remote) -> Option<Finding> {
    let owner = &remote.repository.owner;
    let is_served = Choice::of(mountpoint, &remote.repository, &remote.host) != Choice::Mount
        || !Choice::leaves_out(mountpoint, owner);
    (!is_served).then(|| {
        Finding::warn(
            CHECK,
            format!(
                "no token is for {owner} (the remote {}): with that of another owner GitHub answers 404",
                remote.name
            ),
            format!(
                "install the App for {owner}, and describe a token for it: [tokens.NAME] with \
                 owners = [\"{owner}\"]"
            ),
        )
    })
}

/// What the shim would give gh here, by its own words.
struct Shown {
    file: PathBuf,
    repository: String,
    through: String,
}

impl Shown {
    fn by(subject: &Subject, mountpoint: &Path) -> Option<Self> {
        let mut shell = subject.command("sh").ok()?;
        for (name, value) in git_here(subject)?.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell.args(["-c", SHIM, "gh"]).env("MOLECULE_GH_SHOW", "1");
        shell.env("MOLECULE_TOKENFS_MOUNTPOINT", mountpoint);
        if !subject.is_other() {
            let set = OF_GH.into_iter().filter_map(|name| Some((name, config::env(name)?)));
            shell.envs(set);
        }
        let text = said(shell)?;
        let mut lines = text.lines().map(str::to_owned);
        let (file, repository, through) = (lines.next()?, lines.next()?, lines.next()?);
        Some(Self { file: file.into(), repository, through })
    }

    fn finding(&self, mountpoint: &Path) -> Finding {
        let Self { file, repository, through } = self;
        let shown = file.display();
        if repository.is_empty() {
            return Finding::ok(CHECK, format!("gh takes {shown}: the mount has no other token"));
        }
        let since = match file.parent() {
            Some(place) if place == mountpoint => ", and no other token is for it",
            _ => "",
        };
        Finding::ok(CHECK, format!("gh takes {shown} for {repository} ({through}){since}"))
    }
}

/// The remotes as git tells them, with `url.….insteadOf` applied.
fn remotes(subject: &Subject) -> Vec<Remote> {
    let listed = git_here(subject).and_then(|mut git| {
        git.args(["remote", "-v"]);
        said(git)
    });
    let remote = |line: &str| {
        let (name, rest) = line.split_once('\t')?;
        let (url, _) = rest.split_once(" (fetch)")?;
        let (protocol, host, path) = parts(url)?;
        let mut words = path.trim_end_matches('/').splitn(2, '/');
        let repository = Scope::of_repository(words.next()?, words.next()?)?;
        Some(Remote { name: name.to_owned(), protocol, host, path, repository })
    };
    listed.unwrap_or_default().lines().filter_map(remote).collect()
}

/// Protocol, host and path of the address of a remote (`git-clone(1)`, GIT URLS).
fn parts(url: &str) -> Option<(String, String, String)> {
    let (protocol, rest) = match url.split_once("://") {
        Some((protocol, rest)) => (protocol, rest.split_once('/')?),
        None => ("ssh", url.split_once(':')?),
    };
    let (authority, path) = rest;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let path = path.trim_start_matches('/').to_owned();
    Some((protocol.to_ascii_lowercase(), host.to_ascii_lowercase(), path))
}

/// git with what this user has configured, in this directory. It reads no clone of somebody else's
/// (`safe.directory`).
fn git_here(subject: &Subject) -> Option<Command> {
    let (mut git, _) = subject.git().ok()?;
    git.current_dir(std::env::current_dir().ok()?);
    Some(git)
}

fn said(mut command: Command) -> Option<String> {
    let output = spawn::output(&mut command, LIMIT).ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_remote_has_a_protocol_a_host_and_a_path() {
        for (url, expected) in [
            ("https://me:x@GitHub.com/acme/web.git", ("https", "github.com", "acme/web.git")),
            ("http://127.0.0.1:80/acme/web", ("http", "127.0.0.1:80", "acme/web")),
            ("ssh://git@github.com/acme/web", ("ssh", "github.com", "acme/web")),
            ("git@github.com:acme/web.git", ("ssh", "github.com", "acme/web.git")),
        ] {
            let (protocol, host, path) = parts(url).unwrap();
            assert_eq!((&*protocol, &*host, &*path), expected);
        }
        assert_eq!(parts("/srv/web.git"), None);
    }

    #[test]
    fn a_setting_for_a_path_holds_for_what_is_below_it() {
        let (protocol, host) = ("https".to_owned(), "github.com".to_owned());
        let repository = Scope::of_repository("acme", "web").unwrap();
        let path = "acme/web.git".to_owned();
        let remote = Remote { name: "origin".to_owned(), protocol, host, path, repository };
        let about = |key: &str| {
            let entry = Entry { origin: String::new(), key: key.into(), value: String::new() };
            is_about(&entry, &remote)
        };
        for key in ["helper", "https://github.com.helper", "https://github.com/acme.helper"] {
            assert!(about(&format!("credential.{key}")), "{key}");
        }
        for key in [
            "http://github.com.helper",
            "https://example.com.helper",
            "https://github.com/ac.helper",
            "https://github.com/acme/web.helper",
        ] {
            assert!(!about(&format!("credential.{key}")), "{key}");
        }
        assert!(!about("core.pager"));
    }
}
