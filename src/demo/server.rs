//! The HTTP server behind every part of the demo platform: listeners, routes, general faults.

use std::future::pending;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{DATE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::{SignedDuration, Timestamp};
use nix::sys::socket::{setsockopt, sockopt};
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::demo::consumers::{self, Consumers};
use crate::demo::faults::{Fault, Faults, Order, Service};
use crate::demo::github::{self, Github};
use crate::demo::ledger::Ledger;
use crate::demo::platform::{self, Bearer, Platform, Strays};
use crate::demo::reply::{Body, DateHeader, json_body, plain};
use crate::demo::{git, lfs, rest};
use crate::secret::Fingerprint;

/// The connection ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is to be cut")]
pub(super) struct Abort;

/// What all connections share.
pub(super) struct Shared {
    pub(super) ledger: Ledger,
    pub(super) faults: Faults,
    pub(super) bearer: Bearer,
    pub(super) strays: Strays,
    pub(super) consumers: Consumers,
    pub(super) github: Github,
    pub(super) workspace_id: String,
    /// Where the repositories are, if there are any.
    pub(super) git_root: Option<PathBuf>,
    /// The other origin that a redirect may point to.
    pub(super) elsewhere: String,
}

/// The sockets, bound but not served yet.
pub(super) struct Listeners {
    pub(super) main: TcpListener,
    /// Another origin: nobody should come here with a credential.
    pub(super) elsewhere: TcpListener,
    unix: Option<UnixListener>,
}

impl Listeners {
    pub(super) fn bind(port: u16, unix_socket: Option<&Path>) -> io::Result<Self> {
        let tcp = |port| {
            let listener = TcpListener::bind(("127.0.0.1", port))?;
            listener.set_nonblocking(true)?;
            io::Result::Ok(listener)
        };
        let unix = unix_socket.map(UnixListener::bind).transpose()?;
        if let Some(unix) = &unix {
            unix.set_nonblocking(true)?;
        }
        Ok(Self { main: tcp(port)?, elsewhere: tcp(0)?, unix })
    }
}

/// The thread that serves. Dropping it closes every connection and waits for its end.
pub(super) struct Server {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(listeners: Listeners, shared: Arc<Shared>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (main, elsewhere, unix) = {
            let _inside = runtime.enter();
            (
                tokio::net::TcpListener::from_std(listeners.main)?,
                tokio::net::TcpListener::from_std(listeners.elsewhere)?,
                listeners.unix.map(tokio::net::UnixListener::from_std).transpose()?,
            )
        };
        let thread =
            std::thread::Builder::new().name("demo-platform".to_owned()).spawn(move || {
                runtime.block_on(async {
                    tokio::spawn(accept_tcp(main, Arc::clone(&shared), false));
                    tokio::spawn(accept_tcp(elsewhere, Arc::clone(&shared), true));
                    if let Some(unix) = unix {
                        tokio::spawn(accept_unix(unix, shared));
                    }
                    stopped.cancelled().await;
                });
                runtime.shutdown_background();
            })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept_tcp(listener: tokio::net::TcpListener, shared: Arc<Shared>, elsewhere: bool) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let handle = stream.as_fd().try_clone_to_owned().ok();
        tokio::spawn(serve(TokioIo::new(stream), handle, Arc::clone(&shared), elsewhere));
    }
}

async fn accept_unix(listener: tokio::net::UnixListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(serve(TokioIo::new(stream), None, Arc::clone(&shared), false));
    }
}

