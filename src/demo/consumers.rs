//! Static files behind the token check, for programs that bring their own client: a package index,
//! a Kubernetes API, a metrics page, a token exchange.
//!
//! `/consumers/NAME/PATH` is the file `NAME/PATH` of the site's folder, or `{"ok":true}` where there
//! is none, for whoever presents a live token in one of the usual ways; 401 for anybody else. What
//! was presented is counted in the ledger under `NAME`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Request, Response, StatusCode};
use serde_json::json;

use crate::demo::ledger::{Ledger, Verdict};
use crate::demo::reply::{Body, json_body, plain, respond};
use crate::demo::rest;
use crate::secret::Fingerprint;

/// Where these paths begin.
pub(super) const PREFIX: &str = "/consumers/";

/// The longest form that is read.
const MAX_FORM_BYTES: usize = 256 * 1024;

/// Which tokens each consumer presented, and where its files are.
#[derive(Debug, Default)]
pub struct Consumers {
    site: Option<PathBuf>,
    seen: Mutex<BTreeMap<String, BTreeSet<Fingerprint>>>,
}

impl Consumers {
    pub(super) fn new(site: Option<PathBuf>) -> Self {
        Self { site, seen: Mutex::default() }
    }

    /// How many different live tokens a consumer has presented.
    #[must_use]
    pub fn tokens(&self, name: &str) -> usize {
        self.seen().get(name).map_or(0, BTreeSet::len)
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<Fingerprint>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn answer(
        &self,
        ledger: &Ledger,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().trim_start_matches(PREFIX);
        let (name, rest) = path.split_once('/').unwrap_or((path, ""));
        let Ok(form) = Limited::new(body, MAX_FORM_BYTES).collect().await else {
            return plain(StatusCode::PAYLOAD_TOO_LARGE, "too large");
        };
        let token = in_headers(&parts.headers).or_else(|| in_form(&form.to_bytes()));
        if ledger.check(name, token.as_deref()) != Some(Verdict::Live) {
            let mut refused =
                json_body(StatusCode::UNAUTHORIZED, &json!({ "message": "Bad credentials" }));
            let realm = HeaderValue::from_static("Basic realm=\"demo\"");
            refused.headers_mut().insert(WWW_AUTHENTICATE, realm);
            return refused;
        }
        if let Some(token) = token {
            self.seen().entry(name.to_owned()).or_default().insert(Fingerprint::of(&token));
        }
        match self.site.as_deref().and_then(|site| file(&site.join(name), rest)) {
            Some(contents) => respond(StatusCode::OK, content_type(&contents), contents.into()),
            None => json_body(StatusCode::OK, &json!({ "ok": true })),
        }
    }
}

/// The file at this path, or `index` in the folder of that name. Nothing outside `folder`.
fn file(folder: &Path, path: &str) -> Option<Vec<u8>> {
    let path = Path::new(path);
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return None;
    }
    let found = folder.join(path);
    let found = if found.is_dir() { found.join("index") } else { found };
    std::fs::read(found).ok()
}

/// Guessed from the contents: the clients look at it, and the files have the names that they ask
/// for.
fn content_type(contents: &[u8]) -> &'static str {
    match contents.first() {
        Some(b'{' | b'[') => "application/json",
        Some(b'<') if contents.starts_with(b"<!DOCTYPE html>") => "text/html",
        Some(b'<') => "text/xml",
        Some(_) if contents.is_ascii() => "text/plain",
        _ => "application/octet-stream",
    }
}

/// The token of an `Authorization` header, also of one that holds nothing else, as cargo's does.
fn in_headers(headers: &HeaderMap) -> Option<Vec<u8>> {
    rest::credential(headers).or_else(|| {
        let value = headers.get(AUTHORIZATION)?.as_bytes();
        (!value.contains(&b' ')).then(|| value.to_vec())
    })
}

/// The token in a form: of a token exchange (RFC 8693 §2.1), or of `AssumeRoleWithWebIdentity`.
fn in_form(form: &Bytes) -> Option<Vec<u8>> {
    form.split(|&byte| byte == b'&').find_map(|field| {
        field
            .strip_prefix(b"subject_token=")
            .or_else(|| field.strip_prefix(b"WebIdentityToken="))
            .map(percent_decoded)
    })
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let byte = match (first, after) {
            (b'%', [high, low, ..]) => std::str::from_utf8(&[*high, *low])
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            _ => None,
        };
        decoded.push(byte.unwrap_or(first));
        rest = if byte.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_wherever_a_client_puts_it() {
        for (value, token) in
            [("Bearer ghs_a", Some("ghs_a")), ("ghs_a", Some("ghs_a")), ("Digest ghs_a", None)]
        {
            let headers = [(AUTHORIZATION, HeaderValue::from_static(value))].into_iter().collect();
            assert_eq!(in_headers(&headers).as_deref(), token.map(str::as_bytes), "{value}");
        }
        for form in ["a=b&subject_token=ghs%5fa%2Eb&c=d", "WebIdentityToken=ghs_a.b"] {
            assert_eq!(in_form(&Bytes::from_static(form.as_bytes())).unwrap(), b"ghs_a.b");
        }
        assert_eq!(in_form(&Bytes::from_static(b"token=ghs_a")), None);
    }

    #[test]
    fn nothing_outside_the_folder_is_a_file_of_the_site() {
        let dir = tempfile::tempdir().unwrap();
        let site = dir.path().join("site");
        std::fs::create_dir_all(site.join("simple")).unwrap();
        std::fs::write(dir.path().join("outside"), "x").unwrap();
        std::fs::write(site.join("simple/index"), "inside").unwrap();
        assert_eq!(file(&site, "simple/").unwrap(), b"inside");
        for path in ["../outside", "simple/../../outside", "/etc/hostname"] {
            assert_eq!(file(&site, path), None, "{path}");
        }
    }
}
