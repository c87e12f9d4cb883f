//! Whom the files belong to when nobody says so.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Uid, User, getegid, geteuid};

use crate::config::{Origin, Setting};

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

/// Who runs a command for somebody serves that user. Root serves whom the configs directory belongs to:
/// the workspace's own user. Anybody else can only serve themselves.
pub fn default_owner(
    caller: Caller,
    configs_dir: &Path,
    warnings: &mut Vec<String>,
) -> Setting<u32> {
    if let Some(user) = caller.serves {
        return Setting { value: user, origin: Origin::Derived("the command's user".to_owned()) };
    }
    if caller.uid != 0 {
        return Setting { value: caller.uid, origin: Origin::Derived("the caller".to_owned()) };
    }
    let directory = configs_dir.display();
    match std::fs::metadata(configs_dir) {
        Ok(metadata) => Setting {
            value: metadata.uid(),
            origin: Origin::Derived(format!("the owner of {directory}")),
        },
        Err(error) => {
            warnings.push(format!(
                "only root may read the tokens: they would belong to the owner of {directory}, which \
                 cannot be looked at ({error}); --owner names another"
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
        let dir = tempfile::tempdir().unwrap();
        let mut warnings = Vec::new();
        let owner = default_owner(ROOT, dir.path(), &mut warnings);
        let why = format!("default: the owner of {}", dir.path().display());
        assert_eq!(told(&owner), (dir.path().metadata().unwrap().uid(), why));
        assert!(warnings.is_empty());

        let missing = dir.path().join("missing");
        let owner = default_owner(ROOT, &missing, &mut warnings);
        assert_eq!(told(&owner), (0, format!("default: root, without {}", missing.display())));
        assert!(warnings[0].starts_with("only root may read the tokens"));
    }

    #[test]
    fn anybody_else_serves_themselves() {
        let mut warnings = Vec::new();
        let owner = default_owner(USER, Path::new("/"), &mut warnings);
        assert_eq!(told(&owner), (1234, "default: the caller".to_owned()));
        assert!(warnings.is_empty());
    }

    #[test]
    fn a_user_whose_command_is_run_is_served_before_all_others() {
        let caller = Caller { serves: Some(7), ..ROOT };
        let owner = default_owner(caller, Path::new("/no/such"), &mut Vec::new());
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
