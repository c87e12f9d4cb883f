//! Where tokens come from.
//!
//! A source knows how to ask for one token. It keeps no schedule, no cache and no back-off: those
//! are the engine's. Adding one is a file in `source/` and a line in the list below.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Explanation, FetchError, FetchErrorKind};
use crate::foreign::Launcher;
use crate::secret::Secret;
use crate::source::github_app::Apps;
use crate::source::table::{Table, TableError};
use crate::time::{Clock, Now};
use crate::token::{Term, Token};

pub mod http;
mod minted;
pub mod table;

/// What a source needs of the process that it is in.
#[derive(Clone)]
pub struct Surroundings {
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Starts the processes that read files of others.
    pub launcher: Arc<Launcher>,
    /// What the sources of each GitHub App share.
    pub apps: Arc<Apps>,
}

impl Surroundings {
    /// Those of a process that has asked for nothing yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, launcher: Launcher) -> Self {
        Self { clock, launcher: Arc::new(launcher), apps: Arc::default() }
    }
}

/// Declares every source: its module, its type, and the type that it is configured with. Each has a
/// `new`, which takes the configuration and what it needs of the [`Surroundings`]. A configuration that
/// is [`Configured`] says so.
macro_rules! sources {
    ($(
        $(#[$when:meta])*
        $module:ident::$source:ident($config:ident) needs $($need:ident),+ $(=> $from_table:ident)?;
    )*) => {
        $($(#[$when])* pub mod $module;)*

        /// The configuration of any source.
        #[derive(Debug, Clone, Serialize, Deserialize)]
        pub enum SourceConfig {
            $(
                $(#[$when])*
                #[doc = concat!("See [`", stringify!($module), "`].")]
                $source($module::$config),
            )*
        }

        impl SourceConfig {
            /// What `type` can be in a table.
            pub const TYPES: &[&str] = &[$($(<$module::$config as $from_table>::TYPE,)?)*];

            /// Reads a table of the configuration: its `type` says which source it describes.
            ///
            /// # Errors
            /// The first mistake.
            pub fn parse(mut table: Table) -> Result<Self, TableError> {
                let Some(kind) = table.text("type")? else {
                    let hint = format!("the types are {}", Self::TYPES.join(", "));
                    return Err(table.error("has no `type`").hint(hint));
                };
                $($(
                    if kind.value == <$module::$config as $from_table>::TYPE {
                        let config = <$module::$config as $from_table>::parse(&mut table)?;
                        return table.finish().map(|()| Self::$source(config));
                    }
                )?)*
                let found = format!("`{}`", kind.value.escape_debug());
                let expected = format!("one of {}", Self::TYPES.join(", "));
                Err(table.invalid("type", kind.line, expected, found))
            }

            /// What it gives, where it is [`Configured`].
            #[must_use]
            pub fn describe(&self) -> Option<String> {
                match self {
                    $($(#[$when])* Self::$source(config) => {
                        let _ = config;
                        None$(.or_else(|| Some(<$module::$config as $from_table>::describe(config))))?
                    })*
                }
            }

            /// The variable of the environment that its secret is in, if it is in one.
            #[must_use]
            pub fn secret_variable(&self) -> Option<&str> {
                match self {
                    $($(#[$when])* Self::$source(config) => {
                        let _ = config;
                        None$(.or_else(|| <$module::$config as $from_table>::secret_variable(config)))?
                    })*
                }
            }

            /// The same source for a narrower token; `None` where it cannot give that.
            #[must_use]
            pub fn narrowed(&self, scope: &Scope) -> Option<Self> {
                match self {
                    $($(#[$when])* Self::$source(config) => {
                        let _ = (config, scope);
                        None$(.or_else(|| {
                            let narrowed = <$module::$config as $from_table>::narrowed(config, scope);
                            narrowed.map(Self::$source)
                        }))?
                    })*
                }
            }

            /// The owner whose repositories its token is for, where the configuration says it.
            #[must_use]
            pub fn owner(&self) -> Option<&str> {
                match self {
                    $($(#[$when])* Self::$source(config) => {
                        let _ = config;
                        None$(.or_else(|| <$module::$config as $from_table>::owner(config)))?
                    })*
                }
            }

            /// Makes the source.
            #[must_use]
            pub fn build(self, surroundings: &Surroundings) -> Arc<dyn Source> {
                match self {
                    $($(#[$when])* Self::$source(config) => Arc::new($module::$source::new(
                        config,
                        $(Arc::clone(&surroundings.$need)),+
                    )),)*
                }
            }
        }
    };
}

sources! {
    platform::Platform(PlatformConfig) needs clock, launcher;
    github_app::GithubApp(GithubAppConfig) needs clock, launcher, apps => Configured;
    env::Env(EnvConfig) needs clock;
    file::File(FileConfig) needs clock, launcher => Configured;
    unbound::Unbound(UnboundConfig) needs clock;
    #[cfg(feature = "testing")]
    made_up::MadeUp(MadeUpConfig) needs clock;
}

/// What a narrower token is for: an owner's repositories, or one of them. Names are in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// An organisation or a user.
    pub owner: String,
    /// The name of a repository.
    pub repository: Option<String>,
}

impl Scope {
    /// All that an owner has; `None` for a name that no owner can have (GitHub: letters, digits and single
    /// hyphens inside, 39 at most; users of an enterprise have an underscore).
    #[must_use]
    pub fn of_owner(owner: &str) -> Option<Self> {
        Self::is_owner(owner).then(|| Self { owner: owner.to_ascii_lowercase(), repository: None })
    }

    /// One repository; `None` for names that are not possible. A trailing `.git` is dropped.
    #[must_use]
    pub fn of_repository(owner: &str, name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let name = name.strip_suffix(".git").unwrap_or(&name);
        let scope = Self::of_owner(owner).filter(|_| Self::is_repository(name))?;
        Some(Self { repository: Some(name.to_owned()), ..scope })
    }

    /// Whether a name can be an owner's.
    #[must_use]
    pub fn is_owner(name: &str) -> bool {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        (1..=39).contains(&name.len())
            && name.chars().all(is_part)
            && !name.starts_with('-')
            && !name.ends_with('-')
            && !name.contains("--")
    }

    /// Whether a name can be a repository's, without its owner.
    #[must_use]
    pub fn is_repository(name: &str) -> bool {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        (1..=100).contains(&name.len()) && name.chars().all(is_part) && !matches!(name, "." | "..")
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.repository {
            Some(repository) => write!(f, "{}/{repository}", self.owner),
            None => f.write_str(&self.owner),
        }
    }
}

/// A source that a table of the configuration describes: `[sources.NAME]`.
pub trait Configured: Sized {
    /// The `type` of the table.
    const TYPE: &'static str;

    /// Reads the table, but for its `type`.
    ///
    /// # Errors
    /// The first mistake.
    fn parse(table: &mut Table) -> Result<Self, TableError>;

    /// What it gives, for `check`: without a secret.
    fn describe(&self) -> String;

    /// The variable of the environment that its secret is in, if it is in one. It is kept from the processes
    /// that the daemon starts.
    fn secret_variable(&self) -> Option<&str> {
        None
    }

    /// The same source for a narrower token, never for more than it gives itself; `None` where it cannot
    /// give that.
    fn narrowed(&self, _scope: &Scope) -> Option<Self> {
        None
    }

    /// The owner whose repositories its token is for, where the table says it.
    fn owner(&self) -> Option<&str> {
        None
    }
}

/// The name of a source. Names come from the configuration, which a process reads once, so they may
/// live as long as the process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct SourceName(&'static str);

impl SourceName {
    /// This name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.to_owned().leak())
    }

    /// The text.
    #[must_use]
    pub fn get(self) -> &'static str {
        self.0
    }
}

