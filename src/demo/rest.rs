//! The part of GitHub's REST interface that `gh` and its like ask first, behind the ledger's check.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::demo::faults::Service;
use crate::demo::ledger::{Ledger, Verdict};
use crate::demo::reply::{Body, json_body};

/// The token in an `Authorization` header: `Bearer`, `token` (as gh sends it), or the password of
/// `Basic` (as git and netrc readers send it).
pub(super) fn credential(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, value) = value.split_once(' ')?;
    let value = value.trim();
    if scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token") {
        return Some(value.as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(value).ok()?;
    let colon = decoded.iter().position(|&byte| byte == b':')?;
    decoded.get(colon + 1..).map(<[u8]>::to_vec)
}

/// Answers as `api.github.com` does, also under the prefix of an Enterprise Server.
pub(super) fn answer(
    ledger: &Ledger,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Response<Body> {
    let token = credential(headers);
    let refuse = |message| json_body(StatusCode::UNAUTHORIZED, &json!({ "message": message }));
    let path = path.strip_prefix("/api/v3").or_else(|| path.strip_prefix("/api")).unwrap_or(path);
    let repository = path.strip_prefix("/repos/").and_then(|path| {
        let mut parts = path.split('/');
        Some((parts.next()?, parts.next()?))
    });
    match ledger.check_for(Service::Rest.name(), token.as_deref(), repository) {
        Some(Verdict::Live) => {}
        Some(Verdict::OutOfScope) => {
            return json_body(StatusCode::NOT_FOUND, &json!({ "message": "Not Found" }));
        }
        Some(Verdict::Dead | Verdict::Revoked | Verdict::Unknown) => {
            return refuse("Bad credentials");
        }
        None => return refuse("Requires authentication"),
    }
    let Some(body) = document(method, path) else {
        return json_body(StatusCode::NOT_FOUND, &json!({ "message": "Not Found" }));
    };
    let mut response = json_body(StatusCode::OK, &body);
    // gh reads the scopes of a token here; an installation token has none.
    let scopes = HeaderName::from_static("x-oauth-scopes");
    response.headers_mut().insert(scopes, HeaderValue::from_static(""));
    response
}

fn of_repository(owner: &str, name: &str) -> Value {
    json!({
        "id": 1, "name": name, "full_name": format!("{owner}/{name}"), "private": true,
        "default_branch": "main", "owner": { "login": owner, "id": 1 },
    })
}

fn document(method: &Method, path: &str) -> Option<Value> {
    let parts = path.trim_start_matches('/').split('/').collect::<Vec<_>>();
    Some(match (method, path) {
        (&Method::GET, "/user") => json!({
            "login": "molecule-demo[bot]", "id": 1, "type": "Bot", "name": "The demo's workspace",
        }),
        (&Method::GET, "/installation/repositories") => {
            json!({ "total_count": 1, "repositories": [of_repository("demo", "work")] })
        }
        (&Method::GET, "/" | "") => json!({ "current_user_url": "/user" }),
        (&Method::POST, "/graphql") => {
            json!({ "data": { "viewer": { "login": "molecule-demo[bot]" } } })
        }
        _ => match (method, parts.as_slice()) {
            (&Method::GET, ["repos", owner, name]) => of_repository(owner, name),
            (&Method::GET, ["repos", _, _, "actions", "workflows"]) => json!({
                "total_count": 1, "workflows": [{ "id": 1, "name": "Test", "state": "active",
                    "path": ".github/workflows/ci.yml" }],
            }),
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_found_in_every_scheme_that_clients_use() {
        for (value, token) in [
            ("Bearer ghs_a", Some("ghs_a")),
            ("token ghs_a", Some("ghs_a")),
            ("bearer  ghs_a", Some("ghs_a")),
            // printf x-access-token:ghs_a:b | base64
            ("Basic eC1hY2Nlc3MtdG9rZW46Z2hzX2E6Yg==", Some("ghs_a:b")),
            ("Basic ?", None),
            ("Digest ghs_a", None),
            ("ghs_a", None),
        ] {
            let headers = [(AUTHORIZATION, HeaderValue::from_static(value))].into_iter().collect();
            let expected = token.map(|token| token.as_bytes().to_vec());
            assert_eq!(credential(&headers), expected, "{value}");
        }
        assert_eq!(credential(&HeaderMap::new()), None);
    }
}
