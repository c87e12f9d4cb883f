//! What the values of settings mean.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;
use nix::unistd::{Group, User};

use crate::config::written::{Invalid, Origin, Raw};
use crate::observe::LogLevel;
use crate::source::{http, platform};
use crate::status::Layout;
use crate::view;

/// The longest span that is taken: deadlines are sums of spans and boot times, and no token is
/// anywhere near a year.
const LONGEST: Duration = Duration::from_hours(366 * 24);

fn text(raw: &Raw) -> Result<&str, Invalid> {
    raw.text.to_str().ok_or_else(|| Invalid::expected("text in UTF-8"))
}

/// A span, `45m` or `1h30m`; a variable whose name ends in `_SEC` holds whole seconds instead.
///
/// # Errors
/// What is no span, negative, or longer than a year.
pub fn span(raw: &Raw) -> Result<Duration, Invalid> {
    let text = text(raw)?;
    if !matches!(raw.origin, Origin::Variable(key) if key.variable_in_seconds()) {
        return spelt_span(text).ok_or_else(|| Invalid::expected(SPAN));
    }
    let seconds = text.parse().ok().map(Duration::from_secs);
    seconds
        .filter(|&span| span <= LONGEST)
        .ok_or_else(|| Invalid::expected("a whole number of seconds, at most a year"))
}

/// The span of an argument that is no setting.
///
/// # Errors
/// What was expected.
pub fn span_argument(text: &str) -> Result<Duration, String> {
    spelt_span(text).ok_or_else(|| format!("expected {SPAN}"))
}

const SPAN: &str = "a span of time such as 90s, 45m or 1h30m, at most a year";

fn spelt_span(text: &str) -> Option<Duration> {
    let span = Duration::try_from(text.parse::<SignedDuration>().ok()?).ok()?;
    (span <= LONGEST).then_some(span)
}

/// A span of at least a millisecond: of a deadline of nothing nothing could come.
///
/// # Errors
/// As [`span`].
pub fn positive_span(raw: &Raw) -> Result<Duration, Invalid> {
    let span = span(raw)?;
    if span < Duration::from_millis(1) {
        return Err(Invalid::expected("a span of time longer than nothing"));
    }
    Ok(span)
}

/// What to mount.
///
/// # Errors
/// What is no layout.
pub fn layout(raw: &Raw) -> Result<Layout, Invalid> {
    let text = text(raw)?;
    [Layout::Directory, Layout::File]
        .into_iter()
        .find(|layout| layout.name() == text)
        .ok_or_else(|| Invalid::expected("directory or file"))
}

/// The number of a view, by its path.
///
/// # Errors
/// What is no view.
pub fn view(raw: &Raw) -> Result<u8, Invalid> {
    view::by_path(text(raw)?).map(view::View::id).ok_or_else(|| {
        let views: Vec<_> = view::ALL.iter().map(|view| view.path()).collect();
        Invalid::expected(format!("one of {}", views.join(", ")))
    })
}

/// How the tokens are served, as far as people choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendChoice {
    /// By FUSE; as files where FUSE cannot be had.
    Auto,
    /// By FUSE, or not at all.
    Fuse,
    /// As files that are replaced.
    Files,
}

impl fmt::Display for BackendChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Fuse => "fuse",
            Self::Files => "files",
        })
    }
}

/// A backend, or `auto`.
///
/// # Errors
/// Anything else.
pub fn backend(raw: &Raw) -> Result<BackendChoice, Invalid> {
    match text(raw)? {
        "auto" => Ok(BackendChoice::Auto),
        "fuse" => Ok(BackendChoice::Fuse),
        "files" => Ok(BackendChoice::Files),
        _ => Err(Invalid::expected("auto, fuse or files")),
    }
}

/// `true` or `false`, in the spellings that environments use.
///
/// # Errors
/// Anything else.
pub fn boolean(raw: &Raw) -> Result<bool, Invalid> {
    match text(raw)?.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(Invalid::expected("true or false")),
    }
}

/// Permission bits of the views: readable for the owner, and for nothing else than reading.
///
/// # Errors
/// What is not octal; bits for writing and executing; views that their owner cannot read.
pub fn mode(raw: &Raw) -> Result<u16, Invalid> {
    octal(raw)?.filter(|mode| mode & !0o444 == 0 && mode & 0o400 != 0).ok_or_else(|| {
        Invalid::expected(
            "an octal mode that lets its owner read and nobody write: 0400, 0440 or 0444",
        )
    })
}

