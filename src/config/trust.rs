//! Files that decide what the daemon does and whom it believes: nobody else may be able to change
//! them.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::anyhow;
use nix::unistd::{Gid, Group, Uid, User, geteuid};

use crate::advice::{Advise, EXIT_USAGE};
use crate::trust::Trust;

/// Refuses a file that others can change: `what` is its name in the sentence, and `also` a further
/// user that it may belong to.
///
/// # Errors
/// When it belongs to somebody else than root, this user and `also`, or its mode lets others write.
/// The exit code is that of usage errors.
pub fn check(what: &str, path: &Path, file: &Metadata, also: Option<u32>) -> anyhow::Result<()> {
    let (shown, uid, mode) = (path.display(), file.uid(), file.mode() & 0o7777);
    if !Trust::own().covers(uid) && also != Some(uid) {
        let own = geteuid();
        let error = anyhow!("{what}, {shown}, belongs to user {uid}, who could change it");
        return Err(error.hint(format!("chown {own} {shown}")).exit_code(EXIT_USAGE));
    }
    let by_group = mode & 0o020 != 0 && !is_private(file.gid(), uid);
    if mode & 0o002 != 0 || by_group {
        let error = anyhow!("{what}, {shown}, can be changed by others: its mode is {mode:04o}");
        return Err(error.hint(format!("chmod go-w {shown}")).exit_code(EXIT_USAGE));
    }
    Ok(())
}

/// Whether a group is that of root, or the user's own, as many systems make one for each user: then
/// nobody else is in it.
fn is_private(group: u32, user: u32) -> bool {
    let (gid, uid) = (Gid::from_raw(group), Uid::from_raw(user));
    let (Ok(Some(group)), Ok(Some(user))) = (Group::from_gid(gid), User::from_uid(uid)) else {
        return group == 0;
    };
    let has_no_others = group.mem.iter().all(|member| *member == user.name);
    has_no_others && (gid.as_raw() == 0 || (group.name == user.name && user.gid == gid))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn told(path: &Path, also: Option<u32>) -> Result<(), String> {
        check("the file", path, &fs::metadata(path).unwrap(), also)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_that_others_can_write_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, is_refused) in
            [(0o600, false), (0o644, false), (0o444, false), (0o646, true), (0o666, true)]
        {
            fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            let told = told(file.path(), None);
            assert_eq!(told.is_err(), is_refused, "{mode:o}: {told:?}");
            let sentence = format!("can be changed by others: its mode is {mode:04o}");
            assert!(told.is_ok() || told.unwrap_err().ends_with(&sentence));
        }
    }

    #[test]
    fn only_a_private_group_may_write() {
        assert!(is_private(0, 0));
        // Everybody can be in it, and nobody's name is its name.
        assert!(!is_private(4_242_424, 0));
        let daemon = User::from_name("daemon").unwrap().expect("a user of every system");
        assert!(is_private(daemon.gid.as_raw(), daemon.uid.as_raw()));
        assert!(!is_private(daemon.gid.as_raw(), 0));
    }
}
