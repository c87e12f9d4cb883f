//! What git asks for a credential, and what it uses without asking.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Finding, Subject};
use crate::cmd::git_credential::is_loopback;
use crate::cmd::setup::git_config::{self, Entry, Scope};
use crate::cmd::setup::shell_quote;
use crate::foreign::plain;
use crate::{config, spawn};

const CHECK: &str = "git";

/// Looks at the configuration that git has for this user.
pub fn look(subject: &Subject, hosts: &[String]) -> Vec<Finding> {
    if let Err(missing @ spawn::Missing::NotInstalled { .. }) = spawn::find("git") {
        return vec![Finding::ok(CHECK, format!("{missing}: there is nothing to wire"))];
    }
    let listed = subject
        .git()
        .and_then(|(git, left_out)| Ok((git_config::list_by(git, Scope::Effective)?, left_out)));
    let (entries, left_out) = match listed {
        Ok(listed) => listed,
        Err(error) => {
            let sentence = format!("git cannot read its configuration: {error:#}");
            return vec![Finding::fail(CHECK, sentence, "git config --list --show-origin")];
        }
    };
    let set_up = if subject.is_other() || (subject.is_root() && config::env("HOME").is_none()) {
        "molecule-tokenfs setup git --system"
    } else {
        "molecule-tokenfs setup git --global"
    };
    let mut findings = Vec::new();
    findings.extend(left_out.map(|why| {
        Finding::warn(
            CHECK,
            format!("root does not read all of git's configuration: {why}"),
            "look as its owner: molecule-tokenfs doctor --user USER",
        )
    }));
    for host in hosts {
        findings.extend(helpers(&entries, host, set_up, subject));
    }
    findings.extend(entries.iter().filter_map(|entry| fixed(entry, hosts)));
    findings.extend(stored(&entries, subject, hosts));
    findings
}

/// The helpers that git asks for a host: ours, and those around it.
fn helpers(entries: &[Entry], host: &str, set_up: &str, subject: &Subject) -> Vec<Finding> {
    let protocol = if is_loopback(host) { "http" } else { "https" };
    let url = format!("{protocol}://{host}");
    let asked = git_config::helpers(entries, protocol, host);
    let Some(ours) = asked.iter().rposition(|entry| is_ours(&entry.value)) else {
        let others: Vec<_> = asked.iter().map(|entry| named(entry)).collect();
        let sentence = if let Some(old) = asked.iter().find(|entry| is_old(&entry.value)) {
            format!(
                "for {url} git asks the old helper, {}, which hands out tokens that have died",
                named(old)
            )
        } else if others.is_empty() {
            format!("git asks nobody for {url}: it would prompt for a password")
        } else {
            format!("for {url} git does not ask the mount, but {}", others.join(" and "))
        };
        return vec![Finding::fail(CHECK, sentence, set_up)];
    };
    let mut findings = Vec::new();
    let Some(entry) = asked.get(ours) else { return findings };
    match program(&entry.value) {
        Some(program) if !subject.act(|| is_program(&program)) => findings.push(Finding::fail(
            CHECK,
            format!("{} cannot run git's helper for {url}, {}", subject.name, program.display()),
            set_up,
        )),
        _ => findings.push(Finding::ok(CHECK, format!("git asks {} for {url}", named(entry)))),
    }
    for earlier in asked.iter().take(ours).filter(|entry| !is_ours(&entry.value)) {
        findings.push(Finding::fail(
            CHECK,
            format!(
                "for {url} git asks {} before ours, and takes what it has, dead or not",
                named(earlier)
            ),
            set_up,
        ));
    }
    for later in asked.iter().skip(ours + 1) {
        findings.push(Finding::warn(
            CHECK,
            format!(
                "for {url} git hands {} every token that worked: it may save it, and serve it when \
                 it is dead",
                named(later)
            ),
            unset(later),
        ));
    }
    findings
}

fn named(entry: &Entry) -> String {
    let place = match entry.origin.strip_prefix("file:") {
        Some(file) => file,
        None if entry.origin.starts_with("command line") => "the environment",
        None => &entry.origin,
    };
    format!("`{}` ({place})", without_token(&entry.value))
}

