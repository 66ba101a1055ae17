//! Responses that the server itself gives.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use pounce_core::connection::Phase;

use crate::shared::Serving;

/// A complete response with a line of text that says what is wrong.
pub(crate) fn text(status: StatusCode, line: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(line.as_bytes()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        // The next server is there in about a second; RFC 9110 §10.2.3.
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// The line that belongs to a status of ours.
pub(crate) fn line(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "Bad request\n",
        408 => "The request took too long to arrive\n",
        413 => "The request body is too large\n",
        431 => "The request head is too large\n",
        500 => "Internal server error\n",
        501 => "This server is no proxy\n",
        503 => "The server is shutting down or busy; try again\n",
        504 => "The application took too long to answer\n",
        _ => "\n",
    }
}

/// A whole response as bytes, for a connection whose parser has nothing to answer to.
pub(crate) fn raw(status: StatusCode) -> Vec<u8> {
    let body = line(status);
    let reason = status.canonical_reason().unwrap_or("");
    let retry = if status == StatusCode::SERVICE_UNAVAILABLE { "retry-after: 1\r\n" } else { "" };
    format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n{retry}connection: close\r\n\r\n{body}",
        status.as_u16(),
        body.len(),
    )
    .into_bytes()
}

/// Readiness: 200 while the server serves, also from a worker that retires; 503 from the signal on.
pub(crate) fn health(serving: &Serving) -> Response<Bytes> {
    let (status, word) = match serving.phase() {
        _ if serving.is_ready() => (StatusCode::OK, "serving"),
        Phase::Serving => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        Phase::LameDuck | Phase::Draining | Phase::Aborting => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
    };
    let (connections, _) = serving.counts();
    let body = serde_json::json!({ "status": word, "worker": serving.worker, "connections": connections });
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