/// Serves one connection. `handle` is a second descriptor of the socket: what makes a reset.
async fn serve<S>(stream: TokioIo<S>, handle: Option<OwnedFd>, shared: Arc<Shared>, elsewhere: bool)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let reset = AtomicBool::new(false);
    let service = service_fn(|request| {
        let (shared, reset) = (Arc::clone(&shared), &reset);
        async move { shared.answer(request, elsewhere, reset).await }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).auto_date_header(false);
    // An error is the client's going away, or a fault of ours.
    let _ = http.serve_connection(stream, service).await;
    if let (true, Some(handle)) = (reset.into_inner(), handle) {
        // Closing a socket that lingers for no time sends RST instead of FIN (socket(7)).
        let _ = setsockopt(&handle, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
    }
}

impl Shared {
    fn platform(&self) -> Platform<'_> {
        let Self { ledger, bearer, workspace_id, elsewhere, .. } = self;
        Platform { ledger, bearer, workspace_id, elsewhere }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        elsewhere: bool,
        reset: &AtomicBool,
    ) -> Result<Response<Body>, Abort> {
        if elsewhere {
            let date = self.ledger.issuer_time();
            return Ok(dated(self.strays.answer(request.headers()), date));
        }
        let path = request.uri().path().to_owned();
        if path.starts_with("/demo/") {
            let response = self.admin(request).await;
            return Ok(dated(response, self.ledger.issuer_time()));
        }
        if path.starts_with(consumers::PREFIX) {
            let response = self.consumers.answer(&self.ledger, request).await;
            return Ok(dated(response, self.ledger.issuer_time()));
        }
        if github::is_endpoint(&path) {
            let response = self.github.answer(&self.ledger, request).await;
            return Ok(dated(response, self.ledger.platform_time()));
        }
        let service = service_of(&path);
        let (latency, fault) = if path.starts_with(platform::MOVED) {
            Default::default()
        } else {
            self.faults.next(service)
        };
        if service == Service::Platform {
            self.ledger.count(|counts| {
                counts.requests += 1;
                counts.faults += u64::from(fault.is_some());
            });
        }
        let (latency, fault) = match fault {
            Some(Fault::Slow(by)) => (latency + by, None),
            fault => (latency, fault),
        };
        // A slow platform mints late. A slow service judges a token when it comes, and answers late.
        let (before, after) = match service {
            Service::Platform => (latency, Duration::ZERO),
            Service::Git | Service::Lfs | Service::Rest => (Duration::ZERO, latency),
        };
        pause(before).await;
        // What any service can do wrong; what is left is about a token's shape.
        let error = |status| json_body(status, &json!({ "error": "the demo fails on purpose" }));
        let response = match fault {
            Some(Fault::Hang) => return pending().await,
            Some(Fault::Close) => return Err(Abort),
            Some(Fault::Reset) => {
                reset.store(true, Ordering::Relaxed);
                return Err(Abort);
            }
            Some(Fault::Status(code)) => {
                error(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
            }
            Some(Fault::RetryAfter(seconds)) => {
                let mut response = error(StatusCode::TOO_MANY_REQUESTS);
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
                response
            }
            Some(Fault::RetryAfterDate(seconds)) => {
                let mut response = error(StatusCode::TOO_MANY_REQUESTS);
                if let Some(date) = http_date(self.time_in(service, seconds)) {
                    response.headers_mut().insert(RETRY_AFTER, date);
                }
                response
            }
            Some(Fault::RateLimit(seconds)) => {
                let mut response = error(StatusCode::FORBIDDEN);
                let reset = self.time_in(service, seconds).as_second();
                let headers = response.headers_mut();
                headers.insert("x-ratelimit-remaining", HeaderValue::from(0));
                headers.insert("x-ratelimit-reset", HeaderValue::from(reset));
                response
            }
            fault => self.route(service, &path, request, fault).await,
        };
        pause(after).await;
        Ok(dated(response, self.time_in(service, 0)))
    }

    /// So many seconds from now by the clock of a service: all but the platform's are the
    /// issuer's own.
    fn time_in(&self, service: Service, seconds: u64) -> Timestamp {
        let now = match service {
            Service::Platform => self.ledger.platform_time(),
            Service::Git | Service::Lfs | Service::Rest => self.ledger.issuer_time(),
        };
        now.checked_add(Duration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
    }

    async fn route(
        &self,
        service: Service,
        path: &str,
        request: Request<Incoming>,
        fault: Option<Fault>,
    ) -> Response<Body> {
        match service {
            Service::Platform => {
                let platform = self.platform();
                platform::answer(&platform, path, request.headers(), fault).await
            }
            Service::Git => git::answer(&self.ledger, self.git_root.as_deref(), request).await,
            Service::Lfs => lfs::answer(&self.ledger, self.git_root.as_deref(), request).await,
            Service::Rest => rest::answer(&self.ledger, request.method(), path, request.headers()),
        }
    }

    /// What another process may ask of the demo itself. No answer holds a token.
    async fn admin(&self, request: Request<Incoming>) -> Response<Body> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Revoke {
            fingerprint: Option<String>,
        }

        let bad = |why: &dyn std::fmt::Display| {
            json_body(StatusCode::BAD_REQUEST, &json!({ "error": why.to_string() }))
        };
        let (parts, body) = request.into_parts();
        let body = match Limited::new(body, 64 * 1024).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return bad(&error),
        };
        match (&parts.method, parts.uri.path()) {
            (&Method::GET, "/demo/ledger") => {
                json_body(StatusCode::OK, &json!(self.ledger.report()))
            }
            (&Method::POST, "/demo/fault") => match serde_json::from_slice::<Order>(&body) {
                Ok(order) => match self.faults.obey(&order) {
                    Ok(()) => json_body(StatusCode::OK, &json!(order)),
                    Err(error) => bad(&error),
                },
                Err(error) => bad(&error),
            },
            (&Method::POST, "/demo/revoke") => match serde_json::from_slice::<Revoke>(&body) {
                Ok(Revoke { fingerprint: None }) => {
                    json_body(StatusCode::OK, &json!({ "revoked": self.ledger.revoke(None) }))
                }
                Ok(Revoke { fingerprint: Some(text) }) => match Fingerprint::parse(&text) {
                    Some(one) => json_body(
                        StatusCode::OK,
                        &json!({ "revoked": self.ledger.revoke(Some(one)) }),
                    ),
                    None => bad(&"not a fingerprint"),
                },
                Err(error) => bad(&error),
            },
            _ => plain(StatusCode::NOT_FOUND, "not found"),
        }
    }
}

/// Sets `Date`, cut to seconds (RFC 9110 §5.6.7), unless ordered otherwise.
fn dated(mut response: Response<Body>, date: Timestamp) -> Response<Body> {
    let off = |seconds| date.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(date);
    let dates = match response.extensions_mut().remove::<DateHeader>() {
        Some(DateHeader::Missing) => vec![],
        Some(DateHeader::Off(seconds)) => vec![off(seconds)],
        Some(DateHeader::Two(seconds)) => vec![date, off(seconds)],
        None => vec![date],
    };
    for date in dates.into_iter().filter_map(http_date) {
        response.headers_mut().append(DATE, date);
    }
    response
}

fn service_of(path: &str) -> Service {
    if platform::is_endpoint(path) {
        Service::Platform
    } else if path.strip_prefix(git::PREFIX).is_some_and(|rest| rest.starts_with('/')) {
        if lfs::is_endpoint(path) { Service::Lfs } else { Service::Git }
    } else {
        Service::Rest
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

fn http_date(time: Timestamp) -> Option<HeaderValue> {
    let text =
        jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()?;
    HeaderValue::from_str(&text).ok()
}