/// The value of a setting, with anything that may be a token masked.
fn without_token(value: &str) -> String {
    match value.find("ghs_") {
        Some(at) => format!("{}ghs_…", value.get(..at).unwrap_or_default()),
        None => value.to_owned(),
    }
}

/// How to take a setting out of the file that it stands in.
fn unset(entry: &Entry) -> String {
    let key = shell_quote(&entry.key);
    match entry.origin.strip_prefix("file:") {
        Some(file) if entry.value.contains("ghs_") => {
            format!("git config --file {} --unset-all {key}", shell_quote(file))
        }
        Some(file) => {
            let mut pattern = String::from("^");
            for c in entry.value.chars() {
                if !c.is_alphanumeric() && !" /_-".contains(c) {
                    pattern.push('\\');
                }
                pattern.push(c);
            }
            pattern.push('$');
            let (file, pattern) = (shell_quote(file), shell_quote(&pattern));
            format!("git config --file {file} --unset-all {key} {pattern}")
        }
        None => format!("take {} out of the environment (GIT_CONFIG_COUNT)", entry.key),
    }
}

/// Whether a helper reads the mount.
pub(super) fn is_ours(value: &str) -> bool {
    value.contains("molecule-tokenfs")
        || value.contains("git-credential-molecule")
        || (value.starts_with("!cat ") && value.contains("/git-credential"))
        || (is_old(value) && program(value).is_some_and(|path| speaks_of_us(&path)))
        || program(value).is_some_and(|path| is_this_binary(&path))
}

/// Whether it has the name of the script that was there before.
fn is_old(value: &str) -> bool {
    value.contains("molecule-git-token-helper")
}

/// Whether the script at `path` stands on the mount: its replacement keeps the old name.
fn speaks_of_us(path: &Path) -> bool {
    let name = b"molecule-tokenfs";
    plain::read(path).is_ok_and(|text| text.windows(name.len()).any(|part| part == name))
}

/// Whether this is the running program, whatever its name.
fn is_this_binary(path: &Path) -> bool {
    std::env::current_exe().is_ok_and(|own| fs::canonicalize(path).is_ok_and(|path| path == own))
}

/// The program of a helper that is named by its path.
fn program(value: &str) -> Option<PathBuf> {
    let command = value.strip_prefix('!').unwrap_or(value).trim_start();
    let word = match command.strip_prefix('\'') {
        Some(quoted) => quoted.split('\'').next()?,
        None => command.split_whitespace().next()?,
    };
    word.starts_with('/').then(|| word.into())
}

fn is_program(path: &Path) -> bool {
    nix::unistd::eaccess(path, nix::unistd::AccessFlags::X_OK).is_ok()
}

/// A credential that git sends without asking any helper.
fn fixed(entry: &Entry, hosts: &[String]) -> Option<Finding> {
    let about = |text: &str| hosts.iter().any(|host| text.contains(host.as_str()));
    let header = entry.key == "http.extraheader"
        || (entry.key.starts_with("http.")
            && entry.key.ends_with(".extraheader")
            && about(&entry.key));
    if header && entry.value.to_ascii_lowercase().starts_with("authorization:") {
        let place = entry.origin.strip_prefix("file:").unwrap_or(&entry.origin);
        return Some(Finding::fail(
            CHECK,
            format!("{} in {place} has git send a fixed credential, and ask no helper", entry.key),
            format!(
                "git config --file {} --unset-all {}",
                shell_quote(place),
                shell_quote(&entry.key)
            ),
        ));
    }
    let rewritten = entry.key.starts_with("url.") && entry.key.ends_with(".insteadof");
    if rewritten && entry.key.contains("ghs_") && about(&entry.key) {
        let place = entry.origin.strip_prefix("file:").unwrap_or(&entry.origin);
        return Some(Finding::fail(
            CHECK,
            format!(
                "{place} rewrites addresses to ones with a frozen token in them (url.….insteadOf)"
            ),
            format!("take the section out: git config --file {} --edit", shell_quote(place)),
        ));
    }
    None
}

