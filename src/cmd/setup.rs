//! `setup`: makes git and gh use the mount, and takes it back.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use nix::unistd::{Gid, Uid, User, geteuid, setgid, setgroups, setuid};

use crate::cmd::EXIT_CODES_WITHOUT_TOKEN as EXIT_CODES;
use crate::config;
use crate::foreign::plain::{self, PlainFile};

pub mod gh;
pub mod git;
mod git_block;
pub mod git_config;

/// The arguments of `setup`.
#[derive(Debug, clap::Args)]
pub struct SetupArgs {
    /// For which tool.
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Debug, Subcommand)]
enum Tool {
    /// Make git ask the mount for its credentials
    #[command(after_help = EXIT_CODES)]
    Git(git::GitArgs),
    /// Put the shim that gives gh a fresh token before gh in PATH
    #[command(after_help = EXIT_CODES)]
    Gh(gh::GhArgs),
}

/// Sets one tool up, or undoes it.
///
/// # Errors
/// What could not be done; nothing is left half done then.
pub fn run(args: SetupArgs) -> anyhow::Result<ExitCode> {
    match args.tool {
        Tool::Git(args) => git::run(&args),
        Tool::Gh(args) => gh::run(&args),
    }
}

/// Mode and owner of a new file.
enum Like {
    /// 0644, less the umask.
    New,
    /// 0755 whatever the umask, so that other users can run the program.
    Program,
    /// Those of an existing file; the owner only if permitted.
    File(fs::Metadata),
}

/// A file that takes its place at once, or not at all: it is written beside it and renamed. Removed
/// when dropped before.
struct Staged {
    /// Its name until then; `None` once that is gone, since by now it may be somebody else's.
    path: Option<PathBuf>,
}

impl Staged {
    /// Writes `bytes` to the new file `path`.
    ///
    /// # Errors
    /// `AlreadyExists` when `path` is there; else what the system says.
    fn write(path: PathBuf, bytes: &[u8], like: &Like) -> io::Result<Self> {
        let mut file = File::options().write(true).create_new(true).mode(0o644).open(&path)?;
        let staged = Self { path: Some(path) };
        file.write_all(bytes)?;
        // Through the descriptor: by now the path may lead to a link of somebody else's.
        let mode = match like {
            Like::New => None,
            Like::Program => Some(0o755),
            Like::File(like) => {
                // Only root may; anybody else edits files of their own.
                let _ = std::os::unix::fs::fchown(&file, Some(like.uid()), Some(like.gid()));
                Some(like.mode() & 0o7777)
            }
        };
        if let Some(mode) = mode {
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        file.sync_all()?;
        Ok(staged)
    }

    /// Where it is now.
    fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// Puts the file at `target`, whether there is one or not.
    fn replace(mut self, target: &Path) -> io::Result<()> {
        fs::rename(self.path(), target)?;
        self.path = None;
        Ok(())
    }

    /// Puts the file at `target` unless there is something, whatever it is: `AlreadyExists` then.
    fn create(self, target: &Path) -> io::Result<()> {
        fs::hard_link(self.path(), target)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Best effort: the error that led here is the one to tell.
            let _ = fs::remove_file(path);
        }
    }
}

/// What [`install_script`] found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Installed {
    /// There was nothing.
    New,
    /// Another version of the script was there.
    Replaced,
    /// It was there already.
    Unchanged,
}

/// Whether the file at `path` is a script of ours: its second line is that of `script`.
pub(super) fn is_script(path: &Path, script: &str) -> bool {
    let regular = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
    let marker = script.lines().nth(1).unwrap_or_default();
    // The real gh is a large binary: its beginning tells enough.
    let start = PlainFile::open(path).ok().and_then(|file| file.start(1024).ok());
    regular
        && start.unwrap_or_default().split(|&byte| byte == b'\n').nth(1) == Some(marker.as_bytes())
}

/// If root is about to write to another user's directory, becomes that user for good: the owner of a
/// directory can place links in it that lead root astray. Returns the user's name.
///
/// # Errors
/// If this process cannot become that user.
fn become_owner_of(path: &Path) -> anyhow::Result<Option<String>> {
    let place = path.ancestors().skip(1).find_map(|directory| fs::metadata(directory).ok());
    let Some(owner) = place.filter(|place| geteuid().is_root() && place.uid() != 0) else {
        return Ok(None);
    };
    let uid = Uid::from_raw(owner.uid());
    let user = User::from_uid(uid).ok().flatten();
    let gid = user.as_ref().map_or(Gid::from_raw(owner.gid()), |user| user.gid);
    let name = user.map_or_else(|| uid.to_string(), |user| user.name);
    setgroups(&[gid])
        .and_then(|()| setgid(gid))
        .and_then(|()| setuid(uid))
        .with_context(|| format!("cannot become {name} to write {}", path.display()))?;
    Ok(Some(name))
}

/// Installs a script of ours at `path`, mode 0755, creating its directory; never over a file that is
/// not a version of it.
fn install_script(path: &Path, script: &str) -> anyhow::Result<Installed> {
    install_script_over(path, script, false)
}

/// The same; with `any` over whatever is there.
fn install_script_over(path: &Path, script: &str, any: bool) -> anyhow::Result<Installed> {
    let ours = is_script(path, script);
    let executable = fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o777 == 0o755);
    if ours && executable && plain::read(path).is_ok_and(|text| *text == script.as_bytes()) {
        return Ok(Installed::Unchanged);
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    let temporary = directory.join(format!(".molecule-tokenfs-{}", std::process::id()));
    let staged = fs::create_dir_all(directory)
        .and_then(|()| Staged::write(temporary, script.as_bytes(), &Like::Program))
        .with_context(|| format!("cannot write to {}", directory.display()))?;
    let placed = if ours || any {
        staged.replace(path).map(|()| Installed::Replaced)
    } else {
        staged.create(path).map(|()| Installed::New)
    };
    match placed {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(anyhow::anyhow!("{} is there already and is not ours: it stays", path.display()))
        }
        other => other.with_context(|| format!("cannot write {}", path.display())),
    }
}

/// The programs of this name in the absolute directories of PATH, in its order.
pub(super) fn in_path(name: &str) -> impl Iterator<Item = PathBuf> {
    path_directories().into_iter().map(move |directory| directory.join(name)).filter(|program| {
        fs::metadata(program)
            .is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
    })
}

/// The absolute directories of PATH, in its order.
pub(super) fn path_directories() -> Vec<PathBuf> {
    let path = config::env("PATH").unwrap_or_default();
    std::env::split_paths(&path).filter(|directory| directory.is_absolute()).collect()
}

/// A word as a POSIX shell reads it back.
pub(super) fn shell_quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_word_is_what_the_shell_reads() {
        for word in ["/usr/bin/x", "", "a b", "it's", "$HOME", "a\"b", "*", "[::1]", "a\\b", "~"] {
            let script = format!("printf %s {}", shell_quote(word));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(output.stdout, word.as_bytes(), "{script}");
        }
    }

    #[test]
    fn a_staged_file_is_whole_in_its_place_or_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("t");
        let stage = |bytes, like| Staged::write(dir.path().join("t.lock"), bytes, &like);

        drop(stage(b"one", Like::New).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        stage(b"one", Like::New).unwrap().create(&target).unwrap();
        let again = stage(b"two", Like::New).unwrap().create(&target).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&target).unwrap(), b"one");

        fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).unwrap();
        let like = Like::File(fs::metadata(&target).unwrap());
        stage(b"three", like).unwrap().replace(&target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"three");
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
