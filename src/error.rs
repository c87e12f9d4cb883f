//! Everything that can go wrong between a reader and its token, and the one table that says it.
//!
//! [`FetchErrorKind::explain`] and [`ReadErrorKind::explain`] turn an error into an errno, a
//! sentence and a remedy. `status`, `doctor`, logs and helpers all speak from them. No text here
//! ever holds a token, a bearer or a response body.

use std::fmt;
use std::time::Duration;

use nix::errno::Errno;

/// Why a source gave no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FetchErrorKind {
    /// The source has nothing to give, and nobody configured it to: for example no token in the
    /// environment. Not a failure of anything.
    NotConfigured,
    /// The file with the platform's bearer is missing or empty: the workspace has not registered
    /// yet. Heals by itself seconds after boot.
    NotRegistered,
    /// The bearer file is there but cannot be used (permissions, contents).
    BearerUnusable,
    /// The bearer file could not be read just now: its file system does not answer, or no process
    /// could be started to read it.
    BearerNotRead,
    /// The name does not resolve, the connection is refused, reset or cut.
    Unreachable,
    /// The source did not answer in time.
    TimedOut,
    /// The answer was a 5xx.
    ServerError,
    /// The answer was a 429, or a 403 that names a rate limit.
    RateLimited,
    /// 401: the credential that we present is wrong.
    Unauthorized,
    /// 403 without a rate limit.
    Forbidden,
    /// 404: the platform has no GitHub App configured, or does not know the workspace.
    NotFound,
    /// The answer cannot be understood: HTML, cut JSON, no token, a token with a newline, too large,
    /// an unexpected status.
    BadAnswer,
    /// The source redirected us to another origin; the bearer does not go there.
    Redirected,
    /// The token was dead, or as good as dead, when it came.
    BornExpired,
    /// The token is alive by the platform's clock, and dead by this machine's or by what earlier
    /// tokens prove: one of the clocks is wrong.
    ClocksDisagree,
    /// The source keeps giving a token that a consumer said was refused.
    Rejected,
    /// The App's private key cannot be used: it is missing, others can read it, or it is no RSA key.
    KeyUnusable,
    /// The App is not installed for the owner or repository, or the installation is not the App's.
    NotInstalled,
    /// The owner suspended the App's installation.
    Suspended,
    /// A repository or a permission was asked for that the installation does not grant.
    NotGranted,
    /// https was asked for, and there is no CA certificate on this machine to check it with.
    NoCertificates,
    /// The code of the source failed; the engine goes on.
    Panicked,
}

/// An error's entry in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explanation {
    /// What failed and why, as the start of a sentence, without a full stop.
    pub sentence: &'static str,
    /// What to do now.
    pub remedy: &'static str,
}

impl FetchErrorKind {
    /// Every kind, for tests and docs.
    pub const ALL: [Self; 22] = [
        Self::NotConfigured,
        Self::NotRegistered,
        Self::BearerUnusable,
        Self::BearerNotRead,
        Self::Unreachable,
        Self::TimedOut,
        Self::ServerError,
        Self::RateLimited,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::BadAnswer,
        Self::Redirected,
        Self::BornExpired,
        Self::ClocksDisagree,
        Self::Rejected,
        Self::KeyUnusable,
        Self::NotInstalled,
        Self::Suspended,
        Self::NotGranted,
        Self::NoCertificates,
        Self::Panicked,
    ];

