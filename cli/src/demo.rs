//! The built-in service: what a newcomer tries first, and what the tests drive where Python does not matter.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pounce_runtime_tokio::{App, BoxError, ConnectionInfo, RequestBody};
use tokio::time::Sleep;

/// Longest `/slow` and longest gap of a `/stream`, in seconds.
const LONGEST_SECONDS: f64 = 3600.0;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Demo;

impl App for Demo {
    type Body = DemoBody;
    type Service = Demo;

    fn serve_connection(&self, _connection: ConnectionInfo) -> Demo {
        Demo
    }
}

type Answer = Result<Response<DemoBody>, Infallible>;

impl hyper::service::Service<Request<RequestBody>> for Demo {
    type Response = Response<DemoBody>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<RequestBody>) -> Answering {
        match (request.method(), request.uri().path()) {
            (_, "/") => Answering::now(text(StatusCode::OK, "Hello from pounce\n")),
            (_, "/slow") => match seconds(&request, "s", 1.0) {
                Some(delay) => Answering::Later(Box::pin(async move {
                    tokio::time::sleep(delay).await;
                    Ok(text(StatusCode::OK, "Slow, but complete\n"))
                })),
                None => Answering::now(no_seconds()),
            },
            (_, "/stream") => Answering::now(stream(&request)),
            (&Method::POST | &Method::PUT, "/echo") => {
                let length = request.body().size_hint().exact();
                let kind = request.headers().get(header::CONTENT_TYPE).cloned();
                let mut response = Response::new(DemoBody::Echo { body: request.into_body(), length });
                let kind = kind.unwrap_or(HeaderValue::from_static("application/octet-stream"));
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                Answering::now(response)
            }
            (_, "/echo") => {
                let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "POST or PUT a body to /echo\n");
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST, PUT"));
                Answering::now(response)
            }
            _ => Answering::now(text(
                StatusCode::NOT_FOUND,
                "There are /, /slow?s=SECONDS, /stream?n=CHUNKS&gap=SECONDS and /echo\n",
            )),
        }
    }
}

/// A response that is there, or comes.
#[allow(missing_debug_implementations, reason = "a future")]
pub enum Answering {
    Now(Option<Response<DemoBody>>),
    Later(Pin<Box<dyn Future<Output = Answer> + Send>>),
}

impl Answering {
    fn now(response: Response<DemoBody>) -> Answering {
        Answering::Now(Some(response))
    }
}

impl Future for Answering {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        match &mut *self {
            Answering::Now(response) => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                None => Poll::Pending,
            },
            Answering::Later(future) => future.as_mut().poll(cx),
        }
    }
}

fn text(status: StatusCode, line: &'static str) -> Response<DemoBody> {
    let mut response = Response::new(DemoBody::Text(Some(Bytes::from_static(line.as_bytes()))));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn stream(request: &Request<RequestBody>) -> Response<DemoBody> {
    let chunks = match parameter(request, "n").map_or(Ok(10), str::parse::<u64>) {
        Ok(chunks) => chunks,
        Err(_) => return text(StatusCode::BAD_REQUEST, "n must be a count of chunks\n"),
    };
    match seconds(request, "gap", 0.1) {
        Some(gap) => {
            let mut response = Response::new(DemoBody::Stream { sent: 0, chunks, gap, pause: None });
            let kind = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        None => no_seconds(),
    }
}

fn parameter<'a>(request: &'a Request<RequestBody>, name: &str) -> Option<&'a str> {
    let pairs = request.uri().query().unwrap_or("").split('&');
    pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// The parameter `name`, if it is a number of seconds that this service waits.
fn seconds(request: &Request<RequestBody>, name: &str, default: f64) -> Option<Duration> {
    let value = parameter(request, name).map_or(Ok(default), str::parse::<f64>).ok()?;
    (0.0..=LONGEST_SECONDS).contains(&value).then(|| Duration::from_secs_f64(value))
}

fn no_seconds() -> Response<DemoBody> {
    text(StatusCode::BAD_REQUEST, "s and gap must be seconds from 0 to 3600\n")
}

/// A body of the demo.
#[allow(missing_debug_implementations, reason = "a stream in progress")]
pub enum DemoBody {
    Text(Option<Bytes>),
    Stream { sent: u64, chunks: u64, gap: Duration, pause: Option<Pin<Box<Sleep>>> },
    Echo { body: RequestBody, length: Option<u64> },
}

impl Body for DemoBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            DemoBody::Text(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            DemoBody::Echo { body, .. } => Pin::new(body).poll_frame(cx).map_err(Into::into),
            DemoBody::Stream { sent, chunks, gap, pause } => {
                if sent == chunks {
                    return Poll::Ready(None);
                }
                if *sent > 0 && !gap.is_zero() {
                    let sleep = pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(*gap)));
                    if sleep.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    *pause = None;
                }
                *sent += 1;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from(format!("chunk {sent} of {chunks}\n"))))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            DemoBody::Text(bytes) => bytes.is_none(),
            DemoBody::Echo { body, .. } => body.is_end_stream(),
            DemoBody::Stream { sent, chunks, .. } => sent == chunks,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            DemoBody::Text(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            DemoBody::Echo { length: Some(length), .. } => SizeHint::with_exact(*length),
            DemoBody::Echo { length: None, .. } | DemoBody::Stream { .. } => SizeHint::default(),
        }
    }
}
