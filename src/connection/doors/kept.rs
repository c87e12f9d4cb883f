//! The file that keeps the doors which were added while the daemon served: beside their directory, for root
//! alone.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::DoorConfig;
use crate::place::attached::beside;

/// Changes when an earlier program could not read the file.
const VERSION: u32 = 1;

/// See the module.
#[derive(Debug, Clone)]
pub struct Kept {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    version: u32,
    doors: Vec<DoorConfig>,
}

impl Kept {
    /// The file for the doors in this directory: `DIRECTORY.json`.
    #[must_use]
    pub fn beside(directory: &Path) -> Self {
        Self { path: beside(directory, "json") }
    }

    /// What it keeps. One that cannot be read is moved aside, so that nothing in it is lost.
    ///
    /// # Errors
    /// What is wrong with it, and where it is now.
    pub fn load(&self) -> io::Result<Vec<DoorConfig>> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.told(&error)),
        };
        let wrong = match serde_json::from_slice(&text) {
            Ok(Text { version: VERSION, doors }) => return Ok(doors),
            Ok(Text { version, .. }) => format!("it is of version {version}"),
            Err(error) => error.to_string(),
        };
        let aside = self.path.with_extension("json.unreadable");
        fs::rename(&self.path, &aside)?;
        let told = format!("{}: {wrong}; it is {} now", self.path.display(), aside.display());
        Err(io::Error::new(io::ErrorKind::InvalidData, told))
    }

    /// Keeps these, all or nothing.
    ///
    /// # Errors
    /// What the system says of the file.
    pub fn save(&self, doors: Vec<DoorConfig>) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(&Text { version: VERSION, doors })?;
        let new = self.path.with_extension("json.new");
        let write = || {
            let mut file =
                File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            // One that was there already keeps its mode.
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(&text)?;
            fs::rename(&new, &self.path)
        };
        write().map_err(|error| self.told(&error))
    }

    fn told(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::doors::DoorToken;
    use crate::fs::access::Access;

    fn door(name: &str) -> DoorConfig {
        DoorConfig {
            name: name.to_owned(),
            access: Access::OF_HOST,
            token: Some(DoorToken::Named("acme".to_owned())),
            tokens: vec!["globex".to_owned()],
        }
    }

    #[test]
    fn what_is_kept_is_found_again_and_nobody_else_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::beside(&dir.path().join("doors"));
        assert_eq!(kept.load().unwrap(), []);
        kept.save(vec![door("agent-1"), door("agent-2")]).unwrap();
        assert_eq!(kept.load().unwrap(), [door("agent-1"), door("agent-2")]);
        let mode = fs::metadata(dir.path().join("doors.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        kept.save(Vec::new()).unwrap();
        assert_eq!(kept.load().unwrap(), []);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_moved_aside_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::beside(&dir.path().join("doors"));
        for text in ["{", "{\"version\":2,\"doors\":[]}", "{\"version\":1,\"doors\":[],\"more\":1}"]
        {
            fs::write(dir.path().join("doors.json"), text).unwrap();
            let told = kept.load().unwrap_err().to_string();
            assert!(told.contains("doors.json.unreadable now"), "{told}");
            assert_eq!(fs::read_to_string(dir.path().join("doors.json.unreadable")).unwrap(), text);
            assert_eq!(kept.load().unwrap(), []);
        }
    }
}
