//! As whom the command runs: `--user NAME|UID[:GROUP]`, as `docker run --user` and gosu understand
//! it.

use std::ffi::{CString, OsString};
use std::path::PathBuf;

use anyhow::anyhow;
use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, getgrouplist, getgroups};

use crate::cmd::{Advise, EXIT_USAGE};

/// A user, for a process to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The first group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
    /// The name, where the user has one.
    pub name: Option<String>,
    /// The home directory; `/` for a user without an entry in `passwd(5)`.
    pub home: PathBuf,
}

impl Identity {
    /// Whoever runs this process.
    #[must_use]
    pub fn own() -> Self {
        let gid = getegid().as_raw();
        let groups = getgroups().unwrap_or_default().into_iter().map(Gid::as_raw).collect();
        Self::of(geteuid().as_raw(), User::from_uid(geteuid()).ok().flatten(), gid, groups)
    }

    /// The one that `text` names.
    ///
    /// # Errors
    /// When there is no such user or group, or only root may become that user.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let (uid, entry) = find_user(user)?;
        let identity = if let Some(group) = group {
            // Whoever names a group gets that one, and no others.
            let gid = find_group(group)?;
            Self::of(uid, entry, gid, vec![gid])
        } else {
            // As elsewhere: a user without an entry has no group of its own.
            let gid = entry.as_ref().map_or(0, |entry| entry.gid.as_raw());
            let groups = entry.as_ref().map_or_else(|| vec![gid], groups_of);
            Self::of(uid, entry, gid, groups)
        };
        let own = Self::own();
        let same = (identity.uid, identity.gid) == (own.uid, own.gid);
        if same && !geteuid().is_root() {
            return Ok(own);
        }
        if !geteuid().is_root() {
            return Err(anyhow!("only root can run a command as another user")
                .hint("leave --user out, or let the container start as root")
                .exit_code(EXIT_USAGE));
        }
        Ok(identity)
    }

    fn of(uid: u32, entry: Option<User>, gid: u32, groups: Vec<u32>) -> Self {
        let (name, home) = entry.map(|entry| (entry.name, entry.dir)).unzip();
        Self { uid, gid, groups, name, home: home.unwrap_or_else(|| "/".into()) }
    }

    /// What tells a command who it is (`environ(7)`).
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, OsString)> {
        let name = self.name.clone().unwrap_or_else(|| self.uid.to_string());
        vec![
            ("HOME", self.home.clone().into()),
            ("USER", name.clone().into()),
            ("LOGNAME", name.into()),
        ]
    }
}

/// A number is one also where a user has it for a name.
fn find_user(text: &str) -> anyhow::Result<(u32, Option<User>)> {
    if let Ok(uid) = text.parse::<u32>() {
        return Ok((uid, User::from_uid(Uid::from_raw(uid)).ok().flatten()));
    }
    match User::from_name(text) {
        Ok(Some(user)) => Ok((user.uid.as_raw(), Some(user))),
        Ok(None) => Err(missing("user", text, "useradd")),
        Err(errno) => Err(anyhow!("cannot look up the user {text}: {errno}")),
    }
}

fn find_group(text: &str) -> anyhow::Result<u32> {
    if let Ok(gid) = text.parse() {
        return Ok(gid);
    }
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(missing("group", text, "groupadd")),
        Err(errno) => Err(anyhow!("cannot look up the group {text}: {errno}")),
    }
}

fn missing(what: &str, text: &str, program: &str) -> anyhow::Error {
    anyhow!("there is no {what} {text:?} here")
        .hint(format!("add it to the image ({program} {text}), or give a number"))
        .exit_code(EXIT_USAGE)
}

fn groups_of(user: &User) -> Vec<u32> {
    let listed = CString::new(user.name.clone()).ok();
    let listed = listed.and_then(|name| getgrouplist(&name, user.gid).ok());
    let groups = listed.unwrap_or_else(|| vec![user.gid]);
    groups.into_iter().map(Gid::as_raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_a_number_and_a_number_without_an_entry_are_users() {
        let root = find_user("root").unwrap();
        assert_eq!((root.0, root.1.unwrap().dir), (0, "/root".into()));
        assert_eq!(find_user("0").unwrap().1.unwrap().name, "root");
        let (uid, entry) = find_user("4242424").unwrap();
        assert!(uid == 4_242_424 && entry.is_none());
        let nobody = Identity::of(uid, entry, 0, vec![0]);
        let told = nobody.variables();
        assert_eq!(told[0], ("HOME", "/".into()));
        assert_eq!(told[1], ("USER", "4242424".into()));
    }

    #[test]
    fn what_is_not_there_is_told() {
        let error = Identity::parse("no-such-user").unwrap_err().to_string();
        assert_eq!(error, "there is no user \"no-such-user\" here");
        let error = Identity::parse("0:no-such-group").unwrap_err().to_string();
        assert_eq!(error, "there is no group \"no-such-group\" here");
        assert_eq!(find_group("root").unwrap(), 0);
    }
}
