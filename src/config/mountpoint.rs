//! Where the mount is, for those who make it and those who read it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::advice::{Advise, EXIT_FAILURE, EXIT_NO_TOKEN, EXIT_USAGE};
use crate::config::Environment;
use crate::config::MOUNTPOINT_VARIABLE;
use crate::place::{Served, Unserved};

/// Where root mounts.
const SYSTEM: &str = "/run/molecule/token";

/// Where `mount` mounts when it is not told: `$MOLECULE_TOKENFS_MOUNTPOINT`, else
/// `/run/molecule/token` for root and `$XDG_RUNTIME_DIR/molecule/token` for anybody else.
///
/// # Errors
/// When an ordinary user has no `XDG_RUNTIME_DIR`, or one that others may enter.
pub fn default_mountpoint() -> anyhow::Result<PathBuf> {
    let environment = &Environment::Process;
    let path = default_in(environment, nix::unistd::geteuid().is_root())?;
    if Some(&path) == of_user(environment).as_ref()
        && let Some(directory) = environment.get("XDG_RUNTIME_DIR").map(PathBuf::from)
        && let Some(why) = flaw_of_runtime_directory(&directory)
    {
        let hint = "name another place: molecule-tokenfs mount DIRECTORY";
        return Err(anyhow::anyhow!("XDG_RUNTIME_DIR is {}, which {why}", directory.display())
            .hint(hint)
            .exit_code(EXIT_FAILURE));
    }
    Ok(path)
}

/// What is wrong with a runtime directory, as the rest of a sentence about it: it must belong to the user,
/// and nobody else may enter it (XDG Base Directory Specification).
pub(super) fn flaw_of_runtime_directory(path: &Path) -> Option<String> {
    let metadata = path.symlink_metadata().ok()?;
    let (user, mode) = (metadata.uid(), metadata.mode() & 0o777);
    if !metadata.is_dir() {
        Some("is not a directory".to_owned())
    } else if user != nix::unistd::geteuid().as_raw() {
        Some(format!("belongs to user {user} and not to you"))
    } else if mode & 0o077 != 0 {
        Some(format!("others may enter (mode {mode:04o}; it must be 0700)"))
    } else {
        None
    }
}

fn default_in(environment: &Environment, root: bool) -> anyhow::Result<PathBuf> {
    if let Some(path) = environment.get(MOUNTPOINT_VARIABLE) {
        return Ok(path.into());
    }
    if root {
        return Ok(SYSTEM.into());
    }
    let Some(path) = of_user(environment) else {
        return Err(anyhow::anyhow!(
            "no mountpoint is given, and XDG_RUNTIME_DIR, under which an ordinary user's would be, \
             is not set to an absolute path"
        )
        .hint("name one: molecule-tokenfs mount DIRECTORY")
        .exit_code(EXIT_USAGE));
    };
    Ok(path)
}

/// `XDG_RUNTIME_DIR` counts only if it is absolute (XDG Base Directory Specification).
fn of_user(environment: &Environment) -> Option<PathBuf> {
    let directory = PathBuf::from(environment.get("XDG_RUNTIME_DIR")?);
    directory.is_absolute().then(|| directory.join("molecule/token"))
}

/// The mountpoint to read from: the one that was named (argument, else
/// `$MOLECULE_TOKENFS_MOUNTPOINT`), else the first of `/run/molecule/token` and
/// `$XDG_RUNTIME_DIR/molecule/token` at which root or this user has mounted something of ours, a dead
/// mount included. Whether a place that was named is to be trusted is left to whoever reads there.
///
/// # Errors
/// When nothing is mounted at any place; it says where it looked.
pub fn find_mountpoint(explicit: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    find_in(explicit, &Environment::Process, Path::new(SYSTEM))
}

fn find_in(
    explicit: Option<PathBuf>,
    environment: &Environment,
    system: &Path,
) -> anyhow::Result<PathBuf> {
    let named = explicit.or_else(|| environment.get(MOUNTPOINT_VARIABLE).map(PathBuf::from));
    let is_named = named.is_some();
    let candidates = match named {
        Some(path) => vec![path],
        None => std::iter::once(system.to_owned()).chain(of_user(environment)).collect(),
    };
    let mut looked_at = Vec::new();
    for path in candidates {
        match Served::at(&path) {
            Ok(_) => return Ok(path),
            Err(Unserved::Untrusted(_)) if is_named => return Ok(path),
            // The attempt will say it better.
            Err(Unserved::Absent(errno)) if !is_missing(errno) => return Ok(path),
            Err(why) => looked_at.push(format!("{}: {why}", path.display())),
        }
    }
    Err(not_mounted(&looked_at.join("; ")))
}