    /// A short stable name, for logs, metrics and `status --json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotConfigured => "not_configured",
            Self::NotRegistered => "not_registered",
            Self::BearerUnusable => "bearer_unusable",
            Self::BearerNotRead => "bearer_not_read",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::ServerError => "server_error",
            Self::RateLimited => "rate_limited",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::BadAnswer => "bad_answer",
            Self::Redirected => "redirected",
            Self::BornExpired => "born_expired",
            Self::ClocksDisagree => "clocks_disagree",
            Self::Rejected => "rejected",
            Self::KeyUnusable => "key_unusable",
            Self::NotInstalled => "not_installed",
            Self::Suspended => "suspended",
            Self::NotGranted => "not_granted",
            Self::NoCertificates => "no_certificates",
            Self::Panicked => "panicked",
        }
    }

    /// Whether it heals without a human. Permanent ones are retried slowly and told to readers at
    /// once.
    #[must_use]
    pub fn is_transient(self) -> bool {
        match self {
            Self::NotRegistered
            | Self::BearerNotRead
            | Self::Unreachable
            | Self::TimedOut
            | Self::ServerError
            | Self::RateLimited
            | Self::BadAnswer
            | Self::BornExpired
            | Self::ClocksDisagree
            | Self::Rejected
            | Self::Panicked => true,
            Self::NotConfigured
            | Self::BearerUnusable
            | Self::Unauthorized
            | Self::Forbidden
            | Self::NotFound
            | Self::Redirected
            | Self::KeyUnusable
            | Self::NotInstalled
            | Self::Suspended
            | Self::NotGranted
            | Self::NoCertificates => false,
        }
    }

    /// Whether the source *refuses* us: what makes an open fail with `EKEYREJECTED`.
    #[must_use]
    pub fn is_refusal(self) -> bool {
        match self {
            Self::BearerUnusable
            | Self::Unauthorized
            | Self::Forbidden
            | Self::NotFound
            | Self::Redirected
            | Self::Rejected
            | Self::KeyUnusable
            | Self::NotInstalled
            | Self::Suspended
            | Self::NotGranted
            | Self::NoCertificates => true,
            Self::NotConfigured
            | Self::NotRegistered
            | Self::BearerNotRead
            | Self::Unreachable
            | Self::TimedOut
            | Self::ServerError
            | Self::RateLimited
            | Self::BadAnswer
            | Self::BornExpired
            | Self::ClocksDisagree
            | Self::Panicked => false,
        }
    }

    /// What to say about it and what to do.
    #[must_use]
    pub fn explain(self) -> Explanation {
        let (sentence, remedy) = match self {
            Self::NotConfigured => (
                "no token is configured here",
                "set PLATFORM_URL and CONFIGS_DIR for the platform, or GITHUB_TOKEN for the first hour",
            ),
            Self::NotRegistered => (
                "the bearer file is missing or empty: the workspace has not registered with the platform yet",
                "nothing, if the workspace just booted; else check that CONFIGS_DIR is right and that the workspace registered",
            ),
            Self::BearerUnusable => (
                "the bearer file cannot be used",
                "make it a file of one line in CONFIGS_DIR, which the owner of that directory can read (mode 0600)",
            ),
            Self::BearerNotRead => (
                "the bearer file could not be read just now",
                "look at the file system of CONFIGS_DIR: ls -l \"$CONFIGS_DIR\"; it is tried again by itself",
            ),
            Self::Unreachable => (
                "the source cannot be reached",
                "check PLATFORM_URL and the network from here: curl -sS \"$PLATFORM_URL\"",
            ),
            Self::TimedOut => (
                "the source did not answer in time",
                "check that the platform is healthy; it is tried again by itself",
            ),
            Self::ServerError => (
                "the platform failed to mint a token",
                "look at the platform's log; it is tried again by itself",
            ),
            Self::RateLimited => {
                ("the source limits our rate", "wait: it is tried again when the source allows it")
            }
            Self::Unauthorized => (
                "the source says that our bearer is wrong",
                "register the workspace anew, so that the bearer file is written again; the file is watched",
            ),
            Self::Forbidden => (
                "the source forbids this workspace a token",
                "check WORKSPACE_ID and the workspace's permissions on the platform",
            ),
            Self::NotFound => (
                "the platform has no GitHub App configured, or does not know this workspace",
                "configure the GitHub App on the platform and check WORKSPACE_ID; or set GITHUB_TOKEN to a token of your own",
            ),
            Self::BadAnswer => (
                "the source's answer is not a token",
                "check that PLATFORM_URL points at the platform itself and not at a proxy or login page",
            ),
            Self::Redirected => (
                "the source redirects to another origin, where the bearer must not go",
                "set PLATFORM_URL to the address that it redirects to, if that is the platform",
            ),
            Self::BornExpired => (
                "the source gave a token that had already expired",
                "check the platform's clock and its token cache",
            ),
            Self::ClocksDisagree => (
                "the platform's clock and this machine's disagree, and by one of them the token has expired",
                "compare `date -u` here and on the platform's machine, and set the wrong clock",
            ),
            Self::Rejected => (
                "the source keeps giving a token that was refused",
                "check that the GitHub App is still installed and not suspended",
            ),
            Self::KeyUnusable => (
                "the App's private key cannot be used",
                "download a new key on the App's page, and write it to a file of mode 0600 that belongs to the daemon's user",
            ),
            Self::NotInstalled => (
                "the GitHub App is not installed there",
                "install it for this owner or repository on the App's page, or correct the source's `owner`, `repository` or `installation-id`",
            ),
            Self::Suspended => (
                "the owner has suspended the GitHub App",
                "ask the owner to lift the suspension: Settings, GitHub Apps, Configure",
            ),
            Self::NotGranted => (
                "the installation does not grant what is asked for",
                "correct `repositories` and `permissions` of the source, or let the owner accept the App's new permissions",
            ),
            Self::NoCertificates => (
                "there are no CA certificates here to check https with",
                "install them (apt-get install ca-certificates), or name a file of them with --ca-file; http:// is for trusted networks only",
            ),
            Self::Panicked => (
                "the code that fetches tokens failed",
                "report this with the daemon's log; it is tried again by itself",
            ),
        };
        Explanation { sentence, remedy }
    }
}

