//! What the commands do with a mount, as any reader would: open a view, ask for a refresh, look at
//! the status. It needs no more than the files.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use nix::errno::Errno;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::cmd::{Advise, EXIT_FAILURE, EXIT_NO_TOKEN, EXIT_USAGE};
use crate::config::find_served;
use crate::error::ReadErrorKind;
use crate::place::Served;
use crate::place::control;
use crate::status::{FailureStatus, TokenStatus};
use crate::time::{Clock, SystemClock};
use crate::view;

#[cfg(test)]
pub(in crate::cmd) mod fake;
pub(in crate::cmd) mod files;
mod which;

pub use which::Which;

/// Between two looks at something that is about to happen.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The view that is read when none is named.
const DEFAULT_VIEW: &str = "token";

/// A mount of ours.
#[derive(Debug)]
pub struct Reader {
    /// Where it was found, for messages.
    mountpoint: PathBuf,
    served: Served,
    /// The mountpoint is a file that holds one view, not a directory of views.
    single_file: bool,
    /// The token's directory in the mount; empty for the token of the mount itself.
    token: PathBuf,
}

/// What of the document is read here.
#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    written_at: Option<Timestamp>,
    /// That of the directory first, then the others of the mount.
    tokens: Vec<TokenStatus>,
}

/// How a refresh ended.
#[derive(Debug)]
pub struct Refreshed {
    /// How things stood before.
    pub before: TokenStatus,
    /// How things stand now.
    pub now: TokenStatus,
}

impl Refreshed {
    /// Whether another token came than the one that was there.
    #[must_use]
    pub fn brought_another(&self) -> bool {
        self.now.fingerprint.is_some() && self.now.fingerprint != self.before.fingerprint
    }
}

impl Reader {
    /// The mount at this place, or the one that [`find_served`] finds.
    ///
    /// # Errors
    /// When nothing is mounted, or by somebody who is not trusted.
    pub fn find(explicit: Option<PathBuf>) -> anyhow::Result<Self> {
        let (mountpoint, served) = find_served(explicit)?;
        // What cannot be looked at, a dead mount for one, fails with better words when it is opened.
        let single_file = std::fs::metadata(served.path()).is_ok_and(|metadata| !metadata.is_dir());
        Ok(Self { mountpoint, served, single_file, token: PathBuf::new() })
    }

    /// The same for one of its tokens.
    ///
    /// # Errors
    /// When the mount has no such token.
    pub fn of_token(self, which: &Which) -> anyhow::Result<Self> {
        let token = which.directory_in(&self.mountpoint, &self.served.path())?;
        if token.as_os_str().is_empty() {
            return Ok(self);
        }
        Ok(Self { mountpoint: self.mountpoint.join(&token), token, ..self })
    }