/// Permission bits of `refresh`: writable for the owner, and nothing for others than the group.
///
/// # Errors
/// What is not octal; bits for executing and for others; a file that its owner cannot write.
pub fn refresh_mode(raw: &Raw) -> Result<u16, Invalid> {
    octal(raw)?.filter(|mode| mode & !0o660 == 0 && mode & 0o200 != 0).ok_or_else(|| {
        Invalid::expected(
            "an octal mode that lets its owner write and others do nothing: 0600, 0620 or 0660",
        )
    })
}

/// Three or four octal digits; `None` for anything else.
fn octal(raw: &Raw) -> Result<Option<u16>, Invalid> {
    let digits = text(raw)?;
    let is_octal = (3..=4).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    Ok(u16::from_str_radix(digits, 8).ok().filter(|_| is_octal))
}

/// `host` or `host:port`, in lower case.
///
/// # Errors
/// A URL, a path, a user, a port that is none, or characters that no host name has.
pub fn host(raw: &Raw) -> Result<String, Invalid> {
    let text = text(raw)?.to_ascii_lowercase();
    let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            (address, rest.strip_prefix(':').or(rest.is_empty().then_some("")))
        }
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port).filter(|port| !port.is_empty())),
            None => (text.as_str(), Some("")),
        },
    };
    let name_is_good = if text.starts_with('[') {
        name.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        is_host_name(name)
    };
    let port_is_good = port.is_some_and(|port| {
        port.is_empty() || (!port.starts_with(['+', '0']) && port.parse::<u16>().is_ok())
    });
    if name_is_good && port_is_good {
        return Ok(text);
    }
    // A URL may hold a user and a password.
    let expected = "a host name, with a port where it has one: github.com or git.example:8443";
    Err(if text.contains('@') { Invalid::hidden(expected) } else { Invalid::expected(expected) })
}

/// RFC 1123 §2.1: labels of letters, digits and hyphens, up to 63 characters each and 253 together.
fn is_host_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// The URL of a server, without a trailing slash. There may be a user and a password in it, which
/// neither `Debug` nor `Display` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl(String);

impl ServerUrl {
    /// The whole URL.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let url = http::parse_url(text).ok()?;
        let is_bare = url.query().is_none() && url.fragment().is_none();
        is_bare.then(|| Self(url.as_str().trim_end_matches('/').to_owned()))
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&http::without_userinfo(&self.0))
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The URL of the platform, to which paths are added, or of a proxy.
///
/// # Errors
/// What is no absolute http or https URL, and one with a query or a fragment.
pub fn server_url(raw: &Raw) -> Result<ServerUrl, Invalid> {
    let expected = "an http:// or https:// URL without query";
    let text = text(raw)?;
    // Where there is an @, there may be a password before it; and a query may be anything.
    let may_be_secret = text.contains(['@', '?', '#']);
    ServerUrl::parse(text).ok_or_else(|| {
        if may_be_secret { Invalid::hidden(expected) } else { Invalid::expected(expected) }
    })
}

/// The id of a workspace: it becomes one segment of a path.
///
/// # Errors
/// Characters other than those that RFC 3986 §2.3 calls unreserved, `.` and `..`.
pub fn workspace_id(raw: &Raw) -> Result<String, Invalid> {
    let id = text(raw)?;
    if !platform::is_workspace_id(id) {
        return Err(Invalid::expected("letters, digits, and any of - . _ ~"));
    }
    Ok(id.to_owned())
}

/// A path; a relative one counts from the working directory at the start.
///
/// # Errors
/// An empty one.
pub fn path(raw: &Raw) -> Result<PathBuf, Invalid> {
    std::path::absolute(&raw.text).map_err(|_| Invalid::expected("a path"))
}

/// What to log.
///
/// # Errors
/// What is neither a level nor directives.
pub fn log_level(raw: &Raw) -> Result<LogLevel, Invalid> {
    text(raw)?.parse().map_err(|()| {
        let levels = crate::observe::LEVELS.join(", ");
        Invalid::expected(format!("{levels}, or directives such as info,fuser=debug"))
    })
}

/// A user id.
///
/// # Errors
/// A name that the machine does not know, or a number that is no id.
pub fn user(raw: &Raw) -> Result<u32, Invalid> {
    id(raw, "a user of this machine, by name or number", |name| {
        User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
    })
}

/// A group id.
///
/// # Errors
/// A name that the machine does not know, or a number that is no id.
pub fn group(raw: &Raw) -> Result<u32, Invalid> {
    id(raw, "a group of this machine, by name or number", |name| {
        Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
    })
}