/// Why a source gave no token, with the particulars.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct FetchError {
    /// The name of the source, for example `platform`.
    pub source_name: &'static str,
    /// The kind, which decides what happens next.
    pub kind: FetchErrorKind,
    /// What exactly, in words: a status, a path, the system's error. Never a body, a token, a bearer
    /// or the user part of a URL. May be empty.
    pub detail: String,
    /// The source asked not to be tried again before this long (`Retry-After`, rate-limit reset).
    pub retry_after: Option<Duration>,
    /// What this source says of the kind in place of the table's general words: which names of settings
    /// and of things a remedy needs depends on the source.
    pub explanation: Option<Explanation>,
}

impl FetchError {
    /// An error with its particulars.
    pub fn new(source_name: &'static str, kind: FetchErrorKind, detail: impl Into<String>) -> Self {
        Self { source_name, kind, detail: detail.into(), retry_after: None, explanation: None }
    }

    /// The same error, explained in the words of its source.
    #[must_use]
    pub fn explained(mut self, explanation: Option<Explanation>) -> Self {
        self.explanation = explanation;
        self
    }

    /// What to say about it and what to do.
    #[must_use]
    pub fn explain(&self) -> Explanation {
        self.explanation.unwrap_or_else(|| self.kind.explain())
    }

    /// The same error, with the source's wish when to come back.
    #[must_use]
    pub fn retry_after(mut self, after: Option<Duration>) -> Self {
        self.retry_after = after;
        self
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source_name, self.explain().sentence)?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        Ok(())
    }
}

/// Why an open was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadErrorKind {
    /// No source is configured, or none has ever given a token and all fail.
    NoToken,
    /// There was a token, it ran out, and the sources fail.
    Expired,
    /// A source refuses us, and no other gives a token.
    Rejected,
    /// The open deadline passed while a fetch was under way.
    TimedOut,
    /// More opens wait for a token than there is room for.
    TooMany,
    /// The process that serves the files cannot be started, or dies of this very request.
    Unserved,
    /// Mode bits or the access policy.
    Denied,
    /// Something that would write.
    ReadOnly,
}

