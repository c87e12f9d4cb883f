//! A server that sends the bearer back wherever a server can put a word.

use std::fs;

use nix::errno::Errno;

use crate::Driven;
use crate::support::limit::each;
use crate::support::namespace::sandboxed;
use crate::support::process::errno;
use crate::support::server::{Answer, Server, bearer};
use crate::support::{eventually, secs};

type Echo = fn(&str) -> String;

/// Each makes an answer of the bearer, and is followed by words that must be in the status.
const ANSWERS: &[(&str, Echo, &str)] = &[
    (
        "media type",
        |b| ok(&format!("Content-Type: application/{b}\r\n"), "x"),
        "an unusual content type",
    ),
    ("media type alone", |b| ok(&format!("Content-Type: {b}\r\n"), "x"), "an unusual content type"),
    (
        "parameter of a media type",
        |b| ok(&format!("Content-Type: text/html; charset={b}\r\n"), "x"),
        "text/html",
    ),
    ("every header", |b| ok(&every_header(b), "x"), "the body is not JSON"),
    ("body", |b| ok("", &format!("<{b}")), "the body is not JSON"),
    ("key of the body", |b| ok("", &format!("{{\"{b}\":1}}")), "the body has no `token`"),
    (
        "expiry",
        |b| ok("", &format!(r#"{{"token":"t","expires_at":"{b}"}}"#)),
        "`expires_at` is not a time",
    ),
    (
        "reason",
        |b| format!("HTTP/1.1 500 {b}\r\nContent-Length: 0\r\n\r\n"),
        "500 Internal Server Error",
    ),
    (
        "unknown status",
        |b| format!("HTTP/1.1 599 {b}\r\n{}Content-Length: 0\r\n\r\n", every_header(b)),
        "answers 599",
    ),
    ("version", |b| format!("HTTP/{b} 200 OK\r\n\r\n"), "invalid HTTP version"),
    ("status line", |b| format!("{b}\r\n\r\n"), "invalid HTTP"),
    (
        "name of a header",
        |b| format!("HTTP/1.1 401 No\r\n{b}: x\r\nContent-Length: 0\r\n\r\n"),
        "401",
    ),
    ("broken header", |b| format!("HTTP/1.1 200 OK\r\n{b}\r\n\r\n"), "invalid HTTP header"),
    ("host of a redirect", |b| redirect(&format!("http://{b}.example/")), "another host"),
    ("user of a redirect", |b| redirect(&format!("http://{b}@127.0.0.2/")), "another host"),
    ("scheme of a redirect", |b| redirect(&format!("x{b}://host/")), "another host"),
    ("no URL", |b| redirect(&format!("http://[{b}")), "redirects to nowhere"),
    ("path of a redirect", |b| redirect(&format!("/{b}?{b}#{b}")), "redirects more than 3 times"),
    (
        "rate limit",
        |b| {
            format!(
                "HTTP/1.1 429 No\r\nRetry-After: {b}\r\nX-RateLimit-Reset: {b}\r\nContent-Length: 0\r\n\r\n"
            )
        },
        "429",
    ),
    (
        "chunk",
        |b| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x={b}\r\nx\r\n{b}\r\n"),
        "no whole answer",
    ),
    (
        "trailer",
        |b| {
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n{b}: {b}\r\n\r\n"
            )
        },
        "the body is not JSON",
    ),
];

fn ok(headers: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn every_header(bearer: &str) -> String {
    [
        "Age",
        "Alt-Svc",
        "Connection",
        "Content-Disposition",
        "Content-Encoding",
        "Content-Language",
        "Content-Location",
        "Date",
        "ETag",
        "Expires",
        "Keep-Alive",
        "Last-Modified",
        "Link",
        "Proxy-Authenticate",
        "Refresh",
        "Retry-After",
        "Server",
        "Set-Cookie",
        "Strict-Transport-Security",
        "Upgrade",
        "Via",
        "WWW-Authenticate",
        "Warning",
        "X-GitHub-Request-Id",
        "X-RateLimit-Remaining",
        "X-RateLimit-Reset",
    ]
    .iter()
    .fold(String::new(), |headers, name| headers + name + ": " + bearer + "\r\n")
}

fn redirect(location: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
}

#[test]
fn a_server_that_sends_the_bearer_back_brings_it_into_no_status_and_no_log() {
    sandboxed(secs(100), || {
        each(
            ANSWERS,
            |(name, ..)| (*name).to_owned(),
            |(_, answer, told)| {
                let server = Server::start(move |head: &str, to: &mut Answer| {
                    to.send(answer(bearer(head).unwrap_or_default()));
                });
                let mut driven =
                    Driven::start(|_, _, builder| builder.env("PLATFORM_URL", server.url()));
                let error = fs::read(driven.path("token")).unwrap_err();
                // The last where another try is under way at the deadline.
                let named = [Errno::ENOKEY, Errno::EKEYREJECTED, Errno::ETIMEDOUT];
                assert!(named.map(Some).contains(&errno(&error)), "{error}");
                let status = eventually("the failure is told", secs(5), || {
                    let status = fs::read_to_string(driven.path("status.json")).ok()?;
                    status.contains(told).then_some(status)
                });
                driven.keep("the status", status);
                driven.look();
                assert!(server.requests() > 0);
                let log = driven.end();
                assert!(log.contains(told), "{log}");
            },
        );
    });
}