fn id(raw: &Raw, expected: &str, by_name: impl Fn(&str) -> Option<u32>) -> Result<u32, Invalid> {
    let text = text(raw)?;
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let id = if digits { text.parse().ok() } else { by_name(text) };
    // chown(2) takes the largest number for "leave it".
    id.filter(|&id| id != u32::MAX).ok_or_else(|| Invalid::expected(expected))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Key;

    fn flag(text: &str) -> Raw {
        Raw { text: text.into(), origin: Origin::Flag(Key::MinLife) }
    }

    #[test]
    fn a_span_has_a_unit_except_in_variables_that_name_it() {
        for (text, seconds) in
            [("45m", 2700), ("90s", 90), ("1h30m", 5400), ("1h 30m", 5400), ("0s", 0)]
        {
            assert_eq!(span(&flag(text)), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(span(&flag("250ms")), Ok(Duration::from_millis(250)));
        for bad in ["", "45", "-5s", "forever", "9000h", "1d", "5 parsecs"] {
            assert!(span(&flag(bad)).is_err(), "{bad}");
        }
        let seconds = |text: &str| {
            let origin = Origin::Variable(Key::RefreshInterval);
            span(&Raw { text: text.into(), origin })
        };
        assert_eq!(seconds("2700"), Ok(Duration::from_mins(45)));
        assert!(seconds("45m").unwrap_err().expected.contains("seconds"));
        assert!(
            seconds("-1").is_err() && seconds("1e9").is_err() && seconds("99999999999").is_err()
        );
        assert!(positive_span(&flag("0s")).is_err());
    }

    #[test]
    fn a_mode_lets_the_owner_read_and_nobody_write() {
        for (text, bits) in [("0400", 0o400), ("400", 0o400), ("0440", 0o440), ("0444", 0o444)] {
            assert_eq!(mode(&flag(text)), Ok(bits), "{text}");
        }
        for bad in ["0600", "0444x", "0500", "0044", "04000", "256", "0", "+400", "-400", "0o400"] {
            assert!(mode(&flag(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mode_of_refresh_lets_the_owner_write_and_others_do_nothing() {
        for (text, bits) in
            [("0600", 0o600), ("0200", 0o200), ("620", 0o620), ("0660", 0o660), ("0640", 0o640)]
        {
            assert_eq!(refresh_mode(&flag(text)), Ok(bits), "{text}");
        }
        for bad in ["0400", "0060", "0700", "0610", "0602", "0666", "04600", "6600", "rw", ""] {
            assert!(refresh_mode(&flag(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_is_a_name_and_a_port_and_nothing_else() {
        for (text, value) in [
            ("GitHub.com", "github.com"),
            ("git.example:8443", "git.example:8443"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:8080", "[::1]:8080"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(host(&flag(text)).unwrap(), value);
        }
        for bad in [
            "",
            "https://github.com",
            "github.com/x",
            "a b",
            "a..b",
            "-a",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "[::1",
            "[::1]x",
            "[a]",
            "a\nmachine b",
            "github.com.",
            "*.example",
        ] {
            assert!(host(&flag(bad)).is_err(), "{bad}");
        }
        assert!(!host(&flag("https://u:p@github.com")).unwrap_err().show);
    }

    #[test]
    fn a_url_shows_neither_user_nor_password() {
        let url = server_url(&flag("http://user:canary@host:8080/base/")).unwrap();
        assert_eq!(url.expose(), "http://user:canary@host:8080/base");
        assert_eq!(format!("{url} {url:?}"), "http://…@host:8080/base http://…@host:8080/base");
        assert_eq!(server_url(&flag("https://host")).unwrap().expose(), "https://host");
        for bad in ["host:8080", "ftp://host", "http://", "http://h/?q", "http://h/#f", "/x"] {
            assert!(server_url(&flag(bad)).is_err(), "{bad}");
        }
        assert!(!server_url(&flag("user:canary@host")).unwrap_err().show);
    }

    #[test]
    fn a_workspace_id_is_one_segment_of_a_path() {
        assert!(workspace_id(&flag("2f6d0c1e-ws_1.a~b")).is_ok());
        for bad in ["", ".", "..", "a/b", "a?b", "a b", "é", "%2e"] {
            assert!(workspace_id(&flag(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn users_and_groups_are_names_or_numbers() {
        assert_eq!(user(&flag("root")), Ok(0));
        assert_eq!(user(&flag("4242")), Ok(4242));
        assert_eq!(group(&flag("root")), Ok(0));
        for bad in ["", "no-such-user-here", "4294967295", "99999999999", "-1"] {
            assert!(user(&flag(bad)).is_err() && group(&flag(bad)).is_err(), "{bad}");
        }
    }
}
