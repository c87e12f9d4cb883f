//! Whom the files belong to when nobody says so.

use std::path::Path;

use nix::unistd::{Uid, User, getegid, geteuid};

use crate::config::{Origin, Setting};
use crate::foreign::{self, Request, Unreadable};

/// Who runs this process.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// The effective user.
    pub uid: u32,
    /// The effective group.
    pub gid: u32,
    /// For whom, where that is somebody else.
    pub serves: Option<u32>,
}

impl Caller {
    /// This process's.
    #[must_use]
    pub fn own() -> Self {
        Self { uid: geteuid().as_raw(), gid: getegid().as_raw(), serves: None }
    }
}

/// Whom the configs directory belongs to, for root: others cannot take on another user's rights, and
/// need not know.
#[must_use]
pub fn of_configs(caller: Caller, configs_dir: &Path) -> Option<Result<u32, Unreadable>> {
    if caller.uid != 0 {
        return None;
    }
    let look = || {
        let answer = foreign::look(&Request::directory(configs_dir))?;
        answer.owner.ok_or(answer.found.err().unwrap_or(Unreadable::Missing))
    };
    Some(look())
}

/// Who runs a command for somebody serves that user. Root serves whom the configs directory belongs to:
/// the workspace's own user. Anybody else can only serve themselves.
pub fn default_owner(
    caller: Caller,
    configs_dir: &Path,
    owner: Option<&Result<u32, Unreadable>>,
    warnings: &mut Vec<String>,
) -> Setting<u32> {
    if let Some(user) = caller.serves {
        return Setting { value: user, origin: Origin::Derived("the command's user".to_owned()) };
    }
    let Some(owner) = owner else {
        return Setting { value: caller.uid, origin: Origin::Derived("the caller".to_owned()) };
    };
    let directory = configs_dir.display();
    match owner {
        Ok(uid) => {
            Setting { value: *uid, origin: Origin::Derived(format!("the owner of {directory}")) }
        }
        Err(why) => {
            warnings.push(format!(
                "only root may read the tokens: they would belong to the owner of {directory}, which \
                 cannot be looked at ({why}); --owner names another"
            ));
            Setting { value: 0, origin: Origin::Derived(format!("root, without {directory}")) }
        }
    }
}

/// The owner's own group; its files are readable for nobody else than the owner by default.
#[must_use]
pub fn default_group(caller: Caller, owner: u32) -> Setting<u32> {
    let (value, why) = match User::from_uid(Uid::from_raw(owner)) {
        _ if owner == caller.uid => (caller.gid, "the caller's"),
        Ok(Some(user)) => (user.gid.as_raw(), "the owner's"),
        // A user without an entry in passwd(5) has no group of its own.
        Ok(None) | Err(_) => (caller.gid, "the caller's"),
    };
    Setting { value, origin: Origin::Derived(why.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Caller = Caller { uid: 0, gid: 0, serves: None };
    const USER: Caller = Caller { uid: 1234, gid: 2345, serves: None };

    fn told(setting: &Setting<u32>) -> (u32, String) {
        (setting.value, setting.origin.to_string())
    }

    #[test]
    fn root_serves_the_owner_of_the_configs_directory() {
        let mut warnings = Vec::new();
        let configs = Path::new("/configs");
        let owner = default_owner(ROOT, configs, Some(&Ok(1000)), &mut warnings);
        assert_eq!(told(&owner), (1000, "default: the owner of /configs".to_owned()));
        assert!(warnings.is_empty());

        let missing = Some(&Err(Unreadable::Missing));
        let owner = default_owner(ROOT, configs, missing, &mut warnings);
        assert_eq!(told(&owner), (0, "default: root, without /configs".to_owned()));
        assert!(warnings[0].starts_with("only root may read the tokens"));
        assert!(warnings[0].contains("(it does not exist)"), "{warnings:?}");
    }

    #[test]
    fn anybody_else_serves_themselves() {
        let mut warnings = Vec::new();
        assert_eq!(of_configs(USER, Path::new("/")), None, "and looks at nothing");
        let owner = default_owner(USER, Path::new("/"), None, &mut warnings);
        assert_eq!(told(&owner), (1234, "default: the caller".to_owned()));
        assert!(warnings.is_empty());
    }

    #[test]
    fn a_user_whose_command_is_run_is_served_before_all_others() {
        let caller = Caller { serves: Some(7), ..ROOT };
        let owner = default_owner(caller, Path::new("/c"), Some(&Ok(1000)), &mut Vec::new());
        assert_eq!(told(&owner), (7, "default: the command's user".to_owned()));
    }

    #[test]
    fn an_owner_brings_its_own_group() {
        assert_eq!(told(&default_group(USER, 1234)), (2345, "default: the caller's".to_owned()));
        assert_eq!(told(&default_group(USER, 0)), (0, "default: the owner's".to_owned()));
        let unknown = default_group(USER, 4_242_424);
        assert_eq!(told(&unknown), (2345, "default: the caller's".to_owned()));
    }
}