impl<'de> Deserialize<'de> for SourceName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|name| Self::new(&name))
    }
}

/// A boxed future, so that a source can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The most sources that a token comes from: the back-off of each is kept for the next worker.
pub const MAX_SOURCES: usize = 8;

/// A token as a source gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The token.
    pub secret: Secret,
    /// When the request was sent (for a token that was there before us: since when it counts). With
    /// an assumed life the source decides it anew each time, also for the same token.
    pub issued: Now,
    /// What the issuer says of its life. How long that is, the engine judges.
    pub term: Term,
}

/// Something that gives tokens.
pub trait Source: Send + Sync + 'static {
    /// A short fixed name: `platform`, `env`.
    fn name(&self) -> &'static str;

    /// The longest life that the issuer ever gives a token, where that is known. What lies above it
    /// is the difference of two clocks, not life.
    fn max_life(&self) -> Option<Duration> {
        None
    }

    /// Whether a token that a consumer rejected can be followed by another one. Where not, a
    /// rejection is final.
    fn can_replace_rejected(&self) -> bool {
        true
    }

    /// Whether a token that was just minted can be unknown, for some seconds, to some of the servers that
    /// it is for. A first refusal then says nothing yet, and the token is offered once more before another
    /// is minted.
    fn is_known_late(&self) -> bool {
        false
    }

    /// Whether its only token is an installation token from before the start, which nobody renews. Once
    /// an earlier source of the chain gave a token, this one is older than that, and is not served any
    /// more.
    fn is_stopgap(&self) -> bool {
        false
    }

    /// What an error of this kind means here, and what to do; `None` where the general words hold. The
    /// engine asks for it where it judges an answer itself.
    fn explain(&self, _kind: FetchErrorKind) -> Option<Explanation> {
        None
    }

    /// How far the clock of whoever answers was ahead of this machine's wall clock at the last
    /// answer, in seconds, to a second or two; negative where it was behind. It explains to people
    /// what the engine makes of the clocks.
    fn clock_ahead(&self) -> Option<i64> {
        None
    }

    /// Asks for a token. Dropping the future gives the request up.
    ///
    /// # Errors
    /// [`FetchError`] says why there is none; it never holds a token.
    fn fetch(&self) -> BoxFuture<'_, Result<Fetched, FetchError>>;

    /// A process that served before this one left a token of this source, which is served on.
    fn resumed(&self, _token: &Token) {}

    /// A reader waits for the token that is being fetched: where fetches have turns, it goes before those
    /// that nobody waits for.
    fn hurry(&self) {}

    /// Completes when something changed that makes a new attempt worth it at once, for example the
    /// bearer file. Never completes by default.
    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(pending())
    }
}
