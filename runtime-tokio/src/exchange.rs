//! The service and body taps: one request and its response, as hyper passes them through.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use pounce_core::Instant;
use pounce_core::connection::{Ending, HeadVerdict, Role};

use crate::answer;
use crate::app::BoxError;
use crate::logging;
use crate::shared::{BodyLeft, ConnectionState, Shared};

/// The application's service, with the server's own answers before it.
pub(crate) struct Exchange<S> {
    shared: Arc<Shared>,
    service: S,
}

impl<S> Exchange<S> {
    pub fn new(shared: Arc<Shared>, service: S) -> Exchange<S> {
        Exchange { shared, service }
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Exchange<S>
where
    S: hyper::service::Service<Request<RequestBody>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<AnswerBody<B>>;
    type Error = Infallible;
    type Future = Answering<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let mut answering = Answering {
            shared: Arc::clone(&self.shared),
            head: Head::of(&request),
            running: None,
            instead: None,
            log: None,
        };
        let serving = &self.shared.serving;
        serving.requests.fetch_add(1, Ordering::Relaxed);
        let mut state = self.shared.lock();
        let now = self.shared.now(&state);
        let has_body = !request.body().is_end_stream();
        let fields = Fields::of(request.headers());
        state.body_left = match request.body().size_hint().exact() {
            _ if !has_body => BodyLeft::None,
            Some(bytes) => BodyLeft::Bytes(bytes),
            None => BodyLeft::Chunked,
        };
        state.ending = None;
        state.fault = None;
        state.machine.on_request(now, has_body, fields.ask_for_close(request.version()));
        if state.both_framings {
            state.fault = Some(StatusCode::BAD_REQUEST);
        }
        let refused = state.machine.role() == Role::Refuse;
        drop(state);
        if serving.options.access_log && logging::access_enabled() {
            answering.log = Some(Box::new(Logged::of(&request, now)));
        }
        let is_health = serving.options.health_check_path.as_deref() == Some(request.uri().path());
        if let Err(status) = check_head(&request, &fields, serving.options.max_body_size) {
            self.shared.lock().fault = Some(status);
        } else if is_health && matches!(*request.method(), Method::GET | Method::HEAD) {
            answering.instead = Some(answer::health(serving));
        } else if refused {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            answering.instead = Some(answer::text(status, answer::line(status)));
        } else {
            let shared = Arc::clone(&self.shared);
            let limit = serving.options.max_body_size;
            let request =
                request.map(|inner| RequestBody { inner, shared, read: 0, limit, ended: !has_body });
            answering.running = Some(self.service.call(request));
        }
        answering
    }
}

/// What of a request is needed when its response comes.
#[derive(Clone, Copy, Debug)]
struct Head {
    is_head: bool,
    /// Before HTTP/1.1 a body of unknown length ends with the connection.
    is_http_10: bool,
}

impl Head {
    fn of<B>(request: &Request<B>) -> Head {
        Head { is_head: *request.method() == Method::HEAD, is_http_10: request.version() < Version::HTTP_11 }
    }
}

/// What the fields of a message say that matters here. One look at each field costs less than a hash for each name.
#[derive(Debug, Default)]
struct Fields<'a> {
    hosts: u32,
    /// `Connection` names `close`, or `keep-alive`.
    close: bool,
    keep_alive: bool,
    /// The first one.
    content_length: Option<&'a HeaderValue>,
}

impl Fields<'_> {
    fn of(headers: &HeaderMap) -> Fields<'_> {
        let mut fields = Fields::default();
        for (name, value) in headers {
            if *name == header::HOST {
                fields.hosts += 1;
            } else if *name == header::CONTENT_LENGTH {
                fields.content_length.get_or_insert(value);
            } else if *name == header::CONNECTION {
                for token in value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    fields.close |= token.eq_ignore_ascii_case(b"close");
                    fields.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
        }
        fields
    }

    /// RFC 9112 §9.3: whether the client wants the connection to end after this request.
    fn ask_for_close(&self, version: Version) -> bool {
        if version < Version::HTTP_11 { !self.keep_alive } else { self.close }
    }
}

