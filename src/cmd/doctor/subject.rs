//! The user whose tools are looked at.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, anyhow};
use nix::unistd::{
    Gid, Uid, User, getegid, geteuid, getgrouplist, getgroups, setegid, seteuid, setgroups,
};

use crate::cmd::setup::git_config;
use crate::cmd::{Advise, EXIT_USAGE};
use crate::{config, spawn};

/// See the module.
pub struct Subject {
    /// Its name, else its number.
    pub name: String,
    /// Where its files are.
    pub home: Option<PathBuf>,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    is_caller: bool,
}

impl Subject {
    /// The user of this name or number, or the caller.
    ///
    /// # Errors
    /// When there is no such user, or somebody but root names another than themselves.
    pub fn find(named: Option<&str>) -> anyhow::Result<Self> {
        let caller = geteuid();
        let Some(named) = named else { return Ok(Self::caller(caller)) };
        let user = lookup(named)?
            .ok_or_else(|| anyhow!("there is no user `{named}` here").exit_code(EXIT_USAGE))?;
        if user.uid == caller {
            return Ok(Self::caller(caller));
        }
        if !caller.is_root() {
            return Err(anyhow!("only root can look with the eyes of another user")
                .hint(format!(
                    "become that user first: su {} -c 'molecule-tokenfs doctor'",
                    user.name
                ))
                .exit_code(EXIT_USAGE));
        }
        let name = std::ffi::CString::new(user.name.as_str()).context("the user's name")?;
        Ok(Self {
            groups: getgrouplist(&name, user.gid).unwrap_or_else(|_| vec![user.gid]),
            name: user.name,
            home: Some(user.dir),
            uid: user.uid,
            gid: user.gid,
            is_caller: false,
        })
    }

    fn caller(uid: Uid) -> Self {
        let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
        Self {
            name: name.unwrap_or_else(|| uid.to_string()),
            home: config::env("HOME").map(PathBuf::from),
            uid,
            gid: getegid(),
            groups: Vec::new(),
            is_caller: true,
        }
    }

    /// Whether it is root.
    pub fn is_root(&self) -> bool {
        self.uid.is_root()
    }

    /// Whether somebody else looks.
    pub fn is_other(&self) -> bool {
        !self.is_caller
    }

    /// git with this user's configuration, and the reason if part of that had to be left out.
    ///
    /// # Errors
    /// If git is missing, or root must not run the one that is installed.
    pub fn git(&self) -> Result<(Command, Option<String>), anyhow::Error> {
        if !self.is_other() {
            return git_config::configured_git();
        }
        let (uid, gid) = (self.uid.as_raw(), self.gid.as_raw());
        let user = spawn::User { uid, gid, home: self.home.as_deref() };
        Ok((spawn::command_as("git", user).map_err(git_config::missing)?, None))
    }

    /// Another program as this user, in this process's directory.
    ///
    /// # Errors
    /// If it is missing, or root must not run the one that is installed.
    pub fn command(&self, name: &str) -> Result<Command, spawn::Missing> {
        let (uid, gid, home) = (self.uid.as_raw(), self.gid.as_raw(), self.home.as_deref());
        let mut command = if self.is_other() {
            spawn::command_as(name, spawn::User { uid, gid, home })?
        } else {
            spawn::command(name)?
        };
        if let Ok(directory) = std::env::current_dir() {
            command.current_dir(directory);
        }
        Ok(command)
    }

    /// Does something with this user's rights to files. This process has one thread.
    pub fn act<T>(&self, action: impl FnOnce() -> T) -> T {
        let _back = self.is_other().then(|| Restore::from(self));
        action()
    }
}

/// Gives the rights back when dropped.
struct Restore {
    gid: Gid,
    groups: Vec<Gid>,
}

impl Restore {
    fn from(subject: &Subject) -> Self {
        let before = Self { gid: getegid(), groups: getgroups().unwrap_or_default() };
        // Root may, and falls back to less than it asked for where it may not.
        let _ = setgroups(&subject.groups);
        let _ = setegid(subject.gid);
        let _ = seteuid(subject.uid);
        before
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        let _ = seteuid(Uid::from_raw(0));
        let _ = setegid(self.gid);
        let _ = setgroups(&self.groups);
    }
}

fn lookup(named: &str) -> anyhow::Result<Option<User>> {
    let by_name = User::from_name(named).context("cannot look into the list of users")?;
    Ok(match named.parse() {
        Ok(number) if by_name.is_none() => {
            User::from_uid(Uid::from_raw(number)).context("cannot look into the list of users")?
        }
        _ => by_name,
    })
}
