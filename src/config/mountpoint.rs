//! Where the mount is, for those who make it and those who read it.

use std::io;
use std::path::{Path, PathBuf};

use crate::cmd::{Advise, EXIT_NO_TOKEN, EXIT_USAGE};
use crate::config::Environment;

/// The variable that names the mountpoint where no argument does.
pub const VARIABLE: &str = "MOLECULE_TOKENFS_MOUNTPOINT";

/// Where root mounts.
const SYSTEM: &str = "/run/molecule/token";

/// Where `mount` mounts when it is not told: `$MOLECULE_TOKENFS_MOUNTPOINT`, else
/// `/run/molecule/token` for root and `$XDG_RUNTIME_DIR/molecule/token` for anybody else.
///
/// # Errors
/// When an ordinary user has no `XDG_RUNTIME_DIR`.
pub fn default_mountpoint() -> anyhow::Result<PathBuf> {
    default_in(&Environment::Process, nix::unistd::geteuid().is_root())
}

fn default_in(environment: &Environment, root: bool) -> anyhow::Result<PathBuf> {
    if let Some(path) = environment.get(VARIABLE) {
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
/// `$XDG_RUNTIME_DIR/molecule/token` at which something of ours is mounted, a dead mount included.
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
    let named = explicit.or_else(|| environment.get(VARIABLE).map(PathBuf::from));
    let candidates = match named {
        Some(path) => vec![path],
        None => std::iter::once(system.to_owned()).chain(of_user(environment)).collect(),
    };
    let mut looked_at = Vec::new();
    for path in candidates {
        match look(&path) {
            None => return Ok(path),
            Some(why) => looked_at.push(format!("{}: {why}", path.display())),
        }
    }
    Err(anyhow::anyhow!("no tokens are mounted ({})", looked_at.join("; "))
        .hint("mount them: molecule-tokenfs mount --background")
        .exit_code(EXIT_NO_TOKEN))
}

/// Why nothing can be read there; `None` if something can, or if the attempt will say it better.
fn look(path: &Path) -> Option<String> {
    let missing = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
    };
    match std::fs::metadata(path) {
        // A mounted file is never empty, also before the first token.
        Ok(metadata) if metadata.is_file() && metadata.len() == 0 => {
            Some("nothing is mounted there".to_owned())
        }
        Ok(metadata) if !metadata.is_dir() => None,
        // Among files there is no token while none may be served.
        Ok(_) => match ["token", "status.json"].map(|name| std::fs::metadata(path.join(name))) {
            [Err(error), Err(_)] if missing(&error) => Some("nothing is mounted there".to_owned()),
            _ => None,
        },
        Err(error) if missing(&error) => Some("it does not exist".to_owned()),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime_dir(path: &Path) -> Environment {
        Environment::from([("XDG_RUNTIME_DIR", path.to_str().unwrap())])
    }

    #[test]
    fn root_mounts_in_run_and_others_in_their_runtime_directory() {
        let user = Environment::from([("XDG_RUNTIME_DIR", "/run/user/7")]);
        assert_eq!(default_in(&user, true).unwrap(), Path::new("/run/molecule/token"));
        assert_eq!(default_in(&user, false).unwrap(), Path::new("/run/user/7/molecule/token"));
        let named = Environment::from([(VARIABLE, "/t"), ("XDG_RUNTIME_DIR", "/run/user/7")]);
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

        std::fs::write(mine.join("token"), "t").unwrap();
        assert_eq!(find_in(None, &runtime_dir(&user), &system).unwrap(), mine);
        std::fs::write(system.join("token"), "t").unwrap();
        assert_eq!(find_in(None, &runtime_dir(&user), &system).unwrap(), system);
        assert_eq!(find_in(Some(mine.clone()), &runtime_dir(&user), &system).unwrap(), mine);
    }

    #[test]
    fn a_named_place_is_the_only_one_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "t").unwrap();
        let nowhere = dir.path().join("nowhere");
        let environment = Environment::from([(VARIABLE, nowhere.to_str().unwrap())]);
        let error = find_in(None, &environment, dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("nowhere: it does not exist)"), "{error}");
    }

    #[test]
    fn an_empty_file_is_not_a_mounted_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let find = || find_in(Some(file.path().into()), &Environment::from([]), Path::new("/"));
        assert!(find().is_err());
        std::fs::write(file.path(), "t").unwrap();
        assert_eq!(find().unwrap(), file.path());
    }
}