/// What hyper lets pass and a server must not (RFC 9110 §9.3.6, RFC 9112 §3.2 and §6.1).
///
/// An `Expect` that is not `100-continue` is let pass on purpose: a server may answer it with 417 (RFC 9110 §10.1.1), and need
/// not. nginx, uvicorn and h11 do not, so a client that sends one reached its application so far.
fn check_head(
    request: &Request<Incoming>,
    fields: &Fields<'_>,
    max_body_size: Option<u64>,
) -> Result<(), StatusCode> {
    if !request.uri().path().starts_with('/') || *request.method() == Method::CONNECT {
        match *request.method() {
            // A tunnel is a proxy's business. An application that answers it with 200 as any other request would have its
            // body dropped by hyper, and the connection taken out of its hands.
            Method::CONNECT => return Err(StatusCode::NOT_IMPLEMENTED),
            Method::OPTIONS if request.uri().path() == "*" => {}
            _ => return Err(StatusCode::BAD_REQUEST),
        }
    }
    if fields.hosts > 1 || (fields.hosts == 0 && request.version() == Version::HTTP_11) {
        return Err(StatusCode::BAD_REQUEST);
    }
    if let (Some(limit), Some(length)) = (max_body_size, request.body().size_hint().exact())
        && length > limit
    {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    Ok(())
}

pin_project! {
    /// A response on its way: the application's, unless the server has to answer in its place.
    pub(crate) struct Answering<F> {
        shared: Arc<Shared>,
        head: Head,
        #[pin]
        running: Option<F>,
        instead: Option<Response<Bytes>>,
        log: Option<Box<Logged>>,
    }
}

impl<F, B, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<AnswerBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let overruled = overruled(&this.shared.lock());
        if let Some(status) = overruled {
            this.running.set(None);
            *this.instead = Some(answer::text(status, answer::line(status)));
            this.shared.lock().machine.on_close_announced();
        }
        let answer = match (this.instead.take(), this.running.as_mut().as_pin_mut()) {
            (Some(answer), _) => answer,
            (None, Some(running)) => match ready!(running.poll(cx)) {
                Ok(response) => {
                    let wrap = |body| Inner::App { body };
                    return Poll::Ready(Ok(begin(this.shared, *this.head, this.log.take(), response, wrap)));
                }
                Err(error) => {
                    let error: BoxError = error.into();
                    tracing::error!("The application failed: {error}");
                    let status = StatusCode::INTERNAL_SERVER_ERROR;
                    answer::text(status, answer::line(status))
                }
            },
            (None, None) => return Poll::Pending,
        };
        let wrap = |bytes| Inner::Bytes { bytes: Some(bytes) };
        Poll::Ready(Ok(begin(this.shared, *this.head, this.log.take(), answer, wrap)))
    }
}

/// The status that the server answers with in place of the application.
fn overruled(state: &ConnectionState) -> Option<StatusCode> {
    state.fault.or(match state.ending {
        Some(Ending::RequestTimeout) => Some(StatusCode::GATEWAY_TIMEOUT),
        Some(Ending::BodyTimeout) => Some(StatusCode::REQUEST_TIMEOUT),
        Some(Ending::Forced) => Some(StatusCode::SERVICE_UNAVAILABLE),
        Some(Ending::PeerGone) | None => None,
    })
}

/// The head is about to be written: the last moment to announce the connection's end.
fn begin<R, B: Body>(
    shared: &Arc<Shared>,
    head: Head,
    log: Option<Box<Logged>>,
    mut response: Response<R>,
    wrap: impl FnOnce(R) -> Inner<B>,
) -> Response<AnswerBody<B>> {
    let fields = Fields::of(response.headers());
    let framed = fields.content_length.is_some();
    let left = fields.content_length.and_then(|value| value.to_str().ok()?.parse().ok());
    let mut state = shared.lock();
    let now = shared.now(&state);
    if fields.close {
        state.machine.on_close_announced();
    }
    let pipelined = state.pipelined();
    let verdict = state.machine.on_response_head(now, pipelined);
    if verdict == HeadVerdict::AnnounceClose || state.machine.close_announced() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    drop(state);
    let status = response.status().as_u16();
    let no_body = head.is_head || matches!(status, 204 | 304 | 100..=199);
    let unframed = head.is_http_10 && !framed && !no_body;
    let log = log.map(|mut log| {
        log.status = status;
        log
    });
    // The response is moved once; it is a few hundred bytes long.
    response.map(|body| {
        let tap = AnswerTap { shared: Arc::clone(shared), ended: false, no_body, unframed, left, log };
        let mut body = AnswerBody { inner: wrap(body), failed: None, tap };
        // hyper does not ask for a body of no bytes.
        if body.inner.is_end_stream() || left == Some(0) {
            body.tap.end();
        }
        body
    })
}

pin_project! {
    /// A response body, with its end observed.
    pub(crate) struct AnswerBody<B> {
        #[pin]
        inner: Inner<B>,
        // The body failed. It is said one poll later: what was handed over before is still in hyper's buffer, which goes
        // away with the connection, and a client that got nothing cannot tell a cut response from a lost one.
        failed: Option<BoxError>,
        tap: AnswerTap,
    }
}

