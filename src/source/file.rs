//! A token that somebody else writes to a file: `[sources.NAME]` with `type = "file"`.
//!
//! The file is read whenever a token is wanted, so whoever writes it may replace it at any time. If it
//! holds a JWT (RFC 7519), its `exp` tells when it expires.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::error::{Explanation, FetchError, FetchErrorKind};
use crate::foreign::{ForeignFile, Launcher, Request, Unreadable};
use crate::secret::{MAX_SECRET_BYTES, Secret, SecretError};
use crate::source::table::{Table, TableError};
use crate::source::{BoxFuture, Configured, Fetched, Source, SourceName};
use crate::time::{Clock, Now};
use crate::token::Term;

/// How long a token is taken to live, from each reading on, where nobody says it.
const LIFETIME: Duration = Duration::from_hours(1);
/// The end of the file's line.
const LINE_ENDS: [&[u8]; 2] = [b"\r\n", b"\n"];

/// Which file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileConfig {
    /// The source's name.
    pub name: SourceName,
    /// The file.
    pub path: PathBuf,
    /// How long a token lives from its reading on, where it does not say so itself.
    pub lifetime: Duration,
}

impl Configured for FileConfig {
    const TYPE: &'static str = "file";

    fn parse(table: &mut Table) -> Result<Self, TableError> {
        let path = table
            .text("path")?
            .ok_or_else(|| table.error("has no `path`").hint("path = \"/run/secrets/token\""))?;
        if !path.value.starts_with('/') {
            return Err(table.invalid("path", path.line, "an absolute path", "a relative one"));
        }
        Ok(Self {
            name: SourceName::new(table.name()),
            path: path.value.into(),
            lifetime: table.span("lifetime")?.unwrap_or(LIFETIME),
        })
    }

    fn describe(&self) -> String {
        format!("the token in {}", self.path.display())
    }
}

/// See the module.
pub struct File {
    config: FileConfig,
    content: ForeignFile,
    clock: Arc<dyn Clock>,
}

impl File {
    /// A source over a file, there or not.
    pub fn new(config: FileConfig, clock: Arc<dyn Clock>, launcher: Arc<Launcher>) -> Self {
        let limit = MAX_SECRET_BYTES + LINE_ENDS.map(<[u8]>::len).into_iter().max().unwrap_or(0);
        // Somebody named it, so links may lead anywhere; it is read as the owner of its directory.
        let request = Request { anywhere: true, ..Request::file(&config.path, limit) };
        Self { content: ForeignFile::new(request, launcher), config, clock }
    }

    async fn read(&self) -> Result<Fetched, FetchError> {
        let issued = self.clock.now();
        let content = self.content.read().await.map_err(|why| self.error(kind_of(why), why))?;
        let content = content.as_slice();
        let mut ends = LINE_ENDS.into_iter().filter_map(|end| content.strip_suffix(end));
        let secret = Secret::new(ends.next().unwrap_or(content).to_vec()).map_err(|why| {
            let why = match why {
                SecretError::Empty => "it is empty".to_owned(),
                why => why.to_string(),
            };
            self.error(FetchErrorKind::BadAnswer, why)
        })?;
        let term = self.term(&secret, &issued)?;
        Ok(Fetched { secret, issued, term })
    }

    /// What is known of the token's life.
    fn term(&self, token: &Secret, now: &Now) -> Result<Term, FetchError> {
        match expiry(token.expose_str()) {
            None => Ok(Term::Assumed(self.config.lifetime)),
            Some(expires_at) if expires_at > now.wall => {
                Ok(Term::Until { expires_at, server: None })
            }
            Some(expires_at) => {
                let ago = now.wall.saturating_sub(expires_at).as_secs();
                let why = format!("by its `exp` it expired {ago} seconds ago");
                Err(self.error(FetchErrorKind::BornExpired, why))
            }
        }
    }

    fn error(&self, kind: FetchErrorKind, why: impl std::fmt::Display) -> FetchError {
        let detail = format!("{}: {why}", self.config.path.display());
        FetchError::new(self.config.name.get(), kind, detail).explained(explain(kind))
    }
}

/// When a JWT expires, by its own word, since the Unix epoch. Nobody here can check its signature, nor
/// needs to: whoever can write the file can write any token.
fn expiry(token: &str) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let mut parts = token.split('.');
    let (Some(head), Some(body), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let json = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
    serde_json::from_slice::<serde::de::IgnoredAny>(&json(head)?).ok()?;
    let Claims { exp } = serde_json::from_slice(&json(body)?).ok()?;
    Duration::try_from_secs_f64(exp).ok()
}

fn kind_of(why: Unreadable) -> FetchErrorKind {
    match why {
        Unreadable::Missing => FetchErrorKind::Unreachable,
        Unreadable::TooLarge { .. } => FetchErrorKind::BadAnswer,
        why if why.is_transient() => FetchErrorKind::Unreachable,
        _ => FetchErrorKind::Forbidden,
    }
}

/// The words for an error; `None` where the usual ones hold.
fn explain(kind: FetchErrorKind) -> Option<Explanation> {
    let (sentence, remedy) = match kind {
        FetchErrorKind::Unreachable => (
            "the token's file is not there, or could not be read just now",
            "see that something writes the file, and that `path` of the source is right; it is tried again by itself",
        ),
        FetchErrorKind::Forbidden => (
            "the token's file cannot be read",
            "let it be a regular file that the owner of its directory can read, or correct `path` of the source",
        ),
        FetchErrorKind::BadAnswer => (
            "the token's file holds no token",
            "see that whoever writes the file writes the token alone, in one line",
        ),
        FetchErrorKind::BornExpired => (
            "the token in the file has expired",
            "see that whoever writes the file renews the token; check the clock of this machine: date -u",
        ),
        _ => return None,
    };
    Some(Explanation { sentence, remedy })
}

impl Source for File {
    fn name(&self) -> &'static str {
        self.config.name.get()
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        Box::pin(self.read())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(body: &str) -> String {
        let encode = |part: &str| URL_SAFE_NO_PAD.encode(part);
        format!("{}.{}.{}", encode("{\"alg\":\"RS256\"}"), encode(body), encode("signature"))
    }

    #[test]
    fn a_jwt_tells_its_expiry_and_nothing_else_does() {
        let seconds = |token: &str| expiry(token).map(|expiry| expiry.as_secs_f64());
        assert_eq!(seconds(&jwt("{\"iss\":\"x\",\"exp\":1780000000}")), Some(1_780_000_000.0));
        assert_eq!(seconds(&jwt("{\"exp\":1780000000.5}")), Some(1_780_000_000.5));
        for other in [
            "ghs_abc".to_owned(),
            "a.b.c".to_owned(),
            "..".to_owned(),
            jwt("{}"),
            jwt("{\"exp\":\"1780000000\"}"),
            jwt("{\"exp\":-1}"),
            jwt("{\"exp\":1e300}"),
            jwt("{\"exp\":1780000000}") + ".x",
            jwt("{\"exp\":1780000000}").replacen("ey", "e", 1),
        ] {
            assert_eq!(expiry(&other), None, "{other}");
        }
    }
}
