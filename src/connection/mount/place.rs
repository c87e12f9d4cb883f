//! The place to mount on: a directory or a file that is there, or that is made and later removed.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{MountError, errno};
use crate::fs::status::Layout;

/// What was made for a mount. It is removed when this is dropped, as far as nobody uses it.
#[derive(Debug, Default)]
pub(super) struct Made {
    directories: Vec<PathBuf>,
    file: Option<PathBuf>,
}

impl Drop for Made {
    fn drop(&mut self) {
        // Somebody may have put something there meanwhile; then it stays.
        if let Some(file) = &self.file
            && file.symlink_metadata().is_ok_and(|found| found.is_file() && found.len() == 0)
        {
            std::fs::remove_file(file).ok();
        }
        remove_directories(&self.directories);
    }
}

/// Makes the directories on the way to the target, mode 0755, and tells which it made.
pub(crate) fn make_directories(target: &Path) -> Result<Vec<PathBuf>, MountError> {
    let missing: Vec<_> = target.ancestors().take_while(|path| !path.exists()).collect();
    let mut made = Vec::new();
    for path in missing.into_iter().rev() {
        match DirBuilder::new().mode(0o755).create(path) {
            Ok(()) => made.push(path.to_owned()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => {
                remove_directories(&made);
                let what = format!("create the directory {}", path.display());
                return Err(MountError::system(what, errno(&error)));
            }
        }
    }
    Ok(made)
}

/// Removes the directories that were made, as far as they are empty.
pub(crate) fn remove_directories(made: &[PathBuf]) {
    for path in made.iter().rev() {
        // Somebody may have put something there meanwhile; then it stays.
        std::fs::remove_dir(path).ok();
    }
}

/// Makes sure that there is something to mount on: what is there decides the layout; where nothing
/// is, `wanted` does, and it is made, with the directories on the way to it (mode 0755).
pub(super) fn prepare(target: &Path, wanted: Option<Layout>) -> Result<(Layout, Made), MountError> {
    let mut made = Made::default();
    let layout = match target.metadata() {
        Ok(metadata) => layout_of(target, &metadata)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let layout = wanted.unwrap_or(Layout::Directory);
            made = make(target, layout)?;
            layout
        }
        Err(error) => {
            return Err(MountError::system(format!("look at {}", target.display()), errno(&error)));
        }
    };
    match wanted {
        Some(wanted) if wanted != layout => {
            Err(MountError::OtherLayout { target: target.to_owned(), wanted })
        }
        _ => Ok((layout, made)),
    }
}

fn layout_of(target: &Path, metadata: &Metadata) -> Result<Layout, MountError> {
    if metadata.is_dir() {
        Ok(Layout::Directory)
    } else if metadata.is_file() {
        Ok(Layout::File)
    } else {
        Err(MountError::NotADirectory { target: target.to_owned() })
    }
}

fn make(target: &Path, layout: Layout) -> Result<Made, MountError> {
    if layout == Layout::Directory {
        return Ok(Made { directories: make_directories(target)?, file: None });
    }
    let parent = target.parent().unwrap_or(Path::new("/"));
    let mut made = Made { directories: make_directories(parent)?, file: None };
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(target) {
        Ok(_) => made.file = Some(target.to_owned()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => {
            let what = format!("create the file {}", target.display());
            return Err(MountError::system(what, errno(&error)));
        }
    }
    Ok(made)
}

/// Opens what to mount on, and locks it against a second start at the same time. A mount would hide
/// what is in it, so it must be empty.
pub(super) fn pin(target: &Path, layout: Layout) -> Result<Flock<File>, MountError> {
    let cannot = |error: &std::io::Error| {
        let what = format!("open the {} {}", layout.name(), target.display());
        MountError::system(what, errno(error))
    };
    let place = File::open(target).map_err(|error| cannot(&error))?;
    let metadata = place.metadata().map_err(|error| cannot(&error))?;
    if layout_of(target, &metadata)? != layout {
        // Somebody replaced it since we looked.
        return Err(MountError::OtherLayout { target: target.to_owned(), wanted: layout });
    }
    if layout == Layout::File && metadata.len() > 0 {
        let bytes = metadata.len();
        return Err(MountError::NotEmptyFile { target: target.to_owned(), bytes });
    }
    if layout == Layout::Directory
        && let Some(entry) = std::fs::read_dir(target).map_err(|error| cannot(&error))?.next()
    {
        let entry = entry.map_err(|error| cannot(&error))?.file_name();
        let entry = entry.to_string_lossy().into_owned();
        return Err(MountError::NotEmpty { target: target.to_owned(), entry });
    }
    Flock::lock(place, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => MountError::AlreadyServed { target: target.to_owned(), pid: None },
        errno => MountError::system(format!("lock {}", target.display()), errno),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_made_as_asked_and_removed_again() {
        let dir = tempfile::tempdir().unwrap();
        for (wanted, layout) in [
            (None, Layout::Directory),
            (Some(Layout::Directory), Layout::Directory),
            (Some(Layout::File), Layout::File),
        ] {
            let target = dir.path().join("a/b/token");
            let (found, made) = prepare(&target, wanted).unwrap();
            assert_eq!(found, layout);
            assert_eq!(target.is_dir(), layout == Layout::Directory);
            drop(pin(&target, layout).unwrap());
            drop(made);
            assert!(!dir.path().join("a").exists());
        }
    }

    #[test]
    fn what_is_there_decides_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        for (target, is, other) in [
            (dir.path(), Layout::Directory, Layout::File),
            (file.as_path(), Layout::File, Layout::Directory),
        ] {
            assert_eq!(prepare(target, None).unwrap().0, is);
            assert_eq!(prepare(target, Some(is)).unwrap().0, is);
            let refused = prepare(target, Some(other)).unwrap_err();
            assert!(
                matches!(refused, MountError::OtherLayout { wanted, .. } if wanted == other),
                "{refused}"
            );
            assert!(target.exists());
        }
    }

    #[test]
    fn what_came_meanwhile_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a/token");
        let (_, made) = prepare(&target, Some(Layout::File)).unwrap();
        std::fs::write(&target, "something").unwrap();
        drop(made);
        assert_eq!(std::fs::read(&target).unwrap(), b"something");
        let refused = pin(&target, Layout::File).unwrap_err().to_string();
        assert!(refused.contains("would hide its 9 bytes"), "{refused}");
    }
}
