//! What the demo's services answer with: whole, in pieces, or cut.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Frame};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

/// The body of an answer; an error in it cuts the connection.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// An order about the `Date` header, as an extension of a response.
#[derive(Debug, Clone, Copy)]
pub(super) enum DateHeader {
    Missing,
    /// Seconds ahead of the platform's clock.
    Off(i64),
    /// One that is right, and one that is off.
    Two(i64),
}

/// An answer with a body that is known as a whole.
pub(super) fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
) -> Response<Body> {
    let never = |impossible: Infallible| match impossible {};
    let mut response = Response::new(Full::new(body).map_err(never).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer in one line of text.
pub(super) fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    respond(status, "text/plain", Bytes::from_static(text.as_bytes()))
}

/// An answer in JSON.
pub(super) fn json_body(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    respond(status, "application/json", body.to_string().into())
}

/// The same answer in chunks, its length untold.
pub(super) fn unannounced(response: Response<Body>) -> Response<Body> {
    response.map(|body| body.map_frame(|frame| frame).boxed_unsync())
}

/// The same answer, except that the connection is cut in the middle of its body.
pub(super) async fn cut(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let whole = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(whole.len()));
    let half = whole.slice(..whole.len() / 2);
    Response::from_parts(parts, Cut::Half(half).boxed_unsync())
}

/// A body that fails after its first piece, which is let out first.
enum Cut {
    Half(Bytes),
    Flushing,
    Over,
}

impl hyper::body::Body for Cut {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match std::mem::replace(&mut *self, Self::Over) {
            Self::Half(half) => {
                *self = Self::Flushing;
                Poll::Ready(Some(Ok(Frame::data(half))))
            }
            Self::Flushing => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Self::Over => Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into()))),
        }
    }
}