/// Tokens that a `store` helper saved.
fn stored(entries: &[Entry], subject: &Subject, hosts: &[String]) -> Option<Finding> {
    let file = subject.home.as_ref()?.join(".git-credentials");
    let text = subject.act(|| plain::read(&file)).ok()?;
    let frozen = std::str::from_utf8(&text).ok()?.lines().any(|line| {
        line.contains(":ghs_") && hosts.iter().any(|host| line.ends_with(host.as_str()))
    });
    // Only where a helper looks into it.
    let read = entries
        .iter()
        .any(|entry| entry.key.starts_with("credential.") && entry.value.starts_with("store"));
    (frozen && read).then(|| {
        let shown = file.display();
        Finding::warn(
            CHECK,
            format!("{shown} holds an installation token, which is dead within an hour"),
            format!("sed -i '/:ghs_/d' {}", shell_quote(&file.to_string_lossy())),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::doctor::Verdict;

    const OURS: &str = "/usr/bin/molecule-tokenfs git-credential";

    fn entry(key: &str, value: &str) -> Entry {
        Entry { origin: "file:/h/.gitconfig".into(), key: key.into(), value: value.into() }
    }

    fn told(entries: &[Entry]) -> Vec<(Verdict, String, String)> {
        let subject = Subject::find(None).unwrap();
        let mut findings = helpers(entries, "github.com", "SET UP", &subject);
        let hosts = ["github.com".to_owned()];
        findings.extend(entries.iter().filter_map(|entry| fixed(entry, &hosts)));
        findings
            .into_iter()
            .map(|finding| (finding.verdict, finding.sentence, finding.remedy.unwrap_or_default()))
            .collect()
    }

    #[test]
    fn nobody_or_somebody_else_is_asked() {
        for (entries, words) in [
            (vec![], "git asks nobody for https://github.com"),
            (vec![entry("credential.helper", "store")], "but `store` (/h/.gitconfig)"),
            (
                vec![entry("credential.helper", "/app/molecule-git-token-helper.sh")],
                "the old helper",
            ),
            (
                vec![
                    entry("credential.https://github.com.helper", OURS),
                    entry("credential.helper", ""),
                ],
                "git asks nobody",
            ),
        ] {
            let told = told(&entries);
            assert_eq!(told.len(), 1, "{told:?}");
            assert_eq!((told[0].0, told[0].2.as_str()), (Verdict::Fail, "SET UP"));
            assert!(told[0].1.contains(words), "{told:?}");
        }
    }

    #[test]
    fn a_store_around_ours_is_told_with_the_command_that_removes_it() {
        let ours = entry("credential.https://github.com.helper", "!cat /m/git-credential #");
        let store = entry("credential.helper", "store --file=/x.y");
        let later = told(&[ours.clone(), store.clone()]);
        assert_eq!(later[0].0, Verdict::Ok);
        assert_eq!(later[1].0, Verdict::Warn);
        assert_eq!(
            later[1].2,
            r"git config --file /h/.gitconfig --unset-all credential.helper '^store --file\=/x\.y$'"
        );
        let earlier = told(&[store, ours]);
        assert_eq!(earlier[1].0, Verdict::Fail);
        assert!(earlier[1].1.contains("before ours"), "{earlier:?}");
    }

    #[test]
    fn a_credential_that_needs_no_helper_is_told_without_its_token() {
        let header = entry("http.https://github.com/.extraheader", "Authorization: Basic eDpnaHNf");
        let address =
            entry("url.https://x:ghs_canary@github.com/.insteadof", "https://github.com/");
        for entry in [header, address] {
            let told = told(&[entry]);
            assert_eq!(told[1].0, Verdict::Fail);
            assert!(!told[1].1.contains("canary") && !told[1].1.contains("eDpn"), "{told:?}");
            assert!(!told[1].2.contains("canary"), "{told:?}");
        }
    }

    #[test]
    fn a_helpers_program_is_its_first_word() {
        assert_eq!(program("/a/b get"), Some("/a/b".into()));
        assert_eq!(program("!'/a b/x' git-credential"), Some("/a b/x".into()));
        assert_eq!(program("store"), None);
        assert_eq!(program("!cat /m/git-credential #"), None);
    }
}