impl ReadErrorKind {
    /// Every kind, for status, metrics and tests.
    pub const ALL: [Self; 8] = [
        Self::NoToken,
        Self::Expired,
        Self::Rejected,
        Self::TimedOut,
        Self::TooMany,
        Self::Unserved,
        Self::Denied,
        Self::ReadOnly,
    ];

    /// The errno that a reader sees (`errno(3)`).
    #[must_use]
    pub fn errno(self) -> Errno {
        match self {
            Self::NoToken => Errno::ENOKEY,
            Self::Expired => Errno::EKEYEXPIRED,
            Self::Rejected => Errno::EKEYREJECTED,
            Self::TimedOut => Errno::ETIMEDOUT,
            Self::TooMany => Errno::EAGAIN,
            Self::Unserved => Errno::EIO,
            Self::Denied => Errno::EACCES,
            Self::ReadOnly => Errno::EROFS,
        }
    }

    /// The errno's name, for status and metrics.
    #[must_use]
    pub fn errno_name(self) -> &'static str {
        match self {
            Self::NoToken => "ENOKEY",
            Self::Expired => "EKEYEXPIRED",
            Self::Rejected => "EKEYREJECTED",
            Self::TimedOut => "ETIMEDOUT",
            Self::TooMany => "EAGAIN",
            Self::Unserved => "EIO",
            Self::Denied => "EACCES",
            Self::ReadOnly => "EROFS",
        }
    }

    /// What to say about it and what to do.
    #[must_use]
    pub fn explain(self) -> Explanation {
        let (sentence, remedy) = match self {
            Self::NoToken => (
                "no source has given a token yet",
                "see what each source says: molecule-tokenfs status",
            ),
            Self::Expired => (
                "the last token ran out and no source gives a new one",
                "see what each source says: molecule-tokenfs status",
            ),
            Self::Rejected => (
                "the source refuses to give a token",
                "see why, and how to fix it: molecule-tokenfs status",
            ),
            Self::TimedOut => (
                "no token came before the open's deadline",
                "try again; if it stays so, see what the source does: molecule-tokenfs status",
            ),
            Self::TooMany => (
                "thousands of opens already wait for a token",
                "see why none comes: molecule-tokenfs status; and which program opens without end",
            ),
            Self::Unserved => (
                "the process that serves the tokens cannot be started, or dies of this request",
                "see why in the daemon's log; it is tried again by itself",
            ),
            Self::Denied => (
                "this user may not read the token",
                "read it as its owner, or mount with --owner or --mode for this user",
            ),
            Self::ReadOnly => (
                "tokens cannot be written",
                "write only to the file `refresh`: it asks for a new token",
            ),
        };
        Explanation { sentence, remedy }
    }
}

/// Why an open was refused, with the failure behind it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ReadError {
    /// The kind, which decides the errno.
    pub kind: ReadErrorKind,
    /// The fetch that failed, where one did.
    pub cause: Option<FetchError>,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.explain().sentence)?;
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_error_says_what_and_what_to_do() {
        let mut names = HashSet::new();
        for kind in FetchErrorKind::ALL {
            let Explanation { sentence, remedy } = kind.explain();
            assert!(names.insert(kind.name()), "{kind:?}");
            assert!(
                !sentence.is_empty() && !sentence.ends_with('.') && !remedy.is_empty(),
                "{kind:?}"
            );
            assert!(
                !(kind.is_transient() && kind.is_refusal()) || kind == FetchErrorKind::Rejected
            );
        }
        let mut errnos = HashSet::new();
        for kind in ReadErrorKind::ALL {
            assert!(errnos.insert(kind.errno() as i32), "{kind:?}");
            assert_eq!(format!("{:?}", kind.errno()), kind.errno_name());
        }
    }
}