fn not_mounted(why: &str) -> anyhow::Error {
    anyhow::anyhow!("no tokens are mounted ({why})")
        .hint("mount them: molecule-tokenfs mount --background")
        .exit_code(EXIT_NO_TOKEN)
}

fn is_missing(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ENOTDIR)
}

/// What is served at the mountpoint that [`find_mountpoint`] finds, held so that nobody can put something
/// else in its place.
///
/// # Errors
/// As [`find_mountpoint`]; and where somebody else than root and this user serves there, or could have.
pub fn find_served(explicit: Option<PathBuf>) -> anyhow::Result<(PathBuf, Served)> {
    let path = find_mountpoint(explicit)?;
    match Served::at(&path) {
        Ok(served) => Ok((path, served)),
        Err(why @ Unserved::Untrusted(flaw)) => Err(anyhow::anyhow!(
            "{}: {why}; tokens are read only from what root or you have mounted",
            path.display()
        )
        .hint(format!("see who put it there; to use it all the same: {}", flaw.remedy(&path)))
        .exit_code(EXIT_NO_TOKEN)),
        Err(Unserved::Absent(errno)) if !is_missing(errno) => Err(anyhow::Error::new(errno)
            .context(format!("cannot look at {}", path.display()))
            .exit_code(EXIT_FAILURE)),
        Err(why) => Err(not_mounted(&format!("{}: {why}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a daemon keeps files.
    fn serve(directory: &Path) {
        std::fs::create_dir_all(directory).unwrap();
        std::fs::write(directory.join(crate::files::MARKER), "").unwrap();
        std::fs::write(directory.join("token"), "t").unwrap();
    }

    fn runtime_dir(path: &Path) -> Environment {
        Environment::from([("XDG_RUNTIME_DIR", path.to_str().unwrap())])
    }

    #[test]
    fn root_mounts_in_run_and_others_in_their_runtime_directory() {
        let user = Environment::from([("XDG_RUNTIME_DIR", "/run/user/7")]);
        assert_eq!(default_in(&user, true).unwrap(), Path::new("/run/molecule/token"));
        assert_eq!(default_in(&user, false).unwrap(), Path::new("/run/user/7/molecule/token"));
        let named =
            Environment::from([(MOUNTPOINT_VARIABLE, "/t"), ("XDG_RUNTIME_DIR", "/run/user/7")]);
        assert_eq!(default_in(&named, true).unwrap(), Path::new("/t"));
    }

    #[test]
    fn a_relative_or_missing_runtime_directory_is_named() {
        for environment in [Environment::from([]), Environment::from([("XDG_RUNTIME_DIR", "run")])]
        {
            let error = default_in(&environment, false).unwrap_err();
            assert!(error.to_string().contains("XDG_RUNTIME_DIR"), "{error}");
        }
    }

    #[test]
    fn the_first_place_with_a_mount_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (system, user) = (dir.path().join("system"), dir.path().join("user"));
        let mine = user.join("molecule/token");
        std::fs::create_dir_all(&system).unwrap();
        std::fs::create_dir_all(&mine).unwrap();
        let error = find_in(None, &runtime_dir(&user), &system).unwrap_err().to_string();
        assert!(error.contains(system.to_str().unwrap()), "{error}");
        assert!(
            error.contains(&format!("{}: nothing is mounted there", mine.display())),
            "{error}"
        );

        serve(&mine);
        assert_eq!(find_in(None, &runtime_dir(&user), &system).unwrap(), mine);
        serve(&system);
        assert_eq!(find_in(None, &runtime_dir(&user), &system).unwrap(), system);
        assert_eq!(find_in(Some(mine.clone()), &runtime_dir(&user), &system).unwrap(), mine);
    }

    #[test]
    fn a_named_place_is_the_only_one_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        serve(dir.path());
        let nowhere = dir.path().join("nowhere");
        let environment = Environment::from([(MOUNTPOINT_VARIABLE, nowhere.to_str().unwrap())]);
        let error = find_in(None, &environment, dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("nowhere: it does not exist)"), "{error}");
    }

    #[test]
    fn a_plain_file_or_directory_is_no_mount() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "ghs_one").unwrap();
        std::fs::write(dir.path().join("token"), "ghs_one").unwrap();
        for place in [file.as_path(), dir.path()] {
            let error = find_in(Some(place.into()), &Environment::from([]), Path::new("/"));
            let error = error.unwrap_err().to_string();
            assert!(error.ends_with(": nothing is mounted there)"), "{error}");
        }
    }

    #[test]
    fn a_runtime_directory_belongs_to_the_user_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let set = |mode| {
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set(0o700);
        assert_eq!(flaw_of_runtime_directory(dir.path()), None);
        set(0o750);
        let flaw = flaw_of_runtime_directory(dir.path()).unwrap();
        assert_eq!(flaw, "others may enter (mode 0750; it must be 0700)");
    }
}
