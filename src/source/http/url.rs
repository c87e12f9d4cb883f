//! The URLs of servers: which are taken, and how they are shown. There may be a password in them.

use reqwest::Url;

/// Why a text is not the URL of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It does not have the form of a URL.
    #[error("it is not a URL: {0}")]
    Invalid(String),
    /// It has, but of another kind.
    #[error("it must begin with http:// or https://")]
    Scheme,
}

/// Reads the URL of a server.
///
/// # Errors
/// [`UrlError`], which never repeats the text: there may be a password in it.
pub fn parse_url(text: &str) -> Result<Url, UrlError> {
    let url = Url::parse(text).map_err(|error| UrlError::Invalid(error.to_string()))?;
    if matches!(url.scheme(), "http" | "https") { Ok(url) } else { Err(UrlError::Scheme) }
}

/// The address of what stands below the URL of a server. Its user part is dropped: the bearer is the only
/// credential.
///
/// # Errors
/// As [`parse_url`].
pub fn below(base: &str, path: &[&str]) -> Result<Url, UrlError> {
    let mut url = plain(parse_url(base)?);
    // It fails for neither http nor https.
    url.path_segments_mut().map_err(|()| UrlError::Scheme)?.pop_if_empty().extend(path);
    Ok(url)
}

/// The URL without user, password, query and fragment: nothing that could be a secret, or turn into
/// another credential than the bearer.
pub(super) fn plain(mut url: Url) -> Url {
    // Both fail only for URLs without a host, which have no user either.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url
}

/// A configured URL as it may be shown: `http://…@proxy:3128` for `http://me:secret@proxy:3128`.
/// Also for a text that is not a URL.
#[must_use]
pub fn without_userinfo(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let separator = if scheme.is_empty() { "" } else { "://" };
    // At the last @, wherever it stands: what follows a stray / or # may still be the password.
    let (mask, rest) = rest.rsplit_once('@').map_or(("", rest), |(_, host)| ("…@", host));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    format!("{scheme}{separator}{mask}{rest}")
}

pub(super) fn shown(url: &Url) -> String {
    plain(url.clone()).into()
}

/// Scheme, host and port: whom a credential is meant for (RFC 6454 §4).
pub(super) fn origin(url: &Url) -> String {
    if url.has_host() {
        url.origin().ascii_serialization()
    } else {
        format!("{}:…", url.scheme())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_part_is_ever_shown() {
        for (text, shown) in [
            ("http://host:80/path", "http://host:80/path"),
            ("http://me:pw@host/path?secret#secret", "http://…@host/path"),
            ("http://pw@pw@host", "http://…@host"),
            ("http://me:p#w/?@host/?q", "http://…@host/"),
            ("me:pw@host:3128", "…@host:3128"),
            ("not a URL", "not a URL"),
        ] {
            assert_eq!(without_userinfo(text), shown);
        }
        assert!(!parse_url("http://me:pw@[host").unwrap_err().to_string().contains("pw"));
        assert_eq!(parse_url("ftp://host"), Err(UrlError::Scheme));
    }
}