pin_project! {
    #[project = InnerProjection]
    enum Inner<B> {
        App { #[pin] body: B },
        Bytes { bytes: Option<Bytes> },
    }
}

impl<B: Body> Inner<B> {
    fn is_end_stream(&self) -> bool {
        match self {
            Inner::App { body } => body.is_end_stream(),
            Inner::Bytes { bytes } => bytes.is_none(),
        }
    }
}

struct AnswerTap {
    shared: Arc<Shared>,
    ended: bool,
    /// A response that has none: hyper drops the body without a look (RFC 9110 §6.4.1).
    no_body: bool,
    /// Bytes that are left of the announced length. After the last one hyper drops the body without asking it for its end.
    left: Option<u64>,
    /// The client can tell this body's end only by the connection's.
    unframed: bool,
    log: Option<Box<Logged>>,
}

impl AnswerTap {
    fn end(&mut self) {
        if !self.ended {
            self.ended = true;
            let mut state = self.shared.lock();
            let now = self.shared.now(&state);
            state.machine.on_response_end(now);
            drop(state);
            if let Some(log) = self.log.take() {
                log.write(&self.shared, now, true);
            }
        }
    }
}

impl Drop for AnswerTap {
    fn drop(&mut self) {
        if self.no_body {
            self.end();
        } else if !self.ended {
            let mut state = self.shared.lock();
            state.cut_unframed |= self.unframed;
            let now = self.shared.now(&state);
            drop(state);
            if let Some(log) = self.log.take() {
                log.write(&self.shared, now, false);
            }
        }
    }
}

impl<B> Body for AnswerBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        if pounce_core::planted!(CutLooksComplete) && this.tap.shared.lock().ending == Some(Ending::Forced) {
            this.tap.end();
            return Poll::Ready(None);
        }
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let (frame, ended) = match this.inner.project() {
            InnerProjection::Bytes { bytes } => (bytes.take().map(|bytes| Ok(Frame::data(bytes))), true),
            InnerProjection::App { mut body } => {
                let frame = match ready!(body.as_mut().poll_frame(cx)) {
                    Some(Err(error)) => {
                        *this.failed = Some(error.into());
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Some(Ok(frame)) => Some(Ok(frame)),
                    None => None,
                };
                let ended = frame.is_none() || body.is_end_stream();
                (frame, ended)
            }
        };
        let bytes = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, |data| data.len() as u64),
            _ => 0,
        };
        this.tap.left = this.tap.left.map(|left| left.saturating_sub(bytes));
        if let Some(log) = &mut this.tap.log {
            log.bytes += bytes;
        }
        let ended = ended || this.tap.left == Some(0);
        if ended {
            this.tap.end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::App { body } => body.size_hint(),
            Inner::Bytes { bytes } => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
        }
    }
}

/// A request's body, as the application reads it.
pub struct RequestBody {
    inner: Incoming,
    shared: Arc<Shared>,
    read: u64,
    limit: Option<u64>,
    ended: bool,
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody")
            .field("read", &self.read)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// Why a request's body ended early. What was read before is not the whole of it.
#[derive(Debug)]
pub enum RequestBodyError {
    /// The client is gone, or its framing is broken (the server answers 400).
    Broken(hyper::Error),
    /// Longer than `max_body_size` (the server answers 413).
    TooLarge { limit: u64 },
}

impl fmt::Display for RequestBodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestBodyError::Broken(error) => write!(f, "the request body ended early: {error}"),
            RequestBodyError::TooLarge { limit } => {
                write!(f, "the request body is longer than {limit} bytes")
            }
        }
    }
}

impl std::error::Error for RequestBodyError {}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let this = &mut *self;
        let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                // Outside of the connection's own poll its task has a timer to arm and, with `100-continue`, to ask
                // for the body.
                let now = this.shared.serving.clock.now();
                this.shared.change(|state| state.machine.on_body_blocked(now));
                return Poll::Pending;
            }
        };
        match frame {
            Some(Ok(frame)) => {
                this.read += frame.data_ref().map_or(0, |data| data.len() as u64);
                if let Some(limit) = this.limit.filter(|limit| this.read > *limit) {
                    this.shared.change(|state| state.fault = Some(StatusCode::PAYLOAD_TOO_LARGE));
                    return Poll::Ready(Some(Err(RequestBodyError::TooLarge { limit })));
                }
                let mut state = this.shared.lock();
                state.machine.on_body_progress();
                if this.inner.is_end_stream() {
                    state.machine.on_body_end();
                    this.ended = true;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                this.shared.change(|state| {
                    if !state.peer_ended {
                        state.fault = Some(StatusCode::BAD_REQUEST);
                    }
                });
                Poll::Ready(Some(Err(RequestBodyError::Broken(error))))
            }
            None => {
                if !this.ended {
                    this.ended = true;
                    this.shared.lock().machine.on_body_end();
                }
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A line of the access log in the making.
struct Logged {
    method: Method,
    target: String,
    version: Version,
    since: Instant,
    status: u16,
    bytes: u64,
}

impl Logged {
    fn of<B>(request: &Request<B>, now: Instant) -> Logged {
        let target = request.uri().path_and_query().map_or("*", |target| target.as_str()).to_owned();
        Logged {
            method: request.method().clone(),
            target,
            version: request.version(),
            since: now,
            status: 0,
            bytes: 0,
        }
    }

    fn write(self, shared: &Shared, now: Instant, complete: bool) {
        logging::access(&logging::Access {
            peer: shared.peer.tcp(),
            method: self.method.as_str(),
            target: &self.target,
            version: &format!("{:?}", self.version),
            status: Some(self.status),
            duration: now.since(self.since),
            bytes: self.bytes,
            complete,
        });
    }
}
