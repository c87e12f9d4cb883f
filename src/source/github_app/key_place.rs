//! Where the private key of an App is read: a file, or what a variable held when the daemon started.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::config::PrivateKey;
use super::key::Key;
use crate::foreign::{ForeignFile, Found, Launcher, Request, Unreadable, WatchedFile};
use crate::secret::Secret;
use crate::source::BoxFuture;

/// The largest key file, in bytes; a key of 4,096 bits has 3.2 KiB.
const LIMIT: usize = 64 * 1024;
/// What the mode of a key file may not hold: rights of others, and of the group to write.
const TOO_OPEN: u32 = 0o027;

/// See the module.
pub(super) enum KeyPlace {
    Watched(Box<WatchedFile>),
    /// There may be hundreds of sources on demand, each of which would watch it.
    Unwatched(Box<ForeignFile>),
    /// In base64; nothing where the variable was not set.
    Variable(Option<Secret>),
}

/// Why there is no key, without a byte of it.
pub(super) struct NoKey {
    pub(super) words: String,
    /// It heals by itself.
    pub(super) is_transient: bool,
}

impl NoKey {
    fn new(why: &impl ToString) -> Self {
        Self { words: why.to_string(), is_transient: false }
    }
}

impl KeyPlace {
    pub(super) fn new(key: &PrivateKey, is_on_demand: bool, launcher: &Arc<Launcher>) -> Self {
        let (path, launcher) = match key {
            PrivateKey::File(path) => (path, Arc::clone(launcher)),
            PrivateKey::Variable { value, .. } => return Self::Variable(value.clone()),
        };
        let request = Request { anywhere: true, ..Request::file(path, LIMIT) };
        if is_on_demand {
            Self::Unwatched(Box::new(ForeignFile::new(request, launcher)))
        } else {
            Self::Watched(Box::new(WatchedFile::new(request, launcher)))
        }
    }

    /// Reads the key, a file anew each time: it may be replaced at any time.
    pub(super) async fn read(&self) -> Result<Key, NoKey> {
        let pem = match self {
            Self::Watched(file) => content(file.read_found().await)?,
            Self::Unwatched(file) => content(file.read_found().await)?,
            Self::Variable(None) => {
                return Err(NoKey::new(&"it was not set when the daemon was started"));
            }
            Self::Variable(Some(value)) => of_variable(value),
        };
        Key::parse(&pem).map_err(|why| NoKey::new(&why))
    }

    /// Completes when the key is another one.
    pub(super) fn changed(&self) -> BoxFuture<'_, ()> {
        match self {
            Self::Watched(file) => Box::pin(file.changed()),
            Self::Unwatched(_) | Self::Variable(_) => Box::pin(std::future::pending()),
        }
    }
}

fn content(found: Result<Found, Unreadable>) -> Result<Zeroizing<Vec<u8>>, NoKey> {
    let found = found.map_err(|why| NoKey {
        words: why.to_string(),
        is_transient: why.is_transient() && why != Unreadable::Missing,
    })?;
    if found.mode & TOO_OPEN != 0 {
        let mode = found.mode & 0o7777;
        return Err(NoKey::new(&format!("others can read it: its mode is {mode:04o}")));
    }
    Ok(found.content)
}

/// The bytes of the variable. Where it has no line ends, they may be written as `\\n`, as services do that
/// take one line only.
fn of_variable(value: &Secret) -> Zeroizing<Vec<u8>> {
    let bytes = Zeroizing::new(STANDARD.decode(value.expose()).unwrap_or_default());
    if bytes.contains(&b'\n') {
        return bytes;
    }
    let mut lines = Zeroizing::new(Vec::with_capacity(bytes.len()));
    let mut rest = bytes.as_slice();
    while let Some((&byte, after)) = rest.split_first() {
        let is_end = rest.starts_with(b"\\n");
        lines.push(if is_end { b'\n' } else { byte });
        rest = if is_end { rest.get(2..).unwrap_or_default() } else { after };
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_may_have_its_line_ends_written_out() {
        let of = |text: &str| {
            let value = Secret::new(STANDARD.encode(text).into_bytes()).unwrap();
            String::from_utf8(of_variable(&value).to_vec()).unwrap()
        };
        assert_eq!(of("a\nb\\n"), "a\nb\\n");
        assert_eq!(of("a\\nb\\"), "a\nb\\");
        assert_eq!(of("one"), "one");
    }
}