    /// The directory of the token, as a person knows it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.mountpoint
    }

    /// The directory of the token, by descriptor.
    fn root(&self) -> PathBuf {
        let root = self.served.path();
        if self.token.as_os_str().is_empty() { root } else { root.join(&self.token) }
    }

    /// The path of a view, as a person knows it.
    ///
    /// # Errors
    /// When there is no such view, or when the mount is a single file that is another one.
    pub fn path(&self, view: Option<&str>) -> anyhow::Result<PathBuf> {
        Ok(Self::of(&self.mountpoint, self.name_of(view)?))
    }

    /// The name of a view in the directory; nothing where the mount is a file that is the view.
    fn name_of<'a>(&self, view: Option<&'a str>) -> anyhow::Result<Option<&'a str>> {
        match view {
            Some(name) if view::by_path(name).is_none() => Err(unknown_view(name)),
            Some(name) if self.single_file => self.only(name).map(|()| None),
            None if self.single_file => Ok(None),
            view => Ok(Some(view.unwrap_or(DEFAULT_VIEW))),
        }
    }

    /// A file by its name in the mount, or the mount itself. No slash may follow the path of a file.
    fn of(root: &Path, name: Option<&str>) -> PathBuf {
        name.map_or_else(|| root.to_owned(), |name| root.join(name))
    }

    /// The mounted file, if it is this view. One that does not tell is taken for the token.
    fn only(&self, name: &str) -> anyhow::Result<()> {
        let shown = control::shown_view(&self.root());
        let shown = shown.as_deref().unwrap_or(DEFAULT_VIEW);
        if shown == name {
            return Ok(());
        }
        let path = self.mountpoint.display();
        Err(anyhow!("{path} is mounted as a single file, which shows `{shown}` and not `{name}`")
            .hint("mount a directory, which has every view")
            .exit_code(EXIT_USAGE))
    }

    /// The file through which the commands talk to whoever serves, for messages.
    fn beside(&self, name: &str) -> PathBuf {
        if self.single_file { self.mountpoint.clone() } else { self.mountpoint.join(name) }
    }

    /// Opens a view: success means that its token is fresh.
    ///
    /// # Errors
    /// As a reader sees them, in words, with the failure behind them.
    pub fn open(&self, view: Option<&str>) -> anyhow::Result<File> {
        let name = self.name_of(view)?;
        let root = self.root();
        files::open(&root, &Self::of(&root, name))
            .map_err(|error| self.explain(error, "read", &Self::of(&self.mountpoint, name)))
    }

    /// The bytes of a view.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn read(&self, view: Option<&str>) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let mut file = self.open(view)?;
        // Room for all of it at once: what grows leaves copies behind.
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        let mut bytes =
            Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1024));
        file.read_to_end(&mut bytes)
            .map_err(|error| self.explain(error, "read", &self.path(view).unwrap_or_default()))?;
        Ok(bytes)
    }

    /// How the token stands.
    ///
    /// # Errors
    /// When the status cannot be read.
    pub fn status(&self) -> anyhow::Result<TokenStatus> {
        let path = self.beside("status.json");
        let bytes = control::status(&self.root())
            .map_err(|error| self.explain(error, "read the status of", &path))?;
        let status: Status = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is not the status of tokens", path.display()))?;
        let mut token = status.tokens.into_iter().next().unwrap_or_default();
        // That of a mount is written when it is read; that of files when something happened.
        let age = status
            .written_at
            .filter(|_| files::are_at(&self.root()))
            .map(|at| SystemClock.now().timestamp().duration_since(at).as_secs().unsigned_abs());
        if let (Some(left), Some(age)) = (&mut token.left_seconds, age) {
            *left = left.saturating_sub(age);
        }
        Ok(token)
    }

    /// Asks for a new token and waits until the source has answered, whatever it answers.
    ///
    /// # Errors
    /// When it cannot be asked, or does not answer within `limit`.
    pub fn refresh(&self, limit: Duration) -> anyhow::Result<Refreshed> {
        let before = self.status()?;
        self.ask()?;
        let end = SystemClock.now().boot + limit;
        let mut answers = 0;
        loop {
            let now = self.status()?;
            // Twice, for a chain goes from one source to the next between two looks.
            answers = if now.has_answered(&before) { answers + 1 } else { 0 };
            if answers == 2 {
                return Ok(Refreshed { before, now });
            }
            if SystemClock.now().boot >= end {
                return Err(anyhow!(
                    "the source has not answered within {}",
                    crate::config::settings::shown_span(limit)
                )
                .hint("see how it goes on: molecule-tokenfs status"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Whether a refresh failed only because there was another one just before.
    #[must_use]
    pub fn was_too_soon(error: &anyhow::Error) -> bool {
        error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<io::Error>())
            .any(|cause| errno(cause) == Some(Errno::EAGAIN))
    }

    fn ask(&self) -> anyhow::Result<()> {
        control::refresh(&self.root(), "refresh\n").map_err(|error| match errno(&error) {
            Some(Errno::EAGAIN) => anyhow::Error::new(error)
                .context(
                    "a refresh was asked for less than a second ago, or the source limits our rate",
                )
                .hint("see when the next one is due: molecule-tokenfs status"),
            _ => self.explain(error, "write", &self.beside("refresh")),
        })
    }

    /// Puts what a reader sees as an errno into words: what failed, why, and what to type.
    fn explain(&self, error: io::Error, verb: &str, path: &Path) -> anyhow::Error {
        let errno = errno(&error);
        let what = format!("cannot {verb} {}", path.display());
        let Some(kind) = ReadErrorKind::ALL.into_iter().find(|kind| Some(kind.errno()) == errno)
        else {
            return nobody_serves(anyhow::Error::new(error).context(what), &self.mountpoint);
        };
        let explanation = kind.explain();
        let code = match kind {
            ReadErrorKind::NoToken
            | ReadErrorKind::Expired
            | ReadErrorKind::Rejected
            | ReadErrorKind::TimedOut
            | ReadErrorKind::TooMany
            | ReadErrorKind::Unserved => EXIT_NO_TOKEN,
            ReadErrorKind::Denied | ReadErrorKind::ReadOnly => EXIT_FAILURE,
        };
        // Where nobody serves, the status cannot be had either.
        let has_failure = code == EXIT_NO_TOKEN && kind != ReadErrorKind::Unserved;
        let failure = has_failure
            .then(|| self.status().ok()?.last_failure)
            .flatten()
            .map(|failure| as_error(&failure));
        let cause = match failure {
            Some(failure) => failure.context(format!("{what}: {error}")),
            None => anyhow::Error::new(error).context(what),
        };
        cause.context(explanation.sentence).hint(explanation.remedy).exit_code(code)
    }
}

/// Adds to an error of reading what it means if nobody serves at `mountpoint`, and what to do.
pub(in crate::cmd) fn nobody_serves(error: anyhow::Error, mountpoint: &Path) -> anyhow::Error {
    let shown = mountpoint.display();
    match error.downcast_ref::<io::Error>().and_then(errno) {
        Some(Errno::ENOTCONN | Errno::ECONNABORTED) => error
            .context(format!("the daemon that served {shown} is gone"))
            .hint(format!("mount it again: molecule-tokenfs mount --background {shown}"))
            .exit_code(EXIT_NO_TOKEN),
        Some(Errno::ENOENT | Errno::ENOTDIR) => error
            .context(format!("no tokens are mounted at {shown}"))
            .hint(format!("mount one: molecule-tokenfs mount --background {shown}"))
            .hint("or see what is mounted: findmnt -t fuse.molecule-tokenfs")
            .exit_code(EXIT_NO_TOKEN),
        _ => error,
    }
}

/// A failure of a source as an error, with its remedy.
pub(in crate::cmd) fn as_error(failure: &FailureStatus) -> anyhow::Error {
    let FailureStatus { source, message, detail, remedy, .. } = failure;
    let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
    let error = anyhow!("{source}: {message}{detail}");
    if remedy.is_empty() { error } else { error.hint(remedy) }
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}

fn unknown_view(name: &str) -> anyhow::Error {
    let views: Vec<_> = view::ALL.iter().map(|view| view.path()).collect();
    anyhow!("there is no view `{name}`")
        .hint(format!("the views are {}", views.join(", ")))
        .exit_code(EXIT_USAGE)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::fake::FakeMount;
    use super::*;
    use crate::cmd::describe;

    fn told(reader: &Reader, errno: Errno) -> (String, u8) {
        let error = io::Error::from_raw_os_error(errno as i32);
        describe(&reader.explain(error, "read", Path::new("/m/token")))
    }

    #[test]
    fn a_view_is_read_by_name_and_the_token_without() {
        let mount = FakeMount::new(&json!({}));
        fs::write(mount.path("header"), "Authorization: Bearer ghs_one\n").unwrap();
        let reader = mount.reader();
        assert_eq!(**reader.read(None).unwrap(), *b"ghs_one");
        assert_eq!(**reader.read(Some("header")).unwrap(), *b"Authorization: Bearer ghs_one\n");
        // Neither the status nor anything outside is a view.
        for name in ["status.json", "../token", "refresh", "live/token", ""] {
            let (text, code) = describe(&reader.read(Some(name)).unwrap_err());
            assert!(text.starts_with(&format!("error: there is no view `{name}`\n")), "{text}");
            assert!(text.contains("hint: the views are token, "), "{text}");
            assert_eq!(code, EXIT_USAGE);
        }
    }

    #[test]
    fn a_refusal_is_put_into_words_with_the_failure_behind_it() {
        let mount = FakeMount::new(&json!({ "last_failure": {
            "source": "platform",
            "message": "the source cannot be reached",
            "detail": "connection refused",
            "remedy": "check PLATFORM_URL",
            "count": 3,
        }}));
        let (text, code) = told(&mount.reader(), Errno::ENOKEY);
        assert_eq!(
            text,
            "error: no source has given a token yet\n\
             \x20 caused by: cannot read /m/token: Required key not available (os error 126)\n\
             \x20 caused by: platform: the source cannot be reached (connection refused)\n\
             hint: check PLATFORM_URL\n\
             hint: see what each source says: molecule-tokenfs status\n"
        );
        assert_eq!(code, EXIT_NO_TOKEN);
    }

    #[test]
    fn every_refusal_has_its_exit_code_and_a_hint() {
        let mount = FakeMount::new(&json!({}));
        for (errno, expected) in [
            (Errno::ENOKEY, EXIT_NO_TOKEN),
            (Errno::EKEYEXPIRED, EXIT_NO_TOKEN),
            (Errno::EKEYREJECTED, EXIT_NO_TOKEN),
            (Errno::ETIMEDOUT, EXIT_NO_TOKEN),
            (Errno::EAGAIN, EXIT_NO_TOKEN),
            (Errno::EIO, EXIT_NO_TOKEN),
            (Errno::ENOTCONN, EXIT_NO_TOKEN),
            (Errno::ENOENT, EXIT_NO_TOKEN),
            (Errno::EACCES, EXIT_FAILURE),
            (Errno::EROFS, EXIT_FAILURE),
        ] {
            let (text, code) = told(&mount.reader(), errno);
            assert!(
                text.contains("caused by: cannot read /m/token") || errno == Errno::ENOENT,
                "{text}"
            );
            assert!(text.contains("hint: "), "{text}");
            assert_eq!(code, expected, "{errno}");
        }
        assert_eq!(told(&mount.reader(), Errno::ENFILE).1, EXIT_FAILURE);
    }

    #[test]
    fn a_refresh_ends_when_the_source_has_answered() {
        let mount = FakeMount::new(&json!({ "attempts": 4, "generation": 1, "fetching": false }));
        let _source = mount.answer_refresh(vec![
            json!({ "attempts": 5, "generation": 1, "fetching": true }),
            json!({ "attempts": 5, "generation": 2, "fetching": false }),
        ]);
        let refreshed = mount.reader().refresh(Duration::from_secs(10)).unwrap();
        assert_eq!((refreshed.before.generation, refreshed.now.generation), (Some(1), Some(2)));
    }

    #[test]
    fn a_refresh_may_join_a_request_that_is_under_way() {
        let before = TokenStatus { fetching: true, attempts: 7, ..Default::default() };
        assert!(!before.has_answered(&before));
        assert!(TokenStatus { fetching: false, ..before.clone() }.has_answered(&before));
        let idle = TokenStatus { fetching: false, ..before };
        assert!(!idle.has_answered(&idle), "the request has not begun yet");
        assert!(TokenStatus { attempts: 8, ..idle.clone() }.has_answered(&idle));
    }

    #[test]
    fn a_source_that_does_not_answer_is_not_waited_for_for_ever() {
        let mount = FakeMount::new(&json!({ "attempts": 4, "fetching": true }));
        let error = mount.reader().refresh(Duration::from_millis(120)).unwrap_err();
        assert_eq!(error.to_string(), "the source has not answered within 120ms");
    }
}
