//! The environment of the command: its own, wired to the mount.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, StatxFlags};

use crate::config::MOUNTPOINT_VARIABLE;
use crate::config::{DEFAULT_HOST, Key};
use crate::spawn::GH_VARIABLES;

/// How GitHub marks an installation token. One in the environment is dead after an hour at most, and
/// would win over the fresh ones; any other kind is the user's own and stays.
const INSTALLATION_PREFIX: &[u8] = b"ghs_";

/// Variables in the order in which they were set.
#[derive(Debug, Clone, Default)]
pub struct Variables(Vec<(OsString, OsString)>);

impl Variables {
    /// These.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self(variables.into_iter().collect())
    }

    /// The value of one; an empty one counts as unset.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        let value = self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value);
        value.map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// Sets one, over what it was.
    pub fn set(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        let (name, value) = (name.into(), value.into());
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, value));
    }

    /// Sets one unless it is set.
    pub fn set_default(&mut self, name: &str, value: impl Into<OsString>) {
        if self.get(name).is_none() {
            self.set(name, value);
        }
    }

    /// Removes one.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (OsString, OsString)> {
        self.0.iter().cloned()
    }

    /// Removes installation tokens, which expire where they are. The daemon keeps those of
    /// `GITHUB_TOKEN` and `GH_TOKEN` as its fall-back.
    pub fn remove_frozen_tokens(&mut self) {
        self.0.retain(|(name, value)| {
            !(GH_VARIABLES.iter().any(|token| name == token)
                && value.as_bytes().starts_with(INSTALLATION_PREFIX))
        });
    }

    /// Makes git read these settings after those of its files (`git(1)`, `GIT_CONFIG_COUNT`), and
    /// after those that are given in this way already.
    ///
    /// # Errors
    /// When those are given in a way that git does not take either; nothing is changed then.
    pub fn add_git_settings(&mut self, settings: &[(String, String)]) -> Result<(), String> {
        let count = match self.get("GIT_CONFIG_COUNT") {
            None => 0,
            Some(count) => {
                count.to_str().and_then(|count| count.parse::<usize>().ok()).ok_or_else(|| {
                    format!("GIT_CONFIG_COUNT={} is no number", count.to_string_lossy())
                })?
            }
        };
        for (number, (key, value)) in (count..).zip(settings) {
            self.set(format!("GIT_CONFIG_KEY_{number}"), key);
            self.set(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        self.set("GIT_CONFIG_COUNT", (count + settings.len()).to_string());
        Ok(())
    }

    /// Tells tools where the tokens are, and keeps them from asking people.
    pub fn name_the_mount(&mut self, target: &Path, hosts: &[String]) {
        self.set(MOUNTPOINT_VARIABLE, target);
        // A mounted file cannot tell its readers which hosts its token is for.
        if hosts != [DEFAULT_HOST] {
            self.set(Key::Host.variable(), hosts.join(","));
        }
        let token = if is_file(target) { target.to_owned() } else { target.join("token") };
        self.set("GH_TOKEN_FILE", token);
        self.set_default("GIT_TERMINAL_PROMPT", "0");
        // libgit2, which cargo would use, reads no settings from the environment.
        self.set_default("CARGO_NET_GIT_FETCH_WITH_CLI", "true");
    }

    /// Lets programs of this directory be found first.
    pub fn put_first_in_path(&mut self, directory: &Path) {
        // What a shell takes where nobody sets it, and with it the directories that it would reach.
        const USUAL: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let mut path = directory.as_os_str().to_owned();
        path.push(":");
        path.push(self.get("PATH").unwrap_or(OsStr::new(USUAL)));
        self.set("PATH", path);
    }
}

/// Whether a mount is a file. We serve it ourselves, so the kernel says it by what it knows
/// (`statx(2)`): a request to a worker that dies meanwhile would never be answered.
fn is_file(target: &Path) -> bool {
    let found =
        rustix::fs::statx(rustix::fs::CWD, target, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE);
    found.is_ok_and(|found| FileType::from_raw_mode(found.stx_mode.into()) == FileType::RegularFile)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(given: &[(&str, &str)]) -> Variables {
        Variables::new(given.iter().map(|&(name, value)| (name.into(), value.into())))
    }

    fn get<'a>(variables: &'a Variables, name: &str) -> Option<&'a str> {
        variables.get(name)?.to_str()
    }

    #[test]
    fn frozen_tokens_go_and_a_users_own_stay() {
        let mut environment = variables(&[
            ("GITHUB_TOKEN", "ghs_x"),
            ("GH_TOKEN", "ghp_mine"),
            ("GH_ENTERPRISE_TOKEN", "ghs_y"),
        ]);
        environment.remove_frozen_tokens();
        assert_eq!(get(&environment, "GITHUB_TOKEN"), None);
        assert_eq!(get(&environment, "GH_ENTERPRISE_TOKEN"), None);
        assert_eq!(get(&environment, "GH_TOKEN"), Some("ghp_mine"));
    }

    #[test]
    fn settings_of_git_are_appended() {
        let ours = [("a.b".to_owned(), String::new()), ("a.b".to_owned(), "c".to_owned())];
        let mut environment = variables(&[
            ("GIT_CONFIG_COUNT", "1"),
            ("GIT_CONFIG_KEY_0", "user.name"),
            ("GIT_CONFIG_VALUE_0", "me"),
            // Left over from somebody who counted further.
            ("GIT_CONFIG_KEY_1", "old"),
        ]);
        environment.add_git_settings(&ours).unwrap();
        for (name, value) in [
            ("GIT_CONFIG_COUNT", Some("3")),
            ("GIT_CONFIG_KEY_0", Some("user.name")),
            ("GIT_CONFIG_VALUE_0", Some("me")),
            ("GIT_CONFIG_KEY_1", Some("a.b")),
            ("GIT_CONFIG_VALUE_1", None),
            ("GIT_CONFIG_KEY_2", Some("a.b")),
            ("GIT_CONFIG_VALUE_2", Some("c")),
        ] {
            assert_eq!(get(&environment, name), value, "{name}");
        }
        assert!(environment.all().any(|(name, _)| name == "GIT_CONFIG_VALUE_1"), "set, and empty");
        let mut broken = variables(&[("GIT_CONFIG_COUNT", "many")]);
        assert_eq!(
            broken.add_git_settings(&ours).unwrap_err(),
            "GIT_CONFIG_COUNT=many is no number"
        );
        assert_eq!(broken.all().count(), 1);
    }

    #[test]
    fn what_somebody_has_set_is_not_set_otherwise() {
        let mut environment = variables(&[("GIT_TERMINAL_PROMPT", "1"), ("PATH", "/bin")]);
        environment.name_the_mount(Path::new("/m"), &["github.com".to_owned()]);
        assert_eq!(get(&environment, "MOLECULE_TOKENFS_HOST"), None);
        let hosts = ["ghe.example.com", "github.com"].map(str::to_owned);
        environment.name_the_mount(Path::new("/m"), &hosts);
        assert_eq!(get(&environment, "MOLECULE_TOKENFS_HOST"), Some("ghe.example.com,github.com"));
        environment.put_first_in_path(Path::new("/s"));
        for (name, value) in [
            ("GIT_TERMINAL_PROMPT", "1"),
            ("CARGO_NET_GIT_FETCH_WITH_CLI", "true"),
            ("GH_TOKEN_FILE", "/m/token"),
            ("MOLECULE_TOKENFS_MOUNTPOINT", "/m"),
            ("PATH", "/s:/bin"),
        ] {
            assert_eq!(get(&environment, name), Some(value), "{name}");
        }
        let mut none = variables(&[]);
        none.put_first_in_path(Path::new("/s"));
        assert!(get(&none, "PATH").unwrap().starts_with("/s:/usr/local/sbin:"));
    }
}
